"""How many requests may be in flight, and how fast they may leave. Pure: the caller has the clock.

What a service announces is believed, what it keeps silent is learned: a refusal for concurrency
sets the limit to what was admitted at that moment, a refusal for rate to what was admitted in the
last window. Rate windows are mirrored here, so a known limit is kept without being asked for.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from enum import Enum

from kimi_cli.api.refusals import Refusal

_START = 16
_HIGHEST = 256
_MARGIN = 0.03
"""Share by which a mirrored window is longer than the service's: requests take time to arrive."""
_SLOTS = 300
"""Slots of a mirrored window."""
_LEAST_GAP = 0.005
"""Seconds between two requests that are worth keeping."""
_PROBE_AFTER = 30.0
"""Seconds without a refusal before a learned limit is tried one higher; it doubles each time."""


class Kind(Enum):
    """Which limit a refusal speaks of."""

    CONCURRENCY = "concurrency"
    RATE = "rate"
    TOKENS = "tokens"
    OVERLOAD = "overload"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Notice:
    """What one refusal says: the kind of limit, its value and period (s) where announced."""

    kind: Kind
    limit: float | None = None
    period: float = 1.0


# Compiled with the first refusal, not for every start of the program.
_NUMBER = r"[^0-9]{0,24}?(\d[\d,]*)"
_ANNOUNCED = (
    (r"(?i)(?:max|organization)[^.]{0,40}concurrency" + _NUMBER, Kind.CONCURRENCY, 0),
    (r"(?i)\bRPM\b" + _NUMBER, Kind.RATE, 60.0),
    (r"(?i)\bTPM\b.*\blimit\D{0,3}(\d[\d,]*)", Kind.TOKENS, 60.0),
)
_BY_CODE = {
    "rate_limited": Kind.CONCURRENCY,  # the gateway's two codes
    "too_many_requests": Kind.RATE,
    "engine_overloaded_error": Kind.OVERLOAD,
}


def read_notice(refusal: Refusal) -> Notice:
    """Read which limit *refusal* speaks of: Moonshot's text has numbers, the gateway's has none."""
    words = refusal.message or ""
    for pattern, kind, period in _ANNOUNCED:
        if found := re.search(pattern, words):
            return Notice(kind, float(found[1].replace(",", "")), period or 1.0)
    if refusal.http_status in (503, 529):
        return Notice(Kind.OVERLOAD)
    return Notice(_BY_CODE.get(refusal.code or "", Kind.UNKNOWN))


@dataclass(frozen=True)
class Ticket:
    """One admitted request: when it left (monotonic s), and the tokens reserved for it."""

    sent: float
    tokens: float


class Meter:
    """What was admitted in the last *period* seconds, counted in slots so that it stays small."""

    def __init__(self, period: float) -> None:
        """Start empty. The mirrored period is a little longer than the service's."""
        self.period = period
        self._reach = period * (1 + _MARGIN) if period < 10 else period + 0.5
        self._width = period / _SLOTS
        self._slots: deque[list[float]] = deque()
        self._sums = [0.0, 0.0]

    def add(self, ticket: Ticket, requests: int, tokens: float) -> None:
        """Add to (or take from) the slot in which *ticket* was sent."""
        for slot in reversed(self._slots):
            if slot[0] <= ticket.sent:
                break
        else:
            slot = None
        if slot is None or ticket.sent - slot[0] >= self._width:
            if requests <= 0:
                return  # it has left the period already
            slot = [ticket.sent, 0.0, 0.0]
            self._slots.append(slot)
        slot[1] += requests
        slot[2] += tokens
        self._sums[0] += requests
        self._sums[1] += tokens

    def count(self, now: float) -> int:
        """Return how many requests were admitted in the period."""
        return int(sum(slot[1] for slot in self._slots if slot[0] > now - self.period))

    def find_wait(
        self, now: float, *, requests: float | None, tokens: float | None, need: float
    ) -> float:
        """Return the seconds until one more request, of *need* tokens, keeps both limits."""
        while self._slots and self._slots[0][0] <= now - self._reach:
            _, gone_requests, gone_tokens = self._slots.popleft()
            self._sums[0] -= gone_requests
            self._sums[1] -= gone_tokens
        return max(
            self._find_room(now, 0, requests, 1.0),
            self._find_room(now, 1, tokens, need),
        )

    def _find_room(self, now: float, column: int, limit: float | None, need: float) -> float:
        if limit is None:
            return 0.0
        excess = self._sums[column] + min(need, limit) - limit
        for slot in self._slots:
            if excess <= 0:
                break
            excess -= slot[column + 1]
            wait = slot[0] + self._width + self._reach - now
            if excess <= 0:
                return max(0.0, wait)
        return 0.0


