"""A server that listens at a socket of this machine."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from answers import assert_failed
from program import Kimi
from server import ReplayServer, completion, document, stream
from test_hosts import configure
from test_network import relay


@contextmanager
def listen(path: Path, port: int) -> Iterator[None]:
    """Serve at *path* what a server has at this port."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(16)
        thread = threading.Thread(target=accept, args=(listener, port), daemon=True)
        thread.start()
        yield
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def accept(listener: socket.socket, port: int) -> None:
    """Relay one connection after the other."""
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return
        client.settimeout(10)
        threading.Thread(target=serve, args=(client, port), daemon=True).start()


def serve(client: socket.socket, port: int) -> None:
    """Relay one connection to its end."""
    with client:
        relay(client, port)


@pytest.fixture
def path(home: Path, server: ReplayServer) -> Iterator[Path]:
    """A socket in the home folder, with the server behind it."""
    path = home / "llm.sock"
    with listen(path, server.port):
        yield path


def test_all_commands_reach_it(kimi: Kimi, home: Path, path: Path, server: ReplayServer) -> None:
    """F21: ask, batch, chat and models, with the token that is stored for the socket."""
    configure(home, '[profiles.sock]\nbase_url = "unix:~/llm.sock:/v1"\nmodel = "m"\n')
    run = kimi.but(env={"KIMI_PROFILE": "sock"})
    server.script(document({"data": [{"id": "m"}]}))
    stored = run("auth", "login", "--insecure-storage", stdin=b"token-0123456789\n")
    assert stored.status == 0, stored.error
    assert f'"unix:{path}"' in (home / ".config/kimi/tokens.json").read_text()
    server.script(stream("x"), stream("x"), document({"data": [{"id": "m"}]}))
    server.script(*[completion("x")] * 3)
    assert run("ask", "hi").stdout == b"x\n"
    assert run("chat", stdin=b"hi\n").stdout == b"x\n"
    assert run("models", "-q").stdout == b"m\n"
    rows = run("batch", "--format", "text", "-c", "1", stdin=b'"a"\n"b"\n"c"\n')
    assert rows.stdout == b'"x"\n"x"\n"x"\n', rows.error
    for request in server.requests:
        assert request.headers["Authorization"] == "Bearer token-0123456789"
        assert request.headers["Host"] == "localhost"
    paths = {request.path for request in server.requests}
    assert paths == {"/v1/chat/completions", "/v1/models"}


@pytest.mark.parametrize("end", ["", ":/", ":/v1", ":/v1/chat/completions?a=b"])
@pytest.mark.parametrize("begin", ["unix:", "unix://"])
def test_how_it_is_written(
    kimi: Kimi, path: Path, server: ReplayServer, begin: str, end: str
) -> None:
    """With and without a path of the URL, or with the whole endpoint; no proxy is asked."""
    server.script(stream("x"))
    variables = {"ALL_PROXY": "http://127.0.0.1:9", "SSL_CERT_FILE": "/nowhere"}
    url = f"{begin}{path}{end}"
    result = kimi("ask", "--no-auth", "--base-url", url, "hi", env=variables)
    assert (result.stdout, result.status) == (b"x\n", 0), result.error
    wanted = {"": "", ":/": "", ":/v1": "/v1", ":/v1/chat/completions?a=b": "/v1"}[end]
    query = "?a=b" if "?" in end else ""
    assert server.requests[0].path == f"{wanted}/chat/completions{query}"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("unix:llm.sock", "it must be unix: and an absolute path"),
        ("unix:", "it must be unix: and an absolute path"),
        ("unix://llm.sock/v1", "it must be unix: and an absolute path"),
        ("unix:~nobody-here/a.sock", "it must be unix: and an absolute path"),
        (f"unix:/{'a' * 107}", "the path of a socket has at most 107 bytes"),
        ("unix:/a b", "it must not hold spaces"),
        ("unix:/a.sock:/v1?a=b", "it must not have a query or fragment"),
    ],
)
def test_bad_sockets(kimi: Kimi, url: str, words: str) -> None:
    """What is no path of a socket is 78, and says how one is written."""
    result = kimi("ask", "--no-auth", "--base-url", url, "hi")
    assert_failed(result, 78, "bad base URL", words)


def test_a_socket_that_is_not_served(kimi: Kimi, home: Path) -> None:
    """75 where it may be soon, 69 where it never will be; each says what to do."""
    run = kimi.but("ask", "--no-auth", "--retries", "0")
    url = f"unix:{home}/a.sock"
    assert_failed(run("--base-url", url, "hi"), 75, f"cannot reach {url}", "start its server")
    (home / "a.sock").touch()
    assert_failed(run("--base-url", url, "hi"), 75, f"cannot reach {url}", "start its server")
    result = run("--base-url", f"{url}/v1", "hi")
    assert_failed(result, 69, f"cannot reach {url}/v1", "stands behind a colon")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open every socket")
def test_a_socket_of_somebody_else(kimi: Kimi, path: Path) -> None:
    """No right to it is 69."""
    path.chmod(0)
    result = kimi("ask", "--no-auth", "--base-url", f"unix:{path}", "hi")
    assert_failed(result, 69, "Permission denied", "ask who runs its server")


def test_a_full_socket(kimi: Kimi, home: Path, tmp_path: Path) -> None:
    """One whose server takes nobody in is 75, within the limit of connecting."""
    path = home / "full.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen(0)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as first:
            first.connect(str(path))
            words = ("--base-url", f"unix:{path}", "--timeout", "0.5", "--retries", "0", "hi")
            result = kimi("ask", "--no-auth", *words)
    assert result.status == 75, result.error
    assert result.error.count("\n") == 1
