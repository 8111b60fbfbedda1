"""A real loopback HTTP/1.1 server that replays scripted exchanges and injects faults.

A test queues replies, runs the program against `server.url`, and looks at what arrived:

    server.script(refusal(429, "too_many_requests", "slow down"), stream("Hel", "lo"))
    ...
    assert [request.json["model"] for request in server.requests] == ["kimi-k2.5"] * 2

A reply's body is a sequence of steps: bytes are sent, every other step is a small dataclass
saying what else happens at that point: `Wait`, `Barrier`, `Mark`, `Cut`, `Reset`, `Stall`.
Nothing here outlives `close()`, and no step lasts longer than `PATIENCE`.
"""

from __future__ import annotations

import http
import http.client
import json
import re
import select
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from email.message import Message
from io import BufferedReader
from pathlib import Path
from typing import Any, Literal, NoReturn, Self

PATIENCE = 60.0
"""Seconds after which the server gives up on a client, a barrier or a stall."""

RECORDINGS = Path(__file__).with_name("recordings")

Framing = Literal["chunked", "length", "close", "raw"]
FRAMINGS: tuple[Framing, ...] = ("chunked", "length", "close")
"""The three ways in which HTTP says where a body ends; streams are tested in each."""


# Steps


@dataclass(frozen=True)
class Wait:
    """Send nothing for that long."""

    seconds: float


@dataclass(frozen=True)
class Barrier:
    """Send nothing until the test sets the event."""

    event: threading.Event


@dataclass(frozen=True)
class Mark:
    """Tell the test that everything before this point has happened."""

    event: threading.Event


@dataclass(frozen=True)
class Stall:
    """Keep the connection open and silent until the client leaves or the test ends."""


@dataclass(frozen=True)
class Cut:
    """Close the connection here, as a dying server does (FIN)."""


@dataclass(frozen=True)
class Reset:
    """Abort the connection here (RST)."""


Step = bytes | Wait | Barrier | Mark | Stall | Cut | Reset


# Exchanges


@dataclass(frozen=True)
class ReceivedRequest:
    """One request as it arrived, with its moment (monotonic) and its connection's number."""

    method: str
    path: str
    headers: Message
    body: bytes
    connection: int
    at: float = field(default_factory=time.monotonic)

    @property
    def json(self) -> Any:
        """The body read as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What the server does with one request.

    The framing `raw` sends the body's steps and nothing else: no status line, no headers.
    With `read` other than `all` the server leaves (the rest of) the request unread.
    A reply with `keep_alive` false is followed by an unannounced close.
    """

    body: Sequence[Step] = ()
    status: int = 200
    reason: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    framing: Framing = "length"
    write_size: int | None = None
    pace: float = 0.0
    read: Literal["all", "head", "nothing"] = "all"
    keep_alive: bool = True

    def but(self, **changes: Any) -> Reply:
        """The same reply with some fields changed."""
        return replace(self, **changes)

    def cut_after(self, count: int) -> Reply:
        """The same reply, cut when that many bytes of its body are sent."""
        steps: list[Step] = []
        for step in self.body:
            steps.append(step[:count] if isinstance(step, bytes) else step)
            count -= len(step) if isinstance(step, bytes) else 0
            if count <= 0:
                break
        announced = {"Content-Length": str(self.length)} if self.framing == "length" else {}
        return self.but(body=[*steps, Cut()], headers={**announced, **self.headers})

    @property
    def length(self) -> int:
        """How many bytes the body has."""
        return sum(len(step) for step in self.body if isinstance(step, bytes))


Answer = Callable[[ReceivedRequest], Reply]


# Builders


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 135,
    "total_tokens": 144,
    "prompt_tokens_details": {"cached_tokens_details": {}},
    "completion_tokens_details": {},
}


