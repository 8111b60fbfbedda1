"""The line editor of a chat, made of prompt_toolkit: history, search, completion, many lines."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from stat import S_ISREG

from prompt_toolkit import PromptSession
from prompt_toolkit.application.current import get_app
from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output

from kimi_cli.chat.narrow import Narrow
from kimi_cli.errors import Terminated
from kimi_cli.system.signals import ENDING, handle_signals
from kimi_cli.system.terminal import Terminal

_PROMPT, _CONTINUED = "> ", ". "


class SlashCompleter(Completer):
    """Completes the names of commands, and what some of them take."""

    def __init__(self, words: Callable[[str], Iterable[str] | None], names: Iterable[str]) -> None:
        """Complete *names*; *words* gives what a command takes, None for a path."""
        self._words = words
        self._names = [f"/{name}" for name in names]
        self._paths = PathCompleter(expanduser=True)

    def get_completions(
        self, document: Document, complete_event: CompleteEvent
    ) -> Iterator[Completion]:
        """Yield what may stand at the cursor of a line that begins with a slash."""
        text = document.text_before_cursor
        if not text.startswith("/") or text.startswith("//") or "\n" in text:
            return
        command, space, argument = text.partition(" ")
        if not space:
            for name in self._names:
                if name.startswith(command):
                    yield Completion(name, start_position=-len(command))
            return
        words = self._words(command[1:])
        if words is None:
            yield from self._paths.get_completions(Document(argument), complete_event)
            return
        for word in words:
            if word.startswith(argument):
                yield Completion(word, start_position=-len(argument))


class _Typed(FileHistory):
    """What was typed. That it cannot be kept is no reason not to talk."""

    def store_string(self, string: str) -> None:
        """Append *string* to the file, where that is possible."""
        with contextlib.suppress(OSError):
            super().store_string(string)


class Editor:
    """Reads questions from a person."""

    def __init__(self, terminal: Terminal, completer: Completer, history: Path | None) -> None:
        """Draw on *terminal*; *history* is a file for what was typed, None to forget it."""
        self._armed = False
        self._signum: int | None = None
        stream = sys.stderr if terminal.err_is_terminal else sys.stdout
        self._session: PromptSession[str] = PromptSession(
            message=_PROMPT,
            multiline=True,
            enable_suspend=True,
            prompt_continuation=_CONTINUED,
            completer=completer,
            complete_while_typing=False,
            history=_open_history(history),
            key_bindings=self._bind_keys(),
            input_processors=[Narrow()],
            rprompt=lambda: "Ctrl-C again leaves" if self._armed else "",
            output=create_output(stdout=stream),
        )
        self._session.default_buffer.on_text_changed += self._disarm

    def read(self, draft: str = "") -> str | None:
        """Return what was typed, None at the end of input; raises Terminated.

        That is for two ^C, and for the signals that end a process: raised inside the editor's
        event loop it would be lost there.
        """
        self._armed = False
        handlers: dict[int, Callable[[int], None]] = dict.fromkeys(ENDING, self._leave)
        handlers[signal.SIGINT] = lambda signum: None  # the editor has its own
        line: str | None = None
        with handle_signals(handlers):
            try:
                line = self._session.prompt(default=draft, pre_run=self._look)
            except EOFError:
                pass
            except KeyboardInterrupt:
                self._signum = signal.SIGINT
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                self._signum = signal.SIGHUP  # the window was closed
        if self._signum is not None:
            raise Terminated(self._signum)
        return line

    def _leave(self, signum: int) -> None:
        self._signum = signum
        app = self._session.app
        if app.is_running and app.loop is not None:
            app.loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        """End the editor once a signal has come."""
        app = self._session.app
        if self._signum is not None and app.future is not None and not app.future.done():
            app.exit(exception=EOFError)

    def _disarm(self, buffer: object) -> None:
        self._armed = False

    def _bind_keys(self) -> KeyBindings:
        keys = KeyBindings()
        typing = has_focus(DEFAULT_BUFFER)

        @keys.add("enter", filter=typing)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if buffer.complete_state is not None and buffer.complete_state.current_completion:
                buffer.complete_state = None
            elif buffer.document.text.endswith("\\") and buffer.document.is_cursor_at_the_end:
                buffer.delete_before_cursor()
                buffer.newline(copy_margin=False)
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter", filter=typing)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline(copy_margin=False)

        @keys.add("c-c", filter=typing)
        @keys.add("<sigint>")
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            if event.app.future is None or event.app.future.done():
                return
            if buffer.text:
                buffer.reset()
            elif self._armed:
                self._armed = False
                event.app.exit(exception=KeyboardInterrupt)
                return
            self._armed = True
            get_app().invalidate()

        return keys


def _open_history(path: Path | None) -> History:
    """Return the history; its file is the owner's alone, and one that cannot be used is none."""
    if path is None:
        return InMemoryHistory()
    with contextlib.suppress(OSError):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        with open(descriptor) as file:
            if not S_ISREG(os.fstat(file.fileno()).st_mode):
                return InMemoryHistory()  # /dev/null is how many say that nothing is to be kept
            os.fchmod(file.fileno(), 0o600)
        return _Typed(str(path))
    return InMemoryHistory()
