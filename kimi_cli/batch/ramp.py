"""More requests at once for as long as that brings more answers."""

from __future__ import annotations

import math

from kimi_cli.batch.gauges import Ticket

START = 16
"""Requests at once that a run begins with."""
_PATIENCE, _MOST_PATIENCE = 30.0, 120.0
"""Seconds before more is tried where it did not help; they double each time it is in vain."""
_SAMPLE = 48
"""Answers that are judged by, at least: they are of very different length."""
_GAIN = 1.25
"""What twice as many at once must bring, as a multiple of what came before."""


class Ramp:
    """More requests at once for as long as that helps: one more with each answer.

    Beyond what a service can do at once requests only queue, and time out. That shows in what an
    answer takes: requests are counted in octaves by how many were in flight when they left, and
    twice as many must bring more answers (or tokens) a second. Where they do not, the limit goes
    back to what proved useful, and more is tried again after a while.
    """

    def __init__(self, level: float, top: float) -> None:
        """Begin at *level*, and stay there where *top* is no more."""
        self.level = self._first = level
        self._top = top
        self.latency = self.interval = 0.0
        """The seconds that an answer takes, and those between two answers, of late."""
        self._answered: float | None = None
        self._patience = _PATIENCE
        self._is_careful = False
        """Whether more was too much once: from then on each octave must prove itself first."""
        self.restart(level, -math.inf)

    def restart(self, level: float, now: float) -> None:
        """Begin anew at *level*, with nothing to compare to."""
        self._is_careful = False
        self._level = self.level = max(1.0, level)
        self._fresh = 0
        """Answers that have not yet made room for one more."""
        self._began = now
        self._octaves = [_Octave()]
        self._rests_until: float | None = None

    def slow_down(self, in_flight: int, now: float) -> None:
        """Begin anew at what is in flight: what a limit held back must not leave as a herd."""
        self.restart(min(self.level, max(self._first, in_flight)), now)

    def reach(self, level: float) -> None:
        """Allow at least *level*."""
        self.level = max(self.level, min(level, self._top))

    @property
    def rests(self) -> bool:
        """Whether more at once was tried, and did not help."""
        return self._rests_until is not None

    def climb(self, now: float) -> None:
        """Make room after answers that came while every place was taken, and was wanted."""
        if self._rests_until is not None:
            if now < self._rests_until or self._octaves[0].answers < _SAMPLE:
                self._fresh = 0
                return
            self._rests_until = None
        top = min(self._top, 2 * self._level) if self._is_careful else self._top
        self.level = min(self.level + self._fresh, top)
        self._fresh = 0

    def note(self, ticket: Ticket, now: float, tokens: float) -> None:
        """Count an answer; be content with less when this many at once proved useless."""
        since = now - ticket.sent if self._answered is None else now - self._answered
        self._answered = now
        self.interval += 0.1 * (since - self.interval)
        self.latency += 0.1 * (now - ticket.sent - self.latency)
        self._fresh = min(self._fresh + 1, int(self.level))
        if self._top > self._first:
            self.level = self._count(ticket, now, tokens, self.level)

    def _count(self, ticket: Ticket, now: float, tokens: float, limit: float) -> float:
        place = ticket.place / self._level
        if place <= 0.5 or ticket.sent < self._began:
            return limit  # so few, or what was true before, tell nothing
        number = 0 if place <= 1 else math.ceil(math.log2(place))
        while number >= len(self._octaves):
            self._octaves.append(_Octave())
        self._octaves[number].add(ticket, now, tokens)
        return self._judge(number, now, limit) if number else limit

    def _judge(self, number: int, now: float, limit: float) -> float:
        """Compare an octave with the one below, early, and when the long answers are there."""
        octave, before = self._octaves[number], self._octaves[number - 1]
        top = self._level * 2**number
        if octave.answers not in (_SAMPLE, max(_SAMPLE + 1, 2 * int(top))):
            return limit
        if before.answers < _SAMPLE / 3:
            return limit
        gain = octave.compare(before)
        if gain < _GAIN:
            limit = min(limit, top / 2 * max(1.0, gain))
            self.restart(limit, now)
            self._is_careful = True
            self._rests_until = now + self._patience
            self._patience = min(_MOST_PATIENCE, 2 * self._patience)
        elif self._is_careful:
            self.restart(limit, now)
            self._is_careful = True
            self._patience = _PATIENCE
        return limit


class _Octave:
    """Answers to requests that left with about as many in flight."""

    def __init__(self) -> None:
        self.answers = 0
        self._places = self._seconds = self._tokens = 0.0

    def add(self, ticket: Ticket, now: float, tokens: float) -> None:
        """Count one answer, which used *tokens* where the host tells."""
        self.answers += 1
        self._places += ticket.place
        self._seconds += now - ticket.sent
        self._tokens += tokens

    def compare(self, before: _Octave) -> float:
        """Return how many times as much comes in a second as *before*, by Little's law."""
        by_tokens = self._tokens and before._tokens
        return self._find_speed(by_tokens) / max(1e-9, before._find_speed(by_tokens))

    def _find_speed(self, by_tokens: float) -> float:
        """Return the tokens, or the answers, a second of as many requests as were in flight."""
        amount = self._tokens if by_tokens else self.answers
        return self._places / self.answers * amount / max(1e-9, self._seconds)
