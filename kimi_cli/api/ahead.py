"""A connection that is opened while the rest of the program is still being loaded.

It waits for the network, and importing does not: what came first is what a question waited for.
Nothing is sent on it before a request is.
"""

from __future__ import annotations

import contextlib
import socket
import threading

from kimi_cli.api.direct import DirectWay


class Ahead:
    """One connection of a direct way, opened by a thread of its own; ``take`` it, or ``close``."""

    def __init__(self, way: DirectWay, seconds: float) -> None:
        """Begin to open, within *seconds*; where there is no thread to be had, nothing begins."""
        self.way = way
        self._lock = threading.Lock()
        self._opened: socket.socket | None = None
        self._failure: Exception | None = None
        self._is_unwanted = False
        self._thread = threading.Thread(target=self._open, args=(seconds,), daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._is_unwanted = True

    def take(self) -> socket.socket | None:
        """Return the connection once it is open, None where it was never begun.

        Raises what went wrong, as ``DirectWay.open`` does.
        """
        if self._is_unwanted:
            return None
        self._thread.join()
        if self._failure is not None:
            raise self._failure
        with self._lock:
            opened, self._opened = self._opened, None
        return opened

    def close(self) -> None:
        """Close what nobody took, now or as soon as it is open."""
        with self._lock:
            opened, self._opened = self._opened, None
            self._is_unwanted = True
        if opened is not None:
            opened.close()

    def _open(self, seconds: float) -> None:
        try:
            opened = self.way.open(seconds)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that takes it
            self._failure = error
            opened = None
        with self._lock:
            if not self._is_unwanted:
                self._opened = opened
                return
        if opened is not None:
            with contextlib.suppress(OSError):
                opened.close()
