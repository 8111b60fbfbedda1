"""Where results go: a ledger, or standard output; in order of completion, or of the input."""

from __future__ import annotations

import os
import select
import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, Protocol

from kimi_cli.batch.done import Stale, hash_id
from kimi_cli.batch.ledger import Ledger, find_succeeded
from kimi_cli.batch.records import Record
from kimi_cli.batch.results import Encoder, Result, encode_results
from kimi_cli.errors import OutputClosed, OutputFailed
from kimi_cli.system.terminal import write_whole

_WINDOW_BYTES = 64 * 2**20


class Sink(Protocol):
    """Takes finished results."""

    defers: bool
    """Whether rows whose attempts ran out are listed apart, for the next run."""

    def expect(self, number: int) -> None:
        """Note that the row of that *number* is now being asked for."""

    @property
    def waiting(self) -> int:
        """How many rows wait for the answer of another."""

    def answer(self, record: Record) -> bool:
        """Answer the row, now or later, as another that asks the same; tell whether it is done."""

    def write(self, results: list[Result]) -> None:
        """Write *results* before returning."""

    def emit(self, lines: bytes) -> None:
        """Write whole *lines* of results before returning."""

    def defer(self, result: Result) -> None:
        """Take a row whose attempts ran out."""

    def spare(self, result: Result) -> None:
        """Take a row that is no more to blame for the end of the run than any other."""

    def find_block(self) -> str | None:
        """Say what must come before more rows may be asked for; None when they may."""

    def settle(self) -> str | None:
        """Bring what was written to disk when it is time; called a few times a second.

        Return what happened to the output so that nothing more may be bought.
        """

    def close(self) -> None:
        """Finish, after the last result."""


def name_errors(output: Path) -> Path:
    """Return the file beside *output* that lists the rows to be tried again."""
    return output.with_name(output.name + ".errors")


def _begin(format: str | Encoder) -> bytes:
    """Return what must stand before the lines that are written now."""
    return b"" if isinstance(format, str) else format.begin()


class LedgerSink:
    """Lines in a file are final; rows to be tried again are listed beside it."""

    waiting = 0

    def __init__(
        self,
        ledger: Ledger,
        format: str | Encoder,
        *,
        defer: bool = True,
        stale: Stale | None = None,
        shard: str | None = None,
    ) -> None:
        """Append to *ledger* in the format *format*; without *defer* errors are final, too.

        Lines say that they are of *shard*.

        Lines that are *stale* leave when those that take their places are there.
        """
        self._ledger = ledger
        self._shard = shard
        self._stale = stale
        self._has_succeeded = False
        self.defers = defer
        self._format = format
        self._errors = name_errors(ledger.path)
        self._list: BinaryIO | None = None

    def expect(self, number: int) -> None:
        """Any order will do."""

    def answer(self, record: Record) -> bool:
        """Nothing: each row is asked for."""
        return False

    def write(self, results: list[Result]) -> None:
        """Append one line a result."""
        if self._shard is not None:
            results = [replace(result, shard=self._shard) for result in results]
        if self._stale is not None:
            results = [self._mark(result, self._stale) for result in results]
        self.emit(encode_results(results, self._format))

    def _mark(self, result: Result, stale: Stale) -> Result:
        """Name the lines whose places the line of *result* takes."""
        keys = {key.hex() for key in stale.find(result.record.id)}
        self._has_succeeded = self._has_succeeded or bool(keys)
        return replace(result, replaces=tuple(sorted(keys - {result.record.key})))

    def emit(self, lines: bytes) -> None:
        """Append *lines*."""
        self._ledger.append(_begin(self._format) + lines)

    def defer(self, result: Result) -> None:
        """List the row in the errors file, which begins anew with the first.

        Raises OutputFailed.
        """
        if not self.defers:
            self.write([result])
            return
        try:
            if self._list is None:
                self._list = self._begin_list()
                if not isinstance(self._format, str):
                    write_whole(self._list.fileno(), self._format.header)
            write_whole(self._list.fileno(), encode_results([result], self._format))
        except OSError as error:
            raise OutputFailed(f"cannot write {self._errors}: {error.strerror}") from error

    def _begin_list(self) -> BinaryIO:
        """Make the errors file anew, as private as the output: it has prompts in it as well."""
        self._errors.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(self._errors, flags, 0o600)
        os.fchmod(descriptor, self._ledger.mode)
        return open(descriptor, "wb", buffering=0)

    def spare(self, result: Result) -> None:
        """List the row as one to be tried again; where lines are final, it has none."""
        if self.defers:
            self.defer(result)

    def find_block(self) -> str | None:
        """Nothing: no result is held back."""
        return None

    def settle(self) -> str | None:
        """Force lines to disk, at most once a second, and look whether the file is still ours."""
        return self._ledger.settle()

    def close(self) -> None:
        """Take out lines that have a successor; close the errors file, or remove an earlier one.

        Raises OutputFailed, also when somebody took the output away.
        """
        self._ledger.check()
        if self._has_succeeded:
            self._ledger.drop(find_succeeded)
        try:
            if self._list is not None:
                self._list.close()
            else:
                self._errors.unlink(missing_ok=True)
        except OSError as error:
            raise OutputFailed(f"cannot write {self._errors}: {error.strerror}") from error


