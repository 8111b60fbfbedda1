"""The only HTTP of this package: one origin, its connections, and what can fail on them.

Requests knows how to reach an origin (proxies, SOCKS, certificates); the connections under it
are urllib3's, and are used directly, because a session would follow redirects, read netrc, keep
cookies, and hold a stream's text back until its buffer is full.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from queue import Empty, SimpleQueue
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from kimi_cli.api.dialling import dial
from kimi_cli.api.limits import Limits, Timer
from kimi_cli.api.threads import start_thread
from kimi_cli.errors import (
    ConfigError,
    KimiError,
    NotTheApi,
    StreamTruncated,
    TimedOut,
    Unreachable,
)

_PIECE = 65536
_KEEP_ALIVE = 45
"""Seconds of silence after which TCP asks whether the other side is still there: routers forget
a quiet connection after some minutes."""
_NO_TLS = ("wrong_version_number", "http_request", "unsupported_protocol")
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)
_LATER = "; check the network and the address; try again later"
_VERSION, _LONG_LINE = b"HTTP/", 65536
"""How a status line begins, and from which length on it is none."""
_CUT_HEAD = "the connection ended within the head of the reply"
_CUTS = (RemoteDisconnected, IncompleteRead)
_AHEAD = 256 * 1024
"""Bytes that may be received ahead of a slow reader, and so be decoded in one go."""


@dataclass(frozen=True, eq=False, repr=False)
class Route:
    """How to reach an origin: its base URL, proxies by scheme, and whom to trust.

    *authorities* are files and folders of certificates; where none is named, those count that
    come with requests.
    """

    base_url: str
    proxies: Mapping[str, str] = field(default_factory=dict)
    authorities: tuple[str, ...] = ()

    @property
    def host(self) -> str:
        """The host (and port) of the base URL, for messages."""
        return self.base_url.split("/")[2]


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """What goes into one HTTP request; *path* is joined to the base URL."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None = None


class CutHead(HTTPException):
    """The connection ended within the status line or the headers of a reply."""


