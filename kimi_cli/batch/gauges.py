"""What limits count, and a limit as far as it is known."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from enum import Enum, IntEnum

_MARGIN = 0.03
"""Share by which a mirrored second is longer than the service's: requests take time to arrive."""
_SLOTS = 3000
"""Slots of a mirrored window."""
_PATIENCE, _GROWTH, _MOST_PATIENCE = 1.0, 1.5, 30.0
"""Seconds before more is tried, by how much they grow each time that is in vain, and to what."""
_EAGER = 0.2
"""The same where it was not in vain."""
_WORTH = 60
"""Answers that come between two attempts in vain, in the long run, where they are slow."""
_STRONG = 4.0
"""How many times as patient one is with what was announced."""
_NEAR = 0.8
"""A limit that falls below that share of itself is believed anew."""
_LEAP = 0.25
"""The share by which a limit is raised at most in one step."""
_FAILED = 3
"""How often a limit is lowered in vain before it is doubted."""
_VAIN = 1.1
"""A limit was raised in vain where it rose by no more than that."""


class Gauge(IntEnum):
    """What a limit counts; of limits that explain as much, an earlier one is believed."""

    PLACES = 0
    SECOND = 1
    MINUTE = 2
    TOKENS = 3


class Origin(Enum):
    """How a limit is known, in words for people."""

    BUILT_IN = "the most that is tried"
    CHOSEN = "chosen"
    DOCUMENTED = "documented"
    SYSTEM = "all that this system allows"
    ANNOUNCED = "announced"
    LEARNED = "learned"


@dataclass(eq=False, repr=False, slots=True)
class Ticket:
    """One request that left: when (monotonic s), the tokens reserved for it, what became of it."""

    sent: float
    tokens: float
    levels: tuple[float, float, float, float]
    """What each gauge showed then, this request included."""
    answered: bool = False
    refused: bool = False
    echoes: bool = False
    """Whether it was refused with another that left at the same time."""

    @property
    def place(self) -> float:
        """How many were in flight then, this one among them."""
        return self.levels[0]

    def find_level(self, gauge: Gauge) -> float:
        """Return what *gauge* showed when it left."""
        return self.levels[gauge]

    def find_need(self, gauge: Gauge) -> float:
        """Return what it adds to *gauge*."""
        return self.tokens if gauge is Gauge.TOKENS else 1.0


class Limit:
    """A limit as far as it is known: refusals lower it, and while it holds back, more is tried.

    First a little, after a second; where that is refused, half as long again later, and so on.
    Where it is admitted, twice as much follows at once. Only *top*, which was chosen or
    documented, is never exceeded.
    """

    def __init__(self, value: float, origin: Origin, now: float, *, top: float = math.inf) -> None:
        """Begin at *value*; *origin* is that of *top*, where there is one."""
        self.value = min(value, top)
        self.top = top
        self._origin = self.top_origin = origin
        self.proven = self.value
        """What it was when it was last found out, before anything was tried beyond it."""
        self.since = self.changed = now
        """When it was believed first, or anew; and when it was last lowered or raised."""
        self.quiet: float | None = None
        """As few in flight make a first test of it a fair one: they cannot be the reason."""
        self.steps = 0
        """How often it was raised since it was last found out."""
        self.floor = self.value
        """What it was before the last step."""
        self.rises = 0
        """How often in a row it proved higher than it was."""
        self.failures = 0
        """How often in a row it was lowered for a refusal that it did not predict."""
        self._tried = math.inf
        self._patience = _PATIENCE

    @property
    def origin(self) -> Origin:
        """How it is known."""
        return self.top_origin if self.value >= self.top else self._origin

    @property
    def is_doubted(self) -> bool:
        """Whether it was lowered in vain."""
        return self.failures > _FAILED

    @property
    def is_found(self) -> bool:
        """Whether it was announced or learned, and is in force."""
        return self.value < self.top

    def fails(self, gauge: Gauge, ticket: Ticket) -> bool:
        """Tell whether *ticket* was refused although this, which was found, foretold no refusal."""
        is_within = ticket.find_level(gauge) <= self.value
        return self.is_found and is_within and ticket.sent > self.changed

    def find_held(self, now: float) -> float | None:
        """Return what it holds at *now*; None where more was tried, and not refused."""
        if not self.steps:
            return self.value
        return self.proven if now - self.changed <= _PATIENCE else None

    def lower(self, value: float, now: float, origin: Origin) -> None:
        """Note a refusal: *value* is what was admitted."""
        if self.steps:
            vain = value <= _VAIN * self.proven + 1
            self._patience = _GROWTH * self._patience if vain else _EAGER
            self.rises = 0 if vain else self.rises + 1
        if not self.steps and (value < _NEAR * self.proven or self.proven >= self.top):
            self.since, self._patience = now, _PATIENCE
        self.steps = 0
        self.value = self.proven = min(self.top, max(1.0, value))
        self._origin = origin
        self.changed = now

    def settle(self, top: float) -> None:
        """Never exceed *top* from now on."""
        self.top, self.top_origin = top, self._origin

    def sharpen(self, value: float, now: float) -> None:
        """Lower it a little, in the same belief."""
        self.value = max(1.0, min(self.value, value))
        self.changed = now

    def find_next(self, settled: float, interval: float) -> float:
        """Return when more is to be tried.

        *settled* seconds tell whether the last step was refused, one answer takes *interval*.
        """
        if self.value >= self.top:
            return math.inf
        if self.steps:
            return self._tried + settled
        longest = max(_MOST_PATIENCE, _WORTH * interval)
        patience = max(3 * interval, min(self._patience, longest))
        return self.changed + patience * (_STRONG if self._origin is Origin.ANNOUNCED else 1.0)

    def try_more(self, now: float, unit: float, shown: float) -> None:
        """Allow *unit* more than its gauge has *shown*, then twice as much, and so on."""
        self.quiet = None
        self.floor = max(self.value, shown)
        step = min(unit * 2.0**self.steps, max(unit, float(int(_LEAP * self.floor))))
        self.value = min(self.top, self.floor + step)
        self.steps += 1
        self.changed = now
        self._tried = math.inf

    def note(self, level: float, now: float) -> None:
        """Note that a request left at *level*: the last step is tried when one is above."""
        if self.steps and level > self.floor:
            self._tried = min(self._tried, now)


