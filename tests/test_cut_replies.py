"""Replies that are cut, dripped, or held open: what is told, and what is tried again."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi, Running
from rows import echo, make_rows, pause, read_rows, write_rows
from server import ReplayServer, Reply, Stall, chunk, event, stream

from kimi_cli.api.dialling import dial

ANSWER = json.dumps(
    {"id": "x", "choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
).encode()
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n"
WHOLE = HEAD + ANSWER


def read_request(connected: socket.socket) -> None:
    """Read all of it: what is left unread when a socket is closed resets the connection."""
    with connected.makefile("rb") as stream:
        size = 0
        while (line := stream.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                size = int(line.partition(b":")[2])
        stream.read(size)


@contextmanager
def serve_raw(answer: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does with its socket what *answer* does."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:

        def accept() -> None:
            while True:
                try:
                    connected, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=converse, args=(connected,), daemon=True).start()

        def converse(connected: socket.socket) -> None:
            with connected:
                try:
                    read_request(connected)
                    answer(connected)
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


CUTS = [1, 5, 9, 13, 16, 20, 40, len(HEAD) - 4, len(HEAD) - 2, len(HEAD) + 1, len(WHOLE) - 1]


@pytest.mark.parametrize("place", CUTS)
def test_a_reply_that_is_cut_is_tried_again(kimi: Kimi, place: int) -> None:
    """In its status line, its headers, or a body that only its end ends; batch writes a line."""
    with serve_raw(lambda connected: connected.sendall(WHOLE[:place])) as url:
        options = ("--base-url", url, "--no-auth", "--retries", "0")
        result = kimi("ask", *options, "--no-stream", "hi")
        assert (result.status, result.stdout) == (75, b""), result.error
        result = kimi("batch", *options, "-q", stdin=b'"hi"\n')
        assert result.status == 4, result.error
        assert json.loads(result.stdout)["kimi"]["failed"] == "transient"


def test_what_is_cut_once_is_answered_then(kimi: Kimi) -> None:
    """An attempt was lost, not the answer."""
    calls: list[int] = []

    def answer(connected: socket.socket) -> None:
        calls.append(1)
        connected.sendall(WHOLE[: 30 if len(calls) == 1 else len(WHOLE)])

    with serve_raw(answer) as url:
        result = kimi("ask", "--base-url", url, "--no-auth", "--no-stream", "hi")
        assert (result.status, result.stdout) == (0, b"yes\n")
    assert len(calls) == 2


def test_what_is_no_http_stays_none(kimi: Kimi) -> None:
    """A banner with its line end is whole, and not the API's."""
    with serve_raw(lambda connected: connected.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")) as url:
        assert kimi("ask", "--base-url", url, "--no-auth", "--retries", "0", "hi").status == 76


def drip(connected: socket.socket, data: bytes) -> None:
    """Send byte after byte, far slower than the limit."""
    for place in range(len(data)):
        connected.sendall(data[place : place + 1])
        time.sleep(0.1)


@pytest.mark.parametrize("data", [WHOLE, HEAD + b" " * 500])
def test_a_reply_that_drips_runs_out_of_time(kimi: Kimi, tmp_path: Path, data: bytes) -> None:
    """Our own limit is told as one, costs that row alone, and the URL is not blamed."""
    with serve_raw(lambda connected: drip(connected, data)) as url:
        options = ("--base-url", url, "--no-auth", "--retries", "0", "--timeout", "0.6")
        source = write_rows(tmp_path / "in.jsonl", make_rows(3))
        out = tmp_path / "out.jsonl"
        result = kimi("batch", str(source), "-o", str(out), *options, "-q")
    assert result.status == 75
    assert "no answer within the time limit" in result.error
    assert "--base-url" not in result.error
    assert len(read_rows(tmp_path / "out.jsonl.errors")) == 3


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_a_proxy_that_drips_runs_out_of_time(kimi: Kimi, command: str) -> None:
    """Its reply to CONNECT is a part of connecting, whatever comes of it."""

    def answer(connected: socket.socket) -> None:
        drip(connected, b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 1000)

    with serve_raw(answer) as url:
        env = {"HTTPS_PROXY": url, "KIMI_TOKEN": CANARY}
        options = ("--base-url", "https://192.0.2.1", "--retries", "0", "--connect-timeout", "0.5")
        run = kimi.start(command, *options, "-q", *(["hi"] if command == "ask" else []),
                         stdin=b'"hi"\n' if command == "batch" else None, env=env)  # fmt: skip
        result = run.wait(20)
    assert result.status == (75 if command == "ask" else 4)
    told = result.error if command == "ask" else result.stdout.decode()
    assert "connect-timeout" in told


# Time


def flood(connected: socket.socket) -> None:
    """Comments without end."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    connected.sendall(head)
    while True:
        connected.sendall(b": keep-alive\n\n" * 1000)


def test_a_flood_of_comments_is_no_data(kimi: Kimi) -> None:
    """--timeout counts while they come."""
    with serve_raw(flood) as url:
        result = kimi(
            "ask", "--base-url", url, "--no-auth", "--retries", "0", "--timeout", "0.7", "hi"
        )
    assert result.status == 75
    assert "no data for 0.7 s (limit: timeout)" in result.error


def test_an_answer_that_has_ended_is_held_open_by_nothing(ask: Kimi, server: ReplayServer) -> None:
    """Events behind its finish_reason do not make the grace begin anew."""
    more = [event(chunk({})) for _ in range(3)]
    server.script(
        Reply(
            [event(chunk({"content": "yes"}, "stop")), *more, Stall()],
            headers={"Content-Type": "text/event-stream"},
            framing="chunked",
            pace=1.0,
        )
    )
    result = ask("hi")
    assert (result.status, result.stdout) == (0, b"yes\n")
    assert result.seconds < 8


def stand_still(run: Running, seconds: float) -> None:
    """Stop a process, as ^Z or a lid does."""
    run.signal(signal.SIGSTOP)
    pause(seconds)
    run.signal(signal.SIGCONT)


def test_what_came_while_the_program_stood_still_is_read(ask: Kimi, server: ReplayServer) -> None:
    """The silence was not the server's: nothing is thrown away, nor bought twice."""
    arrived = threading.Event()

    def answer(request: object) -> Reply:
        arrived.set()
        pause(0.5)
        return stream("yes")

    server.answer(answer)
    run = ask.start("--timeout", "1", "--retries", "0", "hi")
    assert arrived.wait(10)
    stand_still(run, 3.2)
    result = run.wait()
    assert (result.status, result.stdout) == (0, b"yes\n"), result.error
    assert len(server.requests) == 1


def test_a_row_takes_no_time_below_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its time is not measured across a standstill."""
    write_rows(source, make_rows(6))
    server.answer(lambda request: (time.sleep(0.4), echo(request))[1])
    run = batch.start(str(source), "-o", str(out), "-q", "-c", "2", "--timeout", "1")
    server.await_requests(2)
    stand_still(run, 2.5)
    assert run.wait().status == 0
    rows = read_rows(out)
    assert len(rows) == 6
    assert all(0 <= row["kimi"]["ms"] < 2000 for row in rows)
    assert len(server.requests) == 6


# Addresses


def find_deaf() -> tuple[socket.socket, list[socket.socket], int]:
    """A listener whose queue is full, so that it answers no more."""
    listener = socket.socket()
    listener.bind(("127.0.0.2", 0))
    listener.listen(0)
    port = listener.getsockname()[1]
    waiting = []
    for _ in range(4):
        begun = socket.socket()
        begun.setblocking(False)
        begun.connect_ex(("127.0.0.2", port))
        waiting.append(begun)
    return listener, waiting, port


def test_the_next_address_has_its_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the first says nothing; a name of two addresses stands in for one of two families."""
    deaf, waiting, port = find_deaf()
    with closing(deaf), closing(socket.create_server(("127.0.0.1", port))):
        infos = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("127.0.0.2", "127.0.0.1")
        ]
        monkeypatch.setattr("socket.getaddrinfo", lambda *_: infos)
        with closing(dial("host.invalid", port, 5.0, ())) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)
            assert connected.getblocking()
        infos.pop()
        with pytest.raises(TimeoutError):
            dial("host.invalid", port, 0.6, ())
        infos[0] = (*infos[0][:4], ("127.0.0.1", 9))
        with pytest.raises(ConnectionRefusedError):
            dial("host.invalid", port, 5.0, ())
    for begun in waiting:
        begun.close()
