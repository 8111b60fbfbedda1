"""The real program in a session of its own, and a hold on each of its streams."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Literal, NoReturn, TypedDict, Unpack

import pytest

Source = bytes | Path | IO[bytes] | Literal["null", "closed", "pipe", "tty"] | None
Sink = Path | IO[bytes] | Literal["pipe", "tty", "closed"]
Stream = Literal["stdout", "stderr", "terminal"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr", "terminal")
Environment = Mapping[str, str | None]


@dataclass(frozen=True)
class Result:
    """What a finished program left behind; a negative status is the signal that killed it."""

    status: int
    stdout: bytes
    stderr: bytes
    terminal: bytes
    seconds: float

    @property
    def error(self) -> str:
        """The standard error as text."""
        return self.stderr.decode()


class Capture:
    """Collects in the background what comes out of a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._bytes = bytearray()
        self._ended = False
        self._found = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def __bytes__(self) -> bytes:
        with self._changed:
            return bytes(self._bytes)

    def expect(self, wanted: bytes, timeout: float) -> bytes | None:
        """What came up to and including the wanted bytes, after what was expected before."""
        with self._changed:
            self._changed.wait_for(lambda: self._find(wanted) >= 0 or self._ended, timeout)
            if (position := self._find(wanted)) < 0:
                return None
            start, self._found = self._found, position + len(wanted)
            return bytes(self._bytes[start : self._found])

    def ended(self, *, within: float) -> bool:
        """Whether everything is collected by then."""
        self._thread.join(within)
        return not self._thread.is_alive()

    def _find(self, wanted: bytes) -> int:
        return self._bytes.find(wanted, self._found)

    def _collect(self) -> None:
        while data := _read(self._descriptor):
            with self._changed:
                self._bytes += data
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # a pseudo-terminal whose other side is closed
        return b""


class Running:
    """A program that runs in a session of its own, with a hold on each of its streams.

    Every stream that is a terminal is one of its own, 80 columns wide, and shows the bytes
    as the program wrote them. The controlling terminal, if any, is that of standard input.
    """

    def __init__(
        self,
        command: Sequence[str | bytes],
        *,
        env: Mapping[str, str],
        cwd: Path,
        stdin: Source = None,
        stdout: Sink = "pipe",
        stderr: Sink = "pipe",
        terminal: bool = False,
    ) -> None:
        self._captures: dict[str, Capture] = {}
        self._ours = ExitStack()
        self._line = ExitStack()
        self._input = -1
        self._keyboard = -1
        self._feeder = threading.Thread(target=self._feed, args=(stdin,), daemon=True)
        with ExitStack() as theirs:
            if terminal or stdin == "tty":
                # Held open, or its first reader would see an end before the program comes.
                self._keyboard, slave = self._open_terminal("terminal", self._line)
            source = slave if stdin == "tty" else self._open_source(stdin, theirs)
            shell = _shell_around(
                terminal=os.ttyname(slave) if self._keyboard != -1 else None,
                closed=[stream == "closed" for stream in (stdin, stdout, stderr)],
            )
            self._started = time.monotonic()
            self._process = subprocess.Popen(
                [*shell, *command],
                stdin=source,
                stdout=self._open_sink("stdout", stdout, theirs),
                stderr=self._open_sink("stderr", stderr, theirs),
                env=env,
                cwd=cwd,
                start_new_session=True,
            )
        self.pid = self._process.pid
        self._feeder.start()

    def write(self, data: bytes) -> None:
        """Write to a standard input that is a pipe."""
        _write(self._input, data)

    def end_input(self) -> None:
        """Close a standard input that is a pipe."""
        if self._input != -1:
            os.close(self._input)
            self._input = -1

    def type(self, keys: bytes) -> None:
        r"""Press keys on the controlling terminal: `b"\x03"` interrupts, `b"\x04"` ends input."""
        _write(self._keyboard, keys)

    def expect(
        self,
        wanted: bytes,
        stream: Stream = "stdout",
        timeout: float = 10.0,
    ) -> bytes:
        """Wait for bytes on a stream, and return what came up to their end since the last call."""
        received = self._captures[stream].expect(wanted, timeout)
        if received is None:
            self._fail(f"no {wanted!r} on {stream} within {timeout} s")
        return received

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the program, or to everything that it has started too."""
        if group:
            os.killpg(self.pid, number)
        else:
            self._process.send_signal(number)

    def wait(self, timeout: float = 30.0) -> Result:
        """What the program leaves behind; one that outlives the timeout fails the test."""
        try:
            status = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._fail(f"still running after {timeout} s")
        seconds = time.monotonic() - self._started
        self.stop()
        streams = {name: self.received.get(name, b"") for name in STREAMS}
        return Result(status, **streams, seconds=seconds)

    def stop(self) -> None:
        """Kill whatever still runs, and collect the last output."""
        if self._process.poll() is None:
            self._kill()
        self._process.wait()
        self._line.close()
        for capture in self._captures.values():
            if not capture.ended(within=1):
                self._kill()  # a child that still holds the stream
                capture.ended(within=1)
        self._feeder.join(1)
        self.end_input()
        self._ours.close()

    @property
    def received(self) -> dict[str, bytes]:
        """What each stream has given so far."""
        return {name: bytes(capture) for name, capture in self._captures.items()}

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def _fail(self, reason: str) -> NoReturn:
        self.stop()
        streams = [f"{name}: {received!r}" for name, received in self.received.items()]
        pytest.fail("\n".join([f"{reason}: {self._process.args!r}", *streams]))

    def _feed(self, source: Source) -> None:
        if isinstance(source, bytes):
            with suppress(BrokenPipeError):
                _write(self._input, source)
            self.end_input()

    def _open_source(self, source: Source, theirs: ExitStack) -> int:
        if isinstance(source, bytes) or source == "pipe":
            reader, self._input = os.pipe()
            return _owned(theirs, reader)
        return _owned(theirs, _open(source, os.O_RDONLY))

    def _open_sink(self, name: str, sink: Sink, theirs: ExitStack) -> int:
        if sink == "tty":
            return self._open_terminal(name, theirs)[1]
        if sink == "pipe":
            reader, writer = os.pipe()
            self._captures[name] = Capture(_owned(self._ours, reader))
            return _owned(theirs, writer)
        return _owned(theirs, _open(sink, os.O_WRONLY | os.O_CREAT | os.O_TRUNC))

    def _open_terminal(self, name: str, owner: ExitStack) -> tuple[int, int]:
        master, slave = pty.openpty()
        termios.tcsetwinsize(master, (24, 80))
        attributes = termios.tcgetattr(slave)
        attributes[1] &= ~termios.OPOST
        termios.tcsetattr(slave, termios.TCSANOW, attributes)
        self._captures[name] = Capture(_owned(self._ours, master))
        return master, _owned(owner, slave)


def _shell_around(*, terminal: str | None, closed: Sequence[bool]) -> list[str]:
    """A shell that prepares what Popen cannot, and then turns into the program itself."""
    redirections = [f" {number}>&-" for number, flag in enumerate(closed) if flag]
    if not terminal and not redirections:
        return []
    # A session without a controlling terminal gets the first that its leader opens.
    opening = f": <>{terminal}; " if terminal else ""
    return ["/bin/sh", "-c", f'{opening}exec "$@"{"".join(redirections)}', "sh"]


def _open(stream: Source | Sink, flags: int) -> int:
    if isinstance(stream, Path):
        return os.open(stream, flags, 0o666)
    if stream is None or isinstance(stream, (str, bytes)):
        return os.open(os.devnull, flags)
    return os.dup(stream.fileno())


def _owned(owner: ExitStack, descriptor: int) -> int:
    owner.callback(os.close, descriptor)
    return descriptor


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class Streams(TypedDict, total=False):
    """Where a program's streams lead, the variables it sees otherwise, and its folder."""

    stdin: Source
    stdout: Sink
    stderr: Sink
    env: Environment
    cwd: Path


