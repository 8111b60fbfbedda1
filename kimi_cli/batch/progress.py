"""What a long run tells of itself on stderr."""

from __future__ import annotations

import json
import time
from typing import Any

from kimi_cli.batch.runner import Runner
from kimi_cli.batch.source import Source
from kimi_cli.terminal import Terminal

_REDRAW = 0.25
_LOG_EVERY = 30.0
_REPORT_EVERY = 1.0


class Progress:
    """Silent; the base of the others."""

    every = float("inf")

    def __init__(self, terminal: Terminal, source: Source) -> None:
        """Write to *terminal* how far *source* has been read."""
        self._terminal = terminal
        self._source = source
        self._began = self._shown = time.monotonic()

    def tick(self, runner: Runner) -> None:
        """Show something when it is time; called several times a second."""
        now = time.monotonic()
        if now - self._shown >= self.every:
            self._shown = now
            self.show(runner)

    def show(self, runner: Runner) -> None:
        """Show how the run stands."""

    def close(self) -> None:
        """Leave the screen as it was."""

    def describe(self, runner: Runner) -> dict[str, Any]:
        """Return how the run stands: counts, rates per second, seconds to go, the limit."""
        tally, seconds = runner.tally, max(0.001, time.monotonic() - self._began)
        total = self._source.total_bytes
        share = self._source.read_bytes / total if total else None
        return {
            "done": tally.finished + tally.skipped,
            "errors": tally.failed + tally.deferred,
            "retries": tally.attempts - tally.finished - runner.in_flight,
            "in_flight": runner.in_flight,
            "limit": int(runner.pace.limit),
            "rows_per_second": round(tally.finished / seconds, 1),
            "tokens_per_second": round(tally.tokens / seconds, 1),
            "eta_seconds": round(seconds / share - seconds) if share else None,
            "limited_by": runner.explain_limit(),
        }

    def compose(self, runner: Runner) -> str:
        """Return one line for people."""
        shown = self.describe(runner)
        eta = "" if shown["eta_seconds"] is None else f", {shown['eta_seconds']} s to go"
        return (
            f"{shown['done']} done, {shown['errors']} errors, {max(0, shown['retries'])} retries, "
            f"{shown['in_flight']} in flight (limit {shown['limit']}), "
            f"{shown['rows_per_second']} rows/s, {shown['tokens_per_second']} tokens/s{eta}; "
            f"limited by {shown['limited_by']}"
        )


class LogProgress(Progress):
    """One line every 30 seconds."""

    every = _LOG_EVERY

    def show(self, runner: Runner) -> None:
        """Write a line."""
        self._terminal.warn(self.compose(runner))


class JsonProgress(Progress):
    """One JSON object a second, for a program that watches."""

    every = _REPORT_EVERY

    def show(self, runner: Runner) -> None:
        """Write a line of JSON."""
        self._terminal.write_err(json.dumps(self.describe(runner)) + "\n")


class BarProgress(Progress):
    """A bar that is redrawn."""

    every = _REDRAW

    def __init__(self, terminal: Terminal, source: Source) -> None:
        """Draw nothing yet."""
        super().__init__(terminal, source)
        from tqdm import tqdm  # noqa: PLC0415 - only where a person looks on

        total = source.total_bytes
        self._bar = tqdm(total=total, unit="B", unit_scale=True, leave=False, mininterval=0)

    def show(self, runner: Runner) -> None:
        """Redraw the bar."""
        self._bar.n = self._source.read_bytes
        self._bar.set_postfix_str(self.compose(runner), refresh=False)
        self._bar.refresh()

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


KINDS = {"none": Progress, "log": LogProgress, "json": JsonProgress, "bar": BarProgress}
"""The kinds of ``--progress`` by name."""
