"""A file that gets an answer: all of it, once it is known to be good, or not a byte.

What is no regular file, a pipe or a device, cannot wait for that, and gets each piece as it comes.
"""

from __future__ import annotations

import copy
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kimi_cli.errors import BadInput, CannotCreate, KimiError, NotKept, OutputFailed
from kimi_cli.system.files import check_place, find_stream, replace_whole
from kimi_cli.system.terminal import Out, Terminal, is_ready, write_whole

_OUT = 1


class _Draft:
    """Keeps what is printed until it is known what becomes of it."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def put(self, data: bytes) -> None:
        self._pieces.append(data)

    def is_ready(self) -> bool:
        return True

    def join(self) -> bytes:
        return b"".join(self._pieces)


class _Pipe:
    """A descriptor that gets what is printed at once."""

    def __init__(self, descriptor: int, path: str) -> None:
        self.descriptor = descriptor
        self._path = path

    def put(self, data: bytes) -> None:
        try:
            write_whole(self.descriptor, data)
        except OSError as error:
            raise OutputFailed(f"cannot write {self._path}: {error.strerror}") from error

    def is_ready(self) -> bool:
        return is_ready(self.descriptor)


class Report:
    """The file of ``-o``, for the time in which an answer is asked for.

    Leaving the ``with`` without an error gives the file its new content; with one it stays as it
    was. An answer that came whole, and cannot be kept as asked, is printed instead of lost.
    """

    def __init__(self, path: str, terminal: Terminal, *, is_copy: bool) -> None:
        """Write to *path* what *terminal* would print, or with *is_copy* what it prints as well.

        Raises BadInput or CannotCreate for a name that cannot be used.
        """
        self._path = path
        self._terminal = terminal
        self._is_copy = is_copy
        self._draft = _Draft()
        out: Out = self._draft
        if path == "-" or find_stream(path) == _OUT:
            if is_copy:
                raise BadInput(f"{path} is standard output already; name another file")
            out = terminal.out
        else:
            with self._creating():
                check_place(path)
                out = self._open_pipe() or out
        self._sheet = terminal if out is terminal.out else _make_sheet(terminal, out)

    @property
    def main(self) -> Terminal:
        """Where the answer is printed."""
        return self._terminal if self._is_copy else self._sheet

    @property
    def copy(self) -> Terminal | None:
        """Where it is printed as well."""
        return self._sheet if self._is_copy else None

    def __enter__(self) -> Report:
        """Begin; the file stays as it is."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Give the file its content, unless there was an *error*; raises CannotCreate."""
        if self._sheet.out is not self._draft:
            return
        if error is None:
            self._replace()
        elif isinstance(error, NotKept):
            self._save_answer()
        elif isinstance(error, KimiError):
            error.args = (f"{error}; {self._describe_old()}",)

    def _replace(self) -> None:
        try:
            with self._creating():
                replace_whole(self._path, self._draft.join())
        except CannotCreate as error:
            self._save_answer()
            raise OutputFailed(f"{error}; the answer is on standard output alone") from error

    def _save_answer(self) -> None:
        """Print what has no other place."""
        if not self._is_copy:
            self._terminal.show(self._draft.join().decode())

    def _describe_old(self) -> str:
        return f"{self._path} is {'as it was' if os.path.lexists(self._path) else 'not written'}"

    def _open_pipe(self) -> _Pipe | None:
        """Open what cannot be replaced, or is a stream of ours; None for a regular file."""
        if (ours := find_stream(self._path)) is not None:
            return _Pipe(ours, self._path)
        with suppress(FileNotFoundError):
            if not stat.S_ISREG(os.stat(self._path).st_mode):
                flags = os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY
                return _Pipe(os.open(self._path, flags), self._path)
        return None

    @contextmanager
    def _creating(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # a name with a NUL byte
            why = getattr(error, "strerror", None) or str(error)
            raise CannotCreate(
                f"cannot write {self._path or 'a file without a name'}: {why}"
            ) from error


def _make_sheet(terminal: Terminal, out: Out) -> Terminal:
    """Return a terminal whose standard output is *out*."""
    sheet = copy.copy(terminal)
    sheet.out = out
    sheet.out_is_terminal = isinstance(out, _Pipe) and os.isatty(out.descriptor)
    sheet.colour_on_out = sheet.out_is_terminal and terminal.colour_on_err
    return sheet
