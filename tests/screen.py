"""A program on a terminal of its own, and what is to be seen on its screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

import pexpect
import pyte

ROWS, COLUMNS = 24, 80


class Screen:
    """Runs a program on a pseudo-terminal; ``with`` it. Keys go in, a screen comes out."""

    def __init__(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, *, columns: int = COLUMNS
    ) -> None:
        """Start *command* with nothing but *env*."""
        variables = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", **env}
        self.child = pexpect.spawn(
            command[0],
            list(command[1:]),
            env=variables,
            cwd=str(cwd),
            dimensions=(ROWS, columns),
            timeout=20,
        )
        self.child.delaybeforesend = None
        self._screen = pyte.HistoryScreen(columns, ROWS, history=1000)
        self._stream = pyte.ByteStream(self._screen)
        self.received = b""

    def __enter__(self) -> Screen:
        """Return this screen."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the program if it still runs."""
        self.child.close(force=True)

    @property
    def lines(self) -> list[str]:
        """What stands on the screen, without the empty rest."""
        lines = [line.rstrip() for line in self._screen.display]
        while lines and not lines[-1]:
            lines.pop()
        return lines

    @property
    def text(self) -> str:
        """The screen as one text."""
        return "\n".join(self.lines)

    @property
    def _folded(self) -> str:
        return self.text + "\n" + "".join(self._screen.display)

    @property
    def line(self) -> str:
        """The line that the cursor is in."""
        return str(self._screen.display[self._screen.cursor.y]).rstrip()

    def press(self, keys: str | bytes) -> None:
        """Press keys."""
        self.child.send(keys)

    def enter(self, line: str) -> None:
        """Type a line at the prompt, see it there, and press Enter."""
        self.press(line)
        self.see_line(line.splitlines()[-1] if line else "")
        self.press("\r")

    def see(self, text: str, seconds: float = 20) -> None:
        """Wait until *text* is on the screen, be it folded at its edge."""
        self.wait(lambda: text in self._folded, f"{text!r} is not to be seen", seconds)

    def see_line(self, text: str, seconds: float = 20) -> None:
        """Wait until the cursor's line ends with *text*."""
        self.wait(lambda: self.line.endswith(text), f"no line ends with {text!r}", seconds)

    def see_prompt(self, seconds: float = 20) -> None:
        """Wait for an empty prompt."""
        self.wait(lambda: self.line == ">", "there is no empty prompt", seconds)

    def see_no(self, text: str, seconds: float = 20) -> None:
        """Wait until *text* has gone from the screen."""
        self.wait(lambda: text not in self.text, f"{text!r} is still to be seen", seconds)

    def end(self) -> int:
        """Wait for the program's end; return its exit status, or the signal's negative number."""
        ends = time.monotonic() + 20
        while self.child.isalive():
            assert time.monotonic() < ends, f"it still runs\n{self.text}"
            self._take(0.05)
        self._take(0)
        if self.child.signalstatus is not None:
            return -int(self.child.signalstatus)
        return int(self.child.exitstatus)

    def wait(self, is_there: Callable[[], bool], complaint: str, seconds: float = 20) -> None:
        """Wait until *is_there* holds, and take what comes meanwhile."""
        ends = time.monotonic() + seconds
        while not is_there():
            assert time.monotonic() < ends, f"{complaint}\n{self.text}"
            self._take(0.05)

    def _take(self, seconds: float) -> None:
        try:
            data = self.child.read_nonblocking(65536, timeout=seconds)
        except (pexpect.TIMEOUT, pexpect.EOF):
            return
        self.received += data
        self._stream.feed(data)


Start = Callable[..., Screen]


def say(screen: Screen, line: str, told: str) -> None:
    """Type a line at an empty prompt, and see what comes of it."""
    screen.see_prompt()
    screen.enter(line)
    screen.see(told)
