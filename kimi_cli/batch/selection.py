"""Which rows of the input are this run's: its shard, not done yet, not changed, not twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kimi_cli.batch.done import Done, HashSet, hash_id
from kimi_cli.batch.records import BadRecord, Record, has_odd_id, name_by_place, repeat_key
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import BadInput

_FEW = 5
_WRONG_FROM_THE_START = 10

# The workers of one job are told their number by whoever started them; see each one's manual.
_ENVIRONMENTS = (
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN"),
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS", None),
    ("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS", None),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", None),
)


@dataclass(frozen=True)
class Shard:
    """Every *count*-th row, beginning with row *index* (from 0)."""

    index: int
    count: int

    def __contains__(self, number: int) -> bool:
        """Tell whether the row of that *number* (from 1) is ours."""
        return (number - 1) % self.count == self.index


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read ``I/N``, or with ``auto`` what a job scheduler's variables say. Raises ValueError."""
    if text == "auto":
        return _find_shard(environment)
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError("a shard is I/N with I from 0 to N-1, or auto")
    return Shard(int(found[1]), int(found[2]))


def _find_shard(environment: Mapping[str, str]) -> Shard:
    for index, count, first in _ENVIRONMENTS:
        if index in environment and count in environment:
            start = int(environment.get(first, "0")) if first else 0
            shard = Shard(int(environment[index]) - start, int(environment[count]))
            if not 0 <= shard.index < shard.count:
                raise ValueError(f"{index} and {count} name no shard: {shard.index}/{shard.count}")
            return shard
    known = ", ".join(index for index, _, _ in _ENVIRONMENTS)
    raise ValueError(f"no scheduler's variables are here (looked for {known})")


@dataclass(frozen=True, eq=False, repr=False)
class Rules:
    """What to do with a row whose id was seen before."""

    on_change: str = "fail"
    allow_duplicates: bool = False
    shard: Shard | None = None
    show_duplicates: bool = False
    """Whether a row that is not sent has a line of output all the same."""


def select(
    records: Iterable[Record | BadRecord],
    done: Done,
    rules: Rules,
    tally: Tally,
    note_place: Callable[[bytes, int], None] | None = None,
    *,
    is_alone: bool = False,
) -> Iterator[Record | BadRecord]:
    """Yield the rows that are to be run; the others are counted in *tally*.

    After a row that must not be run (its id came before, or what it asks has changed) none is
    yielded any more, but all are counted. *note_place* is told the key and the number of every
    row that may have a line of output, and the hashed id of one whose line has another key.
    Where what is *done* is that of one output and *is_alone*, its lines of no row are counted.
    """
    lines = len(done)
    sieve = _Sieve(done, rules, tally)
    for record in records:
        fresh = sieve.judge(record)
        if fresh is None:
            continue
        if note_place is not None:
            note_place(bytes.fromhex(fresh.key), fresh.number)
            if sieve.is_kept(fresh):
                note_place(hash_id(fresh.id), fresh.number)
        if sieve.is_wanted(fresh):
            yield sieve.rename(fresh)
    if is_alone:
        tally.strays = max(0, lines - sieve.known)