def event(data: object, newline: str = "\n") -> bytes:
    """One server-sent event; a string is sent as it is, anything else as JSON."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    return f"data: {text}{newline}{newline}".encode()


def chunk(delta: Mapping[str, Any], finish: str | None = None) -> dict[str, Any]:
    """One `chat.completion.chunk` in the guide's shape."""
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    fields = {"system_fingerprint": None, "choices": [choice], "usage": None}
    return _object("chat.completion.chunk", fields)


def stream(
    *deltas: str | Mapping[str, Any] | Step,
    reasoning: Sequence[str] = (),
    finish: str | None = "stop",
    usage: Mapping[str, Any] | None = USAGE,
    done: bool = True,
    framing: Framing = "chunked",
    newline: str = "\n",
) -> Reply:
    """A streamed completion: content (or whole deltas) with steps in between.

    The finish reason rides on the last delta as in the guide; if a step stands last, so that
    `stream("Hel", Cut())` is cut before it, it comes on an empty delta of its own.
    """
    thoughts = [{"reasoning_content": text, "reasoning": text} for text in reasoning]
    items = [{"content": "", "role": "assistant"}, *thoughts, *deltas]
    if finish and (not deltas or not isinstance(deltas[-1], (str, Mapping))):
        items.append({})
    body: list[Step] = []
    for number, item in enumerate(items, start=1):
        delta = {"content": item} if isinstance(item, str) else item
        if isinstance(delta, Mapping):
            last = number == len(items)
            body.append(event(chunk(delta, finish if last else None), newline))
        else:
            body.append(delta)
    if usage is not None:
        body.append(event({**chunk({}), "choices": [], "usage": usage}, newline))
    if done:
        body.append(event("[DONE]", newline))
    return Reply(body, headers={"Content-Type": "text/event-stream"}, framing=framing)


