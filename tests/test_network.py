"""The way to the host: names, certificates, proxies, time limits, and what is not HTTP."""

from __future__ import annotations

import base64
import gzip
import json
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi, Result
from server import (
    Mark,
    ReplayServer,
    Reply,
    Reset,
    Stall,
    Step,
    Wait,
    chunk,
    completion,
    document,
    event,
    refusal,
    stream,
)

NO_STREAM = pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])
DRIPS = 600
"""Steps of a drip: with 0.05 s between them it outlasts every limit here by far."""


@pytest.fixture
def once(ask: Kimi) -> Kimi:
    """`kimi ask` that never tries again."""
    return ask.but("--retries", "0")


@pytest.fixture
def anywhere(kimi: Kimi) -> Kimi:
    """`kimi ask` without a host, with the canary token."""
    return kimi.but("ask", "--retries", "0", env={"KIMI_TOKEN": CANARY})


def assert_failed(result: Result, status: int, *words: str) -> None:
    """Nothing on stdout, and one line on stderr that holds these words."""
    assert (result.stdout, result.status) == (b"", status), result.error
    assert result.error.startswith("kimi: ")
    assert result.error.count("\n") == 1
    for word in words:
        assert word in result.error


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# Reaching the host


def test_connection_refused(anywhere: Kimi) -> None:
    """Nobody listens: exit 69, with host and reason."""
    port = free_port()
    result = anywhere("--base-url", f"http://127.0.0.1:{port}", "hi")
    assert_failed(result, 69, f"cannot reach 127.0.0.1:{port}: Connection refused")


def test_unknown_host(anywhere: Kimi) -> None:
    """A name that does not resolve: exit 69."""
    result = anywhere("--base-url", "https://kimi.invalid/v1", "hi")
    assert_failed(result, 69, "cannot resolve kimi.invalid")


def test_a_host_that_is_not_there_yet_is_tried_again(ask: Kimi, server: ReplayServer) -> None:
    """A refused connection is worth another attempt; each is told."""
    result = ask("--base-url", f"http://127.0.0.1:{free_port()}", "--retries", "1", "hi")
    assert result.status == 69
    assert [line.endswith("(1 of 1)") for line in result.error.splitlines()] == [True, False]


def test_localhost_and_ipv6_are_this_machine(anywhere: Kimi) -> None:
    """Plain http is allowed to every name of this machine."""
    for host in ("localhost", "[::1]", "127.1.2.3", "LOCALHOST"):
        result = anywhere("--base-url", f"http://{host}:{free_port()}/", "hi")
        assert_failed(result, 69, "cannot reach")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.example.com/v1", "plain http would show the token to the network"),
        ("http://10.0.0.1/v1", "plain http"),
        ("http://127.0.0.1.example.com", "plain http"),
        ("http://localhost.example.com", "plain http"),
        ("ftp://example.com", "it must begin with https:// and a host"),
        ("api.example.com/v1", "it must begin with https:// and a host"),
        ("https://", "it must begin with https:// and a host"),
        ("", "it must begin with https:// and a host"),
        ("https://user:pw@example.com", "it must not hold a user name or password"),
        ("https://example.com\\@evil.com", "it must not"),
        ("https://example.com/v1?x=1", "it must not have a query or fragment"),
        ("https://example.com/v1?", "it must not have a query or fragment"),
        ("https://example.com/v1#x", "it must not have a query or fragment"),
        ("https://example.com:99999", "port"),
        ("https://example.com:x", "port"),
        ("https://[::1", "invalid ipv6 url"),
        ("https://a b.com", "it must not hold spaces"),
        ("https://a.com/\x1b[31m", "it must not hold spaces, control characters"),
        ("https://a..b", "a part of its host name is empty or too long"),
        (f"https://{'a' * 64}.com", "a part of its host name is empty or too long"),
    ],
)
def test_bad_base_urls(anywhere: Kimi, url: str, why: str) -> None:
    """A base URL that is no https origin is exit 78, says why, and shows no password."""
    result = anywhere("--base-url", url, "hi")
    assert_failed(result, 78, "bad base URL", why)
    assert "pw" not in result.error


