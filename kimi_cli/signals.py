"""Signals: clean up, then die by them, so that shells and loops see what happened."""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn

from kimi_cli.errors import Terminated

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def catch_signals() -> None:
    """Raise Terminated for the signals that end a process; the second one kills at once.

    A signal that is ignored (``nohup``, a background job) stays so.
    """
    for signum in _ENDING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _terminate)


def die_by(signum: int) -> NoReturn:
    """End this process by *signum*: a shell loop goes on after exit 130, but not after SIGINT."""
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    raise SystemExit(128 + signum)  # only where the signal is blocked


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signum, signal.SIG_DFL)
    raise Terminated(signum)