class _LineKeeper:
    """Hands lines on, and keeps the last one: http.client takes a cut head for a whole one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = b""

    def readline(self, *limit: int) -> bytes:
        self.last = self._file.readline(*limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class FinalResponse(HTTPResponse):
    """The reply that counts: interim ones before it are passed over (RFC 9110, section 15.2)."""

    def begin(self) -> None:
        """Read the status and the headers; raises HTTPException, CutHead where they are cut."""
        self._begin_whole()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment] # or begin() would have nothing to do
            self._begin_whole()

    def _begin_whole(self) -> None:
        file = self.fp
        keeper: Any = _LineKeeper(file)
        self.fp = keeper
        try:
            super().begin()
        except RemoteDisconnected:
            raise
        except HTTPException:
            begun = keeper.last and (
                _VERSION.startswith(keeper.last) or keeper.last[:5] == _VERSION
            )
            if begun and not keeper.last.endswith(b"\n") and len(keeper.last) < _LONG_LINE:
                raise CutHead(_CUT_HEAD) from None
            raise
        finally:
            if self.fp is keeper:
                self.fp = file
        if keeper.last not in (b"\r\n", b"\n"):
            raise CutHead(_CUT_HEAD)


class Transport(HTTPAdapter):
    """The way to one origin. No cookies, no netrc, no redirects, no retries."""

    def __init__(self, route: Route) -> None:
        """Prepare the way along *route*; nothing is sent yet.

        Raises ConfigError when a proxy or CA path of the route cannot be used.
        """
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self.route = route
        self._proxies = dict(route.proxies)
        try:
            request = self._prepare("")
            pool: Any = self.get_connection_with_tls_context(request, True, self._proxies)
            self.cert_verify(pool, request.url or "", True, None)
        except (RequestException, HTTPError, OSError, ValueError) as error:
            raise ConfigError(f"cannot use the proxy or CA settings: {error}") from error
        self._pool = pool
        if route.authorities:
            files = [path for path in route.authorities if not os.path.isdir(path)]
            folders = [path for path in route.authorities if os.path.isdir(path)]
            pool.ca_certs = files[0] if files else None
            pool.ca_cert_dir = os.pathsep.join(folders) or None
        proxy = select_proxy(request.url or "", self._proxies)
        self._headers = self.proxy_headers(proxy) if proxy and pool.scheme == "http" else {}

    @contextmanager
    def exchange(
        self, call: Call, limits: Limits, deadline: float | None = None
    ) -> Iterator[Reply]:
        """Send one request; yield its reply as soon as the headers are there.

        *deadline* is on the monotonic clock. Raises Unreachable, TimedOut, StreamTruncated (the
        request may have been taken) or NotTheApi (what came is not HTTP).
        """
        exchange = _Exchange(self, call, Timer(limits, deadline), limits.connect)
        try:
            yield Reply(exchange.receive_head(), exchange)
        finally:
            exchange.give_up()

    def connect(self, seconds: float) -> Any:
        """Return an open urllib3 connection; all of opening it may take *seconds*."""
        connection = self._pool._new_conn()
        connection.response_class = FinalResponse
        connection.timeout = seconds
        if type(connection)._new_conn is HTTPConnection._new_conn:  # and not by way of SOCKS
            connection._new_conn = partial(_dial, connection, seconds)
        with _cut_after(connection, seconds):
            if self._pool.proxy is not None and self._pool.scheme == "https":
                # urllib3 keeps the CONNECT through a proxy in this one place.
                self._pool._prepare_proxy(connection)
            else:
                connection.connect()
        # A socket's own limit would end a long upload, or a long thought; others judge instead.
        connection.timeout = None
        connection.sock.settimeout(None)
        _keep_alive(connection.sock)
        return connection

    def locate(self, path: str) -> str:
        """Return the request target of base URL + *path*; an HTTP proxy wants the whole URL."""
        return self.request_url(self._prepare(path), self._proxies)

    def complete_headers(self, call: Call) -> dict[str, str]:
        """Return the headers of *call*, with what its body and the proxy ask for."""
        headers = {**self._headers, **call.headers}
        if call.body is not None:
            headers["Content-Length"] = str(len(call.body))
        return headers

    def _prepare(self, path: str) -> PreparedRequest:
        request = PreparedRequest()
        request.prepare_url(self.route.base_url + path, None)
        return request


class _Exchange:
    """One request and its reply, carried by a thread of its own.

    The thread may hang in name resolution or in a read; the caller waits on a queue, by its own
    clock, and stays open to signals. What piled up meanwhile is taken in one go, which is also
    what makes a stream of many small chunks cheap.
    """

    def __init__(self, transport: Transport, call: Call, timer: Timer, connect: float) -> None:
        self.timer = timer
        self._route = transport.route
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._given_up = False
        # Each is written by one thread only; their difference is what waits in the inbox.
        self._received = self._taken = 0
        start_thread(self._carry, transport, call, connect)

    def receive_head(self) -> Any:
        """Return urllib3's response; raise what became of the request in our own terms."""
        item = self._wait()
        if isinstance(item, Exception):
            raise explain_failure(item, self._route, connecting=self._socket is None) from item
        return item

    def receive_body(self) -> Iterator[bytes]:
        """Yield what has come of the body, as soon as it has; see ``Reply.iterate``."""
        while True:
            item = self._wait()
            pieces = []
            for _ in range(self._inbox.qsize()):
                if not isinstance(item, bytes):
                    break
                pieces.append(item)
                item = self._inbox.get()
            if isinstance(item, bytes):
                pieces.append(item)
            if pieces:
                data = b"".join(pieces)
                self._taken += len(data)
                yield data
            if item is None:
                return
            if isinstance(item, Exception):
                raise StreamTruncated(f"the connection broke: {_describe(item)}") from item

    def give_up(self) -> None:
        """Cut the connection; the carrying thread wakes up at its end and cleans up."""
        with self._lock:
            self._given_up = True
            if self._socket is not None:
                with contextlib.suppress(OSError):
                    self._socket.shutdown(socket.SHUT_RDWR)

    def _wait(self) -> Any:
        """Return the next thing that the carrier delivers; raises TimedOut."""
        self.timer.resume()
        while True:
            try:
                item = self._inbox.get(timeout=self.timer.plan_wait())
            except Empty:
                continue
            self.timer.pause()
            return item

    def _carry(self, transport: Transport, call: Call, connect: float) -> None:
        try:
            connection = transport.connect(connect)
            with contextlib.closing(connection):
                self._take_charge(connection.sock)
                response = self._send(connection, transport, call)
                self._inbox.put(response)
                for piece in _read_promptly(response):
                    self._inbox.put(piece)
                    self._received += len(piece)
                    while self._received - self._taken > _AHEAD and not self._given_up:
                        time.sleep(0.001)
            self._inbox.put(None)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self._inbox.put(error)

    def _take_charge(self, connected: socket.socket) -> None:
        """Make the connection ours to cut, before anything is sent on it."""
        with self._lock:
            if self._given_up:
                raise ConnectionAbortedError("given up while connecting")
            self._socket = connected
        self.timer.expect()

    def _send(self, connection: Any, transport: Transport, call: Call) -> Any:
        """Send *call*; return urllib3's response, body unread."""
        # A server may answer, and hang up, before it has read a long prompt: its reply tells more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connection.request(
                call.method,
                transport.locate(call.path),
                body=None if call.body is None else self._cut(call.body),
                headers=transport.complete_headers(call),
                preload_content=False,
                decode_content=False,
            )
        return connection.getresponse()

    def _cut(self, body: bytes) -> Iterator[bytes]:
        """Send *body* in pieces: a slow upload is progress, one that stands still is not."""
        for start in range(0, len(body), _PIECE):
            self.timer.touch()
            yield body[start : start + _PIECE]