@pytest.mark.parametrize("end", ["", "/", "//"])
def test_the_endpoint(ask: Kimi, server: ReplayServer, end: str) -> None:
    """The endpoint is the base URL and /chat/completions, however the URL ends."""
    server.script(stream("x"))
    assert ask("--base-url", f"{server.origin}/a%20b/v1{end}", "hi").status == 0
    assert server.requests[0].path == "/a%20b/v1/chat/completions"


def test_netrc_is_never_read(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """A netrc entry for the host does not replace the bearer token, nor serve as one."""
    netrc = home / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\ndefault login a password b\n")
    netrc.chmod(0o600)
    server.script(stream("x"), stream("x"))
    environment = {"NETRC": str(netrc)}
    assert ask("hi", env=environment).status == 0
    assert ask("--no-auth", "hi", env=environment).status == 0
    sent = [request.headers["Authorization"] for request in server.requests]
    assert sent == [f"Bearer {CANARY}", None]


# Certificates


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_own_authority_is_trusted_when_named(
    anywhere: Kimi, tls_server: ReplayServer, certificate: Callable[..., Path], variable: str
) -> None:
    """The usual variables name the authority to trust."""
    tls_server.script(stream("Hel", "lo"))
    environment = {variable: str(certificate())}
    result = anywhere("--base-url", tls_server.url, "hi", env=environment)
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)
    assert tls_server.requests[0].headers["Authorization"] == f"Bearer {CANARY}"


def test_an_unknown_authority_is_not_trusted(anywhere: Kimi, tls_server: ReplayServer) -> None:
    """A certificate that nobody vouches for: exit 69, nothing is sent, one attempt."""
    result = anywhere("--base-url", tls_server.url, "--retries", "2", "hi")
    assert_failed(result, 69, "cannot trust 127.0.0.1", "certificate", "SSL_CERT_FILE")
    assert tls_server.requests == []
    assert tls_server.connections == 1


@pytest.mark.parametrize(
    ("arguments", "why"),
    [({"expired": True}, "expired"), ({"host": "kimi.example"}, "127.0.0.1")],
)
def test_bad_certificates(
    anywhere: Kimi,
    certificate: Callable[..., Path],
    arguments: dict[str, object],
    why: str,
) -> None:
    """An expired certificate, or one of another host, is exit 69 even if its issuer is known."""
    path = certificate(**arguments)
    with ReplayServer(path) as server:
        environment = {"SSL_CERT_FILE": str(path)}
        result = anywhere("--base-url", server.url, "hi", env=environment)
        assert_failed(result, 69, "cannot trust 127.0.0.1", why)
        assert server.requests == []


def test_a_missing_authority(anywhere: Kimi, tls_server: ReplayServer, tmp_path: Path) -> None:
    """A CA file that does not exist, or is none, is exit 78 with its path."""
    for name, content in [("missing.pem", None), ("junk.pem", "junk")]:
        path = tmp_path / name
        if content:
            path.write_text(content)
        result = anywhere("--base-url", tls_server.url, "hi", env={"SSL_CERT_FILE": str(path)})
        assert_failed(result, 78, str(path))
    assert tls_server.requests == []


def test_no_option_turns_verification_off(kimi: Kimi) -> None:
    """There is no --insecure."""
    for option in ("--insecure", "-k", "--no-verify"):
        assert kimi("ask", option, "hi").status == 2


def test_plain_http_where_tls_was_expected(anywhere: Kimi, server: ReplayServer) -> None:
    """A host that does not speak TLS is one line, and never sees the token."""
    server.script(Reply([b"HTTP/1.1 400 Bad Request\r\n\r\n"], framing="raw", read="nothing"))
    result = anywhere("--base-url", server.url.replace("http:", "https:"), "hi")
    assert_failed(result, 69, "127.0.0.1")


def test_tls_where_plain_http_was_expected(anywhere: Kimi, tls_server: ReplayServer) -> None:
    """A TLS host behind an http URL is one line."""
    result = anywhere("--base-url", tls_server.url.replace("https:", "http:"), "hi")
    assert result.status in (75, 76)
    assert result.error.count("\n") == 1


# Proxies


