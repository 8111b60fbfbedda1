"""Questions from a terminal that can do nothing (``TERM=dumb``): a line each, and no keys."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn

from kimi_cli.errors import Terminated
from kimi_cli.system.signals import handle_signals
from kimi_cli.system.terminal import Terminal

_PROMPT = "> "


class PlainEditor:
    """Reads questions as the terminal hands them over."""

    def __init__(self, terminal: Terminal) -> None:
        """Prompt on *terminal*'s stderr."""
        self._terminal = terminal

    def read(self, draft: str = "") -> str | None:
        """Return what was typed behind *draft*, None at the end of input.

        Raises Terminated for two ^C, and for the signals that end a process.
        """
        armed = False
        while True:
            try:
                with handle_signals({signal.SIGINT: _interrupt}):
                    self._terminal.write_err(f"{_PROMPT}{draft}")
                    line = sys.stdin.buffer.readline()
            except Terminated as ending:
                if ending.signum != signal.SIGINT or armed:
                    raise
                armed = True
                self._terminal.note("\nCtrl-C again leaves")
                continue
            if not line:
                return None
            return draft + line.decode(errors="surrogateescape").removesuffix("\n")


def _interrupt(signum: int) -> NoReturn:
    raise Terminated(signum)
