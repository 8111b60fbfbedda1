"""Requests, chunks and completions: to JSON and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kimi_cli.api import codec
from kimi_cli.api.messages import (
    ChunkFolder,
    Completion,
    Delta,
    Ending,
    Message,
    Request,
    read_completion,
)
from kimi_cli.api.sse import EventDecoder
from kimi_cli.api.text import mend_surrogates
from kimi_cli.errors import NotTheApi

RECORDINGS = Path(__file__).parent / "recordings"


def fold(*chunks: Any) -> Completion:
    """Fold whole chunks."""
    folder = ChunkFolder()
    content = reasoning = ""
    for chunk in chunks:
        folder.add(chunk)
        if delta := folder.take():
            content, reasoning = content + delta.content, reasoning + delta.reasoning
    return Completion(content, reasoning, folder.end())


def chunk(finish: str | None = None, **delta: Any) -> dict[str, Any]:
    """Return one chunk with one choice."""
    return {"id": "c", "model": "m", "choices": [{"delta": delta, "finish_reason": finish}]}


def read_recording(name: str) -> list[Any]:
    """Return the JSON documents in the body of a recording."""
    body = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\n\n")[2]
    if body.startswith(b"data:"):
        return [json.loads(event) for event in EventDecoder().feed(body) if event != b"[DONE]"]
    return [json.loads(body)]


def test_the_guides_stream_is_folded() -> None:
    """The guide's own stream: reasoning once, the last of it beside the first content."""
    completion = fold(*read_recording("guide-hello-stream"))
    assert completion.content == " Hello! How can I help you today?"
    assert completion.reasoning.startswith(' The user said "Hello".')
    assert completion.reasoning.endswith(" help with. ")
    assert completion.reasoning.count("Keep it warm") == 1
    assert completion.ending.finish_reason == "stop"
    assert completion.ending.usage is not None
    assert completion.ending.usage["total_tokens"] == 144


def test_a_stream_is_the_same_answer_as_one_document() -> None:
    """What comes in chunks and what comes whole give equal completions."""
    (document,) = read_recording("guide-hello")
    message = document["choices"][0]["message"]
    head = {key: document[key] for key in ("id", "model")}
    pieces = [
        {**head, "choices": [{"delta": {"reasoning_content": part, "reasoning": part}}]}
        for part in message["reasoning_content"].partition(".")
    ]
    last = {"delta": {"content": message["content"]}, "finish_reason": "stop"}
    tail = [{**head, "choices": [last]}, {**head, "choices": [], "usage": document["usage"]}]
    assert fold(*pieces, *tail) == read_completion(document)


def test_usage_may_stand_in_a_choice() -> None:
    """Moonshot puts it there."""
    ending = fold({"choices": [{"delta": {}, "usage": {"total_tokens": 3}}]}).ending
    assert ending.usage == {"total_tokens": 3}


def test_fragments_of_tool_calls_are_joined() -> None:
    """By index, or by the name that begins each; a missing id stays missing."""
    by_index = fold(
        chunk(tool_calls=[{"index": 0, "id": "a", "function": {"name": "f", "arguments": '{"x"'}}]),
        chunk(tool_calls=[{"index": 1, "function": {"name": "g", "arguments": "{}"}}]),
        chunk("tool_calls", tool_calls=[{"index": 0, "function": {"arguments": ":1}"}}]),
    )
    by_name = fold(
        chunk(tool_calls=[{"id": "a", "function": {"name": "f", "arguments": '{"x"'}}]),
        chunk(tool_calls=[{"function": {"arguments": ":1}"}}]),
        chunk("tool_calls", tool_calls=[{"function": {"name": "g", "arguments": "{}"}}]),
    )
    expected = (
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": None, "type": "function", "function": {"name": "g", "arguments": "{}"}},
    )
    assert by_index.ending.tool_calls == by_name.ending.tool_calls == expected


@pytest.mark.parametrize(
    "document",
    [
        {"choices": "x"},
        {"choices": [1]},
        {"choices": [{"delta": "x"}]},
        {"choices": [{"delta": {"content": 5}}]},
        {"choices": [{"delta": {"content": ["x"]}}]},
        {"choices": [{"message": {"tool_calls": [7]}}]},
        ["x"],
    ],
)
def test_odd_shapes_are_not_the_api(document: Any) -> None:
    """JSON that no host of this API sends is named as such."""
    with pytest.raises(NotTheApi):
        read_completion(document)


def test_only_the_first_choice_counts_and_null_is_nothing() -> None:
    """Other choices, null content, empty choices and unknown keys change nothing."""
    completion = fold(
        chunk(content=None, refusal=None, unknown=1),
        {"choices": []},
        {"choices": [{"index": 1, "delta": {"content": "other"}}]},
        {"choices": [{"index": 0, "delta": {"content": "one"}, "finish_reason": "stop"}]},
    )
    assert completion.content == "one"


def test_a_request_holds_what_was_given_and_no_more() -> None:
    """Sampling fields appear only when given; parameters have the last word."""
    plain = Request("m", (Message("user", "hi"),), ask_usage=False)
    assert json.loads(plain.encode()) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
    }
    full = Request("m", (), parameters={"seed": 7, "stream": False})
    assert json.loads(full.encode()) == {
        "model": "m",
        "messages": [],
        "stream": False,
        "stream_options": {"include_usage": True},
        "seed": 7,
    }


@pytest.mark.parametrize(
    ("reason", "has_text", "whole"),
    [
        ("stop", True, True),
        (None, True, True),
        ("tool_calls", True, True),
        ("length", True, False),
        ("content_filter", True, False),
        ("unheard_of", True, False),
        ("stop", False, False),
    ],
)
def test_an_answer_is_whole_or_has_a_flaw(reason: str | None, has_text: bool, whole: bool) -> None:
    """Only the model's own full stop makes a whole answer, and an empty one is none."""
    assert (Ending(finish_reason=reason).find_flaw(has_text=has_text) is None) is whole


def test_the_json_of_an_answer_is_stable() -> None:
    """kimi-ask(1) documents these keys, in this order."""
    ending = Ending("i", "m", "stop", {"total_tokens": 1})
    assert Completion(" a", "r", ending).dump() == (
        '{"content":" a","reasoning":"r","model":"m","id":"i","finish_reason":"stop",'
        '"usage":{"total_tokens":1}}'
    )


def test_json_is_strict() -> None:
    """NaN is no JSON, in either direction; an escaped lone surrogate is."""
    with pytest.raises(ValueError, match="NaN"):
        codec.loads(b'{"a": NaN}')
    with pytest.raises(ValueError, match="JSON"):
        codec.dumps(float("nan"))
    assert codec.loads(b'"\\ud83d"') == "\ud83d"
    assert (
        codec.dumps(
            {"b": "世", "a": 1},
        )
        == '{"b":"世","a":1}'
    )


@pytest.mark.parametrize(
    ("text", "mended"), [("\ud83d\ude00", "😀"), ("a\ud83d", "a\ufffd"), ("plain", "plain")]
)
def test_surrogates_are_mended(text: str, mended: str) -> None:
    """Halves are joined, and a lone one cannot stop the output."""
    assert mend_surrogates(text) == mended


def test_a_delta_is_one_reads_worth() -> None:
    """Chunks that came together are shown together."""
    folder = ChunkFolder()
    for piece in ("a", "b"):
        folder.add(chunk(content=piece))
    assert folder.take() == Delta("ab", "")
    assert folder.take() is None
