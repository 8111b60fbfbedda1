"""A host with limits, in virtual time: what a run by a pace takes, and what it could take at best.

A limit is a number of requests at once, in a window that slides, or a bucket; it may change, which
is also how another client of the same account looks that comes and goes. A dialect words the
refusals of every limit. The best is found by a client that asks the host before it sends: it
sends whatever will be admitted, but begins, as nobody could know better, with 16 at once and one
more for each answer, 256 at most. Both are given the same rows, so that chance favours neither.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from kimi_cli.api.refusals import Refusal, read_refusal
from kimi_cli.batch.notices import Kind, read_notice
from kimi_cli.batch.pace import HIGHEST, START, Pace

Changes = tuple[tuple[float, float], ...]
"""What a limit is from some moments on: seconds, value."""


Row = tuple[float, float]
"""The tokens of a request, and the seconds that its answer takes when nothing queues."""

Dialect = Callable[["Rule", float, "float | None"], Refusal]
"""How a host words the refusal of a rule with a value; the last is its Retry-After."""


@dataclass
class Rule:
    """One limit of a host: *value* at once (period 0), in any *period* seconds, or a bucket.

    A bucket takes *burst* requests beyond its rate, *value* in *period* seconds.
    """

    kind: Kind
    value: float
    period: float = 0.0
    burst: float | None = None
    changes: Changes = ()
    _used: float = 0.0
    _since: float = 0.0
    _window: deque[tuple[float, float]] = field(default_factory=deque)

    def tell_value(self, now: float) -> float:
        """Return what is allowed at *now*, after all changes until then."""
        while self.changes and self.changes[0][0] <= now:
            self.value = self.changes[0][1]
            self.changes = self.changes[1:]
        return self.value

    def find_room(self, now: float, need: float) -> float:
        """Return the seconds until *need* has room, by itself: infinite where one must end."""
        value = self.tell_value(now)
        later = self.changes[0][0] - now if self.changes else math.inf
        if self.burst is not None:
            self._used = max(0.0, self._used - (now - self._since) * value / self.period)
            self._since = now
            excess = self._used - self.burst
            return min(later, excess * self.period / value) if excess > 1e-9 else 0.0
        while self.period and self._window and self._window[0][0] <= now - self.period:
            self._used -= self._window.popleft()[1]
        if self._used + min(need, max(1.0, value)) <= value:
            return 0.0
        if not self.period or not self._window:
            return later
        return min(later, self._window[0][0] + self.period - now)

    def take(self, now: float, need: float) -> None:
        """Count one request of *need*."""
        self._used += need
        if self.period and self.burst is None:
            self._window.append((now, need))

    def give_back(self) -> None:
        """Count an answer."""
        if not self.period:
            self._used -= 1


class Host:
    """Some rules, one queue, and a share of requests that is refused whatever is sent."""

    def __init__(
        self,
        *rules: Rule,
        latency: float = 0.2,
        spread: float = 0.1,
        slots: int | None = None,
        grows: tuple[float, int] | None = None,
        fickle: float = 0.0,
        mood: Dialect | None = None,
        seed: int = 0,
    ) -> None:
        """Answer after about *latency* seconds; *spread* is that of their logarithm.

        It works on *slots* answers at once, from a moment on on another number (*grows*), and
        refuses the share *fickle* of all requests by *mood*.
        """
        self.rules = rules
        self.latency, self.spread, self.slots, self.fickle = latency, spread, slots, fickle
        self.mood = mood or DRIZZLE
        self.counts_tokens = any(rule.kind is Kind.TOKENS for rule in rules)
        self._grows = grows
        self.dice, self._rows = random.Random(seed), random.Random(seed)
        self._free: list[float] = []
        self._mean = math.log(latency) - spread**2 / 2

    def ask(self, now: float, tokens: float) -> Rule | None:
        """Return the rule that refuses a request now, or None after it was counted."""
        for rule in self.rules:
            if rule.find_room(now, tokens if rule.kind is Kind.TOKENS else 1.0):
                return rule
        for rule in self.rules:
            rule.take(now, tokens if rule.kind is Kind.TOKENS else 1.0)
        return None

    def find_room(self, now: float, tokens: float) -> float:
        """Return the seconds until a request may be admitted, if no other ends before."""
        return max(
            (r.find_room(now, tokens if r.kind is Kind.TOKENS else 1.0) for r in self.rules),
            default=0.0,
        )

    def end(self) -> None:
        """Note that an answer is complete."""
        for rule in self.rules:
            rule.give_back()

    def draw_row(self) -> Row:
        """Return the next row: the same ones in each run of a seed, in the same order."""
        tokens = round(math.exp(self._rows.gauss(6.4, 0.5)))
        return tokens, math.exp(self._rows.gauss(self._mean, self.spread))

    def begin(self, now: float, work: float) -> float:
        """Return the seconds until the answer, its time in the queue included."""
        if self.slots is None:
            return work
        if self._grows is not None and self._grows[0] <= now:
            self.slots = self._grows[1]
        while self._free and self._free[0] <= now:
            heapq.heappop(self._free)
        begins = now if len(self._free) < self.slots else heapq.heappop(self._free)
        heapq.heappush(self._free, begins + work)
        return begins + work - now


# How limits are worded


def _say(status: int, document: Any) -> Dialect:
    return lambda rule, value, after: read_refusal(status, document, retry_after=after)


def _speak_gateway(right: bool) -> Dialect:
    def speak(rule: Rule, value: float, after: float | None) -> Refusal:
        is_places = (rule.kind is Kind.CONCURRENCY) == right
        code = "rate_limited" if is_places else "too_many_requests"
        return read_refusal(429, {"error": {"code": code, "message": "no"}}, retry_after=after)

    return speak


def _speak_moonshot(rule: Rule, value: float, after: float | None) -> Refusal:
    unit = {Kind.CONCURRENCY: "concurrency", Kind.TOKENS: "TPM"}.get(rule.kind, "RPM")
    words = f"Your account org-1 request reached organization max {unit}: {value:.0f}"
    if rule.kind is Kind.TOKENS:
        words = f"organization TPM rate limit, current: 1, limit: {value:.0f}"
    if rule.period == 1.0:
        words = "request reached organization rate limit"  # it has none of a second
    words += ", please try again after 1 seconds"
    document = {"error": {"type": "rate_limit_reached_error", "message": words}}
    return read_refusal(429, document, retry_after=after)


DIALECTS: dict[str, Dialect] = {
    "gateway": _speak_gateway(True),
    "gateway, codes swapped": _speak_gateway(False),
    "Moonshot": _speak_moonshot,
    "OpenAI": _say(
        429,
        {
            "error": {
                "message": "Rate limit reached for requests",
                "type": "requests",
                "param": None,
                "code": "rate_limit_exceeded",
            }
        },
    ),
    "message": _say(429, {"message": "Too Many Requests"}),
    "detail": _say(429, {"detail": "slow down"}),
    "error text": _say(429, {"error": "too many"}),
    "LiteLLM": _say(
        429, {"error": {"message": "no", "type": "throttling_error", "param": None, "code": "429"}}
    ),
    "empty": _say(429, None),
    "page": _say(429, "<html><h1>429 Too Many Requests</h1></html>"),
    "503": _say(503, {"error": {"message": "busy", "type": "unavailable_error", "code": 503}}),
    "503 page": _say(503, "<html><h1>503 Service Temporarily Unavailable</h1></html>"),
    "529": _say(529, {"error": {"type": "overloaded_error", "message": "Overloaded"}}),
}

After = Callable[[float], "float | None"]
RETRY_AFTERS: dict[str, After] = {
    "none": lambda wait: None,
    "0": lambda wait: 0.0,
    "1": lambda wait: 1.0,
    "true": lambda wait: float(math.ceil(wait)) if wait < 100 else 1.0,
}
"""What a refusal asks for, by the seconds until there is room."""

DRIZZLE = _say(429, None)
"""How a host refuses now and then, whatever is sent."""


_SPEED = 50
"""Tokens that a host makes in a second, where it does not count what was asked for."""

# Runs


@dataclass
class Run:
    """What became of some requests."""

    seconds: float = 0.0
    answered: int = 0
    refused: int = 0
    sent: list[float] = field(default_factory=list)
    blind: list[float] = field(default_factory=list)
    """When something left after ten refusals in a row, with nothing in flight."""
    limits: list[tuple[float, float]] = field(default_factory=list)
    """The number at once that was allowed, and since when."""

    def find_limit(self, begin: float, end: float) -> float:
        """Return the mean number at once between two moments."""
        ends = [later for later, _ in self.limits[1:]] + [self.seconds]
        held = (
            limit * max(0.0, min(later, end) - max(earlier, begin))
            for (earlier, limit), later in zip(self.limits, ends, strict=True)
        )
        return sum(held) / (end - begin)


@dataclass
class _Client:
    """One run: its pace, its rows, and those that wait."""

    pace: Pace
    left: int
    run: Run = field(default_factory=Run)
    again: list[tuple[float, Row]] = field(default_factory=list)
    """When rows that were refused may go again."""
    ready: deque[Row] = field(default_factory=deque)
    row: int = 0
    """Refusals since the last answer."""
    wait: float | None = None
    """What the first of those that are ready waits for."""

    def note_answer(self, now: float, ticket: Any, row: Row, *, counts_tokens: bool) -> None:
        """Tell the pace, and of the tokens of an answer those of a host that counts others."""
        tokens, work = row
        self.row = 0
        self.run.answered += 1
        self.run.seconds = now
        self.pace.succeed(ticket, now, tokens if counts_tokens else _SPEED * work)

    def note_refusal(
        self, now: float, ticket: Any, row: Row, refusal: Refusal, later: float
    ) -> None:
        """Tell the pace, and keep the row for *later*."""
        self.row += 1
        self.run.refused += 1
        self.pace.refuse(ticket, read_notice(refusal), now, refusal.retry_after)
        heapq.heappush(self.again, (now + (refusal.retry_after or 0.0) + later, row))

    def send(self, now: float, host: Host) -> Iterator[tuple[Any, Row]]:
        """Let go what the pace admits, rows that were refused first."""
        run, pace = self.run, self.pace
        while self.again and self.again[0][0] <= now:
            self.ready.append(heapq.heappop(self.again)[1])
        self.wait = None
        while self.ready or self.left:
            if not self.ready:
                self.left -= 1
                self.ready.append(host.draw_row())
            row = self.ready[0]
            self.wait = pace.find_wait(now, row[0])
            if self.wait is None or self.wait > 0:
                break
            self.ready.popleft()
            run.sent.append(now)
            if self.row >= 10 and not pace.in_flight:
                run.blind.append(now)
            yield pace.admit(now, row[0]), row
        if not run.limits or run.limits[-1][1] != pace.limit:
            run.limits.append((now, pace.limit))

    def find_wake(self, now: float) -> float | None:
        """Return when something may leave although nothing comes back until then."""
        moments = [self.again[0][0]] if self.again else []
        if self.ready and self.wait is not None:
            moments.append(now + max(self.wait, 1e-6))
        return min(moments, default=None)


def simulate(
    host: Host,
    rows: int,
    pace: Pace,
    *,
    dialect: Dialect = DRIZZLE,
    after: After = RETRY_AFTERS["none"],
    seed: int = 7,
    longest: float = math.inf,
) -> Run:
    """Send *rows* requests through *pace*, at most for *longest* seconds."""
    return compete(host, rows, [pace], dialect, after, seed, longest)[0]


def compete(
    host: Host,
    rows: int,
    paces: Sequence[Pace],
    dialect: Dialect = DRIZZLE,
    after: After = RETRY_AFTERS["none"],
    seed: int = 7,
    longest: float = math.inf,
) -> list[Run]:
    """Let several runs of *rows* each use one host, each with a pace of its own."""
    return _Race(host, [_Client(pace, rows) for pace in paces], dialect, after, seed).run(longest)


class _Race:
    """Some clients and one host, event by event."""

    def __init__(
        self, host: Host, clients: list[_Client], dialect: Dialect, after: After, seed: int
    ) -> None:
        self._host, self._clients, self._dialect, self._after = host, clients, dialect, after
        self._chance, self._order = random.Random(seed), count()
        self._events: list[tuple[float, int, str, Any]] = []
        self._looks: dict[int, float] = {}

    def run(self, longest: float) -> list[Run]:
        """Go on until all is answered, or for *longest* seconds."""
        for client in self._clients:
            self._look(client, 0.0)
        while self._events:
            now, _, what, details = heapq.heappop(self._events)
            if now > longest:
                break
            if what == "arrive":
                self._arrive(now, *details)
            elif what == "done":
                client, ticket, row, back = details
                self._host.end()
                self._later(now + back, "answered", client, ticket, row)
            elif what != "look" or self._looks.get(id(details[0])) == now:
                self._return(now, what, details)
        return [client.run for client in self._clients]

    def _later(self, at: float, what: str, *details: Any) -> None:
        heapq.heappush(self._events, (at, next(self._order), what, details))

    def _look(self, client: _Client, at: float) -> None:
        if self._looks.get(id(client)) != at:
            self._looks[id(client)] = at
            self._later(at, "look", client)

    def _travel(self) -> float:
        return 0.0005 + 0.0025 * self._chance.random()

    def _arrive(self, now: float, client: _Client, ticket: Any, row: Row) -> None:
        host, back = self._host, self._travel()
        tokens, work = row
        is_moody = bool(host.fickle) and host.dice.random() < host.fickle
        rule = None if is_moody else host.ask(now, tokens)
        if rule is not None:
            ends = rule.kind is Kind.CONCURRENCY and rule.value  # one of those in flight: soon
            wait = math.inf if ends else host.find_room(now, tokens)
            refusal = self._dialect(rule, rule.value, self._after(wait))
        elif is_moody:
            refusal = host.mood(Rule(Kind.UNKNOWN, 0), 0, None)
        else:
            self._later(now + host.begin(now, work), "done", client, ticket, row, back)
            return
        self._later(now + back, "refused", client, ticket, row, refusal)

    def _return(self, now: float, what: str, details: Any) -> None:
        client, *what_came = details
        if what == "look":
            del self._looks[id(client)]
        elif what == "answered":
            client.note_answer(now, *what_came, counts_tokens=self._host.counts_tokens)
        else:
            client.note_refusal(now, *what_came, self._chance.uniform(0, 0.5))
        for ticket, row in client.send(now, self._host):
            self._later(now + self._travel(), "arrive", client, ticket, row)
        if (wake := client.find_wake(now)) is not None:
            self._look(client, wake)


def find_best(host: Host, rows: int, *, seconds_away: float = 0.0035) -> float:
    """Return the seconds that a client takes which knows the host and ramps up as it must."""
    now, sent, flying, allowed = 0.0, 0, 0, float(START)
    events: list[float] = []
    tokens, work = host.draw_row()
    while flying or sent < rows:
        room = math.inf
        while sent < rows and flying < int(allowed):
            room = host.find_room(now, tokens)
            if room:
                break
            host.ask(now, tokens)
            sent += 1
            flying += 1
            heapq.heappush(events, now + host.begin(now, work) + seconds_away)
            tokens, work = host.draw_row()
            room = math.inf
        if events and events[0] <= now + room:
            now = heapq.heappop(events)
            host.end()
            allowed = min(float(HIGHEST), allowed + (flying >= int(allowed)))
            flying -= 1
        else:
            now += room + 1e-9
    return now


# What is simulated


@dataclass(frozen=True)
class Account:
    """One host as many runs meet it: the rules by a seed, what an answer takes, and the rows."""

    name: str
    make_rules: Callable[[random.Random], list[Rule]]
    latency: float
    spread: float
    rows: int

    def open_host(self, seed: int) -> Host:
        """Return the host as the run of *seed* meets it."""
        rules = self.make_rules(random.Random(seed))
        return Host(*rules, latency=self.latency, spread=self.spread, seed=seed)


def _at_once(value: float, *changes: tuple[float, float]) -> Rule:
    return Rule(Kind.CONCURRENCY, value, changes=changes)


def _a_second(value: float, *changes: tuple[float, float]) -> Rule:
    return Rule(Kind.RATE, value, 1.0, changes=changes)


def _a_minute(value: float, *changes: tuple[float, float]) -> Rule:
    return Rule(Kind.RATE, value, 60.0, changes=changes)


def _tokens(value: float) -> Rule:
    return Rule(Kind.TOKENS, value, 60.0)


def _come_and_go(
    dice: random.Random, alone: float, shared: float, span: tuple[float, float]
) -> tuple[tuple[float, float], ...]:
    """Return the changes that another client makes, in turns of *span* seconds."""
    moment, changes = 0.0, []
    for turn in range(400):
        moment += dice.uniform(*span)
        changes.append((moment, alone if turn % 2 else shared))
    return tuple(changes)


_ANSWERS = ((0.02, 0.3), (0.2, 0.1), (1.0, 0.8), (5.0, 0.3), (30.0, 0.8))
"""What answers take (s), and how different they are."""


def _list_steady_accounts() -> Iterator[Account]:
    for places in (1, 4, 20, 100):
        for latency, spread in _ANSWERS:
            rows = max(500, min(3000, int(20 * places / latency)), int(5 * places / latency))
            yield Account(
                f"{places} at once, {latency:g} s",
                lambda dice, n=places: [_at_once(n)],  # type: ignore[misc]
                latency, spread, rows,
            )  # fmt: skip
    for rate in (5, 25, 100):
        for latency, spread in _ANSWERS[:4]:
            yield Account(
                f"{rate} a second, {latency:g} s",
                lambda dice, n=rate: [_a_second(n)],  # type: ignore[misc]
                latency, spread, max(500, 20 * rate),
            )  # fmt: skip
    for latency in (0.02, 0.2):
        yield Account(
            f"2 a second, burst 2, {latency:g} s",
            lambda dice: [Rule(Kind.RATE, 2, 1.0, burst=2)],
            latency, 0.1, 500,
        )  # fmt: skip
    for rate, rows in ((3, 500), (60, 500), (200, 800), (1200, 3600)):
        for latency, spread in _ANSWERS[1:]:
            yield Account(
                f"{rate} a minute, {latency:g} s",
                lambda dice, n=rate: [_a_minute(n)],  # type: ignore[misc]
                latency, spread, rows,
            )  # fmt: skip
    for latency, spread in _ANSWERS[1:4]:
        yield Account(f"100,000 tokens a minute, {latency:g} s",
                      lambda dice: [_tokens(100_000)], latency, spread, 700)  # fmt: skip


def _list_changing_accounts() -> Iterator[Account]:
    for name, both in {
        "50 at once, 200 a minute": lambda: [_at_once(50), _a_minute(200)],
        "20 at once, 25 a second": lambda: [_at_once(20), _a_second(25)],
        "25 a second, 600 a minute": lambda: [_a_second(25), _a_minute(600)],
        "20 at once, 100,000 tokens a minute": lambda: [_at_once(20), _tokens(100_000)],
    }.items():
        for latency, spread in _ANSWERS[1:4]:
            yield Account(f"{name}, {latency:g} s", lambda dice, both=both: both(),  # type: ignore[misc]
                          latency, spread, 900)  # fmt: skip
    for latency, spread in _ANSWERS[1:3]:
        yield Account(
            f"20 at once, then 60, {latency:g} s",
            lambda dice: [_at_once(20, (dice.uniform(10, 20), 60))],
            latency, spread, int(1400 / latency),
        )  # fmt: skip
        yield Account(
            f"60 at once, then 20, {latency:g} s",
            lambda dice: [_at_once(60, (dice.uniform(10, 20), 20))],
            latency, spread, int(1000 / latency),
        )  # fmt: skip
        yield Account(
            f"25 a second, then 75, {latency:g} s",
            lambda dice: [_a_second(25, (dice.uniform(10, 20), 75))],
            latency, spread, 2000,
        )  # fmt: skip
        yield Account(
            f"75 a second, then 25, {latency:g} s",
            lambda dice: [_a_second(75, (dice.uniform(10, 20), 25))],
            latency, spread, 2000,
        )  # fmt: skip
        yield Account(
            f"20 at once, at times 10, {latency:g} s",
            lambda dice: [_at_once(20, *_come_and_go(dice, 20, 10, (5, 20)))],
            latency, spread, int(800 / latency),
        )  # fmt: skip
        yield Account(
            f"50 a second, at times 25, {latency:g} s",
            lambda dice: [_a_second(50, *_come_and_go(dice, 50, 25, (5, 20)))],
            latency, spread, 2000,
        )  # fmt: skip
    yield Account(
        "1 at once, at times another's, 0.2 s",
        lambda dice: [_at_once(1, *_come_and_go(dice, 1, 0, (20, 60)))],
        0.2, 0.1, 600,
    )  # fmt: skip


ACCOUNTS = [*_list_steady_accounts(), *_list_changing_accounts()]


@dataclass(frozen=True)
class Score:
    """How one run went, beside the best of the same host."""

    ratio: float
    refused: float
    """As a share of the rows."""
    blind: float
    """Requests in the worst second after ten refusals in a row, with nothing in flight."""
    lost: int


def score(account: Account, dialect: str, after: str, seed: int) -> Score:
    """Let one run meet *account*."""
    best = find_best(account.open_host(seed), account.rows)
    run = simulate(
        account.open_host(seed),
        account.rows,
        Pace(),
        dialect=DIALECTS[dialect],
        after=RETRY_AFTERS[after],
        seed=seed,
        longest=20 * best + 60,
    )
    lost = account.rows - run.answered
    seconds = 20 * best if lost else run.seconds
    blind = max((sum(t <= at < t + 1 for at in run.blind) for t in run.blind), default=0)
    return Score(seconds / best, run.refused / account.rows, blind, lost)
