"""The end of a run: when nothing more is sent, and what becomes of the rows that are left."""

from __future__ import annotations

from kimi_cli.batch.admission import Admission
from kimi_cli.batch.backlog import Backlog
from kimi_cli.batch.brake import Brake
from kimi_cli.batch.crew import Crew
from kimi_cli.batch.patience import Patience
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.settlement import Settlement
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus

_SILENCE = 1.0
"""Seconds without a row after which the input is left, where the run was to end in time."""


class Ending:
    """Stops a run; where every row has a line, writes those that nobody is asked for any more."""

    def __init__(
        self,
        brake: Brake,
        patience: Patience,
        *,
        rows: tuple[Admission, Settlement],
        under_way: tuple[Crew, Backlog],
        plan: Plan,
        tally: Tally,
    ) -> None:
        """Pull *brake*; *rows* are left there, and with those that are *under_way*."""
        self._brake = brake
        self._patience = patience
        self._admission, self._settlement = rows
        self._crew, self._backlog = under_way
        self._plan = plan
        self._tally = tally
        self._is_at_once = False
        self._silent_since: float | None = None
        """When the last row came, where nobody waits for another."""

    @property
    def has_begun(self) -> bool:
        """Whether nothing more is sent."""
        return self._brake.is_pulled

    @property
    def is_filled_up(self) -> bool:
        """Whether every row has a line, whatever ends the run; after a signal nobody waits."""
        return self._plan.fills_up and not self._is_at_once

    def begin(
        self,
        reason: str,
        status: ExitStatus | None,
        *,
        drain: float,
        at_once: bool = False,
        in_time: bool = False,
    ) -> None:
        """Send nothing more; wait *drain* seconds for what is in flight.

        With *at_once* the rest of the input is left unread; *in_time* it is read as long as it
        comes: a pipe that gives nothing holds nobody.
        """
        self._is_at_once = self._is_at_once or at_once
        if in_time and self._silent_since is None:
            self._silent_since = self._patience.now
        self._brake.pull(reason, status, drain=drain)

    def _count_lines(self) -> int:
        return self._tally.failed + self._tally.not_asked

    def fill_up(self) -> bool:
        """Write rows that are there now as not asked; tell whether there are more."""
        before, now = self._count_lines(), self._patience.now
        jobs = self._backlog.release()
        if self._patience.is_over:
            flying = self._crew.abandon()
            self._tally.unknown += len(flying)
            jobs += flying
        self._settlement.dismiss(jobs, now, self._tally.stop_reason or "")
        if not len(self._crew):
            self._settlement.end()
        has_more = self._admission.dismiss()
        if self._silent_since is not None:
            if len(self._crew) or self._count_lines() > before:
                self._silent_since = now
            self._is_at_once = self._is_at_once or now - self._silent_since > _SILENCE
        return has_more
