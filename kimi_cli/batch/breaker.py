"""What keeps a dead service from being asked by every row."""

from __future__ import annotations

import random
from collections import deque

_FEWEST, _NEARLY_ALL = 20, 0.9
"""Attempts, and the share of failures among them, from which on a service is down."""


class Breaker:
    """Opens when nearly all attempts fail: then only single probes go out, ever more rarely."""

    def __init__(self) -> None:
        """Start closed."""
        self.opened: float | None = None
        self._recent: deque[tuple[float, bool]] = deque()
        self._delay = 5.0
        self._next = 0.0

    def note(self, now: float, *, good: bool) -> bool:
        """Note one attempt; tell whether a success has closed the breaker just now."""
        self._recent.append((now, good))
        while self._recent[0][0] < now - 10:
            self._recent.popleft()
        if good:
            was_open = self.opened is not None
            self.opened = None
            if was_open:
                self._recent.clear()
            return was_open
        bad = sum(not good for _, good in self._recent)
        is_down = len(self._recent) >= _FEWEST and bad >= _NEARLY_ALL * len(self._recent)
        if self.opened is None and is_down:
            self.opened, self._delay = now, 5.0
            self._next = now + self._delay * random.uniform(0.75, 1.25)
        return False

    def find_wait(self, now: float) -> float:
        """Return the seconds until the next probe; 0 when rows may go."""
        return 0.0 if self.opened is None else max(0.0, self._next - now)

    def probe(self, now: float) -> None:
        """Note that a probe leaves."""
        if self.opened is not None:
            self._delay = min(60.0, self._delay * 2)
            self._next = now + self._delay * random.uniform(0.75, 1.25)
