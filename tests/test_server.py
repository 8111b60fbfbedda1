"""The replay server does what its script says."""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from server import (
    FRAMINGS,
    RECORDINGS,
    Barrier,
    Cut,
    Framing,
    Mark,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Reset,
    Stall,
    Step,
    Wait,
    completion,
    document,
    recording,
    refusal,
    stream,
    wire,
)

REQUEST = b"POST /kimi/chat/completions HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}"
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.http"))


@contextmanager
def connected(server: ReplayServer) -> Iterator[socket.socket]:
    """A connection over which one request has been sent."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(REQUEST)
        yield client


def everything(client: socket.socket) -> bytes:
    """All that comes until the server closes."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def post(client: http.client.HTTPConnection, body: object = None) -> tuple[int, bytes]:
    """The status and body of the reply to one request."""
    client.request("POST", "/kimi/chat/completions", json.dumps(body))
    response = client.getresponse()
    return response.status, response.read()


def events(reply: Reply) -> list[dict[str, Any]]:
    """The JSON events of a stream."""
    steps = [step for step in reply.body if isinstance(step, bytes) and b"[DONE]" not in step]
    return [json.loads(step.removeprefix(b"data:")) for step in steps]


@contextmanager
def client_of(server: ReplayServer) -> Iterator[http.client.HTTPConnection]:
    """A client that keeps its connection alive."""
    with closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)) as client:
        yield client


@pytest.mark.parametrize("framing", FRAMINGS)
def test_every_framing_carries_the_same_body(server: ReplayServer, framing: Framing) -> None:
    """A body arrives whole in each framing, and a close-delimited one ends the connection."""
    server.script(recording("guide-hello-stream", framing))
    with client_of(server) as client:
        status, body = post(client)
        reopened = client.sock is None
    assert status == 200
    assert body.endswith(b"data: [DONE]\n\n")
    assert body == (RECORDINGS / "guide-hello-stream.http").read_bytes().split(b"\n\n", 1)[1]
    assert reopened == (framing == "close")


def test_requests_are_kept_in_order_and_connections_counted(server: ReplayServer) -> None:
    """Two requests over one connection are one connection and two requests."""
    server.script(completion("one"), stream("two"))
    with client_of(server) as client:
        post(client, {"n": 1})
        post(client, {"n": 2})
    first, second = server.requests
    assert (first.json, second.json) == ({"n": 1}, {"n": 2})
    assert (first.method, first.path) == ("POST", "/kimi/chat/completions")
    assert first.headers["content-length"] == "8"
    assert first.connection == second.connection == server.connections == 1
    assert first.at <= second.at


def test_a_chunked_request_is_understood(server: ReplayServer) -> None:
    """A request body may be chunked, too."""
    server.script(document({"data": []}))
    with client_of(server) as client:
        client.request("GET", "/v1/models", iter([b"a", b"bc"]), encode_chunked=True)
        assert json.loads(client.getresponse().read()) == {"data": []}
    assert server.requests[0].body == b"abc"


def test_an_unexpected_request_is_answered_599_and_reported() -> None:
    """A request beyond the script fails the test that has made it."""
    with ReplayServer() as server:
        server.script(completion("one"))
        with client_of(server) as client:
            assert post(client)[0] == 200
            status, body = post(client)
        assert status == 599
        assert b"the script holds no reply for it" in body
        with pytest.raises(AssertionError, match="request 2, POST /kimi/chat/completions"):
            server.check()


def test_the_last_reply_repeats_only_if_asked(server: ReplayServer) -> None:
    """With `repeat` the last reply stands for every further request."""
    server.script(refusal(429, "too_many_requests", "slow down"), completion("ok"), repeat=True)
    with client_of(server) as client:
        assert [post(client)[0] for _ in range(4)] == [429, 200, 200, 200]


def test_replies_can_be_computed(server: ReplayServer) -> None:
    """A callable sees the request that it answers."""

    def echo(request: ReceivedRequest) -> Reply:
        return document(request.json)

    server.answer(echo)
    with client_of(server) as client:
        assert [post(client, n)[1] for n in range(3)] == [b"0", b"1", b"2"]


