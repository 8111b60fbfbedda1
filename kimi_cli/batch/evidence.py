"""What the last attempts say of limits: which threshold tells best the refused from the others."""

from __future__ import annotations

import contextlib
from collections import deque
from dataclasses import dataclass

from kimi_cli.batch.gauges import Gauge, Ticket

_HEARD = 64
"""Attempts among which refusals are explained."""
_FADING = 0.96
"""What an attempt tells, as a multiple of what the next one tells."""
_NEAR = 0.25
"""What an attempt tells that was admitted only a little above a threshold."""
_ALONE = 0.5
"""What a refusal tells with nothing else in flight: others may have taken all the places."""
_CONVINCED = 1.9
"""Refusals that a limit must explain, those admitted against it taken off, to be believed."""
_SHORT = (Gauge.PLACES, Gauge.SECOND)
_TIMES = 3
"""What two refusals may tell of; of others it takes so many that did not leave at once."""
_LATE = 3.0
"""Times as long as a refusal took: what was not refused by then is admitted."""
_REFLEX = 0.05
"""What a refusal takes before there was one (s)."""
_DISGRACE, _DISFAVOUR = 10.0, 2.0
"""The seconds for which a gauge is doubted that was wrong, and by how many refusals' worth."""
_CAUTION = 20.0
"""How much more is to be explained, by the share of refusals that nothing explains."""
_MOODY, _MOODIEST, _MEMORY = 0.03, 0.25, 0.01
"""The share of refusals that nothing explains, from which on single ones are doubted."""


@dataclass(frozen=True, repr=False, slots=True)
class Guess:
    """A limit that explains refusals, and how many."""

    gauge: Gauge
    value: float
    weight: float


class Evidence:
    """The last attempts."""

    def __init__(self) -> None:
        """Begin without any."""
        self._tickets: deque[Ticket] = deque(maxlen=_HEARD)
        self._doubted: dict[Gauge, float] = {}
        self._reflex: float | None = None
        """The seconds that a refusal takes, of late."""
        self._mood = 0.0

    @property
    def settled(self) -> float:
        """The seconds after which what was not refused is admitted."""
        return _LATE * (_REFLEX if self._reflex is None else self._reflex)

    @property
    def is_moody(self) -> bool:
        """Whether refusals come that no limit explains."""
        return self._mood > _MOODY

    def admit(self, ticket: Ticket) -> None:
        """Note that *ticket* leaves."""
        self._tickets.append(ticket)
        self._mood *= 1 - _MEMORY

    def refuse(self, ticket: Ticket, now: float, *, first: bool, again: bool) -> None:
        """Note that it was refused, the *first* of those that left at once or another one.

        *again* tells that this says nothing new.
        """
        ticket.refused, ticket.echoes = True, not first
        took = now - ticket.sent
        self._reflex = took if self._reflex is None else self._reflex + 0.2 * (took - self._reflex)
        if again:
            with contextlib.suppress(ValueError):
                self._tickets.remove(ticket)

    def doubts(self, gauge: Gauge, now: float) -> bool:
        """Tell whether a belief about *gauge* was wrong a moment ago."""
        return self._doubted.get(gauge, 0.0) > now

    def forget(self, gauge: Gauge, now: float) -> None:
        """Begin anew: what explained it all, by *gauge*, was wrong."""
        self._tickets.clear()
        self._doubted[gauge] = now + _DISGRACE
        self._mood = min(_MOODIEST, self._mood + _MEMORY)

    def explain(self, now: float, favours: dict[Gauge, float]) -> Guess | None:
        """Return what explains the refusals best; None where nothing does, or too few.

        *favours* are refusals' worth of what else speaks for a gauge. Of two that explain as
        much, the one that holds back less is believed: what follows tells soon whether it is.
        """
        weight, refused, admitted = 1.0, [], []
        for ticket in reversed(self._tickets):
            if ticket.refused:
                refused.append((ticket, weight * (_ALONE if ticket.place == 1 else 1.0)))
            elif ticket.answered or ticket.sent < now - self.settled:
                admitted.append((ticket, weight))
            else:
                continue
            weight *= _FADING
        times = sum(not ticket.echoes for ticket, _ in refused)
        gauges = Gauge if times >= _TIMES else _SHORT
        guesses = [_explain_by(gauge, refused, admitted) for gauge in gauges]
        best, most = None, 0.0
        convincing = _CONVINCED + _CAUTION * max(0.0, self._mood - _MOODY)
        for guess in guesses:
            if guess is None:
                continue
            weight = guess.weight + favours.get(guess.gauge, 0.0)
            weight -= _DISFAVOUR * self.doubts(guess.gauge, now)
            if weight >= convincing and weight - guess.gauge / 2 > most:
                best, most = guess, weight - guess.gauge / 2
        if best is None:
            self._mood = min(_MOODIEST, self._mood + _MEMORY)
        return best


_Weighed = list[tuple[Ticket, float]]


def _explain_by(gauge: Gauge, refused: _Weighed, admitted: _Weighed) -> Guess | None:
    """Find the threshold that tells most: what was admitted well above it speaks against it."""
    best: Guess | None = None
    total = 0.0
    for ticket, weight in sorted(refused, key=lambda item: -item[0].find_level(gauge)):
        level = ticket.find_level(gauge)
        if level <= ticket.find_need(gauge):
            continue
        total += weight
        far = level + max(2.0, 0.05 * level)
        against = sum(
            weight if other.find_level(gauge) > far else _NEAR * weight
            for other, weight in admitted
            if other.find_level(gauge) >= level
        )
        if total - against > (best.weight if best else 0.0):
            best = Guess(gauge, level - ticket.find_need(gauge), total - against)
    return best
