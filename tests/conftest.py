r"""Fixtures: a hermetic environment, the real program in it, servers, and a real Secret Service.

A test says what the server replies, runs the program, and compares what came out whole:

    server.script(stream("Hel", "lo"))
    assert ask("hi").stdout == b"Hello\n"
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Literal, NoReturn, TypedDict, Unpack

import hypothesis
import pytest
from server import ReplayServer

if sys.platform == "linux":
    from jeepney import MatchRule, message_bus  # type: ignore[import-untyped]
    from jeepney.io.blocking import (  # type: ignore[import-untyped]
        DBusConnection,
        open_dbus_connection,
    )

# A busy machine is no failure: what is slow shows in benchmarks.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

CANARY = "sk-canary-b1946ac92492d2347c6235b4d2611184"
"""The bearer token of every test; `ask` proves that it never leaks."""

Source = bytes | Path | IO[bytes] | Literal["null", "closed", "pipe", "tty"] | None
Sink = Path | IO[bytes] | Literal["pipe", "tty", "closed"]
Stream = Literal["stdout", "stderr", "terminal"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr", "terminal")
Environment = Mapping[str, str | None]


def pytest_configure() -> None:
    """Let signals reach the programs under test even if the suite runs in the background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for signum in (signal.SIGHUP, signal.SIGQUIT):
        if signal.getsignal(signum) == signal.SIG_IGN:
            # A handler is not inherited, so the programs have the default; the suite stays deaf.
            signal.signal(signum, lambda number, frame: None)


# The environment


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home folder of its own, with the XDG folders at their usual places."""
    folder = tmp_path / "home"
    for name in (".config", ".local/state", ".local/share", ".cache", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "run").mkdir(mode=0o700)
    return folder


@pytest.fixture
def environment(home: Path, program: Path) -> dict[str, str]:
    """All that the program sees: no locale, no proxy, no token, no session bus, no terminal."""
    return {
        "HOME": str(home),
        "PATH": f"{program.parent}:/usr/bin:/bin",
        "TMPDIR": str(home / "tmp"),
        "XDG_CONFIG_HOME": str(home / ".config"),
        "XDG_STATE_HOME": str(home / ".local/state"),
        "XDG_DATA_HOME": str(home / ".local/share"),
        "XDG_CACHE_HOME": str(home / ".cache"),
        "XDG_RUNTIME_DIR": str(home / "run"),
    }


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed `kimi`, or one that runs the package beside the tests."""
    installed = Path(sys.executable).with_name("kimi")
    if installed.exists():
        return installed
    stand_in = tmp_path_factory.mktemp("bin") / "kimi"
    stand_in.write_text(
        f"#!{sys.executable}\n"
        "import runpy, sys\n"
        f"sys.path[0] = {str(Path(__file__).parents[1])!r}\n"
        "runpy.run_module('kimi_cli', run_name='__main__')\n"
    )
    stand_in.chmod(0o755)
    return stand_in


# The servers


@pytest.fixture
def server() -> Iterator[ReplayServer]:
    """A server on a loopback port, which fails the test if anything unforeseen reached it."""
    with ReplayServer() as server:
        yield server
    server.check()


@pytest.fixture
def tls_server(certificate: Callable[..., Path]) -> Iterator[ReplayServer]:
    """The same behind TLS; `certificate()` is the file that a client must trust."""
    with ReplayServer(certificate()) as server:
        yield server
    server.check()


@pytest.fixture
def certificate(tmp_path: Path) -> Callable[..., Path]:
    """Makes a self-signed certificate and its key in one file."""

    def make(host: str = "127.0.0.1", *, expired: bool = False) -> Path:
        path = tmp_path / f"{host}{'-expired' if expired else ''}.pem"
        if not path.exists():
            path.write_bytes(_self_signed(host, expired=expired))
        return path

    return make


