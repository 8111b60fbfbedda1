"""kimi batch: the figures at the end, and where they are written."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path

import pytest
from program import Kimi
from rows import (
    FAILED,
    FORBIDDEN,
    SILENT,
    charge,
    echo,
    get_prompt,
    hold,
    make_rows,
    read_rows,
    write_input,
    write_rows,
)
from server import Barrier, ReceivedRequest, ReplayServer, Reply, completion, refusal

from kimi_cli.batch.tally import Tally

# The figures at the end


def test_the_summary_is_whole(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """Every figure of a run with every kind of row."""
    write_input(source, 6)
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1", "--retries", "0", "-q")
    assert batch(*command, "--max-rows", "1").status == 75
    summary = out.with_name("summary.json")
    server.script(
        charge(10, 1),
        completion("cut", finish="length", usage={"prompt_tokens": 20, "completion_tokens": 2}),
        FORBIDDEN,
        FAILED,
        refusal(429, "rate_limited", "too many"),
        charge(40, 4),
    )
    assert batch(*command, "--summary", str(summary)).status == 75
    figures = json.loads(summary.read_text())
    latencies = figures.pop("latency_ms")
    assert list(latencies) == ["p50", "p95", "p99"]
    assert 0 <= latencies["p50"] <= latencies["p95"] <= latencies["p99"]
    assert figures == {
        "rows": {
            "read": 6, "skipped": 1, "failed_before": 0, "invalid_before": 0,
                "incomplete_before": 0,
            "answered": 3, "incomplete": 1, "failed": 1, "invalid": 0, "same": 0,
            "deferred": 1,
            "not_asked": 0,
            "changed": 0, "duplicates": 0, "held": 0,
        },
        "strays": 0,
        "sends": 6,
        "retries": 1,
        "sends_with_unknown_outcome": 0,
        "tokens": {"prompt": 70, "cached": 0, "completion": 7, "reasoning": 0},
        "cost": None,
        "currency": None,
        "answers_of_unknown_cost": 3,
        "answers_of_estimated_cost": 0,
        "so_far": {"cost": None, "currency": None},
        "refusals": {"concurrency": 1},
        "limits": [{"kind": "concurrency", "value": 1, "seconds": None, "how": "chosen"}],
        "stopped": None,
    }  # fmt: skip


def test_a_summary_that_cannot_be_written_costs_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It is told before any request: 73."""
    write_input(source, 2)
    missing = out.with_name("no") / "summary.json"
    assert batch(str(source), "-o", str(out), "--summary", str(missing)).status == 73
    assert not server.requests


@pytest.mark.parametrize("reason", ["signal", "token", "limit"])
def test_a_stopped_run_has_its_summary(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, reason: str
) -> None:
    """Whatever stopped it, and what that was."""
    write_input(source, 5)
    summary, gate = out.with_name("summary.json"), threading.Event()
    server.script(completion("good"))
    refused = refusal(401, "invalid_token", "no")
    server.answer(lambda request: refused if reason == "token" else hold(gate, echo(request)))
    options = ("--max-rows", "2") if reason == "limit" else ()
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--summary", str(summary), *options)
    server.await_requests(2)
    if reason == "signal":
        run.signal(signal.SIGTERM)
        run.expect(b"in flight", "stderr")
    gate.set()
    statuses = {"signal": -signal.SIGTERM, "token": 77, "limit": 75}
    assert run.wait().status == statuses[reason]
    figures = json.loads(summary.read_text())
    words = {"signal": "SIGTERM", "token": "invalid_token", "limit": "--max-rows 2"}
    assert words[reason] in figures["stopped"]
    assert figures["sends"] == 2
    assert figures["rows"]["answered"] == len(read_rows(out)) == (1 if reason == "token" else 2)


