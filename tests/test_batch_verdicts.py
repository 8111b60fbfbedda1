"""What an outcome means: every verdict, without threads; and its row's fate in a real run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fronts import Bystander
from outputs import read_rows
from program import Kimi
from rows import echo, get_prompt, make_request, make_rows, write_rows
from server import ReceivedRequest, ReplayServer, Reply, refusal

from kimi_cli.api.refusals import Refusal, Refused
from kimi_cli.api.retry import RetryPolicy
from kimi_cli.batch.jobs import Job, Outcome
from kimi_cli.batch.ledger import Ledger
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.runner import Means, Runner
from kimi_cli.batch.sinks import LedgerSink
from kimi_cli.batch.suspects import Suspects
from kimi_cli.batch.tally import Tally
from kimi_cli.batch.verdicts import Context, Fate, Sign, judge
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated, TimedOut, Unreachable

POLICY = RetryPolicy(retries=2, longest=60.0, budget=float("inf"), foreign=2)


def refuse(status: int, code: str | None = None, wait: float | None = None) -> Refused:
    """A refusal."""
    return Refused(Refusal(status, code, "words", retry_after=wait))


def weigh(error: KimiError | None, *, attempts: int = 0, failed: bool = False, **known: Any) -> Any:
    """The verdict on an outcome of a row that was tried before."""
    record = make_request(1)
    job = Job(record, record.payload, 1.0, attempts=attempts, has_failed=failed)
    job.overloads = known.pop("overloads", 0)
    outcome = Outcome(job, 0.0, error=error, next_body=known.pop("next_body", None))
    context = {"policy": POLICY, "max_wait": 600.0, "has_answers": True, **known}
    return judge(outcome, Context(**context))


@pytest.mark.parametrize(
    ("error", "known", "fate", "sign"),
    [
        (None, {}, Fate.ANSWERED, Sign.WORKS),
        (None, {"next_body": b"{}"}, Fate.ASK_AGAIN, Sign.WORKS),
        (None, {"next_body": b"{}", "is_stopping": True}, Fate.ASK_AGAIN, Sign.WORKS),
        (refuse(400), {"next_body": b"{}", "has_answers": False}, Fate.ASK_AGAIN, Sign.WORKS),
        (refuse(400), {}, Fate.FAILED, Sign.WORKS),
        (refuse(400), {"has_answers": False}, Fate.SUSPECT, Sign.WORKS),
        (refuse(404, "model_not_found"), {"has_answers": False}, Fate.SUSPECT, Sign.WORKS),
        (refuse(401), {}, Fate.STOP, Sign.NOTHING),
        (refuse(402), {}, Fate.STOP, Sign.NOTHING),
        (refuse(403), {}, Fate.DEFERRED, Sign.FAILS),
        (refuse(403), {"has_answers": False}, Fate.STOP, Sign.NOTHING),
        (refuse(403, "used_up"), {}, Fate.STOP, Sign.NOTHING),
        (refuse(429, wait=601.0), {}, Fate.STOP, Sign.BUSY),
        (refuse(429, wait=3.0), {}, Fate.AGAIN, Sign.BUSY),
        (refuse(503), {}, Fate.AGAIN, Sign.BUSY),
        (refuse(503), {"overloads": 20, "attempts": 2}, Fate.DEFERRED, Sign.BUSY),
        (refuse(500, "api_error"), {}, Fate.AGAIN, Sign.FAILS),
        (refuse(500, "api_error"), {"failed": True}, Fate.AGAIN, Sign.NOTHING),
        (refuse(500, "api_error"), {"attempts": 2}, Fate.DEFERRED, Sign.FAILS),
        (refuse(500), {"attempts": 2, "has_answers": False}, Fate.SUSPECT, Sign.FAILS),
        (refuse(500), {"attempts": 2, "is_stopping": True}, Fate.DEFERRED, Sign.FAILS),
        (Unreachable("no", transient=True), {}, Fate.AGAIN, Sign.FAILS),
        (Unreachable("no"), {}, Fate.DEFERRED, Sign.FAILS),
        (Unreachable("no"), {"has_answers": False}, Fate.STOP, Sign.FAILS),
        (TimedOut("late"), {}, Fate.AGAIN, Sign.FAILS),
        (StreamTruncated("cut"), {"attempts": 2}, Fate.DEFERRED, Sign.FAILS),
        (NotTheApi("page"), {"has_answers": False}, Fate.AGAIN, Sign.NOTHING),
        (NotTheApi("page"), {"attempts": 2, "has_answers": False}, Fate.SUSPECT, Sign.NOTHING),
        (NotTheApi("page"), {"attempts": 2}, Fate.DEFERRED, Sign.FAILS),
        (KimiError("a bug"), {}, Fate.STOP, Sign.FAILS),
    ],
)
def test_an_outcome_has_one_verdict(
    error: KimiError | None, known: dict[str, Any], fate: Fate, sign: Sign
) -> None:
    """For its row, and for what is thought of the service."""
    verdict = weigh(error, **known)
    assert (verdict.fate, verdict.sign) == (fate, sign)


def test_what_costs_a_row_an_attempt() -> None:
    """Not a refusal for load; not a failure while the service is down, unless it is its own."""
    assert weigh(Unreachable("no", transient=True)).costs_attempt
    assert not weigh(Unreachable("no", transient=True), is_down=True).costs_attempt
    assert weigh(refuse(500, "api_error"), is_down=True).costs_attempt
    assert not weigh(refuse(429)).costs_attempt
    busy = weigh(refuse(503))
    assert (busy.costs_attempt, busy.costs_patience) == (False, True)
    assert weigh(refuse(503), overloads=20).costs_attempt
    assert 7 <= weigh(refuse(429, wait=7.0)).delay < 8


def test_suspects_are_judged_together() -> None:
    """Ten that were told the same, or at the end all of a kind that concerns all."""

    def gather(*errors: KimiError) -> Suspects:
        suspects = Suspects()
        for error in errors:
            record = make_request(1)
            suspects.hold(Outcome(Job(record, record.payload, 1.0), 0.0, error=error))
        return suspects

    same, other = refuse(400, "strange"), refuse(400, "else")
    assert gather(*[same] * 9).find_culprit() is None
    assert gather(*[same] * 10).find_culprit() is same
    assert gather(*[same] * 9).find_culprit(at_end=True) is None
    assert gather(other, *[same] * 9).find_culprit() is None
    assert gather(other, same).are_mixed
    assert gather(*[refuse(400, "content_filter")] * 10).find_culprit() is None
    unknown = refuse(404, "model_not_found")
    assert gather(unknown).find_culprit(at_end=True) is unknown
    assert gather(unknown).find_culprit() is None
    assert not gather(unknown, NotTheApi("page")).are_mixed


# In a run


SAME = refusal(400, "invalid_request_error", "this host wants another field")


def test_the_same_refusal_of_all_ends_a_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Whatever its status: no row is written off, and the next run asks them all."""
    write_rows(source, make_rows(200))
    server.answer(lambda request: SAME)
    result = batch(str(source), "-o", str(out), "-q")
    assert result.status == 65
    assert result.error.count("\n") == 1
    assert "this host wants another field" in result.error
    assert out.read_bytes() == b""
    assert len(server.requests) < 60
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "-q").status == 0
    assert len(read_rows(out)) == 200


