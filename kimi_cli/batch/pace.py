"""How many requests may be in flight, and how fast they may leave. Pure: the caller has the clock.

A limit is a threshold on one of four gauges: requests in flight, in the last second, in the last
minute, and tokens in the last minute. When requests are refused, that threshold is believed which
tells best the refused from the admitted among the last attempts; of two that tell as well, the one
that holds back less. What a host says of the kind counts for nothing, a number for a little. Every
belief is a bet that is settled soon: what it holds back is tried after a second, one request, then
two, then four; what is refused is taken back, and tried half as long again later; what is admitted
raises it, or refutes it. A limit that was right until now falls to what is admitted; one that does
so in vain is doubted. Refusals that no threshold tells are no limit. Windows are mirrored, so a
known limit is kept without being asked for. After a refusal one request leaves alone, and while
that is refused, too, each waits twice as long as the one before. What was idle begins anew. Where
nothing is refused, more leave only as long as that brings more answers.
"""

from __future__ import annotations

import math
from typing import Any

from kimi_cli.batch.beliefs import Beliefs
from kimi_cli.batch.gauges import Dials, Gauge, Limit, Origin, Ticket
from kimi_cli.batch.notices import Notice
from kimi_cli.batch.ramp import START, Ramp

__all__ = ["HIGHEST", "START", "Pace"]

HIGHEST = 256
_ALL = 2
"""Refusals without an answer, with nothing in flight, after which a run begins anew."""
_OFTEN, _RARELY, _DOUBLINGS = 0.55, 6.6, 10
"""Seconds between two requests at most while all is refused, and where nothing is in flight."""
_IDLE = 2.0
"""Seconds with nothing in flight after which requests leave no more as a herd."""
_SHORTEST = 0.005
"""Seconds after which it is worth looking again."""
_SHORTER = 0.7
"""What is left of the level when requests ran out of time in a queue."""
_NAMES = {
    Gauge.PLACES: ("concurrency", None),
    Gauge.SECOND: ("requests", 1),
    Gauge.MINUTE: ("requests", 60),
    Gauge.TOKENS: ("tokens", 60),
}


