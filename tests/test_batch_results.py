"""Results of a batch: one line each, in every format."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import ERROR, Row, make
from server import ReplayServer, completion

from kimi_cli.batch.results import FORMATS, Result, encode_results

batch = rows.echoing


MESSAGE = {"role": "assistant", "content": "answer", "reasoning_content": "Hm."}


def make_result(row: Row, content: str = "answer", error: Row | None = None) -> Result:
    """Return the result of a row."""
    record = make(row)
    document = {"id": "i", "choices": [{"message": {**MESSAGE, "content": content},
                                        "finish_reason": "stop"}], "usage": {}}  # fmt: skip
    if error is not None:
        return Result(record, error=error, attempts=1, milliseconds=2)
    return Result(record, 200, "r", document, attempts=1, milliseconds=2)


@pytest.mark.parametrize("style", [style for style in FORMATS if style != "text"])
@given(content=st.text(), note=st.text())
def test_a_result_is_one_line(style: str, content: str, note: str) -> None:
    """Of JSON that naive readers do not cut, with any text in it, and known again by its head."""
    row = {"custom_id": "a", "prompt": "x", "note": note}
    line = encode_results([make_result(row, content)], style)
    assert line.endswith(b"\n")
    assert len(line.decode().splitlines()) == 1
    document = json.loads(line)
    assert next(iter(document)) == "custom_id"
    assert "kimi" in document
    expected = content.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    found = {
        "batch": lambda: document["response"]["body"]["choices"][0]["message"]["content"],
        "flat": lambda: document["content"],
        "table": lambda: document["content"],
        "merge": lambda: document["kimi_response"]["content"],
    }[style]()
    assert found == expected


def test_the_formats() -> None:
    """Each with its keys, in their order; a failure says its class in the head."""
    row = {"custom_id": "a", "prompt": "x", "note": "n"}
    good, bad = make_result(row), make_result(row, error=ERROR)
    lines = {style: json.loads(encode_results([good], style)) for style in FORMATS}
    assert list(lines["batch"]) == ["custom_id", "kimi", "id", "response", "error", "note"]
    assert lines["batch"]["response"]["status_code"] == 200
    assert lines["flat"] | {"kimi": None} == {
        "custom_id": "a", "kimi": None, "content": "answer", "reasoning": "Hm.",
        "finish_reason": "stop", "usage": {}, "error": None, "note": "n",
    }  # fmt: skip
    assert list(lines["merge"]) == ["custom_id", "kimi", "prompt", "note", "kimi_response"]
    assert lines["text"] == "answer"
    failed = {style: json.loads(encode_results([bad], style)) for style in FORMATS}
    assert failed["batch"]["error"] == failed["flat"]["error"] == ERROR
    assert failed["merge"]["kimi_response"]["error"] == ERROR
    assert failed["text"] is None
    for style in ("batch", "flat", "merge"):
        assert list(failed[style]["kimi"])[:2] == ["key", "failed"]
        assert failed[style]["kimi"]["failed"] == "transient"


KEPT: dict[str, tuple[tuple[str, ...], bytes, Callable[[dict[str, Any]], Any], Any]] = {
    "a row whose id came before": (
        ("--format", "merge"),
        b'{"id":"a","prompt":"x","note":1}\n' * 2,
        lambda row: row["note"],
        1,
    ),
    "a row that fits no template": (
        ("-p", "{text}"), b'{"note":1}\n', lambda row: row["note"], 1,
    ),
    "a row without a prompt": (
        (), b'{"note":1,"model":"m"}\n', lambda row: (row["note"], "model" in row), (1, False),
    ),
    "an id of its own": (
        ("--format", "merge", "--id-field", "name"),
        b'{"name":"n","custom_id":"mine","prompt":"x"}\n',
        lambda row: (row["custom_id"], row["kimi"]["carried"]),
        ("n", {"custom_id": "mine"}),
    ),
    "a string": (
        ("--format", "merge", "-p", "Say {prompt}"), b'"x"\n', lambda row: row["prompt"], "x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_a_line_keeps_what_is_the_rows(batch: Kimi, kind: str) -> None:
    """Whatever became of it."""
    options, data, find, kept = KEPT[kind]
    lines = batch(*options, stdin=data).stdout.splitlines()
    assert len(lines) == data.count(b"\n")
    assert [find(json.loads(line)) for line in lines] == [kept] * len(lines)


def test_a_merged_output_as_input(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its answers are carried, and its lines are not taken for those of another format."""
    merged = batch("--format", "merge", stdin=b'{"prompt":"x"}\n').stdout
    source.write_bytes(merged)
    command = (str(source), "-o", str(out), "-p", "Again: {prompt}")
    assert batch(*command).status == 0
    assert "--format" not in batch(*command).error
    assert len(server.requests) == 2


def test_shouted_reasons_are_readable(batch: Kimi, server: ReplayServer) -> None:
    """In the mark of an answer that is not whole."""
    server.answer(lambda request: completion("half", finish="LENGTH"))
    line = json.loads(batch(stdin=b'"x"\n').stdout)
    assert line["kimi"]["incomplete"] == "length"