class _Sieve:
    """Judges row after row by those before it, and by what is done."""

    def __init__(self, done: Done, rules: Rules, tally: Tally) -> None:
        self._done = done
        self._rules = rules
        self._tally = tally
        self._ids, self._keys = HashSet(8), HashSet(16)
        self._repeats: dict[str, int] = {}
        self.known = 0
        """Rows that have a line, by their key or id."""

    def judge(self, record: Record | BadRecord) -> Record | BadRecord | None:
        """Return the row with its key, None when it is another shard's or came before.

        Rows of other shards count among those before, so that the keys are the same everywhere.
        """
        rules, tally = self._rules, self._tally
        comes_again = isinstance(record, Record) and not self._ids.add(hash_id(record.id))
        is_refused = comes_again and not rules.allow_duplicates
        if not is_refused and not self._keys.add(bytes.fromhex(record.key)):
            self._repeats[record.key] = self._repeats.get(record.key, 1) + 1
            record = replace(record, key=repeat_key(record.key, self._repeats[record.key]))
        self.known += not is_refused and (
            bytes.fromhex(record.key) in self._done.keys or hash_id(record.id) in self._done.ids
        )
        if rules.shard is not None and record.number not in rules.shard:
            return None
        tally.read += 1
        tally.odd_ids += not getattr(record, "named", False) and has_odd_id(record)
        if not is_refused:
            return record
        _count(tally.first_duplicates, record.id)
        tally.duplicates += 1
        if not rules.show_duplicates:
            return None
        message = f"the id {record.id} came before; see --allow-duplicate-ids"
        return BadRecord(
            record.number,
            record.id,
            "duplicate_id",
            message,
            record.key,
            record.row,
            record.carried,
        )

    def is_kept(self, record: Record | BadRecord) -> bool:
        """Tell whether a row has a line though it asks something else now."""
        done = self._done
        return bytes.fromhex(record.key) not in done.keys and hash_id(record.id) in done.ids

    def is_wanted(self, record: Record | BadRecord) -> bool:
        """Tell whether a row is to be run; count it where it is not."""
        done, rules, tally = self._done, self._rules, self._tally
        key, name = bytes.fromhex(record.key), hash_id(record.id)
        if key in done.keys or name in done.elsewhere:
            self._skip(key, name, by_id=key not in done.keys)
            return False
        if name in done.ids and rules.on_change != "redo" and not rules.allow_duplicates:
            if rules.on_change == "keep":
                self._skip(key, name, by_id=True)
                return False
            _count(tally.first_changed, record.id)
            tally.changed += 1
        if tally.changed or (tally.duplicates and not rules.show_duplicates):
            tally.held += 1
            return False
        return True

    def rename(self, record: Record | BadRecord) -> Record | BadRecord:
        """Name a row without an id anew where a line that stays has the name of its place."""
        if record.id != name_by_place(record.number) or hash_id(record.id) not in self._done.ids:
            return record
        return replace(record, id=f"{record.id}-{record.key[:8]}")

    def _skip(self, key: bytes, name: bytes, *, by_id: bool) -> None:
        """Count a row that is done, and what its line lacks."""
        done, tally = self._done, self._tally
        tally.skipped += 1
        tally.failed_before += done.failed.holds(key, name, by_id=by_id)
        tally.invalid_before += done.invalid.holds(key, name, by_id=by_id)
        tally.transient_before += done.transient.holds(key, name, by_id=by_id)
        tally.incomplete_before += done.incomplete.holds(key, name, by_id=by_id)


def refuse_wrong_input(
    records: Iterator[Record | BadRecord], *, holds: bool = True
) -> Iterator[Record | BadRecord]:
    """Hold bad rows back until a good one has come: ten bad ones are a wrong file or option.

    Raises BadInput for that, before any request, and for an input of bad rows alone. Where it
    *holds* nothing back, who waits for a line before the next row gets one.
    """
    held: list[BadRecord] = []
    for record in records:
        if not isinstance(record, BadRecord):
            yield from held if holds else ()
            yield record
            break
        held.append(record)
        if len(held) == _WRONG_FROM_THE_START:
            raise BadInput(
                f"the first {len(held)} rows are all bad (row {held[0].number}: "
                f"{held[0].message}); is this the right file, or is --prompt, --lines or "
                "--csv missing?"
            )
        if not holds:
            yield record
    else:
        if held:
            none = "the only row cannot" if len(held) == 1 else f"none of {len(held)} rows can"
            raise BadInput(f"{none} be sent (row {held[0].number}: {held[0].message})")
    yield from records


@dataclass(frozen=True, eq=False, repr=False)
class Changes:
    """What this run's rows ask now, against what is done."""

    ids: HashSet
    """Those of rows that ask something else now."""
    places: HashSet
    """Ids by place whose rows brought no id that could be read, and do now."""
    wanted: HashSet
    """The keys of all that is asked now."""
    names: HashSet
    """All ids."""

    def __bool__(self) -> bool:
        """Tell whether anything has changed."""
        return bool(self.ids or self.places)

    def replace(self, name: str, key: bytes, *, failed: bool) -> bool:
        """Tell whether a line of that id and key makes room for a new one."""
        has_changed = hash_id(name) in self.ids or (failed and hash_id(name) in self.places)
        return has_changed and key not in self.wanted

    def concern(self, name: str, key: bytes) -> bool:
        """Tell whether a line of that id and key belongs to a row of this run."""
        return key in self.wanted or hash_id(name) in self.names


def find_changes(records: Iterable[Record | BadRecord], done: Done, rules: Rules) -> Changes:
    """Compare all *records* of this run with what is done."""
    changes = Changes(HashSet(8), HashSet(8), HashSet(16), HashSet(8))
    sieve = _Sieve(done, rules, Tally())
    for row in records:
        if (record := sieve.judge(row)) is None:
            continue
        key, name = bytes.fromhex(record.key), hash_id(record.id)
        changes.wanted.add(key)
        changes.names.add(name)
        if isinstance(record, BadRecord):
            continue
        if key not in done.keys and name in done.ids:
            changes.ids.add(name)
        if (place := hash_id(name_by_place(record.number))) in done.ids:
            changes.places.add(place)
    return changes


def _count(names: list[str], name: str) -> None:
    if len(names) < _FEW:
        names.append(name)