class Meter:
    """What was admitted in the last *period* seconds, counted in slots so that it stays small."""

    def __init__(self, period: float) -> None:
        """Start empty. The mirrored period is a little longer than the service's."""
        self.period = period
        self._reach = period * (1 + _MARGIN) if period < 10 else period + 0.03
        self._width = period / _SLOTS
        self._slots: deque[list[float]] = deque()
        self._sums = [0.0, 0.0]

    def add(self, sent: float, requests: int, tokens: float) -> None:
        """Add to (or take from) the slot of the moment *sent*."""
        for slot in reversed(self._slots):
            if slot[0] <= sent:
                break
        else:
            slot = None
        if slot is None or sent - slot[0] >= self._width:
            if requests <= 0:
                return  # it has left the period already
            slot = [sent, 0.0, 0.0]
            self._slots.append(slot)
        slot[1] += requests
        slot[2] += tokens
        self._sums[0] += requests
        self._sums[1] += tokens

    def count(self, now: float) -> tuple[float, float]:
        """Return how many requests were admitted in the period, and how many tokens."""
        while self._slots and self._slots[0][0] <= now - self._reach - self._width:
            _, requests, tokens = self._slots.popleft()
            self._sums[0] -= requests
            self._sums[1] -= tokens
        return self._sums[0], self._sums[1]

    def find_wait(self, now: float, limit: float, need: float, *, tokens: bool = False) -> float:
        """Return the seconds until *need* more requests, or tokens, keep *limit*."""
        column = int(tokens)
        excess = self.count(now)[column] + min(need, limit) - limit
        for slot in self._slots:
            if excess <= 0:
                break
            excess -= slot[column + 1]
            wait = slot[0] + self._width + self._reach - now
            if excess <= 0:
                return max(0.0, wait)
        return 0.0


class Dials:
    """What the gauges show."""

    def __init__(self) -> None:
        """Begin with nothing sent."""
        self.in_flight = 0
        self._second, self._minute = Meter(1.0), Meter(60.0)

    def admit(self, now: float, tokens: float) -> Ticket:
        """Count a request that leaves."""
        self.in_flight += 1
        for meter in (self._second, self._minute):
            meter.add(now, 1, tokens)
        second, _ = self._second.count(now)
        minute, used = self._minute.count(now)
        return Ticket(now, tokens, (float(self.in_flight), second, minute, used))

    def give_back(self, ticket: Ticket) -> None:
        """Count a refused request no more: it never counted for the service."""
        for meter in (self._second, self._minute):
            meter.add(ticket.sent, -1, -ticket.tokens)

    def correct(self, ticket: Ticket, tokens: float) -> None:
        """Count the tokens that an answer really used."""
        self._minute.add(ticket.sent, 0, tokens - ticket.tokens)

    def read(self, gauge: Gauge, now: float) -> float:
        """Return what *gauge* shows."""
        if gauge is Gauge.PLACES:
            return float(self.in_flight)
        meter = self._second if gauge is Gauge.SECOND else self._minute
        return meter.count(now)[gauge is Gauge.TOKENS]

    def find_wait(self, gauge: Gauge, limit: float, now: float, need: float) -> float:
        """Return the seconds until *need* more keep *limit*; infinite where one must end."""
        if gauge is Gauge.PLACES:
            return math.inf if self.in_flight >= int(limit) else 0.0
        meter = self._second if gauge is Gauge.SECOND else self._minute
        return meter.find_wait(now, limit, need, tokens=gauge is Gauge.TOKENS)
