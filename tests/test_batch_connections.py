"""kimi batch: how many connections there may be, kept ones, and replies without an end."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, cast

import pytest
from fronts import Bystander
from outputs import list_errors
from program import Kimi, Running
from rows import (
    JSON,
    echo,
    get_prompt,
    hold,
    list_ids,
    list_prompts,
    make_rows,
    read_rows,
    write_names,
    write_rows,
)
from server import Barrier, Cut, ReceivedRequest, ReplayServer, Reply, Reset, Step, Wait, completion

from kimi_cli.api.channel import WholeReply
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import Shape, make_record
from kimi_cli.batch.runner import Means, Runner
from kimi_cli.batch.sinks import StdoutSink
from kimi_cli.batch.tally import Tally

# What the machine permits


def test_few_open_files_are_made_more(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The soft limit is raised as far as the requests at once need it."""
    write_rows(source, make_rows(64))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    command = f"kimi batch --base-url {server.url} -c 64 {source} -o {out}"
    run = batch.shell(f"ulimit -Sn 40; exec {command}")
    server.await_requests(64)
    gate.set()
    result = run.wait()
    assert result.status == 0, result.error
    assert "ulimit" not in result.error


def test_a_hard_limit_of_open_files_is_no_outage(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Fewer are sent at once, it is told, and every row is answered."""
    write_rows(source, make_rows(150))

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        return whole.but(body=[Wait(0.3), *whole.body])

    server.answer(answer)
    command = f"kimi batch --base-url {server.url} {source} -o {out}"
    result = batch.shell(f"ulimit -n 100; exec {command}").wait()
    assert result.status == 0, result.error
    assert "at most 36 requests at once: 'ulimit -n' allows no more files" in result.error
    assert 16 < server.connections <= 36
    assert len(list_ids(out)) == len(server.requests) == 150


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_quiet_connection_is_kept_alive(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """While a model thinks, TCP asks now and then whether the other side is still there."""
    write_rows(source, make_rows(1))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-q")
    server.await_requests(1)
    wanted = f"{socket.htonl(0x7F000001):08X}:{server.port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    timers = [words[5] for words in lines if words[2] == wanted and words[3] == "01"]
    gate.set()
    assert run.wait().status == 0
    assert [timer.partition(":")[0] for timer in timers] == ["02"]


def test_few_threads_are_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system allows no more, the run goes on with those it has."""
    start, allowed = threading.Thread.start, [1, 1, 1]

    def start_some(thread: threading.Thread) -> None:
        if not allowed:
            raise RuntimeError("can't start new thread")
        allowed.pop()
        start(thread)

    class Echo:
        def post(self, body: bytes) -> WholeReply:
            time.sleep(0.01)
            text = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
            headers = HTTPMessage()
            headers["Content-Type"] = "application/json"
            return WholeReply(200, text, headers)

        def abort(self, body: bytes) -> None: ...

        def close(self) -> None: ...

    records = [make_record(n, row, Shape({"model": "m"})) for n, row in enumerate(make_rows(40), 1)]
    lines: list[str] = []
    pace, tally = Pace(cap=16), Tally()
    means = Means(cast(Any, Echo), Bystander())
    sink = StdoutSink(lines.append, "flat")
    runner = Runner(iter(records), sink, means=means, pace=pace, plan=Plan(), tally=tally)
    monkeypatch.setattr("threading.Thread.start", start_some)
    runner.run()
    assert (tally.answered, pace.limit) == (40, 3.0)


# Kept connections


def test_a_connection_closed_while_idle_is_replaced(
    batch: Kimi, server: ReplayServer, summary: Path
) -> None:
    """A host that hangs up between two rows costs no attempt, and no row is asked twice."""
    server.answer(lambda request: echo(request).but(keep_alive=False))
    options = ("--format", "text", "-c", "1", "--retries", "0", "--summary", str(summary))
    run = batch.start(*options, stdin="pipe")
    for number in range(4):
        run.write(b'"p%d"\n' % number)
        run.expect(b'"re: p%d"\n' % number, "stdout")
        time.sleep(0.2)  # it hangs up
    run.end_input()
    result = run.wait()
    assert result.status == 0, result.error
    assert list_prompts(server) == ["p0", "p1", "p2", "p3"]
    assert server.connections == 4
    figures = json.loads(summary.read_text())
    assert (figures["sends"], figures["sends_with_unknown_outcome"]) == (4, 0)


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
def test_a_request_that_was_taken_is_not_sent_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, end: Step
) -> None:
    """A host that dies over a row may have billed it, on a kept connection as on a new one."""
    write_rows(source, make_rows(3))
    server.script(completion("first"), Reply([Wait(0.1), end], framing="raw"))
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "-c", "1", "--retries", "0").status == 75
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert list(list_errors(out)) == ["r1"]


