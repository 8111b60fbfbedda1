"""Files that must survive: appended to whole, under a lock; mended; or replaced whole.

What is said here of a failure is an OSError: who calls knows what the file is to a person.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import re
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BLOCK = 2**16
_PAUSE = 0.02
"""Seconds between two looks at a lock that somebody else holds."""
_PATIENCE = 2.0
"""Seconds of waiting for a lock after which it is said."""
_NO_LOCKS = frozenset((errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EBADF))
"""What a file system without locks says; NFS, of a folder, that it is not open for writing."""
_NO_DISK = frozenset((errno.EINVAL, errno.ENOTSUP, errno.ENOSYS))
"""What a file system says of fsync when there is nothing that it could force to a disk."""

_NO_NEW_NAME = frozenset((errno.EACCES, errno.EPERM, errno.EROFS, errno.EBUSY))


class Held(BlockingIOError):
    """Somebody else has the lock; *holder* says who, where that is known."""

    def __init__(self, holder: str) -> None:
        """Name the holder, or nobody."""
        super().__init__(errno.EWOULDBLOCK, "it is being written by another process")
        self.holder = holder


class CutBack(OSError):
    """A write that failed; *kept* bytes of it stay in the file."""

    def __init__(self, error: OSError, kept: int) -> None:
        """Take the number and the words of *error*."""
        super().__init__(error.errno, error.strerror)
        self.kept = kept


def _be_silent(message: str) -> None:
    pass


# Appending


def append(descriptor: int, data: bytes, *, by_line: bool = False) -> None:
    """Append all of *data* to a file that is open for appending, or nothing of it.

    *by_line* keeps the whole lines for which there was room. Raises CutBack.
    """
    size = os.fstat(descriptor).st_size
    left = memoryview(data)
    try:
        while left:
            left = left[_write_some(descriptor, left) :]
    except OSError as error:
        written = len(data) - len(left)
        kept = data.rfind(b"\n", 0, written) + 1 if by_line else 0
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, size + kept)
        raise CutBack(error, kept) from error


def _write_some(descriptor: int, data: memoryview) -> int:
    written = os.write(descriptor, data)
    if written == 0:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return written


def force(descriptor: int, *, data_only: bool = False) -> None:
    """Bring to disk what was written, where there is a disk that can be asked to."""
    try:
        (os.fdatasync if data_only else os.fsync)(descriptor)
    except OSError as error:
        if error.errno not in _NO_DISK:
            raise


def mend_tail(descriptor: int, judge: Callable[[bytes], int], start: int | None = None) -> int:
    """Mend what stands behind the last line feed, or from *start* on; return how much that was.

    *judge* is handed it, and returns how many bytes of it are a line that lacks nothing but its
    line feed; the others are cut off. It raises to leave the file as it is.
    """
    size = os.fstat(descriptor).st_size
    if start is None:
        start, tail = _read_tail(descriptor, size)
    else:
        tail = os.pread(descriptor, size - start, start)
    if not tail:
        return 0
    whole = judge(tail)
    if whole < len(tail):
        os.ftruncate(descriptor, start + whole)
    if whole:
        append(descriptor, b"\n")
    return len(tail)


def _read_tail(descriptor: int, size: int) -> tuple[int, bytes]:
    """Return where the part after the last line feed begins, and that part."""
    blocks: list[bytes] = []
    start = size
    while start > 0:
        step = min(_BLOCK, start)
        start -= step
        block = os.pread(descriptor, step, start)
        place = block.rfind(b"\n")
        if place >= 0:
            blocks.append(block[place + 1 :])
            start += place + 1
            break
        blocks.append(block)
    return start, b"".join(reversed(blocks))


# Locks


@contextmanager
def locked(
    descriptor: int,
    path: str | os.PathLike[str],
    *,
    wait: bool = True,
    notify: Callable[[str], None] = _be_silent,
) -> Iterator[None]:
    """Hold the lock of an open file for the time of a ``with``.

    The lock is the kernel's, and ends with its holder. A file system that has none gets a file
    ``NAME.lock`` beside the file instead, of which *notify* is told. Raises Held unless it may
    *wait*, OSError when there can be no lock.
    """
    release = _take(descriptor, os.fspath(path), wait=wait, notify=notify)
    try:
        yield
    finally:
        release()


def _take(
    descriptor: int, path: str, *, wait: bool, notify: Callable[[str], None]
) -> Callable[[], None]:
    """Take the lock; return what gives it back."""
    late, beside = time.monotonic() + _PATIENCE, False
    while True:
        try:
            return _take_beside(path) if beside else _take_from_kernel(descriptor)
        except Held as held:
            if not wait:
                raise
            if time.monotonic() > late:
                notify(f"waiting for {path}, which another process holds{held.holder}")
                late = math.inf
            time.sleep(_PAUSE)
        except OSError as error:
            if beside or error.errno not in _NO_LOCKS:
                raise
            beside = True
            notify(
                f"the file system of {path} has no locks ({error.strerror}); "
                f"{_name_lock(path)} stands in for one"
            )


def _take_from_kernel(descriptor: int) -> Callable[[], None]:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Held(_find_holder(descriptor)) from None
    return lambda: fcntl.flock(descriptor, fcntl.LOCK_UN)


def lock_as_well(descriptor: int) -> None:
    """Lock a file that takes the place of one that is locked, where there are locks."""
    with contextlib.suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _find_holder(descriptor: int) -> str:
    """Name the process that holds the lock, where the kernel tells."""
    inode = os.fstat(descriptor).st_ino
    with contextlib.suppress(OSError, IndexError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
                return f" (process {words[4]})"
    return ""


def _name_lock(path: str) -> str:
    return os.path.realpath(path) + ".lock"


def _take_beside(path: str) -> Callable[[], None]:
    """Make the file that stands in for a lock, unless its maker lives."""
    name = _name_lock(path)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    for _ in range(2):
        try:
            descriptor = os.open(name, flags, 0o600)
        except FileExistsError:
            _remove_orphan(name)
            continue
        with open(descriptor, "wb", buffering=0) as file:
            file.write(f"{os.getpid()} {socket.gethostname()}\n".encode())
        return lambda: Path(name).unlink(missing_ok=True)
    raise Held(f"; if it does not, remove {name}")


def _remove_orphan(name: str) -> None:
    """Remove a lock whose maker has died; raises Held for any other.

    It is moved away before, so that of two who find it one alone removes it, and looked at again,
    so that a new one is not taken for it.
    """
    try:
        with open(name, "rb", opener=lambda p, f: os.open(p, f | os.O_NOFOLLOW)) as file:
            maker, found = file.read(200).decode(errors="replace").split(), os.fstat(file.fileno())
        if len(maker) != 2 or maker[1] != socket.gethostname() or _lives(int(maker[0])):
            who = f" (process {maker[0]} on {maker[1]})" if len(maker) == 2 else ""
            raise Held(f"{who}; if it does not, remove {name}")
        aside = _draw_name(name)
        os.rename(name, aside)
        if not os.path.samestat(os.stat(aside), found):
            with contextlib.suppress(FileExistsError):
                os.link(aside, name)
        os.unlink(aside)
    except FileNotFoundError:
        pass  # it was given back just now
    except ValueError:
        raise Held(f"; if it does not, remove {name}") from None


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


# Replacing


@contextmanager
def replacing(
    path: str | os.PathLike[str],
    *,
    mode: int | None = None,
    give_name: Callable[[str, str], None] = os.replace,
) -> Iterator[BinaryIO]:
    """Yield a new file that takes the place of *path* at the end: all of it, or the old one stays.

    A link stays a link. The file gets *mode*, or that of the old one. *give_name* may be
    ``os.link``, which leaves a file that has the name. Raises OSError, and leaves nothing behind.
    """
    real = os.path.realpath(path)
    old = os.stat(real) if os.path.exists(real) else None
    descriptor, temporary = _make_temporary(real, mode if old is None else 0o600)
    try:
        with open(descriptor, "wb") as new:
            if old is not None:
                _take_after(descriptor, old)
            if mode is not None:
                os.fchmod(descriptor, mode)  # whatever the umask
            yield new
            new.flush()
            force(descriptor)
            give_name(temporary, real)
            force_folder(real)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


@contextmanager
def create(path: str | os.PathLike[str], mode: int) -> Iterator[BinaryIO]:
    """Yield a new file of that *mode*, on disk at the end, or gone when it fails.

    Raises FileExistsError for a name that anything has, be it a link; OSError.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o600)
    with open(descriptor, "wb") as file:
        try:
            os.fchmod(descriptor, mode)
            yield file
            file.flush()
            force(descriptor)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            raise
    force_folder(path)


