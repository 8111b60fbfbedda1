"""What is done: the keys and ids of rows that have a line, in little memory."""

from __future__ import annotations

import json
import re
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from hashlib import blake2b

from kimi_cli.api.spending import Spending, read_amount
from kimi_cli.batch.records import NOT_ASKED

INVALID = "invalid"
"""The class of an error whose row was answered, and not in the form that was asked for."""
_TEXT = rb'"(?:[^"\\]|\\.)*'
_KEYS = rb'\["[0-9a-f]{32}"(?:,"[0-9a-f]{32}")*\]'
_HEAD = (  # compiled with the first line, not for a run that has none
    rb'\{"custom_id":(' + _TEXT + rb'"),"kimi":\{"key":"([0-9a-f]{32})"'
    rb'(?:,"failed":"([a-z_]+)"|,"incomplete":"([a-z_]+)")?'
    rb'(?:,"replaces":(' + _KEYS + rb'))?(?:,"shard":"(\d+/\d+)")?'
    rb'(?:,"row":\d+,"attempts":\d+,"ms":\d+,"cost":([\d.e+-]+),"currency":"(\w+)")?'
)
_ASKS = (
    rb'(?:,"row":\d+,"attempts":\d+,"ms":\d+)?'  # or the cost stood before it
    rb'(?:,"asks":"(?P<asks>[0-9a-f]{32})")?'
)
_TABLE = rb'\{"custom_id":(' + _TEXT + rb'"),"row":\d+,"status":"'
_TABLE_MARK = b',"kimi":"'  # as it stands between cells, and never within one
_TORN_TABLE = rb',"row":\d*(?:(?<=\d)(,.*))?\Z'
_ROW, _STATUS = b',"row":', b',"status":"'
_TORN = rb'(?s)\{"custom_id":' + _TEXT + rb'(?:\\?|"(,.*)?)\Z'
_BEGINNING, _MARK = b'{"custom_id":"', b',"kimi":{"key":"'


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

    def copy(self) -> HashSet:
        """Return a set of the same hashes, which shares its buckets until one of the two grows."""
        twin = HashSet(self._rest + 2)
        twin._buckets, twin._count = list(self._buckets), self._count
        return twin

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

    def add(self, key: bytes | None, name: str) -> None:
        """Add a line; those of others have no key."""
        if key is not None:
            self._keys.add(key)
        self._ids.add(hash_id(name))

    def merge(self, other: Flaws) -> None:
        """Add the lines of *other*."""
        self._keys.merge(other._keys)
        self._ids.merge(other._ids)

    def holds(self, key: bytes, name: bytes, *, by_id: bool) -> bool:
        """Tell whether the line of that key, or *by_id* of that hashed id, is one."""
        return name in self._ids if by_id else key in self._keys


@dataclass(frozen=True, slots=True)
class Lines:
    """The lines of one output, by the keys and the hashed ids of their rows."""

    keys: HashSet
    ids: HashSet

    def __len__(self) -> int:
        """How many there are."""
        return len(self.keys)

    def hold(self, key: bytes, name: bytes) -> bool:
        """Tell whether a row has one."""
        return key in self.keys or name in self.ids


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
        self.invalid = Flaws()
        """Lines that hold an error and an answer, which has not the form it had to have."""
        self.spent = Spending()
        """What the lines of one output cost."""
        self.unasked = 0
        """How many lines are of rows that nobody was asked for."""
        self.shards: set[str] = set()
        """The shards whose lines these are, as ``--shard`` has them."""
        self.succeeded = 0
        """How many lines have a successor: the same row was written again."""

    def __len__(self) -> int:
        """How many rows are done."""
        return len(self.keys)

    def list_lines(self) -> Lines:
        """Return the lines of which is known by now."""
        return Lines(self.keys.copy(), self.ids.copy())

    def merge(self, other: Done) -> None:
        """Add what *other* knows of."""
        self.keys.merge(other.keys)
        self.ids.merge(other.ids)
        self.elsewhere.merge(other.elsewhere)
        self.failed.merge(other.failed)
        self.transient.merge(other.transient)
        self.incomplete.merge(other.incomplete)
        self.invalid.merge(other.invalid)

    def scan(
        self,
        lines: Iterable[tuple[bytes, Mark | None]],
        is_open: Callable[[Mark], bool] = lambda mark: False,
    ) -> tuple[int, list[int]]:
        """Add every row that whole *lines* tell of, but for those that are open again.

        Return how many lines are not ours, and the numbers (from 1) of ours that are damaged.
        Damage is looked for where that is cheap: in holes, which are NUL bytes.
        """
        foreign, damaged = 0, []
        for number, (line, mark) in enumerate(lines, 1):
            if mark is None:
                foreign += 1
            elif b"\0" in line:
                damaged.append(number)
            elif not is_open(mark):
                self.note(mark)
        return foreign, damaged

    def note(self, mark: Mark) -> None:
        """Add the row of a line of ours, with what it lacks."""
        self.succeeded += sum(key in self.keys for key in (mark.key, *mark.replaces))
        self.keys.add(mark.key)
        self.ids.add(hash_id(mark.name))
        if mark.cost is not None:
            self.spent.add(*mark.cost)
        self.unasked += mark.failed == NOT_ASKED
        if mark.shard is not None:
            self.shards.add(mark.shard)
        if mark.failed == "transient":
            self.transient.add(mark.key, mark.name)
        if mark.failed == INVALID:
            self.invalid.add(mark.key, mark.name)
        if mark.failed is not None:
            self.failed.add(mark.key, mark.name)
        elif mark.is_incomplete:
            self.incomplete.add(mark.key, mark.name)


