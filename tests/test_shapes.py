"""Whole answers of other shapes than the guide's: each is an answer, and is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import Kimi
from hypothesis import given
from hypothesis import strategies as st
from server import ReplayServer, Reply, completion, document, event, stream

from kimi_cli.api import codec
from kimi_cli.api.messages import ChunkFolder, find_lack, read_completion
from kimi_cli.batch.records import Record
from kimi_cli.batch.results import FORMATS, Result, encode_results
from kimi_cli.errors import NotTheApi

THINKING = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
    {"type": "text", "text": "Hello "},
    {"type": "reference", "reference_ids": [1]},
    {"type": "text", "text": "world"},
]
"""The content of Mistral's reasoning models."""
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": {"x": [1, "é"]}}}
"""A call as llama.cpp has sent it: its arguments are no text."""


def whole(message: dict[str, Any], finish: str | None = "stop", index: int = 0) -> Reply:
    """Return a reply with that one message."""
    choice = {"index": index, "message": message, "finish_reason": finish}
    return document({"id": "i", "model": "m", "choices": [choice]})


SHAPES: dict[str, tuple[dict[str, Any], str, str]] = {
    "parts": ({"content": THINKING}, "Hello world", "Hm."),
    "one part": ({"content": {"type": "text", "text": "Hello"}}, "Hello", ""),
    "a part without a type": ({"content": [{"text": "Hello"}]}, "Hello", ""),
    "a part's text is an object": (
        {"content": [{"type": "text", "text": {"value": "Hello"}}]}, "Hello", ""
    ),
    "reasoning as an object": (
        {"content": "Hello", "reasoning": {"content": "Hm."}}, "Hello", "Hm."
    ),
    "reasoning as a list": (
        {"content": "Hello", "reasoning": {"summary": [{"text": "H"}, {"text": "m."}]}},
        "Hello", "Hm.",
    ),
    "reasoning that says nothing": ({"content": "Hello", "reasoning": {"effort": 3}}, "Hello", ""),
    "a refusal": ({"content": None, "refusal": "I cannot help."}, "I cannot help.", ""),
    "a refusal as a part": (
        {"content": [{"type": "refusal", "refusal": "I cannot help."}]}, "I cannot help.", ""
    ),
}  # fmt: skip


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "streamed"])
@pytest.mark.parametrize("name", SHAPES)
def test_text_is_found_in_other_shapes(
    ask: Kimi, server: ReplayServer, name: str, streamed: bool
) -> None:
    """F10, F21: content as parts, reasoning as an object, a refusal's own text."""
    message, content, reasoning = SHAPES[name]
    server.script(stream(message) if streamed else whole(message), repeat=True)
    mode = () if streamed else ("--no-stream",)
    result = ask("--json", *mode, "hi")
    assert result.status == 0, result.error
    shown = json.loads(result.stdout)
    assert (shown["content"], shown["reasoning"]) == (content, reasoning)
    assert ask(*mode, "hi").stdout.decode() == content + "\n"
    assert shown.get("refusal") == ("I cannot help." if name == "a refusal" else None)


@pytest.mark.parametrize("style", FORMATS)
@pytest.mark.parametrize("name", SHAPES)
def test_a_batch_writes_other_shapes(
    batch: Kimi, server: ReplayServer, name: str, style: str
) -> None:
    """F10: no row is asked twice for an answer that came whole; its text is a text."""
    message, content, reasoning = SHAPES[name]
    server.script(whole(message))
    result = batch("--format", style, stdin=b'"hi"\n')
    assert result.status == 0, result.error
    line = json.loads(result.stdout)
    if style == "batch":
        assert line["response"]["body"]["choices"][0]["message"] == message
    elif style == "text":
        assert line == content
    else:
        answer = line["kimi_response"] if style == "merge" else line
        assert (answer["content"], answer["reasoning"] or "") == (content, reasoning)
    assert len(server.requests) == 1


