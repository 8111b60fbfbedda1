"""The output file as the one truth of what is done.

A line in it is final, and each input row has at most one. ``kill -9`` may tear the last line even
of a single write; opening the ledger cuts such a tail back. The lock is the kernel's, so it dies
with its holder.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from kimi_cli.errors import (
    BadInput,
    CannotCreate,
    MissingInput,
    OutputFailed,
    TemporaryFailure,
)

_TEXT = rb'"(?:[^"\\]|\\.)*'
_HEAD = re.compile(
    rb'\{"custom_id":(' + _TEXT + rb'"),"kimi":\{"key":"([0-9a-f]{32})"'
    rb'(?:,"failed":"([a-z]+)"|,"incomplete":"([a-z_]+)")?'
)
_TORN = rb'(?s)\{"custom_id":' + _TEXT + rb'(?:\\?|"(,.*)?)\Z'
_BEGINNING, _MARK = b'{"custom_id":"', b',"kimi":{"key":"'
_BLOCK = 2**20
_SYNC_EVERY = 1.0


class HashSet:
    """A set of hashes in little memory: 65,536 buckets of packed bytes.

    A million 16-byte hashes take about 17 MB here, and more than 90 MB in a Python set.
    """

    def __init__(self, size: int) -> None:
        """Hold hashes of *size* bytes."""
        self._rest = size - 2
        self._buckets = [b""] * 65536
        self._count = 0

    def __len__(self) -> int:
        """How many hashes there are."""
        return self._count

    def __contains__(self, item: bytes) -> bool:
        """Tell whether *item* was added."""
        bucket, rest = self._buckets[item[0] << 8 | item[1]], item[2:]
        place = bucket.find(rest)
        while place >= 0 and place % self._rest:
            place = bucket.find(rest, place + 1)
        return place >= 0

    def add(self, item: bytes) -> bool:
        """Add *item*; tell whether it is new."""
        if item in self:
            return False
        self._buckets[item[0] << 8 | item[1]] += item[2:]
        self._count += 1
        return True

    def merge(self, other: HashSet) -> None:
        """Add every hash of *other*, which holds hashes of the same size."""
        if not other:
            return
        size = self._rest
        for index, bucket in enumerate(other._buckets):
            for place in range(0, len(bucket), size):
                self.add(index.to_bytes(2, "big") + bucket[place : place + size])


def hash_id(name: str) -> bytes:
    """Return 64 bits for an id: enough to notice one that comes again."""
    return blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()


class Flaws:
    """Lines that are not whole answers: their keys and their ids."""

    def __init__(self) -> None:
        """Start empty."""
        self._keys, self._ids = HashSet(16), HashSet(8)

    def __len__(self) -> int:
        """How many lines there are."""
        return len(self._keys)

    def add(self, key: bytes, name: str) -> None:
        """Add a line."""
        self._keys.add(key)
        self._ids.add(hash_id(name))

    def merge(self, other: Flaws) -> None:
        """Add the lines of *other*."""
        self._keys.merge(other._keys)
        self._ids.merge(other._ids)

    def holds(self, key: bytes, name: bytes, *, by_id: bool) -> bool:
        """Tell whether the line of that key, or *by_id* of that hashed id, is one."""
        return name in self._ids if by_id else key in self._keys


class Done:
    """What earlier runs finished: the keys of rows, and their ids."""

    def __init__(self) -> None:
        """Start empty."""
        self.keys = HashSet(16)
        self.ids = HashSet(8)
        self.elsewhere = HashSet(8)
        """Ids that a hosted batch has answered: its lines have no keys."""
        self.failed, self.transient, self.incomplete = Flaws(), Flaws(), Flaws()
        """Lines that hold an error, one that may pass, or an answer that ended early."""

    def __len__(self) -> int:
        """How many rows are done."""
        return len(self.keys)

    def note(self, key: str, name: str) -> None:
        """Add one finished row."""
        self.keys.add(bytes.fromhex(key))
        self.ids.add(hash_id(name))

    def merge(self, other: Done) -> None:
        """Add what *other* knows of."""
        self.keys.merge(other.keys)
        self.ids.merge(other.ids)
        self.elsewhere.merge(other.elsewhere)
        self.failed.merge(other.failed)
        self.transient.merge(other.transient)
        self.incomplete.merge(other.incomplete)

    def collect(self, file: BinaryIO) -> None:
        """Add the rows that another output, of ours or of a hosted batch, has answers of."""
        for line in file:
            if head := _HEAD.match(line):
                if head[3] is None and (line.endswith(b"\n") or _is_json(line)):
                    self._note(head)
                continue
            with contextlib.suppress(ValueError, AttributeError, KeyError, TypeError):
                document = json.loads(line)
                status = document["response"]["status_code"]
                if not document.get("error") and 200 <= status < 300:
                    self.elsewhere.add(hash_id(document["custom_id"]))

    def scan(self, file: BinaryIO) -> int:
        """Add every row that the whole lines of *file* tell of; return how many lines do not."""
        foreign = 0
        for line in file:
            if not line.endswith(b"\n"):
                break
            head = _HEAD.match(line)
            if head is None or not self._note(head):
                foreign += 1
        return foreign

    def _note(self, head: re.Match[bytes]) -> bool:
        try:
            name = json.loads(head[1])
        except ValueError:
            return False
        self.note(head[2].decode(), name)
        key = bytes.fromhex(head[2].decode())
        if head[3] == b"transient":
            self.transient.add(key, name)
        if head[3]:
            self.failed.add(key, name)
        elif head[4]:
            self.incomplete.add(key, name)
        return True


class Ledger:
    """An output file that is locked, mended and appended to. Use it with ``with``."""

    def __init__(self, path: Path, *, sync: str = "interval") -> None:
        """Open or create *path* for this run alone; *sync* is never, interval or always.

        Raises CannotCreate, TemporaryFailure when another run holds it, BadInput when it is not
        an output of ours.
        """
        self.path = path
        self.done = Done()
        self.mended = 0
        self._sync = sync
        self._synced = time.monotonic()
        self._is_ahead = False
        """Whether anything was written since."""
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            raise CannotCreate(f"cannot open {path}: {error.strerror}") from error
        try:
            self._check_kind()
            self._lock()
            self._scan()
            self._mend()
        except BaseException:
            os.close(self._descriptor)
            raise

    def __enter__(self) -> Ledger:
        """Return this ledger."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Bring everything to disk and let go."""
        try:
            if self._sync != "never":
                os.fsync(self._descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # a pipe or device has no disk
                raise self._explain(error) from error
        finally:
            os.close(self._descriptor)

    def append(self, lines: bytes) -> None:
        """Write whole *lines*; they are out of this process when it returns.

        Raises OutputFailed; of what a full disk let through, whole lines are kept.
        """
        size = os.fstat(self._descriptor).st_size
        left = memoryview(lines)
        try:
            while left:
                left = left[os.write(self._descriptor, left) :]
            self._is_ahead = True
            self._sync_now_and_then()
        except OSError as error:
            written = len(lines) - len(left)
            kept = lines.rfind(b"\n", 0, written) + 1
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, size + kept)
            raise self._explain(error, lines.count(b"\n", kept)) from error

    def settle(self) -> None:
        """Force to disk what was written since the last time, where it is time."""
        try:
            self._sync_now_and_then()
        except OSError as error:
            raise self._explain(error) from error

    def _sync_now_and_then(self) -> None:
        now = time.monotonic()
        is_due = self._sync == "interval" and now - self._synced >= _SYNC_EVERY
        if self._is_ahead and (self._sync == "always" or is_due):
            os.fdatasync(self._descriptor)
            self._synced, self._is_ahead = now, False

    def _check_kind(self) -> None:
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            raise CannotCreate(f"{self.path} is no regular file; leave -o out to write to stdout")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TemporaryFailure(
                f"{self.path} is being written by another run{_find_holder(self._descriptor)}"
            ) from None
        except OSError as error:
            raise CannotCreate(f"cannot lock {self.path}: {error.strerror}") from error
        if not os.path.samestat(os.fstat(self._descriptor), os.stat(self.path)):
            raise TemporaryFailure(f"{self.path} was rewritten by another run just now")

    def _mend(self) -> None:
        """Cut a torn last line back, or complete it when only its line feed is missing."""
        size = os.fstat(self._descriptor).st_size
        tail_start, tail = self._read_tail(size)
        tail = tail.rstrip(b"\0")  # what a power cut leaves of a block that was never written
        if not tail and tail_start == size:
            return
        if not _is_torn(tail):
            raise BadInput(f"{self.path} is not this tool's output; name another file with -o")
        self.mended = size - tail_start
        if _is_json(tail):
            os.ftruncate(self._descriptor, tail_start + len(tail))
            self.append(b"\n")
            self.done.scan(BytesIO(tail + b"\n"))
        else:
            os.ftruncate(self._descriptor, tail_start)

    def _read_tail(self, size: int) -> tuple[int, bytes]:
        """Return where the part after the last line feed begins, and that part."""
        tail, start = b"", size
        while start > 0:
            step = min(_BLOCK, start)
            start -= step
            block = os.pread(self._descriptor, step, start)
            place = block.rfind(b"\n")
            if place >= 0:
                return start + place + 1, block[place + 1 :] + tail
            tail = block + tail
        return 0, tail

    def _scan(self) -> None:
        with open(os.dup(self._descriptor), "rb", buffering=_BLOCK) as file:
            file.seek(0)
            foreign = self.done.scan(file)
        if foreign:
            lines = "a line that is" if foreign == 1 else f"{foreign} lines that are"
            raise BadInput(f"{self.path} has {lines} not this tool's; name another file with -o")

    def _explain(self, error: OSError, lost: int = 0) -> OutputFailed:
        but = f" but {lost} that found no room" if lost else ""
        return OutputFailed(
            f"cannot write {self.path}: {error.strerror}; every finished row is kept{but}, "
            "the same command goes on from there"
        )