def test_answers_that_ended_early(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """They are kept, told by exit 4, and permitted by --allow-incomplete."""
    write_input(source, 4)
    reasons = {"p1": "length", "p2": "content_filter", "p3": "tool_calls"}

    def answer(request: ReceivedRequest) -> Reply:
        return completion("half", finish=reasons.get(get_prompt(request), "stop"))

    server.answer(answer)
    result = batch(str(source), "-o", str(out), "--format", "flat", "--ordered")
    assert result.status == 4
    assert "; 2 incomplete; " in result.error
    rows = read_rows(out)
    assert [row["finish_reason"] for row in rows] == ["stop", *reasons.values()]
    assert {(row["content"], row["error"]) for row in rows} == {("half", None)}
    assert batch(str(source), "--allow-incomplete").status == 0


def test_an_error_is_not_permitted_with_them(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """--allow-incomplete speaks of answers: a row without one is exit 4 all the same."""
    write_input(source, 2)
    server.script(completion("half", finish="length"), FORBIDDEN)
    assert batch(str(source), "--allow-incomplete").status == 4


@pytest.mark.parametrize("slow", [range(2000), range(198_000, 200_000)], ids=["first", "last"])
def test_percentiles_are_of_all_answers(slow: range) -> None:
    """An even sample: one in a hundred that was slow is no p95, whenever it came."""
    tally = Tally()
    for number in range(200_000):
        tally.answered += 1
        tally.note_latency(50_000 if number in slow else number % 1000)
    shares = tally.find_percentiles()
    assert 450 < shares["p50"] < 550
    assert 900 < shares["p95"] < 1000
    assert shares["p95"] < shares["p99"]


# --summary


@pytest.mark.parametrize(
    "place", ["in.jsonl", "link", "out.jsonl", "out.jsonl.errors", "old.jsonl"]
)
def test_a_summary_is_no_file_of_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, place: str
) -> None:
    """The input, the output, its list of errors, an earlier output: 65, and not a byte changed."""
    write_rows(source, make_rows(2))
    old = out.with_name("old.jsonl")
    server.answer(echo)
    assert batch(str(source), "-o", str(old), "--max-rows", "1").status == 75
    server.answer(lambda request: refusal(500, "api_error", "down"))
    command = (str(source), "-o", str(out), "--done-from", str(old), "--retries", "0")
    assert batch(*command).status == 75
    out.with_name("link").symlink_to(source)
    before = {path: path.read_bytes() for path in out.parent.glob("*.jsonl*")}
    result = batch(*command, "--summary", str(out.with_name(place)))
    assert {path: path.read_bytes() for path in before} == before
    assert result.status == 65
    assert str(out.with_name(place)) in result.error
    assert len(server.requests) == 2


def test_a_summary_is_not_standard_output(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """It would be written over the answers: 65 before any request."""
    write_rows(source, make_rows(2))
    server.answer(echo)
    command = f"kimi batch --base-url {server.url} {source} --summary {summary}"
    assert batch.shell(f"exec {command} > {summary}").wait().status == 65
    assert not server.requests


def test_a_summary_is_not_of_a_run_that_found_no_place(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Where another run holds the output, the figures of that one stay as they are: 75."""
    write_rows(source, make_rows(1))
    gate, whole = threading.Event(), completion("late")
    server.script(whole.but(body=[Barrier(gate), *whole.body]))
    first = batch.start(str(source), "-o", str(out))
    server.await_requests(1)
    summary.write_text("mine")
    assert batch(str(source), "-o", str(out), "--summary", str(summary)).status == 75
    assert summary.read_text() == "mine"
    gate.set()
    assert first.wait().status == 0


def test_a_summary_is_told_of_a_second_interrupt(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """What was left in flight has an unknown outcome."""
    write_rows(source, make_rows(3))
    server.script(completion("good"), SILENT)
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--summary", str(summary))
    server.await_requests(2)
    run.signal(signal.SIGINT)
    run.expect(b"again to leave", "stderr")
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    figures = json.loads(summary.read_text())
    assert (figures["stopped"], figures["sends"]) == ("SIGINT", 2)
    assert figures["rows"]["answered"] == figures["sends_with_unknown_outcome"] == 1


def test_a_summary_is_told_of_a_reader_that_left(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """Death by SIGPIPE leaves the figures."""
    write_rows(source, make_rows(9))
    server.script(completion("first"))
    server.answer(lambda request: SILENT)
    reader, writer = os.pipe()
    with open(reader, "rb") as ours:
        with open(writer, "wb") as theirs:
            options = ("-c", "1", "--summary", str(summary))
            run = batch.start(str(source), *options, stdout=theirs)
        ours.readline()
        server.await_requests(2)
    assert run.wait().status == -signal.SIGPIPE
    assert json.loads(summary.read_text())["rows"]["answered"] == 1


def test_a_summary_is_told_of_a_full_disk(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """Which ends the run: 74, and the figures say what was bought for nothing."""
    write_rows(source, make_rows(3))
    server.answer(echo)
    full = Path("/dev/full")
    result = batch(str(source), "-c", "1", "--summary", str(summary), stdout=full)
    assert result.status == 74
    figures = json.loads(summary.read_text())
    assert figures["stopped"] == "cannot write to standard output: No space left on device"
    assert figures["sends"] == len(server.requests) < 3
