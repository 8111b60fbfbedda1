"""How results stand in a file: a line of JSON each, or a row of a table under a header.

A layout says where one result ends and the next begins, and what the head of each says; so a
ledger knows what is done whatever it holds.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from kimi_cli.api import codec
from kimi_cli.batch.done import Mark, begins_line, read_mark


class Layout(Protocol):
    """How results stand in a file."""

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield what stands in *file*, each piece with its end; the last may have none."""

    def is_whole(self, piece: bytes) -> bool:
        """Tell whether a *piece* has its end."""

    def read_mark(self, piece: bytes) -> Mark | None:
        """Read the head of a *piece*; None where it is no result of ours."""

    def is_header(self, piece: bytes) -> bool:
        """Tell whether a *piece* that is no result belongs to the file all the same."""

    def find_torn(self, tail: bytes) -> int | None:
        """Return how many bytes of a last piece without its end are a whole result.

        None where it is no beginning of ours.
        """


def read_marks(file: BinaryIO, layout: Layout) -> Iterator[tuple[bytes, Mark | None]]:
    """Yield what is whole in *file*, but for its header, and what the head of each piece says."""
    for number, piece in enumerate(layout.split(file)):
        if not layout.is_whole(piece):
            return
        if number or not layout.is_header(piece):
            yield piece, layout.read_mark(piece)


class JsonLines:
    """One line of JSON for each result."""

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the lines."""
        return iter(file)

    def is_whole(self, piece: bytes) -> bool:
        """Look for the line feed."""
        return piece.endswith(b"\n")

    def read_mark(self, piece: bytes) -> Mark | None:
        """Read the beginning of a line."""
        return read_mark(piece)

    def is_header(self, piece: bytes) -> bool:
        """There is none."""
        return False

    def find_torn(self, tail: bytes) -> int | None:
        """Take a line that is JSON already for one that lacks its line feed."""
        if not begins_line(tail):
            return None
        try:
            codec.loads_exactly(tail)
        except ValueError:
            return 0
        return len(tail)


JSON_LINES = JsonLines()


@dataclass(frozen=True)
class TableRows:
    """One row of a table for each result, under a header; the last cell is its head."""

    delimiter: str
    ends: tuple[str, ...]
    """The names of the columns behind those of the input."""

    @property
    def quotes(self) -> bool:
        """Whether cells may be in quotes, and have line ends in them (RFC 4180)."""
        return self.delimiter == ","

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the rows: a line end between quotes ends none."""
        piece, quotes = b"", 0
        for line in file:
            piece += line
            quotes += line.count(b'"') if self.quotes else 0
            if quotes % 2 == 0:
                yield piece
                piece, quotes = b"", 0
        if piece:
            yield piece

    def is_whole(self, piece: bytes) -> bool:
        """Look for the line feed, and for an even number of quotes."""
        return piece.endswith(b"\n") and not (self.quotes and piece.count(b'"') % 2)

    def read_cells(self, piece: bytes) -> list[str]:
        """Return the cells of a row; none where it is none."""
        text = piece.decode("utf-8", "replace").removesuffix("\n")
        if not self.quotes:
            return text.split(self.delimiter)
        try:
            return next(csv.reader(io.StringIO(text, newline=""), strict=True), [])
        except csv.Error:
            return []

    def read_mark(self, piece: bytes) -> Mark | None:
        """Read the last cell."""
        cells = self.read_cells(piece)
        return read_mark(cells[-1].encode()) if cells else None

    def is_header(self, piece: bytes) -> bool:
        """Tell whether the columns are those that a run would write."""
        return self.find_columns(piece) is not None

    def find_columns(self, piece: bytes) -> list[str] | None:
        """Return the columns of the input that a header has; None for no header of ours."""
        names = self.read_cells(piece)
        columns = names[: len(names) - len(self.ends)]
        return columns if names and self.name_columns(columns) == names else None

    def name_columns(self, columns: Iterable[str]) -> list[str]:
        """Return the header: a column of ours whose name is taken gets another."""
        names = list(columns)
        for end in self.ends:
            while end in names:
                end = f"kimi_{end}"
            names.append(end)
        return names

    def find_torn(self, tail: bytes) -> int | None:
        """Take a row that has its head for one that lacks its line feed."""
        is_done = self.is_whole(tail + b"\n") and tail.endswith((b'}"', b"}"))
        return len(tail) if is_done and self.read_mark(tail) is not None else 0

    def encode(self, cells: Iterable[str]) -> str:
        """Return a row."""
        if not self.quotes:
            return self.delimiter.join(map(_flatten, cells)) + "\n"
        text = io.StringIO()
        csv.writer(text, lineterminator="\r\n").writerow(cells)  # so that it quotes either
        return text.getvalue().removesuffix("\r\n") + "\n"


_IN_WORDS = str.maketrans({"\t": "\\t", "\n": "\\n", "\r": "\\r"})


def _flatten(cell: str) -> str:
    """Return a cell of a table that has no quotes (IANA's text/tab-separated-values)."""
    return cell.translate(_IN_WORDS)
