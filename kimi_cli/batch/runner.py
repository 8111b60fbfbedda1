"""Records through channels: bounded, paced, each finished row on its way to disk at once.

The main thread decides: it admits rows, takes outcomes, writes results. One thread reads the
input, and each request in flight has a thread of its own. Nothing here grows with the input.
"""

from __future__ import annotations

import contextlib
import heapq
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from queue import Empty, SimpleQueue

from kimi_cli.api.channel import Channel
from kimi_cli.api.refusals import Refused, Verdict
from kimi_cli.api.retry import RetryPolicy, is_foreign, is_transient
from kimi_cli.batch.breaker import Breaker
from kimi_cli.batch.gauges import Ticket
from kimi_cli.batch.intake import Intake
from kimi_cli.batch.jobs import Job, Outcome, attempt, blame, fail
from kimi_cli.batch.notices import Kind, Notice, read_notice
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.records import BadRecord, Record
from kimi_cli.batch.results import Result
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import (
    ExitStatus,
    KimiError,
    OutputClosed,
    OutputFailed,
    StreamTruncated,
    TemporaryFailure,
    TimedOut,
    Unreachable,
)

_TICK = 0.2
_STANDSTILL = 1.0
"""Seconds between two looks at the clock after which this process was stopped, not the service."""
_DRAIN = 30.0
"""Seconds for requests in flight when the run must end: their answers may be paid for."""
_BYTES_PER_TOKEN = 3.2
_LEAST_WEIGHT = 0.1
"""Share of the last answer in the mean of what answers cost."""
_STACK = 512 * 1024
_FREE_OVERLOADS = 20
_COURTESY = 1.0
"""Seconds of waiting for input after which nothing is held back."""
_SUSPECTS = 10
"""Rows refused as if by a wrong model or URL that are enough, as long as none is answered."""

POLICY = RetryPolicy(retries=4, longest=60.0, budget=math.inf, foreign=2)
"""Of one row, where nothing was said: a run has more time than a person has."""

