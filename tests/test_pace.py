"""The pace learns what a service permits, and how much at once is of use: in virtual time."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count, pairwise
from typing import Any

import pytest

from kimi_cli.api.refusals import Refusal
from kimi_cli.batch.notices import Kind, Notice, read_notice
from kimi_cli.batch.pace import Pace

SILENT_CONCURRENCY = Refusal(429, "rate_limited", "too many")
SILENT_RATE = Refusal(429, "too_many_requests", "slow down")
SILENT = Refusal(429, None, "Too Many Requests")
OVERLOADED = Refusal(429, "engine_overloaded_error", "The engine is currently overloaded")


def announce(limit: str, value: int) -> Refusal:
    """Return Moonshot's text, whose hint says one second whatever the truth."""
    words = f"Your account reached organization max {limit}: {value}, please try again after 1 s"
    return Refusal(429, "rate_limit_reached_error", words)


@dataclass
class Service:
    """A service with a limit on concurrency, one on requests in a sliding window, and a queue."""

    latency: float
    concurrency: int | None = None
    rate: int | None = None
    period: float = 1.0
    too_many: Refusal = SILENT_CONCURRENCY
    too_fast: Refusal = SILENT_RATE
    slots: int = 10_000
    """How many answers it works on at once; further ones queue."""
    spread: float = 0.1
    """How different answers are: small for alike, 0.8 for those of a model."""
    fickle: float = 0.0
    """The share of requests that it refuses whatever is sent."""
    excuse: Refusal = SILENT
    """How it refuses those."""
    dice: random.Random = field(default_factory=lambda: random.Random(3))
    changes: dict[float, dict[str, int]] = field(default_factory=dict)
    """What its limits are from some moment on."""
    busy: int = 0
    arrivals: deque[float] = field(default_factory=deque)
    free: list[float] = field(default_factory=list)

    def judge(self, now: float) -> Refusal | None:
        """Admit a request at *now*, or refuse it."""
        for moment in [moment for moment in self.changes if moment <= now]:
            vars(self).update(self.changes.pop(moment))
        while self.arrivals and self.arrivals[0] <= now - self.period:
            self.arrivals.popleft()
        if self.fickle and self.dice.random() < self.fickle:
            return self.excuse
        if self.concurrency is not None and self.busy >= self.concurrency:
            return self.too_many
        if self.rate is not None and len(self.arrivals) >= self.rate:
            return self.too_fast
        self.arrivals.append(now)
        self.busy += 1
        return None

    def answer(self, now: float, chance: random.Random) -> tuple[float, float]:
        """Return seconds and tokens of the answer to a request that was admitted at *now*."""
        work = self.latency * chance.lognormvariate(-(self.spread**2) / 2, self.spread)
        while self.free and self.free[0] <= now:
            heapq.heappop(self.free)
        begins = now if len(self.free) < self.slots else heapq.heappop(self.free)
        heapq.heappush(self.free, begins + work)
        return begins + work - now, 50 * work


@dataclass
class Run:
    """What became of some requests."""

    seconds: float = 0.0
    refused: int = 0
    sent: list[float] = field(default_factory=list)
    limits: list[tuple[float, float]] = field(default_factory=list)
    """The limit that was in force, and since when."""

    def find_limit(self, begin: float, end: float) -> float:
        """Return the mean of the limit between two moments."""
        ends = [later for later, _ in self.limits[1:]] + [self.seconds]
        held = (
            limit * max(0.0, min(later, end) - max(earlier, begin))
            for (earlier, limit), later in zip(self.limits, ends, strict=True)
        )
        return sum(held) / (end - begin)