class Pace:
    """Admits requests one by one. All times are seconds on one monotonic clock."""

    def __init__(
        self,
        *,
        cap: int | None = None,
        start: int = _START,
        rpm: float | None = None,
        tpm: float | None = None,
        rate: float | None = None,
        share: int = 1,
    ) -> None:
        """Begin modestly, below *cap* (``-c``); *rate* is a documented limit per second.

        *share* processes use one account: what is announced or documented is divided by it.
        """
        self._highest = cap or _HIGHEST
        self.limit = float(min(start, self._highest))
        self.in_flight = 0
        self.reason = "start"
        """What holds requests back, for people."""
        self.refusals: dict[str, int] = {}
        self._share = share
        self._learned: float | None = None
        self._growing = True
        self._learned_at = float("-inf")
        self._silent = Kind.CONCURRENCY
        self._second, self._minute = Meter(1.0), Meter(60.0)
        self._rates: dict[float, float] = {}
        self._tokens = tpm
        self._pause_until = 0.0
        self._quiet_since = 0.0
        self._probe_after = _PROBE_AFTER
        self._latency: float | None = None
        self._sent = float("-inf")
        self._announces = False
        self._lowered = float("-inf")
        limits = (f"--rpm {rpm:g}" if rpm else "", f"--tpm {tpm:g}" if tpm else "")
        self._chosen = " and ".join(filter(None, limits))
        if rpm is not None:
            self._rates[60.0] = rpm
        if rate is not None:
            self._rates[1.0] = max(1.0, rate / share)

    def find_wait(self, now: float, tokens: float = 0.0) -> float | None:
        """Return the seconds until a request of *tokens* may leave: 0 for now.

        None means that no time helps: one in flight must come back first.
        """
        if self.in_flight >= int(self.limit):
            return None
        second = self._second.find_wait(
            now, requests=self._rates.get(1.0), tokens=None, need=tokens
        )
        minute = self._minute.find_wait(
            now, requests=self._rates.get(60.0), tokens=self._tokens, need=tokens
        )
        if minute > second and self._chosen:
            self.reason = self._chosen
        return max(
            0.0, self._pause_until - now, self._sent + self._find_gap() - now, second, minute
        )

    def _find_gap(self) -> float:
        """Return the seconds between two requests that spread a burst over half a round trip.

        A service that has announced one limit will announce its rate, too. Answers that come
        together would send as many requests at it, and all but the first would learn nothing.
        """
        if self._rates.get(60.0, 1.0) < 1:
            return 60.0 / self._rates[60.0]
        if not self._announces or self._rates or self._latency is None:
            return 0.0
        gap = self._latency / (2 * self.limit)
        return gap if gap >= _LEAST_GAP else 0.0

    def admit(self, now: float, tokens: float = 0.0) -> Ticket:
        """Count one request as sent at *now*."""
        ticket = Ticket(now, tokens)
        self._sent = now
        self._second.add(ticket, 1, tokens)
        self._minute.add(ticket, 1, tokens)
        self.in_flight += 1
        return ticket

    def succeed(self, ticket: Ticket, now: float, tokens: float = 0.0) -> None:
        """Note an answer, of any status but a refusal for load; *tokens* were really used."""
        was_full = self.in_flight >= 0.8 * int(self.limit)
        self.in_flight -= 1
        if tokens:
            self._minute.add(ticket, 0, tokens - ticket.tokens)
        latency = now - ticket.sent
        self._latency = latency if self._latency is None else 0.9 * self._latency + 0.1 * latency
        if was_full:
            self._grow(now)

    def fail(self, ticket: Ticket) -> None:
        """Note an attempt that ended without telling anything of a limit."""
        self.in_flight -= 1

    def refuse(self, ticket: Ticket, notice: Notice, now: float, retry_after: float | None) -> None:
        """Learn from a refusal; the refused request itself never counted for the service."""
        self.in_flight -= 1
        self._second.add(ticket, -1, -ticket.tokens)
        self._minute.add(ticket, -1, -ticket.tokens)
        self.refusals[notice.kind.value] = self.refusals.get(notice.kind.value, 0) + 1
        self._growing = False
        self._announces = self._announces or notice.limit is not None
        self._quiet_since = now
        kind = self._guess(notice.kind, ticket)
        if kind is Kind.CONCURRENCY:
            self._learn_concurrency(notice, now)
        elif kind is Kind.RATE:
            self._learn_rate(notice, now)
            self._pause(now, retry_after)
        elif kind is Kind.TOKENS and notice.limit is not None:
            self._pause(now, retry_after)
            self._tokens = notice.limit / self._share
            self.reason = f"tokens {notice.limit:g} a minute (announced)"
        else:
            self._back_off(now, retry_after)

    def restart(self) -> None:
        """Begin again at a quarter, after the service was down."""
        self.limit = max(1.0, self.limit / 4)
        self._growing = self._learned is None

    def _guess(self, kind: Kind, ticket: Ticket) -> Kind:
        """Tell a silent limit: what is refused within the learned concurrency is refused for rate.

        Requests that left before that was learned belong to the burst that taught it.
        """
        if kind is not Kind.UNKNOWN:
            return kind
        within = self._learned is not None and self.in_flight < self._learned
        if within and ticket.sent > self._learned_at:
            # What was learned of concurrency was a misunderstanding.
            self._silent, self._learned = Kind.RATE, None
        return self._silent

    def _learn_concurrency(self, notice: Notice, now: float) -> None:
        self._learned_at = now
        admitted = max(1, self.in_flight)
        if notice.limit is not None:
            admitted = min(admitted, max(1, int(notice.limit) // self._share))
        self.limit = float(admitted)
        self._learned = self.limit
        how = "announced" if notice.limit is not None else "learned"
        self.reason = f"concurrency {admitted} ({how})"

    def _learn_rate(self, notice: Notice, now: float) -> None:
        meter = self._minute if notice.period == self._minute.period else self._second
        admitted = max(1, meter.count(now))
        if notice.limit is not None:
            rate, how = max(1.0, notice.limit // self._share), "announced"
        else:
            rate, how = float(admitted), "learned"
            # Several refusals of one burst arrive one by one, each with a truer count.
            rate = min(rate, self._rates.get(meter.period, rate))
        self._rates[meter.period] = rate
        unit = "minute" if meter is self._minute else "second"
        self.reason = f"rate {rate:g} a {unit} ({how})"

    def _back_off(self, now: float, retry_after: float | None) -> None:
        """Take 30 % off, at most once a round trip, and pause for everybody."""
        if now - self._lowered > (self._latency or 1.0):
            self._lowered = now
            self.limit = max(1.0, 0.7 * self.limit)
            self._learned = self.limit
        self._pause(now, retry_after)
        self.reason = "the service is overloaded"

    def _pause(self, now: float, retry_after: float | None) -> None:
        self._pause_until = max(self._pause_until, now + (retry_after or 0.0))

    def _grow(self, now: float) -> None:
        if self._growing:
            self.limit = min(self._highest, self.limit + 1)
            if self.limit >= self._highest:
                self.reason = f"concurrency {self._highest}"
            return
        if self._learned is None:
            self.limit = min(self._highest, self.limit + 1 / self.limit)
        elif now - self._quiet_since > self._probe_after:
            self._quiet_since = now
            self._probe_after *= 2
            self.limit = min(self._highest, self.limit + 1)