def _find_holder(descriptor: int) -> str:
    """Name the process that holds the lock, where the kernel tells."""
    inode = os.fstat(descriptor).st_ino
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f" (process {words[4]})"
    except (OSError, IndexError):
        pass
    return ""


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_torn(tail: bytes) -> bool:
    """Tell whether *tail* is the beginning of a line of ours, and no line of somebody else."""
    if _HEAD.match(tail):
        return True
    if _BEGINNING.startswith(tail):
        return True
    torn = re.match(_TORN, tail)
    if torn is None:
        return False
    rest = torn[1] or b""
    key = rest.removeprefix(_MARK)
    return _MARK.startswith(rest) or (
        len(key) < len(rest) and key.strip(b"0123456789abcdef") == b""
    )


@contextlib.contextmanager
def rewrite(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of *path* at the end; a crash leaves the old one.

    A link stays a link, the mode stays the mode. Raises OutputFailed, and leaves nothing behind.
    """
    real = Path(os.path.realpath(path))
    temporary = real.with_name(f".{real.name}.tmp")
    try:
        with open(temporary, "wb") as new:
            os.fchmod(new.fileno(), stat.S_IMODE(real.stat().st_mode))
            yield new
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, real)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputFailed(f"cannot rewrite {path}: {error.strerror}") from error
        raise


def drop_lines(path: Path, is_unwanted: Callable[[bytes], bool]) -> int:
    """Rewrite *path* without its unwanted lines; return how many went. Raises OutputFailed."""
    dropped = 0
    with open(path, "rb") as old, rewrite(path) as new:
        for line in old:
            if is_unwanted(line):
                dropped += 1
            else:
                new.write(line)
    return dropped


def is_failed(line: bytes, classes: frozenset[str] | None = None) -> bool:
    """Tell whether a *line* of ours holds an error (of one of *classes*, where they are named)."""
    head = _HEAD.match(line)
    failed = head[3] if head is not None else None
    return failed is not None and (classes is None or failed.decode() in classes)


def read_head(line: bytes) -> tuple[str, bytes]:
    """Return the id and the key of a *line* of ours."""
    head = _HEAD.match(line)
    assert head is not None  # noqa: S101 - the ledger has looked at every line
    return json.loads(head[1]), bytes.fromhex(head[2].decode())


def read_done(paths: Iterable[Path]) -> Done:
    """Return what the outputs *paths* tell of as done."""
    done = Done()
    for path in paths:
        try:
            with open(path, "rb") as file:
                done.collect(file)
        except OSError as error:
            raise MissingInput(f"cannot read {path}: {error.strerror}") from error
    return done
