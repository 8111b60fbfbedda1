"""Replies on their way: time limits, large and odd bodies, and what is not HTTP."""

from __future__ import annotations

import gzip
import json
import os
import socket
import threading

import pytest
from answers import NO_STREAM, assert_failed
from program import Kimi
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
    deaf_port,
    document,
    event,
    refusal,
    stream,
)

EVENTS = {"Content-Type": "text/event-stream"}
HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = b"Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"


# Time limits


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


DRIPS = 600
"""Steps of a drip: with 0.05 s between them it outlasts every limit here by far."""


def drip(*pieces: bytes) -> list[Step]:
    """The pieces over and over, a moment apart."""
    return [step for _ in range(DRIPS) for piece in pieces for step in (piece, Wait(0.05))]


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
    assert_failed(ask("hi"), 76, "does not speak HTTP", "; check its port, and the base URL")
    assert len(server.requests) == 1


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@NO_STREAM
def test_headers_and_nothing_more(
    once: Kimi, server: ReplayServer, mode: tuple[str, ...], framing: str
) -> None:
    """A reply that ends after its head is a failure that may pass."""
    reply = completion("x") if mode else stream("x")
    server.script(reply.but(framing=framing).cut_after(0))
    result = once(*mode, "hi")
    assert (result.stdout, result.status) == (b"", 75)
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
    assert_failed(once("hi"), 75, "closed the connection without a reply", "; try again later")


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
