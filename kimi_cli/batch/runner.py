"""The live run: records through channels, bounded and paced, each finished row on its way to disk.

The main thread decides: it admits rows, takes outcomes, writes results. One thread reads the
input (``batch.intake``), and each request in flight has a thread of its own (``batch.crew``). What
an outcome means is said in ``batch.verdicts``. Nothing here grows with the input.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from kimi_cli.api.channel import Channel
from kimi_cli.api.usage import Tokens
from kimi_cli.batch.accounts import book
from kimi_cli.batch.admission import Admission
from kimi_cli.batch.backlog import Backlog
from kimi_cli.batch.brake import Brake
from kimi_cli.batch.breaker import Breaker
from kimi_cli.batch.crew import Crew
from kimi_cli.batch.ending import Ending
from kimi_cli.batch.intake import Intake
from kimi_cli.batch.jobs import Job, Outcome
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.patience import Patience
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import BadRecord, Record
from kimi_cli.batch.results import Result
from kimi_cli.batch.run import Front
from kimi_cli.batch.settlement import DRAIN, Settlement
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.batch.verdicts import Context, Sign, Verdict, is_of_unknown_outcome, judge
from kimi_cli.errors import ExitStatus, OutputClosed, OutputFailed, TimedOut

_TICK = 0.2
_COURTESY = 1.0
"""Seconds without a row after which nothing is held back: somebody may wait for its line."""
_FEWEST_FOR_A_SHARE = 50
"""Rows from which on a share of errors means anything."""


@dataclass(frozen=True, eq=False, repr=False)
class Means:
    """What a run needs besides its rows: a way to the host, and who is told of it."""

    open_channel: Callable[[], Channel]
    front: Front
    inspect: Callable[[Outcome], None] = lambda outcome: None
    """Looks at what comes in the thread that brought it, and may want something else asked."""
    prepare: Callable[[Job], None] = lambda job: None
    """Says of each fresh row how its answer is to be."""


class Runner:
    """One run of a batch against a live host."""

    def __init__(
        self,
        records: Iterator[Record | BadRecord],
        sink: Sink,
        *,
        means: Means,
        pace: Pace,
        plan: Plan,
        tally: Tally,
        tell_read: Callable[[], int] = lambda: 0,
    ) -> None:
        """Run *records* and give results to *sink*.

        *tell_read* says how many bytes of the input have been read.
        """
        self._front = means.front
        self.pace = pace
        self._plan = plan
        self.tally = tally
        self._sink = sink
        self._crew = Crew(means.open_channel, means.inspect)
        self._breaker = Breaker()
        self._backlog = Backlog()
        self._patience = Patience()
        brake = Brake(tally, self._patience)
        self._settlement = Settlement(
            sink, self._backlog, tally=tally, brake=brake, redact=means.front.redact
        )
        self._admission = Admission(
            Intake(records, wake=self._crew.wake, tell_read=tell_read),
            sink,
            plan=plan,
            tally=tally,
            brake=brake,
            prepare=means.prepare,
            under_way=(self._crew, self._backlog, self._settlement.suspects),
            redact=means.front.redact,
        )
        self._ending = Ending(
            brake,
            self._patience,
            rows=(self._admission, self._settlement),
            under_way=(self._crew, self._backlog),
            plan=plan,
            tally=tally,
        )

    def run(self) -> None:
        """Carry the run out. What stopped it, and what is left, is in the tally.

        Raises BadInput when the input itself cannot be read, OutputFailed when writing fails,
        TemporaryFailure when there is not one thread to be had.
        """
        try:
            with self._crew.at_work():
                while self._go_on():
                    self._take_outcomes(self._dispatch())
                    self._check_limits()
                    if (loss := self._sink.settle()) is not None:
                        self._ending.begin(loss, ExitStatus.IO, drain=DRAIN)
                    self._front.tick(self)
                self._settlement.end()
                self.tally.is_whole = self._ending.is_filled_up
        except OutputFailed as error:
            self.tally.stop_reason, self.tally.stop_status = str(error), error.status
            raise
        finally:
            self.tally.unknown += len(self._crew)
            self.tally.limits = self.pace.list_limits()
            self._admission.stop()

    def stop(self, reason: str, status: ExitStatus | None, *, drain: float) -> None:
        """Send nothing more; wait *drain* seconds for what is in flight, and leave the rest."""
        self._ending.begin(reason, status, drain=drain, at_once=True)

    @property
    def in_flight(self) -> int:
        """How many requests are out."""
        return len(self._crew)

    @property
    def limit(self) -> int:
        """How many may be out at once."""
        return int(self.pace.limit)

    def explain_limit(self) -> str:
        """Say what holds the run back now."""
        if self._breaker.opened is not None:
            return "the service fails; probing"
        with contextlib.suppress(OutputClosed):
            if (block := self._sink.find_block()) is not None:
                return block
        if not len(self._backlog) and self.in_flight < self.limit:
            return "the last answers" if self._admission.has_ended else "the input"
        return self.pace.reason

    def _go_on(self) -> bool:
        fills_up = self._ending.has_begun and self._ending.is_filled_up
        if self._ending.has_begun and not fills_up:
            self._admission.stop()  # not in stop(), which a signal may have called in mid-take
        if len(self._crew):
            return fills_up or not self._patience.is_over
        if self._ending.has_begun and not fills_up:
            return False
        return not self._admission.has_ended or len(self._backlog) > 0

    def _dispatch(self) -> float:
        """Send whatever may leave now; return how long to wait for outcomes at most."""
        while not self._ending.has_begun:
            self._patience.look()
            now = self._patience.now
            job = self._backlog.take(now) or self._admission.admit()
            if job is None:
                due = self._backlog.find_due(now)
                if due is None and self._admission.has_ended and not len(self._crew):
                    return 0.0
                return _TICK if due is None else min(_TICK, due)
            wait = self._find_wait(now, job)
            if wait > 0:
                self._backlog.keep(job)
                return min(_TICK, wait)
            self._send(job, now)
        return 0.0 if self._ending.is_filled_up and self._ending.fill_up() else _TICK

    def _find_wait(self, now: float, job: Job) -> float:
        if self._sink.find_block() is not None and not job.sent:
            return _TICK  # a row that was sent before is in the window already
        if job.is_fresh and self._admission.exceeds_budget(job):
            return _TICK
        if self._breaker.opened is not None:
            return self._breaker.find_wait(now) if not len(self._crew) else _TICK
        wait = self.pace.find_wait(now, job.tokens)
        return _TICK if wait is None else wait

    def _send(self, job: Job, now: float) -> None:
        self._breaker.probe(now)
        job.ticket = self.pace.admit(now, job.tokens)
        job.began = now
        self.tally.sends += 1
        self.tally.retries += job.sent > 0
        job.sent += 1
        job.is_fresh = False
        if (most := self._crew.send(job)) is not None:
            self.pace.confine(most)

    def _take_outcomes(self, seconds: float) -> None:
        """Wait for an outcome, take all that are there, and write what they finish."""
        results: list[Result] = []
        try:
            for outcome in self._crew.wait(seconds, self._patience.find_standstill):
                results += self._take(outcome)
        finally:
            if results:
                self._sink.write(results)

    def _take(self, outcome: Outcome) -> list[Result]:
        """Learn from *outcome*; return the results that are final now."""
        context = Context(
            policy=self._plan.policy,
            max_wait=self._plan.max_wait,
            has_answers=self.tally.answered + self.tally.invalid > 0,
            is_down=self._breaker.opened is not None,
            is_stopping=self._ending.has_begun,
        )
        verdict = judge(outcome, context)
        if outcome.error is not None and outcome.next_body is None:
            self.tally.trouble = str(outcome.error)
            self.tally.unknown += is_of_unknown_outcome(outcome.error)
        used = Tokens()
        if outcome.document is not None:
            spending = self.tally.spending
            used = book(outcome.document, outcome.job, self._plan.prices, spending)
            self._admission.budget.note(outcome.job.payload, used)
        self._learn(outcome, verdict, used.total)
        if self._breaker.opened is not None and not context.is_down:
            # It has shown that the service is down: then it tells nothing of its row.
            verdict = judge(outcome, replace(context, is_down=True))
        return self._settlement.settle(outcome, verdict)

    def _learn(self, outcome: Outcome, verdict: Verdict, used: int) -> None:
        """Tell pace and breaker what an outcome says of the service."""
        job, at = outcome.job, outcome.at
        assert job.ticket is not None  # noqa: S101 - it was sent
        if verdict.notice is not None:
            self.tally.refusals[verdict.notice.kind.value] += 1
            self.pace.refuse(job.ticket, verdict.notice, at, outcome.retry_after)
        elif verdict.sign is Sign.WORKS:
            self.pace.succeed(job.ticket, at, used)
            self._patience.progress(at)
        else:
            self.pace.fail(at, in_time=not isinstance(outcome.error, TimedOut))
        if verdict.sign is Sign.FAILS:
            self._breaker.note(at, good=False)
        elif verdict.sign is Sign.WORKS and self._breaker.note(at, good=True):
            self.pace.restart(at)

    def _check_limits(self) -> None:
        """End attempts that take too long, and the run where a limit says so."""
        patience = self._patience
        self._crew.excuse(patience.find_standstill())
        if len(self._crew) or len(self._backlog):
            patience.be_busy()
            if self._backlog.has_next and self.pace.is_held_by_choice:
                patience.progress(patience.now)  # as the user wants it
        else:
            patience.progress(patience.now)  # it is the input that keeps us waiting
            if patience.idle > _COURTESY and not self._admission.has_ended:
                self._settlement.oblige()
        if patience.tick(_TICK):
            self._crew.abort_late(patience.now, self._plan.timeout)
        if not self._ending.has_begun:
            self._check_run()

    def _check_run(self) -> None:
        """Stop the run where a limit of the whole says so."""
        plan, tally = self._plan, self.tally
        if plan.deadline is not None and self._patience.elapsed > plan.deadline:
            status, drain = ExitStatus.TEMPORARY, plan.timeout
            self._ending.begin("--deadline", status, drain=drain, in_time=True)
        errors = tally.failed + tally.deferred + len(self._settlement.suspects)
        errors -= tally.invalid if plan.allow_invalid else 0
        rows = tally.finished + tally.deferred
        share = plan.max_error_share
        if (plan.max_errors is not None and errors > plan.max_errors) or (
            share is not None and rows >= _FEWEST_FOR_A_SHARE and errors > share * rows
        ):
            self._ending.begin("--max-errors", ExitStatus.TEMPORARY, drain=plan.timeout)
        is_stuck = self._breaker.opened is not None or not len(self._crew)
        if is_stuck and len(self._backlog) and self._patience.stuck > plan.max_wait:
            why = f": {tally.trouble}" if tally.trouble else ""
            self._ending.begin(
                f"no progress for --max-wait{why}", ExitStatus.TEMPORARY, drain=_TICK
            )