def test_a_failing_answer_is_reported() -> None:
    """An exception in a test's own callable is not lost in a thread."""
    with ReplayServer() as server:
        server.answer(lambda request: document(request.json["missing"]))
        with client_of(server) as client:
            assert post(client, {})[0] == 599
        with pytest.raises(AssertionError, match="KeyError"):
            server.check()


@pytest.mark.parametrize(
    ("framing", "ending"),
    [("chunked", b"5\r\nHello\r\n"), ("length", b"Hello"), ("close", b"Hello")],
)
def test_a_cut_ends_the_bytes_there(server: ReplayServer, framing: Framing, ending: bytes) -> None:
    """A cut is an end of file without a terminator or short of the announced length."""
    server.script(Reply([b"Hello", b" world"], framing=framing).cut_after(5))
    with connected(server) as client:
        head, body = everything(client).split(b"\r\n\r\n", 1)
    assert body == ending
    assert (b"Content-Length: 11" in head) == (framing == "length")


def test_a_body_can_be_cut_after_every_byte() -> None:
    """The bytes before the cut are exactly as many as asked for."""
    reply = stream("Hel", "lo")
    for count in range(reply.length):
        cut = reply.cut_after(count)
        assert cut.length == count
        assert cut.body[-1] == Cut()


def test_a_reset_is_no_end_of_file(server: ReplayServer) -> None:
    """After a reset, the client gets an error instead of an end of file."""
    server.script(Reply([b"Hello", Reset()], framing="close"))
    with connected(server) as client, pytest.raises(ConnectionResetError):
        everything(client)


def test_a_connection_can_be_reset_before_the_request_is_read(server: ReplayServer) -> None:
    """With `read="nothing"` the request is not even recorded."""
    server.script(Reply([Reset()], framing="raw", read="nothing"))
    with connected(server) as client, pytest.raises(ConnectionResetError):
        everything(client)
    assert server.requests == []
    assert server.connections == 1


