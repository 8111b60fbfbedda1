"""kimi batch as a worker: its limits, its pace, its signals, and what it tells of itself."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from program import Kimi, Running
from rows import SILENT, echo, get_prompt, hold, list_ids, make_rows, read_rows, write_rows
from server import (
    Barrier,
    Mark,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Wait,
    completion,
    refusal,
)

from kimi_cli.api.refusals import Refusal
from kimi_cli.batch.breaker import Breaker
from kimi_cli.batch.notices import read_notice
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.progress import LogProgress
from kimi_cli.batch.records import Record, Shape, read_records
from kimi_cli.batch.results import Result
from kimi_cli.batch.runner import Plan, Runner
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus, TimedOut

FORBIDDEN = refusal(403, "forbidden", "moderation")
FAILED = refusal(500, "api_error", "fetch failed")
KEYS = [
    "done", "errors", "retries", "in_flight", "limit", "rows_per_second", "tokens_per_second",
    "eta_seconds", "limited_by",
]  # fmt: skip
"""What the manual says of --progress json."""


def charge(prompt: int, answer: int) -> Reply:
    """Answer at that price in tokens."""
    return completion("x", usage={"prompt_tokens": prompt, "completion_tokens": answer})


def slow(reply: Reply) -> Reply:
    """Keep the body of *reply* back for a moment."""
    return reply.but(body=[Wait(0.2), *reply.body])


def write_input(path: Path, count: int, *, prompt: str = "p{}") -> list[str]:
    """Write *count* rows with ids, which are returned."""
    return list_ids(write_rows(path, make_rows(count, prompt)))


def read_ids(path: Path) -> list[str]:
    """Return the ids of an output, sorted as their numbers are."""
    return sorted((row["custom_id"] for row in read_rows(path)), key=lambda name: int(name[1:]))


def follow_prompts(server: ReplayServer) -> list[str]:
    """Return what was asked, in the order of arrival."""
    return [get_prompt(request) for request in server.requests]


def finish(batch: Kimi, server: ReplayServer, source: Path, out: Path, ids: list[str]) -> None:
    """Run without limits against a healthy host: only what is missing is asked, and kept once."""
    kept, before = read_ids(out) if out.exists() else [], len(server.requests)
    server.answer(echo)
    has_failures = out.exists() and any(row["error"] for row in read_rows(out))
    result = batch(str(source), "-o", str(out))
    assert result.status == (4 if has_failures else 0), result.error
    assert read_ids(out) == ids
    assert len(server.requests) - before == len(ids) - len(kept)
    assert not Path(f"{out}.errors").exists()


def await_status(run: Running, wanted: bytes) -> None:
    """Ask how the run stands until that is part of the answer."""
    lines: list[bytes] = []
    while not lines or wanted not in lines[-1]:
        assert len(lines) < 2000, lines[-5:]
        run.signal(signal.SIGUSR1)
        lines.append(run.expect(b"\n", "stderr"))
        time.sleep(0.01)  # asked without a pause, the run would do nothing but answer


class Crowd:
    """Counts how many requests are at the server at once."""

    def __init__(self, expected: int) -> None:
        """Hold the first answers back until *expected* requests are there."""
        self._lock = threading.Lock()
        self._expected = expected
        self._assembled = threading.Event()
        self._now = 0
        self.highest = 0

    def answer(self, request: ReceivedRequest) -> Reply:
        """Answer with the prompt, a moment after the others are there."""
        with self._lock:
            self._now += 1
            self.highest = max(self.highest, self._now)
            if self._now >= self._expected:
                self._assembled.set()
        crowd = self

        class Leave(threading.Event):
            def set(self) -> None:
                with crowd._lock:
                    crowd._now -= 1

        whole = echo(request)
        steps = [Barrier(self._assembled), Wait(0.02), Mark(Leave()), *whole.body]
        return whole.but(body=steps)


# Limits of the run


def test_the_budget_of_tokens_is_kept(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Stopped before it is exceeded, exit 75; a larger one finishes, and pays nothing twice."""
    ids = write_input(source, 30)
    server.answer(lambda request: charge(40, 60))
    result = batch(str(source), "-o", str(out), "--max-total-tokens", "1000")
    assert result.status == 75
    assert "--max-total-tokens 1000" in result.error
    assert 3 <= len(server.requests) == len(read_rows(out))
    assert 100 * len(server.requests) <= 1000
    result = batch(str(source), "-o", str(out), "--max-total-tokens", "100000")
    assert result.status == 0, result.error
    assert read_ids(out) == ids
    assert len(server.requests) == 30


