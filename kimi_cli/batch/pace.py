"""How many requests may be in flight, and how fast they may leave. Pure: the caller has the clock.

A limit is a threshold on one of four gauges: requests in flight, in the last second, in the last
minute, and tokens in the last minute. When requests are refused, that threshold is believed which
tells best the refused from the admitted among the last attempts; of two that tell as well, the one
that holds back less. What a host says of the kind counts for nothing, a number for a little. Every
belief is a bet that is settled soon: what it holds back is tried after a second, one request, then
two, then four; what is refused is taken back, and tried half as long again later; what is admitted
refutes it, and the next best explanation is due. Refusals that no threshold tells are no limit.
Windows are mirrored, so a known limit is kept without being asked for. After a refusal requests
leave one by one. Where nothing is refused, more leave only as long as that brings more answers.
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
_DOUBLINGS, _PATIENT = 8, 4
"""Refusals after which requests leave no rarer for their number; and so many alone: rarer yet."""
_ALL = 2
"""Refusals in a row, with nothing in flight, after which a run begins anew."""
_ASKING, _RAREST = 0.55, 6
"""Seconds between two requests while all is refused and nothing in flight, and their multiple."""
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
        """Refusals since the last answer."""
        self._alone = 0
        """Those among them with nothing else in flight."""
        self._sent = self._pause_until = self._slowed = -math.inf
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
        """Return the limits that were found, or given: kind, value, seconds, and how known."""
        return [
            {"kind": kind, "value": round(limit.value, 3), "seconds": seconds, "how": how}
            for gauge, limit in sorted(self._beliefs.limits.items(), key=lambda one: one[0].value)
            for kind, seconds in [_NAMES[gauge]]
            for how in [limit.origin.name.lower().replace("_", "-")]
            if limit.origin is not Origin.BUILT_IN
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
        if self._row:
            gap = self._beliefs.evidence.settled
            if not self.in_flight:
                rarer = min(_RAREST, 2 ** max(0, self._alone - _PATIENT))
                gap = min(_ASKING * rarer, gap * 2 ** min(self._row, 2 * _DOUBLINGS))
            wait = max(wait, self._sent + gap - now)
        self._held_by = "a pause after a refusal" if wait > 0 else Gauge.PLACES
        slow = self._beliefs.limits.get(Gauge.MINUTE)
        if slow is not None and slow.value < 1 and self._sent + 60 / slow.value - now > wait:
            wait, self._held_by = self._sent + 60 / slow.value - now, Gauge.MINUTE
        return wait

    def admit(self, now: float, tokens: float = 0.0) -> Ticket:
        """Count one request as sent at *now*."""
        self._sent = now
        ticket = self._dials.admit(now, tokens)
        self._beliefs.admit(ticket, now)
        return ticket

    def succeed(self, ticket: Ticket, now: float, tokens: float = 0.0) -> None:
        """Note an answer, of any status but a refusal for load; *tokens* were really used."""
        self._dials.in_flight -= 1
        self._row = self._alone = 0
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
        self._row += 1
        self._alone += ticket.place == 1
        again = self._row > 2 and ticket.place == 1
        self._beliefs.evidence.refuse(ticket, now, again=again)
        gauge = self._beliefs.learn(ticket, notice, now, is_single=self._row == 1)
        if self.in_flight:
            return
        is_shut = self._row > _ALL
        if is_shut:
            self._ramp.slow_down(0, now)
        if retry_after and (is_shut or gauge not in (None, Gauge.PLACES)):
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
