"""How much of large replies may be held at once, by all who read them together.

A document of some size takes several times as much while it is read, judged and written; with
hundreds of requests in flight there would be no bound on that. Small ones are not counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

SMALL = 2**20
"""Bytes up to which a reply is not counted."""
_MOST = 128 * 2**20
_LOOK = 0.2
"""Seconds after which a waiting reader looks whether it was given up."""


class Allowance:
    """The bytes that may be held at once; one reply alone may always be, however large."""

    def __init__(self, most: int = _MOST) -> None:
        """Allow *most* bytes."""
        self._most = most
        self._held = 0
        self._freed = threading.Condition()

    def take(self, size: int, is_given_up: Callable[[], bool]) -> Share:
        """Wait until *size* bytes may be held; return them as a share.

        Raises ConnectionAbortedError where the reader was given up meanwhile.
        """
        with self._freed:
            while self._held and self._held + size > self._most:
                if is_given_up():
                    raise ConnectionAbortedError("given up while waiting for memory")
                self._freed.wait(_LOOK)
            self._held += size
        return Share(self, size)

    def give_back(self, size: int) -> None:
        """Let others have *size* bytes."""
        with self._freed:
            self._held -= size
            self._freed.notify_all()


class Share:
    """Bytes of an allowance; they are given back when nobody holds the share any more."""

    def __init__(self, allowance: Allowance, size: int) -> None:
        """Hold *size* bytes, which were taken."""
        self._allowance = allowance
        self._size = size

    def shrink(self, size: int) -> None:
        """Give back what is more than *size*."""
        spare, self._size = self._size - size, size
        self._allowance.give_back(spare)

    def __del__(self) -> None:
        """Give back the rest."""
        self._allowance.give_back(self._size)


class Reader:
    """One who takes shares one after the other, and knows how long that took."""

    def __init__(self, allowance: Allowance) -> None:
        """Take of *allowance*."""
        self._allowance = allowance
        self._began: float | None = None
        self._waited = 0.0

    @property
    def waited(self) -> float:
        """The seconds of waiting since the reader began anew: they are not the host's."""
        began = self._began
        return self._waited + (0.0 if began is None else time.monotonic() - began)

    def begin(self) -> None:
        """Begin anew."""
        self._waited = 0.0

    def take(self, size: int, is_given_up: Callable[[], bool]) -> Share:
        """Take a share as ``Allowance.take`` does; raises what it raises."""
        self._began = time.monotonic()
        try:
            return self._allowance.take(size, is_given_up)
        finally:
            self._waited, self._began = self.waited, None