def simulate(service: Service, rows: int, pace: Pace, seed: int = 7) -> Run:
    """Send *rows* requests through *pace*."""
    chance = random.Random(seed)
    order = count()
    events: list[tuple[float, int, str, Any]] = []
    again: list[float] = []
    now, left, done, run = 0.0, rows, 0, Run()
    while done < rows:
        while again and again[0] <= now:
            heapq.heappop(again)
            left += 1
        wait = pace.find_wait(now) if left else None
        if wait is not None and wait <= 0:
            left -= 1
            run.sent.append(now)
            arrival = now + chance.uniform(0.001, 0.01)
            heapq.heappush(events, (arrival, next(order), "arrive", pace.admit(now)))
            continue
        moments = [events[0][0]] if events else []
        moments += [now + wait] if wait else []
        moments += again[:1]
        now = min(moments)
        while events and events[0][0] <= now:
            at, _, kind, what = heapq.heappop(events)
            if kind == "arrive":
                ticket = what
                refusal = service.judge(at)
                back, tokens = (0.01, 0.0) if refusal else service.answer(at, chance)
                reply = (ticket, refusal, tokens)
                heapq.heappush(events, (at + back, next(order), "return", reply))
                continue
            ticket, refusal, tokens = what
            if refusal is None:
                service.busy -= 1
                done += 1
                pace.succeed(ticket, at, tokens)
            else:
                run.refused += 1
                pace.refuse(ticket, read_notice(refusal), at, None)
                heapq.heappush(again, at + chance.uniform(0, 0.5))
        run.limits.append((now, pace.limit))
    run.seconds = now
    return run


