"""What a pace is made of: limits that are learned, mirrored windows, a slow start.

Pure: the caller has the clock. All times are seconds on one monotonic clock.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

_MARGIN = 0.03
"""Share by which a mirrored window is longer than the service's: requests take time to arrive."""
_SLOTS = 300
"""Slots of a mirrored window."""
_PATIENCE, _MOST_PATIENCE = 30.0, 120.0
"""Seconds before more is tried; they double each time it is in vain."""
_STEP, _NEXT_STEP = 0.05, 5.0
"""Share by which a limit is raised first, and the seconds before it is raised by twice as much."""
_NEAR = 12
"""Requests among which refusals that stand close are a row of them."""
_ROW, _SURPLUS = 0.5, 0.2
"""Shares beyond the usual one: of those near for a row, of the last fifty or so for a limit."""
_RECENT = 0.02
"""Weight of one request in the share of the last fifty or so."""
_SINGLES, _AGAIN = 3, 2
"""Single refusals that give rise to a trial, and those in it that settle it."""
_TRIAL = 5.0
"""A trial lasts until that many refusals should have come, were they to come as before."""
_MOST, _WEIGHT = 0.25, 100
"""The largest share that is borne, and the requests for which its first estimate counts."""
_GUILT = 3
"""Refusals that are believed at once after a trial without any."""
_SAMPLE = 48
"""Answers that are judged by, at least: they are of very different length."""
_GAIN = 1.25
"""What twice as many at once must bring, as a multiple of what came before."""


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Ticket:
    """One admitted request: when it left (monotonic s), and the tokens reserved for it."""

    sent: float
    tokens: float
    place: int = 1
    """How many were in flight then, this one among them."""
    number: int = 0
    """Which request of the run it is."""


class Limit:
    """A limit of the service as far as it is known: refusals lower it, a quiet while raises it.

    Others may use the same account now and be gone in an hour, so nothing that was learned is
    for ever; only *top*, which was chosen, documented or announced, is never exceeded.
    """

    def __init__(self, value: float, how: str, *, top: float = math.inf) -> None:
        """Begin at *value*; *how* it is known is said to people."""
        self.value = min(value, top)
        self.top = top
        self.how = how
        self.proven = self.value
        """What it was when it was last found out, before anything was tried beyond it."""
        self.changed = -math.inf
        """When it was last lowered or raised."""
        self._patience = _PATIENCE
        self._steps = 0

    def is_kept(self, ticket: Ticket) -> bool:
        """Tell whether *ticket* left within this limit, which was known and not tried beyond."""
        return bool(self.how) and not self._steps and ticket.sent > self.changed

    @property
    def is_chosen(self) -> bool:
        """Whether it is the user's own, by an option."""
        return self.how.startswith("--")

    def lower(self, value: float, now: float, how: str = "learned") -> None:
        """Note a refusal: *value* is what was admitted, at least 1."""
        if self._steps:
            vain = self._steps == 1
            self._patience = min(_MOST_PATIENCE, 2 * self._patience) if vain else _PATIENCE
        self._steps = 0
        self.value = self.proven = min(self.top, max(1.0, value))
        self.how = how
        self.changed = now

    def press(self, now: float) -> None:
        """Note that it holds requests back: after a quiet while it gives way, step by step."""
        patience = _NEXT_STEP if self._steps else self._patience
        if self.value < self.top and now - self.changed >= patience:
            step = max(1.0, _STEP * self.value) * 2**self._steps
            self.value = min(self.top, self.value + min(step, self.value))
            self._steps = min(8, self._steps + 1)
            self.changed = now


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

    def count(self, now: float) -> tuple[float, float]:
        """Return how many requests were admitted in the period, and how many tokens."""
        slots = [slot for slot in self._slots if slot[0] > now - self.period]
        return sum(slot[1] for slot in slots), sum(slot[2] for slot in slots)

    def wait_for_request(self, now: float, limit: float) -> float:
        """Return the seconds until one more request keeps *limit*."""
        return self._find_room(now, 0, limit, 1.0)

    def wait_for_tokens(self, now: float, limit: float, need: float) -> float:
        """Return the seconds until a request of *need* tokens keeps *limit*."""
        return self._find_room(now, 1, limit, need)

    def _find_room(self, now: float, column: int, limit: float, need: float) -> float:
        while self._slots and self._slots[0][0] <= now - self._reach:
            _, gone_requests, gone_tokens = self._slots.popleft()
            self._sums[0] -= gone_requests
            self._sums[1] -= gone_tokens
        excess = self._sums[column] + min(need, limit) - limit
        for slot in self._slots:
            if excess <= 0:
                break
            excess -= slot[column + 1]
            wait = slot[0] + self._width + self._reach - now
            if excess <= 0:
                return max(0.0, wait)
        return 0.0


