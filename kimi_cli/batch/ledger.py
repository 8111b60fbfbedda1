"""The output file as the one truth of what is done.

A line in it is final, and each input row has at most one, but for the time in which a row is asked
again: its old line leaves when its new one is there. ``kill -9`` may tear the last line even of a
single write; opening the ledger cuts such a tail back. The lock is the kernel's, so it dies with
its holder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from kimi_cli.batch.done import Done, HashSet, Mark
from kimi_cli.batch.layouts import JSON_LINES, Layout, read_marks
from kimi_cli.errors import BadInput, CannotCreate, OutputFailed, TemporaryFailure
from kimi_cli.system.files import (
    CutBack,
    Held,
    append,
    create,
    force,
    lock_as_well,
    locked,
    mend_tail,
    replacing,
)

_BLOCK = 2**20
_SYNC_EVERY = 1.0
_LOOK_EVERY = 0.5


class Ledger:
    """An output file that is locked, mended and appended to. Use it with ``with``."""

    def __init__(
        self,
        path: Path,
        *,
        sync: str = "interval",
        layout: Layout = JSON_LINES,
        notify: Callable[[str], None] = lambda message: None,
    ) -> None:
        """Open or create *path* for this run alone; *sync* is never, interval or always.

        *notify* is told what stands in for a lock. Raises CannotCreate, TemporaryFailure when
        another run holds it, BadInput when it is not an output of ours.
        """
        self.path = path
        self.layout = layout
        self.done = Done()
        self.mended = 0
        self._sync = sync
        self._synced = self._looked = time.monotonic()
        self._is_ahead = False
        """Whether anything was written since."""
        self._saved: str | None = None
        """Where the lines are, once somebody took the file away."""
        with ExitStack() as stack:
            self._stack = stack
            self._descriptor = _open(path, stack)
            _lock(path, self._descriptor, stack, notify)
            self.scan()
            self.mended = self._mend()
            self._size = os.fstat(self._descriptor).st_size
            if self.done.succeeded and self.drop(find_succeeded):
                self.scan()
            self._stack = stack.pop_all()

    def __enter__(self) -> Ledger:
        """Return this ledger."""
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Bring everything to disk and let go."""
        with self._stack:
            try:
                if self._sync != "never":
                    force(self._descriptor)
            except OSError as failure:
                raise _explain(self.path, failure) from failure
            with contextlib.ExitStack() as calm:
                if error is not None:
                    calm.enter_context(contextlib.suppress(OutputFailed))
                self.check()

    @property
    def mode(self) -> int:
        """The bits of the file's mode."""
        return stat.S_IMODE(os.fstat(self._descriptor).st_mode)

    def append(self, lines: bytes) -> None:
        """Write whole *lines*; they are out of this process when it returns.

        Raises OutputFailed; of what a full disk let through, whole lines are kept.
        """
        try:
            append(self._descriptor, lines, by_line=True)
            self._size += len(lines)
            self._is_ahead = True
            self._sync_now_and_then()
        except CutBack as error:
            self._size += error.kept
            raise _explain(self.path, error, lines.count(b"\n", error.kept)) from error
        except OSError as error:
            raise _explain(self.path, error) from error

    def settle(self) -> str | None:
        """Force to disk what was written since the last time, where it is time.

        Return what somebody did to the file meanwhile, so that nothing more may be bought. Raises
        OutputFailed.
        """
        try:
            self._sync_now_and_then()
        except OSError as error:
            raise _explain(self.path, error) from error
        now = time.monotonic()
        if now - self._looked < _LOOK_EVERY:
            return None
        self._looked = now
        return self._find_loss()

    def check(self) -> None:
        """Raise OutputFailed when the file is not what we wrote; the lines are saved before."""
        if (loss := self._find_loss()) is None or self._saved is not None:
            return
        self._saved = loss
        if os.fstat(self._descriptor).st_size == self._size:
            self._saved = f"{loss}; {_save(self.path, self._descriptor)}"
        raise OutputFailed(self._saved)

    def scan(self, is_open: Callable[[Mark], bool] = lambda mark: False) -> None:
        """Look at every line anew; the rows of those that are open again are not done.

        Raises BadInput for lines that are not ours, or damaged.
        """
        with _reading(self._descriptor) as file:
            self.done = _scan(self.path, file, is_open, self.layout)

    @contextmanager
    def rewriting(self) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Yield the file, and a new one that takes its place at the end, locked as well.

        A crash leaves the old one. Raises OutputFailed.
        """
        try:
            with (
                _reading(self._descriptor) as old,
                replacing(self.path, give_name=self._give_name) as new,
            ):
                yield old, new
        except OSError as error:
            raise OutputFailed(f"cannot rewrite {self.path}: {error.strerror}") from error

    def _give_name(self, temporary: str, real: str) -> None:
        descriptor = os.open(temporary, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        self._stack.callback(os.close, descriptor)
        lock_as_well(descriptor)
        self.check()
        os.replace(temporary, real)
        self._descriptor, self._size = descriptor, os.fstat(descriptor).st_size

    def drop(self, find: Callable[[BinaryIO, Layout], set[int]]) -> int:
        """Take out the lines whose numbers (from 0) *find* returns; return how many.

        Raises OutputFailed.
        """
        with _reading(self._descriptor) as file:
            dead = find(file, self.layout)
        if dead:
            with self.rewriting() as (old, new):
                for number, line in enumerate(self.layout.split(old)):
                    if number not in dead:
                        new.write(line)
        return len(dead)

    def _sync_now_and_then(self) -> None:
        now = time.monotonic()
        is_due = self._sync == "interval" and now - self._synced >= _SYNC_EVERY
        if self._is_ahead and (self._sync == "always" or is_due):
            force(self._descriptor, data_only=True)
            self._synced, self._is_ahead = now, False

    def _mend(self) -> int:
        """Cut a torn last line back, or complete it when only its line feed is missing."""

        def judge(tail: bytes) -> int:
            tail = tail.rstrip(b"\0")  # what a power cut leaves of a block that was never written
            whole = self.layout.find_torn(tail)
            if whole is None:
                raise BadInput(f"{self.path} is not this tool's output; name another file with -o")
            if whole:
                self.done.scan(read_marks(BytesIO(tail + b"\n"), self.layout))
            return whole

        try:
            return mend_tail(self._descriptor, judge, _find_tail(self._descriptor, self.layout))
        except OSError as error:
            raise _explain(self.path, error) from error

    def _find_loss(self) -> str | None:
        """Say what somebody did to the file; None while it is as we left it."""
        ours = os.fstat(self._descriptor)
        try:
            if not os.path.samestat(ours, os.stat(self.path)):
                return f"{self.path} was replaced by another file while the run wrote to it"
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                return None  # it cannot be seen for the moment
            return f"{self.path} was moved or removed while the run wrote to it"
        if ours.st_size < self._size:
            lost = self._size - ours.st_size
            return f"{self.path} was cut short by {lost} bytes while the run wrote to it"
        if ours.st_size > self._size:
            return f"{self.path} was written to by another process while the run wrote to it"
        return None


def _find_tail(descriptor: int, layout: Layout) -> int | None:
    """Return where the last piece begins that has no end; None where a line feed tells."""
    if layout is JSON_LINES:
        return None
    with _reading(descriptor) as file:
        return sum(len(piece) for piece in layout.split(file) if layout.is_whole(piece))


def _explain(path: Path, error: OSError, lost: int = 0) -> OutputFailed:
    but = f" but {lost} that found no room" if lost else ""
    return OutputFailed(
        f"cannot write {path}: {error.strerror}; every finished row is kept{but}, "
        "the same command goes on from there"
    )


@contextmanager
def _reading(descriptor: int) -> Iterator[BinaryIO]:
    """Yield the file that is open, whatever has its name now."""
    with open(os.dup(descriptor), "rb", buffering=_BLOCK) as file:
        file.seek(0)
        yield file


def _save(path: Path, descriptor: int) -> str:
    """Copy what was written to the name, where it is free, or beside it; say where."""
    real = os.path.realpath(path)
    beside = [f"{path}.saved", *(f"{path}.saved-{number}" for number in range(2, 100))]
    spare = os.path.join(tempfile.gettempdir(), f"{path.name}.saved")
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    for name in (real, *beside, spare):
        try:
            with create(name, mode) as copy, _reading(descriptor) as file:
                while block := file.read(_BLOCK):
                    copy.write(block)
        except OSError:
            continue
        if name == real:
            return "all its lines are saved under that name, and the same command goes on"
        return f"all its lines are saved in {name}: go on with --done-from {name}"
    return "and its lines could be saved nowhere"


def read_output(
    path: Path,
    is_open: Callable[[Mark], bool] = lambda mark: False,
    layout: Layout = JSON_LINES,
) -> Done:
    """Return what the lines of an output tell of as done, and leave it as it is.

    Raises BadInput for lines that are not ours, or damaged, CannotCreate when it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return _scan(path, file, is_open, layout)
    except FileNotFoundError:
        return Done()
    except OSError as error:
        raise CannotCreate(f"cannot open {path}: {error.strerror}") from error