class Proxy:
    """An HTTP proxy on loopback: keeps what each client sends first, and replies as told."""

    def __init__(self, reply: bytes, upstream: int | None = None) -> None:
        """Reply so to the first request of each connection; then relay to the upstream port."""
        self.heads: list[bytes] = []
        self._reply = reply
        self._upstream = upstream
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        """Stop; nothing may be running any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            client.settimeout(10)
            with client:
                head = b""
                while b"\r\n\r\n" not in head and (piece := client.recv(65536)):
                    head += piece
                self.heads.append(head)
                client.sendall(self._reply)
                if self._upstream is not None:
                    self._relay(client, self._upstream)

    def _relay(self, client: socket.socket, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as upstream:
            back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
            back.start()
            _copy(client, upstream)
            back.join(10)


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def proxy(reply: bytes, upstream: int | None = None) -> Iterator[Proxy]:
    """A proxy that replies so."""
    running = Proxy(reply, upstream)
    try:
        yield running
    finally:
        running.close()


ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"
REMOTE = "https://kimi.example/v1"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_is_asked_for_a_tunnel(
    anywhere: Kimi, certificate: Callable[..., Path], variable: str
) -> None:
    """The proxy sees CONNECT and the host, and neither the prompt nor the token."""
    path = certificate("kimi.example")
    with ReplayServer(path) as server, proxy(ESTABLISHED, server.port) as tunnel:
        server.script(stream("Hel", "lo"))
        environment = {variable: f"http://me:pw@{tunnel.address}", "SSL_CERT_FILE": str(path)}
        result = anywhere("--base-url", REMOTE, "hi", env=environment)
        assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)
        [request] = server.requests
        assert request.path == "/v1/chat/completions"
        assert request.headers["Proxy-Authorization"] is None
    [head] = tunnel.heads
    assert head.startswith(b"CONNECT kimi.example:443 HTTP/1.")
    assert base64.b64encode(b"me:pw") in head
    assert CANARY.encode() not in head


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", 69, "407"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 69, "403"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 69, "502"),
        (b"", 69, "proxy"),
        (b"SSH-2.0-OpenSSH\r\n", 69, "proxy"),
    ],
    ids=["407", "403", "502", "closed", "ssh"],
)
def test_a_proxy_that_refuses(anywhere: Kimi, reply: bytes, status: int, words: str) -> None:
    """A proxy's refusal is exit 69, says that it was the proxy, and shows no password."""
    with proxy(reply) as tunnel:
        environment = {"HTTPS_PROXY": f"http://me:hunter2@{tunnel.address}"}
        result = anywhere("--base-url", REMOTE, "hi", env=environment)
    assert_failed(result, status, "proxy", words)
    assert "hunter2" not in result.error


def test_a_proxy_that_is_not_there(anywhere: Kimi) -> None:
    """A proxy that cannot be reached is exit 69."""
    environment = {"HTTPS_PROXY": f"http://127.0.0.1:{free_port()}"}
    result = anywhere("--base-url", REMOTE, "hi", env=environment)
    assert_failed(result, 69, "through the proxy")


@pytest.mark.parametrize("value", ["ftp://127.0.0.1:1", "http://127.0.0.1:99999", "http://[::1"])
def test_a_bad_proxy_setting(anywhere: Kimi, value: str) -> None:
    """A proxy variable that is no URL of a proxy is one line."""
    result = anywhere("--base-url", REMOTE, "hi", env={"HTTPS_PROXY": value})
    assert result.status in (69, 78)
    assert result.error.count("\n") == 1
    assert "bug" not in result.error


@pytest.mark.parametrize("value", ["kimi.invalid", ".invalid", "*", "other,kimi.invalid"])
def test_no_proxy(anywhere: Kimi, value: str) -> None:
    """NO_PROXY names the hosts that are reached directly."""
    with proxy(ESTABLISHED) as tunnel:
        environment = {"HTTPS_PROXY": f"http://{tunnel.address}", "NO_PROXY": value}
        result = anywhere("--base-url", "https://kimi.invalid/v1", "hi", env=environment)
    assert_failed(result, 69, "cannot resolve kimi.invalid:")
    assert tunnel.heads == []


def test_this_machine_is_never_reached_through_a_proxy(ask: Kimi, server: ReplayServer) -> None:
    """A proxy would see a loopback request, and its token, in plain text."""
    server.script(stream("x"))
    with proxy(ESTABLISHED) as tunnel:
        url = f"http://{tunnel.address}"
        names = ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy")
        assert ask("hi", env=dict.fromkeys(names, url)).status == 0
    assert tunnel.heads == []


