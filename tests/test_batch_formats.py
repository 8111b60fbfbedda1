"""Formats of a batch's output: nothing of the row and nothing of the answer is lost in any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from rows import read_rows, write_rows
from server import ReplayServer, Reply, completion, document

USUAL = ["content", "reasoning", "finish_reason", "usage", "error"]


def answer_twice(*contents: str, finish: str = "stop") -> Reply:
    """A completion with a choice for each of *contents*; the last one ends by *finish*."""
    reasons = ["stop"] * (len(contents) - 1) + [finish]
    choices = [
        {"index": n, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
        for n, (text, reason) in enumerate(zip(contents, reasons, strict=True))
    ]
    return document({"id": "c", "object": "chat.completion", "choices": choices, "usage": {}})


@pytest.mark.parametrize(
    ("style", "find"),
    [
        ("flat", lambda line: line["contents"]),
        ("merge", lambda line: line["kimi_response"]["contents"]),
        ("text", lambda line: line),
    ],
)
def test_all_answers_of_a_row_are_kept(
    batch: Kimi, server: ReplayServer, style: str, find: Any
) -> None:
    """S4: a row that asks for several has paid for each of them."""
    server.answer(lambda request: answer_twice("one", "two", "three"))
    result = batch("--format", style, stdin=b'{"prompt":"x","n":3}\n')
    assert result.status == 0, result.error
    assert find(json.loads(result.stdout)) == ["one", "two", "three"]


def test_the_mark_is_of_an_answer_that_is_kept(batch: Kimi, server: ReplayServer) -> None:
    """An answer that was cut is told of, and is there."""
    server.answer(lambda request: answer_twice("one", "tw", finish="length"))
    result = batch("--format", "flat", stdin=b'{"prompt":"x","n":2}\n')
    line = json.loads(result.stdout)
    assert result.status == 4
    assert line["kimi"]["incomplete"] == "length"
    assert line["contents"] == ["one", "tw"]


def test_one_answer_has_no_list(batch: Kimi, server: ReplayServer) -> None:
    """The usual line has the usual keys."""
    server.answer(lambda request: completion("one"))
    line = json.loads(batch("--format", "flat", stdin=b'"x"\n').stdout)
    assert list(line) == ["custom_id", "kimi", *USUAL]


def test_flat_keeps_what_the_row_carried(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Beside the answer; what would take the place of a key of ours is kept in its head."""
    server.answer(lambda request: completion("one"))
    row = {"id": "a", "prompt": "x", "label": 3, "content": "mine", "kimi_response": None}
    write_rows(source, [row])
    command = (str(source), "-o", str(out), "--format", "flat")
    assert batch(*command).status == 0
    (line,) = read_rows(out)
    assert list(line) == ["custom_id", "kimi", *USUAL, "label", "kimi_response"]
    assert (line["custom_id"], line["content"], line["label"]) == ("a", "one", 3)
    assert line["kimi"]["carried"] == {"content": "mine"}
    again = batch(*command)
    assert again.status == 0
    assert "--format" not in again.error
    assert len(server.requests) == 1


def test_flat_keeps_a_row_that_cannot_be_sent(batch: Kimi) -> None:
    """Whose columns say which one it was."""
    line = json.loads(batch("--format", "flat", stdin=b'{"name":"Ada","n2":1}\n').stdout)
    assert (line["name"], line["n2"]) == ("Ada", 1)
    assert line["error"]["code"] == "invalid_row"
