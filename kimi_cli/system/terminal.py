"""The only writer of stdout and stderr: bytes, at once, and never a secret on stderr."""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from collections.abc import Callable, Mapping
from typing import Protocol

from kimi_cli.api.text import mend_surrogates
from kimi_cli.errors import OutputClosed, OutputFailed
from kimi_cli.system.secrets import Secrets

_OUT, _ERR = 1, 2


class Out(Protocol):
    """Where what is printed goes."""

    def put(self, data: bytes) -> None:
        """Take all of *data*; raises OutputClosed or OutputFailed."""

    def is_ready(self) -> bool:
        """Tell whether it takes more at once, or its reader is stuck."""


class _StandardOutput:
    """Descriptor 1."""

    def put(self, data: bytes) -> None:
        try:
            write_whole(_OUT, data)
        except BrokenPipeError as error:
            raise OutputClosed from error
        except OSError as error:
            raise OutputFailed(f"cannot write to standard output: {error.strerror}") from error

    def is_ready(self) -> bool:
        return is_ready(_OUT)


class Terminal:
    """Standard output and standard error of this process.

    Nothing is buffered: what is written has left the process, and a failed write is seen here
    and not at exit. Output is UTF-8 whatever the locale.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        """Look at the two streams once."""
        self._environment = environment
        self.out: Out = _StandardOutput()
        self.began = time.monotonic()
        """When the program began."""
        self.out_is_terminal = os.isatty(_OUT)
        self.err_is_terminal = os.isatty(_ERR)
        self.colour_on_out = _allow_colour(self.out_is_terminal, environment)
        self.colour_on_err = _allow_colour(self.err_is_terminal, environment)
        self.is_dumb = environment.get("TERM") in ("dumb", "unknown")
        """Whether nothing on the screen can be moved or taken back."""
        self.quiet = False
        self.verbose = False
        self.on_write: Callable[[], None] | None = None
        """Called before anything is written, so that a status line can make room."""
        self.secrets = Secrets()

    def find_columns(self) -> int:
        """Return the columns of the screen behind stdout, or stderr."""
        columns = self._environment.get("COLUMNS", "")
        if columns.isascii() and columns.isdigit() and int(columns) > 0:
            return int(columns)
        for descriptor in (_OUT, _ERR):
            with contextlib.suppress(OSError):
                return os.get_terminal_size(descriptor).columns or 80
        return 80

    def write(self, text: str) -> None:
        """Write *text* to stdout as it is. Raises OutputClosed or OutputFailed."""
        if self.on_write is not None and self.out_is_terminal:
            self.on_write()
        self.out.put(_encode(text))

    def takes_output(self) -> bool:
        """Tell whether stdout takes more at once, or its reader is stuck."""
        return self.out.is_ready()

    def show(self, text: str) -> None:
        """Write whole lines to stdout; on a terminal they are made harmless first."""
        self.write(_make_harmless(text) if self.out_is_terminal else text)

    def write_err(self, text: str) -> None:
        """Write *text* to stderr as it is; a stderr that takes nothing is no failure."""
        if self.on_write is not None:
            self.on_write()
        self._write_quietly(_ERR, text)

    def draw(self, text: str) -> None:
        """Write a part of a screen, on stderr where that is one.

        A dumb screen, or one that ^S has stopped, does without.
        """
        descriptor = _OUT if self.out_is_terminal and not self.err_is_terminal else _ERR
        if not self.is_dumb and is_ready(descriptor):
            self._write_quietly(descriptor, text)

    def _write_quietly(self, descriptor: int, text: str) -> None:
        with contextlib.suppress(OSError):
            write_whole(descriptor, _encode(self.secrets.redact(text)))

    def address_screen(self, text: str) -> None:
        """Write a control sequence to whichever of the two streams is a terminal."""
        if self.err_is_terminal:
            self.write_err(text)
        elif self.out_is_terminal:
            self.write(text)

    def note(self, text: str) -> None:
        """Write the reply to a person's own command, line by line, to stderr."""
        self.write_err(_make_harmless(text) + "\n")

    def save_trace(self, path: str, error: Exception) -> None:
        """Write the trace of *error* to a file that only its owner can read, or to a stream.

        Raises OSError.
        """
        import traceback  # noqa: PLC0415 - for bugs only

        from kimi_cli.system.files import replace_whole  # noqa: PLC0415 - for bugs only

        trace = self.secrets.redact("".join(traceback.format_exception(error)))
        replace_whole(path, _encode(trace), mode=0o600)

    def complain(self, message: str) -> None:
        """Write one line about a failure, whatever ``--quiet`` says."""
        self.write_err(f"kimi: {_make_harmless(' '.join(message.split()))}\n")

    def warn(self, message: str) -> None:
        """Write one line that ``--quiet`` silences."""
        if not self.quiet:
            self.complain(message)

    def hint(self, message: str) -> None:
        """Write one line that only a person at a terminal sees."""
        if self.err_is_terminal:
            self.warn(message)

    def tell(self, message: str) -> None:
        """Write one line that only ``--verbose`` shows."""
        if self.verbose:
            self.complain(message)


def goes_on() -> bool:
    """Tell whether stdout is a pipe, whose reader may write to the screen itself."""
    with contextlib.suppress(OSError):
        return stat.S_ISFIFO(os.fstat(_OUT).st_mode)
    return False


def is_ready(descriptor: int) -> bool:
    """Tell whether more can be written at once."""
    with contextlib.suppress(OSError, ValueError):
        return bool(_poll_writable(descriptor).poll(0))
    return False


def _poll_writable(descriptor: int) -> select.poll:
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return poll


def write_whole(descriptor: int, data: bytes) -> None:
    """Write all of *data*, waiting where the other side is slow or non-blocking."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:
            _poll_writable(descriptor).poll()


def _make_harmless(text: str) -> str:
    from kimi_cli.system.sanitizer import sanitize  # noqa: PLC0415 - its patterns take time to compile

    return sanitize(text)


def _encode(text: str) -> bytes:
    return mend_surrogates(text).encode()


def _allow_colour(is_terminal: bool, environment: Mapping[str, str]) -> bool:
    """Follow no-color.org, and FORCE_COLOR for a stream that is no terminal."""
    if environment.get("NO_COLOR") or environment.get("TERM") == "dumb":
        return False
    return is_terminal or bool(environment.get("FORCE_COLOR"))
