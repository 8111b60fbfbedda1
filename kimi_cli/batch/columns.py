"""Answers as a table: one flat object of scalars a line, the same keys in the same order, no null.

That is the one shape that readers of JSON Lines, which look at the first rows only, take for what
it is. The columns of the row itself are text: what is a number in one row is none in the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from kimi_cli.api import codec
from kimi_cli.batch.records import BadRecord, Record

OURS = (
    "custom_id",
    "row",
    "status",
    "content",
    "reasoning",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "cost",
    "error_code",
    "error",
    "attempts",
    "ms",
    "kimi",
    "carried",
)
"""The columns that every table has, those of the row behind them."""
_OURS = frozenset(OURS)
_SUFFIX = "_row"
"""Behind the name of a column that is ours but for its case: some readers know no case."""
_IDS = ("custom_id", "id")
_HELD = 10
"""Lines that cannot be read which wait for the first row that has columns."""


class Columns:
    """The columns that a table has besides ours: those of its first row."""

    def __init__(self, names: Iterable[str] | None = None) -> None:
        """Go on with a table that has these *names*; without, they are yet to be found."""
        self._names = None if names is None else list(names)
        self._places: dict[str, str | None] = {}

    def lay_out(self, records: Iterable[Record | BadRecord]) -> Iterator[Record | BadRecord]:
        """Yield *records* with the cells of their rows for what they carry."""
        held: list[Record | BadRecord] = []
        for record in records:
            is_unread = isinstance(record, BadRecord) and not record.row
            if self._names is None and is_unread and len(held) < _HELD:
                held.append(record)
                continue
            if self._names is None:
                self._names = _name_columns(_list_own(record))
            for waiting in (*held, record):
                yield replace(waiting, carried=self._fill(_list_own(waiting)))
            held.clear()
        self._names = self._names or []
        yield from (replace(waiting, carried=self._fill({})) for waiting in held)

    def _fill(self, own: dict[str, Any]) -> dict[str, str]:
        """Return the cells of a row; what has no column goes into one of ours."""
        cells = {"carried": "", **dict.fromkeys(self._names or (), "")}
        more = {}
        for key, value in own.items():
            if value is None:
                continue
            if (place := self._find_place(key)) is None:
                more[key] = value
            else:
                cells[place] = _write_cell(value)
        if more:
            cells["carried"] = codec.dumps(more)
        return cells

    def _find_place(self, key: str) -> str | None:
        if key not in self._places:
            names = self._names or []
            candidates = [key if key.lower() not in _OURS else f"{key}{_SUFFIX}"]
            candidates += [f"{candidates[0]}{_SUFFIX}"]
            self._places[key] = next((name for name in candidates if name in names), None)
        return self._places[key]


def _name_columns(own: dict[str, Any]) -> list[str]:
    """Return a name for each key: none is another's, or one of ours, but for its case."""
    taken, names = set(_OURS), []
    for key in own:
        name = key
        while name.lower() in taken:
            name += _SUFFIX
        taken.add(name.lower())
        names.append(name)
    return names


def _list_own(record: Record | BadRecord) -> dict[str, Any]:
    """Return what the row carries, without the id that has a column of ours."""
    return {
        key: value
        for key, value in record.carried.items()
        if not (key in _IDS and str(value) == record.id)
    }


def _write_cell(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value)


def read_columns(line: bytes) -> list[str] | None:
    """Return the columns of the row in a *line* of a table; None where it is none."""
    try:
        names = list(codec.loads(line))
    except ValueError:
        return None
    return names[len(OURS) :] if tuple(names[: len(OURS)]) == OURS else None
