"""The limits that are believed in: what they hold back, how they are tested, and dropped."""

from __future__ import annotations

import math

from kimi_cli.batch.evidence import Evidence
from kimi_cli.batch.gauges import Dials, Gauge, Limit, Origin, Ticket
from kimi_cli.batch.notices import Kind, Notice
from kimi_cli.batch.ramp import Ramp

_FAVOUR = 2.0
"""Refusals' worth of a number that the host announces, and of a prediction that failed often."""
_NEAR = 0.8
"""Share of a limit down to which refusals only sharpen it."""
_FELT = 0.5
"""Share of a limit from which on it may be the one that a refusal is about."""
_SETTLED = 0.1
"""Seconds, and one answer at least, before a limit is sharpened rather than explained anew."""
_RISES, _STEPS = 2, 3
"""A limit of a second that rose so often is none; one of a minute where that many are admitted."""
_STEP_LASTS = 0.035
"""Seconds between two steps of a rate: more than a mirrored second is longer than a second."""
_TOLERANCE = 2.0
"""Requests by which a rate may be exceeded in a burst: a step lasts until they are made up for."""
_LONG = (Gauge.MINUTE, Gauge.TOKENS)
_SELDOM = 0.5
"""Seconds between two answers, at least, by which the patience with a minute is measured."""
_MOVED = 5
"""A limit of a window that rises by more than that before it refuses was none."""


