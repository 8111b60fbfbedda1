"""What a person sees while nothing has come yet, and a keyboard that does not get in the way."""

from __future__ import annotations

import os
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.messages import Delta, Ending
from kimi_cli.api.text import quantify
from kimi_cli.api.threads import start_thread
from kimi_cli.errors import TemporaryFailure
from kimi_cli.system.signals import handle_signals
from kimi_cli.system.terminal import Terminal

_FIRST, _EVERY = 0.1, 1.0
_ERASE = "\r\x1b[K"
_MARK_PASTES, _LEAVE_PASTES = "\x1b[?2004h", "\x1b[?2004l"


class StatusLine:
    """One line on stderr that goes as soon as there is anything to read; ``with`` it."""

    def __init__(
        self, terminal: Terminal, *, reasoning_is_shown: bool, comes_in_blocks: bool = False
    ) -> None:
        """Write to *terminal*, where stderr is one; otherwise stay silent.

        An answer that *comes_in_blocks* is not on the screen as soon as it has come.
        """
        self._terminal = terminal
        self._reasoning_is_shown = reasoning_is_shown
        self._comes_in_blocks = comes_in_blocks
        self._has_content = False
        self._began = time.monotonic()
        self._reasoned = 0.0
        self._is_drawn = False
        self._over = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> StatusLine:
        """Begin to wait."""
        if self._terminal.err_is_terminal and not self._terminal.quiet:
            self._terminal.on_write = self._make_room
            with suppress(TemporaryFailure):  # a wait that is not shown
                start_thread(self._redraw)
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the line away, whatever ended the wait."""
        self._stop()
        self._terminal.on_write = None

    def note(self, delta: Delta) -> None:
        """Take what has come: text that is shown ends the wait."""
        self._reasoned += estimate_tokens(delta.reasoning)
        self._has_content = self._has_content or bool(delta.content)
        is_shown = delta.content and not self._comes_in_blocks
        if is_shown or (delta.reasoning and self._reasoning_is_shown):
            self._stop()

    def end(self, ending: Ending) -> None:
        """Do nothing more: the wait is over."""

    def _make_room(self) -> None:
        """Leave for what is written now: for good, if it is the answer."""
        if self._has_content:
            self._stop()
        else:
            self._erase()

    def _stop(self) -> None:
        self._over.set()
        self._erase()

    def _redraw(self) -> None:
        pause = _FIRST
        while not self._over.wait(pause):
            pause = _EVERY
            text = f"{time.monotonic() - self._began:.0f} s"
            if self._reasoned:
                text += f", about {quantify(round(self._reasoned), 'token')} of reasoning"
            with self._lock:
                if self._over.is_set():
                    return
                self._is_drawn = True
                # A line that fills the screen's would leave a part of it behind.
                self._terminal.draw(f"{_ERASE}{text[: self._terminal.find_columns() - 1]}")

    def _erase(self) -> None:
        with self._lock:
            if self._is_drawn:
                self._is_drawn = False
                self._terminal.draw(_ERASE)


@contextmanager
def keep_keyboard() -> Iterator[list[Any]]:
    """Leave the keyboard as it was, whatever another program did to it, and did not undo.

    Yields how it was, in termios' terms.
    """
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        yield before
    finally:
        with suppress(termios.error):  # the window was closed
            termios.tcsetattr(descriptor, termios.TCSANOW, before)


@contextmanager
def hush_keyboard(terminal: Terminal) -> Iterator[None]:
    """Keep what is typed during an answer off the screen; the next prompt takes it as it is.

    Pastes stay marked as such meanwhile, or their lines would become questions of their own.
    """
    descriptor = sys.stdin.fileno()
    silent = termios.tcgetattr(descriptor)
    silent[0] &= ~termios.ICRNL
    silent[3] &= ~(termios.ECHO | termios.ICANON)
    silent[3] |= termios.NOFLSH  # ^C stops the answer, not what is being typed

    def hush(signum: int | None = None) -> None:
        with suppress(OSError, termios.error):  # a window that is closed sends SIGCONT, too
            if os.tcgetpgrp(descriptor) == os.getpgrp():  # in the background it would stop us
                termios.tcsetattr(descriptor, termios.TCSANOW, silent)
                terminal.draw(_MARK_PASTES)

    def stop(signum: int) -> None:
        terminal.draw(_LEAVE_PASTES)
        with suppress(termios.error):
            termios.tcsetattr(descriptor, termios.TCSANOW, before)
        ours = signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)
        signal.signal(signum, ours)  # after SIGCONT

    with keep_keyboard() as before:
        hush()
        try:
            # Not every shell looks after the keyboard of what it stops, or gives it back as it was.
            with handle_signals({signal.SIGCONT: hush, signal.SIGTSTP: stop}):
                yield
        finally:
            terminal.draw(_LEAVE_PASTES)
