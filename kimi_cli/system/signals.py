"""Signals: clean up, then die by them, so that shells and loops see what happened."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from kimi_cli.errors import Terminated

ENDING = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGALRM,
    signal.SIGUSR2,
    signal.SIGXCPU,
)
"""The signals that end a process which does nothing about them, as far as they can be caught."""


def catch_signals() -> None:
    """Raise Terminated for the signals that end a process; the second one kills at once.

    A signal that is ignored (``nohup``, a background job) stays so.
    """
    for signum in ENDING:
        if signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, _terminate)
    # Who asks a batch how it stands must not kill it because it has only just begun.
    signal.signal(signal.SIGUSR1, lambda signum, frame: None)


def forbid_dumps() -> None:
    """Leave no image of this process behind: the environment alone may hold a token.

    A limit of 0 does not hold for a system that pipes its dumps to a program, so none of the
    memory goes into them either (Linux: core(5)). Children inherit both.
    """
    import resource  # noqa: PLC0415 - not on every system

    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):
        descriptor = os.open("/proc/self/coredump_filter", os.O_WRONLY)
        try:
            os.write(descriptor, b"0")
        finally:
            os.close(descriptor)


def die_by(signum: int) -> NoReturn:
    """End this process by *signum*: a shell loop goes on after exit 130, but not after SIGINT.

    Where the signal is blocked it raises SystemExit.
    """
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)
    raise SystemExit(128 + signum)  # only where the signal is blocked


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    # A window that is closed says so twice, by its shell and by itself; nobody means to kill.
    signal.signal(signum, signal.SIG_IGN if signum == signal.SIGHUP else signal.SIG_DFL)
    raise Terminated(signum)


@contextmanager
def handle_signals(handlers: Mapping[int, Callable[[int], None]]) -> Iterator[None]:
    """Call *handlers* instead of ending, for the time of a ``with``; ignored signals stay so."""
    before = {
        signum: signal.getsignal(signum)
        for signum in handlers
        if signal.getsignal(signum) is not signal.SIG_IGN
    }
    for signum in before:
        signal.signal(signum, lambda number, frame: handlers[number](number))
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
