"""Time limits kept by our own clock.

A socket's time limit starts anew with every byte, so a server that drips comments, header lines
or ``100 Continue`` can hold a caller for ever, and name resolution has no limit at all. What is
counted here is what matters: a connection, a data event, the whole call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from kimi_cli.errors import TimedOut

TICK = 1.0
"""Longest wait between two looks at the clock, in seconds."""
_MOMENT = 0.05
"""Seconds that taking one piece may last; a flood of comments consists of nothing else."""


def sleep(seconds: float) -> None:
    """Wait, but never long without a look at the signals that may have come meanwhile."""
    ends = time.monotonic() + seconds
    while (left := ends - time.monotonic()) > 0:
        time.sleep(min(left, TICK))


@dataclass(frozen=True, eq=False, repr=False)
class Limits:
    """Seconds for a connection, between two data events, and for the whole call (None: any)."""

    connect: float = 10.0
    idle: float = 120.0
    total: float | None = None
    since: float | None = None
    """The moment from which *total* counts, on the monotonic clock; None for each call's own."""


class Timer:
    """Counts one exchange down; raises TimedOut when the limit of its phase has run out."""

    def __init__(self, limits: Limits, deadline: float | None) -> None:
        """Begin with the connect limit; *deadline* is on the monotonic clock."""
        self._limits = limits
        self._deadline = deadline
        self._connecting = True
        self._allowed = limits.connect
        self._touched = self._looked = self._paused = time.monotonic()

    def expect(self, seconds: float | None = None) -> None:
        """Allow *seconds* (by default the idle limit) from now until the next data event."""
        self._connecting = False
        self._allowed = self._limits.idle if seconds is None else seconds
        self.touch()

    def touch(self) -> None:
        """Note that something came."""
        self._touched = time.monotonic()

    def pause(self) -> None:
        """Note that a wait is over: what follows, writing to a slow reader say, is our time."""
        self._paused = time.monotonic()

    def resume(self) -> None:
        """Note that the server is waited for again; the moments between two reads are its own."""
        now = time.monotonic()
        if now - self._paused > _MOMENT:
            self._touched = min(now, self._touched + now - self._paused)

    def plan_wait(self) -> float:
        """Return how long to wait until the next look, in seconds; raises TimedOut."""
        now = time.monotonic()
        if (standstill := now - max(self._looked, self._touched)) > 2 * TICK:
            # Stopped by ^Z, or suspended, while we waited: that silence was not the server's, and
            # what it sent meanwhile is still to be read.
            self._touched += standstill
        self._looked = now
        left = self._touched + self._allowed - now
        if self._deadline is not None and self._deadline <= now:
            limit = self._limits.total
            raise TimedOut(f"not done within {limit:g} s (limit: max-time)", final=True)
        if left <= 0:
            raise TimedOut(self._complain())
        if self._deadline is not None:
            left = min(left, self._deadline - now)
        return min(left, TICK)

    def _complain(self) -> str:
        if self._connecting:
            return f"no connection within {self._allowed:g} s (limit: connect-timeout)"
        return f"no data for {self._allowed:g} s (limit: timeout)"
