"""One row on its way: an attempt, what came of it, and the result where it is final."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kimi_cli.api import codec
from kimi_cli.api.allowance import Share
from kimi_cli.api.channel import Channel
from kimi_cli.api.cost import Cost
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.messages import JSON, find_lack
from kimi_cli.api.refusals import Refused
from kimi_cli.api.replies import DOCUMENT_LIMIT, check_status, find_request_id, read_answer
from kimi_cli.api.retry import is_foreign
from kimi_cli.batch.done import INVALID
from kimi_cli.batch.gauges import Ticket
from kimi_cli.batch.records import NOT_ASKED, BadRecord, Record
from kimi_cli.batch.results import Result
from kimi_cli.errors import KimiError

if TYPE_CHECKING:
    from kimi_cli.answer.forms import Fit


@dataclass(eq=False, repr=False, slots=True)
class Asked:
    """How a row was asked for an answer in a form, and what came of it so far."""

    way: str | None
    """None for a row that says itself in which form it wants its answer."""
    allows_any: bool = False
    """Whether its text will do, too, where it does not fit."""
    refused: dict[str, KimiError] = field(default_factory=dict)
    """What the host said to other ways."""
    reasks: int = 0
    complaints: list[JSON] = field(default_factory=list)
    """The messages that ask again: the last answer, and what is wrong with it."""
    usage: JSON | None = None
    """The sum of what its answers cost."""


@dataclass(eq=False, repr=False, slots=True)
class Job:
    """One row on its way: how often it was tried, and how often the service was too busy."""

    record: Record
    payload: bytes
    """What is sent for it: at first the record's own."""
    tokens: float
    """What it will use, by an estimate."""
    cost: int = 0
    """The same in money, in ``UNITS``, where that is limited."""
    paid: Cost | None = None
    """What its answers so far have cost."""
    attempts: int = 0
    """Those that failed, and count against ``--retries``."""
    overloads: int = 0
    sent: int = 0
    has_failed: bool = False
    is_fresh: bool = True
    """Whether this body was not sent yet: then it must fit into the budget."""
    ticket: Ticket | None = None
    channel: Channel | None = None
    began: float = 0.0
    asked: Asked | None = None
    """None where any answer will do."""

    def change(self, body: bytes) -> None:
        """Ask something else for the same row: its answer is to be bought anew."""
        before = self.tokens
        self.tokens += estimate_tokens(body) - estimate_tokens(self.payload)
        self.cost = round(self.cost * self.tokens / before)
        self.payload, self.is_fresh = body, True

    def is_late(self, now: float, timeout: float) -> bool:
        """Tell whether the attempt takes longer than *timeout*, without what it waits for us."""
        took = now - self.began
        if took <= timeout or self.channel is None:
            return took > timeout
        return took - self.channel.reader.waited > timeout

    def abort(self) -> None:
        """End the attempt that is under way."""
        if self.channel is not None:
            self.channel.abort(self.payload)


@dataclass(eq=False, repr=False, slots=True)
class Outcome:
    """What came back for a job: a document with its HTTP status, or an error."""

    job: Job
    at: float
    status: int = 0
    request_id: str | None = None
    document: JSON | None = None
    lack: str | None = None
    error: KimiError | None = None
    next_body: bytes | None = None
    """What is to be asked instead: the answer is whole but not what was wanted, or the host takes
    the same question only in another way."""
    fits: tuple[Fit, ...] = ()
    """What each choice of an answer is that had to have a form, and has it."""
    problem: str | None = None
    """Why it has it not."""
    share: Share | None = None
    """What a large document takes of the memory for all."""

    @property
    def retry_after(self) -> float | None:
        """The seconds that a refusal asks to wait."""
        return self.error.refusal.retry_after if isinstance(self.error, Refused) else None

    @property
    def is_refused(self) -> bool:
        """Whether the API itself refused the row, in words that no time will change."""
        error = self.error
        if not isinstance(error, Refused) or is_foreign(error):
            return False
        return not error.refusal.verdict.retryable


def attempt(job: Job, channel: Channel, inspect: Callable[[Outcome], None]) -> Outcome:
    """Send *job* once; *inspect* may see in what comes that something else is to be asked."""
    try:
        try:
            outcome = _exchange(job, channel)
        except KimiError as error:
            # Its trace would keep the reply alive as long as the error is.
            error.__cause__ = error.__context__ = None
            outcome = Outcome(job, time.monotonic(), error=error.with_traceback(None))
        inspect(outcome)
    except Exception as error:  # noqa: BLE001 - a bug must end the run, not hang it
        return Outcome(job, time.monotonic(), error=KimiError(f"{type(error).__name__}: {error}"))
    outcome.at = time.monotonic()
    return outcome


def _exchange(job: Job, channel: Channel) -> Outcome:
    """Return what comes back; raises KimiError where that is no answer."""
    try:
        reply = channel.post(job.payload)
        check_status(reply)
        document = reply.veil.cover_read(read_answer(reply), reply.read(DOCUMENT_LIMIT))
        lack = find_lack(document)
    except KimiError as error:
        channel.explain(error, str(codec.loads(job.payload).get("model")))
        raise
    name = reply.veil.cover(find_request_id(reply))
    return Outcome(job, time.monotonic(), reply.status, name, document, lack, share=reply.share)


def complete(outcome: Outcome) -> Result:
    """Make the result of a row that was answered; usage is that of all its answers."""
    job, document, error = outcome.job, outcome.document, None
    if document is not None and job.asked is not None and job.asked.reasks:
        document = {**document, "usage": job.asked.usage}
    if outcome.problem is not None:
        error = {"code": "invalid_answer", "message": outcome.problem, "class": INVALID}
    return Result(
        job.record,
        outcome.status,
        outcome.request_id,
        document,
        error,
        lack=outcome.lack,
        fits=outcome.fits,
        is_allowed=job.asked is not None and job.asked.allows_any,
        cost=job.paid,
        attempts=job.attempts + 1,
        milliseconds=max(0, int(1000 * (outcome.at - job.began))),
        share=outcome.share,
    )


def fail(outcome: Outcome, kind: str, redact: Callable[[str], str] = str) -> Result:
    """Make the result of a row that got no answer; *redact* takes secrets out of its words."""
    job, error = outcome.job, outcome.error
    refusal = error.refusal if isinstance(error, Refused) else None
    code = refusal and refusal.code and redact(refusal.code)
    shown = {
        "code": code or type(error).__name__,
        "message": redact(str(error)),
        "class": kind,
    }
    status = refusal.http_status if refusal else None
    words = refusal and refusal.message and redact(refusal.message)
    body = {"error": {"code": code, "message": words}} if refusal else None
    took = max(0, int(1000 * (outcome.at - job.began)))
    trace = redact(refusal.trace_id) if refusal and refusal.trace_id else None
    return Result(
        job.record,
        status,
        trace,
        body,
        shown,
        attempts=job.attempts + 1,
        milliseconds=took,
    )


def blame(record: BadRecord) -> Result:
    """Make the result of a row that cannot be sent."""
    error = {"code": record.code, "message": record.message, "class": record.kind}
    return Result(record, error=error)


def leave(record: Record, why: str) -> Result:
    """Make the result of a row that nobody was asked for."""
    message = f"not asked, for the run had ended: {why}"
    return Result(record, error={"code": NOT_ASKED, "message": message, "class": NOT_ASKED})
