"""Which fresh row may be asked for next, and whether there is enough for it."""

from __future__ import annotations

from collections.abc import Callable, Sized

from kimi_cli.batch.backlog import Backlog
from kimi_cli.batch.brake import Brake
from kimi_cli.batch.budget import Budget
from kimi_cli.batch.crew import Crew
from kimi_cli.batch.intake import Intake
from kimi_cli.batch.jobs import Job, blame, leave
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import NOT_ASKED, BadRecord, Record
from kimi_cli.batch.results import Result
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus, KimiError

_AT_ONCE = 1024
"""Rows that are dismissed before anything else is looked at."""


class Admission:
    """Takes rows from the input, as many as the plan and its budget allow."""

    def __init__(
        self,
        intake: Intake,
        sink: Sink,
        *,
        plan: Plan,
        tally: Tally,
        brake: Brake,
        prepare: Callable[[Job], None],
        under_way: tuple[Crew, Backlog, Sized],
        redact: Callable[[str], str],
    ) -> None:
        """Take from *intake*; those that are *under_way* count, as do those in *tally*.

        *prepare* says of each row how its answer is to be; *redact* takes secrets out of what is
        told to rows.
        """
        self._redact = redact
        self._intake = intake
        self._sink = sink
        self._plan = plan
        self._tally = tally
        self._brake = brake
        self._prepare = prepare
        self._crew, self._backlog, self._held = under_way
        self.budget = Budget(plan)

    @property
    def has_ended(self) -> bool:
        """Whether there are no more rows."""
        return self._intake.ended

    def stop(self) -> None:
        """Read no further."""
        self._intake.stop()

    def admit(self) -> Job | None:
        """Return the next fresh row that can be sent; those before it are written as errors."""
        bad: list[Result] = []
        job: Job | None = None
        while job is None and not self._has_all_rows():
            record = self._take_record()
            if record is None:
                break
            if isinstance(record, Record) and (fault := self.budget.find_fault(record)) is not None:
                self._brake.pull(fault, ExitStatus.DATA, drain=self._plan.timeout)
                break
            self._sink.expect(record.number)
            if isinstance(record, BadRecord):
                bad.append(self._blame(record))
                if record.condemns:
                    self._brake.pull(record.condemns, ExitStatus.DATA, drain=0)
                    break
            elif self._sink.answer(record):
                if self._sink.find_block() is not None:
                    break
            else:
                job = self.budget.make_job(record)
                self._prepare(job)
        if bad:
            self._sink.write(bad)
        return job

    def dismiss(self) -> bool:
        """Write rows that came since the run was stopped; tell whether there are more."""
        left: list[Record | BadRecord] = []
        while len(left) < _AT_ONCE and self._sink.find_block() is None:
            record = self._take_record()
            if record is None:
                break
            left.append(record)
        self._leave(left)
        return len(left) == _AT_ONCE

    def _leave(self, records: list[Record | BadRecord]) -> None:
        """Write *records* as those that nobody was asked for; a bad one says what is wrong."""
        why = self._redact(self._tally.stop_reason or "")
        results = []
        for record in records:
            self._sink.expect(record.number)
            if isinstance(record, BadRecord):
                results.append(self._blame(record))
            else:
                self._tally.not_asked += 1
                results.append(leave(record, why))
        self._sink.write(results)

    def _blame(self, record: BadRecord) -> Result:
        if record.kind == NOT_ASKED:
            self._tally.not_asked += 1
        else:
            self._tally.failed += 1
        return blame(record)

    def _take_record(self) -> Record | BadRecord | None:
        """Take the next row; input that cannot be read ends the run, but not what is in flight."""
        try:
            return self._intake.take()
        except KimiError as error:
            self._brake.pull(str(error), error.status, drain=self._plan.timeout)
            return None

    def _has_all_rows(self) -> bool:
        """Admit no fresh row at --max-rows; stop there, unless the input ends there as well."""
        plan, tally = self._plan, self._tally
        admitted = tally.finished + tally.deferred
        admitted += len(self._crew) + len(self._backlog) + len(self._held) + self._sink.waiting
        if plan.max_rows is None or admitted < plan.max_rows:
            return False
        is_idle = not len(self._crew) and not self._backlog.waiting
        if is_idle and (record := self._take_record()) is not None:
            self._brake.pull(f"--max-rows {plan.max_rows}", ExitStatus.TEMPORARY, drain=0)
            if plan.fills_up:
                self._leave([record])
        return True

    def exceeds_budget(self, job: Job) -> bool:
        """Tell whether *job* must wait for what is under way; stop where that cannot help."""
        under_way = [*self._crew.jobs, *self._backlog.waiting]
        limit = self.budget.find_excess(job, under_way, self._tally.spending)
        if limit is None:
            return False
        if not under_way:
            if self._tally.sends:
                self._brake.pull(limit, ExitStatus.TEMPORARY, drain=0)
            else:
                self._brake.pull(f"{limit} is less than one row may use", ExitStatus.DATA, drain=0)
        return True
