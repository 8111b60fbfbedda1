"""How many requests may be in flight, and how fast they may leave. Pure: the caller has the clock.

What a service announces is believed, what it keeps silent is learned: a refusal for concurrency
sets the limit to what was admitted at that moment, a refusal for rate to what was admitted in the
last window. Rate windows are mirrored here, so a known limit is kept without being asked for.
What refuses now and then at any pace is no limit, and slows nothing down.
Where nothing is refused, more is sent at once only as long as that brings more.
"""

from __future__ import annotations

import math
import random

from kimi_cli.batch.gauges import Doubt, Limit, Meter, Ramp, Ticket
from kimi_cli.batch.notices import Kind, Notice

START = 16
HIGHEST = 256
_SECOND, _MINUTE = 1.0, 60.0
_LEAST_GAP = 0.005
"""Seconds between two requests that are worth keeping."""
_LEAST_RELEASE, _LONGEST_RELEASE = 1.0, 10.0
_LONGEST_HESITATION = 5.0
_SLOWER = 1.5
"""How much slower requests leave while it is tried whether that helps."""
_WELL_WITHIN = 0.8
"""Share of a limit below which it cannot be this one that a refusal speaks of."""


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
    ) -> None:
        """Begin modestly, below *cap* (``-c``); *rate* is a documented limit per second.

        *share* processes use one account: what is announced or documented is divided by it.
        """
        self._cap = float(cap or HIGHEST)
        self._start = self.limit = min(float(start), self._cap)
        """How many requests may be in flight now."""
        self.in_flight = 0
        self._share = share
        self._ceiling = Limit(self._cap, "", top=self._cap)
        self._ramp = Ramp(self.limit)
        self._fresh = 0
        """Answers since all places were taken last."""
        self._silent = Kind.CONCURRENCY
        self._meters = {_SECOND: Meter(_SECOND), _MINUTE: Meter(_MINUTE)}
        self._rates: dict[float, Limit] = {}
        self._tokens: Limit | None = None
        self._pause_until = -math.inf
        self._release = 0.0
        """The seconds over which requests leave one by one after a pause."""
        self._latency: float | None = None
        self._sent = -math.inf
        self._number = 0
        self._gap = 0.0
        """Seconds between two requests, of late."""
        self._doubt = Doubt()
        self._announces = False
        self._lowered = -math.inf
        self._held_by: Limit | str | None = None
        if rpm is not None:
            self._rates[_MINUTE] = Limit(rpm, "--rpm", top=rpm)
        if tpm is not None:
            self._tokens = Limit(tpm, "--tpm", top=tpm)
        if rate is not None:
            known = max(1.0, rate / share)
            self._rates[_SECOND] = Limit(known, "documented", top=known)

    @property
    def reason(self) -> str:
        """What holds requests back, for people."""
        held = self._held_by
        if isinstance(held, str):
            return held
        if held is not None:
            return self._describe(held)
        if self._doubt.is_trying:
            return "a trial: do fewer refusals come when all goes slower?"
        if self.limit < self._ceiling.value:
            why = " (more at once brings no more)" if self._ramp.rests else " (growing)"
        else:
            why = f" ({self._ceiling.how})" if self._ceiling.how else ""
        return f"concurrency {int(self.limit)}{why}"

    @property
    def is_held_by_choice(self) -> bool:
        """Whether a limit of the user's own holds requests back."""
        return isinstance(self._held_by, Limit) and self._held_by.is_chosen

    def _describe(self, limit: Limit) -> str:
        if limit.is_chosen:
            return f"{limit.how} {limit.value:g}"
        if limit is self._tokens:
            return f"tokens {limit.value:g} a minute ({limit.how})"
        unit = "minute" if limit is self._rates.get(_MINUTE) else "second"
        return f"rate {limit.value:g} a {unit} ({limit.how})"

    def find_wait(self, now: float, tokens: float = 0.0) -> float | None:
        """Return the seconds until a request of *tokens* may leave: 0 for now.

        None means that no time helps: one in flight must come back first.
        """
        allowed = int(self.limit)
        if self._doubt.is_trying:
            allowed = max(1, int(self.limit / _SLOWER))
        elif self.in_flight >= allowed:
            self._grow(now)
            allowed = int(self.limit)
        if self.in_flight >= allowed:
            self._held_by = None
            return None
        wait = self._sent + self._find_gap(now) - now
        if (pause := self._pause_until - now) > max(0.0, wait):
            wait, self._held_by = pause, "a pause after a refusal"
        for period, limit in self._rates.items():
            room = self._meters[period].wait_for_request(now, limit.value)
            wait = self._hold(limit, now, wait, room)
        if self._tokens is not None:
            room = self._meters[_MINUTE].wait_for_tokens(now, self._tokens.value, tokens)
            wait = self._hold(self._tokens, now, wait, room)
        return max(0.0, wait)

    def _hold(self, limit: Limit, now: float, wait: float, room: float) -> float:
        """Return the longer of *wait* and *room*, and remember whose it is."""
        if room <= max(0.0, wait):
            return wait
        self._held_by = limit
        limit.press(now)
        return room

    def _find_gap(self, now: float) -> float:
        """Return the seconds between two requests, where they must not leave all at once.

        After a pause, or a refusal, a herd would be refused as a herd. And a service that has
        announced one limit will announce its rate, too: answers that come together would send as
        many requests at it, and all but the first would learn nothing.
        """
        if _MINUTE in self._rates and self._rates[_MINUTE].value < 1:
            return _MINUTE / self._rates[_MINUTE].value
        gap = _SLOWER * self._gap if self._doubt.is_trying else 0.0
        if now < self._pause_until + self._release:
            gap = self._release / self.limit
        elif self._announces and not self._rates and self._latency is not None:
            gap = self._latency / (2 * self.limit)
        return gap if gap >= _LEAST_GAP else 0.0

    def admit(self, now: float, tokens: float = 0.0) -> Ticket:
        """Count one request as sent at *now*."""
        self.in_flight += 1
        self._number += 1
        if not self._doubt.is_trying and self._number > 1:
            self._gap = 0.9 * self._gap + 0.1 * (now - self._sent)
        self._sent = now
        self._doubt.admit(self._number)
        ticket = Ticket(now, tokens, self.in_flight, self._number)
        for meter in self._meters.values():
            meter.add(ticket, 1, tokens)
        return ticket

    def succeed(self, ticket: Ticket, now: float, tokens: float = 0.0) -> None:
        """Note an answer, of any status but a refusal for load; *tokens* were really used."""
        self.in_flight -= 1
        if tokens:
            self._meters[_MINUTE].add(ticket, 0, tokens - ticket.tokens)
        latency = now - ticket.sent
        self._latency = latency if self._latency is None else 0.9 * self._latency + 0.1 * latency
        self._fresh = min(self._fresh + 1, int(self.limit))
        if self._cap > self._start:
            self.limit = self._ramp.note(ticket, now, tokens, self.limit)

    def _grow(self, now: float) -> None:
        """Make room after answers that came while every place was taken, and was wanted."""
        if self.limit >= self._ceiling.value and self._fresh:
            self._ceiling.press(now)
        for _ in range(self._fresh):
            self.limit = min(self._ramp.climb(now, self.limit), self._ceiling.value)
        self._fresh = 0

    def confine(self, cap: int) -> None:
        """Have at most *cap* requests in flight from now on: this system allows no more."""
        self._cap = float(cap)
        self._ceiling = Limit(self._cap, "all that this system allows", top=self._cap)
        self.limit = min(self.limit, self._cap)

    def fail(self, now: float, *, in_time: bool = True) -> None:
        """Note an attempt that failed; one that ran out of time may have stood in a queue."""
        self.in_flight -= 1
        if not in_time:
            self._back_off(now)

    def refuse(self, ticket: Ticket, notice: Notice, now: float, retry_after: float | None) -> None:
        """Learn from a refusal; the refused request itself never counted for the service."""
        self.in_flight -= 1
        for meter in self._meters.values():
            meter.add(ticket, -1, -ticket.tokens)
        self._announces = self._announces or notice.limit is not None
        self._doubt.refuse(ticket.number)
        if notice.limit is None and self._is_excused(notice.kind, ticket, now):
            return
        kind = self._guess(notice.kind, ticket)
        if kind is Kind.CONCURRENCY:
            self._learn_concurrency(notice, ticket, now)
        elif kind is Kind.RATE:
            self._learn_rate(notice, ticket, now)
        elif kind is Kind.TOKENS and notice.limit is not None:
            self._learn_tokens(notice.limit, ticket, now)
        else:
            self._back_off(now)
        if notice.kind is not Kind.CONCURRENCY or (retry_after and not self.in_flight):
            # Where others are in flight, each that comes back makes room.
            self._pause_until = max(self._pause_until, now + (retry_after or 0.0))
            least = _LEAST_RELEASE if retry_after else 0.0
            self._release = min(_LONGEST_RELEASE, max(least, self._latency or 1.0))

    def _is_excused(self, kind: Kind, ticket: Ticket, now: float) -> bool:
        """Tell whether no limit explains a refusal; what was learned by such is forgotten."""
        knew = self._doubt.share
        if not (knew or self._has_kept(kind, ticket)) or not self._doubt.excuses(ticket.number):
            return False
        if self._doubt.share and not knew:
            self._ceiling = Limit(self._ceiling.top, "", top=self._ceiling.top)
            self._rates = {
                period: limit for period, limit in self._rates.items() if limit.top < math.inf
            }
            self._pause_until = now
            self._set_limit(self.limit, now)
        return True

    def _has_kept(self, kind: Kind, ticket: Ticket) -> bool:
        """Tell whether a request left within all that is known of the limits of *kind*."""
        if kind is Kind.RATE or (kind is Kind.UNKNOWN and self._silent is Kind.RATE):
            learned = [limit for limit in self._rates.values() if not limit.is_chosen]
        else:
            learned = [self._ceiling]
        return bool(learned) and all(limit.is_kept(ticket) for limit in learned)

    def restart(self, now: float) -> None:
        """Begin again at a quarter, after the service was down."""
        self._set_limit(max(1.0, self.limit / 4), now)

    def _set_limit(self, value: float, now: float) -> None:
        self.limit = value
        self._ramp.restart(value, now)

    def _guess(self, kind: Kind, ticket: Ticket) -> Kind:
        """Tell a silent limit: what is refused within the learned concurrency is refused for rate.

        Requests that left before that was learned belong to the burst that taught it.
        """
        if kind is not Kind.UNKNOWN:
            return kind
        ceiling = self._ceiling
        within = self.in_flight < _WELL_WITHIN * ceiling.proven
        if ceiling.how and within and ticket.sent > ceiling.changed:
            # What was learned of concurrency was a misunderstanding.
            self._silent = Kind.RATE
            self._ceiling = Limit(self._cap, "", top=self._cap)
        return self._silent

    def _learn_concurrency(self, notice: Notice, ticket: Ticket, now: float) -> None:
        admitted, how = float(self.in_flight), "learned"
        if self._ceiling.how and ticket.sent <= self._ceiling.changed:
            # Of the burst that taught it: answers that came meanwhile had their places, too.
            admitted = max(admitted, self.limit - 1)
        if notice.limit is not None:
            how = "announced"
            self._ceiling.top = min(self._cap, max(1.0, notice.limit // self._share))
        self._ceiling.lower(min(admitted, self.limit), now, how)
        self._set_limit(self._ceiling.value, now)

    def _learn_rate(self, notice: Notice, ticket: Ticket, now: float) -> None:
        if notice.limit is not None:
            known = self._rates.get(notice.period)
            admitted, _ = self._meters[notice.period].count(now)
            known = self._believe(known, notice.limit, admitted, ticket, now)
            self._rates[notice.period] = known
            self._hesitate(now, notice.period / known.value)
            return
        period = self._find_period(ticket, now)
        admitted, _ = self._meters[period].count(now)
        known = self._rates.setdefault(period, Limit(math.inf, ""))
        # Several refusals of one burst arrive one by one, each with a truer count.
        known.lower(min(admitted, known.value), now)

    def _find_period(self, ticket: Ticket, now: float) -> float:
        """Return the window that a silent rate is counted in, for all we know.

        What is refused although the second's limit is kept is refused for more than a second.
        """
        known = self._rates.get(_SECOND)
        slow = self._rates.get(_MINUTE)
        if known is None and slow is not None and not slow.is_chosen:
            return _MINUTE
        admitted, _ = self._meters[_SECOND].count(now)
        if known is None or ticket.sent <= known.changed or admitted >= _WELL_WITHIN * known.proven:
            return _SECOND
        if known.top == math.inf:
            del self._rates[_SECOND]  # it was a misunderstanding
        return _MINUTE

    def _hesitate(self, now: float, gap: float) -> None:
        """Send nothing for about the time in which the service admits one: others wait, too."""
        pause = random.uniform(1, 2) * min(gap, _LONGEST_HESITATION)
        self._pause_until = max(self._pause_until, now + pause)

    def _learn_tokens(self, announced: float, ticket: Ticket, now: float) -> None:
        _, admitted = self._meters[_MINUTE].count(now)
        self._tokens = self._believe(self._tokens, announced, admitted, ticket, now)

    def _believe(
        self, known: Limit | None, announced: float, admitted: float, ticket: Ticket, now: float
    ) -> Limit:
        """Return the limit that was *announced*, or less of it where others take their part.

        That is so when a request was refused although this limit was known, and kept.
        """
        top = max(1.0, announced // self._share)
        if known is None or known.top > top:
            known = Limit(top, "announced", top=top)
            known.changed = now
        elif ticket.sent > known.changed and admitted < known.value:
            known.lower(admitted, now, "announced, and used by others")
        return known

    def _back_off(self, now: float) -> None:
        """Take 30 % off, at most once a round trip."""
        if now - self._lowered > (self._latency or 1.0):
            self._lowered = now
            self._ceiling.lower(0.7 * self.limit, now, "the service is overloaded")
            self._set_limit(self._ceiling.value, now)