def _scan(path: Path, file: BinaryIO, is_open: Callable[[Mark], bool], layout: Layout) -> Done:
    done = Done()
    foreign, damaged = done.scan(read_marks(file, layout), is_open)
    if foreign:
        lines = "a line that is" if foreign == 1 else f"{foreign} lines that are"
        raise BadInput(f"{path} has {lines} not this tool's; name another file with -o")
    if damaged:
        lines = "a damaged line" if len(damaged) == 1 else f"{len(damaged)} damaged lines"
        raise BadInput(
            f"{path} has {lines} (with holes of NULs), as a power cut may leave: see line "
            f"{damaged[0]}; without them, the same command asks for their rows again"
        )
    return done


def _open(path: Path, stack: ExitStack) -> int:
    """Open or create a file for appending; *stack* closes it."""
    try:
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        raise CannotCreate(f"cannot open {path}: {error.strerror}") from error
    stack.callback(os.close, descriptor)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise CannotCreate(f"{path} is no regular file; leave -o out to write to stdout")
    return descriptor


def _lock(path: Path, descriptor: int, stack: ExitStack, notify: Callable[[str], None]) -> None:
    try:
        stack.enter_context(locked(descriptor, path, wait=False, notify=notify))
    except Held as held:
        raise TemporaryFailure(f"{path} is being written by another run{held.holder}") from None
    except OSError as error:
        raise CannotCreate(f"cannot lock {path}: {error.strerror}") from error
    try:
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return
    except FileNotFoundError:
        pass
    raise TemporaryFailure(f"{path} was rewritten by another run just now")


def find_lines(file: BinaryIO, layout: Layout, is_wanted: Callable[[Mark], bool]) -> set[int]:
    """Return the numbers (from 0) of the lines that are wanted."""
    marks = enumerate(map(layout.read_mark, layout.split(file)))
    return {number for number, mark in marks if mark is not None and is_wanted(mark)}


def find_succeeded(file: BinaryIO, layout: Layout) -> set[int]:
    """Return the numbers (from 0) of lines whose row has a later line; read from the last.

    An error takes the place of errors only: an answer that was paid for stays.
    """
    starts = array("Q", [0])
    for line in layout.split(file):
        starts.append(starts[-1] + len(line))
    dead: set[int] = set()
    answered, tried = HashSet(16), HashSet(16)
    for number in range(len(starts) - 2, -1, -1):
        file.seek(starts[number])
        mark = layout.read_mark(file.read(starts[number + 1] - starts[number]))
        if mark is None:
            continue
        if mark.key in answered or (mark.failed is not None and mark.key in tried):
            dead.add(number)
        later = answered if mark.failed is None else tried
        for key in (mark.key, *mark.replaces):
            later.add(key)
    return dead
