"""What ends a run before its rows do."""

from __future__ import annotations

from kimi_cli.batch.patience import Patience
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus


class Brake:
    """Is pulled once; who pulls again can only shorten the wait for what is in flight."""

    def __init__(self, tally: Tally, patience: Patience) -> None:
        """Write into *tally* why the run ended, and have *patience* only so long."""
        self._tally = tally
        self._patience = patience
        self.is_pulled = False

    def pull(self, reason: str, status: ExitStatus | None, *, drain: float) -> None:
        """Send nothing more; wait *drain* seconds for what is in flight."""
        if not self.is_pulled:
            self.is_pulled = True
            self.explain(reason, status)
        self._patience.leave_in(drain)

    def explain(self, reason: str, status: ExitStatus | None) -> None:
        """Say what the end is told as, whatever came first."""
        self._tally.stop_reason, self._tally.stop_status = reason, status
