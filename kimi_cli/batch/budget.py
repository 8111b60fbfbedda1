"""What rows cost in tokens, and whether there is enough for one more."""

from __future__ import annotations

from collections.abc import Iterable

from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.batch.jobs import Job
from kimi_cli.batch.records import Record

_FIRST_GUESS = 256.0
"""Tokens of an answer, before there is one."""
_LEAST_WEIGHT = 0.1
"""Share of the last answer in the mean of what answers cost."""


class Budget:
    """Estimates what a row will use, learns what rows did use, and keeps to a limit."""

    def __init__(self, limit: int | None) -> None:
        """Allow *limit* tokens, None for any number."""
        self.limit = limit
        self._answer = _FIRST_GUESS
        self._answers = 0

    def estimate(self, record: Record) -> float:
        """Return what a row will cost: its prompt by its length, its answer by those before."""
        answer = self._answer if record.most_tokens is None else record.most_tokens
        return estimate_tokens(record.payload) + answer

    def note(self, payload: bytes, used: int) -> None:
        """Learn from an answer that used so many tokens, prompt and all."""
        self._answers += 1
        if used:
            weight = max(_LEAST_WEIGHT, 1 / self._answers)
            answer = max(0.0, used - estimate_tokens(payload))
            self._answer += weight * (answer - self._answer)

    def exceeds(self, job: Job, under_way: Iterable[Job], used: int) -> bool:
        """Tell whether *job* may use more than is left beside all that is *under_way*."""
        if self.limit is None:
            return False
        others = list(under_way)
        if not self._answers and others and job.record.most_tokens is None:
            return True  # what an answer costs is not known before the first
        return used + sum(other.tokens for other in others) + job.tokens > self.limit
