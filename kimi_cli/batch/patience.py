"""How long a run has been at it, and for how long nothing has come of it."""

from __future__ import annotations

import time

_STANDSTILL = 0.5
"""Seconds between two looks after which this process was stopped, not the service."""


class Patience:
    """The clocks of one run, in seconds."""

    def __init__(self) -> None:
        """Begin now."""
        self.now = time.monotonic()
        self._began = self._ticked = self._progressed = self._busy = self.now
        self._leave_at: float | None = None

    @property
    def elapsed(self) -> float:
        """Seconds since the run began."""
        return self.now - self._began

    @property
    def idle(self) -> float:
        """Seconds without work of our own."""
        return self.now - self._busy

    @property
    def stuck(self) -> float:
        """Seconds without progress."""
        return self.now - self._progressed

    @property
    def is_over(self) -> bool:
        """Whether what is in flight is waited for no longer."""
        return self._leave_at is not None and time.monotonic() >= self._leave_at

    def progress(self, at: float) -> None:
        """Note that something came of it."""
        self._progressed = at

    def be_busy(self) -> None:
        """Note that there is work."""
        self._busy = self.now

    def leave_in(self, seconds: float) -> None:
        """Wait at most so long from now on."""
        leave_at = time.monotonic() + seconds
        self._leave_at = leave_at if self._leave_at is None else min(leave_at, self._leave_at)

    def look(self) -> None:
        """Look at the clock."""
        self.now = time.monotonic()

    def find_standstill(self) -> float:
        """Look at the clock; return for how many seconds this process stood still, or 0.

        ^Z, or an output that took nothing: such time was not the service's, and does not count
        as being stuck.
        """
        self.look()
        gone = self.now - self._ticked
        if gone <= _STANDSTILL:
            return 0.0
        self._ticked = self.now
        self._progressed += gone
        return gone

    def tick(self, seconds: float) -> bool:
        """Whether *seconds* have gone since the last tick; then this is one."""
        if self.now - self._ticked <= seconds:
            return False
        self._ticked = self.now
        return True
