"""What is worth another attempt, and how long to wait before it. No clock of its own, no I/O."""

from __future__ import annotations

import random
from dataclasses import dataclass

from kimi_cli.api.refusals import Refused, Verdict
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated, TimedOut, Unreachable

_COSTLY: dict[type[KimiError], int] = {TimedOut: 1, StreamTruncated: 2}
"""Retries of what was probably billed, where they are fewer than the policy's."""


@dataclass(frozen=True)
class RetryPolicy:
    """How often and how long one request is tried again; times are in seconds.

    *foreign* is for a reply that is not the API's: a person wants to know of it at once, a batch
    may meet a proxy's page among a thousand answers.
    """

    retries: int = 2
    base: float = 1.0
    longest: float = 30.0
    budget: float = 120.0
    foreign: int = 0

    def plan_delay(self, error: KimiError, *, attempt: int, elapsed: float) -> float | None:
        """Return the wait before the next attempt, or None when *error* is final.

        *attempt* counts from 1, *elapsed* runs since the first one began. The wait is
        full-jitter exponential; a Retry-After is a floor, and ends the attempts at once when
        the budget cannot hold it.
        """
        if attempt > self._count_retries(error):
            return None
        delay = self.draw_delay(error, attempt)
        return delay if delay <= self.budget - elapsed else None

    def draw_delay(self, error: KimiError, attempt: int) -> float:
        """Return a random wait that grows with *attempt*, above what the host asked for."""
        asked = error.refusal.retry_after if isinstance(error, Refused) else None
        delay = random.uniform(0, min(self.longest, self.base * 2 ** (attempt - 1)))
        return (asked or 0.0) + delay

    def _count_retries(self, error: KimiError) -> int:
        if is_foreign(error):
            return min(self.foreign, self.retries)
        if not is_transient(error):
            return 0
        if isinstance(error, TimedOut) and not error.sent:
            return self.retries
        return min(self.retries, _COSTLY.get(type(error), self.retries))


def is_transient(error: KimiError) -> bool:
    """Tell whether the same request may succeed soon, provided no part of an answer came."""
    match error:
        case Refused():
            return error.refusal.verdict.retryable
        case Unreachable():
            return error.transient
        case TimedOut():
            return not error.final
        case StreamTruncated():
            return True
        case _:
            return False


def is_foreign(error: KimiError) -> bool:
    """Tell whether the reply came from somebody before the API: a proxy, a login page."""
    if isinstance(error, Refused):
        refusal = error.refusal
        if refusal.code is not None or refusal.names_model:
            return False
        return refusal.verdict in (Verdict.NOT_SERVED, Verdict.NOT_THE_API)
    return isinstance(error, NotTheApi)