class Beliefs:
    """The limits in force, by what they count."""

    def __init__(self, dials: Dials, ramp: Ramp, limits: dict[Gauge, Limit], share: int) -> None:
        """Begin with those *limits* that are known; of others this is one of *share* shares."""
        self.share = share
        self._heard: set[tuple[Gauge, float]] = set()
        """What was announced: who says it again after it proved wrong is not believed."""
        self.limits = limits
        self.evidence = Evidence()
        self._dials = dials
        self._ramp = ramp

    def find_holds(self, now: float, tokens: float) -> dict[Gauge, float]:
        """Return what holds a request of *tokens* back, and the seconds until there is room."""
        waits = {
            gauge: self._dials.find_wait(gauge, limit.value, now, _weigh(gauge, tokens))
            for gauge, limit in self.limits.items()
        }
        return {gauge: wait for gauge, wait in waits.items() if wait > 0}

    def find_next(self, gauge: Gauge) -> float:
        """Return when more than the limit of *gauge* is tried."""
        settled = self.evidence.settled
        if gauge is Gauge.SECOND:
            settled = max(settled, _STEP_LASTS, _TOLERANCE / self.limits[gauge].value)
        interval = max(self._ramp.interval, _SELDOM) if gauge in _LONG else self._ramp.interval
        return self.limits[gauge].find_next(settled, interval)

    def try_more(self, gauge: Gauge, now: float, tokens: float) -> bool:
        """Try more than a limit, which alone holds back, if it is time; drop it if it is none."""
        limit = self.limits[gauge]
        is_fair = limit.quiet is not None and self._dials.in_flight <= limit.quiet
        early = is_fair and now - limit.changed > self.evidence.settled
        if not early and now < self.find_next(gauge):
            return False
        limit.try_more(now, _weigh(gauge, tokens), self._dials.read(gauge, now))
        if gauge is Gauge.PLACES:
            self._ramp.reach(limit.value)
        elif gauge in _LONG and limit.steps > _STEPS:
            self._refute(gauge, now)
        return True

    def admit(self, ticket: Ticket, now: float) -> None:
        """Note that *ticket* leaves."""
        self.evidence.admit(ticket)
        for gauge, limit in self.limits.items():
            limit.note(ticket.find_level(gauge), now)

    def confirm(self, ticket: Ticket) -> None:
        """Note that *ticket* is answered: who predicted so was right."""
        ticket.answered = True
        for gauge, limit in self.limits.items():
            if ticket.sent > limit.changed and ticket.find_level(gauge) > _NEAR * limit.value:
                limit.failures = 0

    def learn(self, ticket: Ticket, notice: Notice, now: float, *, is_single: bool) -> Gauge | None:
        """Learn from a refusal; return the gauge of the limit that explains it, if any does.

        Where refusals come that nothing explains, a single one changes no belief.
        """
        announced = self._hear(notice, now)
        failed = [gauge for gauge, limit in self.limits.items() if limit.fails(gauge, ticket)]
        gauge = None
        if not (is_single and self.evidence.is_moody):
            gauge = self._take_back(ticket, now)
            gauge = self._sharpen(ticket, now) if gauge is None else gauge
            gauge = self._follow(ticket, now, failed) if gauge is None else gauge
        if gauge is None:
            gauge = self._guess(announced, ticket, now)
        if gauge in failed and gauge in self.limits:
            self.limits[gauge].failures += 1
        return gauge

    def _guess(self, announced: Gauge | None, ticket: Ticket, now: float) -> Gauge | None:
        """Believe in what explains the last refusals best; return it."""
        favours = {gauge: -_FAVOUR for gauge, limit in self.limits.items() if limit.is_doubted}
        if announced is not None:
            favours[announced] = favours.get(announced, 0.0) + _FAVOUR
        guess = self.evidence.explain(now, favours)
        if guess is None:
            return None
        self._believe(guess.gauge, guess.value, ticket, now)
        return guess.gauge

    def set(self, gauge: Gauge, value: float, now: float, origin: Origin) -> Limit:
        """Believe in a limit, or in a lower one."""
        limit = self.limits.get(gauge)
        if limit is None:
            limit = self.limits[gauge] = Limit(max(1.0, value), origin, now)
        else:
            limit.lower(value, now, origin)
        if gauge is Gauge.PLACES and limit.value < self._ramp.level:
            self._ramp.restart(limit.value, now)
        return limit

    def _hear(self, notice: Notice, now: float) -> Gauge | None:
        """Note a limit that the host announced, which is believed before it is found out."""
        if notice.limit is None:
            return None
        gauge = {Kind.CONCURRENCY: Gauge.PLACES, Kind.TOKENS: Gauge.TOKENS}.get(
            notice.kind, Gauge.MINUTE
        )
        value = max(1.0, notice.limit // self.share)
        if (gauge, value) in self._heard:
            return gauge if gauge in self.limits and self.limits[gauge].value <= value else None
        self._heard.add((gauge, value))
        known = self.limits.get(gauge)
        if known is None or value < known.value:
            limit = self.set(gauge, value, now, Origin.ANNOUNCED)
            if self.share > 1:
                limit.settle(value)  # who divides it knows that the rest is another's
        return gauge

    def _take_back(self, ticket: Ticket, now: float) -> Gauge | None:
        """Take the step back that a refused request tried; return whose it was."""
        for gauge, limit in self.limits.items():
            if limit.steps and ticket.find_level(gauge) > limit.floor:
                if limit.steps < _STEPS:
                    self.set(gauge, limit.proven, now, limit.origin)
                elif gauge in _LONG or (gauge is Gauge.SECOND and limit.rises >= _RISES):
                    self._refute(gauge, now)
                else:
                    self.set(gauge, limit.floor, now, limit.origin)
                return gauge
        return None

    def _sharpen(self, ticket: Ticket, now: float) -> Gauge | None:
        """Lower a limit a little that a refusal comes near; return whose it is."""
        for gauge in Gauge:
            limit = self.limits.get(gauge)
            if limit is None or limit.steps or limit.is_doubted:
                continue
            level, need = ticket.find_level(gauge), ticket.find_need(gauge)
            admitted = self._dials.read(gauge, now)
            is_fresh = now - limit.since < max(_SETTLED, self._ramp.latency)
            if is_fresh and limit.value < level and ticket.sent <= limit.changed:
                limit.lower(min(limit.value, admitted), limit.changed, limit.origin)
                return gauge  # of the burst that taught it
            least = max(1.0, min(_NEAR * limit.proven, limit.proven - 1))
            if not is_fresh and level - need >= max(least, limit.value - need):
                limit.sharpen(min(level - need, max(admitted, least)), now)
                return gauge
        return None

    def _follow(self, ticket: Ticket, now: float, failed: list[Gauge]) -> Gauge | None:
        """Let a limit that was felt fall to what is admitted: it was right until now."""
        for gauge in failed:
            limit, level = self.limits[gauge], ticket.find_level(gauge)
            if gauge in _LONG or limit.is_doubted or level < max(2, _FELT * limit.value):
                continue
            self.set(gauge, self._dials.read(gauge, now), now, Origin.LEARNED)
            return gauge
        return None

    def _believe(self, gauge: Gauge, value: float, ticket: Ticket, now: float) -> None:
        """Believe in a limit that explains the refusals, at what is admitted now."""
        limit = self.limits.get(gauge)
        value = max(value, self._dials.read(gauge, now))
        if limit is None or not limit.is_found:
            self.set(gauge, value, now, Origin.LEARNED).quiet = ticket.place / 2
        elif value < limit.value:
            moved = limit.steps >= _STEPS and value > limit.proven + _MOVED
            if moved and gauge is not Gauge.PLACES and not self.evidence.doubts(gauge, now):
                self._refute(gauge, now)
                return
            if limit.steps and value >= _NEAR * limit.proven:
                value = max(value, limit.proven)
            self.set(gauge, value, now, Origin.LEARNED)

    def _refute(self, gauge: Gauge, now: float) -> None:
        """Drop a limit: it predicted refusals that did not come."""
        limit = self.limits.pop(gauge)
        if limit.top < math.inf:
            self.limits[gauge] = Limit(limit.top, limit.top_origin, now, top=limit.top)
        for other in self.limits.values():
            other.failures = 0
        self.evidence.forget(gauge, now)
        self._ramp.slow_down(self._dials.in_flight, now)


def _weigh(gauge: Gauge, tokens: float) -> float:
    """Return what a request of *tokens* adds to *gauge*."""
    return tokens if gauge is Gauge.TOKENS else 1.0
