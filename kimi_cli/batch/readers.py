"""Bytes become rows: JSON Lines, lines of text, tables. What is wrong with one is its own error."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

import jsonlines

from kimi_cli.api import codec
from kimi_cli.batch.records import BLANK, JSON, RecordError
from kimi_cli.errors import BadInput

_LONG_NUMBER = r"[0-9]{19}"
OVERSIZE = b"\0 too long \0"
"""Stands for a line that is too long; no line of JSON or text is that."""
_TOO_LONG = ("too_long", "the line is too long; see --max-line")
_BLANK = (BLANK, "the line is blank")
_BOM = b"\xef\xbb\xbf"
_BLOCK = 2**20


def refuse_document(beginning: bytes) -> None:
    """Raise BadInput where a file begins as one document of JSON, and not as a line of it."""
    line, _, rest = beginning.removeprefix(_BOM).lstrip().partition(b"\n")
    line = line.strip()
    if line.startswith(b"[") and (line == b"[" or line.endswith((b",", b"{")) or _lists_rows(line)):
        raise BadInput("this is a JSON array, not JSON Lines; say --from json")
    if line.startswith(b"{") and rest.strip() and _goes_on(line, rest):
        raise BadInput("this is JSON over several lines, not JSON Lines; mend it: jq -c .")


def _goes_on(line: bytes, rest: bytes) -> bool:
    """Tell whether the object that a *line* begins ends in a later one."""
    if line == b"{":
        return True
    if _find_end(line.decode(errors="replace")) is not None:
        return False
    end = _find_end((line + b"\n" + rest).decode(errors="replace"))
    return end is not None or line.endswith((b",", b"{", b"["))


def _find_end(text: str) -> int | None:
    """Return where the JSON value ends that *text* begins with; None where it does not."""
    try:
        codec.bound_depth(text)
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return None


def _lists_rows(line: bytes) -> bool:
    """Tell whether an array, or its beginning, holds rows; an array of messages is a row."""
    text = line[1:].decode(errors="replace").lstrip()
    try:
        first, _ = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(first, (str, list)) or (isinstance(first, dict) and "role" not in first)


def read_jsonl(lines: Iterable[bytes]) -> Iterator[Any]:
    """Parse JSON Lines; a bad line is yielded as its RecordError, and reading goes on.

    jsonlines' own iterator is dead after the first bad line, so each line is asked for.
    """
    reader = jsonlines.Reader(lines, loads=load_row)
    while True:
        try:
            yield reader.read(allow_none=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            if error.line in ("", OVERSIZE.decode()):
                yield RecordError(*(_TOO_LONG if error.line else _BLANK))
                continue
            reason = str(error.__cause__ or error).partition(" (line ")[0]
            line = str(error.line).strip()
            if (_find_end(line) or len(line)) < len(line):
                reason = "it holds several values; give each a line: jq -c ."
            yield RecordError("invalid_json", f"the line is not JSON: {reason}")


def load_row(text: str | bytes) -> Any:
    """Parse one line; what is nested too deeply to be written again raises ValueError."""
    line = text if isinstance(text, str) else text.decode()
    # orjson makes a float of a whole number beyond 64 bits: an id would lose its last digits.
    return codec.loads_exactly(line) if re.search(_LONG_NUMBER, line) else codec.loads(line)


def read_lines(lines: Iterable[bytes]) -> Iterator[Any]:
    """Take each line as a prompt."""
    for line in lines:
        if line in (b"", OVERSIZE):
            yield RecordError(*(_TOO_LONG if line else _BLANK))
            continue
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield RecordError("invalid_text", f"the line is not UTF-8 at byte {error.start}")


def read_table(lines: TableLines, delimiter: str) -> Iterator[Any]:
    """Read CSV rows by header; what is wrong with one row is that row's error.

    Raises BadInput for a header that is none.
    """
    import csv  # noqa: PLC0415 - most inputs are JSON Lines

    csv.field_size_limit(2**31 - 1)
    if lines.quotes:
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
    else:
        rows = csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE, strict=True)
    try:
        names = _check_header(next(filter(None, rows), []))
    except (csv.Error, RecordError) as error:
        raise BadInput(f"line {lines.number}: the header is not CSV: {error}") from error
    while True:
        lines.begin_row()
        try:
            if cells := next(rows):
                yield _name_cells(cells, names)
            elif lines.keeps_blank:
                yield RecordError(*_BLANK)
        except StopIteration:
            return
        except RecordError as error:
            yield error
        except csv.Error as error:
            yield RecordError("bad_row", f"the row is not CSV: {error}")


def _check_header(names: list[str]) -> list[str]:
    named = list(filter(str.strip, names))
    if len(set(named)) < len(named):
        raise BadInput(f"the header names a column twice: {', '.join(named)}")
    if any(map(_has_stray_bytes, names)):
        raise BadInput("the header is not UTF-8")
    return names


def _name_cells(cells: list[str], names: list[str]) -> JSON:
    if len(cells) != len(names):
        raise RecordError("bad_row", "the row has not the header's columns")
    if any(map(_has_stray_bytes, cells)):
        raise RecordError("invalid_text", "the row is not UTF-8")
    # A column without a name is nobody's: spreadsheets and data frames leave some behind.
    return {name: cell for name, cell in zip(names, cells, strict=True) if name.strip()}


def _has_stray_bytes(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


class TableLines:
    """The lines of a table as csv wants them: text with its ends, and with bytes that are none."""

    def __init__(
        self,
        file: BinaryIO,
        longest: int,
        note: Callable[[int, int], None],
        *,
        quotes: bool = True,
        keeps_blank: bool = False,
    ) -> None:
        """Read *file*, whose rows may have *longest* bytes; *note* is told of each line.

        *keeps_blank* says whether blank lines count.

        Without *quotes* a row is a line, and a quote is a letter (IANA's
        text/tab-separated-values).
        """
        self.quotes = quotes
        self.keeps_blank = keeps_blank
        self._file = file
        self._longest = longest
        self._note = note
        self.number = 0
        """Of the line that was read last, from 1."""
        self._has_ended = True
        self.begin_row()

    def begin_row(self) -> None:
        """Take the next line as the first of a row."""
        self._size = self._quotes = 0

    def __iter__(self) -> TableLines:
        """Return itself: after an error it goes on, which a generator would not."""
        return self

    def __next__(self) -> str:
        """Return the next line; a row that is too long is passed over, and raises RecordError."""
        line = self._read(self._longest - self._size + 1)
        if not line:
            raise StopIteration
        if self._size > self._longest:
            while line and (self._quotes % 2 or not self._has_ended):
                line = self._read(_BLOCK)
            raise RecordError(*_TOO_LONG)
        if self.number == 1:
            line = line.removeprefix(_BOM)
        return line.decode("utf-8", "surrogateescape")

    def _read(self, most: int) -> bytes:
        line = self._file.readline(most)
        if line:
            self.number += self._has_ended
            self._has_ended = line.endswith(b"\n")
            self._size += len(line)
            self._quotes += line.count(b'"') if self.quotes else 0
            self._note(self.number, len(line))
        return line


def split_lines(
    file: BinaryIO, longest: int, *, keeps_blank: bool = False
) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines of *file*, without their ends.

    Blank ones are left out, or where it *keeps_blank* ones are b"".

    Bytes are split at LF only: U+2028 and its like are legal inside a JSON string. OVERSIZE
    stands for a line longer than *longest* bytes, whose rest is never held.
    """
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            while line and not line.endswith(b"\n"):
                line = file.readline(_BLOCK)
            yield number, OVERSIZE
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        line = line.rstrip(b"\r\n")
        if line and not line.isspace():
            yield number, line
        elif keeps_blank:
            yield number, b""
