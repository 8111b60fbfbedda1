"""kimi batch --dedupe: rows that ask the same are bought once, and each has its line."""

from __future__ import annotations

import json
import signal
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from rows import (
    REFUSED,
    answer_but,
    echo,
    get_prompt,
    hold,
    list_prompts,
    read_rows,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, completion, refusal

Row = dict[str, Any]


def make_twins(count: int, kinds: int) -> list[Row]:
    """Return *count* rows with ids that ask *kinds* things in turn."""
    return [
        {"custom_id": f"r{number}", "prompt": f"p{number % kinds}", "note": number}
        for number in range(count)
    ]


def find_sources(path: Path) -> dict[str, str | None]:
    """Return whose answer each line has, by its id."""
    return {row["custom_id"]: row["kimi"].get("same_as") for row in read_rows(path)}


@pytest.mark.parametrize("style", ["batch", "flat", "merge"])
def test_each_row_has_a_line_of_its_own(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, style: str
) -> None:
    """With its own id and its own keys, and the answer of the row that was asked for."""
    write_rows(source, [*make_twins(40, 3), "p0", {"prompt": "p0"}])
    server.answer(echo)
    command = (str(source), "-o", str(out), "--format", style, "--dedupe")
    result = batch(*command)
    assert result.status == 0, result.error
    assert "42 answered; 0 failed" in result.error
    assert "39 the same as others; 3 requests" in result.error
    assert list_prompts(server) == ["p0", "p1", "p2"]
    lines = {row["custom_id"]: row for row in read_rows(out)}
    assert len(lines) == 42
    assert Counter(find_sources(out).values()) == {None: 3, "r0": 15, "r1": 12, "r2": 12}
    for name, line in lines.items():
        shown = json.dumps(line)
        number = int(name.removeprefix("r")) if name.startswith("r") and "-" not in name else 0
        assert f"re: p{number % 3}" in shown
        if "-" not in name:
            assert line["note"] == number
    assert batch(*command).status == 0
    assert batch(*command[:-1]).status == 0
    assert len(server.requests) == 3


def test_text_in_order(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """On standard output, too, and where lines have no ids."""
    write_rows(source, make_twins(7, 2))
    server.answer(echo)
    result = batch(str(source), "--dedupe", "--format", "text", "--ordered")
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        f"re: p{number % 2}" for number in range(7)
    ]
    assert len(server.requests) == 2


def test_errors_are_those_of_all(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A refusal is of all rows that ask so; each counts as failed."""
    write_rows(source, make_twins(9, 3))
    answer_but(server, p1=REFUSED)
    result = batch(str(source), "-o", str(out), "--dedupe", "-c", "1")
    assert result.status == 4
    assert "6 answered; 3 failed" in result.error
    failed = [row for row in read_rows(out) if row["error"]]
    assert {row["custom_id"] for row in failed} == {"r1", "r4", "r7"}
    assert {row["kimi"]["failed"] for row in failed} == {"permanent"}
    assert len(server.requests) == 3


def test_rows_that_wait_for_nothing_are_deferred(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """All that ask the same are listed, and the next run asks once for them."""
    write_rows(source, make_twins(6, 2))
    gate = threading.Event()
    answer_but(server, p1=hold(gate, refusal(500, "api_error", "down")))
    command = (str(source), "-o", str(out), "--dedupe", "--retries", "0", "-c", "2")
    run = batch.start(*command)
    server.await_requests(2)
    threading.Timer(0.5, gate.set).start()
    result = run.wait()
    assert result.status == 75
    listed = {row["custom_id"] for row in read_rows(Path(f"{out}.errors"))}
    assert listed == {"r1", "r3", "r5"}
    assert len(read_rows(out)) == 3
    server.answer(echo)
    assert batch(*command).status == 0
    assert len(read_rows(out)) == 6
    assert len(server.requests) == 3


@pytest.mark.parametrize("style", ["batch", "flat", "merge"])
def test_kill_9_in_the_middle_buys_nothing_twice(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, style: str
) -> None:
    """What an earlier run has answered is the answer of rows that had no line yet."""
    rows = make_twins(8, 2)
    write_rows(source, rows)
    server.answer(echo)
    command = (str(source), "-o", str(out), "--format", style, "--dedupe")
    assert batch(*command).status == 0
    whole = {row["custom_id"]: row for row in read_rows(out)}
    lines = out.read_bytes().splitlines(keepends=True)
    first = [line for line in lines if b"same_as" not in line]
    assert len(first) == 2
    out.write_bytes(b"".join(first) + lines[-1][:50])  # as kill -9 may leave it
    result = batch(*command)
    assert (result.status, len(server.requests)) == (0, 2)
    again = {row["custom_id"]: row for row in read_rows(out)}
    for line in (*whole.values(), *again.values()):
        for name in ("attempts", "ms"):
            del line["kimi"][name]
    assert again == whole


def test_another_format_tells_too_little(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Of an answer in few words no whole reply can be made: it is bought again."""
    write_rows(source, make_twins(2, 1))
    server.answer(echo)
    command = (str(source), "-o", str(out), "--dedupe", "--format")
    assert batch(*command, "flat").status == 0
    out.write_bytes(out.read_bytes().splitlines(keepends=True)[0])
    assert batch(*command, "batch").status == 0
    assert read_rows(out)[1]["response"]["status_code"] == 200
    assert len(server.requests) == 2


def test_a_killed_run_goes_on(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """While a row waits for another that is in flight, neither has a line, nor loses one."""
    write_rows(source, make_twins(6, 2))
    gate = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        return echo(request) if get_prompt(request) == "p0" else hold(gate, echo(request))

    server.answer(answer)
    command = (str(source), "-o", str(out), "--dedupe")
    run = batch.start(*command)
    server.await_requests(2)
    while not out.exists() or out.read_bytes().count(b"\n") < 3:
        threading.Event().wait(0.02)
    run.signal(signal.SIGKILL)
    run.wait()
    gate.set()
    server.answer(echo)
    assert batch(*command).status == 0
    assert sorted(find_sources(out)) == ["r0", "r1", "r2", "r3", "r4", "r5"]
    assert len(server.requests) == 3


def test_a_checked_answer_is_that_of_all(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its value with it, digit for digit, also from the line of an earlier run."""
    write_rows(source, make_twins(3, 1))
    server.answer(lambda request: completion('{"size": 1.70}'))
    command = (
        str(source),
        "-o",
        str(out),
        "--format",
        "flat",
        "--dedupe",
        "--schema",
        "size float",
    )
    assert batch(*command).status == 0
    assert out.read_text().count('"value":{"size": 1.70}') == 3
    out.write_bytes(out.read_bytes().splitlines(keepends=True)[0])
    assert batch(*command).status == 0
    assert out.read_text().count('"value":{"size": 1.70}') == 3
    assert len(server.requests) == 1


def test_invalid_answers_are_those_of_all(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """And are asked for again once for all of them."""
    write_rows(source, make_twins(3, 1))
    server.answer(lambda request: completion("prose"))
    command = (str(source), "-o", str(out), "--dedupe", "--choice", "a,b", "--reask", "0")
    result = batch(*command)
    assert result.status == 4
    assert "3 failed (3 invalid)" in result.error
    server.answer(lambda request: completion("a"))
    assert batch(*command, "--retry-failed", "invalid").status == 0
    assert [row["value"] for row in read_rows(out)] == ["a", "a", "a"]
    assert len(server.requests) == 2


def test_what_only_looks_the_same_is_bought(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Another model, parameter or system prompt is another question."""
    rows = [
        {"prompt": "p"},
        {"prompt": "p", "model": "other"},
        {"prompt": "p", "temperature": 0.5},
        {"prompt": "p", "system": "s"},
        {"prompt": "p", "note": "is not sent"},
    ]
    write_rows(source, rows)
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "--dedupe").status == 0
    assert len(server.requests) == 4


def test_without_the_option_each_is_bought(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A row that is asked twice may be meant to be answered twice."""
    write_rows(source, make_twins(4, 1))
    server.answer(echo)
    assert batch(str(source), "-o", str(out)).status == 0
    assert len(server.requests) == 4
    assert "asks" not in read_rows(out)[0]["kimi"]


def test_many_rows_wait_for_one(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """More than are held at once: the others stay in the input, and nothing stands still."""
    write_rows(source, make_twins(6000, 1))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "--dedupe", "--progress", "none")
    server.await_requests(1)
    threading.Timer(1.0, gate.set).start()
    assert run.wait(timeout=50).status == 0
    assert len(read_rows(out)) == 6000
    assert len(server.requests) == 1


def test_a_limit_of_rows_counts_them(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows is of rows, not of requests; --dry-run counts them."""
    write_rows(source, make_twins(10, 2))
    server.answer(echo)
    command = (str(source), "-o", str(out), "--dedupe")
    assert batch(*command, "--max-rows", "5").status == 75
    assert len(read_rows(out)) == 5
    assert (
        "5 rows can be sent, 0 cannot; 3 the same as others" in batch(*command, "--dry-run").error
    )