def test_arguments_may_be_an_object(ask: Kimi, batch: Kimi, server: ReplayServer) -> None:
    """F10: a call whose arguments are an object is a call; ask shows them as the API's text."""
    server.script(*[whole({"content": None, "tool_calls": [CALL]}, "tool_calls")] * 2)
    server.script(stream({"tool_calls": [{"index": 0, **CALL}]}, finish="tool_calls"))
    for mode in ("--no-stream",), ():
        shown = json.loads(ask("--json", *mode, "hi").stdout)
        assert json.loads(shown["tool_calls"][0]["function"]["arguments"]) == {"x": [1, "é"]}
        if mode:
            result = batch(stdin=b'"hi"\n')
            assert result.status == 0, result.error
            body = json.loads(result.stdout)["response"]["body"]
            assert body["choices"][0]["message"]["tool_calls"] == [CALL]


def test_a_function_call_is_a_tool_call(ask: Kimi, server: ReplayServer) -> None:
    """The name that it had before tools: its fragments are joined, and it is a full stop."""
    first = {"function_call": {"name": "f", "arguments": '{"x"'}}
    rest = {"function_call": {"arguments": ":1}"}}
    server.script(stream(first, rest, finish="function_call"))
    result = ask("hi")
    assert result.status == 0, result.error
    (call,) = json.loads(result.stdout)
    assert call["function"] == {"name": "f", "arguments": '{"x":1}'}


@pytest.mark.parametrize(
    "reason",
    ["eos", "eos_token", "end", "end_turn", "stop_sequence", "STOP", "function_call", "COMPLETE"],
)
def test_every_full_stop_is_one(ask: Kimi, batch: Kimi, server: ReplayServer, reason: str) -> None:
    """F10: TGI, Together, Cohere, Anthropic and Google have words of their own for stop."""
    server.script(stream("Hello", finish=reason), completion("Hello", finish=reason))
    result = ask("hi")
    assert (result.status, result.stdout) == (0, b"Hello\n"), result.error
    result = batch(stdin=b'"hi"\n')
    assert result.status == 0
    assert "incomplete" not in json.loads(result.stdout)["kimi"]


@pytest.mark.parametrize("reason", ["length", "MAX_TOKENS", "model_length", {"type": "length"}])
def test_what_is_no_full_stop_is_none(ask: Kimi, server: ReplayServer, reason: Any) -> None:
    """Any other reason is an incomplete answer, whatever its shape."""
    server.script(stream("Hello", finish=reason))
    result = ask("hi")
    assert (result.status, result.stdout) == (3, b"Hello\n")
    assert ("raise --max-tokens" in result.error) is isinstance(reason, str)


@pytest.mark.parametrize("index", [1, 7])
def test_an_only_choice_may_have_any_index(
    ask: Kimi, batch: Kimi, server: ReplayServer, index: int
) -> None:
    """F21: it is the answer."""
    chunks = [
        {"id": "c", "choices": [{"index": index, "delta": {"content": text}}]}
        for text in ("a", "b")
    ]
    last = {"choices": [{"index": index, "delta": {}, "finish_reason": "stop"}]}
    events = [event(chunk) for chunk in [*chunks, last]]
    streamed = Reply([*events, event("[DONE]")], headers={"Content-Type": "text/event-stream"})
    server.script(streamed, *[whole({"content": "ab"}, index=index)] * 2)
    assert ask("hi").stdout == b"ab\n"
    assert ask("--no-stream", "hi").stdout == b"ab\n"
    assert json.loads(batch("--format", "text", stdin=b'"hi"\n').stdout) == "ab"


def test_log_probabilities_are_kept(ask: Kimi, server: ReplayServer) -> None:
    """S9: streamed or whole, --json has them as the host sent them."""
    tokens = [{"token": text, "logprob": -0.5, "top_logprobs": []} for text in "ab"]
    chunks = [
        {"choices": [{"index": 0, "delta": {"content": token["token"]},
                      "logprobs": {"content": [token], "refusal": None},
                      "finish_reason": "stop" if token is tokens[1] else None}]}
        for token in tokens
    ]  # fmt: skip
    events = [*map(event, chunks), event("[DONE]")]
    message = {"content": "ab"}
    choice = {"message": message, "logprobs": {"content": tokens, "refusal": None}}
    server.script(
        Reply(events, headers={"Content-Type": "text/event-stream"}),
        document({"choices": [{**choice, "finish_reason": "stop"}]}),
        stream("plain"),
    )
    for mode in (), ("--no-stream",):
        shown = json.loads(ask("--json", *mode, "hi").stdout)
        assert shown["logprobs"] == {"content": tokens, "refusal": None}
    assert "logprobs" not in json.loads(ask("--json", "hi").stdout)


