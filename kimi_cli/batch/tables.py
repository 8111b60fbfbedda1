"""Results as a table: the columns of the input, what was answered, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from kimi_cli.answer.jsontext import Numeral, write_compactly
from kimi_cli.api import codec
from kimi_cli.api.text import mend_surrogates
from kimi_cli.batch.layouts import TableRows
from kimi_cli.batch.results import TABLES, Result, make_head

JSON = dict[str, Any]


class Table:
    """Encodes results as rows under a header, which comes once.

    Its columns are those of the first row of the input, or of the file that goes on.
    """

    def __init__(self, style: str, properties: tuple[str, ...], *, has_heads: bool) -> None:
        """Have a column for each of the *properties* of answers, or one for the answer.

        In a file that may go on each row *has* its *head*.
        """
        self._properties = properties
        self._has_heads = has_heads
        answers = properties or ("answer",)
        heads = ("kimi",) if has_heads else ()
        self.layout = TableRows(TABLES[style], (*answers, "finish_reason", "error", *heads))
        self._columns: list[str] | None = None
        self._has_begun = False

    def go_on(self, header: bytes) -> None:
        """Keep the columns of a file that has a *header*."""
        self._columns = self.layout.find_columns(header)
        self._has_begun = self._columns is not None

    def note(self, row: JSON) -> None:
        """Take the columns of the first row that has any."""
        if self._columns is None and row:
            self._columns = list(row)

    @property
    def header(self) -> bytes:
        """The header."""
        names = self.layout.name_columns(self._columns or [])
        return mend_surrogates(self.layout.encode(names)).encode()

    def begin(self) -> bytes:
        """Return the header the first time, and then nothing."""
        if self._has_begun:
            return b""
        self._has_begun = True
        return self.header

    def encode(self, results: Iterable[Result]) -> bytes:
        """Return one row for each of *results*."""
        text = "".join(self.layout.encode(self._list_cells(result)) for result in results)
        # A NUL would be taken for a hole, and is nothing that a table can hold.
        return mend_surrogates(text.replace("\0", "\ufffd")).encode()

    def _list_cells(self, result: Result) -> list[str]:
        row, finish = result.record.row, result.choice.get("finish_reason")
        cells = [_show(row.get(name)) for name in self._columns or []]
        if self._properties:
            cells += _show_properties(result, self._properties)
        else:
            texts = [fit.text for fit in result.fits] or result.contents
            cells.append(_show(texts if len(texts) > 1 else next(iter(texts), None)))
        cells += [_show(finish), self._tell_error(result)]
        return [*cells, codec.dumps(make_head(result))] if self._has_heads else cells

    def _tell_error(self, result: Result) -> str:
        if result.error is None:
            return ""
        told = f"{result.error['code']}: {result.error['message']}"
        if self._properties and result.is_invalid:
            return f"{told}; the answer was: {result.content}"
        return told


def _show(value: Any) -> str:
    """Return a value as a cell: text as it is, nothing for null, all else as JSON."""
    if isinstance(value, str):
        return str(value)
    return "" if value is None else write_compactly(value)


def _show_properties(result: Result, names: tuple[str, ...]) -> list[str]:
    """Return a cell for each property, digit for digit; of several answers a list of each."""
    values = [
        json.loads(fit.written, parse_float=Numeral, parse_int=Numeral) for fit in result.fits
    ]
    if len(values) > 1:
        return [_show([value.get(name) for value in values]) for name in names]
    return [_show(value.get(name)) for name in names for value in values or [{}]]