def break_off(reply: Reply, end: Step) -> Reply:
    """Return *reply* with an *end* in the middle of its body."""
    cut = reply.cut_after(40)
    # A moment, so that what came before the end has been read.
    return cut.but(body=[*cut.body[:-1], Wait(0.1), end])


@pytest.mark.parametrize("retries", ["0", "1"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
def test_an_answer_that_breaks_off_counts(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path,
    retries: str, framing: str, end: Step,
) -> None:  # fmt: skip
    """On a kept connection, too, it is an attempt with an unknown outcome, and never resent."""
    write_rows(source, make_rows(3))
    broken = break_off(completion("a long answer").but(framing=framing), end)
    server.script(completion("first"), broken)
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1", "--retries", retries)
    status = batch(*command, "--summary", str(summary)).status
    figures = json.loads(summary.read_text())
    assert figures["sends_with_unknown_outcome"] == 1
    assert figures["sends"] == len(server.requests)
    if retries == "0":
        assert status == 75
        assert list_prompts(server) == ["p0", "p1", "p2"]
        assert {name: error["class"] for name, error in list_errors(out).items()} == {
            "r1": "transient"
        }
    else:
        assert status == 0
        assert list_prompts(server) == ["p0", "p1", "p1", "p2"]
        assert {row["custom_id"]: row["kimi"]["attempts"] for row in read_rows(out)} == {
            "r0": 1, "r1": 2, "r2": 1,
        }  # fmt: skip


# Replies without an end


MEGABYTE = b"x" * 2**20


def read_peak(run: Running) -> int:
    """Return the most memory that a program has had, in MB."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "chunked": Reply([MEGABYTE] * 300, headers=JSON, framing="chunked"),
    "close": Reply([MEGABYTE] * 300, headers=JSON, framing="close"),
    "announced": Reply([MEGABYTE] * 300, headers={**JSON, "Content-Length": str(10**12)}),
    "negative chunk": Reply([CHUNKED, b"-1\r\n", *[MEGABYTE] * 300], framing="raw"),
    "tiny chunks": Reply([CHUNKED, *[b"2\r\nxx\r\n" * 100_000] * 18, Cut()], framing="raw"),
}
MOST = {"error": 100, "tiny chunks": 200}
"""MB that a run may have had, where it is less than for the largest answer."""


@pytest.mark.parametrize("kind", [*ENDLESS, "error"])
def test_a_reply_without_an_end_is_let_go(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """It fails its own row, and takes no more memory than the largest answer would."""
    write_names(source, ["endless", "late"])
    error = Reply([MEGABYTE] * 300, status=400, framing="close")
    reply, gate = ENDLESS.get(kind, error), threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        held = whole.but(body=[Barrier(gate), *whole.body])
        return reply if get_prompt(request) == "endless" else held

    server.answer(answer)
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--retries", "0")
    server.await_requests(2, timeout=30)
    peak = read_peak(run)
    gate.set()
    assert run.wait().status == (4 if kind == "error" else 75)
    assert peak < MOST.get(kind, 400)
    assert list_prompts(server) == ["endless", "late"]
    if kind != "error":
        assert list(list_errors(out)) == ["endless"]
        assert list_ids(out) == ["late"]
