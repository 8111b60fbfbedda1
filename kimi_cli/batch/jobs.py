"""One row on its way: an attempt, what came of it, and the result where it is final."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kimi_cli.api import codec
from kimi_cli.api.channel import Channel
from kimi_cli.api.messages import JSON, find_lack
from kimi_cli.api.refusals import Refused
from kimi_cli.api.replies import DOCUMENT_LIMIT, check_status, find_request_id, read_answer
from kimi_cli.batch.gauges import Ticket
from kimi_cli.batch.records import BadRecord, Record
from kimi_cli.batch.results import Result
from kimi_cli.errors import KimiError


@dataclass(eq=False, repr=False, slots=True)
class Job:
    """One row on its way: how often it was tried, and how often the service was too busy."""

    record: Record
    tokens: float
    attempts: int = 0
    overloads: int = 0
    sent: int = 0
    ticket: Ticket | None = None
    channel: Channel | None = None
    began: float = 0.0

    def abort(self) -> None:
        """End the attempt that is under way."""
        if self.channel is not None:
            self.channel.abort(self.record.payload)


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


def attempt(job: Job, channel: Channel) -> Outcome:
    """Send *job* once."""
    try:
        reply = channel.post(job.record.payload)
        check_status(reply)
        document = reply.veil.cover_read(read_answer(reply), reply.read(DOCUMENT_LIMIT))
        lack = find_lack(document)
    except KimiError as error:
        channel.explain(error, str(codec.loads(job.record.payload).get("model")))
        return Outcome(job, time.monotonic(), error=error)
    except Exception as error:  # noqa: BLE001 - a bug must end the run, not hang it
        return Outcome(job, time.monotonic(), error=KimiError(f"{type(error).__name__}: {error}"))
    name = reply.veil.cover(find_request_id(reply))
    return Outcome(job, time.monotonic(), reply.status, name, document, lack)


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
    took = int(1000 * (outcome.at - job.began))
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
    error = {"code": record.code, "message": record.message, "class": "permanent"}
    return Result(record, error=error)
