r"""Fixtures: a hermetic environment, the real program in it, servers, and a real Secret Service.

A test says what the server replies, runs the program, and compares what came out whole:

    server.script(stream("Hel", "lo"))
    assert ask("hi").stdout == b"Hello\n"
"""

from __future__ import annotations

import datetime
import ipaddress
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import hypothesis
import pytest
from conversations import CONVERSATIONS, echo
from program import Kimi
from screen import Screen, Start
from secret_service import KEYRING_TOOLS, SecretService
from server import ReplayServer
from window import Tmux

# A busy machine is no failure: what is slow shows in benchmarks.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

CANARY = "sk-canary-b1946ac92492d2347c6235b4d2611184"
"""The bearer token of every test; `ask` proves that it never leaks."""


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


# Conversations, and commands that several files of tests run


@pytest.fixture
def asking(ask: Kimi, server: ReplayServer) -> Kimi:
    """`kimi ask` towards a server that echoes."""
    server.answer(echo)
    return ask.but("--retries", "0")


@pytest.fixture
def mine(asking: Kimi) -> Kimi:
    """The same in a conversation of that name."""
    return asking.but("-S", "mine")


@pytest.fixture
def folder(home: Path) -> Path:
    """Where conversations are kept."""
    path = home / CONVERSATIONS
    path.mkdir(parents=True)
    return path


@pytest.fixture
def log(kimi: Kimi) -> Kimi:
    """The command, without a token and without a network."""
    return kimi.but("log")


@pytest.fixture
def once(ask: Kimi) -> Kimi:
    """`kimi ask` that never tries again."""
    return ask.but("--retries", "0")


@pytest.fixture
def anywhere(kimi: Kimi) -> Kimi:
    """`kimi ask` without a host, with the canary token."""
    return kimi.but("ask", "--retries", "0", env={"KIMI_TOKEN": CANARY})


@pytest.fixture
def chat(kimi: Kimi, server: ReplayServer, home: Path) -> Iterator[Start]:
    """Starts ``kimi chat`` on a screen; the token must never be seen or kept."""
    server.answer(echo)
    screens: list[Screen] = []

    def start(*options: str, env: dict[str, str] | None = None, columns: int = 80) -> Screen:
        command = [str(kimi.program), "chat", "--base-url", server.url, *options]
        variables = {**kimi.environment, "KIMI_TOKEN": CANARY, **(env or {})}
        screens.append(Screen(command, variables, home, columns=columns))
        return screens[-1]

    yield start
    for screen in screens:
        screen.child.close(force=True)
        assert CANARY.encode() not in screen.received
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), f"the token is in {path}"


@pytest.fixture
def window(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> Iterator[Tmux]:
    """``kimi chat`` in tmux."""
    if shutil.which("tmux") is None:
        assert "CI" not in os.environ, "CI must have tmux"
        pytest.skip("needs tmux")
    server.answer(echo)
    env = {
        **kimi.environment,
        "KIMI_TOKEN": CANARY,
        "PATH": os.environ["PATH"],
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    command = f"{kimi.program} chat --base-url {server.url}; sleep 60"
    with Tmux(command, env, tmp_path) as window:
        window.see("/help lists commands")
        window.see("\n>")
        yield window


# The Secret Service


@pytest.fixture(scope="session")
def secret_service() -> Iterator[SecretService]:
    """A real Secret Service in every state; skips where it is not installed, but not in CI."""
    missing = [tool for tool in KEYRING_TOOLS if not shutil.which(tool)]
    if missing and "CI" not in os.environ:
        pytest.skip(f"needs {', '.join(missing)}")
    assert not missing, f"CI must have {', '.join(missing)}"
    with tempfile.TemporaryDirectory(prefix="kimi-") as folder, ExitStack() as owned:
        yield SecretService(Path(folder), owned)
