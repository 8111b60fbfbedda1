"""The rows that are to be sent: those that wait for another attempt, and fresh ones."""

from __future__ import annotations

import heapq
from itertools import count

from kimi_cli.batch.jobs import Job


class Backlog:
    """Rows in the order in which they are due; one fresh row may be kept at hand."""

    def __init__(self) -> None:
        """Begin with none."""
        self._waiting: list[tuple[float, int, Job]] = []
        self._next: Job | None = None
        self._order = count()

    def __len__(self) -> int:
        """How many there are."""
        return len(self._waiting) + (self._next is not None)

    @property
    def waiting(self) -> list[Job]:
        """The rows that wait for their time."""
        return [job for _, _, job in self._waiting]

    @property
    def has_next(self) -> bool:
        """Whether a row is at hand that could not leave yet."""
        return self._next is not None

    def put(self, job: Job, due: float) -> None:
        """Have *job* wait until *due*."""
        heapq.heappush(self._waiting, (due, next(self._order), job))

    def keep(self, job: Job) -> None:
        """Keep *job*, which cannot leave yet, at hand."""
        self._next = job

    def take(self, now: float) -> Job | None:
        """Return the row to send next: one that waited comes before one at hand."""
        if self._waiting and self._waiting[0][0] <= now:
            job = heapq.heappop(self._waiting)[2]
            if self._next is not None:
                self.put(self._next, now)
                self._next = None
            return job
        at_hand, self._next = self._next, None
        return at_hand

    def release(self) -> list[Job]:
        """Give up all."""
        jobs = self.waiting + ([self._next] if self._next is not None else [])
        self._waiting, self._next = [], None
        return jobs

    def find_due(self, now: float) -> float | None:
        """Return the seconds until the next row that waits; None where none does."""
        return max(0.0, self._waiting[0][0] - now) if self._waiting else None
