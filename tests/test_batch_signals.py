"""kimi batch: signals end a run in good order, and one tells how it stands."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import rows
from fronts import Bystander
from program import Kimi
from rows import (
    SILENT,
    echo,
    finish,
    get_prompt,
    hold,
    list_ids,
    list_prompts,
    make_rows,
    read_ids,
    write_input,
    write_rows,
)
from server import ReplayServer, completion

from kimi_cli.batch.pace import Pace
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import Record, Shape, read_records
from kimi_cli.batch.results import Result
from kimi_cli.batch.run import Run
from kimi_cli.batch.runner import Means, Runner
from kimi_cli.batch.tally import Tally
from kimi_cli.errors import ExitStatus, TimedOut

batch = rows.echoing


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_termination_waits_for_what_is_paid(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, signum: signal.Signals
) -> None:
    """Nothing more leaves, what is in flight is kept, and the process dies by the signal."""
    ids = write_input(source, 20)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "3")
    server.await_requests(3)
    run.signal(signum)
    run.expect(b"waiting up to 5 s for 3 requests in flight", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == -signum
    assert "kimi: 3 answered; 0 failed; " in result.error
    assert read_ids(out) == ids[:3]
    assert len(server.requests) == 3
    finish(batch, server, source, out, ids)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_leaves_now(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, signum: signal.Signals
) -> None:
    """What was finished stays, what stalls is given up."""
    ids = write_input(source, 5)
    server.script(completion("good"))
    server.answer(lambda request: SILENT)
    run = batch.start(str(source), "-o", str(out), "-c", "1")
    server.await_requests(2)
    run.signal(signum)
    run.expect(b"1 request in flight; again to leave", "stderr")
    run.signal(signum)
    assert run.wait(timeout=4).status == -signum
    assert read_ids(out) == ids[:1]
    assert len(server.requests) == 2


def test_an_interrupt_by_the_keyboard(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """^C on a terminal drains, and the second one leaves."""
    write_input(source, 5)
    server.answer(lambda request: SILENT)
    run = batch.pty(str(source), "-o", str(out), "-c", "2")
    server.await_requests(2)
    run.type(b"\x03")
    run.expect(b"waiting up to 30 s for 2 requests in flight; again to leave", "stderr")
    run.type(b"\x03")
    assert run.wait(timeout=10).status == -signal.SIGINT
    assert len(server.requests) == 2


def test_a_signal_ends_a_run_whose_input_is_silent(batch: Kimi, server: ReplayServer) -> None:
    """A pipe that stays open does not keep a process from ending."""
    server.answer(echo)
    run = batch.start("--format", "text", stdin="pipe")
    run.write(b'"one"\n')
    run.expect(b'"re: one"\n')
    run.signal(signal.SIGTERM)
    assert run.wait(timeout=4).status == -signal.SIGTERM


def read_record() -> Record:
    """Return a row."""
    (record,) = read_records(iter([{"prompt": "hi"}]), Shape(defaults={"model": "m"}))
    assert isinstance(record, Record)
    return record


class Recorder:
    """A sink that keeps what it is given."""

    defers = False
    waiting = 0

    def __init__(self) -> None:
        """Start empty."""
        self.results: list[Result] = []

    def expect(self, number: int) -> None:
        """Any order will do."""

    def answer(self, record: object) -> bool:
        """No row has an answer before it is asked."""
        return False

    def write(self, results: list[Result]) -> None:
        """Keep."""
        self.results += results

    def settle(self) -> None:
        """Nothing is on its way."""

    def emit(self, lines: bytes) -> None:
        """Nobody has lines here."""
        raise AssertionError(lines)

    def defer(self, result: Result) -> None:
        """Keep, too."""
        self.results.append(result)

    def find_block(self) -> str | None:
        """Nothing is held back."""
        return None

    def close(self) -> None:
        """Nothing to do."""


def test_what_stalls_is_left_after_the_drain() -> None:
    """The time to drain is bounded: then the request is aborted."""
    arrived, left, record = threading.Event(), threading.Event(), read_record()

    class Stalled:
        def post(self, body: bytes) -> Any:
            assert body == record.payload
            arrived.set()
            assert left.wait(10)
            raise TimedOut("aborted")

        def abort(self, body: bytes) -> None:
            assert body is record.payload
            left.set()

        def close(self) -> None:
            pass

        def explain(self, error: Exception, model: str) -> None:
            pass

    def look(run: Run) -> None:
        if arrived.is_set():
            run.stop("SIGTERM", ExitStatus.TEMPORARY, drain=0.01)

    channel: Any = Stalled()
    tally, sink = Tally(), Recorder()
    runner = Runner(
        iter([record]),
        sink,
        means=Means(lambda: channel, Bystander(look)),
        pace=Pace(),
        plan=Plan(),
        tally=tally,
    )
    runner.run()
    assert left.is_set()
    assert (tally.sends, tally.finished, tally.stop_reason) == (1, 0, "SIGTERM")
    assert sink.results == []


def test_a_status_line_is_told_on_demand(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """SIGUSR1: one line on stderr each time, even if quiet, and the run goes on."""
    write_input(source, 3)
    gate = threading.Event()
    first = {"p0": completion("first")}
    server.answer(lambda request: first.get(get_prompt(request)) or hold(gate, echo(request)))
    run = batch.start(str(source), "-c", "2", "-q", "--format", "text")
    run.expect(b'"first"\n')
    server.await_requests(3)
    for _ in range(2):
        run.signal(signal.SIGUSR1)
        line = run.expect(b"\n", "stderr")
        assert line.startswith(b"kimi: 1 done, 0 errors, 0 retries, 2 in flight (limit 2), ")
        assert b" rows/s, " in line
        assert b"; limited by " in line
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert result.error.count("\n") == 2
    assert sorted(result.stdout.splitlines()) == [b'"first"', b'"re: p1"', b'"re: p2"']


def test_a_stuck_reader_holds_no_signal_up(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Where nobody reads the pipe there is nothing to drain into: SIGTERM ends the run."""
    write_rows(source, make_rows(3000, prompt="x" * 500 + " {}"))
    for options in ((), ("--ordered",)):
        reader, writer = os.pipe()
        with open(writer, "wb") as theirs:
            run = batch.start(str(source), *options, stdout=theirs)
        before = 0
        while before != (before := len(server.requests)) or not before:
            time.sleep(0.5)
        run.signal(signal.SIGTERM)
        assert run.wait().status == -signal.SIGTERM
        os.set_blocking(reader, False)
        with open(reader, "rb") as left:
            lines = (left.read() or b"").split(b"\n")
        for line in lines[:-1]:
            json.loads(line)


def test_a_closed_window_is_one_signal(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The shell and the system send a SIGHUP each: what is in flight is waited for all the same."""
    write_rows(source, make_rows(2))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "1")
    server.await_requests(1)
    run.signal(signal.SIGHUP)
    run.expect(b"again to leave", "stderr")
    run.signal(signal.SIGHUP)
    time.sleep(0.3)
    gate.set()
    assert run.wait().status == -signal.SIGHUP
    assert list_ids(out) == ["r0"]


def test_who_asks_too_early_is_no_killer(
    batch: Kimi, server: ReplayServer, source: Path, tmp_path: Path
) -> None:
    """SIGUSR1 before the run has begun, while its template is read, does nothing."""
    write_rows(source, make_rows(1))
    server.answer(echo)
    template = tmp_path / "template"
    os.mkfifo(template)
    run = batch.start(str(source), "-q", "-p", f"@{template}")
    with template.open("w") as file:  # goes on when the program has opened it, too
        run.signal(signal.SIGUSR1)
        file.write("is {prompt} good?")
    assert run.wait().status == 0
    assert list_prompts(server) == ["is p0 good?"]