@dataclass(frozen=True, slots=True)
class Mark:
    """What the beginning of a line of ours says of it."""

    name: str
    """The row's id."""
    key: bytes
    failed: str | None = None
    """The class of the error that it holds."""
    is_incomplete: bool = False
    replaces: tuple[bytes, ...] = ()
    """The keys of earlier lines whose place it takes."""
    shard: str | None = None
    """The shard that wrote it."""
    cost: tuple[int, str] | None = None
    """What the answer cost, in ``UNITS``, and in which currency."""


class Stale:
    """Lines whose rows are asked again: their keys by the id of the row, 24 bytes a line."""

    def __init__(self) -> None:
        """Start empty."""
        self._names, self._keys = array("Q"), bytearray()
        self._order: array[int] | None = None

    def note(self, name: str, keys: Iterable[bytes]) -> None:
        """Add the lines of a row."""
        for key in keys:
            self._names.append(int.from_bytes(hash_id(name), "big"))
            self._keys += key

    def find(self, name: str) -> list[bytes]:
        """Return the keys of the lines of a row."""
        if self._order is None:
            self._order = array("L", sorted(range(len(self._names)), key=self._names.__getitem__))
        wanted = int.from_bytes(hash_id(name), "big")
        place = bisect_left(self._order, wanted, key=self._names.__getitem__)
        keys = []
        while place < len(self._order) and self._names[self._order[place]] == wanted:
            start = self._order[place] * 16
            keys.append(bytes(self._keys[start : start + 16]))
            place += 1
        return keys


def read_mark(line: bytes) -> Mark | None:
    """Read the beginning of a *line*; None when it is not ours, as our program writes it."""
    head = re.match(_HEAD, line)
    if head is None:
        return _read_table_mark(line)
    try:
        name = json.loads(head[1])
    except ValueError:
        return None
    return Mark(
        name,
        bytes.fromhex(head[2].decode()),
        head[3].decode() if head[3] else None,
        head[4] is not None,
        tuple(map(bytes.fromhex, json.loads(head[5]))) if head[5] else (),
        head[6].decode() if head[6] else None,
        (read_amount(float(head[7])), head[8].decode()) if head[7] else None,
    )


def read_asks(line: bytes) -> bytes | None:
    """Return what an answer's *line* says was asked, whatever the row; None for an error.

    Of a row without an id that is its key.
    """
    head = re.match(_HEAD + _ASKS, line)
    if head is None or head[3] is not None:
        return None
    return bytes.fromhex((head["asks"] or head[2]).decode())


def _read_table_mark(line: bytes) -> Mark | None:
    """Read the mark of a line of a table, which stands in its middle."""
    if (head := re.match(_TABLE, line)) is None:
        return None
    start = line.find(_TABLE_MARK, head.end()) + len(_TABLE_MARK)
    end = line.find(b'"', start)
    if start < len(_TABLE_MARK) or end < 0:
        return None
    try:
        return parse_mark(json.loads(head[1]), line[start:end].decode())
    except ValueError:
        return None


def parse_mark(name: str, text: str) -> Mark | None:
    """Read what the table of a row of that *name* says of it; None where it is not ours."""
    key, *more = text.split(" ")
    told = dict(word.partition("=")[::2] for word in more)
    replaces = told.get("replaces")
    if len(key) != 32:
        return None
    try:
        return Mark(
            name,
            bytes.fromhex(key),
            told.get("failed"),
            "incomplete" in told,
            tuple(map(bytes.fromhex, replaces.split(","))) if replaces else (),
            told.get("shard"),
        )
    except ValueError:
        return None


def begins_line(tail: bytes) -> bool:
    """Tell whether *tail* is the beginning of a line of ours, and no line of somebody else."""
    if re.match(_HEAD, tail) or re.match(_TABLE, tail):
        return True
    if _BEGINNING.startswith(tail):
        return True
    torn = re.match(_TORN, tail)
    if torn is None:
        return False
    rest = torn[1] or b""
    if _ROW.startswith(rest):
        return True
    if table := re.match(_TORN_TABLE, rest, re.DOTALL):
        return _STATUS.startswith(table[1] or b"")
    key = rest.removeprefix(_MARK)
    return _MARK.startswith(rest) or (
        len(key) < len(rest) and key.strip(b"0123456789abcdef") == b""
    )