def _self_signed(host: str, *, expired: bool) -> bytes:
    # Slow to import, and only a few tests need it.
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host)])
    days = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    try:
        subject: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        subject = x509.DNSName(host)
    usage = x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=True,
        crl_sign=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - 2 * days)
        .not_valid_after(now - days if expired else now + days)
        .add_extension(x509.SubjectAlternativeName([subject]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(
        encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private + signed.public_bytes(encoding)


# The program


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


@pytest.fixture
def kimi(program: Path, environment: dict[str, str], home: Path) -> Iterator[Kimi]:
    """The program in its hermetic environment: `kimi("models", "-q").stdout`."""
    kimi = Kimi(program, environment, home)
    yield kimi
    kimi.stop()


@pytest.fixture
def ask(kimi: Kimi, server: ReplayServer, home: Path) -> Iterator[Kimi]:
    """`kimi ask` towards the server with the canary token, which must turn up nowhere."""
    yield kimi.but("ask", "--base-url", server.url, env={"KIMI_TOKEN": CANARY})
    kimi.stop()
    for run in kimi.runs:
        for stream, received in run.received.items():
            assert CANARY.encode() not in received, f"the token is on {stream}"
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), f"the token is in {path}"


@pytest.fixture
def batch(kimi: Kimi, server: ReplayServer) -> Iterator[Kimi]:
    """`kimi batch` towards the server; its runs end before the server does."""
    yield kimi.but("batch", "--base-url", server.url, env={"KIMI_TOKEN": CANARY})
    kimi.stop()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The input of a batch."""
    return tmp_path / "in.jsonl"


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output of a batch."""
    return tmp_path / "out.jsonl"


@pytest.fixture
def summary(tmp_path: Path) -> Path:
    """The final figures of a batch."""
    return tmp_path / "summary.json"


# The Secret Service


class SecretService:
    """Session buses of our own, one for each state in which a user may find the keyring.

    Each property is the variables that lead a program to it.
    """

    def __init__(self, folder: Path, owned: ExitStack) -> None:
        self._folder = folder
        self._owned = owned

    @cached_property
    def unlocked(self) -> dict[str, str]:
        """A keyring that stores and gives."""
        bus = self._start_bus("unlocked")
        self._start_keyring("unlocked", bus, password=b"open sesame")
        return bus

    @cached_property
    def locked(self) -> dict[str, str]:
        """A locked keyring, and nobody to ask for its password."""
        return self._start_locked("locked")

    @cached_property
    def prompting(self) -> dict[str, str]:
        """A locked keyring that asks for its password and waits for ever."""
        bus = self._start_locked("prompting")
        connection = self._connect(bus)
        request = message_bus.RequestName("org.gnome.keyring.SystemPrompter")
        connection.send_and_get_reply(request)
        return bus

    @cached_property
    def absent(self) -> dict[str, str]:
        """A session bus without a Secret Service."""
        return self._start_bus("absent")

    @cached_property
    def silent(self) -> dict[str, str]:
        """A session bus that accepts and never says a word."""
        path = self._folder / "silent"
        listener = self._owned.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        return {"DBUS_SESSION_BUS_ADDRESS": f"unix:path={path}"}

    def lookup(self, username: str, service: str = "kimi") -> str | None:
        """What `secret-tool` finds in the unlocked keyring."""
        found = self._secret_tool("lookup", "service", service, "username", username)
        return found.stdout.decode() if found.returncode == 0 else None

    def clear(self, service: str = "kimi") -> None:
        """Forget whatever the unlocked keyring holds for the service."""
        self._secret_tool("clear", "service", service)

    def _secret_tool(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            ["secret-tool", *arguments],
            env={**os.environ, **self.unlocked},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
            check=False,
        )

    def _start_locked(self, name: str) -> dict[str, str]:
        bus = self._start_bus(name)
        _end(self._start_keyring(name, bus, password=b"open sesame"))
        self._start_keyring(name, bus, password=None)
        return bus

    def _start_bus(self, name: str) -> dict[str, str]:
        """A bus that starts no services by itself."""
        configuration = self._folder / f"{name}.conf"
        configuration.write_text(BUS.format(path=self._folder / name))
        command = ["dbus-daemon", f"--config-file={configuration}", "--nofork", "--print-address"]
        process = self._start(command, os.environ)
        assert process.stdout
        return {"DBUS_SESSION_BUS_ADDRESS": process.stdout.readline().decode().strip()}

    def _start_keyring(
        self, name: str, bus: dict[str, str], password: bytes | None
    ) -> subprocess.Popen[bytes]:
        folder = self._folder / f"{name}-data"
        folder.mkdir(mode=0o700, exist_ok=True)
        places = dict.fromkeys(("HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"), str(folder))
        command = ["gnome-keyring-daemon", "--foreground", "--components=secrets"]
        if password is not None:
            command.append("--unlock")
        process = self._start(command, {"PATH": os.environ["PATH"], **places, **bus})
        assert process.stdin
        process.stdin.write(password or b"")
        process.stdin.close()
        self._await_name("org.freedesktop.secrets", bus)
        return process

    def _start(self, command: list[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self._owned.callback(_end, process)
        return process

    def _connect(self, bus: dict[str, str]) -> DBusConnection:
        address = bus["DBUS_SESSION_BUS_ADDRESS"]
        return self._owned.enter_context(open_dbus_connection(address))

    def _await_name(self, name: str, bus: dict[str, str]) -> None:
        """Wait until a program has taken the name on the bus."""
        connection = self._connect(bus)
        change = MatchRule(type="signal", member="NameOwnerChanged", path=message_bus.object_path)
        change.add_arg_condition(0, name)
        with connection.filter(change) as changes:
            connection.send_and_get_reply(message_bus.AddMatch(change))
            if not connection.send_and_get_reply(message_bus.NameHasOwner(name)).body[0]:
                connection.recv_until_filtered(changes, timeout=10)


BUS = """\
<busconfig>
  <type>session</type>
  <listen>unix:path={path}</listen>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        assert pipe
        pipe.close()


KEYRING_TOOLS = ("dbus-daemon", "gnome-keyring-daemon", "secret-tool")


@pytest.fixture(scope="session")
def secret_service() -> Iterator[SecretService]:
    """A real Secret Service in every state; skips where it is not installed, but not in CI."""
    missing = [tool for tool in KEYRING_TOOLS if not shutil.which(tool)]
    if missing and "CI" not in os.environ:
        pytest.skip(f"needs {', '.join(missing)}")
    assert not missing, f"CI must have {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="kimi-") as folder, ExitStack() as owned:
        yield SecretService(Path(folder), owned)
