"""One call of ``kimi batch``, from its options to its tally.

A campaign is the whole: a source of rows, the shape that makes records of them, the rules that
choose among records, an output. It launches a run (``batch.run``), which has a plan: how what was
chosen is asked for. Records and runs know nothing of files, campaigns nothing of hosts.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from kimi_cli.batch.columns import Columns, read_columns
from kimi_cli.batch.done import INVALID, Done, Mark, Stale
from kimi_cli.batch.earlier import read_done
from kimi_cli.batch.folders import FolderSink
from kimi_cli.batch.layouts import JSON_LINES
from kimi_cli.batch.ledger import Ledger, find_lines, read_output
from kimi_cli.batch.records import NOT_ASKED, BadRecord, Record, Shape, read_records
from kimi_cli.batch.results import FORMATS, Encoder, name_format
from kimi_cli.batch.run import Front, Launch
from kimi_cli.batch.selection import (
    Changes,
    Rules,
    condemn_wrong_input,
    find_changes,
    refuse_wrong_input,
    select,
)
from kimi_cli.batch.sinks import (
    LedgerSink,
    OrderedSink,
    Places,
    Sink,
    StdoutSink,
    name_errors,
    sort_by_place,
)
from kimi_cli.batch.source import Source
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import BadInput, CannotCreate, MissingInput, OutputFailed, Terminated

if TYPE_CHECKING:
    from kimi_cli.batch.tables import Table

_WINDOW_ROWS = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Campaign:
    """What is to be done: the input, its shape, the output, and the rules between them."""

    source: Source
    shape: Shape
    rules: Rules
    format: str = "batch"
    output: Path | None = None
    on_error: str = "write"
    ordered: bool = False
    retry_failed: str = "none"
    done_from: tuple[str, ...] = ()
    fsync: str = "interval"
    summary: Path | None = None
    tally: Tally = field(default_factory=Tally)

    @property
    def looks_back(self) -> bool:
        """Whether earlier outputs say what is done."""
        return self.output is not None or bool(self.done_from)

    def read_all(self) -> Iterator[Record | BadRecord]:
        """Yield every record of the input; raises BadInput when it is a wrong file."""
        return refuse_wrong_input(read_records(self.source.iterate(), self.shape))

    def rehearse(self, notify: Callable[[str], None]) -> Iterator[Record | BadRecord]:
        """Yield what a run would send, and leave every file as it is; raise what it would raise.

        *notify* is told what it would be told of files.
        """
        self._check_files()
        done = Done()
        if self.output is not None:
            table = self._make_table()
            layout = JSON_LINES if table is None else table.layout
            done = read_output(self.output, layout=layout)
            self._check_shard(done)
            if unwanted := self._find_unwanted(done):
                done = read_output(
                    self.output, lambda mark: any(test(mark) for test in unwanted), layout
                )
        lines = None if self.output is None else done.list_lines()
        done.merge(read_done(self._find_earlier(notify), notify))
        return select(self.read_all(), done, self.rules, self.tally, lines=lines)

    def run(self, launch: Launch, front: Front) -> None:
        """Carry it out by what *launch* makes; the tally says what became of it.

        *front* is handed the run before its first request. Raises BadInput, CannotCreate,
        TemporaryFailure for an output that another run holds, OutputFailed, OutputClosed.
        """
        self._check_files()
        with ExitStack() as stack:
            earlier = read_done(self._find_earlier(front.notify), front.notify)
            table = self._make_table()
            ledger, stale = self._open_ledger(stack, table, front.notify)
            lines = None if ledger is None else ledger.done.list_lines()
            sink, done = self._open_sink(ledger, stale, earlier, table or self.format, front)
            sink = FolderSink(sink, targets) if (targets := self.source.targets) else sink
            if self.rules.dedupe:
                sink = self._open_twin_sink(stack, sink)
            places = Places()
            sorts = self.ordered and ledger is not None and self.format != "text"
            rows = (
                read_records(self.source.iterate(), self.shape)
                if self.rules.is_whole
                else self.read_all()
            )
            records = select(
                rows if table is None else _note_columns(rows, table),
                done,
                self.rules,
                self.tally,
                places.note if sorts else None,
                lines=lines,
            )
            if self.rules.is_whole:
                records = condemn_wrong_input(records, self.tally)
            if self.format == "table":
                columns = None if self.output is None else _find_columns(self.output)
                records = Columns(columns).lay_out(records)
            run = launch(records, sink, lambda: self.source.read_bytes)
            front.start(run)
            try:
                run.run()
            except Terminated:
                raise  # at once: what is half written must not be followed by more
            except BaseException:
                _close(sink, self.tally)
                raise
            _close(sink, self.tally)
            if sorts and ledger is not None and self.tally.stop_reason is None:
                sort_by_place(ledger, places)

    def _open_sink(
        self,
        ledger: Ledger | None,
        stale: Stale,
        earlier: Done,
        format: str | Encoder,
        front: Front,
    ) -> tuple[Sink, Done]:
        if ledger is None:
            sink: Sink = StdoutSink(front.write_out, format)
            if self.ordered:
                sink = OrderedSink(sink, _WINDOW_ROWS, format)
            return sink, earlier
        self.tally.earlier = ledger.done.spent
        ledger.done.merge(earlier)
        shard = None if self.rules.shard is None else str(self.rules.shard)
        defers = self.on_error == "defer"
        sink = LedgerSink(ledger, format, defer=defers, stale=stale, shard=shard)
        if self.ordered and self.format == "text":
            # Such lines cannot be sorted later.
            sink = OrderedSink(sink, _WINDOW_ROWS, format)
        return sink, ledger.done

    def _make_table(self) -> Table | None:
        """Return what writes rows of a table; None for lines of JSON."""
        if self.format in FORMATS:
            return None
        from kimi_cli.batch.tables import Table  # noqa: PLC0415 - for tables only

        return Table(self.format, self.shape.properties, has_heads=self.output is not None)

    def _open_twin_sink(self, stack: ExitStack, sink: Sink) -> Sink:
        """Have rows that ask the same answered at once, from the lines of earlier runs, too."""
        from kimi_cli.batch.twins import TwinSink, index_answers  # noqa: PLC0415 - for --dedupe only

        earlier = None
        if self.output is not None and self.format in FORMATS:
            file = stack.enter_context(self.output.open("rb"))
            earlier = index_answers(file, self.format)
        return TwinSink(sink, self.tally, earlier=earlier, read=self.shape.read)

    def _open_ledger(
        self, stack: ExitStack, table: Table | None, notify: Callable[[str], None]
    ) -> tuple[Ledger | None, Stale]:
        """Open the output, if there is one, and find the lines whose rows are asked again.

        Answers stay until others take their places: what was paid for is not given up before.
        """
        stale = Stale()
        if self.output is None:
            return None, stale
        layout = JSON_LINES if table is None else table.layout
        ledger = stack.enter_context(
            Ledger(self.output, sync=self.fsync, layout=layout, notify=notify)
        )
        self._check_shard(ledger.done)
        if table is not None:
            with self.output.open("rb") as file:
                table.go_on(next(table.layout.split(file), b""))
        if ledger.done and (held := _find_format(self.output)) not in (self.format, None):
            notify(f"{self.output} has lines of --format {held}; they stay as they are")
        if unwanted := self._find_unwanted(ledger.done):
            keeps = frozenset() if self.rules.allow_duplicates else frozenset((INVALID,))
            _reopen(ledger, lambda mark: any(test(mark) for test in unwanted), stale, keeps)
        return ledger, stale

    def _find_unwanted(self, done: Done) -> list[Callable[[Mark], bool]]:
        """Return tests for lines whose rows are asked again: errors, and what has changed since.

        A line that holds an error protects nothing: its row may be mended at any time.
        """
        tests: list[Callable[[Mark], bool]] = []
        redo = self.rules.on_change == "redo"
        if redo and not self.source.is_lasting:
            raise BadInput("--on-change redo reads the input twice; name a file, not a pipe")
        changes: Changes | None = None
        if self.source.is_lasting and (done.failed or (redo and done)):
            changes = find_changes(self.read_all(), done, self.rules)
        if done.unasked:  # lines that a filter wrote, and somebody kept
            tests.append(lambda mark: mark.failed == NOT_ASKED)
        if self.retry_failed != "none" and done.failed:
            classes = None if self.retry_failed == "all" else frozenset((self.retry_failed,))
            tests.append(lambda mark: _is_retried(mark, changes, classes))
        if changes:
            tests.append(lambda mark: _is_replaced(mark, changes, redo=redo))
        return tests

    def _check_shard(self, done: Done) -> None:
        """Refuse an output that another shard wrote: its rows would be bought again."""
        ours = self.rules.shard
        if ours is None or not done.shards or str(ours) in done.shards:
            return
        theirs = ", ".join(sorted(done.shards)[:3])
        raise BadInput(
            f"{self.output} was written by shard {theirs}, and this is shard {ours}; say which it "
            "is (--shard I/N or auto/N), or name another file with -o"
        )

    def _find_earlier(self, notify: Callable[[str], None]) -> Iterator[Path]:
        """Yield the files of ``--done-from``; the input asks, and has answered nothing."""
        for path in _find_files(self.done_from, notify):
            if path.exists() and self.source.holds(path.stat()):
                notify(f"--done-from: {path} is the input, and is left out")
            else:
                yield path

    def _check_files(self) -> None:
        """Refuse files that would be read and written at once, or cannot be gone on with."""
        output = self.output
        if output is None:
            if self.source.is_stdout():
                raise BadInput("standard output is the input; write to another file")
        else:
            _check_place(output)
            if self.format == "text" and output.exists() and output.stat().st_size:
                raise CannotCreate(
                    f"{output} exists, and lines of --format text have no ids to go on by; "
                    "use another format or file"
                )
        ours = [] if output is None else [output, name_errors(output)]
        for path in [*ours, *filter(None, [self.summary])]:
            if path.exists() and self.source.holds(path.stat()):
                raise BadInput(f"{path} is the input; name another file")
        if self.summary is not None:
            self._check_summary(self.summary, ours)

    def _check_summary(self, summary: Path, ours: list[Path]) -> None:
        """Refuse to write the figures over answers."""
        others = [*ours, *_find_files(self.done_from, lambda message: None)]
        if output := next((path for path in others if _is_same(summary, path)), None):
            raise BadInput(f"{summary} is {output}; name another file with --summary")
        if summary.is_file() and os.path.samestat(summary.stat(), os.fstat(1)):
            raise BadInput(f"{summary} is standard output; name another file with --summary")


def _check_place(output: Path) -> None:
    """Refuse an output that cannot be made, or whose list of errors cannot."""
    if not output.parent.is_dir():
        raise CannotCreate(f"cannot create {output}: there is no folder {output.parent}")
    errors = name_errors(output)
    try:
        # Not with pathlib: since Python 3.14 it does not say why it cannot tell.
        if stat.S_ISDIR(os.stat(errors).st_mode):
            raise CannotCreate(f"cannot create {errors}: there is a folder of that name")
    except FileNotFoundError:
        pass
    except OSError as error:
        raise CannotCreate(f"cannot create {errors}: {error.strerror}") from error


def _is_same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other) or (
        one.exists() and other.exists() and one.samefile(other)
    )


def _is_retried(mark: Mark, changes: Changes | None, classes: frozenset[str] | None) -> bool:
    """Tell whether a line is an error of one of *classes*, and its row is in this run."""
    if mark.failed is None or (classes is not None and mark.failed not in classes):
        return False
    return changes is None or changes.concern(mark.name, mark.key)


def _is_replaced(mark: Mark, changes: Changes, *, redo: bool) -> bool:
    failed = mark.failed is not None
    return (redo or failed) and changes.replace(mark.name, mark.key, failed=failed)


def _reopen(
    ledger: Ledger, is_asked: Callable[[Mark], bool], stale: Stale, keeps: frozenset[str]
) -> None:
    """Let the rows of lines be asked again: errors go at once, answers become *stale*.

    So do errors of the classes *keeps*, which have a text that was paid for.
    """

    def is_dropped(mark: Mark) -> bool:
        if mark.failed is None or mark.failed in keeps or not is_asked(mark):
            return False
        stale.note(mark.name, mark.replaces)
        return True

    def is_open(mark: Mark) -> bool:
        if not is_asked(mark):
            return False
        stale.note(mark.name, (mark.key, *mark.replaces))
        return True

    ledger.drop(lambda file, layout: find_lines(file, layout, is_dropped))
    ledger.scan(is_open)


def _note_columns(
    records: Iterable[Record | BadRecord], table: Table
) -> Iterator[Record | BadRecord]:
    """Let *table* know the columns of the first row before it is asked for."""
    for record in records:
        table.note(record.row)
        yield record


def _close(sink: Sink, tally: Tally) -> None:
    """Finish; what became of an output that somebody took away is the end of the run, too."""
    try:
        sink.close()
    except OutputFailed as error:
        tally.stop_reason, tally.stop_status = str(error), error.status
        raise


def _find_columns(output: Path) -> list[str] | None:
    """Return the columns of rows that an output has; None where it has none yet."""
    with open(output, "rb") as file:
        return read_columns(file.readline())


def _find_format(output: Path) -> str | None:
    """Return the format of an output's first line."""
    with open(output, "rb") as file:
        return name_format(file.readline())


def _find_files(patterns: Iterable[str], notify: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files that *patterns* name; raises MissingInput for a plain name without one."""
    for pattern in patterns:
        import glob  # noqa: PLC0415 - takes long to load, and most runs name no other output

        found = [pattern] if os.path.exists(pattern) else glob.glob(pattern)
        if not found and not glob.has_magic(pattern):
            raise MissingInput(f"cannot read {pattern}: there is no such file")
        if not found:
            notify(f"--done-from {pattern}: there is no such file yet, and nothing is left out")
        yield from map(Path, found)
