"""Rows that ask the same: one of them is asked for, and its answer is that of all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from kimi_cli.answer.forms import Fit, Misfit
from kimi_cli.batch.done import read_asks
from kimi_cli.batch.records import NOT_ASKED, Record
from kimi_cli.batch.results import Result, encode_results, read_result
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import OutputFailed

_MOST_WAITING = 4096
"""Rows that may wait for others before no more are taken from the input."""
_STORED = "batch"


class Answers:
    """Lines of answers in a file, found by what they answer: a place in it for each."""

    def __init__(self, file: BinaryIO, style: str, places: dict[bytes, int]) -> None:
        """Find lines in *file*, at the *places* that are known by what was asked.

        They are in the format *style*.
        """
        self._file = file
        self.style = style
        self._places = places

    def keep(self, asks: str, line: bytes) -> None:
        """Append a *line*; raises OSError."""
        place = self._file.seek(0, 2)
        self._file.write(line)
        self._places[bytes.fromhex(asks)] = place

    def close(self) -> None:
        """Let the file go."""
        self._file.close()

    def find(self, asks: str) -> bytes | None:
        """Return the line that answers what a row *asks*."""
        place = self._places.get(bytes.fromhex(asks))
        if place is None:
            return None
        self._file.seek(place)
        return self._file.readline()


def index_answers(file: BinaryIO, style: str) -> Answers:
    """Find what the lines of an output answer, errors left out."""
    places: dict[bytes, int] = {}
    start = 0
    for line in file:
        if (asks := read_asks(line)) is not None:
            places[asks] = start
        start += len(line)
    return Answers(file, style, places)


class TwinSink:
    """Gives results on, and after each those of the rows that ask the same."""

    def __init__(
        self,
        sink: Sink,
        tally: Tally,
        *,
        earlier: Answers | None,
        read: Callable[[str], Fit] | None,
    ) -> None:
        """Give results to *sink*, and count in *tally*.

        What *earlier* runs have answered is taken from their lines; *read* reads answers that must
        have a form.
        """
        self._sink = sink
        self.defers = sink.defers
        self._tally = tally
        self._read = read
        self._stores = [] if earlier is None else [earlier]
        self._kept: Answers | None = None
        self._waiting: dict[str, list[Record]] = {}
        self.waiting = 0
        self._allows_any = False

    def expect(self, number: int) -> None:
        """Let the sink below know."""
        self._sink.expect(number)

    def answer(self, record: Record) -> bool:
        """Write the row's answer, or have it wait, where another row asks the same.

        Raises what ``write`` raises.
        """
        if (others := self._waiting.get(record.asks)) is not None:
            others.append(record)
            self.waiting += 1
            return True
        for store in self._stores:
            if (copy := self._copy_from(store, record)) is not None:
                self._count(copy)
                self._sink.write([copy])
                return True
        self._waiting[record.asks] = []
        return False

    def write(self, results: list[Result]) -> None:
        """Write *results*, and those of the rows that waited for them; raises OutputFailed."""
        whole = []
        for result in results:
            whole.append(_mark(result))
            copies = list(self._release(result))
            for copy in copies:
                self._count(copy)
            whole += copies
            self._keep(result)
        self._sink.write(whole)

    def emit(self, lines: bytes) -> None:
        """Give *lines* on as they are."""
        self._sink.emit(lines)

    def defer(self, result: Result) -> None:
        """Leave all rows that ask the same to the next run."""
        self._sink.defer(result)
        for copy in self._release(result):
            self._tally.deferred += 1
            self._tally.same += 1
            self._sink.defer(copy)

    def spare(self, result: Result) -> None:
        """The same for a row that is not to blame."""
        self._sink.spare(result)
        for copy in self._release(result):
            self._tally.deferred += 1
            self._tally.same += 1
            self._sink.spare(copy)

    def find_block(self) -> str | None:
        """Name what too many rows wait for."""
        if self.waiting <= _MOST_WAITING:
            return self._sink.find_block()
        return "answers that many rows wait for"

    def settle(self) -> str | None:
        """Let the sink below do so."""
        return self._sink.settle()

    def close(self) -> None:
        """Let the sink below finish; who still waits has no line."""
        if self._kept is not None:
            self._kept.close()
        self._sink.close()

    def _release(self, result: Result) -> Iterator[Result]:
        """Yield what a result is to the rows that waited for it."""
        record = result.record
        others = self._waiting.pop(record.asks, []) if isinstance(record, Record) else []
        self.waiting -= len(others)
        for other in others:
            yield _copy(result, other, record.id)

    def _keep(self, result: Result) -> None:
        """Keep a result for rows that are still to come; raises OutputFailed."""
        record = result.record
        if not isinstance(record, Record):
            return
        self._allows_any = result.is_allowed
        try:
            if self._kept is None:
                self._kept = Answers(tempfile.TemporaryFile(), _STORED, {})  # noqa: SIM115 - for the run
                self._stores.insert(0, self._kept)
            self._kept.keep(record.asks, encode_results([result], _STORED))
        except OSError as error:
            folder = tempfile.gettempdir()
            raise OutputFailed(f"cannot write to {folder}: {error.strerror}") from error

    def _copy_from(self, store: Answers, record: Record) -> Result | None:
        """Return the answer of a row in *store* as that of *record*; None where it has none."""
        line = store.find(record.asks)
        told = None if line is None else read_result(line, store.style, record)
        if told is None:
            return None
        result, name = told
        if self._read is not None and result.lack is None and result.error is None:
            try:
                result = replace(
                    result, fits=tuple(self._read(text or "") for text in result.contents)
                )
            except Misfit:
                return None
        return _copy(replace(result, is_allowed=self._allows_any), record, name)

    def _count(self, copy: Result) -> None:
        """Count a row that was not asked for."""
        tally = self._tally
        tally.same += 1
        was_asked = copy.error is None or copy.error["class"] != NOT_ASKED
        tally.not_asked += not was_asked
        tally.failed += was_asked and copy.error is not None
        tally.invalid += copy.is_invalid
        tally.answered += copy.error is None
        tally.incomplete += copy.lack is not None


def _mark(result: Result, **more: str) -> Result:
    """Have the line say what was asked, for later runs."""
    record = result.record
    return (
        replace(result, more={"asks": record.asks, **more})
        if isinstance(record, Record)
        else result
    )


def _copy(result: Result, record: Record, name: str) -> Result:
    """Return the *result* of the row called *name* as that of *record*."""
    copy = replace(result, record=record, cost=None, attempts=0, milliseconds=0, replaces=())
    return _mark(copy, same_as=name)
