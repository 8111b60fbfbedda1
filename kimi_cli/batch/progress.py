"""What a long run tells of itself on stderr."""

from __future__ import annotations

import json
import time
from typing import Any

from kimi_cli.api.text import quantify
from kimi_cli.batch.run import Run
from kimi_cli.batch.source import Source
from kimi_cli.batch.tally import Tally
from kimi_cli.system.terminal import Terminal, goes_on

_REDRAW = 0.25
_LOG_EVERY = 30.0
_REPORT_EVERY = 1.0
_FRAME = len("100%|") + 10 + len("| ")
"""Columns of a bar and what is around it, at least."""


class Progress:
    """Silent; the base of the others."""

    every = float("inf")

    def __init__(self, terminal: Terminal, source: Source) -> None:
        """Write to *terminal* how far *source* has been read."""
        self._terminal = terminal
        self._source = source
        self._began = self._shown = time.monotonic()

    def tick(self, run: Run) -> None:
        """Show something when it is time; called several times a second."""
        now = time.monotonic()
        if now - self._shown >= self.every:
            self._shown = now
            self.show(run)

    def show(self, run: Run) -> None:
        """Show how the run stands."""

    def finish(self, run: Run) -> None:
        """Show how the run ended, where the summary will not do."""

    def close(self) -> None:
        """Leave the screen as it was."""

    def describe(self, run: Run) -> dict[str, Any]:
        """Return how the run stands: counts, rates per second, seconds to go, the limit."""
        tally, seconds = run.tally, max(0.001, time.monotonic() - self._began)
        return {
            "done": tally.finished + tally.skipped,
            "errors": tally.failed + tally.deferred,
            "retries": tally.retries,
            "in_flight": run.in_flight,
            "limit": run.limit,
            "rows_per_second": round(tally.finished / seconds, 1),
            "tokens_per_second": round(tally.tokens / seconds, 1),
            "tokens": tally.spending.dump_tokens(),
            **tally.spending.dump_cost(),
            "eta_seconds": self._find_eta(tally, seconds),
            "limited_by": run.explain_limit(),
        }

    def _find_share(self, tally: Tally) -> float | None:
        """Return the share of the input that is done, where its size is known."""
        total, read = self._source.total_bytes, tally.read
        if not total or not read:
            return None
        seen = tally.finished + tally.deferred + tally.skipped + tally.changed
        # Rows are read ahead: only those that are done count.
        return min(1.0, seen / read) * self._source.read_bytes / total

    def _find_eta(self, tally: Tally, seconds: float) -> int | None:
        """Return the seconds to go at the speed of this run, which rows done before do not tell."""
        share, done = self._find_share(tally), tally.finished + tally.deferred
        if not share or not done:
            return None
        own_share = share * done / (done + tally.skipped + tally.changed)
        return round(seconds * (1 - share) / own_share)

    def compose(self, run: Run) -> str:
        """Return one line for people."""
        shown = self.describe(run)
        eta = "" if shown["eta_seconds"] is None else f", {shown['eta_seconds']} s to go"
        cost = run.tally.spending.show_cost()
        return (
            f"{shown['done']} done, {quantify(shown['errors'], 'error')}, "
            f"{quantify(shown['retries'], 'retry')}, "
            f"{shown['in_flight']} in flight (limit {shown['limit']}), "
            f"{shown['rows_per_second']} rows/s, {shown['tokens_per_second']} tokens/s"
            f"{cost and f', {cost}'}{eta}; "
            f"limited by {shown['limited_by']}"
        )


class LogProgress(Progress):
    """One line every 30 seconds."""

    every = _LOG_EVERY

    def show(self, run: Run) -> None:
        """Write a line."""
        self._terminal.warn(self.compose(run))


class JsonProgress(Progress):
    """One JSON object a second, for a program that watches."""

    every = _REPORT_EVERY

    def show(self, run: Run) -> None:
        """Write a line of JSON."""
        self._terminal.write_err(json.dumps(self.describe(run)) + "\n")

    def finish(self, run: Run) -> None:
        """Write a last line, so that there is one of the shortest run, too."""
        self.show(run)


class BarProgress(Progress):
    """A bar that is redrawn."""

    every = _REDRAW

    def __init__(self, terminal: Terminal, source: Source) -> None:
        """Draw nothing yet."""
        super().__init__(terminal, source)
        from tqdm import tqdm  # noqa: PLC0415 - only where a person looks on

        known = source.total_bytes is not None
        self._bar = tqdm(
            total=1.0 if known else None,
            bar_format="{percentage:3.0f}%|{bar}| {desc}" if known else "{desc}",
            ncols=self._find_room(),
            leave=False,
            mininterval=0,
        )
        self._frame = _FRAME if known else 0
        # Whatever else is written begins on a line of its own; the bar is drawn anew below it.
        terminal.on_write = self._bar.clear

    def show(self, run: Run) -> None:
        """Redraw the bar."""
        self._bar.ncols = room = self._find_room()
        self._bar.n = self._find_share(run.tally) or 0.0
        self._bar.set_description_str(self._sketch(run, room - self._frame), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._terminal.on_write = None
        self._bar.close()

    def _find_room(self) -> int:
        """Return the columns that a line may fill: a full one could begin another."""
        return self._terminal.find_columns() - 1

    def _sketch(self, run: Run, room: int) -> str:
        """Return as many whole figures as fit into *room* columns; what matters most is first."""
        shown = self.describe(run)
        eta = shown["eta_seconds"]
        figures = [
            f"{shown['done']} done",
            quantify(shown["errors"], "error"),
            "" if eta is None else f"{eta} s left",
            run.tally.spending.show_cost(),
            f"{shown['rows_per_second']} rows/s",
            quantify(shown["retries"], "retry") if shown["retries"] else "",
            f"{shown['in_flight']}/{shown['limit']}",
            str(shown["limited_by"]),
            f"{shown['tokens_per_second']} tokens/s",
        ]
        line = ""
        for figure in filter(None, figures):
            longer = f"{line}, {figure}" if line else figure
            if len(longer) > room:
                break
            line = longer
        return line


KINDS = {"none": Progress, "log": LogProgress, "json": JsonProgress, "bar": BarProgress}
"""The kinds of ``--progress`` by name."""


def open_progress(terminal: Terminal, kind: str, source: Source, *, writes_out: bool) -> Progress:
    """Return what shows how a run stands; ``auto`` is what suits *terminal*.

    Whoever reads what a run *writes_out* may write to the same screen, right behind the bar.
    """
    if kind == "auto":
        has_screen = terminal.err_is_terminal and not (writes_out and goes_on())
        kind = "none" if terminal.quiet else "bar" if has_screen else "log"
    if kind == "bar" and not terminal.err_is_terminal:
        kind = "log"  # there is no screen to draw on
    return KINDS[kind](terminal, source)