@pytest.mark.parametrize(
    ("prompt", "price", "options", "budget"),
    [
        ("x" * 32_000 + "{}", (9400, 10), (), 12_000),
        ("p{}", (10, 990), ("--max-tokens", "990"), 5000),
        ("p{}", (10, 990), ("-c", "1"), 4600),
    ],
    ids=["long prompts", "known maximum", "known by experience"],
)
def test_the_budget_of_tokens_is_kept_where_rows_are_large(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    prompt: str, price: tuple[int, int], options: tuple[str, ...], budget: int,
) -> None:  # fmt: skip
    """What the next row will cost is known: by its length, its --max-tokens, or those before."""
    write_input(source, 20, prompt=prompt)
    server.answer(lambda request: charge(*price))
    result = batch(str(source), "-o", str(out), "--max-total-tokens", str(budget), *options)
    assert result.status == 75
    assert 1 <= len(server.requests) <= budget // sum(price)


def test_a_run_ends_after_some_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-errors 2: the third ends it, exit 75; the same command goes on behind them."""
    ids = write_input(source, 12)
    server.answer(lambda request: FORBIDDEN)
    command = (str(source), "-o", str(out), "-c", "1", "--max-errors", "2")
    for run in (1, 2):
        result = batch(*command)
        assert result.status == 75
        assert "stopped: --max-errors" in result.error
        assert follow_prompts(server) == [f"p{n}" for n in range(3 * run)]
        assert read_ids(out) == ids[: 3 * run]
    finish(batch, server, source, out, ids)


def test_a_run_ends_after_a_share_of_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-errors P%: judged from the 50th row on, and resumable."""
    ids = write_input(source, 60)

    def answer(request: ReceivedRequest) -> Reply:
        return FORBIDDEN if int(get_prompt(request)[1:]) % 5 == 4 else echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "-c", "1")
    assert batch(*command, "--max-errors", "19.9%").status == 75
    assert read_ids(out) == ids[:50]
    finish(batch, server, source, out, ids)
    out.unlink()
    server.answer(answer)
    assert batch(*command, "--max-errors", "20%").status == 4
    assert read_ids(out) == ids


