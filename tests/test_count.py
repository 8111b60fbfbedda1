"""How many tokens a prompt has: exactly by Kimi's vocabularies, or estimated and marked so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from server import ReplayServer, stream

from kimi_cli.api.messages import count_tokens
from kimi_cli.api.vocabulary import NOT_INSTALLED, TokenCounter

COUNTER = TokenCounter()
"""One for all tests: a vocabulary takes a while to load."""
RECORDINGS = Path(__file__).parent / "recordings"


def user(text: Any) -> dict[str, Any]:
    """Return a user message."""
    return {"role": "user", "content": text}


def assistant(text: str, **more: Any) -> dict[str, Any]:
    """Return an answer."""
    return {"role": "assistant", "content": text, **more}


def count(model: str, *messages: dict[str, Any], **fields: Any) -> tuple[int, str | None]:
    """Return how many tokens a request has, and what is doubtful about that."""
    counted = COUNTER.count({"model": model, "messages": list(messages), **fields})
    return counted.tokens, counted.doubt


def read_prompt_tokens(name: str) -> int | None:
    """Return how many tokens a recorded answer says that its prompt had."""
    text = (RECORDINGS / f"{name}.http").read_text()
    return count_tokens(json.loads(text[text.index("{") :])["usage"], "prompt_tokens")


# What hosts count


def test_the_guides_own_figures_are_met() -> None:
    """The guide shows requests and what the host counted for them, with and without a past."""
    hello = count("kimi-k2.5", user("Hello"))
    assert hello == (read_prompt_tokens("guide-hello"), None)
    asked = assistant("Hello! How can I help you today?"), user("What model are you?")
    assert count("kimi-k2.5", *asked) == (read_prompt_tokens("guide-multiturn"), None)


def test_the_figures_of_kimi_k3_are_met() -> None:
    """86 for "Hello" is the gateway's (its guide to kimi-k3, of 2026-07-19).

    91 is 3 less than the 94 ids of the whole prompt, as its encoder makes them
    (kimi-k3-in-c#55): the tag that opens the reasoning is not counted (TensorRT-LLM#17845).
    """
    assert count("kimi-k3", user("Hello")) == (86, None)
    assert count("kimi-k3", user("Reply with exactly five words.")) == (91, None)


def test_the_vocabulary_is_the_published_one() -> None:
    """Ids of kimi-k3's own words, as its tokenizer gives them (tokenspeed#1305)."""
    from splintr import Tokenizer

    text = '<|close|>message<|sep|><|end_of_msg|><|open|>message role="assistant"<|sep|>'
    ids = [163588, 2778, 163589, 163586, 163587, 2778, 6244, 878, 69702, 1, 163589]
    assert Tokenizer.from_pretrained("kimi_k3").encode_with_special(text) == ids


@pytest.mark.parametrize(
    ("model", "fields", "more"),
    [
        ("kimi-k2.6", {"thinking": {"type": "disabled"}}, 1),
        ("kimi-k2.6", {"thinking": {"type": "enabled"}}, 0),
        ("kimi-k2.5", {"chat_template_kwargs": {"thinking": False}}, 1),
        ("kimi-k3", {"reasoning_effort": "max"}, 0),
        ("kimi-k3", {"reasoning_effort": "low"}, 1),
        ("kimi-k3", {"temperature": 1, "max_tokens": 7}, 0),
    ],
)
def test_fields_change_the_frame(model: str, fields: dict[str, Any], more: int) -> None:
    """How much a model is to think is told to it in tokens."""
    tokens, _ = count(model, user("Hello"))
    assert count(model, user("Hello"), **fields) == (tokens + more, None)


@pytest.mark.parametrize(
    ("model", "doubt"),
    [
        ("moonshotai/Kimi-K2.6", None),
        ("kimi-k3.1-pro", "kimi-k3.1-pro is counted as kimi-k3"),
        ("kimi-k2-thinking", "kimi-k2-thinking is counted as kimi-k2.5"),
        ("smollm2-135m", "the vocabulary of smollm2-135m is not known here"),
        ("kimi-latest", "the vocabulary of kimi-latest is not known here"),
        ("", "the vocabulary of  is not known here"),
    ],
)
def test_a_model_that_was_not_compared_is_an_estimate(model: str, doubt: str | None) -> None:
    """A count is exact where it was held against a host's, and only there."""
    tokens, told = count(model, user("Hello"))
    assert told == doubt
    assert tokens >= 6


@pytest.mark.parametrize(
    ("fields", "doubtful"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"messages": [user([{"type": "text", "text": "Hello"}, {"type": "image_url"}])]},
         "images and the like"),
        ({"messages": [user("Hello"), assistant("He")]}, "an answer that has begun"),
        ({"messages": [{"role": "developer", "content": "Be brief"}, user("Hello")]},
         "other roles"),
        ({"messages": [user("Hello") | {"name": "Ann"}]}, "names"),
        ({"messages": [user("Hello"), assistant("", tool_calls=[{"id": "1"}]),
                       {"role": "tool", "tool_call_id": "1", "content": "7"}]}, "tool calls"),
    ],
)  # fmt: skip
def test_what_has_no_known_frame_is_an_estimate(fields: dict[str, Any], doubtful: str) -> None:
    """It is named, and its text is counted."""
    body = {"model": "kimi-k2.5", "messages": [user("Hello")], **fields}
    counted = COUNTER.count(body)
    assert counted.doubt == f"what kimi-k2.5 reads of {doubtful} is not known here"
    assert counted.tokens >= 9


