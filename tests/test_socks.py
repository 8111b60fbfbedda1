"""By way of a SOCKS proxy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from answers import assert_failed
from program import Kimi
from server import ReplayServer, completion, stream
from test_network import relay

REMOTE = "https://kimi.example/v1"


class SocksProxy:
    """A SOCKS5 proxy (RFC 1928) on loopback, which keeps what it was asked for."""

    def __init__(self, port: int, *, method: int, reply: int) -> None:
        """Choose that *method*, say *reply* to the request, and relay to the *port* if it is 0."""
        self.wanted: list[bytes] = []
        """The address of each request: its kind, and what it names."""
        self._port, self._method, self._reply = port, method, reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        client.settimeout(10)
        with client, client.makefile("rb") as said:
            _, methods = said.read(2)
            said.read(methods)
            client.sendall(bytes([5, self._method]))
            if self._method == 255:
                return
            if self._method == 2:
                said.read(1)
                for _ in ("name", "password"):
                    said.read(said.read(1)[0])
                client.sendall(b"\x01\x00")
            kind = said.read(4)[3]
            address = said.read(said.read(1)[0] if kind == 3 else 4)
            self.wanted.append(bytes([kind]) + address + said.read(2))
            client.sendall(bytes([5, self._reply, 0, 1, 0, 0, 0, 0, 0, 0]))
            if self._reply == 0:
                relay(client, self._port)


@contextmanager
def socks(port: int = 0, *, method: int = 0, reply: int = 0) -> Iterator[SocksProxy]:
    """A proxy that replies so."""
    running = SocksProxy(port, method=method, reply=reply)
    try:
        yield running
    finally:
        running.close()


@pytest.mark.parametrize("scheme", ["socks", "socks5h", "SOCKS"])
@pytest.mark.parametrize("method", [0, 2], ids=["open", "password"])
def test_the_proxy_resolves_the_name(
    anywhere: Kimi, certificate: Callable[..., Path], scheme: str, method: int
) -> None:
    """F21: ``socks://``, as desktops write it, hands the name on; TLS is with the host."""
    path = certificate("kimi.example")
    with ReplayServer(path) as server, socks(server.port, method=method) as proxy:
        server.script(stream("Hel", "lo"))
        url = f"{scheme}://me:hunter2@{proxy.address}"
        environment = {"ALL_PROXY": url, "SSL_CERT_FILE": str(path)}
        result = anywhere("-v", "--base-url", REMOTE, "hi", env=environment)
        assert (result.stdout, result.status) == (b"Hello\n", 0), result.error
        assert "hunter2" not in result.error
        assert proxy.wanted == [b"\x03kimi.example\x01\xbb"]


def test_a_batch_goes_by_it(kimi: Kimi, certificate: Callable[..., Path]) -> None:
    """Its kept connections, too."""
    path = certificate("kimi.example")
    with ReplayServer(path) as server, socks(server.port) as proxy:
        server.answer(lambda request: completion("x"))
        environment = {"https_proxy": f"socks5h://{proxy.address}", "SSL_CERT_FILE": str(path)}
        words = ("batch", "--no-auth", "--base-url", REMOTE, "--format", "text", "-c", "1")
        result = kimi(*words, stdin=b'"a"\n"b"\n', env=environment)
        assert (result.stdout, result.status) == (b'"x"\n"x"\n', 0), result.error
        assert len(proxy.wanted) == 1


@pytest.mark.parametrize(
    ("method", "reply", "status", "words"),
    [
        (255, 0, 69, "the proxy refuses the way to kimi.example: All offered SOCKS5"),
        (0, 2, 69, "the proxy refuses the way to kimi.example: 0x02: Connection not allowed"),
        (0, 1, 75, "cannot reach kimi.example through the proxy: 0x01: General SOCKS"),
        (0, 4, 75, "cannot reach kimi.example through the proxy: 0x04: Host unreachable"),
        (0, 5, 75, "cannot reach kimi.example through the proxy: 0x05: Connection refused"),
    ],
)
def test_a_proxy_that_says_no(
    anywhere: Kimi, method: int, reply: int, status: int, words: str
) -> None:
    """Its reasons, in one line: 69 where it does not want to, 75 where it cannot now."""
    with socks(method=method, reply=reply) as proxy:
        environment = {"ALL_PROXY": f"socks5h://me:hunter2@{proxy.address}"}
        result = anywhere("--base-url", REMOTE, "hi", env=environment)
    assert_failed(result, status, words)
    assert "hunter2" not in result.error


def test_a_proxy_that_is_not_there(anywhere: Kimi) -> None:
    """Nobody listens at its port now: 75."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
    result = anywhere("--base-url", REMOTE, "hi", env={"ALL_PROXY": f"socks5h://{address}"})
    assert_failed(result, 75, "through the proxy: Connection refused; check the network")


def test_a_proxy_that_is_silent(anywhere: Kimi) -> None:
    """The connect limit covers its greeting."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        words = ("--connect-timeout", "0.3", "--base-url", REMOTE, "hi")
        result = anywhere(*words, env={"ALL_PROXY": f"socks5h://{address}"}, timeout=20)
    assert_failed(result, 75, "connect-timeout")


def test_without_pysocks(anywhere: Kimi, home: Path) -> None:
    """F21: 78, in one line that says what to install; without such a proxy nothing is missed."""
    folder = home / "without"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import sys\nsys.modules['socks'] = None\n")
    without = anywhere.but("--base-url", REMOTE, "hi", env={"PYTHONPATH": str(folder)})
    for scheme in ("socks", "socks5", "socks4a"):
        result = without(env={"HTTPS_PROXY": f"{scheme}://me:hunter2@127.0.0.1:9"})
        assert_failed(result, 78, "which needs PySocks", "install", "PySocks>=1.7.1")
        assert "hunter2" not in result.error
    variables = {"ALL_PROXY": "socks://127.0.0.1:9", "NO_PROXY": "kimi.example"}
    assert_failed(without(env=variables), 69, "cannot resolve kimi.example")


def test_another_version(anywhere: Kimi) -> None:
    """A scheme that nobody speaks is 78, without the password."""
    result = anywhere("--base-url", REMOTE, "hi", env={"ALL_PROXY": "socks6://me:hunter2@x:1"})
    assert_failed(result, 78, "cannot use the proxy", "socks6://…@x:1")
    assert "hunter2" not in result.error
