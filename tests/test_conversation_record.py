"""One message of a conversation as a line: it survives, and what is none is refused."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conversations import (
    Line,
    assistant,
    calling,
    encode,
    list_sent,
    make_conversation,
    result,
    say,
    system,
    user,
)
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.api.messages import Completion, Ending, Message
from kimi_cli.conversation.record import Entry, make_answer, read_entry

TEXTS = st.text(st.characters(), max_size=20)
NAMES = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
PLAIN = st.none() | st.booleans() | INTEGERS | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    PLAIN | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.dictionaries(NAMES, VALUES, max_size=3)
MESSAGES = st.builds(
    Message,
    st.sampled_from(["system", "user", "assistant", "tool"]),
    st.none() | TEXTS | st.lists(OBJECTS, max_size=3),
    st.none() | TEXTS,
    st.lists(OBJECTS, max_size=2).map(tuple),
    st.none() | TEXTS,
    st.none() | TEXTS,
)
FACTS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["turn", "time", "model", "profile", "base_url"], TEXTS),
        **dict.fromkeys(["id", "finish_reason", "incomplete"], TEXTS),
        **dict.fromkeys(["options", "usage"], OBJECTS),
        "of another program": VALUES.filter(lambda value: value is not None),
    },
)


def mend(value: Any) -> Any:
    """Join halves of characters, and put U+FFFD for those that stand alone, however deep."""
    if isinstance(value, str):
        pairs = re.sub(
            "[\ud800-\udbff][\udc00-\udfff]",
            lambda pair: pair[0].encode("utf-16-le", "surrogatepass").decode("utf-16-le"),
            value,
        )
        return re.sub("[\ud800-\udfff]", "\ufffd", pairs)
    if isinstance(value, (list, tuple)):
        return type(value)(map(mend, value))
    if isinstance(value, dict):
        return {key: mend(inner) for key, inner in value.items()}
    return value


@given(MESSAGES, FACTS)
def test_any_entry_survives_its_line(message: Message, facts: Line) -> None:
    """One line of UTF-8 for every kind of message; half a character becomes U+FFFD."""
    line = Entry(message, facts).encode()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    again = read_entry(line)
    parts = ("role", "content", "reasoning", "tool_calls", "tool_call_id", "name")
    for part in parts:
        assert getattr(again.message, part) == mend(getattr(message, part))
    assert again.facts == mend(facts)
    assert again.encode() == line


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("\ud83d", "\ufffd"),
        ("a\udc00b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        ("\ude00\ud83d", "\ufffd\ufffd"),
        ("\u2028\x85\x0b\x1c\r\n\x00", "\u2028\x85\x0b\x1c\r\n\x00"),
        ("\x1b[2J\u202e", "\x1b[2J\u202e"),
    ],
)
def test_text_is_kept_as_it_is(text: str, kept: str) -> None:
    """Line separators and escapes too; only half a character cannot be UTF-8."""
    line = say(text).encode()
    assert line.count(b"\n") == 1
    assert json.loads(line.decode())["content"] == kept
    assert read_entry(line).message.text == kept


@pytest.mark.parametrize(
    ("model", "id", "finish"),
    [
        ("m", "i", "stop"),
        (None, None, None),
        (7, "i", "stop"),
        ("m", 7, "stop"),
        ("m", {"a": 1}, "stop"),
        ("m", "i", 7),
    ],
)
def test_whatever_a_host_sends_can_be_read_again(model: Any, id: Any, finish: Any) -> None:
    """Odd types of a host must not make the conversation unreadable."""
    ending = Ending(id, model, finish, {"total_tokens": 3})
    entry = make_answer("t", Completion("yes", "", ending), incomplete=None)
    assert entry is not None
    assert read_entry(entry.encode()).message.text == "yes"


@pytest.mark.parametrize("content", ["", " ", "\n\t\u3000"])
def test_an_empty_answer_is_no_entry(content: str) -> None:
    """It would poison later turns; one that calls tools is kept."""
    thought = Completion(content, "Hm.", Ending("i", "m", "stop"))
    assert make_answer("t", thought, incomplete=None) is None
    calls = Ending("i", "m", "tool_calls", None, tuple(calling("c1")["tool_calls"]))
    entry = make_answer("t", Completion(content, "", calls), incomplete=None)
    assert entry is not None
    assert entry.message.to_json()["tool_calls"] == calling("c1")["tool_calls"]


KINDS = [
    system("Be brief."),
    user("plain"),
    user([{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "d"}}]),
    user("q", name="Ann"),
    assistant("a"),
    assistant("a", reasoning_content="Hm."),
    assistant("a", reasoning_content=""),
    assistant([{"type": "text", "text": "a"}]),
    calling("c1"),
    calling("c1", "c2", content="Let me see.", reasoning_content="Hm."),
    result("c1"),
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["role"])
def test_every_kind_of_message_is_read(kind: Line) -> None:
    """As the API has it, without one of our keys, and written again with nothing else."""
    [line] = encode(kind).splitlines()
    entry = read_entry(line)
    assert entry.message.to_json() == kind
    assert json.loads(entry.encode()) == kind
    assert (entry.turn, entry.incomplete, entry.usage, entry.manner) == ("", None, None, None)


def test_what_a_host_adds_is_not_sent_back() -> None:
    """The copy of the reasoning and all that is null or empty stay on record only."""
    odd = assistant(
        "a", reasoning="Hm.", refusal=None, tool_calls=[], logprobs=None, annotations=[1]
    )
    assert list_sent(user("q"), odd, model="kimi-k3") == [user("q"), assistant("a")]
    assert make_conversation(odd).entries[0].facts == {"reasoning": "Hm.", "annotations": [1]}


@pytest.mark.parametrize(
    "line",
    [
        b"7",
        b'"text"',
        b"[]",
        b"{}",
        b"{",
        b'{"role":"user","content":"x"} {}',
        b'{"role":"developer","content":"x"}',
        b'{"role":["user"],"content":"x"}',
        b'{"role":"user","content":true}',
        b'{"role":"user","content":[1]}',
        b'{"role":"user","content":"x","name":1}',
        b'{"role":"tool","content":"x","tool_call_id":1}',
        b'{"role":"assistant","content":"x","tool_calls":{"id":"c1"}}',
        b'{"role":"assistant","content":"x","tool_calls":[1]}',
        b'{"role":"assistant","content":"x","reasoning_content":[]}',
        b'{"role":"assistant","content":"x","usage":1}',
        b'{"role":"assistant","content":"x","usage":{"a":NaN}}',
        b'{"role":"user","content":"x","profile":1}',
        b"\0" * 40,
        b"[" * 100_000,
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    """Always with the same kind of error."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
        read_entry(line)
