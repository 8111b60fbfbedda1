"""The input, read ahead in a thread of its own, but never far."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

from kimi_cli.api.threads import start_thread
from kimi_cli.batch.records import BadRecord, Record

_AHEAD_ROWS = 1024
_AHEAD_BYTES = 32 * 2**20


class Intake:
    """Gives the records one by one, without waiting for them."""

    def __init__(
        self,
        records: Iterator[Record | BadRecord],
        *,
        wake: Callable[[], None],
        tell_read: Callable[[], int] = lambda: 0,
    ) -> None:
        """Start to read; *wake* is called when something came for a taker that waits.

        *tell_read* says how many bytes of input have been read so far: a row weighs what it
        weighed there, besides what is sent for it.
        """
        self._records = records
        self._wake = wake
        self._tell_read = tell_read
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        # Each is written by one thread only; their difference is what waits in the inbox.
        self._put = self._taken = 0
        self._put_bytes = self._taken_bytes = 0
        self._room = threading.Event()
        self._hungry = False
        self._stopped = False
        self.ended = False
        start_thread(self._read)

    def take(self) -> Record | BadRecord | None:
        """Return the next record, or None when none is there now. Raises what reading raised."""
        if self.ended:
            return None
        self._hungry = True
        try:
            item = self._inbox.get_nowait()
        except Empty:
            return None
        self._hungry = False
        if item is None or isinstance(item, BaseException):
            self.ended = True
            if item is not None:
                raise item
            return None
        record, size = item
        self._taken += 1
        self._taken_bytes += size
        if not self._room.is_set() and self._is_near():
            self._room.set()
        return record  # type: ignore[no-any-return]

    def stop(self) -> None:
        """Read no further."""
        self._stopped = True
        self.ended = True
        self._room.set()

    def _read(self) -> None:
        try:
            read = 0
            for record in self._records:
                size = self._tell_read() - read + _measure(record)
                read = self._tell_read()
                self._put += 1
                self._put_bytes += size
                self._deliver((record, size))
                while self._is_far_ahead() and not self._stopped:
                    self._room.clear()
                    if self._is_far_ahead() and not self._stopped:
                        self._room.wait()
                if self._stopped:
                    return
        except BaseException as error:  # noqa: BLE001 - raised again by take
            self._deliver(error)
        else:
            self._deliver(None)

    def _is_far_ahead(self) -> bool:
        return (
            self._put - self._taken > _AHEAD_ROWS
            or self._put_bytes - self._taken_bytes > _AHEAD_BYTES
        )

    def _is_near(self) -> bool:
        """Tell whether half of what may be ahead is gone: waking the reader takes time, too."""
        return (
            self._put - self._taken <= _AHEAD_ROWS // 2
            and self._put_bytes - self._taken_bytes <= _AHEAD_BYTES // 2
        )

    def _deliver(self, item: Any) -> None:
        self._inbox.put(item)
        if self._hungry:
            self._wake()


def _measure(record: Record | BadRecord) -> int:
    return len(record.payload) if isinstance(record, Record) else 0
