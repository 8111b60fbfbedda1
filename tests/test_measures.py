"""kimi batch and its measures: budgets, pauses, limits of the machine, and what is counted."""

from __future__ import annotations

import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from program import Kimi
from rows import echo, get_prompt, hold, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import (
    ReceivedRequest,
    ReplayServer,
    Reply,
    Wait,
    completion,
    refusal,
)

from kimi_cli.api.channel import WholeReply
from kimi_cli.api.retry import RetryPolicy
from kimi_cli.batch.intake import Intake
from kimi_cli.batch.ledger import Ledger
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.records import Record, Shape, make_record
from kimi_cli.batch.results import Result, encode_results
from kimi_cli.batch.runner import POLICY, Plan, Runner
from kimi_cli.batch.sinks import LedgerSink, OrderedSink, StdoutSink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import Unreachable

FAILED = refusal(500, "api_error", "fetch failed")
MEGABYTE = 2**20


def charge(tokens: int) -> Reply:
    """Answer at that price."""
    return completion("x", usage={"prompt_tokens": 10, "completion_tokens": tokens - 10})


def pause(seconds: float) -> None:
    """Give the program the time to do what it must not do."""
    threading.Event().wait(seconds)


def count_most(moments: list[float], seconds: float) -> int:
    """Return how many of *moments* fall into the same span of so many seconds at most."""
    return max(sum(start <= moment < start + seconds for moment in moments) for start in moments)


def make_request(number: int, prompt: str = "p") -> Record:
    """Return a row of that number."""
    record = make_record(number, {"prompt": prompt}, Shape({"model": "m"}))
    assert isinstance(record, Record)
    return record


# Accounts and budgets


def test_answers_in_flight_outlive_the_account(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """When the money ends, nothing more is sent, and what is under way is kept: exit 77."""
    write_rows(source, make_rows(12))
    gate = threading.Event()
    spent = refusal(429, "exceeded_current_quota_error", "suspended", dialect="moonshot")

    def answer(request: ReceivedRequest) -> Reply:
        return spent if get_prompt(request) == "p3" else hold(gate, echo(request))

    server.answer(answer)
    run = batch.start(str(source), "-o", str(out), "-c", "4")
    server.await_requests(4)
    pause(0.3)
    gate.set()
    assert run.wait().status == 77
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]
    assert list_prompts(server) == ["p0", "p1", "p2", "p3"]


def test_the_first_row_tells_what_rows_cost(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It goes alone, so that a budget is exceeded by one answer at most."""
    write_rows(source, make_rows(30))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, charge(5000)))
    run = batch.start(str(source), "-o", str(out), "--max-total-tokens", "20000")
    server.await_requests(1)
    pause(0.3)
    assert len(server.requests) == 1
    gate.set()
    assert run.wait().status == 75
    assert 3 <= len(server.requests) == len(list_ids(out)) <= 5


def test_rows_with_a_limit_of_their_own_are_reserved_by_it(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """As many go at once as the budget holds; what they left over is given to the next."""
    write_rows(source, [{**row, "max_tokens": 6000} for row in make_rows(9)])
    gate = threading.Event()
    server.answer(lambda request: hold(gate, charge(20)))
    run = batch.start(str(source), "-o", str(out), "--max-total-tokens", "20000")
    server.await_requests(3)
    pause(0.3)
    assert len(server.requests) == 3
    gate.set()
    assert run.wait().status == 0
    assert len(list_ids(out)) == len(server.requests) == 9


# Pauses


def test_time_that_stood_still_is_not_the_services(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Stopped for longer than --timeout, as by ^Z, it goes on, and asks no row again."""
    write_rows(source, make_rows(3))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "--timeout", "2")
    server.await_requests(3)
    run.signal(signal.SIGSTOP)
    pause(3.5)
    run.signal(signal.SIGCONT)
    pause(0.5)
    gate.set()
    assert run.wait().status == 0
    assert list_prompts(server) == ["p0", "p1", "p2"]