def document(
    value: object, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Reply:
    """Any JSON document."""
    body = json.dumps(value, ensure_ascii=False).encode()
    headers = {"Content-Type": "application/json", **(headers or {})}
    return Reply([body], status=status, headers=headers)


def completion(
    content: str | None,
    *,
    reasoning: str | None = None,
    finish: str | None = "stop",
    usage: Mapping[str, Any] | None = USAGE,
    tool_calls: Sequence[Mapping[str, Any]] = (),
) -> Reply:
    """A whole completion as one JSON document in the guide's shape."""
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    if reasoning is not None:
        message |= {"reasoning_content": reasoning, "reasoning": reasoning}
    message["tool_calls"] = list(tool_calls)
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
    return document(_object("chat.completion", {"choices": [choice], "usage": usage}))


def _object(kind: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    identity = {"id": "chatcmpl-952dd5e75583c4d1", "object": kind, "created": 1770992031}
    return {**identity, "model": "kimi-k2.5", **fields}


def refusal(
    status: int,
    code: str,
    message: str,
    *,
    trace_id: str | None = None,
    dialect: Literal["gateway", "moonshot"] = "gateway",
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """An error as the gateway or as Moonshot itself words it."""
    value: dict[str, Any]
    if dialect == "moonshot":
        value = {"error": {"type": code, "message": message}}
    else:
        value = {"success": False, "error": {"code": code, "message": message}}
        if trace_id:
            value["trace_id"] = trace_id
    return document(value, status=status, headers=headers)


def recording(name: str, framing: Framing | None = None) -> Reply:
    """The reply kept in `recordings/NAME.http`, one step for each event of a stream.

    Its head is kept with LF line ends; its body is kept byte for byte.
    """
    head, body = (RECORDINGS / f"{name}.http").read_bytes().split(b"\n\n", 1)
    status_line, *header_lines = head.decode("ascii").split("\n")
    _, status, reason = status_line.split(" ", 2)
    headers = dict(line.split(": ", 1) for line in header_lines)
    streamed = headers.get("Content-Type", "").startswith("text/event-stream")
    steps = re.findall(rb".+?(?:\r?\n\r?\n|\Z)", body, re.DOTALL) if streamed else [body]
    framing = framing or ("chunked" if streamed else "length")
    return Reply(steps, int(status), reason, headers, framing)


# The bytes on the wire


def wire(reply: Reply) -> Iterator[Step]:
    """Every step of a reply in order, its bytes framed and cut as they go out."""
    for step in _framed(reply):
        yield step
        if reply.pace and isinstance(step, bytes):
            yield Wait(reply.pace)


def _framed(reply: Reply) -> Iterator[Step]:
    chunked = reply.framing == "chunked"
    if reply.framing != "raw":
        yield from _pieces(_head(reply), reply.write_size)
    for step in reply.body:
        if isinstance(step, bytes):
            for piece in _pieces(step, reply.write_size):
                yield b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece
        else:
            yield step
    if chunked:
        yield b"0\r\n\r\n"


def _head(reply: Reply) -> bytes:
    framing = {
        "length": {"Content-Length": str(reply.length)},
        "chunked": {"Transfer-Encoding": "chunked"},
        "close": {"Connection": "close"},
        "raw": {},
    }[reply.framing]
    reason = _reason(reply.status) if reply.reason is None else reply.reason
    lines = [f"HTTP/1.1 {reply.status} {reason}"]
    lines += [f"{name}: {value}" for name, value in {**framing, **reply.headers}.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _pieces(data: bytes, size: int | None) -> Iterator[bytes]:
    size = size or len(data) or 1
    for start in range(0, len(data), size):
        yield data[start : start + size]


# The server


class _Hangup(Exception):
    """The connection ends here."""


class ReplayServer:
    """Plays a script of replies on 127.0.0.1 and keeps every request it received."""

    def __init__(self, certificate: Path | None = None) -> None:
        """Listen on a free port, with TLS if given a file of key and certificate."""
        self._tls = _tls_context(certificate) if certificate else None
        self._queue: deque[Reply | Answer] = deque()
        self._standing: Reply | Answer | None = None
        self._requests: list[ReceivedRequest] = []
        self._arrival = threading.Condition()
        self._faults: list[str] = []
        self._connections = 0
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.origin = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self.url = f"{self.origin}/kimi"
        self._start(self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # What a test says

    def script(self, *replies: Reply | Answer, repeat: bool = False) -> None:
        """Queue replies, each for one request; the last one stands for ever if `repeat`."""
        with self._arrival:
            self._queue.extend(replies)
            if repeat:
                self._standing = self._queue.pop()

    def answer(self, answer: Answer) -> None:
        """Answer every request that the script does not cover with what this computes."""
        with self._arrival:
            self._standing = answer

    def close(self) -> None:
        """End every connection and every thread; the port then refuses connections."""
        if self._closing.is_set():
            return
        with self._arrival:
            self._closing.set()
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._threads[0].join(5)
        self._listener.close()
        with self._arrival:
            for connection in self._open:
                with suppress(OSError):
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        for thread in self._threads[1:]:
            thread.join(5)

    # What a test asks

    @property
    def requests(self) -> list[ReceivedRequest]:
        """Every request received so far, in order."""
        with self._arrival:
            return list(self._requests)

    @property
    def connections(self) -> int:
        """How many connections clients have opened so far."""
        return self._connections

    def await_requests(self, count: int, timeout: float = 10.0) -> list[ReceivedRequest]:
        """Every request received so far, once there are at least that many."""
        with self._arrival:
            self._arrival.wait_for(lambda: len(self._requests) >= count, timeout)
            received = list(self._requests)
        assert len(received) >= count, f"{len(received)} of {count} requests in {timeout} s"
        return received

    def check(self) -> None:
        """Fail if anything happened that the script did not foresee."""
        assert not self._faults, "\n".join(["the server saw:", *self._faults])

    # What happens in the background

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing.is_set():
                connection.close()
                return
            self._connections += 1
            self._start(self._converse, connection, self._connections)

    def _converse(self, connection: socket.socket, number: int) -> None:
        connection.settimeout(PATIENCE)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._tls:
            connection = self._tls.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        try:
            self._adopt(connection)
            with connection.makefile("rb") as reader:
                while self._exchange(connection, reader, number):
                    pass
        except (_Hangup, OSError):
            pass
        except (ValueError, http.client.HTTPException) as error:
            self._faults.append(f"a request that is not HTTP: {error}")
        finally:
            with self._arrival:
                self._open.discard(connection)
            connection.close()

    def _adopt(self, connection: socket.socket) -> None:
        with self._arrival:
            if self._closing.is_set():
                raise _Hangup
            self._open.add(connection)
        if isinstance(connection, ssl.SSLSocket):
            connection.do_handshake()

    def _exchange(self, connection: socket.socket, reader: BufferedReader, number: int) -> bool:
        """Receive one request and reply to it; true if the connection lives on."""
        if not reader.peek(1):
            return False
        planned = self._next()
        if isinstance(planned, Reply):
            reply = planned
            if reply.read != "nothing":
                self._receive(reader, number, with_body=reply.read == "all")
        else:
            reply = self._compute(planned, self._receive(reader, number, with_body=True))
        for step in wire(reply):
            self._perform(step, connection)
        lasting = reply.framing in ("chunked", "length") and reply.read == "all"
        return lasting and reply.keep_alive

    def _receive(self, reader: BufferedReader, number: int, *, with_body: bool) -> ReceivedRequest:
        method, path, _ = reader.readline(65537).decode("latin-1").split()
        headers = http.client.parse_headers(reader)
        body = _read_body(reader, headers) if with_body else b""
        request = ReceivedRequest(method, path, headers, body, number)
        with self._arrival:
            self._requests.append(request)
            self._arrival.notify_all()
        return request

    def _next(self) -> Reply | Answer:
        with self._arrival:
            if self._queue:
                return self._queue.popleft()
            return self._standing or self._unexpected

    def _unexpected(self, request: ReceivedRequest) -> NoReturn:
        raise AssertionError("the script holds no reply for it")

    def _compute(self, answer: Answer, request: ReceivedRequest) -> Reply:
        try:
            return answer(request)
        except Exception as error:  # a test's own code: its failure is told at the end
            fault = f"request {len(self._requests)}, {request.method} {request.path}: {error!r}"
            self._faults.append(fault)
            return Reply([fault.encode()], status=599, headers={"Content-Type": "text/plain"})

    def _perform(self, step: Step, connection: socket.socket) -> None:
        match step:
            case bytes():
                connection.sendall(step)
            case Wait(seconds):
                self._closing.wait(seconds)
            case Barrier(event):
                self._await(event)
            case Mark(event):
                event.set()
            case Stall():
                _await_departure(connection)
            case Cut():
                raise _Hangup
            case Reset():
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                raise _Hangup
        if self._closing.is_set():
            raise _Hangup

    def _await(self, event: threading.Event) -> None:
        deadline = time.monotonic() + PATIENCE
        while not event.wait(0.05) and not self._closing.is_set():
            if time.monotonic() > deadline:
                self._faults.append(f"a barrier was still closed after {PATIENCE} s")
                raise _Hangup


def _tls_context(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def _await_departure(connection: socket.socket) -> None:
    """Wait, reading nothing, until the other side has closed or we have."""
    poll = select.poll()
    poll.register(connection, getattr(select, "POLLRDHUP", 0))
    poll.poll(PATIENCE * 1000)


def _read_body(reader: BufferedReader, headers: Message) -> bytes:
    if headers.get("Transfer-Encoding", "").lower() != "chunked":
        return reader.read(int(headers.get("Content-Length", 0)))
    body = b""
    while size := int(reader.readline(), 16):
        body += reader.read(size)
        reader.readline()
    reader.readline()
    return body


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
