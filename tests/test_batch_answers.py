"""kimi batch: answers that are odd, empty or not whole."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from outputs import list_errors
from program import Kimi
from rows import (
    JSON,
    answer_but,
    list_ids,
    list_prompts,
    make_rows,
    read_rows,
    write_names,
    write_rows,
)
from server import ReplayServer, Reply, completion, document, refusal

# Odd answers


def nest(depth: int) -> str:
    """Return that many arrays, one in the other."""
    return "[" * depth + "]" * depth


ODD = {
    "choices that are an object": document({"choices": {"message": {"content": "x"}}}),
    "choices that are a number": document({"choices": 5}),
    "a choice that is null": document({"choices": [None]}),
    "a message that is text": document({"choices": [{"message": "hi"}]}),
    "content that is a number": document({"choices": [{"message": {"content": 5}}]}),
    "deep choices": Reply([f'{{"choices":{nest(3000)}}}'.encode()], headers=JSON),
    "no gzip": Reply([b"rubbish"], headers={**JSON, "Content-Encoding": "gzip"}),
}


def test_an_odd_answer_concerns_its_row_alone(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It is tried three times and left to the next run; the rows around it are answered."""
    good = [f"good {number}" for number in range(30)]
    write_names(source, [*good[:15], *ODD, *good[15:]])
    answer_but(server, **ODD)
    result = batch(str(source), "-o", str(out))
    assert result.status == 75, result.error
    assert f"{len(ODD)} rows got no answer" in result.error
    assert sorted(list_ids(out)) == sorted(good)
    listed = list_errors(out)
    assert set(listed) == set(ODD)
    assert {(error["code"], error["class"]) for error in listed.values()} == {
        ("NotTheApi", "transient")
    }
    asked = Counter(list_prompts(server))
    assert asked == {**dict.fromkeys(good, 1), **dict.fromkeys(ODD, 3)}


@pytest.mark.parametrize("depth", [400, 1000, 3000])
def test_a_refusal_in_odd_words_is_the_rows(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, depth: int
) -> None:
    """However deep the words of a 400 are nested, it is an error of one row."""
    write_names(source, ["good", "odd", "late"])
    body = f'{{"error":{{"code":"bad_request","message":{nest(depth)}}}}}'.encode()
    answer_but(server, odd=Reply([body], status=400, headers=JSON))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 4, result.error
    assert list_ids(out) == ["good", "odd", "late"]
    assert read_rows(out)[1]["error"]["class"] == "permanent"


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Trace-Id"])
def test_the_name_that_the_host_gave_is_kept(
    batch: Kimi, server: ReplayServer, source: Path, name: str
) -> None:
    """A line has it as response.request_id, for those who ask the host about it."""
    write_rows(source, make_rows(1))
    whole = completion("x")
    server.script(whole.but(headers={**whole.headers, name: "req-7"}))
    (line,) = batch(str(source)).stdout.splitlines()
    assert json.loads(line)["response"]["request_id"] == "req-7"


# Empty and incomplete answers


EMPTY = {
    "no choices": document({"choices": []}),
    "choices null": document({"choices": None}),
    "content null": completion(None),
    "no content": completion(""),
    "white space": completion(" \n\t"),
    "reasoning only": completion(None, reasoning="hm"),
}
ENDED = {
    "length": completion("half", finish="length"),
    "content_filter": completion("half", finish="content_filter"),
    "an_unknown_reason": completion("half", finish="an unknown reason"),
}


def make_choice(index: int, finish: str) -> dict[str, Any]:
    """Return one choice of an answer."""
    return {"index": index, "message": {"content": "text"}, "finish_reason": finish}


TWO = document({"choices": [make_choice(0, "stop"), make_choice(1, "length")]})
WORDS = {**dict.fromkeys(EMPTY, "empty"), **{name: name for name in ENDED}, "two": "length"}


def test_answers_that_are_not_whole_are_marked(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Kept with the word for what they lack, one of several choices being enough; exit 4."""
    write_names(source, [*WORDS, "whole"])
    answer_but(server, **{**EMPTY, **ENDED, "two": TWO})
    command = (str(source), "-o", str(out))
    result = batch(*command, "--summary", str(summary))
    assert result.status == 4, result.error
    assert f"{len(WORDS)} answers ended early or empty" in result.error
    marks = {row["custom_id"]: row["kimi"].get("incomplete") for row in read_rows(out)}
    assert marks == {**WORDS, "whole": None}
    assert all(row["error"] is None for row in read_rows(out))
    rows = json.loads(summary.read_text())["rows"]
    assert (rows["answered"], rows["incomplete"]) == (len(WORDS) + 1, len(WORDS))
    assert len(server.requests) == len(WORDS) + 1


def test_a_later_run_tells_of_them_too(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """What was incomplete before is exit 4 again, unless it is permitted; nothing is asked."""
    write_names(source, ["whole", "length", "no content"])
    answer_but(server, **{**EMPTY, **ENDED})
    command = (str(source), "-o", str(out), "--summary", str(summary))
    assert batch(*command, "--allow-incomplete").status == 0
    again = batch(*command)
    assert again.status == 4
    assert "2 answers ended early or empty" in again.error
    assert json.loads(summary.read_text())["rows"]["incomplete_before"] == 2
    assert batch(*command, "--allow-incomplete").status == 0
    assert len(server.requests) == 3


def test_a_later_run_tells_of_errors_too(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A row that failed for good is exit 4 in each run that finds it."""
    write_names(source, ["good", "bad"])
    answer_but(server, bad=refusal(400, "bad_request", "too long"))
    command = (str(source), "-o", str(out), "--allow-incomplete")
    results = [batch(*command), batch(*command)]
    assert [result.status for result in results] == [4, 4]
    assert all("1 row failed for good" in result.error for result in results)
    assert len(server.requests) == 2


def test_calls_of_tools_are_a_whole_answer(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """They need no text beside them."""
    write_names(source, ["call"])
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.script(completion(None, finish="tool_calls", tool_calls=[call]))
    result = batch(str(source), "-o", str(out))
    assert result.status == 0, result.error
    assert "incomplete" not in read_rows(out)[0]["kimi"]