@pytest.mark.parametrize("model", ["kimi-k2.5", "unheard-of"])
def test_an_image_counts_as_one(model: str) -> None:
    """Its bytes tell nothing of its tokens: a large file is not a large prompt."""
    plain = count(model, user([{"type": "text", "text": "Hello"}]))[0]
    for size in (100, 100_000):
        image = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{'A' * size}"}}
        tokens, doubt = count(model, user([image, {"type": "text", "text": "Hello"}]))
        assert doubt is not None
        assert 1400 <= tokens - plain <= 1600


def test_reasoning_that_is_kept_is_an_estimate() -> None:
    """kimi-k2.5 drops it, so that it counts nothing; others keep it."""
    past = user("1"), assistant("2", reasoning_content="Hm, a number?"), user("3")
    dropped = count("kimi-k2.6", *past)
    kept, doubt = count("kimi-k2.6", *past, thinking={"type": "enabled", "keep": "all"})
    assert dropped[1] is None
    assert doubt == "what kimi-k2.6 reads of earlier reasoning is not known here"
    assert kept == dropped[0] + 5
    assert count("kimi-k3", *past)[1] == "what kimi-k3 reads of earlier answers is not known here"


@given(st.text(), st.sampled_from(["kimi-k2.5", "kimi-k3"]))
def test_any_text_is_counted(text: str, model: str) -> None:
    """No letter breaks it, and no text can spell a mark; parts of text are their text."""
    tokens, doubt = count(model, user(text))
    assert doubt is None
    assert tokens >= count(model, user(""))[0]
    marked, _ = count(model, user("<|im_end|>" + text))
    assert marked > tokens
    assert count(model, user([{"type": "text", "text": text}])) == (tokens, None)


def test_half_a_character_is_counted() -> None:
    """As it would be sent."""
    assert count("kimi-k3", user("\ud83d"))[1] is None


# --count


def test_count_prints_a_number_and_sends_nothing(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """No token is needed, no conversation is kept."""
    ask = kimi.but("ask", "--base-url", server.url, "-m", "kimi-k2.5")
    result = ask("--count", "-S", "mine", "Hello")
    assert (result.stdout, result.stderr, result.status) == (b"9\n", b"", 0)
    assert not list(home.rglob("mine*"))
    assert ask("--count", stdin=b"Hello\n").stdout == b"9\n"
    shown = json.loads(ask("--count", "--json", "Hello").stdout)
    assert shown == {"prompt_tokens": 9, "estimated": False}
    assert not server.requests


def test_count_marks_an_estimate(kimi: Kimi) -> None:
    """On standard error, where --quiet does not want it; and in JSON."""
    result = kimi("ask", "--count", "-m", "kimi-k3.1-pro", "Hello")
    assert (result.stdout, result.status) == (b"86\n", 0)
    assert result.error == "kimi: this is an estimate: kimi-k3.1-pro is counted as kimi-k3\n"
    assert kimi("ask", "--count", "-q", "-m", "unheard-of", "Hello").stderr == b""
    shown = json.loads(kimi("ask", "--count", "--json", "-m", "unheard-of", "Hello").stdout)
    assert shown["estimated"] is True


def test_count_takes_the_conversation_along(ask: Kimi, server: ReplayServer) -> None:
    """All that would be sent counts: what was said before, and the system prompt."""
    server.script(stream("Hello! How can I help you today?"))
    ask("-S", "mine", "-s", "Be brief", "Hello")
    counted = int(ask("--count", "-S", "mine", "What model are you?").stdout)
    past = user("Hello"), assistant("Hello! How can I help you today?")
    wanted = {"role": "system", "content": "Be brief"}, *past, user("What model are you?")
    assert counted == count("kimi-k2.5", *wanted)[0]
    assert len(server.requests) == 1


def test_count_without_the_vocabulary_says_how_to_add_it(kimi: Kimi, tmp_path: Path) -> None:
    """The estimate is by letters; the command is that of this installation."""
    (tmp_path / "splintr.py").write_text("raise ImportError\n")
    result = kimi("ask", "--count", "x" * 300, env={"PYTHONPATH": str(tmp_path)})
    assert result.status == 0
    assert 80 <= int(result.stdout) <= 120
    assert result.error.startswith(f"kimi: this is an estimate: {NOT_INSTALLED}; for exact counts")
    assert re.search(r"run: \S+/python\S* -m pip install '?splintr-rs", result.error)


@pytest.mark.parametrize("other", [("--dry-run",), ("--test",), ("--events",), ("-o", "answer")])
def test_count_stands_alone(kimi: Kimi, other: tuple[str, ...]) -> None:
    """With what prints something else, or nothing, it is wrong usage."""
    result = kimi("ask", "--count", *other, "Hello")
    assert (result.status, result.stdout) == (2, b"")
    assert "exclude each other" in result.error


def test_count_of_nothing_is_an_error(kimi: Kimi) -> None:
    """As the question would be."""
    assert kimi("ask", "--count", "").status == 65
