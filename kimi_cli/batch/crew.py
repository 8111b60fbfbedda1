"""The threads that carry requests: one for each in flight, each with a channel of its own."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue

from kimi_cli.api.channel import Channel
from kimi_cli.api.threads import start_thread
from kimi_cli.batch.jobs import Job, Outcome, attempt
from kimi_cli.errors import TemporaryFailure

_STACK = 512 * 1024


class Crew:
    """Sends jobs and gives their outcomes back; grows with the need."""

    def __init__(
        self, open_channel: Callable[[], Channel], inspect: Callable[[Outcome], None]
    ) -> None:
        """Send over channels that *open_channel* makes.

        *inspect* looks at each answer in the thread that brought it, and may want another.
        """
        self._open_channel = open_channel
        self._inspect = inspect
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._flying: dict[int, Job] = {}
        self._hands = 0

    def __len__(self) -> int:
        """How many requests are out."""
        return len(self._flying)

    @property
    def jobs(self) -> list[Job]:
        """The jobs that are out."""
        return list(self._flying.values())

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Let threads be small meanwhile; what is out at the end is cut off, and all go home."""
        previous = threading.stack_size(_STACK)
        try:
            yield
        finally:
            threading.stack_size(previous)
            for job in self._flying.values():
                job.abort()
            for _ in range(self._hands):
                self._jobs.put(None)

    def send(self, job: Job) -> int | None:
        """Send *job*; return how many can be sent at once where that is fewer than is wanted.

        Raises TemporaryFailure when there is no thread to be had at all.
        """
        self._flying[id(job)] = job
        self._jobs.put(job)
        return None if self._hands >= len(self._flying) else self._hire()

    def wake(self) -> None:
        """End a wait for outcomes."""
        self._outcomes.put(None)

    def wait(self, seconds: float, find_standstill: Callable[[], float]) -> Iterator[Outcome]:
        """Wait for an outcome, excuse a standstill, and yield all that are there."""
        with contextlib.suppress(Empty):
            outcome = (
                self._outcomes.get(timeout=seconds) if seconds else self._outcomes.get_nowait()
            )
            self.excuse(find_standstill())
            while True:
                if outcome is not None and self._flying.pop(id(outcome.job), None) is not None:
                    yield outcome
                outcome = self._outcomes.get_nowait()

    def abort_late(self, now: float, timeout: float) -> None:
        """End attempts that take longer than *timeout* seconds, but for what they wait for us."""
        for job in self._flying.values():
            if job.is_late(now, timeout):
                job.abort()

    def abandon(self) -> list[Job]:
        """Cut off what is out, and return it: what comes of it is not waited for."""
        jobs = self.jobs
        self._flying.clear()
        for job in jobs:
            job.abort()
        return jobs

    def excuse(self, seconds: float) -> None:
        """Take *seconds* in which this process stood still off every attempt."""
        if seconds:
            for job in self._flying.values():
                job.began += seconds

    def _hire(self) -> int | None:
        """Start one more thread, or go on with those that the system allows."""
        try:
            start_thread(self._work)
        except TemporaryFailure:
            if not self._hands:
                raise
            return self._hands
        self._hands += 1
        return None

    def _work(self) -> None:
        """Carry jobs over one channel until there are none."""
        channel = self._open_channel()
        while (job := self._jobs.get()) is not None:
            job.channel = channel
            self._outcomes.put(attempt(job, channel, self._inspect))
        channel.close()
