"""kimi batch: what is tried again, how often, and that nothing is bought twice."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPMessage
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from fronts import Bystander
from outputs import list_errors
from program import Kimi
from rows import (
    FAILED,
    FORBIDDEN,
    PAGE,
    SILENT,
    await_status,
    echo,
    get_prompt,
    hold,
    list_ids,
    list_prompts,
    make_request,
    make_rows,
    read_rows,
    write_input,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, Reset, completion, deaf_port, refusal

from kimi_cli.api.channel import WholeReply
from kimi_cli.batch.ledger import Ledger
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.runner import Means, Runner
from kimi_cli.batch.sinks import LedgerSink
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import Unreachable

# Attempts


@pytest.mark.parametrize("retries", [0, 1])
def test_attempts_are_counted(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, retries: int
) -> None:
    """A line says how often its row was asked, be there an answer or not."""
    write_input(source, 2)

    def answer(request: ReceivedRequest) -> Reply:
        return FAILED if get_prompt(request) == "p0" else FORBIDDEN

    server.answer(answer)
    assert batch(str(source), "-o", str(out), "--retries", str(retries)).status == 75
    (deferred,) = read_rows(Path(f"{out}.errors"))
    assert deferred["kimi"]["attempts"] == retries + 1
    (refused,) = read_rows(out)
    assert refused["kimi"]["attempts"] == 1
    assert len(server.requests) == retries + 2


def hold_first(
    gate: threading.Event, answer: Callable[[ReceivedRequest], Reply]
) -> Callable[[ReceivedRequest], Reply]:
    """Keep the first row's answer back until *gate* is open; the others are echoed at once."""

    def choose(request: ReceivedRequest) -> Reply:
        return hold(gate, answer(request)) if get_prompt(request) == "p0" else echo(request)

    return choose