class Pace:
    """Admits requests one by one."""

    def __init__(
        self,
        *,
        cap: int | None = None,
        start: int = START,
        rpm: float | None = None,
        tpm: float | None = None,
        rate: float | None = None,
        share: int = 1,
        documented: int | None = None,
    ) -> None:
        """Begin with *start* at once, and never exceed *cap*.

        *rate* (a second) and *documented* (at once) are documented limits, *rpm* and *tpm* the
        user's own. This run has one of *share* equal shares of all but *cap*, and of what is
        announced.
        """
        top, origin = (cap, Origin.CHOSEN) if cap else (HIGHEST / share, Origin.BUILT_IN)
        if documented is not None and not cap:
            top, origin = documented / share, Origin.DOCUMENTED
        top = max(1.0, float(int(top)))
        limits = {Gauge.PLACES: _fix(top, origin)}
        if rate is not None:
            limits[Gauge.SECOND] = _fix(max(1.0, rate / share), Origin.DOCUMENTED)
        if rpm is not None:
            limits[Gauge.MINUTE] = _fix(rpm / share, Origin.CHOSEN)
        if tpm is not None:
            limits[Gauge.TOKENS] = _fix(tpm / share, Origin.CHOSEN)
        self._dials = Dials()
        self._ramp = Ramp(min(top, float((cap and start) or max(1, start // share))), top)
        self._beliefs = Beliefs(self._dials, self._ramp, limits, share)
        self._row = 0
        """Refusals in a row: none that left since then was admitted. What left at once is one."""
        self._unanswered = 0
        """Refusals since the last answer."""
        self._sent = self._ended = self._refused = self._tried = -math.inf
        self._pause_until = self._slowed = -math.inf
        self._held_by: Gauge | str = Gauge.PLACES

    @property
    def in_flight(self) -> int:
        """How many requests are in flight."""
        return self._dials.in_flight

    @property
    def limit(self) -> float:
        """How many requests may be in flight now."""
        return min(self._ramp.level, self._beliefs.limits[Gauge.PLACES].value)

    @property
    def most(self) -> int:
        """How many requests may ever be in flight."""
        return int(self._beliefs.limits[Gauge.PLACES].top)

    @property
    def reason(self) -> str:
        """What holds requests back, and how that is known, for people."""
        held = self._held_by
        if isinstance(held, str):
            return held
        if held is not Gauge.PLACES and held in self._beliefs.limits:
            return _describe(held, self._beliefs.limits[held])
        places = self._beliefs.limits[Gauge.PLACES]
        if self._ramp.level < places.value:
            why = "more at once brings no more" if self._ramp.rests else "growing"
            return f"concurrency {int(self.limit)} ({why})"
        return _describe(Gauge.PLACES, places)

    @property
    def is_held_by_choice(self) -> bool:
        """Whether a limit of the user's own holds requests back."""
        held = self._held_by
        limit = None if isinstance(held, str) else self._beliefs.limits.get(held)
        return limit is not None and limit.origin is Origin.CHOSEN

    def list_limits(self) -> list[dict[str, Any]]:
        """Return the limits that hold: kind, value, seconds, and how known."""
        return [
            {"kind": kind, "value": round(value, 3), "seconds": seconds, "how": how}
            for gauge, limit in sorted(self._beliefs.limits.items())
            for kind, seconds in [_NAMES[gauge]]
            for value in [limit.find_held(self._sent)]
            for how in [limit.origin.name.lower().replace("_", "-")]
            if value is not None and limit.origin is not Origin.BUILT_IN
        ]

    def find_wait(self, now: float, tokens: float = 0.0) -> float | None:
        """Return the seconds until a request of *tokens* may leave: 0 for now.

        None means that no time helps: one in flight must come back first.
        """
        wait = self._find_pause(now)
        holds = self._beliefs.find_holds(now, tokens)
        if len(holds) == 1 and wait <= 0:
            (gauge,) = holds
            if self._beliefs.try_more(gauge, now, tokens):
                holds = self._beliefs.find_holds(now, tokens)
        for gauge, room in holds.items():
            trial = max(_SHORTEST, self._beliefs.find_next(gauge) - now)
            if min(room, trial) > max(0.0, wait):
                wait, self._held_by = min(room, trial), gauge
        if self.in_flight >= int(self.limit):
            self._ramp.climb(now)
            if self.in_flight >= int(self.limit) and Gauge.PLACES not in holds:
                self._held_by = Gauge.PLACES
                return None
        return None if wait == math.inf else max(0.0, wait)

    def _find_pause(self, now: float) -> float:
        """Return the seconds that a refusal makes any request wait."""
        wait = self._pause_until - now
        settled = self._beliefs.evidence.settled
        if self._tried > self._refused and now - self._tried > settled:
            self._row = 0
        if self._row:
            longest = _OFTEN if self.in_flight else max(_OFTEN, _RARELY / self._beliefs.share)
            gap = min(longest, min(_OFTEN, settled) * 2.0 ** min(self._row - 1, _DOUBLINGS))
            wait = max(wait, self._sent + gap - now)
        self._held_by = "a pause after a refusal" if wait > 0 else Gauge.PLACES
        slow = self._beliefs.limits.get(Gauge.MINUTE)
        if slow is not None and slow.value < 1 and self._sent + 60 / slow.value - now > wait:
            wait, self._held_by = self._sent + 60 / slow.value - now, Gauge.MINUTE
        return wait

    def admit(self, now: float, tokens: float = 0.0) -> Ticket:
        """Count one request as sent at *now*."""
        if not self.in_flight and now - self._ended > _IDLE:
            self._ramp.slow_down(0, now)
        if self._refused >= self._sent:
            self._tried = now
        self._sent = now
        ticket = self._dials.admit(now, tokens)
        self._beliefs.admit(ticket, now)
        return ticket

    def succeed(self, ticket: Ticket, now: float, tokens: float = 0.0) -> None:
        """Note an answer, of any status but a refusal for load; *tokens* were really used."""
        self._dials.in_flight -= 1
        self._ended = now
        self._unanswered = 0
        if ticket.sent > self._refused or self._beliefs.evidence.is_moody:
            self._row = 0
        self._beliefs.confirm(ticket)
        if tokens:
            self._dials.correct(ticket, tokens)
        self._ramp.note(ticket, now, tokens)

    def fail(self, now: float, *, in_time: bool = True) -> None:
        """Note an attempt that failed; one that ran out of time may have stood in a queue."""
        self._dials.in_flight -= 1
        if not in_time and now - self._slowed > (self._ramp.latency or 1.0):
            self._slowed = now
            self._ramp.restart(_SHORTER * self.limit, now)

    def refuse(self, ticket: Ticket, notice: Notice, now: float, retry_after: float | None) -> None:
        """Learn from a refusal; the refused request itself never counted for the service."""
        self._dials.in_flight -= 1
        self._dials.give_back(ticket)
        is_new = ticket.sent > self._refused
        self._row += is_new
        self._unanswered += 1
        self._ended = self._refused = now
        again = self._row > 3 and ticket.place == 1
        self._beliefs.evidence.refuse(ticket, now, first=is_new, again=again)
        gauge = self._beliefs.learn(ticket, notice, now, is_single=self._row == 1)
        if self.in_flight:
            return
        is_shut = self._unanswered > _ALL
        if is_shut:
            self._ramp.slow_down(0, now)
        # Its own window tells of a second more exactly than whole seconds can.
        known = {None: math.inf, Gauge.PLACES: math.inf, Gauge.SECOND: 1.0}.get(gauge, 0.0)
        if retry_after and (is_shut or retry_after > known):
            self._pause_until = max(self._pause_until, now + retry_after)

    def restart(self, now: float) -> None:
        """Begin again at a quarter, after the service was down."""
        self._ramp.restart(self.limit / 4, now)

    def confine(self, cap: int) -> None:
        """Have at most *cap* requests in flight from now on: this system allows no more."""
        self._beliefs.limits[Gauge.PLACES] = _fix(float(cap), Origin.SYSTEM)


def _fix(value: float, origin: Origin) -> Limit:
    """Return a limit that is never exceeded."""
    return Limit(value, origin, -math.inf, top=value)


def _describe(gauge: Gauge, limit: Limit) -> str:
    """Name a limit, and how it is known."""
    kind, seconds = _NAMES[gauge]
    unit = {1: " a second", 60: " a minute"}.get(seconds or 0, "")
    return f"{kind} {limit.value:g}{unit} ({limit.origin.value})"
