"""The only HTTP of this package: one origin, its connections, and what can fail on them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from kimi_cli.api.ahead import Ahead
from kimi_cli.api.direct import DirectWay
from kimi_cli.api.failures import describe, explain_failure
from kimi_cli.api.http1 import FinalResponse, compose_head, read_promptly
from kimi_cli.api.limits import Limits, Timer
from kimi_cli.api.route import Route
from kimi_cli.api.threads import start_thread
from kimi_cli.errors import ConfigError, KimiError, NotTheApi, StreamTruncated

_PIECE = 65536
_KEEP_ALIVE = 45
"""Seconds of silence after which TCP asks whether the other side is still there: routers forget
a quiet connection after some minutes."""
_AHEAD = 256 * 1024
"""Bytes that may be received ahead of a slow reader, and so be decoded in one go."""


@dataclass(frozen=True, eq=False, repr=False)
class Call:
    """What goes into one HTTP request; *path* is joined to the base URL."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None = None


class Way(Protocol):
    """What opens connections to an origin, and what requests on them must say."""

    via: str
    """Who stands between, as messages say it."""

    def locate(self, path: str) -> str:
        """Return the request target of an endpoint."""

    def list_fields(self) -> dict[str, str]:
        """Return the header fields that the way itself asks for."""

    def open(self, seconds: float) -> socket.socket:
        """Return a connected socket; all of opening it may take *seconds*. Raises OSError."""


class Transport:
    """The way to one origin. No cookies, no netrc, no redirects, no retries."""

    def __init__(self, route: Route, ahead: Ahead | None = None) -> None:
        """Prepare the way along *route*; nothing is sent yet.

        The first request takes the connection that is opened *ahead*, if that is still good.
        Raises ConfigError when its host or proxy cannot be used.
        """
        try:
            self._place = route.locate()
        except ValueError as error:
            raise ConfigError(f"bad base URL '{route.base_url}': {error}") from error
        self._route = route
        self._ahead = ahead
        self._way: Way = (
            ahead.way if ahead else _choose_proxy(route) or DirectWay(route, self._place)
        )

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

    def connect(self, seconds: float) -> socket.socket:
        """Return a connected socket without a time limit; opening it may take *seconds*.

        A socket's own limit would end a long upload, or a long thought; others judge instead.
        """
        ahead, self._ahead = self._ahead, None
        connected = (ahead.take() if ahead else None) or self._way.open(seconds)
        _keep_alive(connected)
        return connected

    def compose_head(self, call: Call) -> bytes:
        """Return the request line and the header fields of *call*."""
        fields = {"Host": self._place.authority, **self._way.list_fields(), **call.headers}
        if call.body is not None:
            fields["Content-Length"] = str(len(call.body))
        return compose_head(call.method, self._way.locate(call.path), fields)

    def explain(self, error: Exception, *, connecting: bool) -> KimiError:
        """Say in our terms why no reply came; raises *error* where it is a bug of ours."""
        return explain_failure(error, self._route, self._way.via, connecting=connecting)


def _choose_proxy(route: Route) -> Way | None:
    if not route.proxies:
        return None
    from kimi_cli.api.proxies import choose_proxy  # noqa: PLC0415 - requests, for proxies only

    return choose_proxy(route)


class _Exchange:
    """One request and its reply, carried by a thread of its own.

    The thread may hang in name resolution or in a read; the caller waits on a queue, by its own
    clock, and stays open to signals. What piled up meanwhile is taken in one go, which is also
    what makes a stream of many small chunks cheap.
    """

    def __init__(self, transport: Transport, call: Call, timer: Timer, connect: float) -> None:
        self.timer = timer
        self._transport = transport
        self._inbox: SimpleQueue[Any] = SimpleQueue()
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._given_up = False
        # Each is written by one thread only; their difference is what waits in the inbox.
        self._received = self._taken = 0
        start_thread(self._carry, transport, call, connect)

    def receive_head(self) -> Any:
        """Return the response; raise what became of the request in our own terms."""
        item = self._wait()
        if isinstance(item, Exception):
            raise self._transport.explain(item, connecting=self._socket is None) from item
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
            if isinstance(item, KimiError):
                raise item
            if isinstance(item, Exception):
                what = f"the connection broke: {describe(item)}"
                raise StreamTruncated(f"{what}; try again later") from item

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
            with contextlib.closing(transport.connect(connect)) as connected:
                self._take_charge(connected)
                response = self._send(connected, transport, call)
                self._inbox.put(response)
                for piece in read_promptly(response):
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

    def _send(self, connected: socket.socket, transport: Transport, call: Call) -> FinalResponse:
        """Send *call*; return the response, body unread."""
        # A server may answer, and hang up, before it has read a long prompt: its reply tells more.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send_in_pieces(
                connected, transport.compose_head(call) + b"\r\n" + (call.body or b"")
            )
        response = FinalResponse(connected, method=call.method)
        response.begin()
        return response

    def _send_in_pieces(self, connected: socket.socket, data: bytes) -> None:
        """Send *data* piece by piece: a slow upload is progress, one that stands still is not."""
        for start in range(0, len(data), _PIECE):
            self.timer.touch()
            connected.sendall(data[start : start + _PIECE])


class Reply:
    """One HTTP reply: its status and header, and the body that is still to come."""

    def __init__(self, response: FinalResponse, exchange: _Exchange) -> None:
        """Wrap *response*, whose body *exchange* receives."""
        self.status: int = response.status
        self._headers = response.headers
        self.timer = exchange.timer
        self.ends_by_closing = not response.chunked and response.length is None
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


def _keep_alive(connected: socket.socket) -> None:
    """Keep a way open on which nothing passes while a model thinks, and notice where it ended."""
    raw = getattr(connected, "socket", connected)  # pyOpenSSL and TLS inside TLS wrap it
    with contextlib.suppress(OSError, AttributeError):
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEP_ALIVE)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEP_ALIVE)