class Reply:
    """One HTTP reply: its status and header, and the body that is still to come."""

    def __init__(self, response: Any, exchange: _Exchange) -> None:
        """Wrap urllib3's *response*, whose body *exchange* receives."""
        self.status: int = response.status
        self._headers: Mapping[str, str] = response.headers
        self.timer = exchange.timer
        self.ends_by_closing = not response.chunked and response.length_remaining is None
        self._pieces = exchange.receive_body()

    def header(self, name: str) -> str | None:
        """Return the value of a header field, looked up without regard to case."""
        return self._headers.get(name)

    def iterate(self) -> Iterator[bytes]:
        """Yield the body in pieces, each as soon as it is there.

        Raises StreamTruncated when the connection breaks, TimedOut when a limit ran out. Only
        the caller knows what counts as progress: it touches the timer.
        """
        return self._pieces

    def read(self, limit: int) -> bytes:
        """Return the whole body; raises NotTheApi beyond *limit* bytes."""
        body = bytearray()
        for piece in self._pieces:
            self.timer.touch()
            body += piece
            if len(body) > limit:
                raise NotTheApi(f"the host sent more than {limit} bytes in one document")
        return bytes(body)


def _dial(connection: Any, seconds: float) -> socket.socket:
    """Open the socket of urllib3's *connection*, in its place and with its errors."""
    host = connection._dns_host
    try:
        return dial(host, connection.port, seconds, connection.socket_options or ())
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"no answer within {seconds:g} s") from error
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error


