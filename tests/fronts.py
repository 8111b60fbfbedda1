"""Who stands before a run in tests that have no terminal."""

from __future__ import annotations

from collections.abc import Callable

from kimi_cli.batch.run import Run


class Bystander:
    """Lets a run go on; calls *look* at every tick."""

    def __init__(self, look: Callable[[Run], None] = lambda run: None) -> None:
        self._look = look

    def start(self, run: Run) -> None:
        """Nothing to do."""

    def tick(self, run: Run) -> None:
        """Look at the run."""
        self._look(run)

    def notify(self, message: str) -> None:
        """Nobody reads it."""

    def write_out(self, text: str) -> None:
        """There is no standard output."""
        raise AssertionError(text)

    def redact(self, text: str) -> str:
        """There are no secrets."""
        return text