# Time limits


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port whose queue of connections is full: a further one gets no reply at all."""
    with socket.socket() as listener, ExitStack() as clients:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            client = clients.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.mark.parametrize("limit", ["--connect-timeout", "--max-time"])
def test_a_connection_that_never_comes(anywhere: Kimi, limit: str) -> None:
    """--connect-timeout and --max-time end an attempt to connect: exit 75."""
    with deaf_port() as port:
        result = anywhere(limit, "0.3", "--base-url", f"http://127.0.0.1:{port}", "hi", timeout=10)
    assert_failed(result, 75, limit.removeprefix("--"))


def test_a_tls_handshake_that_never_comes(anywhere: Kimi) -> None:
    """The connect limit covers the handshake."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        result = anywhere("--connect-timeout", "0.3", "--base-url", url, "hi", timeout=10)
    assert_failed(result, 75, "limit: connect-timeout")


def test_a_proxy_that_never_answers(anywhere: Kimi) -> None:
    """The connect limit covers the way through a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {"HTTPS_PROXY": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        arguments = ("--connect-timeout", "0.3", "--base-url", REMOTE, "hi")
        result = anywhere(*arguments, env=environment, timeout=10)
    assert result.status == 75
    assert result.error.count("\n") == 1


def drip(*pieces: bytes) -> list[Step]:
    """The pieces over and over, a moment apart."""
    return [step for _ in range(DRIPS) for piece in pieces for step in (piece, Wait(0.05))]


EVENTS = {"Content-Type": "text/event-stream"}
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"
SILENCES = {
    "no reply": Reply([Stall()], framing="raw"),
    "no body": Reply([Stall()], headers=EVENTS, framing="chunked"),
    "half a head": Reply([HEAD, Stall()], framing="raw"),
    "comments": Reply(drip(b": beat\n\n"), headers=EVENTS, framing="chunked"),
    "comments, close-delimited": Reply(drip(b": beat\n\n"), headers=EVENTS, framing="close"),
    "bytes of one event": Reply([b"data: {", *drip(b" ")], headers=EVENTS, framing="close"),
    "header lines": Reply([HEAD, *drip(b"X-Drip: 1\r\n")], framing="raw"),
    "bytes of the head": Reply([HEAD, b"X: ", *drip(b"x")], framing="raw"),
    "100 Continue": Reply(drip(b"HTTP/1.1 100 Continue\r\n\r\n"), framing="raw"),
    "blank lines": Reply(drip(b"\n"), headers=EVENTS, framing="chunked"),
    "chunk extensions": Reply(
        [HEAD, CHUNKED, b"\r\n1;", *drip(b"x")],
        framing="raw",
    ),
}


@pytest.mark.parametrize("limit", ["--timeout", "--max-time"])
def test_silence_ends_however_it_is_kept(once: Kimi, server: ReplayServer, limit: str) -> None:
    """Without a data event the limits end the call, whatever else drips in: exit 75."""
    server.answer(lambda request: SILENCES[request.json["messages"][0]["content"]])
    runs = {name: once.start(limit, "0.5", name) for name in SILENCES}
    for name, run in runs.items():
        result = run.wait(15)
        assert (name, result.status, result.stdout) == (name, 75, b"")
        assert f"limit: {limit.removeprefix('--')}" in result.error, name
        assert result.error.count("\n") == 1, name


@pytest.mark.parametrize("limit", ["--timeout", "--max-time"])
def test_a_server_that_reads_nothing(once: Kimi, server: ReplayServer, limit: str) -> None:
    """A connection that is accepted and then ignored ends too."""
    server.script(Reply([Stall()], framing="raw", read="nothing"))
    assert_failed(once(limit, "0.4", "hi", timeout=12), 75, f"limit: {limit.removeprefix('--')}")


def test_a_stall_in_the_middle(once: Kimi, server: ReplayServer) -> None:
    """A stream that stops dead ends with what came, and says how much that was."""
    server.script(stream("Hel", Stall()))
    result = once("--timeout", "0.4", "hi", timeout=10)
    assert (result.stdout, result.status) == (b"Hel\n", 75)
    assert result.error == (
        "kimi: the answer was cut off after 3 characters: no data for 0.4 s (limit: timeout)\n"
    )


def test_max_time_ends_a_lively_answer(once: Kimi, server: ReplayServer) -> None:
    """--max-time ends even an answer that comes steadily; what came is kept."""
    word = event(chunk({"content": "x"}))
    server.script(Reply(drip(word), headers=EVENTS, framing="chunked"))
    result = once("--max-time", "1", "--timeout", "20", "hi", timeout=12)
    assert result.status == 75
    assert result.stdout.strip(b"x") == b"\n"
    assert "limit: max-time" in result.error


def test_max_time_covers_the_retries(ask: Kimi, server: ReplayServer) -> None:
    """The limit of the whole call is one for all attempts."""
    server.script(refusal(503, "api_error", "busy"), Reply([Stall()], framing="raw"), repeat=True)
    result = ask("--retries", "50", "--max-time", "2", "hi", timeout=12)
    assert result.status == 75


def test_a_slow_answer_is_not_a_silent_one(once: Kimi, server: ReplayServer) -> None:
    """Data events start the idle limit anew: together they may last longer than it."""
    deltas = [step for _ in range(8) for step in ("x", Wait(0.2))]
    server.script(stream(*deltas))
    result = once("--timeout", "1", "hi")
    assert (result.stdout, result.status) == (b"x" * 8 + b"\n", 0)


def test_a_slow_reader_is_not_a_silent_server(once: Kimi, server: ReplayServer) -> None:
    """The time that our own reader takes does not count against the server."""
    text = "x" * 1_000_000
    server.script(stream(text, text))
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        with os.fdopen(writer, "wb") as stdout:
            run = once.start("--timeout", "1", "hi", stdout=stdout)
        server.await_requests(1)
        threading.Event().wait(2.5)
        assert len(output.read()) == 2_000_001
    assert run.wait().status == 0


def test_waiting_for_the_end_of_a_finished_answer(once: Kimi, server: ReplayServer) -> None:
    """After the finish_reason a silent server costs a few seconds, and the answer is whole."""
    reply = stream("Hello", usage=None, done=False)
    server.script(reply.but(body=[*reply.body, Stall()]))
    result = once("--max-time", "1", "hi", timeout=20)
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


# Large and odd bodies


def test_a_server_that_stops_reading(once: Kimi, server: ReplayServer) -> None:
    """A long prompt that is not taken ends by the idle limit."""
    server.script(Reply([Stall()], framing="raw", read="head"))
    result = once("--timeout", "0.5", stdin=b"x" * 20_000_000, timeout=20)
    assert_failed(result, 75, "limit: timeout")


def test_a_reply_before_the_prompt_was_read(once: Kimi, server: ReplayServer) -> None:
    """A server that refuses a long prompt unread is understood, even if it hangs up."""
    server.script(refusal(413, "content_too_large", "too long").but(read="head"))
    result = once(stdin=b"x" * 20_000_000)
    assert_failed(result, 65, "HTTP 413 content_too_large: too long")


def test_a_long_prompt_arrives_whole(ask: Kimi, server: ReplayServer) -> None:
    """20 MB of prompt are sent as they are."""
    server.script(stream("x"))
    assert ask(stdin=b"y" * 20_000_000).status == 0
    assert len(server.requests[0].json["messages"][0]["content"]) == 20_000_000


@pytest.mark.parametrize("mode", [(), ("--no-stream",), ("--json",)])
def test_ten_megabytes(ask: Kimi, server: ReplayServer, mode: tuple[str, ...]) -> None:
    """A long answer arrives whole."""
    text = "0123456789abcde\n" * 65_536
    server.script(completion(text * 10) if "--no-stream" in mode else stream(*[text] * 10))
    result = ask(*mode, "hi")
    assert result.status == 0
    if mode == ("--json",):
        assert json.loads(result.stdout)["content"] == text * 10
    else:
        assert result.stdout == text.encode() * 10


@NO_STREAM
def test_compression_that_nobody_asked_for(
    ask: Kimi, server: ReplayServer, mode: tuple[str, ...]
) -> None:
    """A body compressed against our wish is read."""
    reply = completion("Hello") if mode else stream("Hel", "lo")
    body = gzip.compress(b"".join(step for step in reply.body if isinstance(step, bytes)))
    headers = {**reply.headers, "Content-Encoding": "gzip"}
    server.script(reply.but(body=[body], headers=headers))
    result = ask(*mode, "hi")
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_a_compressed_bomb(ask: Kimi, server: ReplayServer) -> None:
    """What unfolds beyond every answer is refused, not kept."""
    bomb = gzip.compress(b" " * 300_000_000, 1)
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    server.script(Reply([bomb], headers=headers))
    assert_failed(ask("--no-stream", "hi"), 76, "more than 67108864 bytes")


def test_an_endless_event(ask: Kimi, server: ReplayServer) -> None:
    """One event beyond every size is refused."""
    step = b"x" * 2**20
    server.script(Reply([b"data: ", *[step] * 70, Stall()], headers=EVENTS, framing="close"))
    assert_failed(ask("hi"), 76, "an event of more than 67108864 bytes")


def test_an_endless_error(once: Kimi, server: ReplayServer) -> None:
    """An error page without an end still tells its status."""
    server.script(Reply([b"x" * 2**20] * 3, status=503))
    assert_failed(once("hi"), 75, "HTTP 503")


@pytest.mark.parametrize(
    "reply",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"\x15\x03\x01\x00\x02\x02P",
        b"HTTP/9.9 999\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"\x00" * 100,
        b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"x" * 100_000,
    ],
    ids=["ssh", "tls", "version", "status", "nul", "many-headers", "long-header", "long-line"],
)
def test_garbage_instead_of_http(ask: Kimi, server: ReplayServer, reply: bytes) -> None:
    """What is not HTTP is exit 76, one line, and not tried again."""
    server.script(Reply([reply], framing="raw"))
    assert_failed(ask("hi"), 76, "does not speak HTTP")
    assert len(server.requests) == 1


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@NO_STREAM
def test_headers_and_nothing_more(
    once: Kimi, server: ReplayServer, mode: tuple[str, ...], framing: str
) -> None:
    """A reply that ends after its head is a failure that may pass, or not the API."""
    reply = completion("x") if mode else stream("x")
    server.script(reply.but(framing=framing).cut_after(0))
    result = once(*mode, "hi")
    assert (result.stdout, result.status) == (b"", 75 if framing != "close" or not mode else 76)
    assert result.error.count("\n") == 1


@pytest.mark.parametrize(
    "body", [b"zz\r\nx\r\n", b"-1\r\nx\r\n", b"5\r\nabc", b"ffffffffffffffff\r\nx"]
)
def test_broken_chunks(once: Kimi, server: ReplayServer, body: bytes) -> None:
    """Chunked framing that breaks is a cut answer, not a bug."""
    server.script(Reply([HEAD, CHUNKED, b"\r\n", body], framing="raw"))
    result = once("hi")
    assert result.stdout == b""
    assert result.status in (75, 76)
    assert result.error.count("\n") == 1


@NO_STREAM
def test_no_content(once: Kimi, server: ReplayServer, mode: tuple[str, ...]) -> None:
    """A good status without a body is no answer."""
    server.script(Reply([b"HTTP/1.1 204 No Content\r\n\r\n"], framing="raw"))
    result = once(*mode, "hi")
    assert result.stdout == b""
    assert result.status in (3, 75, 76)
    assert result.error.count("\n") == 1


def test_a_reset_instead_of_a_reply(once: Kimi, server: ReplayServer) -> None:
    """A connection that dies without a reply may be tried again: exit 75."""
    server.script(Reply([Reset()], framing="raw"))
    assert_failed(once("hi"), 75, "closed the connection without a reply")


def test_100_continue_is_passed_over(ask: Kimi, server: ReplayServer) -> None:
    """A reply that only says to go on is not the reply."""
    body = document({"choices": [{"message": {"content": "Yes"}, "finish_reason": "stop"}]}).body
    lines = [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD, b"Content-Type: application/json\r\n\r\n"]
    server.script(Reply([*lines, *body], framing="raw"))
    assert ask("--no-stream", "hi").stdout == b"Yes\n"


def test_the_connection_is_left_when_the_answer_is_over(ask: Kimi, server: ReplayServer) -> None:
    """After [DONE] the server sees the client leave, though it keeps the stream open."""
    left = threading.Event()
    reply = stream("x")
    server.script(reply.but(body=[*reply.body, Stall(), Mark(left)]))
    assert ask("hi").status == 0
    assert left.wait(10)
