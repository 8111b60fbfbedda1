"""kimi batch: hosts that fail, and when they are given up."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from rows import FAILED, finish, make_rows, write_input, write_rows
from server import ReplayServer, completion, refusal

from kimi_cli.api.retry import RetryPolicy
from kimi_cli.batch.breaker import Breaker
from kimi_cli.batch.plan import POLICY
from kimi_cli.errors import Unreachable

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
    assert 20 <= json.loads(summary.read_text())["sends"] <= 64


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
    """Nearly all of 20 attempts in 10 seconds; then probes, rarer and rarer, until one succeeds."""
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


@pytest.mark.parametrize(("period", "good", "opens"), [(1, 2, True), (1, 3, False), (15, 0, False)])
def test_a_few_failures_leave_the_breaker_closed(period: float, good: int, opens: bool) -> None:
    """Less than nine of ten, or spread over longer than ten seconds."""
    breaker = Breaker()
    for number in range(20):
        breaker.note(number * period / 20, good=number < good)
    breaker.note(period, good=False)
    assert (breaker.opened is not None) is opens


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
