"""A JSON array of rows, read piece by piece: what is wrong with one row is its own error."""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from kimi_cli.batch.records import RecordError
from kimi_cli.errors import BadInput

_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|["\[\]{},]', re.DOTALL)
"""A whole string, or a sign that tells where a row ends; a lone quote is a string's beginning."""
_SIGN = re.compile(r"[^ \t\r\n]")
_BLOCK = 2**16
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_LINES = "make lines of it: jq -c . FILE | kimi batch …"


def read_array(
    file: BinaryIO,
    longest: int,
    note: Callable[[int, int], None],
    load: Callable[[str], Any],
) -> Iterator[Any]:
    """Yield the rows of the array that *file* holds, each parsed by *load*, or its RecordError.

    *note* is told the line where each ends, and its size. Raises BadInput for what is no array,
    for one that is cut, and for a row of more than *longest* bytes; UnicodeError.
    """
    text = _Text(file)
    if text.find_sign() != "[":
        raise BadInput(f"this is no JSON array; {_LINES}" if text.find_sign() else "this is empty")
    text.drop_sign()
    line, number = 1 + text.newlines, 0
    while True:
        number += 1
        end, row = text.take_row(number, longest)
        line += row.count("\n")
        note(line, len(row) + 1)
        if row.strip() or end == "," or number > 1:
            try:
                yield load(row)
            except ValueError as error:
                reason = str(error).partition(" (line ")[0].partition(": line ")[0]
                yield RecordError("invalid_json", f"row {number} is not JSON: {reason}")
        if end == "]":
            break
    if text.find_sign():
        raise BadInput(f"something follows the JSON array; {_LINES}")


class _Text:
    """The text of a file, of which no more is held than a row needs."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._text = ""
        self._at = 0
        """Where in it the next row begins."""
        self.newlines = 0
        """Before the last sign that was found."""

    def find_sign(self) -> str:
        """Pass over white space; return the sign behind it, empty at the end."""
        while True:
            found = _SIGN.search(self._text, self._at)
            end = len(self._text) if found is None else found.start()
            self.newlines += self._text.count("\n", self._at, end)
            self._at = end
            if found is not None:
                return found[0]
            if not self._grow(0):
                return ""

    def drop_sign(self) -> None:
        """Go on behind the sign that was found."""
        self._at += 1

    def take_row(self, number: int, longest: int) -> tuple[str, str]:
        """Return the sign that ends the next row, and the row; raises BadInput."""
        place, depth = self._at, 0
        while True:
            found = _TOKEN.search(self._text, place)
            if found is None or found[0] == '"':
                seen = (len(self._text) if found is None else found.start()) - self._at
                if (size := len(self._text) - self._at) > longest:
                    raise BadInput(f"row {number} is too long; see --max-line")
                if not self._grow(size):
                    raise BadInput(f"the JSON array is cut in its row {number}")
                place = self._at + seen
                continue
            sign, place = found[0], found.end()
            if depth == 0 and sign in (",", "]"):
                row, self._at = self._text[self._at : found.start()], place
                return sign, row
            depth += _STEPS.get(sign, 0)
            if depth < 0:
                raise BadInput(f"the JSON array breaks in row {number}: there is a lone '{sign}'")

    def _grow(self, least: int) -> bool:
        """Read on, *least* bytes where there are so many; False at the end. Raises UnicodeError."""
        data = self._file.read(max(_BLOCK, least))
        self._text = self._text[self._at :] + self._decoder.decode(data, final=not data)
        self._at = 0
        return bool(data)