def test_the_first_row_is_tried_again(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """A full window holds back fresh rows, but not the one that it waits for."""
    busy = refusal(429, "rate_limited", "too many")
    ids, gate = write_input(source, 1100), threading.Event()
    server.answer(hold_first(gate, lambda request: busy))
    run = batch.start(str(source), "--ordered", "--max-wait", "2s")
    server.await_requests(500)
    await_status(run, b"limited by row 1, the first in order\n")
    server.answer(echo)
    gate.set()
    result = run.wait()
    assert result.status == 0, result.error.splitlines()[-1]
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ids


def test_later_rows_wait_for_the_first(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """--ordered on a pipe: a bounded number is asked for meanwhile, and all come in order."""
    ids, gate = write_input(source, 1100), threading.Event()
    server.answer(hold_first(gate, echo))
    run = batch.start(str(source), "--ordered")
    server.await_requests(500)
    await_status(run, b"limited by row 1, the first in order\n")
    assert run.received["stdout"] == b""
    assert len(server.requests) <= 1024
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ids
    assert len(server.requests) == 1100


class Failing:
    """A channel to a service that is down for so many requests, and up again afterwards."""

    def __init__(self, failures: int) -> None:
        """Fail that often."""
        self._left = iter(range(failures))
        self._lock = threading.Lock()

    def post(self, body: bytes) -> WholeReply:
        """Fail, or answer."""
        with self._lock:
            if next(self._left, None) is not None:
                raise Unreachable("nobody is there", transient=True)
        text = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
        return WholeReply(200, text, HTTPMessage())

    def abort(self, body: bytes) -> None:
        """Nothing lasts here."""

    def close(self) -> None:
        """Nothing to close."""

    def explain(self, error: Exception, model: str) -> None:
        """There is nothing to add."""


def test_an_outage_costs_no_row_its_attempts(monkeypatch: pytest.MonkeyPatch, out: Path) -> None:
    """Probes tell nothing of their rows, and after them a quarter is sent at once."""
    monkeypatch.setattr("random.uniform", lambda low, high: 0.001)
    channel: Any = Failing(20 + 12)
    tally, pace = Tally(), Pace(start=8, cap=8)
    with Ledger(out) as ledger:
        Runner(
            iter([make_request(number) for number in range(5)]),
            LedgerSink(ledger, "flat"),
            means=Means(lambda: channel, Bystander()),
            pace=pace,
            plan=Plan(),
            tally=tally,
        ).run()
    assert (tally.answered, tally.deferred, tally.sends) == (5, 0, 20 + 12 + 5)
    assert {row["kimi"]["attempts"] for row in read_rows(out)} <= {3, 4, 5}
    assert 2 <= pace.limit < 8


# Buying once


CUT = completion("a whole answer").cut_after(40)


@pytest.mark.parametrize(
    ("reply", "status"),
    [(SILENT, 75), (CUT, 75), (PAGE, 76), (Reply([Reset()], framing="raw"), 75)],
    ids=["silence", "cut", "page", "reset"],
)
def test_without_retries_nothing_is_bought_twice(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, reply: Reply, status: int
) -> None:
    """--retries 0: each row is one request, whatever became of it."""
    write_rows(source, make_rows(3))
    server.answer(lambda request: reply)
    options = ("--retries", "0", "--timeout", "0.5", "-c", "3")
    assert batch(str(source), "-o", str(out), *options).status == status
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert sorted(list_errors(out)) == ["r0", "r1", "r2"]


def test_a_row_that_timed_out_is_asked_once_more(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """It was probably billed: two attempts are all, and both are told of as unknown."""
    write_rows(source, make_rows(2))
    server.answer(lambda request: SILENT)
    options = ("--timeout", "0.4", "--summary", str(summary))
    assert batch(str(source), "-o", str(out), *options).status == 75
    assert list_prompts(server) == ["p0", "p0", "p1", "p1"]
    assert json.loads(summary.read_text())["sends_with_unknown_outcome"] == 4


def test_what_was_never_sent_costs_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """A connection that does not come has the usual attempts, and was not billed."""
    write_rows(source, make_rows(1))
    with deaf_port() as port:
        options = ("--connect-timeout", "0.2", "--retries", "3", "--summary", str(summary))
        url = f"http://127.0.0.1:{port}"
        assert batch(str(source), "-o", str(out), "--base-url", url, *options).status == 75
    figures = json.loads(summary.read_text())
    assert (figures["sends"], figures["sends_with_unknown_outcome"]) == (4, 0)


BROKEN = {
    "closed": b"",
    "plain HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x50",
}


@contextmanager
def break_handshake(server: ReplayServer, number: int, reply: bytes) -> Iterator[str]:
    """Yield the address of a way to *server* that spoils the connection of that *number*."""
    target = urlsplit(server.url)
    threads: list[threading.Thread] = []
    stack = ExitStack()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            for count in itertools.count(1):
                near = stack.enter_context(listener.accept()[0])
                if count == number:
                    near.recv(65536)
                    near.sendall(reply)
                    near.close()
                    continue
                far = socket.create_connection((target.hostname, target.port))
                stack.enter_context(far)
                for pair in ((near, far), (far, near)):
                    start(carry, *pair)

    def start(work: Callable[..., None], *arguments: socket.socket) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    with stack, socket.create_server(("127.0.0.1", 0)) as listener:
        start(serve)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}{target.path}"
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_handshake_is_a_broken_connection(
    batch: Kimi,
    tls_server: ReplayServer,
    certificate: Callable[..., Path],
    source: Path,
    out: Path,
    how: str,
) -> None:
    """Once the host has answered, it costs its row an attempt at most, and not the run."""
    write_rows(source, make_rows(4))
    tls_server.answer(lambda request: echo(request).but(keep_alive=False))
    environment = {"SSL_CERT_FILE": str(certificate())}
    with break_handshake(tls_server, 3, BROKEN[how]) as url:
        command = (str(source), "-o", str(out), "--base-url", url, "-c", "1")
        first = batch(*command, env=environment)
        assert first.status == (75 if how == "plain HTTP" else 0), first.error
        assert {"r0", "r1", "r3"} <= set(list_ids(out))
        assert batch(*command, env=environment).status == 0
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]
