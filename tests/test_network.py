"""The way to the host: names, certificates, and proxies."""

from __future__ import annotations

import base64
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from answers import assert_failed
from conftest import CANARY
from program import Kimi
from resolver import lead_to
from server import ReplayServer, Reply, completion, stream


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


# Reaching the host


def test_connection_refused(anywhere: Kimi) -> None:
    """Nobody listens now: exit 75, with host and reason."""
    port = free_port()
    result = anywhere("--base-url", f"http://127.0.0.1:{port}", "hi")
    assert_failed(result, 75, f"cannot reach 127.0.0.1:{port}: Connection refused")


def test_unknown_host(anywhere: Kimi) -> None:
    """A name that does not resolve: exit 69."""
    result = anywhere("--base-url", "https://kimi.invalid/v1", "hi")
    assert_failed(result, 69, "cannot resolve kimi.invalid")


def test_a_host_that_is_not_there_yet_is_tried_again(ask: Kimi, server: ReplayServer) -> None:
    """A refused connection is worth another attempt; each is told."""
    result = ask("--base-url", f"http://127.0.0.1:{free_port()}", "--retries", "1", "hi")
    assert result.status == 75
    assert [line.endswith("(1 of 1)") for line in result.error.splitlines()] == [True, False]


def test_localhost_and_ipv6_are_this_machine(anywhere: Kimi) -> None:
    """Plain http is allowed to every name of this machine."""
    for host in ("localhost", "[::1]", "127.1.2.3", "LOCALHOST"):
        result = anywhere("--base-url", f"http://{host}:{free_port()}/", "hi")
        assert_failed(result, 75, "cannot reach")


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://api.example.com/v1", "plain http would show the token to the network"),
        ("http://10.0.0.1/v1", "insecure_http = true in its profile"),
        ("http://ollama:11434/v1", "insecure_http = true in its profile"),
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
        ("https://example.com/chat/completions#x", "it must not have a query or fragment"),
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


PLAIN = """
[profiles.near]
base_url = "http://{host}:11434/v1"
auth = "none"
insecure_http = {allowed}
"""


@pytest.mark.parametrize(
    "host",
    [
        *("ollama", "my_service-1", "10.1.2.3", "172.31.0.1", "192.168.0.9", "169.254.1.1"),
        *("100.64.0.1", "[fd00::1]", "[fe80::1]", "[::ffff:10.0.0.1]", "host.docker.internal"),
    ],
)
def test_plain_http_in_a_network_of_ones_own(
    kimi: Kimi, home: Path, server: ReplayServer, host: str
) -> None:
    """F21: insecure_http of the profile allows it, by no proxy; without it, 78 names the key."""
    server.script(stream("x"))
    variables = lead_to(server.port, home / "resolver")
    proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")
    run = kimi.but("ask", "--profile", "near", "hi", env={**variables, **proxies})
    write_config(home, PLAIN.format(host=host, allowed="true"))
    result = run()
    assert (result.stdout, result.status) == (b"x\n", 0), result.error
    write_config(home, PLAIN.format(host=host, allowed="true").replace("http:", "HTTP:"))
    server.script(stream("x"))
    assert run().status == 0
    write_config(home, PLAIN.format(host=host, allowed="false"))
    assert_failed(run(), 78, "profile near", "use https", "insecure_http = true in its profile")
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "host",
    [
        *("api.example.com", "8.8.8.8", "134744072", "0x08080808", "8.8", "ollama.", "172.32.0.1"),
        *("[2001:db8::1]", "[::ffff:8.8.8.8]", "10.0.0.1.example.com", "ollama.local.example.com"),
    ],
)
def test_plain_http_stays_out_of_the_public(kimi: Kimi, home: Path, host: str) -> None:
    """F21: insecure_http is no leave to show a token to everybody; it says what it is for."""
    write_config(home, PLAIN.format(host=host, allowed="true"))
    result = kimi("ask", "--profile", "near", "hi")
    assert_failed(result, 78, "plain http would show", "insecure_http is for private addresses")


def test_plain_http_is_for_the_profile_s_own_origin(kimi: Kimi, home: Path) -> None:
    """F21: a URL that was named elsewhere is not trusted by it, one of the same origin is."""
    write_config(home, PLAIN.format(host="ollama", allowed="true"))
    run = kimi.but("ask", "--profile", "near", "--retries", "0")
    for url in ("http://ollama:11435/v1", "http://other:11434/v1", "http://10.0.0.1/v1"):
        assert_failed(run("--base-url", url, "hi"), 78, "--base-url", "plain http would show")
    assert kimi("ask", "--base-url", "http://ollama:11434/v1", "hi").status == 78
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    variables = lead_to(port, home / "resolver")
    result = run("--base-url", "http://OLLAMA:11434/v2", "hi", env=variables)
    assert_failed(result, 75, "cannot reach OLLAMA:11434")


