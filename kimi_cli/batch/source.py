"""The input: files or standard input, one after the other, as rows."""

from __future__ import annotations

import codecs
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BufferedReader
from pathlib import Path
from stat import S_ISFIFO, S_ISREG
from typing import Any, BinaryIO

from kimi_cli.batch.arrays import read_array
from kimi_cli.batch.readers import (
    TableLines,
    load_row,
    read_jsonl,
    read_lines,
    read_table,
    refuse_document,
    split_lines,
)
from kimi_cli.batch.recoding import Recoder
from kimi_cli.batch.records import RecordError
from kimi_cli.batch.unpacking import is_packed, unpack
from kimi_cli.errors import BadInput, MissingInput
from kimi_cli.prompt.kinds import find_kind
from kimi_cli.system.stdin import open_stdin, wait_for_input

STDIN = "-"
UTF8 = "utf-8"
_HINT_AFTER = 2.0


class Source:
    """The rows of several files. It can be read once, or again where all are regular files."""

    def __init__(
        self,
        paths: Sequence[str],
        kind: str,
        *,
        longest: int,
        encoding: str = UTF8,
        delimiter: str | None = None,
        notify: Callable[[str], None] = lambda message: None,
        keeps_blank: bool = False,
    ) -> None:
        """Name the files ("-" is standard input); *kind* is a key of ``KINDS``, and
        *delimiter* parts the cells of a table that has another than its kind's.

        Blank lines are no rows, but where it *keeps_blank* lines each is yielded as an error.
        ``read_bytes`` tells how much has been read so far. *notify* is told where standard input
        keeps a run waiting from the start.

        Raises MissingInput for a file that cannot be read, before anything is done. A named pipe
        is opened once only, when its turn comes: its writer would not come back.
        """
        self._paths = list(paths) or [STDIN]
        self._read = KINDS[kind]
        self._longest = longest
        self._encoding = encoding
        self.delimiter = delimiter
        self._notify = notify
        self._keeps_blank = keeps_blank
        self._is_packed = False
        self.read_bytes = 0
        self._line = 0
        self._path = STDIN
        """The file that is being read."""
        self.stats: list[os.stat_result] = []
        for path in self._paths:
            if path != STDIN and _is_pipe(path):
                self.stats.append(os.stat(path))
                continue
            with _open(path) as file:
                self.stats.append(os.fstat(file.fileno()))
                if path != STDIN and S_ISREG(self.stats[-1].st_mode):
                    self._is_packed |= is_packed(file.peek(8)[:8])

    def holds(self, stat: os.stat_result) -> bool:
        """Tell whether the file of *stat* is a part of the input."""
        return any(os.path.samestat(stat, ours) for ours in self.stats)

    def is_stdout(self) -> bool:
        """Tell whether standard output is a file of the input: it would never end."""
        stat = os.fstat(1)
        return S_ISREG(stat.st_mode) and self.holds(stat)

    @property
    def is_lasting(self) -> bool:
        """Whether the input can be read again."""
        return STDIN not in self._paths and all(S_ISREG(stat.st_mode) for stat in self.stats)

    @property
    def targets(self) -> Mapping[str, Path]:
        """The file that the answer to each row goes to, by the row's path; none here."""
        return {}

    @property
    def total_bytes(self) -> int | None:
        """The size of the input in bytes, where it is known."""
        if not self.is_lasting or self._is_packed or self._encoding != UTF8:
            return None
        return sum(stat.st_size for stat in self.stats)

    def iterate(self) -> Iterator[Any]:
        """Yield every row, parsed; what is wrong with a row is yielded as its RecordError.

        Raises BadInput for a file of another encoding, MissingInput when reading fails.
        """
        self.read_bytes = 0
        for path in self._paths:
            with _open(path) as file:
                self._line, self._path = 0, path
                try:
                    if path == STDIN:
                        self._await_stdin()
                    for row in self._read(self._decode(file), self):
                        if isinstance(row, RecordError):
                            row = RecordError(row.code, f"{path}:{self._line}: {row}")
                        yield row
                except BadInput as error:
                    raise BadInput(f"{path}: {error}") from error
                except UnicodeError as error:
                    name = self._encoding.upper()
                    raise BadInput(f"{path} is not {name}; see --encoding") from error
                except OSError as error:
                    raise MissingInput(f"cannot read {path}: {error.strerror}") from error

    def locate(self, name: str) -> str:
        """Return the path of a file that a row calls *name*: it lies beside the row's own."""
        folder = "" if self._path == STDIN else os.path.dirname(self._path)
        return os.path.join(folder, name)

    def _await_stdin(self) -> None:
        """Say that nothing has come yet: a job may have a pipe that nobody writes to."""
        try:
            wait_for_input(0, _HINT_AFTER)
        except TimeoutError:
            self._notify("waiting for rows on standard input; name a FILE to read that")

    def _decode(self, file: BufferedReader) -> BufferedReader:
        """Return *file* as UTF-8, unpacked; raises BadInput for what is no text."""
        file = unpack(file)
        beginning = file.peek()
        if (kind := find_kind(beginning)) is not None:
            advice = kind.advise("FILE", "batch")
            if kind.media_type is not None:
                advice = "rows name their images in a field; see --image-field"
            raise BadInput(f"this is {kind.name}, not lines of text; {advice}")
        if self._encoding != UTF8:
            return BufferedReader(Recoder(file, self._encoding))
        if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise BadInput("this is UTF-16, not UTF-8; give --encoding utf-16")
        return file

    def split(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the lines of *file*."""
        for number, line in split_lines(file, self._longest, keeps_blank=self._keeps_blank):
            self._note(number, len(line) + 1)
            yield line

    def split_table(self, file: BinaryIO, *, quotes: bool = True) -> TableLines:
        """Return the lines of *file* for a table, whose cells may be in *quotes*."""
        return TableLines(
            file, self._longest, self._note, quotes=quotes, keeps_blank=self._keeps_blank
        )

    def split_array(self, file: BinaryIO) -> Iterator[Any]:
        """Yield the rows of the JSON array that *file* is."""
        return read_array(file, self._longest, self._note, load_row)

    def _note(self, number: int, size: int) -> None:
        self._line = number
        self.read_bytes += size


def _is_pipe(path: str) -> bool:
    try:
        return S_ISFIFO(os.stat(path).st_mode)
    except OSError:
        return False  # opening it will say what is wrong


def _open(path: str) -> BufferedReader:
    if path == STDIN:
        if sys.stdin is None:
            raise MissingInput("standard input is closed")
        return open_stdin()
    try:
        return open(path, "rb")
    except OSError as error:
        raise MissingInput(f"cannot read {path}: {error.strerror}") from error


def _read_jsonl(file: BufferedReader, source: Source) -> Iterator[Any]:
    refuse_document(file.peek())
    return read_jsonl(source.split(file))


Reader = Callable[[BufferedReader, Source], Iterator[Any]]

KINDS: dict[str, Reader] = {
    "jsonl": _read_jsonl,
    "lines": lambda file, source: read_lines(source.split(file)),
    "csv": lambda file, source: read_table(source.split_table(file), source.delimiter or ","),
    "tsv": lambda file, source: read_table(source.split_table(file, quotes=False), "\t"),
    "json": lambda file, source: source.split_array(file),
}
"""The kinds of input by name."""

TABLES = frozenset({"csv", "tsv"})
"""Those whose rows have cells of text."""