@contextmanager
def _cut_after(connection: Any, seconds: float) -> Iterator[None]:
    """Cut *connection* when opening it takes longer: its own limit begins anew with every byte.

    Raises ConnectTimeoutError then.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        if (connected := connection.sock) is not None:
            with contextlib.suppress(OSError, AttributeError):
                connected.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(seconds, cut)
    watchdog.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread to be had: each step has its own limit
        watchdog.start()
    try:
        yield
    except (HTTPError, HTTPException, OSError) as error:
        if late.is_set():
            raise ConnectTimeoutError(connection, f"not open within {seconds:g} s") from error
        raise
    finally:
        watchdog.cancel()


def _keep_alive(connected: socket.socket) -> None:
    """Keep a way open on which nothing passes while a model thinks, and notice where it ended."""
    raw = getattr(connected, "socket", connected)  # pyOpenSSL and TLS inside TLS wrap it
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE)


def _read_promptly(response: Any) -> Iterator[bytes]:
    """Yield the body of urllib3's *response* as it comes, never waiting for a full buffer.

    urllib3's chunk reader is prompt and quick, but only ``read1`` is prompt for the other
    framings, and it alone bounds what a compressed piece may unfold to.
    """
    if response.chunked and "content-encoding" not in response.headers:
        yield from response.read_chunked(_PIECE)
        return
    while piece := response.read1(_PIECE, decode_content=True):
        yield piece


def explain_failure(error: Exception, route: Route, *, connecting: bool = False) -> KimiError:
    """Say in our terms why no reply came; raises *error* where it is a bug of ours."""
    host, root, reason = route.host, _find_root(error), _describe(error)
    if isinstance(error, SSLError) and (flaw := _find_flaw(route.authorities)):
        return ConfigError(f"cannot read certificates from {flaw}")
    via = " through the proxy" if select_proxy(route.base_url, dict(route.proxies)) else ""
    if isinstance(error, NameResolutionError):
        return _explain_resolution(root, f"cannot resolve {host}{via}: {reason}", via)
    if isinstance(root, ssl.SSLError):
        return _explain_tls(root, f"{host}{via}: {reason}", route)
    if connecting and (isinstance(root, TimeoutError) or type(error) is ConnectTimeoutError):
        what = f"no connection to {host}{via}: {reason} (limit: connect-timeout)"
        return TimedOut(what, sent=False)
    if isinstance(error, (NewConnectionError, ProxyError)):
        return Unreachable(f"cannot reach {host}{via}: {reason}{_LATER}", transient=True)
    if "Tunnel connection failed" in reason:
        what = f"the proxy refuses the way to {host}: {reason}"
        return Unreachable(f"{what}; ask who runs it, or name the host in NO_PROXY")
    if connecting and via and isinstance(error, (HTTPError, HTTPException, OSError)):
        return Unreachable(f"cannot reach {host}{via}: {reason}{_LATER}", transient=True)
    if isinstance(root, HTTPException) and not isinstance(root, (*_CUTS, CutHead)):
        return NotTheApi(f"{host} does not speak HTTP: {reason}")
    if isinstance(error, (HTTPError, HTTPException, OSError)):
        where = "within its" if isinstance(root, (IncompleteRead, CutHead)) else "without a"
        return StreamTruncated(f"{host} closed the connection {where} reply: {reason}")
    raise error


def _explain_resolution(error: BaseException, what: str, via: str) -> Unreachable:
    """Tell a name that does not exist from a resolver that nobody can ask now."""
    if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
        return Unreachable(f"{what}; check {'the proxy' if via else '--base-url or the profile'}")
    return Unreachable(f"{what}{_LATER}", transient=True)


def _explain_tls(error: ssl.SSLError, what: str, route: Route) -> Unreachable:
    """Tell a host that cannot be trusted from one whose handshake broke off."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "SSL_CERT_FILE can name its CA"
        named = " or ".join(route.authorities)
        known = f"its CA is not in {named}" if named else hint
        return Unreachable(f"cannot trust {what}; {known}")
    # A host without TLS stays one; another may be behind a proxy that restarts.
    if (error.reason or "").lower() in _NO_TLS:
        return Unreachable(f"no TLS with {what}; check scheme and port of the base URL")
    return Unreachable(f"no TLS with {what}; try again later", transient=True)


def _find_flaw(authorities: tuple[str, ...]) -> str | None:
    """Say which file of certificates cannot be loaded, and why; None when all can."""
    for path in authorities:
        if os.path.isdir(path):
            continue
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
        except OSError as error:
            return f"{path}: {error.strerror or error}"
    return None


def _find_root(error: BaseException) -> BaseException:
    """Return the innermost exception that *error* wraps or comes from."""
    wrapped = [argument for argument in error.args if isinstance(argument, BaseException)]
    inner = wrapped[0] if wrapped else error.__cause__
    return error if inner is None else _find_root(inner)


def _describe(error: BaseException) -> str:
    """Return the innermost reason in one line, without urllib3's object names."""
    root = _find_root(error)
    text = getattr(root, "strerror", None) or str(root) or type(root).__name__
    return " ".join(text.split())[:200]
