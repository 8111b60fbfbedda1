"""What an outcome means: for its row, for the run, and for what is thought of the service. Pure.

A row is answered, asked again, refused for good, left to the next run, or held back; or what was
said concerns every row, and the run stops. A refusal in the API's own words is judged by them
(``api.refusals``); what broke on the way tells of the service, or of whoever stands before it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum, auto

from kimi_cli.api.refusals import Refused
from kimi_cli.api.refusals import Verdict as Meaning
from kimi_cli.api.retry import RetryPolicy, is_foreign, is_transient
from kimi_cli.batch.jobs import Outcome
from kimi_cli.batch.notices import Kind, Notice, read_notice
from kimi_cli.errors import KimiError, StreamTruncated, TimedOut, Unreachable

_SOON, _FREE_OVERLOADS = 5, 20
"""Times that a row is told of overload before it waits longer, and before that costs attempts."""
_JITTER = 0.5
_FATAL = (
    Meaning.TOKEN_REFUSED,
    Meaning.QUOTA_USED_UP,
    Meaning.SPENT_FOR_NOW,
    Meaning.HEADER_MISSING,
)


class Fate(Enum):
    """What becomes of the row."""

    ANSWERED = auto()
    ASK_AGAIN = auto()
    """Another body is sent: the answer is not what was asked for, or the host takes another."""
    AGAIN = auto()
    FAILED = auto()
    """For good: its own fault."""
    DEFERRED = auto()
    """Left to the next run."""
    SUSPECT = auto()
    """Held back: what was said may concern every row."""
    STOP = auto()
    """What was said does concern every row: the run ends."""


class Sign(Enum):
    """What an outcome tells of the service."""

    WORKS = auto()
    FAILS = auto()
    BUSY = auto()
    """It refuses for load."""
    NOTHING = auto()


@dataclass(frozen=True, eq=False, repr=False)
class Verdict:
    """What an outcome means."""

    fate: Fate
    sign: Sign = Sign.NOTHING
    delay: float = 0.0
    """Seconds until the row is asked again."""
    costs_attempt: bool = False
    costs_patience: bool = False
    """Whether it is one of the refusals for overload that a row has for nothing."""
    notice: Notice | None = None
    """What a busy service says of its limit."""
    reason: str = ""
    """What is told where it is not what the host said."""
    body: bytes | None = None
    """What is sent instead, for ASK_AGAIN."""


@dataclass(frozen=True, eq=False, repr=False)
class Context:
    """What the run knows at the moment of an outcome."""

    policy: RetryPolicy
    max_wait: float
    has_answers: bool
    """Whether any row of this run was answered."""
    is_down: bool = False
    """Whether the service is taken to be down, so that an attempt tells nothing of its row."""
    is_stopping: bool = False


def judge(outcome: Outcome, context: Context) -> Verdict:
    """Return what *outcome* means."""
    error = outcome.error
    if outcome.next_body is not None:  # while the run stops, the row waits for the next one
        return Verdict(Fate.ASK_AGAIN, Sign.WORKS, body=outcome.next_body)
    if error is None:
        return Verdict(Fate.ANSWERED, Sign.WORKS)
    if isinstance(error, Refused) and not is_foreign(error):
        return _judge_refusal(outcome, error, context)
    worked = isinstance(error, Unreachable) and context.has_answers
    if is_transient(error) or is_foreign(error) or worked:
        # Before the first answer a page of somebody else tells of a wrong URL, not of an outage.
        speaks = context.has_answers or not is_foreign(error)
        return _judge_failure(outcome, error, context, Sign.FAILS if speaks else Sign.NOTHING)
    return Verdict(Fate.STOP, Sign.FAILS)


def is_of_unknown_outcome(error: KimiError) -> bool:
    """Tell whether the host may have answered, and billed, what did not arrive."""
    return isinstance(error, StreamTruncated) or (isinstance(error, TimedOut) and error.sent)


def _judge_refusal(outcome: Outcome, error: Refused, context: Context) -> Verdict:
    meaning = error.refusal.verdict
    if meaning in (Meaning.RATE_LIMITED, Meaning.OVERLOADED):
        return _judge_load(outcome, error, context)
    if context.has_answers and error.refusal.http_status == 403 and error.refusal.code is None:
        # The token was good a moment ago: this is a firewall, which speaks of one prompt.
        return _judge_failure(outcome, error, context, Sign.FAILS)
    if meaning in _FATAL:
        return Verdict(Fate.STOP, Sign.NOTHING)
    if meaning is Meaning.SERVER_FAILED:
        # A row that fails again speaks of itself; whether the service is down, others tell.
        sign = Sign.NOTHING if outcome.job.has_failed else Sign.FAILS
        return _judge_failure(outcome, error, context, sign)
    # A service that refuses a row is there. Until one is answered, it may refuse them all.
    fate = Fate.FAILED if context.has_answers else Fate.SUSPECT
    return Verdict(fate, Sign.WORKS)


def _judge_load(outcome: Outcome, error: Refused, context: Context) -> Verdict:
    """Judge a refusal for load, which costs a row no attempt."""
    job, refusal = outcome.job, error.refusal
    notice = read_notice(refusal) if refusal.http_status == 429 else Notice(Kind.OVERLOAD)
    asked = refusal.retry_after or 0.0
    if asked > context.max_wait:
        reason = f"{error}, longer than --max-wait"
        return Verdict(Fate.STOP, Sign.BUSY, notice=notice, reason=reason)
    if notice.kind is not Kind.OVERLOAD:
        delay = asked + random.uniform(0, _JITTER)
        return Verdict(Fate.AGAIN, Sign.BUSY, delay, notice=notice)
    if job.overloads < _SOON:  # it may be a limit in other words: the pace sees to it
        delay = asked + random.uniform(0, _JITTER)
        return Verdict(Fate.AGAIN, Sign.BUSY, delay, costs_patience=True, notice=notice)
    if job.overloads < _FREE_OVERLOADS:
        delay = context.policy.draw_delay(error, job.overloads + 1)
        return Verdict(Fate.AGAIN, Sign.BUSY, delay, costs_patience=True, notice=notice)
    verdict = _judge_failure(outcome, error, context, Sign.BUSY)
    return Verdict(verdict.fate, Sign.BUSY, verdict.delay, verdict.costs_attempt, notice=notice)


def _judge_failure(outcome: Outcome, error: KimiError, context: Context, sign: Sign) -> Verdict:
    """Try again while the row has attempts left."""
    # While the service is down, an attempt tells nothing of the row; its own words always do.
    costs = not context.is_down or (isinstance(error, Refused) and not is_foreign(error))
    attempt = max(1, outcome.job.attempts + costs)
    delay = context.policy.plan_delay(error, attempt=attempt, elapsed=0.0)
    if delay is not None and not context.is_stopping:
        return Verdict(Fate.AGAIN, sign, delay, costs_attempt=costs)
    may_concern_all = isinstance(error, Refused) or is_foreign(error)
    if may_concern_all and not context.has_answers and not context.is_stopping:
        return Verdict(Fate.SUSPECT, sign)
    return Verdict(Fate.DEFERRED, sign)
