"""One call of ``kimi batch``, from its options to its tally."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kimi_cli.api.channel import Channel
from kimi_cli.batch.ledger import Done, Ledger, drop_lines, is_failed, read_done, read_head
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.records import BadRecord, Record, Shape, read_records
from kimi_cli.batch.runner import Plan, Runner
from kimi_cli.batch.selection import Rules, find_changes, refuse_wrong_input, select
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
from kimi_cli.errors import BadInput, CannotCreate, MissingInput

_WINDOW_ROWS = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Campaign:
    """What is to be done: the input, its shape, the output, and the rules between them."""

    source: Source
    shape: Shape
    plan: Plan
    rules: Rules
    style: str = "batch"
    output: Path | None = None
    on_error: str = "write"
    ordered: bool = False
    retry_failed: str = "none"
    done_from: tuple[str, ...] = ()
    fsync: str = "interval"
    tally: Tally = field(default_factory=Tally)

    def read_all(self) -> Iterator[Record | BadRecord]:
        """Yield every record of the input."""
        return read_records(self.source.iterate(), self.shape)

    def run(
        self,
        *,
        open_channel: Callable[[], Channel],
        pace: Pace,
        write_out: Callable[[str], None],
        notify: Callable[[str], None],
        started: Callable[[Runner], Any],
        tick: Callable[[Runner], None],
    ) -> None:
        """Carry it out; the tally says what became of it.

        *notify* is told what the user may have meant otherwise; *started* is handed the runner
        before the first request. Raises BadInput, CannotCreate,
        TemporaryFailure for an output that another run holds, OutputFailed, OutputClosed.
        """
        with ExitStack() as stack:
            earlier = read_done(_find_files(self.done_from, notify))
            sink, done = self._open_sink(stack, earlier, write_out)
            places = Places()
            sorts = self.ordered and self.output is not None and self.style != "text"
            records = select(
                refuse_wrong_input(self.read_all()),
                done,
                self.rules,
                self.tally,
                places.note if sorts else None,
            )
            runner = Runner(
                records,
                open_channel=open_channel,
                pace=pace,
                plan=self.plan,
                tally=self.tally,
                sink=sink,
                tick=tick,
            )
            started(runner)
            try:
                runner.run()
            finally:
                sink.close()
            if sorts and self.output is not None and self.tally.stop_reason is None:
                sort_by_place(self.output, places)

    def _open_sink(
        self, stack: ExitStack, earlier: Done, write_out: Callable[[str], None]
    ) -> tuple[Sink, Done]:
        if self.output is None:
            sink: Sink = StdoutSink(write_out, self.style)
            if self.ordered:
                sink = OrderedSink(sink, _WINDOW_ROWS)
            return sink, earlier
        self._prepare_output()
        ledger = stack.enter_context(Ledger(self.output, sync=self.fsync))
        ledger.done.merge(earlier)
        sink = LedgerSink(ledger, self.style, defer=self.on_error == "defer")
        if self.ordered and self.style == "text":
            # Such lines cannot be sorted later.
            sink = OrderedSink(sink, _WINDOW_ROWS)
        return sink, ledger.done

    def _prepare_output(self) -> None:
        """Refuse an output that must not be touched; take out lines that are to be bought again."""
        assert self.output is not None  # noqa: S101 - the caller has one
        for path in (self.output, name_errors(self.output)):
            if path.exists() and self.source.holds(path.stat()):
                raise BadInput(f"{path} is the input; name another file with -o")
        if not self.output.exists():
            return
        current = self.output.stat()
        if self.style == "text" and current.st_size:
            raise CannotCreate(
                f"{self.output} exists, and lines of --format text have no ids to go on by; "
                "use another format or file"
            )
        if self.retry_failed != "none":
            classes = None if self.retry_failed == "all" else frozenset(("transient",))
            with Ledger(self.output):
                drop_lines(self.output, lambda line: is_failed(line, classes))
        if self.rules.on_change == "redo":
            if not self.source.is_lasting:
                raise BadInput("--on-change redo reads the input twice; name a file, not a pipe")
            with Ledger(self.output) as ledger:
                changes = find_changes(refuse_wrong_input(self.read_all()), ledger.done)
                drop_lines(self.output, lambda line: changes.replace(*read_head(line)))


def _find_files(patterns: Iterable[str], notify: Callable[[str], None]) -> Iterator[Path]:
    """Yield the files that *patterns* name; raises MissingInput for a plain name without one."""
    for pattern in patterns:
        import glob  # noqa: PLC0415 - takes long to load, and most runs name no other output

        found = glob.glob(pattern)
        if not found and not glob.has_magic(pattern):
            raise MissingInput(f"cannot read {pattern}: there is no such file")
        if not found:
            notify(f"--done-from {pattern}: there is no such file yet, and nothing is left out")
        yield from map(Path, found)
