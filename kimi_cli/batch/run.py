"""What a run is to whoever watches it, and who is told of it: the door for another back end.

A campaign launches a run; the run takes records and gives results to a sink, until it is done or
stopped. The live run of ``batch.runner`` is one; whatever else answers rows enters here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

from kimi_cli.batch.records import BadRecord, Record
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus


class Run(Protocol):
    """A run as its watchers know it."""

    @property
    def tally(self) -> Tally:
        """What it has done so far."""

    @property
    def in_flight(self) -> int:
        """How many requests are out."""

    @property
    def limit(self) -> int:
        """How many may be out at once."""

    def explain_limit(self) -> str:
        """Say what holds it back now."""

    def stop(self, reason: str, status: ExitStatus | None, *, drain: float) -> None:
        """Begin nothing more; wait *drain* seconds for what is under way."""

    def run(self) -> None:
        """Carry it out; what stopped it, and what is left, is in the tally."""


class Front(Protocol):
    """Who stands between a run and the person who started it."""

    def start(self, run: Run) -> None:
        """Turn to *run*, which is about to begin."""

    def tick(self, run: Run) -> None:
        """Look how *run* stands; called a few times a second."""

    def notify(self, message: str) -> None:
        """Tell what the user may have meant otherwise."""

    def write_out(self, text: str) -> None:
        """Write whole lines to standard output."""

    def redact(self, text: str) -> str:
        """Return *text* without secrets."""


Launch = Callable[[Iterator[Record | BadRecord], Sink, Callable[[], int]], Run]
"""Makes a run of records and a sink, and of what tells how many bytes of input have been read."""
