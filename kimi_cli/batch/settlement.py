"""What is done with a row once it was judged."""

from __future__ import annotations

from collections.abc import Callable

from kimi_cli.batch.backlog import Backlog
from kimi_cli.batch.brake import Brake
from kimi_cli.batch.jobs import Job, Outcome, complete, fail, leave
from kimi_cli.batch.results import Result
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.suspects import Suspects
from kimi_cli.batch.tally import Tally
from kimi_cli.batch.verdicts import Fate, Verdict
from kimi_cli.errors import ExitStatus, KimiError, TimedOut

DRAIN = 30.0
"""Seconds for requests in flight when the run must end: their answers may be paid for."""


class Settlement:
    """Gives every row its fate."""

    def __init__(
        self,
        sink: Sink,
        backlog: Backlog,
        *,
        tally: Tally,
        brake: Brake,
        redact: Callable[[str], str],
    ) -> None:
        """Give results to *sink*, rows that are asked again to *backlog*.

        *redact* takes secrets out of what a host says.
        """
        self._sink = sink
        self._backlog = backlog
        self._tally = tally
        self._brake = brake
        self._redact = redact
        self.suspects = Suspects()
        self._told: dict[Job, KimiError] = {}
        """What rows that wait to be asked again were told."""
        self._has_accused = False

    def settle(self, outcome: Outcome, verdict: Verdict) -> list[Result]:
        """Do with the row what was judged; return the results that are final now."""
        job = outcome.job
        is_asked_anew = verdict.fate is Fate.ASK_AGAIN
        job.has_failed = job.has_failed or (outcome.error is not None and not is_asked_anew)
        self._told.pop(job, None)
        if outcome.error is not None and verdict.fate in (Fate.AGAIN, Fate.ASK_AGAIN):
            self._told[job] = outcome.error
        match verdict.fate:
            case Fate.ANSWERED:
                return self._accept(outcome)
            case Fate.ASK_AGAIN:
                assert verdict.body is not None  # noqa: S101 - it is what is asked
                job.change(verdict.body)
                self._backlog.put(job, outcome.at)
            case Fate.AGAIN:
                job.attempts += verdict.costs_attempt
                job.overloads += verdict.costs_patience
                self._backlog.put(job, outcome.at + verdict.delay)
            case Fate.FAILED:
                return [self._reject(outcome)]
            case Fate.DEFERRED:
                self._give_up(outcome)
            case Fate.SUSPECT if self._has_accused:
                self._spare(outcome)
            case Fate.SUSPECT:
                self.suspects.hold(outcome)
                self._weigh()
            case Fate.STOP:
                assert outcome.error is not None  # noqa: S101 - or nothing would stop
                reason = verdict.reason or str(outcome.error)
                status = ExitStatus.TEMPORARY if verdict.reason else outcome.error.status
                self._brake.pull(reason, status, drain=DRAIN)
                self._spare(outcome)
        return []

    def _accept(self, outcome: Outcome) -> list[Result]:
        result = complete(outcome)
        if outcome.problem is not None:
            self._tally.failed += 1
            self._tally.invalid += 1
        else:
            self._tally.answered += 1
            self._tally.note_latency(result.milliseconds)
        self._tally.incomplete += outcome.lack is not None
        return [result, *self.acquit()]

    def _reject(self, outcome: Outcome) -> Result:
        """Take a row's refusal as its own, for good."""
        self._tally.failed += 1
        return fail(outcome, "permanent", self._redact)

    def _give_up(self, outcome: Outcome) -> None:
        """Leave the row to the next run."""
        self._tally.deferred += 1
        self._tally.last_failure = str(outcome.error)
        self._sink.defer(fail(outcome, "transient", self._redact))

    def _spare(self, outcome: Outcome) -> None:
        """Leave a row that was only the victim of what concerns every row to the next run."""
        self._tally.deferred += 1
        self._sink.spare(fail(outcome, "transient", self._redact))

    def dismiss(self, jobs: list[Job], now: float, why: str) -> None:
        """Write rows that are asked no more, with what was said to them last."""
        results = []
        for job in jobs:
            if not job.sent:
                self._tally.not_asked += 1
                results.append(leave(job.record, self._redact(why)))
                continue
            error = self._told.pop(job, None) or TimedOut(f"the run ended before the answer: {why}")
            self._tally.deferred += 1
            results.append(fail(Outcome(job, now, error=error), "transient", self._redact))
        self._sink.write(results)

    def _weigh(self) -> None:
        """Stop where what is held concerns every row; let go where it cannot."""
        if (culprit := self.suspects.find_culprit()) is not None:
            self._accuse(culprit)
        elif self.suspects.are_mixed or self.suspects.speak_of_rows:
            self._sink.write(self.acquit())

    def end(self) -> None:
        """Decide at the end, when nothing was answered."""
        if (culprit := self.suspects.find_culprit(at_end=True)) is not None:
            self._accuse(culprit)
        elif len(self.suspects):
            self._sink.write(self.acquit())

    def oblige(self) -> None:
        """Write what is held back: who waits for its line gives no other row before."""
        if len(self.suspects):
            self._sink.write(self.acquit())

    def _accuse(self, culprit: KimiError) -> None:
        """Nothing was answered, and this is why: it concerns every row, whatever ended the run."""
        self._brake.pull(str(culprit), culprit.status, drain=DRAIN)
        self._brake.explain(str(culprit), culprit.status)
        self._has_accused = True
        for outcome in self.suspects.release():
            self._spare(outcome)

    def acquit(self) -> list[Result]:
        """Return the results of what was held back: it concerned its own rows only."""
        results = []
        for outcome in self.suspects.release():
            if outcome.is_refused:
                results.append(self._reject(outcome))
            else:
                self._give_up(outcome)
        return results
