"""Which rows of the input are this run's: its shard, not done yet, not changed, not twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from kimi_cli.batch.done import Done, HashSet, Lines, hash_id
from kimi_cli.batch.records import (
    NOT_ASKED,
    BadRecord,
    Record,
    has_odd_id,
    name_by_place,
    repeat_key,
)
from kimi_cli.batch.schedulers import find_share
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import BadInput

_FEW = 5
_WRONG_FROM_THE_START = 10


@dataclass(frozen=True)
class Shard:
    """Every *count*-th row, beginning with row *index* (from 0)."""

    index: int
    count: int

    def __str__(self) -> str:
        """Return it as ``--shard`` has it."""
        return f"{self.index}/{self.count}"

    def __contains__(self, number: int) -> bool:
        """Tell whether the row of that *number* (from 1) is ours."""
        return (number - 1) % self.count == self.index


def parse_shard(text: str, environment: Mapping[str, str]) -> Shard:
    """Read ``I/N``, or ``auto`` or ``auto/N``, by a scheduler's variables. Raises ValueError."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    automatic = re.fullmatch(r"auto(?:/0*([1-9]\d*))?", text)
    if automatic is not None:
        return Shard(*find_share(environment, int(automatic[1]) if automatic[1] else None))
    if found is None or int(found[1]) >= int(found[2]):
        raise ValueError("a shard is I/N with I from 0 to N-1, or auto, or auto/N")
    return Shard(int(found[1]), int(found[2]))


@dataclass(frozen=True, eq=False, repr=False)
class Rules:
    """What to do with a row whose id was seen before."""

    on_change: str = "fail"
    allow_duplicates: bool = False
    shard: Shard | None = None
    id_prefix: str = ""
    """What the names of rows without an id begin with."""
    is_whole: bool = False
    """Whether a row that is not sent has a line of output all the same."""
    dedupe: bool = False
    """Whether rows that ask the same are asked for once."""


def select(
    records: Iterable[Record | BadRecord],
    done: Done,
    rules: Rules,
    tally: Tally,
    note_place: Callable[[bytes, int], None] | None = None,
    *,
    lines: Lines | None = None,
) -> Iterator[Record | BadRecord]:
    """Yield the rows that are to be run; the others are counted in *tally*.

    After a row that must not be run (its id came before, or what it asks has changed) none is
    yielded any more, but all are counted. *note_place* is told the key and the number of every
    row that may have a line of output, and the hashed id of one whose line has another key.
    Of the *lines* of an output those are counted that belong to no row.
    """
    sieve = _Sieve(done, rules, tally, lines)
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
        elif sieve.holds and rules.is_whole:
            yield sieve.explain(fresh)
    if lines is not None:
        tally.strays = max(0, len(lines) - sieve.known)


class _Sieve:
    """Judges row after row by those before it, and by what is done."""

    def __init__(self, done: Done, rules: Rules, tally: Tally, lines: Lines | None = None) -> None:
        self._done = done
        self._lines = lines
        self._rules = rules
        self._tally = tally
        self._ids, self._keys = HashSet(8), HashSet(16)
        self._repeats: dict[str, int] = {}
        self.known = 0
        """Rows that have one of the lines, by their key or id."""
        self.holds = False
        """Whether the last row is held back, for others have changed, or came twice."""

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
        if self._lines is not None and not is_refused:
            self.known += self._lines.hold(bytes.fromhex(record.key), hash_id(record.id))
        if rules.shard is not None and record.number not in rules.shard:
            return None
        tally.read += 1
        tally.odd_ids += not getattr(record, "named", False) and has_odd_id(record)
        if not is_refused:
            return record
        _count(tally.first_duplicates, record.id)
        tally.duplicates += 1
        if not rules.is_whole:
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
        self.holds = False
        if key in done.keys or name in done.elsewhere:
            self._skip(key, name, by_id=key not in done.keys)
            return False
        if name in done.ids and rules.on_change != "redo" and not rules.allow_duplicates:
            if rules.on_change == "keep":
                self._skip(key, name, by_id=True)
                return False
            _count(tally.first_changed, record.id)
            tally.changed += 1
        if tally.changed or (tally.duplicates and not rules.is_whole):
            tally.held += 1
            self.holds = True
            return False
        return True

    def explain(self, record: Record | BadRecord) -> BadRecord:
        """Say of a row that is held back why it is not asked."""
        return BadRecord(
            record.number,
            record.id,
            NOT_ASKED,
            f"not asked, for finished rows ask something else now ({self._tally.first_changed[0]})",
            record.key,
            record.row,
            record.carried,
            NOT_ASKED,
        )

    def rename(self, record: Record | BadRecord) -> Record | BadRecord:
        """Name a row without an id anew where a line that stays has the name of its place."""
        place = name_by_place(record.number, self._rules.id_prefix)
        if record.id != place or hash_id(record.id) not in self._done.ids:
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


def refuse_wrong_input(records: Iterator[Record | BadRecord]) -> Iterator[Record | BadRecord]:
    """Hold bad rows back until a good one has come: ten bad ones are a wrong file or option.

    Raises BadInput for that, before any request, and for an input of bad rows alone.
    """
    held: list[Record | BadRecord] = []
    bad: list[BadRecord] = []
    for record in records:
        held.append(record)
        if not isinstance(record, BadRecord):
            yield from held
            break
        bad += [record] if record.kind != NOT_ASKED else []
        if len(bad) == _WRONG_FROM_THE_START:
            raise _tell_wrong(bad)
    else:
        if bad:
            raise _tell_none_good(bad)
    yield from records


def condemn_wrong_input(
    records: Iterator[Record | BadRecord], tally: Tally
) -> Iterator[Record | BadRecord]:
    """Mark the tenth bad row before any good one, which shows a wrong file or option.

    All rows are yielded at once: who waits for a line before the next row gets one. Raises
    BadInput at the end of an input of bad rows alone.
    """
    bad: list[BadRecord] = []
    for record in records:
        is_good = not isinstance(record, BadRecord) or tally.skipped > 0
        if not isinstance(record, BadRecord) or is_good:
            yield record
            break
        bad += [record] if record.kind != NOT_ASKED else []
        is_enough = len(bad) == _WRONG_FROM_THE_START and bad[-1] is record
        yield replace(record, condemns=str(_tell_wrong(bad))) if is_enough else record
        if is_enough:
            break
    else:
        if bad and not tally.skipped:
            raise _tell_none_good(bad)
    yield from records


def _tell_wrong(bad: list[BadRecord]) -> BadInput:
    return BadInput(
        f"the first {len(bad)} rows are all bad (row {bad[0].number}: {bad[0].message}); "
        "is this the right file, or is --prompt, --lines or --csv missing?"
    )


def _tell_none_good(bad: list[BadRecord]) -> BadInput:
    none = "the only row cannot" if len(bad) == 1 else f"none of {len(bad)} rows can"
    return BadInput(f"{none} be sent (row {bad[0].number}: {bad[0].message})")


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
        if (place := hash_id(name_by_place(record.number, rules.id_prefix))) in done.ids:
            changes.places.add(place)
    return changes


def _count(names: list[str], name: str) -> None:
    if len(names) < _FEW:
        names.append(name)