def test_a_plain_base_url_is_asked_for_usage(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """S9: only the gateway sends it unasked; a profile of one's own may say that its host does."""

    def shows(*options: str, **how: Any) -> bool:
        shown = json.loads(kimi("ask", "--dry-run", *options, "hi", **how).stdout)
        return "stream_options" in shown

    assert not shows()
    assert shows("--base-url", server.url)
    assert shows(env={"KIMI_BASE_URL": server.url})
    folder = home / ".config" / "kimi"
    folder.mkdir(parents=True, exist_ok=True)
    table = f'[profiles.own]\nbase_url = "{server.url}"\nask_usage = false\n'
    (folder / "config.toml").write_text(table)
    assert not shows("--profile", "own")


@pytest.mark.parametrize(
    ("deltas", "told"),
    [
        (({"reasoning_content": "hmmm"},), "while the model reasoned"),
        (({"reasoning_content": "hmmm"}, "Hello"), "after 5 characters"),
        ((), "before its first word"),
    ],
)
def test_what_came_before_a_cut_is_told(
    ask: Kimi, server: ReplayServer, deltas: tuple[Any, ...], told: str
) -> None:
    """Only the answer's own characters count, not those of the reasoning that may be hidden."""
    server.script(stream(*deltas, finish=None, usage=None, done=False), repeat=True)
    result = ask("--retries", "0", "--reasoning", "hide", "hi")
    assert result.status == 75
    assert result.error.startswith(f"kimi: the answer was cut off {told}: ")


def test_many_fragments_take_no_longer() -> None:
    """T5: a call in 200,000 pieces is joined once, not piece by piece."""
    folder = ChunkFolder()
    piece = {
        "choices": [{"delta": {"tool_calls": [{"index": 0, "function": {"arguments": "x" * 50}}]}}]
    }
    for _ in range(200_000):
        folder.add(piece)
    assert len(folder.end().tool_calls[0]["function"]["arguments"]) == 10**7


# T10: what passes the check can be written

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["text", "type", "content", "name", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)
FIELDS = ["content", "reasoning", "reasoning_content", "refusal", "tool_calls", "function_call"]
MESSAGES = VALUES | st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)
CHOICES = VALUES | st.dictionaries(
    st.sampled_from(["index", "message", "delta", "finish_reason", "usage", "logprobs"]),
    VALUES | MESSAGES,
    max_size=5,
)
DOCUMENTS = st.fixed_dictionaries(
    {"choices": VALUES | st.lists(CHOICES, max_size=3)},
    optional={"id": VALUES, "model": VALUES, "usage": VALUES},
)


@given(DOCUMENTS)
def test_what_passes_the_check_can_be_written(body: dict[str, Any]) -> None:
    """T10: of a JSON document with choices, each format makes one line, or the check refuses it."""
    try:
        lack = find_lack(body)
    except NotTheApi:
        return
    record = Record(1, "r", b"{}", {"prompt": "hi"}, {}, "k" * 16, asks="k" * 16, named=False)
    for style in FORMATS:
        line = encode_results([Result(record, 200, "q", body, lack=lack)], style)
        assert line.count(b"\n") == 1
        codec.loads(line)


@given(DOCUMENTS)
def test_what_is_read_can_be_printed(body: dict[str, Any]) -> None:
    """The same for --json: a completion that was read has its line."""
    try:
        line = read_completion(body).dump()
    except NotTheApi:
        return
    shown = codec.loads(line.encode(errors="replace"))
    assert isinstance(shown["content"], str)
    assert isinstance(shown["reasoning"], str)


@pytest.mark.parametrize("style", FORMATS)
def test_an_odd_message_ends_no_batch(
    batch: Kimi, server: ReplayServer, tmp_path: Path, style: str
) -> None:
    """T10: a choice with a good delta and a message that is a text is its own row's trouble."""
    odd = document({"choices": [{"delta": {"content": "x"}, "message": "y"}]})
    server.answer(lambda request: odd if b"odd" in request.body else completion("good"))
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"prompt": "one"}\n{"prompt": "odd"}\n{"prompt": "two"}\n')
    result = batch(str(source), "-o", str(out), "--format", style)
    assert result.status == 75, result.error
    assert len(out.read_text().splitlines()) == 2