def test_an_unknown_model_is_told_as_such_behind_a_gateway(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """LiteLLM says 400 where others say 404; also with --on-error write nothing is final."""
    write_rows(source, make_rows(40))
    words = "Invalid model name passed in model=kimi-x. Call `/v1/models` to view available models"
    server.answer(lambda request: refusal(400, "invalid_request_error", words))
    result = batch(str(source), "-o", str(out), "-q", "--on-error", "write")
    assert result.status == 69
    assert out.read_bytes() == b""


@pytest.mark.parametrize(
    "words", ["strange field (request id: 2026{n}a7f)", "litellm: model=kimi-x not here req_{n}"]
)
def test_ids_and_numbers_do_not_hide_that_all_are_refused_alike(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, words: str
) -> None:
    """A gateway puts the request's own name into the same words."""
    numbers = iter(range(1000, 9000))
    write_rows(source, make_rows(40))
    server.answer(
        lambda request: refusal(400, "invalid_request_error", words.format(n=next(numbers)))
    )
    assert batch(str(source), "-o", str(out), "-q").status in (65, 69)
    assert out.read_bytes() == b""


def test_few_rows_that_are_refused_alike_are_refused(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Three are not enough to blame anything but themselves."""
    write_rows(source, make_rows(3))
    server.answer(lambda request: SAME)
    assert batch(str(source), "-o", str(out), "-q").status == 4
    assert {row["kimi"]["failed"] for row in read_rows(out)} == {"permanent"}


def test_rows_that_are_refused_differently_are_refused(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Each was told its own; an answer that comes late finds them written."""

    def differ(request: ReceivedRequest) -> Reply:
        return refusal(400, "invalid_request_error", f"{get_prompt(request)} is too long")

    write_rows(source, make_rows(30))
    server.answer(differ)
    assert batch(str(source), "-o", str(out), "-q").status == 4
    assert len(read_rows(out)) == 30


@pytest.mark.parametrize("on_error", ["defer", "write"])
def test_rows_that_always_fail_do_not_stop_the_others(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, on_error: str
) -> None:
    """They are listed, and never say that the service is down, however many they are."""
    rows = make_rows(40)
    write_rows(source, rows)

    def answer(request: ReceivedRequest) -> Reply:
        number = int(get_prompt(request).removeprefix("p"))
        return refusal(500, "server_error", "boom") if number % 2 else echo(request)

    server.answer(answer)
    options = ("-o", str(out), "-q", "--retries", "1", "--on-error", on_error)
    result = batch(str(source), *options, "--max-wait", "20s")
    assert "--max-wait" not in result.error
    assert result.status == 75
    listed = read_rows(out if on_error == "write" else out.with_name(out.name + ".errors"))
    failed = [row for row in listed if "failed" in row["kimi"]]
    assert len(failed) == 20
    assert {row["kimi"]["attempts"] for row in failed} == {2}


def test_a_row_is_asked_again_with_another_body(out: Path) -> None:
    """It passes pace and budget like any other, its tokens count, and it has one line."""
    asked: list[bytes] = []

    class Answers:
        def post(self, body: bytes) -> Any:
            asked.append(body)
            return reply_with(b"again" if body == b"better" else b"prose")

        def explain(self, error: Exception, model: str) -> None:
            raise AssertionError(error)

        def close(self) -> None: ...

        def abort(self, body: bytes) -> None: ...

    def inspect(outcome: Outcome) -> None:
        assert outcome.document is not None
        if outcome.document["choices"][0]["message"]["content"] == "prose":
            outcome.next_body = b"better"

    channel: Any = Answers()
    tally, pace = Tally(), Pace(cap=2)
    with Ledger(out) as ledger:
        means = Means(lambda: channel, Bystander(), inspect)
        records = iter([make_request(1)])
        Runner(
            records, LedgerSink(ledger, "flat"), means=means, pace=pace, plan=Plan(), tally=tally
        ).run()
    assert asked[1:] == [b"better"]
    assert [row["content"] for row in read_rows(out)] == ["again"]
    assert (tally.sends, tally.answered, tally.tokens, pace.in_flight) == (2, 1, 10, 0)


def test_a_second_request_needs_a_budget_as_well(out: Path) -> None:
    """A row that always wants another answer does not spend more than is allowed."""
    sent: list[bytes] = []

    class Answers:
        def post(self, body: bytes) -> Any:
            sent.append(body)
            return reply_with(b"prose")

        def explain(self, error: Exception, model: str) -> None:
            raise AssertionError(error)

        def close(self) -> None: ...

        def abort(self, body: bytes) -> None: ...

    def inspect(outcome: Outcome) -> None:
        outcome.next_body = b"x" * (30 + len(sent))

    channel: Any = Answers()
    tally = Tally()
    with Ledger(out) as ledger:
        means = Means(lambda: channel, Bystander(), inspect)
        Runner(
            iter([make_request(1)]),
            LedgerSink(ledger, "flat"),
            means=means,
            pace=Pace(cap=2),
            plan=Plan(max_tokens=400),
            tally=tally,
        ).run()
    assert tally.stop_reason == "--max-total-tokens 400"
    assert 2 < len(sent) < 80
    assert tally.tokens <= 400


def reply_with(text: bytes) -> Any:
    """A whole answer of five tokens."""
    from http.client import HTTPMessage

    from kimi_cli.api.channel import WholeReply

    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    choice = {"message": {"content": text.decode()}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "usage": usage}).encode()
    return WholeReply(200, body, HTTPMessage())