class Doubt:
    """Whether refusals have to do with the pace at all.

    A limit refuses in rows, and nothing below it. But a service that is busy with others, or has
    many accounts behind one door, refuses one request in twenty whatever one does, and to go
    slower helps nobody. So single refusals within a limit that is kept are put to a trial: for a
    while everything goes slower, and if as many come then, it is not the pace.
    """

    def __init__(self) -> None:
        """Begin without a suspicion."""
        self.share = 0.0
        """The share of requests that is refused at any pace; 0 while nothing speaks for one."""
        self._prior = self._recent = 0.0
        self._refused: deque[int] = deque(maxlen=_NEAR)
        self._guilt = 0
        self._number = 0
        self._start()

    def _start(self) -> None:
        """Count anew."""
        self._first = self._number
        self._singles = 0
        self._last: int | None = None
        """The request with which a trial ends, while there is one."""

    @property
    def is_trying(self) -> bool:
        """Whether requests go slower now, to see what comes of it."""
        return self._last is not None

    def admit(self, number: int) -> None:
        """Note that request *number* leaves; a trial ends in which hardly any was refused."""
        self._number = number
        self._recent *= 1 - _RECENT
        if self._last is not None and number > self._last:
            self._start()
            self._guilt = _GUILT

    def refuse(self, number: int) -> None:
        """Note that request *number* was refused."""
        self._recent += _RECENT
        self._refused.append(number)

    def excuses(self, number: int) -> bool:
        """Tell whether the pace is not to blame for a refusal within a limit that is kept."""
        near = sum(number - _NEAR < other <= number for other in self._refused)
        in_a_row = near > _NEAR * (self.share + _ROW) or self._recent > self.share + _SURPLUS
        if in_a_row or self._guilt:
            self._guilt = max(0, self._guilt - 1)
            if not self.share:
                self._start()
            return False
        if number > self._first:
            self._singles += 1
            self._weigh()
        return True

    def _weigh(self) -> None:
        count = self._number - self._first
        share = self._singles / count
        if self.share:
            # A burst that turns out to be a row must not pass for what is usual.
            self.share = min(_MOST, (self._prior * _WEIGHT + self._singles) / (_WEIGHT + count))
        elif self.is_trying and self._singles >= _AGAIN:
            self.share = self._prior = min(_MOST, share)
            self._start()
        elif not self.is_trying and self._singles >= _SINGLES:
            self._start()
            self._last = self._number + int(_TRIAL / share)


class Ramp:
    """More requests at once for as long as that helps: one more with each answer.

    Beyond what a service can do at once requests only queue, and time out. That shows in what an
    answer takes: requests are counted in octaves by how many were in flight when they left, and
    twice as many must bring more answers (or tokens) a second. Where they do not, the limit goes
    back to what proved useful, and more is tried again after a while.
    """

    def __init__(self, level: float) -> None:
        """Begin at *level*."""
        self._patience = _PATIENCE
        self._is_careful = False
        """Whether more was too much once: from then on each octave must prove itself first."""
        self.restart(level, -math.inf)

    def restart(self, level: float, now: float) -> None:
        """Begin anew at *level*, with nothing to compare to."""
        self._level = max(1.0, level)
        self._began = now
        self._octaves = [_Octave()]
        self._rests_until: float | None = None

    @property
    def rests(self) -> bool:
        """Whether more at once was tried, and did not help."""
        return self._rests_until is not None

    def climb(self, now: float, limit: float) -> float:
        """Return the limit after one more answer, all of *limit* being in use."""
        if self._rests_until is not None:
            if now < self._rests_until or self._octaves[0].answers < _SAMPLE:
                return limit
            self._rests_until = None
        return min(limit + 1, 2 * self._level) if self._is_careful else limit + 1

    def note(self, ticket: Ticket, now: float, tokens: float, limit: float) -> float:
        """Count an answer; return the limit, lower when this many at once proved useless."""
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
