"""kimi batch: its pace is what the host, the account and the options permit."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from rows import (
    await_status,
    charge,
    echo,
    hold,
    list_ids,
    list_prompts,
    make_rows,
    pause,
    read_ids,
    read_rows,
    write_input,
    write_rows,
)
from server import Barrier, Mark, ReceivedRequest, ReplayServer, Reply, Wait, completion, refusal

from kimi_cli.api.refusals import Refusal
from kimi_cli.batch.notices import read_notice
from kimi_cli.batch.pace import Pace


def count_most(moments: list[float], seconds: float) -> int:
    """Return how many of *moments* fall into the same span of so many seconds at most."""
    return max(sum(start <= moment < start + seconds for moment in moments) for start in moments)


# Pace


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
        pace = Pace(start=16 * share, share=share)
        tickets = [pace.admit(0.0) for _ in range(16)]
        words = "Your account reached organization max concurrency: 20, please try again"
        notice = read_notice(Refusal(429, "rate_limit_reached_error", words))
        pace.refuse(tickets[0], notice, 0.1, None)
        assert int(pace.limit) == admitted
        assert pace.reason == f"concurrency {admitted} (announced)"
    assert len(send_for_minutes(Pace(rate=60, share=4), 0.0, minutes=1)) <= 15 * 60 + 15


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
    server.await_requests(8)
    await_status(run, b"limited by concurrency 3 (announced)")
    assert len(server.requests) <= 8 + 3
    gate.set()
    assert run.wait().status == 0
    assert read_ids(out) == ids
    assert {row["kimi"]["attempts"] for row in read_rows(out)} == {1}
    figures = json.loads(summary.read_text())
    assert figures["refusals"] == {"concurrency": len(server.requests) - 17}
    assert figures["limits"] == [
        {"kind": "concurrency", "value": 3, "seconds": None, "how": "announced"}
    ]


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


LIMITED = {
    "words of its own": refusal(429, "invalid_request_error", "slow down", dialect="moonshot"),
    "an error of the server": refusal(429, "api_error", "slow down"),
    "nothing": Reply(status=429),
    "busy, with a vague word": refusal(503, "invalid_request_error", "busy", dialect="moonshot"),
    "broken, with a vague word": refusal(502, "bad_request", "upstream"),
}


@pytest.mark.parametrize("how", LIMITED)
def test_a_limit_may_be_worded_in_any_way(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, how: str
) -> None:
    """What is refused for load, or by a server that fails, is asked again: no row has failed."""
    write_rows(source, make_rows(3))
    server.script(*[LIMITED[how]] * 3)
    server.answer(echo)
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 0, result.error
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]


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


def test_where_all_is_refused_all_rows_wait(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Then Retry-After concerns fresh rows, too, and one goes first to see."""
    write_rows(source, make_rows(60))
    busy = refusal(503, "server_unavailable", "busy", headers={"Retry-After": "1"})
    server.script(*[busy] * 16)
    server.answer(echo)
    assert batch(str(source), "-o", str(out)).status == 0
    moments = [request.at for request in server.requests[16:]]
    assert moments[0] - server.requests[15].at >= 0.9
    assert len(moments) == 60