_FATAL = {
    Verdict.TOKEN_REFUSED: ExitStatus.NO_PERMISSION,
    Verdict.QUOTA_USED_UP: ExitStatus.NO_PERMISSION,
    Verdict.SPENT_FOR_NOW: ExitStatus.TEMPORARY,
}


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a run is carried out. Times are in seconds."""

    policy: RetryPolicy = POLICY
    timeout: float = 600.0
    max_wait: float = 600.0
    max_rows: int | None = None
    max_errors: int | None = None
    max_error_share: float | None = None
    max_tokens: int | None = None
    deadline: float | None = None


class Runner:
    """One run of a batch."""

    def __init__(
        self,
        records: Iterator[Record | BadRecord],
        *,
        open_channel: Callable[[], Channel],
        pace: Pace,
        plan: Plan,
        tally: Tally,
        sink: Sink,
        tick: Callable[[Runner], None] = lambda runner: None,
        tell_read: Callable[[], int] = lambda: 0,
        redact: Callable[[str], str] = str,
    ) -> None:
        """Run *records* and give results to *sink*; *tick* is called a few times a second.

        *tell_read* says how many bytes of the input have been read; *redact* takes secrets out of
        what a host says.
        """
        self._redact = redact
        self._outcomes: SimpleQueue[Outcome | None] = SimpleQueue()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._intake = Intake(records, wake=lambda: self._outcomes.put(None), tell_read=tell_read)
        self._open_channel = open_channel
        self.pace = pace
        self._plan = plan
        self.tally = tally
        self._sink = sink
        self._tick = tick
        self._breaker = Breaker()
        self._waiting: list[tuple[float, int, Job]] = []
        self._next: Job | None = None
        self._flying: dict[int, Job] = {}
        self._workers = 0
        self._order = count()
        self._began = time.monotonic()
        self._progressed = self._looked = self._busy = self._began
        self._leave_at: float | None = None
        self._estimate = 256.0
        self._stopping = False
        self._suspects: list[Outcome] = []
        """Rows whose refusal may speak of every row, held back until one is answered."""

    def run(self) -> None:
        """Carry the run out. What stopped it, and what is left, is in the tally.

        Raises BadInput when the input itself cannot be read, OutputFailed when writing fails.
        """
        previous = threading.stack_size(_STACK)
        try:
            while self._go_on():
                self._take_outcomes(self._dispatch())
                self._check_limits()
                if (loss := self._sink.settle()) is not None:
                    self.stop(loss, ExitStatus.IO, drain=_DRAIN)
                self._tick(self)
            if self._suspects:
                self._accuse(self._suspects[-1])
        except OutputFailed as error:
            self.tally.stop_reason, self.tally.stop_status = str(error), error.status
            raise
        finally:
            self.tally.unknown += len(self._flying)
            threading.stack_size(previous)
            self._intake.stop()
            for job in self._flying.values():
                job.abort()
            for _ in range(self._workers):
                self._jobs.put(None)

    def stop(self, reason: str, status: ExitStatus | None, *, drain: float) -> None:
        """Send nothing more; wait *drain* seconds for what is in flight."""
        if not self._stopping:
            self._stopping = True
            self.tally.stop_reason = reason
            self.tally.stop_status = status
        leave_at = time.monotonic() + drain
        self._leave_at = leave_at if self._leave_at is None else min(leave_at, self._leave_at)

    @property
    def in_flight(self) -> int:
        """How many requests are out."""
        return len(self._flying)

    def explain_limit(self) -> str:
        """Say what holds the run back now."""
        if self._breaker.opened is not None:
            return "the service fails; probing"
        with contextlib.suppress(OutputClosed):
            if (block := self._sink.find_block()) is not None:
                return block
        if self._next is None and not self._waiting and self.in_flight < int(self.pace.limit):
            return "the last answers" if self._intake.ended else "the input"
        return self.pace.reason

    def _go_on(self) -> bool:
        if self._stopping:
            self._intake.stop()  # not in stop(), which a signal may have called in mid-take
        if self._flying:
            return self._leave_at is None or time.monotonic() < self._leave_at
        if self._stopping:
            return False
        return not self._intake.ended or bool(self._waiting) or self._next is not None

    def _dispatch(self) -> float:
        """Send whatever may leave now; return how long to wait for outcomes at most."""
        while not self._stopping:
            now = time.monotonic()
            job = self._find_job(now)
            if job is None:
                if self._intake.ended and not self._flying and not self._waiting:
                    return 0.0
                due = self._waiting[0][0] - now if self._waiting else _TICK
                return min(_TICK, max(0.0, due))
            wait = self._find_wait(now, job)
            if wait > 0:
                self._next = job
                return min(_TICK, wait)
            self._next = None
            self._send(job, now)
        return _TICK

    def _find_wait(self, now: float, job: Job) -> float:
        if self._sink.find_block() is not None and not job.sent:
            return _TICK  # a row that was sent before is in the window already
        if not job.sent and self._exceeds_budget(job):
            if not self._flying and not self._waiting:
                self._stop_at_budget()
            return _TICK
        if self._breaker.opened is not None:
            return self._breaker.find_wait(now) if not self._flying else _TICK
        wait = self.pace.find_wait(now, job.tokens)
        return _TICK if wait is None else wait

    def _find_job(self, now: float) -> Job | None:
        """Return the row to send next: one that waited comes before a fresh one."""
        if self._waiting and self._waiting[0][0] <= now:
            job = heapq.heappop(self._waiting)[2]
            if self._next is not None:
                heapq.heappush(self._waiting, (now, next(self._order), self._next))
                self._next = None
            return job
        return self._next or self._admit()

    def _admit(self) -> Job | None:
        """Return the next fresh row that can be sent; those before it are written as errors."""
        bad: list[Result] = []
        job: Job | None = None
        while job is None and not self._has_all_rows():
            record = self._take_record()
            if record is None:
                break
            self._sink.expect(record.number)
            if isinstance(record, BadRecord):
                self.tally.failed += 1
                bad.append(blame(record))
            else:
                job = Job(record, self._estimate_tokens(record))
        if bad:
            self._sink.write(bad)
        return job

    def _take_record(self) -> Record | BadRecord | None:
        """Take the next row; input that cannot be read ends the run, but not what is in flight."""
        try:
            return self._intake.take()
        except KimiError as error:
            self.stop(str(error), error.status, drain=self._plan.timeout)
            return None

    def _has_all_rows(self) -> bool:
        """Admit no fresh row at --max-rows; stop there, unless the input ends there as well."""
        plan, tally = self._plan, self.tally
        admitted = tally.finished + tally.deferred
        admitted += len(self._flying) + len(self._waiting) + len(self._suspects)
        if plan.max_rows is None or admitted < plan.max_rows:
            return False
        if not self._flying and not self._waiting and self._take_record() is not None:
            self.stop(f"--max-rows {plan.max_rows}", ExitStatus.TEMPORARY, drain=0)
        return True

    def _exceeds_budget(self, job: Job) -> bool:
        """Tell whether *job* may use more tokens than are left beside all that is under way."""
        if self._plan.max_tokens is None:
            return False
        if not self.tally.answered and self._flying and job.record.most_tokens is None:
            return True  # what an answer costs is not known before the first
        under_way = [*self._flying.values(), *(waiting for _, _, waiting in self._waiting)]
        reserved = sum(other.tokens for other in under_way)
        return self.tally.tokens + reserved + job.tokens > self._plan.max_tokens

    def _stop_at_budget(self) -> None:
        limit = f"--max-total-tokens {self._plan.max_tokens}"
        if self.tally.attempts:
            self.stop(limit, ExitStatus.TEMPORARY, drain=0)
        else:
            self.stop(f"{limit} is less than one row may use", ExitStatus.DATA, drain=0)

    def _estimate_tokens(self, record: Record) -> float:
        """Return what a row will cost: its prompt by its length, its answer by those before."""
        answer = self._estimate if record.most_tokens is None else record.most_tokens
        return len(record.payload) / _BYTES_PER_TOKEN + answer

    def _send(self, job: Job, now: float) -> None:
        self._breaker.probe(now)
        job.ticket = self.pace.admit(now, job.tokens)
        job.began = now
        self.tally.attempts += 1
        self.tally.retries += job.sent > 0
        job.sent += 1
        self._flying[id(job)] = job
        self._jobs.put(job)
        if self._workers < len(self._flying):
            self._hire()

    def _hire(self) -> None:
        """Start one more thread, or go on with those that the system allows."""
        try:
            threading.Thread(target=self._work, daemon=True).start()
        except RuntimeError as error:
            if not self._workers:
                raise TemporaryFailure(f"cannot start a thread: {error}") from error
            self.pace.confine(self._workers)
        else:
            self._workers += 1

    def _work(self) -> None:
        """Carry jobs over one channel until there are none."""
        channel = self._open_channel()
        while (job := self._jobs.get()) is not None:
            job.channel = channel
            self._outcomes.put(attempt(job, channel))
        channel.close()

    def _take_outcomes(self, seconds: float) -> None:
        """Wait for an outcome, take all that are there, and write what they finish."""
        results: list[Result] = []
        try:
            outcome = (
                self._outcomes.get(timeout=seconds) if seconds else self._outcomes.get_nowait()
            )
            while True:
                if outcome is not None:
                    results += self._judge(outcome)
                outcome = self._outcomes.get_nowait()
        except Empty:
            pass
        finally:
            if results:
                self._sink.write(results)

    def _judge(self, outcome: Outcome) -> list[Result]:
        """Learn from *outcome*; return the results that are final now."""
        job, error = outcome.job, outcome.error
        del self._flying[id(job)]
        assert job.ticket is not None  # noqa: S101 - it was sent
        if error is None:
            return self._accept(outcome, job.ticket)
        self.tally.trouble = str(error)
        if isinstance(error, Refused) and not is_foreign(error):
            return self._judge_refusal(outcome, error, job.ticket)
        self.pace.fail(outcome.at, in_time=not isinstance(error, TimedOut))
        if isinstance(error, StreamTruncated) or (isinstance(error, TimedOut) and error.sent):
            self.tally.unknown += 1
        if self.tally.answered or not is_foreign(error):
            self._breaker.note(outcome.at, good=False)
        worked = isinstance(error, Unreachable) and self.tally.answered
        if is_transient(error) or is_foreign(error) or worked:
            self._try_again(outcome)
        else:
            self.stop(str(error), error.status, drain=_DRAIN)
            self._give_up(outcome)
        return []

    def _accept(self, outcome: Outcome, ticket: Ticket) -> list[Result]:
        job, tally = outcome.job, self.tally
        usage = (outcome.document or {}).get("usage")
        before = tally.tokens
        tally.note_usage(usage)
        used = tally.tokens - before
        if used:
            weight = max(_LEAST_WEIGHT, 1 / (tally.answered + 1))
            answer = used - len(job.record.payload) / _BYTES_PER_TOKEN
            self._estimate += weight * (max(0.0, answer) - self._estimate)
        self.pace.succeed(ticket, outcome.at, used)
        if self._breaker.note(outcome.at, good=True):
            self.pace.restart(outcome.at)
        self._progressed = outcome.at
        result = Result(
            job.record,
            outcome.status,
            outcome.request_id,
            outcome.document,
            lack=outcome.lack,
            attempts=job.attempts + 1,
            milliseconds=int(1000 * (outcome.at - job.began)),
        )
        tally.answered += 1
        tally.note_latency(result.milliseconds)
        tally.incomplete += outcome.lack is not None
        return [result, *self._acquit()]

    def _judge_refusal(self, outcome: Outcome, error: Refused, ticket: Ticket) -> list[Result]:
        verdict = error.refusal.verdict
        if verdict in (Verdict.RATE_LIMITED, Verdict.OVERLOADED):
            self._judge_load(outcome, error, ticket)
            return []
        if self.tally.answered and error.refusal.http_status == 403 and error.refusal.code is None:
            # The token was good a moment ago: this is a firewall, which speaks of one prompt.
            self.pace.fail(outcome.at)
            self._breaker.note(outcome.at, good=False)
            self._try_again(outcome)
            return []
        if verdict in _FATAL:
            self.pace.fail(outcome.at)
            self.stop(str(error), _FATAL[verdict], drain=_DRAIN)
            self._give_up(outcome)
            return []
        if verdict is Verdict.SERVER_FAILED:
            self.pace.fail(outcome.at)
            self._breaker.note(outcome.at, good=False)
            self._try_again(outcome)
            return []
        self.pace.succeed(ticket, outcome.at)
        self._breaker.note(outcome.at, good=True)  # a service that refuses a row is there
        self._progressed = outcome.at
        if verdict in (Verdict.NOT_SERVED, Verdict.NOT_THE_API) and not self.tally.answered:
            self._suspect(outcome)
            return []
        self.tally.failed += 1
        return [fail(outcome, "permanent", self._redact)]

    def _judge_load(self, outcome: Outcome, error: Refused, ticket: Ticket) -> None:
        """Learn from a refusal for load, which costs a row no attempt."""
        job, refusal = outcome.job, error.refusal
        notice = read_notice(refusal) if refusal.http_status == 429 else Notice(Kind.OVERLOAD)
        self.tally.refusals[notice.kind.value] += 1
        self.pace.refuse(ticket, notice, outcome.at, refusal.retry_after)
        asked = refusal.retry_after or 0.0
        if asked > self._plan.max_wait:
            self.stop(f"{error}, longer than --max-wait", ExitStatus.TEMPORARY, drain=_DRAIN)
            self._give_up(outcome)
        elif notice.kind is not Kind.OVERLOAD:
            self._wait(job, outcome.at + asked + random.uniform(0, 0.5))
        elif job.overloads < _FREE_OVERLOADS:
            job.overloads += 1
            self._wait(job, outcome.at + self._plan.policy.draw_delay(error, job.overloads))
        else:
            self._try_again(outcome)

    def _try_again(self, outcome: Outcome) -> None:
        job, error = outcome.job, outcome.error
        assert error is not None  # noqa: S101 - it failed
        # While the service is down, an attempt tells nothing of the row.
        attempt = job.attempts + (self._breaker.opened is None)
        delay = self._plan.policy.plan_delay(error, attempt=max(1, attempt), elapsed=0.0)
        if delay is not None and not self._stopping:
            job.attempts = attempt
            self._wait(job, outcome.at + delay)
        elif is_foreign(error) and not self.tally.answered:
            self._suspect(outcome)
        else:
            self._give_up(outcome)

    def _give_up(self, outcome: Outcome) -> None:
        """Leave the row to the next run."""
        self.tally.deferred += 1
        self.tally.last_failure = str(outcome.error)
        self._sink.defer(fail(outcome, "transient", self._redact))

    def _suspect(self, outcome: Outcome) -> None:
        """Hold a row back whose refusal speaks of every row, if this was a wrong model or URL."""
        self._suspects.append(outcome)
        if len(self._suspects) >= _SUSPECTS:
            self._accuse(outcome)

    def _accuse(self, last: Outcome) -> None:
        """Nothing was answered, and this is why: it concerns every row, whatever ended the run."""
        assert last.error is not None  # noqa: S101 - it failed
        self.stop(str(last.error), last.error.status, drain=_DRAIN)
        self.tally.stop_reason, self.tally.stop_status = str(last.error), last.error.status
        suspects, self._suspects = self._suspects, []
        for outcome in suspects:
            self._give_up(outcome)

    def _acquit(self) -> list[Result]:
        """One row was answered: what was held back concerned its own rows only."""
        suspects, self._suspects = self._suspects, []
        results = []
        for outcome in suspects:
            if outcome.error is not None and not is_foreign(outcome.error):
                self.tally.failed += 1
                results.append(fail(outcome, "permanent", self._redact))
            else:
                self._give_up(outcome)
        return results

    def _wait(self, job: Job, due: float) -> None:
        heapq.heappush(self._waiting, (due, next(self._order), job))

    def _check_limits(self) -> None:
        """End attempts that take too long, and the run where a limit says so."""
        now = time.monotonic()
        plan, tally = self._plan, self.tally
        if self._flying or self._waiting or self._next:
            self._busy = now
            if self._next is not None and self.pace.is_held_by_choice:
                self._progressed = now  # as the user wants it
        else:
            self._progressed = now  # it is the input that keeps us waiting
            if self._suspects and not self._intake.ended and now - self._busy > _COURTESY:
                self._sink.write(self._acquit())  # who waits for a line before the next row
        if now - self._looked > _TICK:
            self._abort_late(now)
        if self._stopping:
            return
        if plan.deadline is not None and now - self._began > plan.deadline:
            self.stop("--deadline", ExitStatus.TEMPORARY, drain=plan.timeout)
        errors = tally.failed + tally.deferred + len(self._suspects)
        share = plan.max_error_share
        if (plan.max_errors is not None and errors > plan.max_errors) or (
            share is not None
            and tally.finished + tally.deferred >= 50
            and errors > share * (tally.finished + tally.deferred)
        ):
            self.stop("--max-errors", ExitStatus.TEMPORARY, drain=plan.timeout)
        stuck = self._breaker.opened is not None or not self._flying
        if stuck and (self._waiting or self._next) and now - self._progressed > plan.max_wait:
            why = f": {tally.trouble}" if tally.trouble else ""
            self.stop(f"no progress for --max-wait{why}", ExitStatus.TEMPORARY, drain=_TICK)

    def _abort_late(self, now: float) -> None:
        """End attempts that take too long."""
        standstill = now - self._looked
        self._looked = now
        if standstill > _STANDSTILL:
            # Stopped by ^Z, or by an output that took nothing: that time was not the service's.
            self._progressed += standstill
            for job in self._flying.values():
                job.began += standstill
        for job in self._flying.values():
            if now - job.began > self._plan.timeout:
                job.abort()
