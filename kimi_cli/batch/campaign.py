"""One call of ``kimi batch``, from its options to its tally."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kimi_cli.api.channel import Channel
from kimi_cli.batch.ledger import Done, Ledger, drop_lines, is_failed, read_done
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.records import BadRecord, Record, Shape, read_records
from kimi_cli.batch.runner import Plan, Runner
from kimi_cli.batch.selection import Rules, find_changed, refuse_wrong_input, select
from kimi_cli.batch.sinks import LedgerSink, OrderedSink, Sink, StdoutSink, sort_by_row
from kimi_cli.batch.source import Source
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import BadInput, CannotCreate

_WINDOW_ROWS = 1024


@dataclass(frozen=True)
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
        started: Callable[[Runner], Any],
        tick: Callable[[Runner], None],
    ) -> None:
        """Carry it out; the tally says what became of it.

        *started* is handed the runner before the first request. Raises BadInput, CannotCreate,
        TemporaryFailure for an output that another run holds, OutputFailed, OutputClosed.
        """
        with ExitStack() as stack:
            sink, done = self._open_sink(stack, write_out)
            records = select(refuse_wrong_input(self.read_all()), done, self.rules, self.tally)
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
        if self.ordered and self.output is not None and self.tally.stop_reason is None:
            sort_by_row(self.output, _find_row)

    def _open_sink(self, stack: ExitStack, write_out: Callable[[str], None]) -> tuple[Sink, Done]:
        earlier = read_done(Path(name) for pattern in self.done_from for name in glob.glob(pattern))
        if self.output is None:
            sink: Sink = StdoutSink(write_out, self.style)
            if self.ordered:
                sink = OrderedSink(sink, _WINDOW_ROWS)
            return sink, earlier
        self._prepare_output()
        ledger = stack.enter_context(Ledger(self.output, sync=self.fsync))
        ledger.done.merge(earlier)
        return LedgerSink(ledger, self.style, defer=self.on_error == "defer"), ledger.done

    def _prepare_output(self) -> None:
        """Refuse an output that must not be touched; take out lines that are to be bought again."""
        assert self.output is not None  # noqa: S101 - the caller has one
        if not self.output.exists():
            return
        current = self.output.stat()
        if any(os.path.samestat(current, stat) for stat in self.source.stats):
            raise BadInput(f"{self.output} is the input; name another file with -o")
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
            with Ledger(self.output) as ledger:
                changed = find_changed(self.read_all(), ledger.done)
            drop_lines(self.output, lambda line: json.loads(line)["custom_id"] in changed)


def _find_row(line: bytes) -> int:
    return int(json.loads(line)["kimi"]["row"])