def test_rows_with_errors_count_as_rows(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows counts a line that cannot be read, one that is refused, one that failed."""
    source.write_text('{torn\n"refused"\n"failed"\n"good"\n"next"\n')
    special = {"refused": FORBIDDEN, "failed": FAILED}
    server.answer(lambda request: special.get(get_prompt(request)) or echo(request))
    command = (str(source), "-o", str(out), "-c", "1", "--retries", "0", "--max-rows")
    assert batch(*command, "4").status == 75
    assert follow_prompts(server) == ["refused", "failed", "good"]
    assert [row["custom_id"] for row in read_rows(out)] == ["row-1", "row-2", "row-4"]
    special.clear()
    assert batch(*command, "2").status == 4
    assert follow_prompts(server)[3:] == ["failed", "next"]


def test_a_deadline_ends_a_run(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """No more rows leave, what is in flight is kept, exit 75, and the same command goes on."""
    ids = write_input(source, 8)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    options = ("-c", "2", "--deadline", "0.5s", "--progress", "json")
    run = batch.start(str(source), "-o", str(out), *options)
    run.expect(b'"in_flight": 2', "stderr")  # a second has passed
    gate.set()
    result = run.wait()
    assert result.status == 75
    assert "stopped: --deadline" in result.error
    assert read_ids(out) == ids[:2]
    finish(batch, server, source, out, ids)


def test_a_deadline_ends_a_run_whose_input_is_silent(batch: Kimi, server: ReplayServer) -> None:
    """A pipe that stays open and gives nothing holds nobody."""
    server.answer(echo)
    run = batch.start("--deadline", "0.5s", "--format", "text", stdin="pipe")
    run.write(b'"one"\n')
    run.expect(b'"re: one"\n')
    assert run.wait(timeout=10).status == 75


# Pace


@pytest.mark.parametrize("limit", [1, 3])
def test_never_more_at_once_than_allowed(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, limit: int
) -> None:
    """-c is kept, and used, as the server sees it."""
    ids = write_input(source, 12)
    crowd = Crowd(expected=limit)
    server.answer(crowd.answer)
    assert batch(str(source), "-o", str(out), "-c", str(limit)).status == 0
    assert crowd.highest == limit
    assert read_ids(out) == ids
    assert server.connections == limit


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        (("--rpm", "3"), 3),
        (("--rpm", "6", "--share", "3"), 2),
        (("--tpm", "1200", "--share", "2"), 2),
    ],
)
def test_rates_are_kept(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    options: tuple[str, ...], allowed: int,
) -> None:  # fmt: skip
    """--rpm and --tpm, or this process's share of them: the next row waits for its minute."""
    write_input(source, 6)
    server.answer(lambda request: charge(20, 260))
    run = batch.start(str(source), "--format", "text", *options)
    for _ in range(allowed):
        run.expect(b'"x"\n')
    run.signal(signal.SIGTERM)
    assert run.wait().status == -signal.SIGTERM
    assert len(server.requests) == allowed


@pytest.mark.parametrize("rpm", [1.0, 7.0, 200.0])
def test_no_minute_holds_more_requests(rpm: float) -> None:
    """Sliding windows, in virtual time."""
    sent = send_for_minutes(Pace(rpm=rpm), 0.0)
    for start in sent:
        assert sum(start <= moment < start + 60 for moment in sent) <= rpm
    assert len(sent) >= 4 * rpm


def test_less_than_one_request_a_minute() -> None:
    """A share may be less than one: --rpm 1 --share 2."""
    assert len(send_for_minutes(Pace(rpm=0.5), 0.0)) <= 3


@pytest.mark.parametrize("used", [50, 200, 400])
def test_tokens_are_counted_as_used(used: int) -> None:
    """Estimates are corrected by what an answer really used: the rest may be spent, no more."""
    pace, spent = Pace(tpm=1000), []
    now = 0.0
    while now < 300:
        if (wait := pace.find_wait(now, 200)) == 0:
            pace.succeed(pace.admit(now, 200), now, used)
            spent.append(now)
        else:
            now += wait or 0.1
    excess = max(0, used - 200)  # only the last one of a window can come as a surprise
    for start in spent:
        assert sum(used for moment in spent if start <= moment < start + 60) <= 1000 + excess
    assert len(spent) * used >= 3 * 1000


def test_a_share_of_what_is_announced_or_documented() -> None:
    """Each of K processes takes a K-th of the limits, and at least one request."""
    for share, admitted in ((2, 10), (4, 5), (100, 1)):
        pace = Pace(start=16, share=share)
        tickets = [pace.admit(0.0) for _ in range(16)]
        words = "Your account reached organization max concurrency: 20, please try again"
        notice = read_notice(Refusal(429, "rate_limit_reached_error", words))
        pace.refuse(tickets[0], notice, 0.1, None)
        assert int(pace.limit) == admitted
        assert pace.reason == f"concurrency {admitted} (announced)"
    assert len(send_for_minutes(Pace(rate=60, share=4), 0.0, minutes=1)) <= 15 * 60 + 15


def send_for_minutes(pace: Pace, tokens: float, minutes: int = 5) -> list[float]:
    """Send as fast as *pace* permits, with answers at once; return the moments."""
    now, sent = 0.0, []
    while now < 60 * minutes:
        wait = pace.find_wait(now, tokens)
        if wait == 0:
            pace.succeed(pace.admit(now, tokens), now)
            sent.append(now)
        else:
            assert wait is not None
            now += wait
    return sent


def test_the_announced_concurrency_is_believed(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Moonshot's text names the limit: our share is kept and told, and no row loses an attempt."""
    ids = write_input(source, 17)
    gate, lock = threading.Event(), threading.Lock()
    allowed: list[ReceivedRequest] = []
    words = "Your account reached organization max concurrency: 7, please try again"
    busy = refusal(429, "rate_limit_reached_error", words, dialect="moonshot")

    def answer(request: ReceivedRequest) -> Reply:
        with lock:
            if gate.is_set() or len(allowed) < 3:
                allowed.append(request)
                return hold(gate, echo(request))
        return busy

    server.answer(answer)
    summary = out.with_name("summary.json")
    options = ("--share", "2", "--summary", str(summary))
    run = batch.start(str(source), "-o", str(out), *options)
    server.await_requests(16)
    await_status(run, b"limited by concurrency 3 (announced)")
    assert len(server.requests) <= 16 + 3
    gate.set()
    assert run.wait().status == 0
    assert read_ids(out) == ids
    assert {row["kimi"]["attempts"] for row in read_rows(out)} == {1}
    figures = json.loads(summary.read_text())
    assert figures["refusals"] == {"concurrency": len(server.requests) - 17}


@pytest.mark.parametrize(
    "busy",
    [
        refusal(503, "server_unavailable", "busy", headers={"Retry-After": "1"}),
        refusal(429, "too_many_requests", "slow down", headers={"Retry-After": "1"}),
    ],
    ids=["503", "429"],
)
def test_a_host_that_asks_to_wait_is_heeded(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, busy: Reply
) -> None:
    """Retry-After is a floor, and the row is answered after it."""
    write_input(source, 1)
    server.script(busy, completion("late"))
    assert batch(str(source), "-o", str(out), "--retries", "0").status == 0
    first, second = server.requests
    assert second.at - first.at >= 1
    assert read_ids(out) == ["r0"]


# Hosts that fail


def test_a_host_that_always_fails_is_given_up(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """After --max-wait, with one line of reason and few requests; every row stays to be asked."""
    ids = write_input(source, 100)
    server.answer(lambda request: FAILED)
    result = batch(str(source), "-o", str(out), "--max-wait", "0.5s", "-q")
    assert result.status == 75
    assert result.error.count("\n") == 1
    assert "--max-wait" in result.error
    assert 20 <= len(server.requests) <= 64
    assert out.read_bytes() == b""
    finish(batch, server, source, out, ids)


def test_a_host_that_is_not_there_is_given_up(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A refused connection is an outage like any other."""
    write_input(source, 100)
    server.close()
    summary = out.with_name("summary.json")
    options = ("--max-wait", "0.5s", "-q", "--summary", str(summary))
    result = batch(str(source), "-o", str(out), *options)
    assert result.status == 75, result.error
    assert result.error.count("\n") == 1
    assert "--max-wait" in result.error
    assert 20 <= json.loads(summary.read_text())["attempts"] <= 64


def test_a_pause_of_the_input_is_no_outage(batch: Kimi, server: ReplayServer) -> None:
    """--max-wait counts what the service takes: a row that comes late has its chance."""
    busy = refusal(429, "rate_limited", "too many")
    server.script(busy, completion("late"))
    options = ("--max-wait", "0.9s", "--format", "text", "--progress", "json")
    run = batch.start(*options, stdin="pipe")
    run.expect(b"limited_by", "stderr")  # a second has passed
    run.write(b'"one"\n')
    run.end_input()
    result = run.wait()
    assert result.status == 0, result.error
    assert result.stdout == b'"late"\n'


def test_the_breaker_opens_and_closes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most of 20 attempts in 10 seconds; then single probes, ever rarer, until one succeeds."""
    monkeypatch.setattr("random.uniform", lambda low, high: (low + high) / 2)
    breaker = Breaker()
    for number in range(19):
        breaker.note(number / 10, good=False)
    assert breaker.find_wait(2.0) == 0
    breaker.note(2.0, good=False)
    now, waits = 2.0, []
    for _ in range(6):
        waits.append(breaker.find_wait(now))
        now += waits[-1]
        assert breaker.find_wait(now) == 0
        breaker.probe(now)
        assert not breaker.note(now, good=False)
    assert waits == [5, 10, 20, 40, 60, 60]
    assert breaker.note(now, good=True), "the success that closes it"
    assert breaker.find_wait(now) == 0
    assert not breaker.note(now, good=True)


@pytest.mark.parametrize(
    ("period", "good", "opens"), [(1, 10, True), (1, 11, False), (15, 0, False)]
)
def test_a_few_failures_leave_the_breaker_closed(period: float, good: int, opens: bool) -> None:
    """Less than half, or spread over longer than ten seconds."""
    breaker = Breaker()
    for number in range(20):
        breaker.note(number * period / 20, good=number < good)
    breaker.note(period, good=False)
    assert (breaker.opened is not None) is opens


@pytest.mark.parametrize(
    "spent",
    [
        refusal(429, "exceeded_current_quota_error", "suspended", dialect="moonshot"),
        refusal(429, "rate_limit_reached_error", "You exceeded your current quota, please check"),
    ],
    ids=["code", "text"],
)
def test_an_account_without_quota_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, spent: Reply
) -> None:
    """Whatever the status says, it is not asked again: exit 77 at once."""
    write_input(source, 50)
    server.script(spent, repeat=True)
    result = batch(str(source), "-o", str(out), "-c", "1", "-q")
    assert result.status == 77
    assert len(server.requests) == 1
    assert result.error.count("\n") == 1
    assert "recharge the account" in result.error
    assert out.read_bytes() == b""


def test_a_token_that_expires_keeps_what_was_bought(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """401 after some answers: exit 77, they are kept, and a good token goes on from there."""
    ids = write_input(source, 9)
    server.script(*[completion("good")] * 3, refusal(401, "token_expired", "expired"), repeat=True)
    assert batch(str(source), "-o", str(out), "-c", "1").status == 77
    assert len(server.requests) == 4
    assert read_ids(out) == ids[:3]
    finish(batch, server, source, out, ids)


def test_a_forbidden_row_is_alone(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The gateway's 403 forbidden speaks of one prompt: the others go on, exit 4."""
    ids = write_input(source, 30)
    bad = {"p0", "p7", "p29"}
    server.answer(lambda request: FORBIDDEN if get_prompt(request) in bad else echo(request))
    assert batch(str(source), "-o", str(out)).status == 4
    assert read_ids(out) == ids
    errors = {row["custom_id"]: row["error"] for row in read_rows(out) if row["error"]}
    assert set(errors) == {"r0", "r7", "r29"}
    assert {(error["code"], error["class"]) for error in errors.values()} == {
        ("forbidden", "permanent")
    }
    assert len(server.requests) == 30


# Signals


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_waits_for_what_is_paid(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, signum: signal.Signals
) -> None:
    """Nothing more leaves, what is in flight is kept, and the process dies by the signal."""
    ids = write_input(source, 20)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "3")
    server.await_requests(3)
    run.signal(signum)
    run.expect(b"waiting up to 5 s for 3 requests in flight", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == -signum
    assert "kimi: 3 answered; 0 failed; " in result.error
    assert read_ids(out) == ids[:3]
    assert len(server.requests) == 3
    finish(batch, server, source, out, ids)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_now(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, signum: signal.Signals
) -> None:
    """What was finished stays, what stalls is given up."""
    ids = write_input(source, 5)
    server.script(completion("good"))
    server.answer(lambda request: SILENT)
    run = batch.start(str(source), "-o", str(out), "-c", "1")
    server.await_requests(2)
    run.signal(signum)
    run.expect(b"1 requests in flight; again to leave", "stderr")
    run.signal(signum)
    assert run.wait(timeout=4).status == -signum
    assert read_ids(out) == ids[:1]
    assert len(server.requests) == 2


def test_an_interrupt_by_the_keyboard(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """^C on a terminal drains, and the second one leaves."""
    write_input(source, 5)
    server.answer(lambda request: SILENT)
    run = batch.pty(str(source), "-o", str(out), "-c", "2")
    server.await_requests(2)
    run.type(b"\x03")
    run.expect(b"waiting up to 30 s for 2 requests in flight; again to leave", "stderr")
    run.type(b"\x03")
    assert run.wait(timeout=10).status == -signal.SIGINT
    assert len(server.requests) == 2


def test_a_signal_ends_a_run_whose_input_is_silent(batch: Kimi, server: ReplayServer) -> None:
    """A pipe that stays open does not keep a process from ending."""
    server.answer(echo)
    run = batch.start("--format", "text", stdin="pipe")
    run.write(b'"one"\n')
    run.expect(b'"re: one"\n')
    run.signal(signal.SIGTERM)
    assert run.wait(timeout=4).status == -signal.SIGTERM


def test_what_stalls_is_left_after_the_drain() -> None:
    """The time to drain is bounded: then the request is aborted."""
    arrived, left, record = threading.Event(), threading.Event(), make_record()

    class Stalled:
        def post(self, body: bytes) -> Any:
            assert body == record.payload
            arrived.set()
            assert left.wait(10)
            raise TimedOut("aborted")

        def abort(self, body: bytes) -> None:
            assert body is record.payload
            left.set()

        def close(self) -> None:
            pass

    def tick(runner: Runner) -> None:
        if arrived.is_set():
            runner.stop("SIGTERM", ExitStatus.TEMPORARY, drain=0.01)

    channel: Any = Stalled()
    tally, sink = Tally(), Recorder()
    runner = Runner(
        iter([record]),
        open_channel=lambda: channel,
        pace=Pace(),
        plan=Plan(),
        tally=tally,
        sink=sink,
        tick=tick,
    )
    runner.run()
    assert left.is_set()
    assert (tally.attempts, tally.finished, tally.stop_reason) == (1, 0, "SIGTERM")
    assert sink.results == []


def make_record() -> Record:
    """Return a row."""
    (record,) = read_records(iter([{"prompt": "hi"}]), Shape(defaults={"model": "m"}))
    assert isinstance(record, Record)
    return record


class Recorder:
    """A sink that keeps what it is given."""

    defers = False

    def __init__(self) -> None:
        """Start empty."""
        self.results: list[Result] = []

    def expect(self, number: int) -> None:
        """Any order will do."""

    def write(self, results: list[Result]) -> None:
        """Keep."""
        self.results += results

    def settle(self) -> None:
        """Nothing is on its way."""

    def emit(self, lines: bytes) -> None:
        """Nobody has lines here."""
        raise AssertionError(lines)

    def defer(self, result: Result) -> None:
        """Keep, too."""
        self.results.append(result)

    def find_block(self) -> str | None:
        """Nothing is held back."""
        return None

    def close(self) -> None:
        """Nothing to do."""


def test_a_status_line_is_told_on_demand(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """SIGUSR1: one line on stderr each time, even if quiet, and the run goes on."""
    write_input(source, 3)
    gate = threading.Event()
    first = {"p0": completion("first")}
    server.answer(lambda request: first.get(get_prompt(request)) or hold(gate, echo(request)))
    run = batch.start(str(source), "-c", "2", "-q", "--format", "text")
    run.expect(b'"first"\n')
    server.await_requests(3)
    for _ in range(2):
        run.signal(signal.SIGUSR1)
        line = run.expect(b"\n", "stderr")
        assert line.startswith(b"kimi: 1 done, 0 errors, 0 retries, 2 in flight (limit 2), ")
        assert b" rows/s, " in line
        assert b"; limited by " in line
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert result.error.count("\n") == 2
    assert sorted(result.stdout.splitlines()) == [b'"first"', b'"re: p1"', b'"re: p2"']


@pytest.mark.parametrize("options", [(), ("--ordered",)])
def test_a_reader_that_left_is_noticed(
    batch: Kimi, server: ReplayServer, source: Path, options: tuple[str, ...]
) -> None:
    """Death by SIGPIPE, without another request, even while the one in flight stalls."""
    write_input(source, 50)
    server.script(completion("first"))
    server.answer(lambda request: SILENT)
    reader, writer = os.pipe()
    with open(reader, "rb") as ours:
        with open(writer, "wb") as theirs:
            run = batch.start(str(source), "-c", "1", *options, stdout=theirs)
        assert json.loads(ours.readline())["custom_id"] == "r0"
        server.await_requests(2)
    result = run.wait(timeout=10)
    assert result.status == -signal.SIGPIPE
    assert result.stderr == b""
    assert len(server.requests) == 2


# What it tells of itself


def test_a_bar_is_drawn_and_removed(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """On a terminal, on stderr alone; what is left there is the line of figures."""
    ids = write_input(source, 3)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert sorted(json.loads(line)["custom_id"] for line in result.stdout.splitlines()) == ids
    *_, drawn, last = (part for part in result.stderr.split(b"\r") if part)
    assert len(drawn) >= 79
    assert drawn.isspace()
    assert last.startswith(b"kimi: 3 answered; 0 failed; ")
    assert result.stderr.count(b"\n") == 1


def test_a_bar_has_all_its_figures(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Also on the 80 columns of a terminal."""
    write_input(source, 1)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    gate.set()
    shown = run.wait().stderr.rpartition(b"\r")[0]
    assert b", 1/16, " in shown
    assert b" rows/s, the last answers, " in shown


def test_a_line_among_bars_is_a_line(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """A status line, or the words of a signal, begin at the left."""
    write_input(source, 1)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    run.signal(signal.SIGUSR1)
    before = run.expect(b"kimi: 0 done", "stderr").removesuffix(b"kimi: 0 done")
    gate.set()
    assert run.wait().status == 0
    assert before.endswith((b"\r", b"\n"))


def test_progress_for_machines(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """An object a second of the documented keys, whose figures are right."""
    write_input(source, 5)
    gate = threading.Event()
    server.script(completion("first"), FORBIDDEN, FAILED)
    server.answer(lambda request: hold(gate, echo(request)))
    options = ("-c", "2", "--retries", "0", "--progress", "json")
    run = batch.start(str(source), "-o", str(out), *options)
    line = run.expect(b"\n", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == 75
    figures = json.loads(line)
    assert list(figures) == KEYS
    assert figures["done"] == 2
    assert figures["errors"] == 2
    assert figures["in_flight"] == figures["limit"] == 2
    assert figures["rows_per_second"] > 0
    assert figures["tokens_per_second"] > 0
    assert isinstance(figures["limited_by"], str)
    *reports, _tally, _reason = result.error.splitlines()
    assert all(list(json.loads(report)) == KEYS for report in reports)


def test_progress_is_not_what_was_read(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """While no row is answered, the end is not near; a row that is not sent is no retry."""
    write_input(source, 3)
    source.write_bytes(b"{torn\n" * 3 + source.read_bytes())
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "--progress", "json")
    figures = json.loads(run.expect(b"\n", "stderr"))
    gate.set()
    assert run.wait().status == 4
    assert figures["eta_seconds"] != 0
    assert figures["retries"] == 0


def test_rows_done_before_hasten_no_end(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A run that goes on is as fast as its own rows, not as those that it skipped."""
    write_input(source, 200)
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "-q").status == 0
    write_input(source, 240)
    server.answer(lambda request: slow(echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--progress", "json")
    figures = json.loads(run.expect(b"\n", "stderr"))
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    assert figures["done"] > 200
    assert figures["eta_seconds"] > 0


def test_json_progress_has_a_last_line(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Of the shortest run, too; the summary follows."""
    write_input(source, 2)
    server.answer(echo)
    result = batch(str(source), "--progress", "json")
    line, summary = result.error.splitlines()
    figures = json.loads(line)
    assert list(figures) == KEYS
    assert (figures["done"], figures["errors"], figures["in_flight"]) == (2, 0, 0)
    assert summary.startswith("kimi: 2 answered")


def test_the_limit_that_was_set_is_told(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """What holds the rows back is named: here --rpm."""
    write_input(source, 3)
    server.answer(echo)
    run = batch.start(str(source), "--rpm", "1", "--format", "text")
    run.expect(b'"re: p0"\n')
    run.signal(signal.SIGUSR1)
    line = run.expect(b"\n", "stderr")
    run.signal(signal.SIGTERM)
    assert run.wait().status == -signal.SIGTERM
    assert b"limited by start" not in line


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_short_run_says_one_line(
    batch: Kimi, server: ReplayServer, source: Path, kind: str
) -> None:
    """Where nobody looks on, only the figures at the end are told; -q silences them."""
    write_input(source, 2)
    server.answer(echo)
    result = batch(str(source), "--progress", kind)
    assert result.status == 0
    assert result.error.startswith("kimi: 2 answered; 0 failed; 0 done before; 2 attempts; ")
    assert result.error.count("\n") == 1
    quiet = batch(str(source), "--progress", kind, "-q")
    assert (quiet.status, quiet.stderr) == (0, b"")
    assert quiet.stdout.count(b"\n") == 2


def test_a_bar_is_silenced(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """-q leaves a terminal empty, too; so does --progress none but for the figures."""
    write_input(source, 2)
    server.answer(echo)
    assert batch.pty(str(source), "-q", stdout="pipe").wait().stderr == b""
    shown = batch.pty(str(source), "--progress", "none", stdout="pipe").wait().stderr
    assert shown.startswith(b"kimi: 2 answered; ")
    assert shown.count(b"\n") == 1


def test_a_log_has_a_line_each_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines: list[str] = []
    terminal: Any = SimpleNamespace(warn=lines.append)
    source: Any = SimpleNamespace(read_bytes=50, total_bytes=200)
    tally = Tally(read=103, answered=60, failed=1, deferred=2, skipped=40, attempts=75)
    runner: Any = SimpleNamespace(
        tally=tally, in_flight=5, pace=Pace(cap=8), explain_limit=lambda: "concurrency 8"
    )
    log = LogProgress(terminal, source)
    counts = []
    for now in (1010.0, 1029.9, 1030.0, 1059.0, 1061.0, 1090.0):  # noqa: B007 - the clock
        log.tick(runner)
        counts.append(len(lines))
    assert counts == [0, 0, 1, 1, 2, 2]
    assert lines[0].startswith("101 done, 3 errors, ")
    assert ", 5 in flight (limit 8), 2.0 rows/s, 0.0 tokens/s, 147 s to go; " in lines[0]
    assert lines[0].endswith("limited by concurrency 8")


# The figures at the end


def test_the_summary_is_whole(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """Every figure of a run with every kind of row."""
    write_input(source, 6)
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1", "--retries", "0", "-q")
    assert batch(*command, "--max-rows", "1").status == 75
    summary = out.with_name("summary.json")
    server.script(
        charge(10, 1),
        completion("cut", finish="length", usage={"prompt_tokens": 20, "completion_tokens": 2}),
        FORBIDDEN,
        FAILED,
        refusal(429, "rate_limited", "too many"),
        charge(40, 4),
    )
    assert batch(*command, "--summary", str(summary)).status == 75
    figures = json.loads(summary.read_text())
    latencies = figures.pop("latency_ms")
    assert list(latencies) == ["p50", "p95", "p99"]
    assert 0 <= latencies["p50"] <= latencies["p95"] <= latencies["p99"]
    assert figures == {
        "rows": {
            "read": 6, "skipped": 1, "failed_before": 0, "incomplete_before": 0,
            "answered": 3, "incomplete": 1, "failed": 1, "deferred": 1,
            "changed": 0, "duplicates": 0, "held": 0,
        },
        "attempts": 6,
        "retries": 1,
        "attempts_with_unknown_outcome": 0,
        "tokens": {"prompt": 70, "completion": 7},
        "refusals": {"concurrency": 1},
        "stopped": None,
    }  # fmt: skip


def test_a_summary_that_cannot_be_written_costs_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It is told before any request: 73."""
    write_input(source, 2)
    missing = out.with_name("no") / "summary.json"
    assert batch(str(source), "-o", str(out), "--summary", str(missing)).status == 73
    assert not server.requests


@pytest.mark.parametrize("reason", ["signal", "token", "limit"])
def test_a_stopped_run_has_its_summary(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, reason: str
) -> None:
    """Whatever stopped it, and what that was."""
    write_input(source, 5)
    summary, gate = out.with_name("summary.json"), threading.Event()
    server.script(completion("good"))
    refused = refusal(401, "invalid_token", "no")
    server.answer(lambda request: refused if reason == "token" else hold(gate, echo(request)))
    options = ("--max-rows", "2") if reason == "limit" else ()
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--summary", str(summary), *options)
    server.await_requests(2)
    if reason == "signal":
        run.signal(signal.SIGTERM)
        run.expect(b"in flight", "stderr")
    gate.set()
    statuses = {"signal": -signal.SIGTERM, "token": 77, "limit": 75}
    assert run.wait().status == statuses[reason]
    figures = json.loads(summary.read_text())
    words = {"signal": "SIGTERM", "token": "invalid_token", "limit": "--max-rows 2"}
    assert words[reason] in figures["stopped"]
    assert figures["attempts"] == 2
    assert figures["rows"]["answered"] == len(read_rows(out)) == (1 if reason == "token" else 2)


def test_answers_that_ended_early(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """They are kept, told by exit 4, and permitted by --allow-incomplete."""
    write_input(source, 4)
    reasons = {"p1": "length", "p2": "content_filter", "p3": "tool_calls"}

    def answer(request: ReceivedRequest) -> Reply:
        return completion("half", finish=reasons.get(get_prompt(request), "stop"))

    server.answer(answer)
    result = batch(str(source), "-o", str(out), "--format", "flat", "--ordered")
    assert result.status == 4
    assert "; 2 incomplete; " in result.error
    rows = read_rows(out)
    assert [row["finish_reason"] for row in rows] == ["stop", *reasons.values()]
    assert {(row["content"], row["error"]) for row in rows} == {("half", None)}
    assert batch(str(source), "--allow-incomplete").status == 0


def test_an_error_is_not_permitted_with_them(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """--allow-incomplete speaks of answers: a row without one is exit 4 all the same."""
    write_input(source, 2)
    server.script(completion("half", finish="length"), FORBIDDEN)
    assert batch(str(source), "--allow-incomplete").status == 4


# Order


def test_later_rows_wait_for_the_first(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """--ordered on a pipe: a bounded number is asked for meanwhile, and all come in order."""
    ids, gate = write_input(source, 1100), threading.Event()
    server.answer(hold_first(gate, echo))
    run = batch.start(str(source), "--ordered")
    server.await_requests(500)
    await_status(run, b"limited by row 1, the first in order\n")
    assert run.received["stdout"] == b""
    assert len(server.requests) <= 1024
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ids
    assert len(server.requests) == 1100


@pytest.mark.parametrize("retries", [0, 1])
def test_attempts_are_counted(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, retries: int
) -> None:
    """A line says how often its row was asked, be there an answer or not."""
    write_input(source, 2)

    def answer(request: ReceivedRequest) -> Reply:
        return FAILED if get_prompt(request) == "p0" else FORBIDDEN

    server.answer(answer)
    assert batch(str(source), "-o", str(out), "--retries", str(retries)).status == 75
    (deferred,) = read_rows(Path(f"{out}.errors"))
    assert deferred["kimi"]["attempts"] == retries + 1
    (refused,) = read_rows(out)
    assert refused["kimi"]["attempts"] == 1
    assert len(server.requests) == retries + 2


def test_the_first_row_is_tried_again(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """A full window holds back fresh rows, but not the one that it waits for."""
    busy = refusal(429, "rate_limited", "too many")
    ids, gate = write_input(source, 1100), threading.Event()
    server.answer(hold_first(gate, lambda request: busy))
    run = batch.start(str(source), "--ordered", "--max-wait", "2s")
    server.await_requests(500)
    await_status(run, b"limited by row 1, the first in order\n")
    server.answer(echo)
    gate.set()
    result = run.wait()
    assert result.status == 0, result.error.splitlines()[-1]
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ids


def hold_first(
    gate: threading.Event, answer: Callable[[ReceivedRequest], Reply]
) -> Callable[[ReceivedRequest], Reply]:
    """Keep the first row's answer back until *gate* is open; the others are echoed at once."""

    def choose(request: ReceivedRequest) -> Reply:
        return hold(gate, answer(request)) if get_prompt(request) == "p0" else echo(request)

    return choose