ANNOUNCED = {
    "too_many": announce("concurrency", 50),
    "too_fast": announce("RPM", 200),
    "concurrency": 50,
    "rate": 200,
    "period": 60.0,
}
LIMITS: dict[str, tuple[dict[str, Any], int, float, float, int]] = {
    # what the service is, rows, the least seconds, how many times as long, refusals
    "20 at once": ({"latency": 0.2, "concurrency": 20}, 600, 6, 1.15, 60),
    "20 at once, without a word": (
        {"latency": 0.2, "concurrency": 20, "too_many": SILENT},
        600, 6, 1.15, 60,
    ),
    "25 a second": ({"latency": 0.1, "rate": 25}, 500, 20, 1.1, 100),
    "25 a second, without a word": (
        {"latency": 0.1, "rate": 25, "too_fast": SILENT},
        500, 20, 1.1, 100,
    ),
    "25 a second, slow and without a word": (
        {"latency": 0.5, "rate": 25, "too_fast": SILENT},
        500, 20, 1.1, 100,
    ),
    "120 a minute": ({"latency": 1.0, "rate": 120, "period": 60.0}, 600, 240, 1.1, 100),
    "120 a minute, without a word": (
        {"latency": 1.0, "rate": 120, "period": 60.0, "too_fast": SILENT},
        600, 240, 1.1, 100,
    ),
    "Tier 1": ({"latency": 2.0, **ANNOUNCED}, 1000, 242, 1.1, 30),
    "Tier 1, short answers": ({"latency": 0.5, **ANNOUNCED}, 1000, 240, 1.1, 30),
    "Tier 0": (
        {
            "latency": 2.0, "concurrency": 1, "rate": 3, "period": 60.0,
            "too_many": announce("concurrency", 1), "too_fast": announce("RPM", 3),
        },
        60, 1142, 1.1, 30,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_learned(name: str) -> None:
    """Near the theoretical bound, with few refusals, and no row is lost on the way."""
    service, rows, bound, slack, refusals = LIMITS[name]
    for seed in range(10):
        run = simulate(Service(**service), rows, Pace(), seed)
        assert run.seconds <= slack * bound
        assert run.refused <= refusals


MOODS = {
    "concurrency": SILENT_CONCURRENCY,
    "rate": SILENT_RATE,
    "nothing": SILENT,
    "overload": OVERLOADED,
}


@pytest.mark.parametrize("share", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("words", MOODS)
def test_refusals_at_any_pace_are_no_limit(words: str, share: float) -> None:
    """A service that refuses some whatever is sent is not asked ever more slowly."""
    usual = simulate(Service(1.0), 3000, Pace()).seconds
    runs = [
        simulate(
            Service(1.0, fickle=share, excuse=MOODS[words], dice=random.Random(seed)),
            3000,
            Pace(),
            seed,
        )
        for seed in range(10)
    ]
    assert sum(run.seconds for run in runs) <= 3.5 * 10 * usual
    assert sum(run.refused for run in runs) <= 1.3 * share * 30_000


@pytest.mark.parametrize(("words", "share"), [("concurrency", 0.02), ("overload", 0.02)])
def test_a_limit_is_found_among_refusals_at_any_pace(words: str, share: float) -> None:
    """It is kept: what is refused beside the usual is little, and so is the time that is lost."""
    runs = [
        simulate(
            Service(
                0.2, concurrency=20, fickle=share, excuse=MOODS[words], dice=random.Random(seed)
            ),
            3000,
            Pace(),
            seed,
        )
        for seed in range(10)
    ]
    assert sum(run.seconds for run in runs) <= 1.5 * 10 * 30
    assert sum(run.refused for run in runs) <= 10 * (share * 3000 + 60)


@pytest.mark.parametrize("spread", [0.1, 0.8])
@pytest.mark.parametrize("slots", [16, 32, 64])
def test_more_at_once_only_while_it_helps(slots: int, spread: float) -> None:
    """A service that refuses nothing is kept busy, and not buried under requests that queue."""
    for seed in range(5):
        run = simulate(Service(5.0, slots=slots, spread=spread), 3000, Pace(), seed)
        assert run.seconds <= 1.1 * 5 * 3000 / slots + 5 * 5
        assert 0.9 * slots <= run.find_limit(60, run.seconds) <= max(80, 2.5 * slots)


def test_all_that_is_allowed_is_used_where_it_helps() -> None:
    """A large service is asked 256 at once after a few answers' time."""
    for spread in (0.1, 0.8):
        run = simulate(Service(5.0, slots=1000, spread=spread), 4000, Pace())
        assert run.find_limit(30, run.seconds - 10) == 256


def test_a_service_that_grows_is_followed() -> None:
    """What did not help once is tried again."""
    grows = Service(5.0, slots=32, spread=0.5, changes={300.0: {"slots": 200}})
    run = simulate(grows, 20_000, Pace())
    assert run.find_limit(60, 300) <= 80
    assert run.find_limit(600, run.seconds) >= 150


def test_a_limit_that_is_lifted_is_found_out() -> None:
    """Others used the account, and left: what was learned is not for ever, nor tried in vain."""
    service = Service(0.5, concurrency=10, changes={100.0: {"concurrency": 80}})
    run = simulate(service, 40_000, Pace())
    assert run.find_limit(10, 100) <= 12
    assert run.find_limit(330, run.seconds) >= 75
    assert run.refused <= 150

    service = Service(0.5, rate=10, changes={100.0: {"rate": 100}})
    run = simulate(service, 20_000, Pace())
    assert sum(99 < moment <= 100 for moment in run.sent) <= 12
    assert sum(330 < moment <= 340 for moment in run.sent) >= 900
    assert run.refused <= 150


def test_a_limit_that_is_kept_is_hardly_tried() -> None:
    """An hour at a learned limit costs a refusal a minute or fewer."""
    run = simulate(Service(2.0, concurrency=20), 36_000, Pace())
    assert run.seconds <= 1.02 * 3600
    assert run.refused <= 60


def test_what_is_announced_may_be_shared() -> None:
    """Four processes on one account, none of which knows of the others: refusals are few."""
    service = Service(0.5, rate=400, period=60.0, too_fast=announce("RPM", 400))
    paces = [Pace() for _ in range(4)]
    seconds, refused, answered = share(service, paces, seconds=900)
    assert answered >= 0.85 * 400 / 60 * seconds
    assert refused <= 0.1 * answered


def share(service: Service, paces: list[Pace], seconds: float) -> tuple[float, int, int]:
    """Let *paces* send for so long; return the seconds, refusals and answers."""
    chance, order = random.Random(7), count()
    events: list[tuple[float, int, str, Any]] = [(0.0, next(order), "look", p) for p in paces]
    now, refused, answered = 0.0, 0, 0
    while now < seconds:
        now, _, kind, what = heapq.heappop(events)
        if kind == "look":
            if (wait := what.find_wait(now)) == 0.0:
                heapq.heappush(
                    events, (now + 0.005, next(order), "arrive", (what, what.admit(now)))
                )
            heapq.heappush(events, (now + (wait or 0.02), next(order), "look", what))
        elif kind == "arrive":
            pace, ticket = what
            refusal = service.judge(now)
            back = 0.01 if refusal else service.answer(now, chance)[0]
            heapq.heappush(events, (now + back, next(order), "return", (pace, ticket, refusal)))
        else:
            pace, ticket, refusal = what
            if refusal is None:
                service.busy -= 1
                answered += 1
                pace.succeed(ticket, now)
            else:
                refused += 1
                pace.refuse(ticket, read_notice(refusal), now, None)
    return now, refused, answered


def test_a_pause_is_followed_by_no_herd() -> None:
    """All wait together, and leave one by one."""
    pace, now, sent = Pace(start=32, cap=32), 0.0, []
    tickets = [pace.admit(now) for _ in range(32)]
    for ticket in tickets[:-1]:
        pace.succeed(ticket, 1.0)
    pace.refuse(tickets[-1], Notice(Kind.RATE), 1.0, 3.0)
    now = 1.0
    while len(sent) < 10:
        wait = pace.find_wait(now)
        assert wait is not None
        now += wait
        if not wait:
            pace.admit(now)
            sent.append(now)
    assert sent[0] >= 4.0
    gaps = [later - earlier for earlier, later in pairwise(sent)]
    assert min(gaps) >= 0.9 / 32


def test_a_queue_that_times_out_is_shortened() -> None:
    """An attempt that ran out of time takes a part of the limit, once a round trip."""
    pace = Pace(start=16)
    for _ in range(10):
        pace.admit(0.0)
    pace.fail(600.0, in_time=False)
    pace.fail(600.0, in_time=False)
    assert 10 <= pace.limit < 12
    pace.fail(700.0, in_time=False)
    assert pace.limit < 9
    assert "overloaded" in pace.reason


def test_a_documented_limit_is_kept_without_a_refusal() -> None:
    """The gateway's 20 at once and 60 a second."""
    run = simulate(Service(0.1, concurrency=20, rate=60), 300, Pace(cap=20, rate=60))
    assert run.refused == 0
    assert run.seconds <= 1.1 * 300 / 60


@pytest.mark.parametrize(
    ("refusal", "notice"),
    [
        (announce("concurrency", 3), Notice(Kind.CONCURRENCY, 3)),
        (
            Refusal(429, None, "max organization concurrency: 50, please"),
            Notice(Kind.CONCURRENCY, 50),
        ),
        (announce("RPM", 200), Notice(Kind.RATE, 200, 60.0)),
        (
            Refusal(429, None, "reached organization TPM rate limit, current:10, limit:500,000"),
            Notice(Kind.TOKENS, 500_000, 60.0),
        ),
        (Refusal(429, "engine_overloaded_error", "busy"), Notice(Kind.OVERLOAD)),
        (Refusal(503), Notice(Kind.OVERLOAD)),
        (SILENT_CONCURRENCY, Notice(Kind.CONCURRENCY)),
        (SILENT_RATE, Notice(Kind.RATE)),
        (SILENT, Notice(Kind.UNKNOWN)),
    ],
)
def test_refusals_are_read(refusal: Refusal, notice: Notice) -> None:
    """Both dialects, with and without numbers."""
    assert read_notice(refusal) == notice


@pytest.mark.parametrize(("tpm", "tokens"), [(1000, 100), (1000, 400)])
def test_tokens_a_minute_are_kept(tpm: float, tokens: float) -> None:
    """No minute holds more than the limit."""
    pace = Pace(tpm=tpm)
    now, sent = 0.0, []
    for _ in range(30):
        while (wait := pace.find_wait(now, tokens)) != 0:
            now += wait or 0.1
        pace.succeed(pace.admit(now, tokens), now, int(tokens))
        sent.append(now)
    for start in sent:
        assert sum(tokens for moment in sent if start <= moment < start + 60) <= tpm