def test_the_body_of_a_request_can_stay_unread(server: ReplayServer) -> None:
    """With `read="head"` a client with a large body gets stuck."""
    server.script(Reply([Stall()], framing="raw", read="head"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as client:
        client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 50000000\r\n\r\n")
        server.await_requests(1)
        with pytest.raises(TimeoutError):
            client.sendall(bytes(50_000_000))


def test_a_stall_ends_when_the_client_leaves(server: ReplayServer) -> None:
    """A mark behind a stall tells the test that the client has gone."""
    gone = threading.Event()
    server.script(stream("Hel", Stall(), Mark(gone)))
    with connected(server) as client:
        while b"Hel" not in client.recv(65536):
            pass
        assert not gone.is_set()
    assert gone.wait(5)


def test_closing_the_server_ends_stalls_waits_and_barriers() -> None:
    """Nothing that a script holds back can hold back the end of a test."""
    with ReplayServer() as server:
        holds: list[Step] = [Stall(), Wait(50), Barrier(threading.Event())]
        server.script(*(Reply([hold], framing="raw") for hold in holds))
        clients = [connected(server) for _ in holds]
        sockets = [client.__enter__() for client in clients]
        server.await_requests(3)
    for client, connection in zip(clients, sockets, strict=True):
        assert everything(connection) == b""
        client.__exit__(None, None, None)
    server.check()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", server.port))


def test_a_barrier_holds_the_rest_back(server: ReplayServer) -> None:
    """Nothing behind a barrier is sent before the test opens it."""
    gate = threading.Event()
    server.script(Reply([b"first", Barrier(gate), b"second"], framing="raw"))
    with connected(server) as client:
        assert client.recv(100) == b"first"
        client.setblocking(False)
        with pytest.raises(BlockingIOError):
            client.recv(100)
        gate.set()
        client.setblocking(True)
        assert everything(client) == b"second"


def test_anything_can_stand_in_for_a_reply(server: ReplayServer) -> None:
    """The raw framing sends garbage as it is."""
    server.script(Reply([b"SSH-2.0-OpenSSH_9.2\r\n"], framing="raw"))
    with connected(server) as client:
        assert everything(client) == b"SSH-2.0-OpenSSH_9.2\r\n"


def test_a_reply_can_drip() -> None:
    """Every byte of head and body goes out alone, each body byte as a chunk of its own."""
    reply = Reply([b"ab"], framing="chunked").but(write_size=1, pace=0.25)
    steps = list(wire(reply))
    assert steps[:4] == [b"H", Wait(0.25), b"T", Wait(0.25)]
    assert steps[-6:] == [
        *(b"1\r\na\r\n", Wait(0.25)),
        *(b"1\r\nb\r\n", Wait(0.25)),
        *(b"0\r\n\r\n", Wait(0.25)),
    ]


def test_an_idle_connection_can_be_closed_unannounced(server: ReplayServer) -> None:
    """A reply without `keep_alive` looks like any other until the connection is used again."""
    server.script(completion("one").but(keep_alive=False))
    with connected(server) as client:
        reply = everything(client)
    assert b"Connection: close" not in reply
    assert json.loads(reply.split(b"\r\n\r\n")[1])["choices"][0]["message"]["content"] == "one"


def test_tls(tls_server: ReplayServer, certificate: Callable[..., Path]) -> None:
    """The TLS server is trusted by those who have its certificate, and by nobody else."""
    tls_server.script(completion("safe"))
    trusting = ssl.create_default_context(cafile=certificate())
    for context in (ssl.create_default_context(), trusting):
        client = http.client.HTTPSConnection("127.0.0.1", tls_server.port, context=context)
        with closing(client):
            if context is trusting:
                assert post(client)[0] == 200
            else:
                with pytest.raises(ssl.SSLCertVerificationError):
                    post(client)
    assert len(tls_server.requests) == 1


@pytest.mark.parametrize("host", ["wrong.example", "127.0.0.1"])
def test_bad_certificates(certificate: Callable[..., Path], host: str) -> None:
    """A certificate can be made for another host, or for another time."""
    path = certificate(host, expired=host == "127.0.0.1")
    with ReplayServer(path) as server:
        client = http.client.HTTPSConnection(
            "127.0.0.1", server.port, context=ssl.create_default_context(cafile=path)
        )
        with closing(client), pytest.raises(ssl.SSLCertVerificationError):
            post(client)
        server.check()


def test_a_stream_has_the_shape_of_the_guide() -> None:
    """What `stream` builds differs from the guide's recording only where the words do."""
    built, recorded = stream("Hello", reasoning=["Hm"]), recording("guide-hello-stream")
    start, thought, text, usage = events(built)
    assert [start, usage] == [events(recorded)[0], events(recorded)[-1]]
    assert thought["choices"][0]["delta"] == {"reasoning_content": "Hm", "reasoning": "Hm"}
    assert text["choices"][0]["delta"] == {"content": "Hello"}
    assert text["choices"][0]["finish_reason"] == "stop"
    assert [list(event) for event in events(built)] == [list(events(recorded)[0])] * 4
    assert built.body[-1] == recorded.body[-1] == b"data: [DONE]\n\n"


def test_a_stream_is_cut_before_its_finish_reason() -> None:
    """A step that stands last comes before the finish reason."""
    cut = stream("Hel", Cut())
    before = cut.but(body=cut.body[: cut.body.index(Cut())])
    assert [event["choices"][0]["finish_reason"] for event in events(before)] == [None, None]
    assert events(cut)[2]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("name", NAMES)
def test_recordings_say_where_they_come_from(name: str) -> None:
    """Each recording can be replayed and has a provenance."""
    provenance = tomllib.loads((RECORDINGS / f"{name}.toml").read_text())
    assert provenance["origin"] in ("guide", "recorded", "handmade")
    assert provenance["source"]
    reply = recording(name)
    kept = (RECORDINGS / f"{name}.http").read_bytes()
    assert kept.endswith(b"".join(step for step in reply.body if isinstance(step, bytes)))
    assert re.match(rb"HTTP/1\.1 \d{3} .+\nContent-Type: ", kept)