class StdoutSink:
    """One line a row, whatever became of it, so that pipes stay aligned."""

    defers = False
    waiting = 0

    def __init__(self, write: Callable[[str], None], format: str | Encoder) -> None:
        """Write through *write*, which reports a reader that left."""
        self._write = write
        self._format = format

    def expect(self, number: int) -> None:
        """Any order will do."""

    def answer(self, record: Record) -> bool:
        """Nothing: each row is asked for."""
        return False

    def write(self, results: list[Result]) -> None:
        """Write one line a result."""
        self.emit(encode_results(results, self._format))

    def emit(self, lines: bytes) -> None:
        """Write *lines*."""
        self._write((_begin(self._format) + lines).decode())

    def defer(self, result: Result) -> None:
        """Write the error: on a pipe there is no later."""
        self.write([result])

    def spare(self, result: Result) -> None:
        """Write the error: every row has its line."""
        self.write([result])

    def find_block(self) -> str | None:
        """Nothing, as long as there is a reader; raises OutputClosed at once when it has left."""
        poll = select.poll()
        poll.register(1, select.POLLERR)
        if any(event & select.POLLERR for _, event in poll.poll(0)):
            raise OutputClosed
        return None

    def settle(self) -> str | None:
        """Nothing: a pipe has no disk."""
        return None

    def close(self) -> None:
        """Nothing is held back."""


class OrderedSink:
    """Gives results on in the order in which their rows were admitted, from a bounded window."""

    waiting = 0

    def __init__(self, sink: Sink, rows: int, format: str | Encoder) -> None:
        """Hold at most *rows* results in the format *format*, and 64 MiB of them."""
        self._sink = sink
        self.defers = sink.defers
        self._rows = rows
        self._format = format
        self._expected: dict[int, bytes | None] = {}
        self._bytes = 0

    def expect(self, number: int) -> None:
        """Note that the row of that *number* comes next."""
        self._expected[number] = None

    def answer(self, record: Record) -> bool:
        """Nothing: each row is asked for."""
        return False

    def write(self, results: list[Result]) -> None:
        """Hold *results*, and give on whatever is now at the front."""
        for result in results:
            self._hold(result.record.number, encode_results([result], self._format))
        self._release()

    def emit(self, lines: bytes) -> None:
        """Give *lines* on as they are."""
        self._sink.emit(lines)

    def defer(self, result: Result) -> None:
        """Give an error its place in the order, too; nobody waits for one that has no line."""
        if not self.defers:
            self.write([result])
            return
        self._sink.defer(result)
        self._expected.pop(result.record.number, None)
        self._release()

    def spare(self, result: Result) -> None:
        """Give it the place of an error."""
        self.defer(result)

    def find_block(self) -> str | None:
        """Name the row that the full window waits for."""
        if len(self._expected) < self._rows and self._bytes < _WINDOW_BYTES:
            return self._sink.find_block()
        return f"row {next(iter(self._expected))}, the first in order"

    def settle(self) -> str | None:
        """Let the sink below do so."""
        return self._sink.settle()

    def close(self) -> None:
        """Give on what is left, in order, when a run was stopped."""
        self._expected = {n: lines for n, lines in self._expected.items() if lines is not None}
        self._release()
        self._sink.close()

    def _hold(self, number: int, lines: bytes) -> None:
        self._expected[number] = lines
        self._bytes += len(lines)

    def _release(self) -> None:
        ready = []
        while self._expected:
            number, first = next(iter(self._expected.items()))
            if first is None:
                break
            del self._expected[number]
            self._bytes -= len(first)
            ready.append(first)
        if ready:
            self._sink.emit(b"".join(ready))


class Places:
    """Where in the input the rows stand, by key: 12 bytes a row."""

    def __init__(self) -> None:
        """Start empty."""
        self._keys, self._numbers = array("Q"), array("L")
        self._order: list[int] | None = None

    def note(self, key: bytes, number: int) -> None:
        """Remember that the row of *key* has that *number*."""
        self._keys.append(int.from_bytes(key[:8], "big"))
        self._numbers.append(number)

    def find(self, key: bytes) -> int:
        """Return the number of the row, or one beyond all for a row that has gone."""
        if self._order is None:
            self._order = sorted(range(len(self._keys)), key=self._keys.__getitem__)
        wanted = int.from_bytes(key[:8], "big")
        place = bisect_left(self._order, wanted, key=self._keys.__getitem__)
        if place == len(self._order) or self._keys[self._order[place]] != wanted:
            return sys.maxsize
        return self._numbers[self._order[place]]


def _find_place(places: Places, name: str, key: bytes) -> int:
    """Look by the key first; a row that asks something else now is known by its id."""
    place = places.find(key)
    return place if place < sys.maxsize else places.find(hash_id(name))


def sort_by_place(ledger: Ledger, places: Places) -> None:
    """Rewrite a finished output in the order of the input. Raises OutputFailed."""
    try:
        _sort(ledger, places)
    except OutputFailed as error:
        raise OutputFailed(f"{error}; every row is there, but they are not in order") from error


def _sort(ledger: Ledger, places: Places) -> None:
    with ledger.rewriting() as (file, new):
        lines = array("Q")
        numbers = array("Q")
        start = 0
        for line in ledger.layout.split(file):
            lines.append(start)
            mark = ledger.layout.read_mark(line)  # the ledger has looked at every line
            numbers.append(0 if mark is None else _find_place(places, mark.name, mark.key))
            start += len(line)
        lines.append(start)
        for index in sorted(range(len(numbers)), key=numbers.__getitem__):
            file.seek(lines[index])
            new.write(file.read(lines[index + 1] - lines[index]))