@dataclass(frozen=True)
class Kimi:
    """Runs the real program, with nothing on standard input and no terminal unless told so."""

    program: Path
    environment: Environment
    folder: Path
    arguments: tuple[str, ...] = ()
    runs: list[Running] = field(default_factory=list)

    def but(self, *arguments: str, env: Environment | None = None) -> Kimi:
        """The same with more leading arguments, and variables changed or (by None) removed."""
        return replace(
            self,
            arguments=(*self.arguments, *arguments),
            environment={**self.environment, **(env or {})},
        )

    def __call__(
        self, *arguments: str | bytes, timeout: float = 30.0, **streams: Unpack[Streams]
    ) -> Result:
        """Run to the end."""
        return self.start(*arguments, **streams).wait(timeout)

    def start(self, *arguments: str | bytes, **streams: Unpack[Streams]) -> Running:
        """Start, for tests that send signals or look at the output while it comes."""
        return self._run([str(self.program), *self.arguments, *arguments], streams)

    def pty(self, *arguments: str | bytes, **streams: Unpack[Streams]) -> Running:
        """Start on a terminal; streams that are not named are terminals too."""
        terminals: Streams = {"stdin": "tty", "stdout": "tty", "stderr": "tty"}
        env = {"TERM": "xterm-256color", **streams.get("env", {})}
        command = [str(self.program), *self.arguments, *arguments]
        return self._run(command, {**terminals, **streams, "env": env}, terminal=True)

    def shell(self, script: str, **streams: Unpack[Streams]) -> Running:
        """Start a shell script in which `kimi` is the program."""
        return self._run(["/bin/sh", "-c", script], streams)

    def stop(self) -> None:
        """End every run."""
        for run in self.runs:
            run.stop()

    def _run(
        self, command: Sequence[str | bytes], streams: Streams, *, terminal: bool = False
    ) -> Running:
        variables = {**self.environment, **streams.get("env", {})}
        run = Running(
            command,
            env={name: value for name, value in variables.items() if value is not None},
            cwd=streams.get("cwd", self.folder),
            stdin=streams.get("stdin"),
            stdout=streams.get("stdout", "pipe"),
            stderr=streams.get("stderr", "pipe"),
            terminal=terminal,
        )
        self.runs.append(run)
        return run
