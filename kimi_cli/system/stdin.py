"""Standard input, read with patience: that there is nothing yet is not its end."""

from __future__ import annotations

import contextlib
import io
import math
import os
import select
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_LOOK_EVERY = 500
"""Milliseconds between two looks for a signal: one that comes just before a read blocks would be
seen only after it."""


class PatientReader(io.RawIOBase):
    """A descriptor as a raw stream; non-blocking or not, a read waits until something comes.

    Whoever shares a pipe can leave it non-blocking for all, and Python's own readers take "nothing
    yet" for nothing.
    """

    def __init__(self, descriptor: int) -> None:
        """Read from *descriptor*, which stays open."""
        self._descriptor = descriptor

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._descriptor

    def readinto(self, buffer: Buffer) -> int:
        """Fill *buffer* with what comes; 0 is the end. Raises OSError."""
        view = memoryview(buffer)
        data = read_some(self._descriptor, len(view))
        view[: len(data)] = data
        return len(data)


def read_some(descriptor: int, most: int, deadline: float | None = None) -> bytes:
    """Return what comes next, *most* bytes of it at the most; empty at the end.

    Raises OSError, TimeoutError at the *deadline* (monotonic).
    """
    while True:
        wait_for_input(descriptor, None, deadline)
        with contextlib.suppress(BlockingIOError):
            return os.read(descriptor, most)


def wait_for_input(
    descriptor: int, seconds: float | None = None, deadline: float | None = None
) -> None:
    """Wait until there is something to read, or the end.

    Raises TimeoutError after so many *seconds*, or at the *deadline* (monotonic).
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    ends = min(
        math.inf if seconds is None else time.monotonic() + seconds,
        math.inf if deadline is None else deadline,
    )
    while not poll.poll(min(_LOOK_EVERY, max(0.0, 1000 * (ends - time.monotonic())))):
        if time.monotonic() >= ends:
            raise TimeoutError


def open_stdin() -> io.BufferedReader:
    """Return standard input as a stream of bytes; closing it leaves the descriptor open."""
    return io.BufferedReader(PatientReader(0), 2**16)