def write_config(home: Path, text: str) -> None:
    """Write the configuration file."""
    folder = home / ".config/kimi"
    folder.mkdir(exist_ok=True)
    (folder / "config.toml").write_text(text)


@pytest.mark.parametrize("end", ["", "/", "//", "/chat/completions", "/chat/completions/"])
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


NAME_HASH = "88d0bdcb.0"
"""What openssl x509 -hash says of a subject CN=127.0.0.1: the name that OpenSSL looks for."""


def test_folders_of_authorities_are_a_list(
    anywhere: Kimi, tls_server: ReplayServer, certificate: Callable[..., Path], tmp_path: Path
) -> None:
    """SSL_CERT_DIR is split at ':', may name what is missing, and counts beside SSL_CERT_FILE."""
    tls_server.answer(lambda request: stream("Hel", "lo"))
    other, good = tmp_path / "other", tmp_path / "good"
    other.mkdir()
    good.mkdir()
    (good / NAME_HASH).symlink_to(certificate())
    stranger = str(certificate("kimi.example"))
    listed = f"{tmp_path / 'missing'}:{other}:{good}"
    for environment in (
        {"SSL_CERT_DIR": str(good)},
        {"SSL_CERT_DIR": listed},
        {"SSL_CERT_DIR": listed, "SSL_CERT_FILE": stranger},
        {"SSL_CERT_DIR": str(other), "SSL_CERT_FILE": str(certificate())},
    ):
        result = anywhere("--base-url", tls_server.url, "hi", env=environment)
        assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0), environment
    sent = len(tls_server.requests)
    environment = {"SSL_CERT_DIR": str(other), "SSL_CERT_FILE": stranger}
    result = anywhere("--base-url", tls_server.url, "hi", env=environment)
    assert_failed(result, 69, "cannot trust 127.0.0.1", f"not in {stranger} or {other}")
    result = anywhere("--base-url", tls_server.url, "hi", env={"SSL_CERT_DIR": "/no/a:/no/b"})
    assert_failed(result, 78, "SSL_CERT_DIR names /no/a:/no/b")
    assert len(tls_server.requests) == sent


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


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def relay(client: socket.socket, port: int) -> None:
    """Hand on what comes from either side, until both have ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as upstream:
        back = threading.Thread(target=_copy, args=(upstream, client), daemon=True)
        back.start()
        _copy(client, upstream)
        back.join(10)


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
                    relay(client, self._upstream)


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


def test_a_query_goes_through_the_tunnel(kimi: Kimi, certificate: Callable[..., Path]) -> None:
    """F21: a pasted endpoint with its query is the same by way of a proxy, in ask and batch."""
    path, url = certificate("kimi.example"), f"{REMOTE}/chat/completions?api-version=1&key=a%2Fb"
    with ReplayServer(path) as server, proxy(ESTABLISHED, server.port) as tunnel:
        server.script(stream("x"), completion("x"))
        environment = {"HTTPS_PROXY": f"http://{tunnel.address}", "SSL_CERT_FILE": str(path)}
        words = ("--no-auth", "--base-url", url)
        assert kimi("ask", *words, "hi", env=environment).status == 0
        assert kimi("batch", *words, stdin=b'"hi"\n', env=environment).status == 0
        paths = [request.path for request in server.requests]
    assert paths == ["/v1/chat/completions?api-version=1&key=a%2Fb"] * 2
    assert b"api-version" not in b"".join(tunnel.heads)


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", 69, "407"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 69, "403"),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", 69, "502"),
        (b"", 75, "proxy"),
        (b"SSH-2.0-OpenSSH\r\n", 75, "proxy"),
    ],
    ids=["407", "403", "502", "closed", "ssh"],
)
def test_a_proxy_that_refuses(anywhere: Kimi, reply: bytes, status: int, words: str) -> None:
    """A refusal is exit 69, silence 75; both name the proxy, and show no password."""
    with proxy(reply) as tunnel:
        environment = {"HTTPS_PROXY": f"http://me:hunter2@{tunnel.address}"}
        result = anywhere("--base-url", REMOTE, "hi", env=environment)
    assert_failed(result, status, "proxy", words)
    assert "hunter2" not in result.error


def test_a_proxy_that_is_not_there(anywhere: Kimi) -> None:
    """A proxy that cannot be reached now is exit 75."""
    environment = {"HTTPS_PROXY": f"http://127.0.0.1:{free_port()}"}
    result = anywhere("--base-url", REMOTE, "hi", env=environment)
    assert_failed(result, 75, "through the proxy")


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


def test_a_proxy_that_never_answers(anywhere: Kimi) -> None:
    """The connect limit covers the way through a proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        environment = {"HTTPS_PROXY": f"http://127.0.0.1:{listener.getsockname()[1]}"}
        arguments = ("--connect-timeout", "0.3", "--base-url", REMOTE, "hi")
        result = anywhere(*arguments, env=environment, timeout=10)
    assert result.status == 75
    assert result.error.count("\n") == 1