def _make_temporary(real: str, mode: int | None) -> tuple[int, str]:
    """Make a file beside *real* that nobody can have foreseen."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    name = _draw_name(real)
    return os.open(name, flags, 0o666 if mode is None else mode), name


def _draw_name(real: str) -> str:
    """Return a name in the folder of *real*, short enough wherever that has room."""
    return os.path.join(os.path.dirname(real), f".kimi-{os.urandom(8).hex()}.tmp")


def _take_after(descriptor: int, old: os.stat_result) -> None:
    """Give a file the owner, where we may, and the mode of the *old* one."""
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
        with contextlib.suppress(OSError):
            os.fchown(descriptor, old.st_uid, old.st_gid)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def force_folder(path: str | os.PathLike[str]) -> None:
    """Bring the name *path* to disk, too, where its folder can be opened."""
    with contextlib.suppress(OSError):
        descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def replace_whole(path: str | os.PathLike[str], data: bytes, *, mode: int | None = None) -> None:
    """Make *data* the content of *path*: all of it, or the old content stays.

    What is no regular file is written to, and so is a path that is one of our own streams:
    ``/dev/stderr`` may be a log that others write to as well. A file whose name cannot be given
    to another (it is mounted, or its folder is not ours) is written over. Raises OSError.
    """
    if (ours := find_stream(path)) is not None:
        _write_all(ours, data)
        return
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(os.stat(path).st_mode):
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOCTTY)
            with open(descriptor, "wb", buffering=0):
                _write_all(descriptor, data)
            return
    try:
        with replacing(path, mode=mode) as new:
            new.write(data)
    except OSError as error:
        if error.errno not in _NO_NEW_NAME or not os.path.exists(path):
            raise
        _write_over(path, data)


def _write_over(path: str | os.PathLike[str], data: bytes) -> None:
    """Write *data* into the file itself; where that fails, its old content is put back."""
    descriptor = _open_to_write_over(path)
    with open(descriptor, "wb", buffering=0):
        size = os.fstat(descriptor).st_size
        old = _read_start(descriptor, min(size, len(data)))
        try:
            _write_all(descriptor, data)
            os.ftruncate(descriptor, len(data))
            force(descriptor)
        except BaseException:
            if old is not None:
                os.lseek(descriptor, 0, os.SEEK_SET)
                _write_all(descriptor, old)
                os.ftruncate(descriptor, size)
            raise


def _open_to_write_over(path: str | os.PathLike[str]) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)


def _read_start(descriptor: int, size: int) -> bytes | None:
    """Return the first *size* bytes of a file; None where they may not be read."""
    data = b""
    try:
        while len(data) < size and (piece := os.pread(descriptor, size - len(data), len(data))):
            data += piece
    except OSError:
        return None
    return data


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[_write_some(descriptor, left) :]


def check_place(path: str | os.PathLike[str]) -> None:
    """Raise the OSError that ``replace_whole`` would, as far as it can be known before."""
    if (ours := find_stream(path)) is not None:
        os.fstat(ours)
        return
    real = os.path.realpath(path)
    try:
        kind = os.stat(real).st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if stat.S_ISREG(kind):
        try:
            descriptor, temporary = _make_temporary(real, 0o600)
            os.unlink(temporary)
        except OSError as error:
            if error.errno not in _NO_NEW_NAME or not os.path.exists(real):
                raise
            descriptor = os.open(real, os.O_WRONLY | os.O_CLOEXEC)
        os.close(descriptor)


def find_stream(path: str | os.PathLike[str]) -> int | None:
    """Return which of our own descriptors *path* is, None for any other file.

    It is one by its name (``/dev/stderr``, ``/dev/fd/3``, or a link to such), or because it is the
    file that standard output or standard error goes to.
    """
    with contextlib.suppress(OSError):
        if (number := _find_number(path)) is not None:
            return number
        there = os.stat(path)
        for descriptor in (1, 2):
            with contextlib.suppress(OSError):
                ours = os.fstat(descriptor)
                if stat.S_ISREG(ours.st_mode) and os.path.samestat(there, ours):
                    return descriptor
    return None


def _find_number(path: str | os.PathLike[str]) -> int | None:
    """Follow links until one is a descriptor of this process: what it is open on is no matter."""
    name = os.path.abspath(path)
    for _ in range(40):  # more links than any system follows
        folder, number = os.path.realpath(os.path.dirname(name)), os.path.basename(name)
        found = re.fullmatch(r"/proc/(\d+)(?:/task/\d+)?/fd|/dev/fd", folder)
        if found and found[1] in (None, str(os.getpid())) and number.isdecimal():
            return int(number)
        if not os.path.islink(name):
            break
        name = os.path.normpath(os.path.join(folder, os.readlink(name)))
    return None


# Folders


def make_private_folder(path: Path) -> None:
    """Make *path* and what is missing above it for its owner alone, whatever the umask.

    The XDG Base Directory Specification wants 0700 for folders that are not there yet.
    """
    if path.is_dir():
        return
    make_private_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        path.chmod(0o700)
