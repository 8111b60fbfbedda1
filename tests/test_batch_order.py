"""kimi batch --ordered: lines stand as their rows do."""

from __future__ import annotations

import json
import threading
from collections import Counter
from pathlib import Path

import rows
from outputs import write_output
from program import Kimi
from rows import (
    MEGABYTE,
    echo,
    get_prompt,
    list_ids,
    list_prompts,
    make_request,
    make_rows,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, refusal

from kimi_cli.batch.results import Result
from kimi_cli.batch.sinks import OrderedSink, StdoutSink

batch = rows.echoing


def test_an_ordered_file_is_sorted_after_all(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """However many runs it took, the finished file is in the order of the input."""
    rows = make_rows(12)
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    up = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) in ("p2", "p6") and not up.is_set():
            return refusal(500, "api_error", "fetch failed")
        return echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--ordered", "-c", "3", "--retries", "0")
    assert batch(*command).status == 75
    assert "r2" not in list_ids(out)
    up.set()
    lines = set(out.read_bytes().splitlines())
    assert batch(*command).status == 0
    assert list_ids(out) == [row["custom_id"] for row in rows]
    assert lines < set(out.read_bytes().splitlines())
    asked = Counter(list_prompts(server))
    assert asked == {f"p{number}": 1 + (number in (2, 6)) for number in range(12)}


def test_an_ordered_file_follows_the_input_of_now(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Rows that were bought from an input in another order stand where this one has them."""
    rows = make_rows(6)
    out = write_output(tmp_path / "out.jsonl", rows[:3])
    source = write_rows(tmp_path / "in.jsonl", rows[::-1])
    assert batch(str(source), "-o", str(out), "--ordered").status == 0
    assert list_prompts(server) == ["p3", "p4", "p5"]
    assert list_ids(out) == ["r5", "r4", "r3", "r2", "r1", "r0"]


def test_ordered_text_in_a_file(batch: Kimi, tmp_path: Path) -> None:
    """One answer a line, in the order of the input; such lines have no row numbers to sort by."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(5)), tmp_path / "out.txt"
    result = batch(str(source), "-o", str(out), "--ordered", "--format", "text")
    assert result.status == 0, result.error
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        f"re: p{number}" for number in range(5)
    ]


def test_answers_held_for_their_order_are_bounded_in_size() -> None:
    """64 MiB of them wait for the first row; then no more are asked for until it has come."""
    written: list[str] = []
    sink = OrderedSink(StdoutSink(written.append, "flat"), 1024, "flat")
    answer = {"choices": [{"message": {"content": "x" * (16 * MEGABYTE)}}]}
    for number in range(1, 6):
        sink.expect(number)
    for number in range(2, 6):
        assert sink.find_block() is None
        sink.write([Result(make_request(number), 200, "", answer)])
    assert sink.find_block() == "row 1, the first in order"
    assert not written
    sink.write([Result(make_request(1), 200, "", {})])
    assert sink.find_block() is None
    assert "".join(written).count("\n") == 5
