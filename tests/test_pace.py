"""The pace learns what a service permits: simulated in virtual time, against the issue's bounds."""

from __future__ import annotations

import heapq
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest

from kimi_cli.api.refusals import Refusal
from kimi_cli.batch.pace import Kind, Notice, Pace, read_notice

SILENT_CONCURRENCY = Refusal(429, "rate_limited", "too many")
SILENT_RATE = Refusal(429, "too_many_requests", "slow down")
SILENT = Refusal(429, None, "Too Many Requests")


def announce(limit: str, value: int) -> Refusal:
    """Return Moonshot's text, whose hint says one second whatever the truth."""
    words = f"Your account reached organization max {limit}: {value}, please try again after 1 s"
    return Refusal(429, "rate_limit_reached_error", words)


@dataclass
class Service:
    """A service with a limit on concurrency, and one on requests in a sliding window."""

    latency: float
    concurrency: int | None = None
    rate: int | None = None
    period: float = 1.0
    too_many: Refusal = SILENT_CONCURRENCY
    too_fast: Refusal = SILENT_RATE
    busy: int = 0
    arrivals: deque[float] = field(default_factory=deque)

    def judge(self, now: float) -> Refusal | None:
        """Admit a request at *now*, or refuse it."""
        while self.arrivals and self.arrivals[0] <= now - self.period:
            self.arrivals.popleft()
        if self.concurrency is not None and self.busy >= self.concurrency:
            return self.too_many
        if self.rate is not None and len(self.arrivals) >= self.rate:
            return self.too_fast
        self.arrivals.append(now)
        self.busy += 1
        return None


def simulate(service: Service, rows: int, pace: Pace) -> tuple[float, int]:
    """Send *rows* requests through *pace*; return the seconds that it took, and the refusals."""
    chance = random.Random(7)
    order = count()
    events: list[tuple[float, int, str, Any, Refusal | None]] = []
    again: list[float] = []
    now, left, done, refused = 0.0, rows, 0, 0
    while done < rows:
        while again and again[0] <= now:
            heapq.heappop(again)
            left += 1
        wait = pace.find_wait(now) if left else None
        if wait is not None and wait <= 0:
            left -= 1
            arrival = now + chance.uniform(0.001, 0.01)
            heapq.heappush(events, (arrival, next(order), "arrive", pace.admit(now), None))
            continue
        moments = [events[0][0]] if events else []
        moments += [now + wait] if wait else []
        moments += again[:1]
        now = min(moments)
        while events and events[0][0] <= now:
            at, _, kind, ticket, refusal = heapq.heappop(events)
            if kind == "arrive":
                refusal = service.judge(at)
                back = 0.01 if refusal else service.latency * chance.uniform(0.9, 1.1)
                heapq.heappush(events, (at + back, next(order), "return", ticket, refusal))
            elif refusal is None:
                service.busy -= 1
                done += 1
                pace.succeed(ticket, at)
            else:
                refused += 1
                pace.refuse(ticket, read_notice(refusal), at, None)
                heapq.heappush(again, at + chance.uniform(0, 0.5))
    return now, refused


@pytest.mark.parametrize(
    ("service", "rows", "bound", "slack", "refusals"),
    [
        (Service(0.2, concurrency=20), 600, 6, 1.15, 60),
        (Service(0.2, concurrency=20, too_many=SILENT), 600, 6, 1.15, 60),
        (Service(0.1, rate=25), 500, 20, 1.1, 100),
        (Service(0.1, rate=25, too_fast=SILENT), 500, 20, 1.1, 100),
        (Service(0.5, rate=25, too_fast=SILENT), 500, 20, 1.1, 100),
        (
            Service(
                2.0, 50, 200, 60.0, announce("concurrency", 50), announce("RPM", 200)
            ),
            1000, 242, 1.1, 30,
        ),
        (
            Service(0.5, 50, 200, 60.0, announce("concurrency", 50), announce("RPM", 200)),
            1000, 240, 1.1, 30,
        ),
        (
            Service(2.0, 1, 3, 60.0, announce("concurrency", 1), announce("RPM", 3)),
            60, 1142, 1.1, 30,
        ),
    ],
)  # fmt: skip
def test_limits_are_learned(
    service: Service, rows: int, bound: float, slack: float, refusals: int
) -> None:
    """Near the theoretical bound, with few refusals, and no row is lost on the way."""
    seconds, refused = simulate(service, rows, Pace())
    assert seconds <= slack * bound
    assert refused <= refusals


def test_a_documented_limit_is_kept_without_a_refusal() -> None:
    """The gateway's 20 at once and 60 a second."""
    seconds, refused = simulate(Service(0.1, concurrency=20, rate=60), 300, Pace(cap=20, rate=60))
    assert refused == 0
    assert seconds <= 1.1 * 300 / 60


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