def test_a_pause_that_is_too_long_is_not_made(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Retry-After beyond --max-wait: 75 at once, which says so, and the row is left."""
    write_rows(source, make_rows(3))
    server.script(refusal(503, "server_unavailable", "busy", headers={"Retry-After": "700"}))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 75
    assert "the host asks to wait 700 s, longer than --max-wait" in result.error
    assert list_ids(Path(f"{out}.errors")) == ["r0"]
    assert len(server.requests) == 1


def test_after_a_pause_rows_leave_one_by_one(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Retry-After is followed by no herd, neither of fresh rows nor of those that waited."""
    write_rows(source, make_rows(60))
    busy = refusal(503, "server_unavailable", "busy", headers={"Retry-After": "1"})
    server.script(*[busy] * 16)
    server.answer(echo)
    assert batch(str(source), "-o", str(out)).status == 0
    moments = [request.at for request in server.requests[16:]]
    began = moments[0]
    assert began - server.requests[15].at >= 0.9
    spread = [moment for moment in moments if moment < began + 0.9]
    assert count_most(spread, 0.02) <= 4
    assert len(spread) <= 30


# Limits of the machine, the host and the way there


def test_few_open_files_are_made_more(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The soft limit is raised as far as the requests at once need it."""
    write_rows(source, make_rows(64))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    command = f"kimi batch --base-url {server.url} -c 64 {source} -o {out}"
    run = batch.shell(f"ulimit -Sn 40; exec {command}")
    server.await_requests(64)
    gate.set()
    result = run.wait()
    assert result.status == 0, result.error
    assert "ulimit" not in result.error


def test_a_hard_limit_of_open_files_is_no_outage(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Fewer are sent at once, it is told, and every row is answered."""
    write_rows(source, make_rows(150))

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        return whole.but(body=[Wait(0.3), *whole.body])

    server.answer(answer)
    command = f"kimi batch --base-url {server.url} {source} -o {out}"
    result = batch.shell(f"ulimit -n 100; exec {command}").wait()
    assert result.status == 0, result.error
    assert "at most 36 requests at once: 'ulimit -n' allows no more files" in result.error
    assert 16 < server.connections <= 36
    assert len(list_ids(out)) == len(server.requests) == 150


def test_documented_limits_hold_from_the_start(
    kimi: Kimi, server: ReplayServer, source: Path, home: Path
) -> None:
    """The profile acedata: 20 requests at once, and 60 a second."""
    write_rows(source, make_rows(140))
    folder = home / ".config" / "kimi"
    folder.mkdir()
    (folder / "config.toml").write_text(f'[profiles.acedata]\nbase_url = "{server.url}"\n')
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    command = kimi.but("batch", env={"KIMI_TOKEN": CANARY})
    run = command.start(str(source), "-q", "--progress", "json")
    server.await_requests(16)
    gate.set()
    assert run.wait().status == 0
    assert server.connections <= 20
    moments = [request.at for request in server.requests]
    # A few more than 60, for requests take more or less time to arrive.
    assert 40 <= count_most(moments, 1.0) <= 66


def test_a_certificate_that_cannot_be_trusted_ends_the_run(
    kimi: Kimi, tls_server: ReplayServer, source: Path, out: Path
) -> None:
    """Another attempt would not help: 69 at once, and nothing is sent."""
    write_rows(source, make_rows(30))
    command = kimi.but("batch", "--base-url", tls_server.url, env={"KIMI_TOKEN": CANARY})
    result = command(str(source), "-o", str(out), "-c", "1")
    assert result.status == 69
    assert "cannot trust 127.0.0.1" in result.error
    assert tls_server.connections == 1
    assert not tls_server.requests
    assert out.read_bytes() == b""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_quiet_connection_is_kept_alive(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """While a model thinks, TCP asks now and then whether the other side is still there."""
    write_rows(source, make_rows(1))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-q")
    server.await_requests(1)
    wanted = f"{socket.htonl(0x7F000001):08X}:{server.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [words[5] for words in lines if words[2] == wanted and words[3] == "01"]
    gate.set()
    assert run.wait().status == 0
    assert [timer.partition(":")[0] for timer in timers] == ["02"]


# Services that fail


def test_a_service_that_fails_is_told(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """What holds the rows back then is neither the input nor a limit."""
    write_rows(source, make_rows(60))
    server.answer(lambda request: FAILED)
    run = batch.start(str(source), "-o", str(out), "--progress", "json")
    run.expect(b'"limited_by": "the service fails; probing"', "stderr", timeout=30)
    run.signal(signal.SIGTERM)
    assert run.wait().status == -signal.SIGTERM


class Failing:
    """A channel to a service that is down for so many requests, and up again afterwards."""

    def __init__(self, failures: int) -> None:
        """Fail that often."""
        self._left = iter(range(failures))
        self._lock = threading.Lock()

    def post(self, body: bytes) -> WholeReply:
        """Fail, or answer."""
        with self._lock:
            if next(self._left, None) is not None:
                raise Unreachable("nobody is there", transient=True)
        text = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
        return WholeReply(200, text, HTTPMessage())

    def abort(self, body: bytes) -> None:
        """Nothing lasts here."""

    def close(self) -> None:
        """Nothing to close."""


def test_an_outage_costs_no_row_its_attempts(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """Probes tell nothing of their rows, and after them a quarter is sent at once."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.001)
    channel: Any = Failing(20 + 12)
    tally, pace = Tally(), Pace(start=8, cap=8)
    with Ledger(out) as ledger:
        Runner(
            iter([make_request(number) for number in range(5)]),
            open_channel=lambda: channel,
            pace=pace,
            plan=Plan(),
            tally=tally,
            sink=LedgerSink(ledger, "flat"),
        ).run()
    assert (tally.answered, tally.deferred, tally.attempts) == (5, 0, 20 + 12 + 5)
    assert {row["kimi"]["attempts"] for row in read_rows(out)} <= {3, 4, 5}
    assert 2 <= pace.limit < 8


def test_the_longest_wait_doubles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter: anything from nothing to 1, 2, 4 … seconds, and a minute at most."""
    drawn: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        drawn.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", draw)
    error = Unreachable("nobody is there", transient=True)
    delays = [POLICY.draw_delay(error, attempt) for attempt in range(1, 9)]
    assert delays == [1, 2, 4, 8, 16, 32, 60, 60]
    assert {low for low, _ in drawn} == {0}
    patient = RetryPolicy(retries=20)
    assert [patient.plan_delay(error, attempt=n, elapsed=0) for n in (4, 5, 6)] == [8, 16, 30]


# Files


@pytest.mark.parametrize(
    ("sync", "forced", "at_end"), [("never", 0, 0), ("interval", 2, 1), ("always", 6, 1)]
)
def test_lines_are_forced_to_disk(
    monkeypatch: pytest.MonkeyPatch, out: Path, sync: str, forced: int, at_end: int
) -> None:
    """Never, once a second, or each time; and at the end but for never."""
    now, calls = [100.0], {"fdatasync": 0, "fsync": 0}

    def count(name: str) -> Any:
        return lambda descriptor: calls.update({name: calls[name] + 1})

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.fdatasync", count("fdatasync"))
    monkeypatch.setattr("os.fsync", count("fsync"))
    with Ledger(out, sync=sync) as ledger:
        for number in range(6):
            now[0] += 0.4
            ledger.append(encode_results([Result(make_request(number))], "flat"))
    assert calls == {"fdatasync": forced, "fsync": at_end}


# Bounds


def test_answers_held_for_their_order_are_bounded_in_size() -> None:
    """64 MiB of them wait for the first row; then no more are asked for until it has come."""
    written: list[str] = []
    sink = OrderedSink(StdoutSink(written.append, "flat"), 1024, "flat")
    answer = {"choices": [{"message": {"content": "x" * (16 * MEGABYTE)}}]}
    for number in range(1, 6):
        sink.expect(number)
    for number in range(2, 6):
        assert sink.find_block() is None
        sink.write([Result(make_request(number), 200, "", answer)])
    assert sink.find_block() == "row 1, the first in order"
    assert not written
    sink.write([Result(make_request(1), 200, "", {})])
    assert sink.find_block() is None
    assert "".join(written).count("\n") == 5


def test_rows_read_ahead_are_bounded_in_size() -> None:
    """32 MiB of them wait to be sent; reading goes on when half of that is gone."""
    made = 0

    def read() -> Iterator[Record]:
        nonlocal made
        for number in range(1, 200):
            made += 1
            yield make_request(number, "x" * MEGABYTE)

    def settle(least: int) -> int:
        deadline = time.monotonic() + 30
        while made < least and time.monotonic() < deadline:
            pause(0.01)
        pause(0.1)
        return made

    intake = Intake(read(), wake=lambda: None)
    assert settle(32) <= 33
    for _ in range(10):
        assert intake.take() is not None
    assert settle(32) <= 33
    for _ in range(10):
        assert intake.take() is not None
    assert 45 <= settle(45) <= 53
    intake.stop()


@pytest.mark.parametrize("slow", [range(2000), range(198_000, 200_000)], ids=["first", "last"])
def test_percentiles_are_of_all_answers(slow: range) -> None:
    """An even sample: one in a hundred that was slow is no p95, whenever it came."""
    tally = Tally()
    for number in range(200_000):
        tally.answered += 1
        tally.note_latency(50_000 if number in slow else number % 1000)
    shares = tally.find_percentiles()
    assert 450 < shares["p50"] < 550
    assert 900 < shares["p95"] < 1000
    assert shares["p95"] < shares["p99"]
