"""Where conversations are kept: one file each, of JSON Lines, readable by their owner alone.

Every write is one append under a lock, so that processes can talk in one conversation at the same
time. A last line that was torn by a power cut is dropped; a file that holds anything else than a
conversation is never written to.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from stat import S_ISFIFO, S_ISREG

from kimi_cli.api import codec
from kimi_cli.conversation.record import Conversation, Entry, read_entry
from kimi_cli.errors import BadInput, CannotCreate, MissingInput, OutputFailed, TemporaryFailure
from kimi_cli.settings.configfile import find_folder
from kimi_cli.system.files import append, locked, make_private_folder, mend_tail, replacing

LATEST = "latest"
"""The name of the conversation that was not given one."""

_NAME = re.compile(r"\w[\w.@+,=-]*")
_LONGEST_NAME = 200
_SUFFIX = ".jsonl"
_BLOCK = 65536


@dataclass(frozen=True)
class Summary:
    """What a list shows of one conversation; *problem* where it cannot be read."""

    name: str
    changed: float
    turns: int = 0
    title: str = ""
    problem: str | None = None


class ConversationFile:
    """The file of one conversation; what this process has seen of it decides what it may do."""

    def __init__(self, path: Path, notify: Callable[[str], None] = lambda message: None) -> None:
        """Name the file, which need not exist; *notify* is told of what was found torn."""
        self.path = path
        self._notify = notify
        self._seen: _Sight | None = None
        """The file as we last knew it."""

    @property
    def name(self) -> str:
        """The name of the conversation."""
        return self.path.name.removesuffix(_SUFFIX)

    def read(self) -> Conversation | None:
        """Return the conversation, None when there is none.

        Raises BadInput for a file that holds something else, MissingInput when it cannot be read.
        """
        data = self._load()
        if data is None:
            return None
        self._seen = _Sight(len(data), _find_line(data))
        return Conversation(entry for _, entry in self._parse(data))

    def dump(self) -> str | None:
        """Return the lines as they are kept, whole ones only, None when there is no file.

        Raises as ``read`` does.
        """
        data = self._load()
        if data is None:
            return None
        return "".join(f"{line.decode()}\n" for line, _ in self._parse(data))

    def _load(self) -> bytes | None:
        """Return what the file holds, None when there is none; a pipe is not waited for."""
        try:
            with open(self.path, "rb", opener=_open_at_once) as file:
                if S_ISFIFO(os.fstat(file.fileno()).st_mode):
                    raise MissingInput(f"cannot read {self.path}: it is a pipe")
                return file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise MissingInput(f"cannot read {self.path}: {error.strerror}") from error

    def _parse(self, data: bytes) -> Iterator[tuple[bytes, Entry]]:
        """Yield the lines of *data* with their messages; a torn last one is told, and left out."""
        lines = data.split(b"\n")
        if _is_torn(lines[-1]):
            self._notify(f"{self.path}: the last line was torn, and is dropped")
            lines.pop()
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                yield line, read_entry(line)
            except ValueError:
                raise self._tell_damage(number) from None

    def _tell_damage(self, number: int) -> BadInput:
        return BadInput(
            f"{self.path}:{number} is no message of a conversation, and the file is left "
            f"alone; repair the line, or remove the conversation: kimi log rm {self.name}"
        )

    def append(self, entries: Sequence[Entry]) -> bool:
        """Add *entries* in one write; tell whether nobody else wrote since we last looked.

        Raises CannotCreate or OutputFailed, BadInput for a file that is damaged, and
        TemporaryFailure when the file we knew is gone.
        """
        data = b"".join(entry.encode() for entry in entries)
        with self._open() as descriptor:
            now = _look_at(descriptor)
            if self._seen is not None and not self._seen.is_same(now):
                raise _tell_gone(self.name)
            alone = now.size == (self._seen.size if self._seen is not None else 0)
            if mend_tail(descriptor, lambda tail: self._judge_tail(descriptor, tail)):
                now = _look_at(descriptor)
            try:
                append(descriptor, data)
            except OSError:
                if now.size == 0:
                    with contextlib.suppress(OSError):
                        os.unlink(self.path)
                raise
            # Not looked at again: what is written must not seem lost because a look fails.
            self._seen = now.grow(data)
        return alone

    def replace(self, entries: Sequence[Entry]) -> None:
        """Begin anew with *entries*: readers see the old conversation or the new, never a part.

        Raises BadInput rather than write over what is no conversation, and as ``append`` does.
        """
        self.read()
        self._make_folder()
        self._put(b"".join(entry.encode() for entry in entries), os.replace)

    def create(self, entries: Sequence[Entry]) -> None:
        """Begin with *entries*, whoever else wants to at this moment.

        Raises BadInput when there is a conversation of that name, and as ``append`` does.
        """
        self._make_folder()
        try:
            self._put(b"".join(entry.encode() for entry in entries), os.link)
        except FileExistsError:
            raise BadInput(
                f"there is a conversation '{self.name}' already; choose another name"
            ) from None

    def remove(self, numbers: Collection[int]) -> None:
        """Take the messages of these numbers (from 0) out again.

        Raises TemporaryFailure when the conversation has gone on elsewhere.
        """
        with self._open() as descriptor:
            now = _look_at(descriptor)
            if self._seen is None or not self._seen.is_unchanged(now):
                raise TemporaryFailure(
                    f"conversation {self.name} went on in another process, and nothing was taken "
                    "back; what was said there is known now"
                )
            lines = io.BytesIO(os.pread(descriptor, now.size, 0)).readlines()
            places = [place for place, line in enumerate(lines) if line.strip()]
            gone = {places[number] for number in numbers}
            first = min(gone)
            left = [line for place, line in enumerate(lines) if place not in gone]
            if len(left) == first:
                os.ftruncate(descriptor, sum(map(len, left)))
                self._seen = _Sight().grow(b"".join(left))
            else:
                self._put(b"".join(left), os.replace)

    def _put(self, data: bytes, give_name: Callable[[str, str], None]) -> None:
        """Give the name to a new file with *data*: all of it, or the old one stays.

        Raises OutputFailed, and FileExistsError where *give_name* does.
        """
        try:
            with replacing(self.path, mode=0o600, give_name=give_name) as file:
                file.write(data)
        except FileExistsError:
            raise
        except OSError as error:
            raise OutputFailed(f"cannot write {self.path}: {error.strerror}") from error
        self._seen = _Sight().grow(data)

    @contextmanager
    def _open(self) -> Iterator[int]:
        """Yield a locked descriptor of the file that has the name now; a new one is made."""
        flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        if self._seen is None:
            self._make_folder()
            flags |= os.O_CREAT
        while True:
            try:
                descriptor = os.open(self.path, flags, 0o600)
            except FileNotFoundError:
                raise _tell_gone(self.name) from None
            except OSError as error:
                raise CannotCreate(f"cannot write {self.path}: {error.strerror}") from error
            try:
                if not S_ISREG(os.fstat(descriptor).st_mode):
                    raise CannotCreate(f"cannot write {self.path}: it is no regular file")
                with locked(descriptor, self.path, notify=self._notify):
                    stat = os.fstat(descriptor)
                    if _is_current(stat, self.path):
                        if stat.st_mode & 0o777 != 0o600:
                            os.fchmod(descriptor, 0o600)  # whatever the umask, or who made it
                        yield descriptor
                        return
            except OSError as error:
                raise OutputFailed(f"cannot write {self.path}: {error.strerror}") from error
            finally:
                os.close(descriptor)

    def _make_folder(self) -> None:
        folder = self.path.parent
        try:
            make_private_folder(folder)
            if folder.stat().st_mode & 0o777 != 0o700:
                folder.chmod(0o700)
        except OSError as error:
            raise CannotCreate(f"cannot use {folder}: {error.strerror}") from error

    def _judge_tail(self, descriptor: int, tail: bytes) -> int:
        """Return how much of a last line that lacks its end is a message; raises BadInput."""
        if _is_torn(tail):
            return 0
        try:
            read_entry(tail)
        except ValueError:
            size = os.fstat(descriptor).st_size
            raise self._tell_damage(os.pread(descriptor, size, 0).count(b"\n") + 1) from None
        return len(tail)


def _tell_gone(name: str) -> TemporaryFailure:
    return TemporaryFailure(
        f"conversation {name} was replaced or removed meanwhile; what was said since is not kept"
    )


def _is_current(stat: os.stat_result, path: Path) -> bool:
    try:
        return os.path.samestat(stat, os.stat(path))
    except FileNotFoundError:
        return False


@dataclass(frozen=True)
class _Sight:
    """A file as it was seen: its size, and its first line, which has the id of a turn.

    An inode would not tell it from another file of that name: it is given again at once.
    """

    size: int = 0
    line: bytes | None = None
    """None while there is no whole line."""

    def grow(self, data: bytes) -> _Sight:
        """Return the file after *data* was appended to what is empty, or ends with a line."""
        line = _find_line(data) if self.line is None else self.line
        return _Sight(self.size + len(data), line)

    def is_unchanged(self, other: _Sight) -> bool:
        """Tell whether nothing was written in between."""
        return self.size == other.size and self.is_same(other)

    def is_same(self, other: _Sight) -> bool:
        """Tell whether *other* is this file, longer or shorter."""
        return self.line is None or self.line == other.line


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _find_line(beginning: bytes) -> bytes | None:
    line, end, _ = beginning.partition(b"\n")
    return line if end else None


def _look_at(descriptor: int) -> _Sight:
    blocks: list[bytes] = []  # a line may be long: it may hold images
    start = 0
    while block := os.pread(descriptor, _BLOCK, start):
        blocks.append(block)
        start += len(block)
        if b"\n" in block:
            break
    return _Sight(os.fstat(descriptor).st_size, _find_line(b"".join(blocks)))


def _is_torn(tail: bytes) -> bool:
    """Tell whether *tail*, which no line feed ends, is what a power cut leaves of a message."""
    rest = tail.rstrip(b"\0")
    if not rest:
        return bool(tail)
    if not re.match(rb'\{\s*("|\Z)', rest):
        return False
    try:
        codec.loads_exactly(rest)
    except ValueError:
        return True
    return rest != tail


class Archive:
    """All conversations of one user."""

    def __init__(self, folder: Path, notify: Callable[[str], None] = lambda message: None) -> None:
        """Look in *folder*, which need not exist."""
        self.folder = folder
        self._notify = notify

    def find(self, name: str) -> ConversationFile:
        """Return the file of that conversation, which need not exist; raises BadInput."""
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise BadInput(
                f"'{name[:20]}…' cannot name a conversation: use at most {_LONGEST_NAME} bytes"
            )
        if not _NAME.fullmatch(name):
            raise BadInput(
                f"'{name}' cannot name a conversation: use letters, digits and . _ - @ + , ="
            )
        return ConversationFile(self.folder / f"{name}{_SUFFIX}", self._notify)

    def list_names(self) -> list[str]:
        """Return the names of all conversations, the latest changed first."""
        return list(self._list_changes())

    def _list_changes(self) -> dict[str, float]:
        """Return when each conversation was changed, the latest first."""
        try:
            names = os.listdir(self.folder)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise MissingInput(f"cannot read {self.folder}: {error.strerror}") from error
        changes = {}
        for name in names:
            if name.endswith(_SUFFIX) and not name.startswith("."):
                with contextlib.suppress(OSError):  # removed meanwhile, or a link to nowhere
                    changed = (self.folder / name).stat().st_mtime
                    changes[name.removesuffix(_SUFFIX)] = changed
        return dict(sorted(changes.items(), key=lambda item: (item[1], item[0]), reverse=True))

    def summarise(self) -> Iterator[Summary]:
        """Yield what a list shows of each; one that cannot be read is shown as such."""
        for name, changed in self._list_changes().items():
            try:
                conversation = self._locate(name).read()
            except (BadInput, MissingInput) as error:
                yield Summary(name, changed, problem=str(error))
                continue
            if conversation is not None:  # it was not removed meanwhile
                turns = conversation.list_turns()
                title = next((text for turn in turns if (text := turn.title)), "")
                yield Summary(name, changed, len(turns), title)

    def dump(self, name: str) -> str:
        """Return the lines of a conversation that must exist; raises as ``load`` does."""
        dump = self._locate(name).dump()
        if dump is None:
            raise MissingInput(f"there is no conversation '{name}'; see 'kimi log'")
        return dump

    def load(self, name: str) -> Conversation:
        """Return a conversation that must exist; raises MissingInput or BadInput."""
        conversation = self._locate(name).read()
        if conversation is None:
            raise MissingInput(f"there is no conversation '{name}'; see 'kimi log'")
        return conversation

    def remove(self, name: str) -> None:
        """Forget a conversation; raises MissingInput when there is none."""
        try:
            self._locate(name).path.unlink()
        except FileNotFoundError:
            raise MissingInput(f"there is no conversation '{name}'; see 'kimi log'") from None
        except OSError as error:
            raise CannotCreate(f"cannot remove conversation '{name}': {error.strerror}") from error

    def find_older(self, seconds: float) -> list[str]:
        """Return the names of conversations that were not changed for so long."""
        before = time.time() - seconds
        return [name for name, changed in self._list_changes().items() if changed < before]

    def _locate(self, name: str) -> ConversationFile:
        """Return the file of a name that need not be one of ours: it may be there all the same."""
        if "/" in name or name.startswith("."):
            return self.find(name)
        return ConversationFile(self.folder / f"{name}{_SUFFIX}", self._notify)


def open_archive(
    environment: Mapping[str, str], notify: Callable[[str], None] = lambda message: None
) -> Archive:
    """Return the conversations of the user whose *environment* this is."""
    state = find_folder(environment, "XDG_STATE_HOME", ".local/state")
    return Archive(state / "conversations", notify)
