"""What ^C may stop in a chat: an answer, but not the chat."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kimi_cli.errors import Terminated


class Stopper:
    """Knows whether there is anything to stop."""

    def __init__(self) -> None:
        """Begin with nothing to stop."""
        self._may_stop = False

    @contextmanager
    def allow(self) -> Iterator[None]:
        """Let ``stop`` end what is done here."""
        self._may_stop = True
        try:
            yield
        finally:
            self._may_stop = False

    def stop(self, signum: int) -> None:
        """Raise Terminated, once, where that is allowed; the handler of a signal."""
        if self._may_stop:
            self._may_stop = False
            raise Terminated(signum)
