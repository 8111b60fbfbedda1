"""Signals to a run: they drain it, or ask how it stands."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from queue import SimpleQueue

from kimi_cli.api.text import quantify
from kimi_cli.batch.progress import Progress
from kimi_cli.batch.run import Run
from kimi_cli.errors import ExitStatus, Terminated
from kimi_cli.system.signals import handle_signals
from kimi_cli.system.terminal import Terminal

_DRAIN_INTERRUPT, _DRAIN_TERMINATE = 30.0, 5.0
"""Seconds for what is in flight: a person can press again, a machine kills soon."""


class Watch:
    """Turns signals into requests to the run."""

    def __init__(self, terminal: Terminal, progress: Progress, *, writes_out: bool) -> None:
        """Tell on *terminal* what comes of a signal; *progress* says how the run stands.

        A run that *writes_out* to stdout cannot drain into a pipe that nobody reads.
        """
        self._writes_out = writes_out
        self._terminal = terminal
        self._progress = progress
        self._run: Run | None = None
        self._wants: list[str | None] = []
        """What is to be said at the next tick; None for how the run stands."""
        self._details: SimpleQueue[str] = SimpleQueue()
        """What is to be told then to who wants to know everything."""
        self.signum: int | None = None
        """The signal that ended the run."""

    def start(self, run: Run) -> None:
        """Turn to *run*; before, a signal ends the process."""
        self._run = run

    def notify(self, message: str) -> None:
        """Warn of what the user may have meant otherwise."""
        self._terminal.warn(message)

    def tell(self, message: str) -> None:
        """Tell who wants to know everything, from any thread: not while something is written."""
        self._details.put(message)

    def write_out(self, text: str) -> None:
        """Write whole lines to standard output."""
        self._terminal.show(text)

    def redact(self, text: str) -> str:
        """Return *text* without secrets."""
        return self._terminal.secrets.redact(text)

    def finish(self) -> None:
        """Show how the run ended."""
        self._tell_details()
        if self._run is not None:
            self._progress.finish(self._run)

    def stop(self, signum: int) -> None:
        """Drain at the first signal, leave at the second: raises Terminated."""
        if signum == self.signum == signal.SIGHUP:
            return  # a window that is closed says so twice, by its shell and by itself
        run = self._run
        is_stuck = self._writes_out and not self._terminal.takes_output()
        if run is None or self.signum is not None or is_stuck:
            raise Terminated(signum)
        self.signum = signum
        drain = _DRAIN_INTERRUPT if signum == signal.SIGINT else _DRAIN_TERMINATE
        run.stop(signal.Signals(signum).name, ExitStatus.TEMPORARY, drain=drain)
        self._wants.append(
            f"waiting up to {drain:g} s for {quantify(run.in_flight, 'request')} in flight; "
            "again to leave"
            if run.in_flight
            else "nothing is in flight; stopping"
        )

    def ask(self, signum: int) -> None:
        """Want to know how the run stands."""
        self._wants.append(None)

    def tick(self, run: Run) -> None:
        """Show progress, and say what signals asked for: they may have come in mid-write."""
        self._progress.tick(run)
        self._tell_details()
        while self._wants:
            message = self._wants.pop(0)
            if message is None:
                self._terminal.complain(self._progress.compose(run))
            else:
                self._terminal.warn(message)

    def _tell_details(self) -> None:
        while not self._details.empty():
            self._terminal.tell(self._details.get())


@contextmanager
def watch_signals(terminal: Terminal, progress: Progress, *, writes_out: bool) -> Iterator[Watch]:
    """Let a run end in good order by a signal, for the time of a ``with``."""
    watch = Watch(terminal, progress, writes_out=writes_out)
    ending = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers: dict[int, Callable[[int], None]] = {**dict.fromkeys(ending, watch.stop)}
    handlers[signal.SIGUSR1] = watch.ask
    with closing(progress), handle_signals(handlers):
        yield watch
