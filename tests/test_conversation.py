"""Conversations in depth: the record, what is sent of it, and `kimi ask -c` and `-S` at work."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import Kimi
from server import (
    Barrier,
    Cut,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Stall,
    completion,
    document,
    event,
    refusal,
    stream,
)

from kimi_cli.api.messages import Completion, Ending, Message, Request
from kimi_cli.conversation import archive
from kimi_cli.conversation.archive import Archive, ConversationFile
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import (
    Conversation,
    Entry,
    make_answer,
    read_entry,
)
from kimi_cli.errors import BadInput, MissingInput, TemporaryFailure
from kimi_cli.prompt.content import Prompt

FOLDER = ".local/state/kimi/conversations"
NOTE = "\n\n[The answer was cut off here.]"

Line = dict[str, Any]


def system(text: str, **more: Any) -> Line:
    """A system prompt as a line of a record."""
    return {"role": "system", "content": text, **more}


def user(content: Any, **more: Any) -> Line:
    """A question as a line of a record."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Line:
    """An answer as a line of a record."""
    return {"role": "assistant", "content": content, **more}


def calling(*names: str, content: str | None = None, **more: Any) -> Line:
    """An answer that calls tools, by the ids of the calls."""
    function = {"name": "add", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    return assistant(content, tool_calls=calls, **more)


def result(name: str, **more: Any) -> Line:
    """What a tool gave for the call of that id."""
    return {"role": "tool", "content": "3", "tool_call_id": name, "name": "add", **more}


def encode(*lines: Line) -> bytes:
    """The bytes of a record."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def read_lines(path: Path) -> list[Line]:
    """What a record holds; every line of it must be whole."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def make_conversation(*lines: Line) -> Conversation:
    """The conversation of these lines."""
    return Conversation(read_entry(line) for line in encode(*lines).splitlines())


def list_sent(*lines: Line, model: str = "kimi-k2.5") -> list[Line]:
    """What a model is sent of these lines, as it goes over the wire."""
    return [message.to_json() for message in make_conversation(*lines).make_messages(model)]


def say(text: str) -> Entry:
    """A message, for tests that do not care what was said."""
    return Entry(Message("user", text))


# One line of the record

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


# What is sent back


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("kimi-k3", True),
        ("kimi-k3-preview", True),
        ("kimi-k2.7-code", True),
        ("kimi-k2.7-code-highspeed", True),
        ("kimi-k2.7", False),
        ("kimi-k2.6", False),
        ("kimi-k2.5", False),
        ("kimi-k2-thinking", False),
        ("moonshot-v1-8k", False),
        ("my-kimi-k3", False),
        ("", False),
    ],
)
def test_reasoning_goes_to_whom_wants_it(model: str, wanted: bool) -> None:
    """Under its documented name only, and nothing of it to all others."""
    answer = assistant("a", reasoning_content="Hm.", reasoning="Hm.")
    sent = {"reasoning_content": "Hm."} if wanted else {}
    assert list_sent(user("q"), answer, model=model) == [user("q"), assistant("a", **sent)]
    # None is made up where there was none.
    assert list_sent(user("q"), assistant("a"), model=model) == [user("q"), assistant("a")]


@pytest.mark.parametrize("model", ["kimi-k3", "kimi-k2.5"])
def test_a_loop_of_tools_is_sent_whole(model: str) -> None:
    """Every call with its results, and reasoning_content with every model, be it empty."""
    lines = [
        user("1 + 2 + 3?"),
        calling("c1", "c2", reasoning_content="Hm."),
        result("c2"),
        result("c1"),
        calling("c3", content="Nearly."),
        result("c3"),
        assistant("6"),
    ]
    sent = list(lines)
    sent[4] = lines[4] | {"reasoning_content": ""}
    assert list_sent(*lines, model=model) == sent


CASES: list[tuple[str, list[Line], list[Line] | None]] = [
    ("nothing", [], []),
    ("a system prompt alone", [system("s")], [system("s")]),
    ("unanswered", [user("q")], []),
    ("answered with nothing", [user("q"), assistant("")], []),
    ("answered with null", [user("q"), assistant(None)], []),
    ("answered with white space", [user("q"), assistant(" \n\t")], []),
    ("answered with empty parts", [user("q"), assistant([])], []),
    ("only thought", [user("q"), assistant("", reasoning_content="Hm.")], []),
    ("one of two answered", [user("q"), user("r"), assistant("a")], [user("r"), assistant("a")]),
    ("unanswered at the end", [user("q"), assistant("a"), user("r")], [user("q"), assistant("a")]),
    ("parts", [user([{"type": "text", "text": "x"}]), assistant([{"text": "a"}])], None),
    ("begins with an answer", [assistant("Hello!"), user("q"), assistant("a")], None),
    ("begins with a prompt and an answer", [system("s"), assistant("Hello!")], None),
    ("a name", [user("q", name="Ann"), assistant("a")], None),
    ("cut", [user("q"), assistant("half \n", incomplete="failed")],
     [user("q"), assistant("half" + NOTE)]),
    ("cut parts", [user("q"), assistant([{"text": "half"}], incomplete="length")],
     [user("q"), assistant("half" + NOTE)]),
    ("a call without its result", [user("q"), calling("c1")], []),
    ("a call without its result, and text", [user("q"), calling("c1", content="Hm")],
     [user("q"), assistant("Hm")]),
    ("one of two results", [user("q"), calling("c1", "c2"), result("c1"), assistant("a")],
     [user("q"), assistant("a")]),
    ("a result without its call", [user("q"), result("c1"), assistant("a")],
     [user("q"), assistant("a")]),
    ("results of which nothing came", [user("q"), calling("c1"), result("c1")], []),
    ("a result in another turn", [user("q"), calling("c1"), user("r"), result("c1"),
     assistant("a")], [user("r"), assistant("a")]),
    ("two turns at once", [
        user("a", turn="1"), user("b", turn="2"), user("c", turn="3"),
        assistant("B", turn="2"), assistant("A", turn="1"),
     ], [user("a"), assistant("A"), user("b"), assistant("B")]),
    ("two loops of tools at once", [
        user("a", turn="1"), user("b", turn="2"),
        calling("c1", turn="1", reasoning_content="x"),
        calling("c1", turn="2", reasoning_content="y"),
        result("c1", turn="2"), result("c1", turn="1"),
        assistant("A", turn="1"), assistant("B", turn="2"),
     ], [
        user("a"), calling("c1", reasoning_content="x"), result("c1"), assistant("A"),
        user("b"), calling("c1", reasoning_content="y"), result("c1"), assistant("B"),
     ]),
    ("another program went on", [
        user("a", turn="1"), assistant("A", turn="1"), user("b"), assistant("B"),
     ], [user("a"), assistant("A"), user("b"), assistant("B")]),
    ("an odd id", [user("q"), assistant("a", tool_calls=[{"id": ["c1"]}])],
     [user("q"), assistant("a")]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("lines", "sent"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_is_sent(lines: list[Line], sent: list[Line] | None) -> None:
    """No question without its answer, no empty answer, no call without its result."""
    assert list_sent(*lines) == (lines if sent is None else sent)


@pytest.mark.parametrize(
    "lines",
    [
        [calling("c1"), result("c1")],
        [result("c1"), calling("c1")],
        [calling("c1"), result("c1"), calling("c1")],
        [calling("c1"), assistant("Wait."), result("c1")],
        [calling("c1"), result("c1"), result("c1")],
    ],
    ids=["whole", "before", "again", "apart", "twice"],
)
def test_each_call_is_followed_by_its_results(lines: list[Line]) -> None:
    """By all of them and by nothing else, whatever another program has written."""
    sent = list_sent(user("q"), *lines, assistant("a"))
    while sent:
        message = sent.pop(0)
        assert message["role"] != "tool"
        wanted = {call["id"] for call in message.get("tool_calls", ())}
        for _ in range(len(wanted)):
            wanted.remove(sent.pop(0).get("tool_call_id"))


def test_half_a_character_can_be_sent() -> None:
    """Other programs write it as an escape; U+FFFD goes to the host."""
    lines = [user("\ud83d"), assistant("a")]
    conversation = Conversation(read_entry(json.dumps(line).encode()) for line in lines)
    request = Request(model="m", messages=tuple(conversation.make_messages("m")))
    assert json.loads(request.encode())["messages"] == [user("\ufffd"), assistant("a")]


def test_the_last_system_prompt_stands_first() -> None:
    """Wherever it was set; an empty one takes it away."""
    turns = [user("q"), assistant("a"), user("r"), assistant("b")]
    lines = [system("one"), *turns[:2], system("two"), *turns[2:]]
    assert list_sent(*lines) == [system("two"), *turns]
    assert list_sent(*lines, system("")) == turns
    assert list_sent(*lines, system(""), system("three")) == [system("three"), *turns]
    dialogue = Dialogue(make_conversation(*lines), warn=pytest.fail)
    assert dialogue.compose(Prompt("new"), "m", system="four")[0] == Message("system", "four")
    roles = [message.role for message in dialogue.compose(Prompt("new"), "m", system="")]
    assert roles == ["user", "assistant", "user", "assistant", "user"]


STEPS = st.sampled_from(
    [
        system("s"),
        user("q"),
        assistant("a"),
        assistant(""),
        assistant("half", incomplete="failed"),
        assistant("a", reasoning_content="Hm."),
    ]
)


@given(st.lists(STEPS, max_size=12), st.sampled_from(["kimi-k3", "kimi-k2.5"]))
def test_no_record_makes_a_request_that_hosts_refuse(lines: list[Line], model: str) -> None:
    """Whatever happened in a conversation without tools."""
    sent = list_sent(*lines, model=model)
    roles = [message["role"] for message in sent]
    assert roles.count("system") == (system("s") in lines)
    assert "system" not in roles[1:]
    assert roles[-1:] != ["user"]
    assert all(message["content"].strip() for message in sent)
    assert not any({"incomplete", "reasoning", "turn"} & message.keys() for message in sent)
    halves = [message for message in sent if message["content"].startswith("half")]
    assert all(message["content"] == "half" + NOTE for message in halves)
    thoughts = [message for message in sent if "reasoning_content" in message]
    assert not thoughts or model == "kimi-k3"


@given(st.data())
def test_turns_that_were_mixed_are_parted(data: st.DataObject) -> None:
    """However the lines of several processes came to lie: by turns, as they were asked."""
    count = data.draw(st.integers(1, 5))
    order = data.draw(st.permutations([turn for turn in range(count) for _ in range(2)]))
    lines, asked = [], []
    for turn in order:
        make = assistant if turn in asked else user
        lines.append(make(f"{make.__name__} {turn}", turn=str(turn)))
        asked += [] if turn in asked else [turn]
    assert [message["content"] for message in list_sent(*lines)] == [
        f"{role} {turn}" for turn in asked for role in ("user", "assistant")
    ]


# The file


def open_file(path: Path, *lines: Line) -> tuple[ConversationFile, list[str]]:
    """A conversation that has these lines and was read, and what it was told of."""
    if lines:
        path.write_bytes(encode(*lines))
    told: list[str] = []
    file = ConversationFile(path, told.append)
    file.read()
    return file, told


FIRST, LAST = user("first é"), assistant("last 漢 😀", turn="t", usage={"total_tokens": 3})
NEXT = say("next")


@pytest.mark.parametrize("nuls", [0, 1, 4096, 70_000])
@pytest.mark.parametrize("before", [(), (FIRST,)], ids=["alone", "second"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, before: tuple[Line, ...], nuls: int) -> None:
    """At every byte where a power cut may tear it; what only lacks its end is completed."""
    path = tmp_path / "x.jsonl"
    start, line = encode(*before), encode(LAST)
    for place in range(len(line) + 1) if nuls < 4096 else (0, 1, 20, len(line) - 1, len(line)):
        path.write_bytes(start + line[:place] + b"\0" * nuls)
        told: list[str] = []
        file = ConversationFile(path, told.append)
        conversation = file.read()
        assert conversation is not None
        is_kept = place == len(line) or (place == len(line) - 1 and not nuls)
        is_torn = bool(nuls) or (place > 0 and not is_kept)
        kept = [*before, LAST] if is_kept else [*before]
        assert [json.loads(entry.encode()) for entry in conversation.entries] == kept
        assert told == [f"{path}: the last line was torn, and is dropped"] * is_torn
        assert file.append([NEXT]) is True
        assert path.read_bytes() == encode(*kept) + NEXT.encode()


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("whole", [True, False])
def test_a_long_last_line_is_mended(tmp_path: Path, size: int, whole: bool) -> None:
    """However many blocks of the file it takes to find where it begins."""
    path = tmp_path / "x.jsonl"
    line = encode(user("x"))[:-1]
    line = line.replace(b"x", b"x" * (size - len(line) + 1))
    assert len(line) == size
    path.write_bytes(encode(FIRST) + (line if whole else line[:-1]))
    file, _ = open_file(path)
    file.append([NEXT])
    kept = line + b"\n" if whole else b""
    assert path.read_bytes() == encode(FIRST) + kept + NEXT.encode()


@pytest.mark.parametrize("size", [0, 1, 3, 65_536])
def test_nothing_but_nul_is_an_empty_conversation(tmp_path: Path, size: int) -> None:
    """A file whose blocks never reached the disk."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\0" * size)
    file, told = open_file(path)
    assert len(told) == bool(size)
    file.append([NEXT])
    assert path.read_bytes() == NEXT.encode()


@pytest.mark.parametrize(
    "damage",
    [b"my notes\n", b"\0\0\0\n", b'{"role":"user"\n', b"{}\n", b"\xff\n", b'{"role":"user","con'],
)
@pytest.mark.parametrize("tail", [b"", b'{"role":"us', encode(LAST)])
def test_a_damaged_file_is_left_alone(tmp_path: Path, damage: bytes, tail: bytes) -> None:
    """A bad line with another after it: neither read nor replaced, and not a byte changes."""
    path = tmp_path / "x.jsonl"
    data = encode(FIRST) + damage + encode(FIRST) + tail
    path.write_bytes(data)
    file = ConversationFile(path)
    for act in (file.read, lambda: file.replace([NEXT])):
        with pytest.raises(BadInput, match=r"x\.jsonl:2 is no message"):
            act()
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_blank_lines_and_other_line_ends_are_tolerated(tmp_path: Path) -> None:
    """As other programs write them."""
    path = tmp_path / "x.jsonl"
    data = b"\n" + encode(FIRST).replace(b"\n", b"\r\n\r\n") + b"  \n" + encode(LAST)
    path.write_bytes(data)
    file, told = open_file(path)
    conversation = file.read()
    assert conversation is not None
    assert [entry.message.text for entry in conversation.entries] == ["first é", "last 漢 😀"]
    file.append([NEXT])
    assert path.read_bytes() == data + NEXT.encode()
    file.remove({1})
    assert path.read_bytes() == data.removesuffix(encode(LAST)) + NEXT.encode()
    assert not told


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_messages_are_taken_out_again(tmp_path: Path, data: st.DataObject) -> None:
    """Next to each other or not; the others stay byte for byte, and the file goes on."""
    path = tmp_path / "x.jsonl"
    count = data.draw(st.integers(1, 8))
    gone = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    lines = [encode(user("x" * number)) for number in range(count)]
    path.write_bytes(b"".join(lines))
    file, _ = open_file(path)
    file.remove(gone)
    left = b"".join(line for number, line in enumerate(lines) if number not in gone)
    assert path.read_bytes() == left
    assert file.append([NEXT]) is True
    assert path.read_bytes() == left + NEXT.encode()


def test_the_last_turn_is_taken_back(tmp_path: Path) -> None:
    """As a whole, out of the middle of somebody else's, and only of what was seen."""
    path = tmp_path / "x.jsonl"
    lines = [
        system("s", turn="1"),
        user("a", turn="1"),
        user("b", turn="2"),
        calling("c1", turn="2"),
        assistant("A", turn="1"),
        result("c1", turn="2"),
        assistant("B", turn="2"),
    ]
    file, _ = open_file(path, *lines)
    dialogue = Dialogue(file.read(), file, warn=pytest.fail)
    assert dialogue.take_back() == "b"
    assert read_lines(path) == [lines[0], lines[1], lines[4]]
    other, _ = open_file(path)
    other.append([NEXT])
    before = path.read_bytes()
    with pytest.raises(TemporaryFailure, match="went on in another process"):
        dialogue.take_back()
    assert path.read_bytes() == before


UMASKS = pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
WAYS = pytest.mark.parametrize("way", [ConversationFile.append, ConversationFile.replace])
Way = Callable[[ConversationFile, Sequence[Entry]], object]


@pytest.fixture
def masked(umask: int) -> Iterator[None]:
    """The test runs with that umask."""
    before = os.umask(umask)
    yield
    os.umask(before)


def find_mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


@UMASKS
@WAYS
@pytest.mark.usefixtures("masked")
def test_only_the_owner_may_read(tmp_path: Path, way: Way) -> None:
    """Folder 0700 and file 0600, whatever the umask, however the file is begun."""
    path = tmp_path / "conversations" / "x.jsonl"
    way(ConversationFile(path), [NEXT])
    assert (find_mode(path.parent), find_mode(path)) == (0o700, 0o600)
    path.parent.chmod(0o755)
    way(ConversationFile(path.with_name("y.jsonl")), [NEXT])
    assert (find_mode(path.parent), find_mode(path.with_name("y.jsonl"))) == (0o700, 0o600)


@pytest.mark.parametrize("umask", [0o000, 0o777])
@WAYS
@pytest.mark.usefixtures("masked")
def test_folders_above_are_for_the_owner(tmp_path: Path, way: Way) -> None:
    """What is made on the way is as the XDG specification wants it: 0700."""
    way(ConversationFile(tmp_path / "kimi" / "conversations" / "x.jsonl"), [NEXT])
    assert find_mode(tmp_path / "kimi") == 0o700


def _recreate(path: Path) -> None:
    path.unlink()
    path.write_bytes(encode(user("new")))


def _rename_over(path: Path) -> None:
    ConversationFile(path).replace([say("new")])


@pytest.mark.parametrize(
    "meanwhile",
    [
        Path.unlink,
        lambda path: shutil.rmtree(path.parent),
        lambda path: path.write_bytes(b""),
        _recreate,
        _rename_over,
    ],
    ids=["removed", "folder removed", "emptied", "made anew", "replaced"],
)
def test_what_took_its_place_is_left_alone(
    tmp_path: Path, meanwhile: Callable[[Path], object]
) -> None:
    """Who still talks in the old file is told, and neither adds to the new one nor makes one."""
    path = tmp_path / "conversations" / "x.jsonl"
    path.parent.mkdir()
    file, _ = open_file(path, FIRST, LAST)
    meanwhile(path)
    before = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(TemporaryFailure, match="conversation x was replaced or removed"):
            file.append([NEXT])
    with pytest.raises(TemporaryFailure):
        file.remove({0})
    assert (path.read_bytes() if path.exists() else None) == before


def test_who_wrote_in_between_is_noticed(tmp_path: Path) -> None:
    """Both are kept; a shorter file is noticed as well as a longer one."""
    path = tmp_path / "x.jsonl"
    one, two = ConversationFile(path), ConversationFile(path)
    assert one.read() is None
    assert one.append([say("1")]) is True
    two.read()
    assert two.append([say("2")]) is True
    assert one.append([say("3")]) is False
    assert one.append([say("4")]) is True
    two.read()
    one.remove({2})
    assert two.append([say("5")]) is False
    assert [line["content"] for line in read_lines(path)] == ["1", "2", "4", "5"]


@pytest.mark.parametrize("data", [b"", b'{"role":"us'])
def test_two_may_begin_in_an_empty_file(tmp_path: Path, data: bytes) -> None:
    """As a full disk or `touch` leaves it: the second is told of the first, and both are kept."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    (one, _), (two, _) = open_file(path), open_file(path)
    assert one.append([say("1")]) is True
    assert two.append([say("2")]) is False
    assert [line["content"] for line in read_lines(path)] == ["1", "2"]


def test_what_comes_while_reading_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is not part of the conversation that was read is somebody else's."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST))
    look_at = archive._look_at

    def be_late(descriptor: int) -> object:
        monkeypatch.undo()
        with path.open("ab") as other:
            other.write(encode(LAST))
        return look_at(descriptor)

    monkeypatch.setattr(archive, "_look_at", be_late)
    file = ConversationFile(path)
    conversation = file.read()
    assert conversation is not None
    seen = [entry.message.text for entry in conversation.entries]
    assert file.append([NEXT]) is (len(seen) == 2)


FULL_DISK = """
import resource, sys
from pathlib import Path
from kimi_cli.api.messages import Message
from kimi_cli.conversation.archive import ConversationFile
from kimi_cli.conversation.record import Entry
from kimi_cli.errors import OutputFailed

path, limit, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
file = ConversationFile(path)
file.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
pair = [Entry(Message("system", "s" * 90)), Entry(Message("user", "é" * 90))]
count = 0
try:
    while True:
        file.remove({0}) if way == "remove" else getattr(file, way)(pair)
        count += 1
except OutputFailed as error:
    print(count, error)
"""


def fill_disk(path: Path, limit: int, way: str) -> int:
    """Write to the file in a process whose files have a limit; tell how often it worked."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(limit), way],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    count, _, error = done.stdout.partition(" ")
    assert error == f"cannot write {path}: File too large\n"
    return int(count)


@pytest.mark.parametrize("limit", [100, 1000, 1399, 1700])
def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, limit: int) -> None:
    """Of what was written in one go all or nothing stays, and the rest stays as it was."""
    path = tmp_path / "x.jsonl"
    count = fill_disk(path, limit, "append")
    assert (count == 0) is (limit == 100)
    assert path.exists() is (count > 0)
    roles = [line["role"] for line in read_lines(path)] if count else []
    assert roles == ["system", "user"] * count
    file, told = open_file(path)
    file.append([NEXT])
    assert read_lines(path)[-1]["content"] == "next"
    assert not told


def test_a_full_disk_mends_no_tail(tmp_path: Path) -> None:
    """Where there is no room for a line feed the file stays byte for byte."""
    path = tmp_path / "x.jsonl"
    data = encode(FIRST, LAST)[:-1]
    path.write_bytes(data)
    assert fill_disk(path, len(data), "append") == 0
    assert path.read_bytes() == data


def test_a_full_disk_replaces_nothing(tmp_path: Path) -> None:
    """The old conversation is still there, and nothing lies beside it."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST, LAST))
    assert fill_disk(path, 100, "replace") == 0
    assert path.read_bytes() == encode(FIRST, LAST)
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_full_disk_takes_nothing_out(tmp_path: Path) -> None:
    """Messages that were to stay are there, whether or not the others could be removed."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST, LAST, LAST))
    assert fill_disk(path, 100, "remove") == 0
    assert read_lines(path)[-2:] == [LAST, LAST]


@pytest.mark.parametrize("name", ["x", "A_1", "漢字", "a.b", "a+b@c,d=e-f", "x" * 200, "latest"])
def test_good_names(tmp_path: Path, name: str) -> None:
    """Letters of any script and a little more."""
    assert Archive(tmp_path).find(name).path == tmp_path / f"{name}.jsonl"
    assert Archive(tmp_path).find(name).name == name


@pytest.mark.parametrize(
    "name",
    [*("", ".", "..", ".x", "a/b", "/x", "../x", "-x", "+x", "a b", "a\n", "a\0", "a\x1b"),
     *("x" * 201, "漢" * 67, "a:b", "a*", "~", "a\\b")],
)  # fmt: skip
def test_bad_names(tmp_path: Path, name: str) -> None:
    """Whatever could leave the folder, hide in it, or confuse a shell."""
    with pytest.raises(BadInput, match="cannot name a conversation"):
        Archive(tmp_path).find(name)


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    """By looking at it."""
    archive = Archive(tmp_path / "none")
    assert archive.find("x").read() is None
    assert archive.list_names() == []
    with pytest.raises(MissingInput):
        archive.load("x")
    with pytest.raises(MissingInput):
        archive.remove("x")
    assert not archive.folder.exists()


# kimi ask


def list_contents(request: ReceivedRequest) -> list[str]:
    """What the server was told, message by message."""
    return [message["content"] for message in request.json["messages"]]


def echo(request: ReceivedRequest) -> Reply:
    """An answer that names its question."""
    text = f"re: {list_contents(request)[-1]}"
    return stream(text) if request.json["stream"] else completion(text)


def find_record(home: Path, name: str = "latest") -> Path:
    """The file of a conversation."""
    return home / FOLDER / f"{name}.jsonl"


def list_record(home: Path, name: str = "mine") -> list[str]:
    """What was said in a conversation."""
    return [line["content"] for line in read_lines(find_record(home, name))]


def list_next(kimi: Kimi) -> list[str]:
    """What would be sent before the next question."""
    shown = json.loads(kimi("--dry-run", "next").stdout)
    *before, last = [message["content"] for message in shown["messages"]]
    assert last == "next"
    return before


def configure(home: Path, text: str) -> Path:
    """Write the configuration file."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def asking(ask: Kimi, server: ReplayServer) -> Kimi:
    """`kimi ask` towards a server that echoes."""
    server.answer(echo)
    return ask.but("--retries", "0")


@pytest.fixture
def mine(asking: Kimi) -> Kimi:
    """The same in a conversation of that name."""
    return asking.but("-S", "mine")


@pytest.fixture
def other() -> Iterator[ReplayServer]:
    """A second server that echoes."""
    with ReplayServer() as server:
        server.answer(echo)
        yield server
    server.check()


def test_a_session_is_made_and_goes_on(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The host is told all that was said; the record has it, and nothing was on stderr."""
    for question in ("one", "two", "three"):
        run = mine(question)
        assert (run.stdout.decode(), run.error, run.status) == (f"re: {question}\n", "", 0)
    said = ["one", "re: one", "two", "re: two", "three", "re: three"]
    sent = [list_contents(request) for request in server.requests]
    assert sent == [said[:1], said[:3], said[:5]]
    lines = read_lines(find_record(home, "mine"))
    assert [line["content"] for line in lines] == said
    assert [line["role"] for line in lines] == ["user", "assistant"] * 3
    assert [line["turn"] for line in lines[::2]] == [line["turn"] for line in lines[1::2]]
    assert len({line["turn"] for line in lines}) == 3
    facts = ("model", "profile", "base_url", "options")
    question = [lines[0].get(fact) for fact in facts]
    assert question == ["kimi-k2.5", "acedata", server.url, None]
    assert (lines[1]["finish_reason"], lines[1]["usage"]["total_tokens"]) == ("stop", 144)
    assert find_mode(find_record(home, "mine")) == 0o600


OPTIONS = (
    *("--temperature", "0.3", "--top-p", "0.9", "--max-tokens", "77", "--stop", "END", "--seed"),
    *("7", "--reasoning-effort", "low", "--json-mode", "-O", "user=ann", "-O", "logprobs=true"),
)


def test_the_manner_of_a_conversation_is_in_force_again(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """Model and options are; those of the command line and environment are stronger."""
    configure(home, 'model = "kimi-k2.6"\n')
    assert mine("-m", "kimi-k3", *OPTIONS, "one").status == 0
    assert mine("two").status == 0
    changes = ("--temperature", "1", "--stop", "A", "--stop", "B", "-O", "user=bob", "--no-stream")
    assert mine(*changes, "three", env={"KIMI_MODEL": "kimi-k2"}).status == 0
    assert mine("-m", "m", "-O", "top_k=5", "four").status == 0
    one, two, three, four = (
        {key: value for key, value in request.json.items() if key != "messages"}
        for request in server.requests
    )
    assert one == two == {
        "model": "kimi-k3", "stream": True, "temperature": 0.3, "top_p": 0.9, "max_tokens": 77,
        "stop": ["END"], "seed": 7, "reasoning_effort": "low",
        "response_format": {"type": "json_object"}, "user": "ann", "logprobs": True,
    }  # fmt: skip
    changed = {"model": "kimi-k2", "temperature": 1, "stop": ["A", "B"], "user": "bob"}
    assert three == one | changed | {"stream": False}
    assert four == three | {"model": "m", "top_k": 5, "stream": True}


def test_an_option_overrides_a_field_that_was_given_by_its_name(mine: Kimi, home: Path) -> None:
    """The last word of an earlier turn is not the last word of this one."""
    assert mine("-O", "model=kimi-k3", "one").status == 0
    shown = json.loads(mine("--dry-run", "-m", "kimi-k2.6", "two").stdout)
    assert shown["model"] == "kimi-k2.6"


def test_the_profile_of_a_conversation_is_in_force_again(
    kimi: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """With its model; another profile has its own, and none of the options."""
    server.answer(echo)
    configure(
        home,
        f'[profiles.desk]\nbase_url = "{server.url}"\nmodel = "d"\nauth = "none"\n'
        f'[profiles.shop]\nbase_url = "{other.url}"\nmodel = "s"\nauth = "none"\n',
    )
    mine = kimi.but("ask", "-S", "mine")
    assert mine("--profile", "desk", "--seed", "7", "one").status == 0
    assert mine("two").status == 0
    assert [(r.json["model"], r.json["seed"]) for r in server.requests] == [("d", 7)] * 2
    assert mine("--profile", "shop", "three").status == 0
    assert mine("four").status == 0
    assert [r.json["model"] for r in other.requests] == ["s"] * 2
    assert not any("seed" in request.json for request in other.requests)
    assert len(list_contents(other.requests[1])) == 7
    assert "Authorization" not in other.requests[1].headers


def test_reasoning_is_kept_and_sent_to_whom_wants_it(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """It is on record for every model, without the copy of it."""
    server.script(stream("Yes.", reasoning=["Hm", "."]))
    assert mine("one").status == 0
    answer = read_lines(find_record(home, "mine"))[1]
    assert (answer["reasoning_content"], answer.get("reasoning")) == ("Hm.", None)
    assert mine("-m", "kimi-k3", "two").status == 0
    sent = server.requests[1].json["messages"][1]
    assert sent == assistant("Yes.", reasoning_content="Hm.")
    shown = json.loads(mine("--dry-run", "-m", "kimi-k2.6", "three").stdout)
    assert shown["messages"][1] == assistant("Yes.")


def test_the_latest_conversation(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """On a terminal it is kept and replaced; a pipe reads it, and keeps nothing."""
    for arguments in (("zero",), ("one",), ("-c", "two")):
        assert asking.pty(*arguments, stdin=None).wait().status == 0
    kept = ["one", "re: one", "two", "re: two"]
    assert list_record(home, "latest") == kept
    assert asking("-c", "three").status == 0
    assert asking("four").status == 0
    assert [list_contents(request) for request in server.requests[2:]] == [
        ["one", "re: one", "two"],
        [*kept, "three"],
        ["four"],
    ]
    assert list_record(home, "latest") == kept
    assert [path.name for path in (home / FOLDER).iterdir()] == ["latest.jsonl"]


def test_nothing_to_go_on_with(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """-c says so, on a terminal and in a pipe, and asks nothing."""
    assert asking.pty("-c", "one", stdin=None).wait().status == 66
    refused = asking("-c", "one")
    assert (refused.status, refused.stdout) == (66, b"")
    assert "there is no conversation to go on with" in refused.error
    assert not server.connections
    assert not (home / FOLDER).exists()


@pytest.mark.parametrize("way", ["--no-save", "KIMI_SAVE", "config"])
def test_nothing_is_kept_when_not_wanted(
    asking: Kimi, server: ReplayServer, home: Path, way: str
) -> None:
    """What there is goes on, and is not added to."""
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    record.write_bytes(encode(user("q"), assistant("a")))
    if way == "config":
        configure(home, "save = false\n")
    chosen = asking.but(
        *(["--no-save"] if way == "--no-save" else []),
        env={"KIMI_SAVE": "false"} if way == "KIMI_SAVE" else {},
    )
    latest = chosen.pty("one", stdin=None)
    run = chosen("-S", "mine", "two")
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "conversation mine is not saved" in run.error
    assert latest.wait().status == 0
    sent = sorted(map(list_contents, server.requests))
    assert sent == [["one"], ["q", "a", "two"]]
    assert record.read_bytes() == encode(user("q"), assistant("a"))
    assert os.listdir(home / FOLDER) == ["mine.jsonl"]


def test_a_system_prompt_is_in_force_until_the_next(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """The same one is written once; an empty one ends it."""
    options = [["-s", "A"], [], ["-s", "A"], ["-s", "B"], ["-s", ""]]
    for number, arguments in enumerate(options, 1):
        assert mine(*arguments, str(number)).status == 0
    firsts = [request.json["messages"][0] for request in server.requests]
    assert firsts == [*[system("A")] * 3, system("B"), user("1")]
    roles = [m["role"] for request in server.requests for m in request.json["messages"][1:]]
    assert "system" not in roles
    systems = [text for text in list_record(home) if text in ("A", "B", "")]
    assert systems == ["A", "B", ""]
    assert list_next(mine)[0] == "1"


def test_answers_that_are_not_whole_are_marked(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """And are not sent back as if they were."""
    failures: list[tuple[Reply, tuple[str, ...], int, str]] = [
        (stream("half", Cut()), (), 75, "failed"),
        (stream("half\n", finish="length"), (), 3, "length"),
        (stream("half", finish="content_filter"), ("--allow-incomplete",), 0, "content_filter"),
        (completion("half", finish="length"), ("--no-stream", "--json"), 3, "length"),
        (stream("half", event('{"choices": 7}')), (), 76, "failed"),
    ]
    for reply, options, status, why in failures:
        server.script(reply)
        assert mine(*options, why).status == status
    lines = read_lines(find_record(home, "mine"))
    reasons = [why for *_, why in failures]
    assert [line["incomplete"] for line in lines[1::2]] == reasons
    assert mine("next").status == 0
    before = [text for why in reasons for text in (why, "half" + NOTE)]
    assert list_contents(server.requests[-1]) == [*before, "next"]


def test_json_that_is_cut_is_kept(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """As without it, though nothing was printed."""
    server.script(stream("half", Cut()))
    assert mine("--json", "one").status == 75
    lines = read_lines(find_record(home, "mine"))
    assert [line.get("incomplete") for line in lines] == [None, "failed"]


def test_questions_without_an_answer_are_not_sent_again(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """They are on record; empty answers are not."""
    failures = [
        (refusal(400, "bad_request", "no"), 65),
        (refusal(429, "too_many_requests", "slow down"), 75),
        (stream("\n "), 3),
        (stream(reasoning=["Hm."], finish="length"), 3),
        (stream(Cut()), 75),
    ]
    for reply, status in failures:
        server.script(reply)
        assert mine(str(status)).status == status
    assert mine("next").status == 0
    assert list_contents(server.requests[-1]) == ["next"]
    assert list_record(home) == ["65", "75", "3", "3", "75", "next", "re: next"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_an_answer(
    mine: Kimi, server: ReplayServer, home: Path, number: signal.Signals
) -> None:
    """What came is kept and marked; of kill -9 the question is left; the next turn is right."""
    server.script(stream("half", Stall()))
    run = mine.start("one")
    run.expect(b"half")
    run.signal(number)
    assert run.wait().status == -number
    killed = number == signal.SIGKILL
    lines = read_lines(find_record(home, "mine"))
    assert [line.get("incomplete") for line in lines] == [None, *["interrupted"] * (not killed)]
    if not killed:
        assert list_next(mine) == ["one", "half" + NOTE]
        return
    assert mine("two").error == ""
    assert list_contents(server.requests[1]) == ["two"]
    assert list_record(home) == ["one", "two", "re: two"]


def test_a_signal_before_the_answer(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """Leaves the question alone."""
    server.script(Reply([Stall()]))
    run = mine.start("one")
    server.await_requests(1)
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    assert list_record(home) == ["one"]


def test_a_reader_that_leaves(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """`| head -1` cuts the answer short, and the record says so."""
    gate = threading.Event()
    server.script(stream("one\n", "two\n", Barrier(gate), "x" * 100_000, Stall()))
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb") as sink:
        run = mine.start("q", stdout=sink)
        sink.close()
        assert source.readline() == b"one\n"
        source.close()
        gate.set()
        assert run.wait().status == -signal.SIGPIPE
    assert read_lines(find_record(home, "mine"))[1]["incomplete"] == "failed"


def test_a_torn_record_goes_on(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The torn answer is dropped with a warning, once, and its question with it."""
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    said = [user("one"), assistant("re: one"), user("two"), assistant("re: two")]
    record.write_bytes(encode(*said)[:-5])
    assert "the last line was torn, and is dropped" in mine("three").error
    assert list_contents(server.requests[0]) == ["one", "re: one", "three"]
    assert list_record(home) == ["one", "re: one", "two", "three", "re: three"]
    assert mine("--dry-run", "four").error == ""


def test_a_damaged_record_is_refused(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Named or the latest: nothing is asked in it, and not a byte of it changes."""
    data = encode(user("q")) + b"my notes\n" + encode(assistant("a"))
    for name, run in (
        ("mine", lambda: asking("-S", "mine", "one")),
        ("latest", lambda: asking.pty("-c", "one", stdin=None).wait()),
    ):
        find_record(home, name).parent.mkdir(parents=True, exist_ok=True)
        find_record(home, name).write_bytes(data)
        refused = run()
        assert refused.status == 65
        assert f"{name}.jsonl:2 is no message" in refused.error
    assert not server.connections
    # A new conversation does not take its place either.
    run = asking.pty("two", stdin=None).wait()
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "the conversation is not saved" in run.error
    assert find_record(home).read_bytes() == find_record(home, "mine").read_bytes() == data


# Hosts and tokens


def test_another_host_is_told_nothing(
    kimi: Kimi, mine: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """Neither a word nor the token, whatever names it but an option."""
    assert mine("one").status == 0
    before = find_record(home, "mine").read_bytes()
    elsewhere = kimi.but("ask", "-S", "mine", env={"KIMI_TOKEN": CANARY})
    refused = [elsewhere("two", env={"KIMI_BASE_URL": other.url})]
    configure(home, f'base_url = "{other.url}"\n')
    refused.append(elsewhere("two"))
    configure(home, f'profile = "shop"\n[profiles.shop]\nbase_url = "{other.url}"\n')
    refused.append(elsewhere("two", env={"KIMI_PROFILE": "shop"}))
    configure(home, f'[profiles.acedata]\nbase_url = "{other.url}"\n')
    refused.append(elsewhere("two"))
    for run in refused:
        assert (run.status, run.stdout) == (78, b"")
        assert f"this conversation was held with {server.url}" in run.error
    assert not other.connections
    assert len(server.requests) == 1
    assert find_record(home, "mine").read_bytes() == before
    assert elsewhere("--base-url", other.url, "two").status == 0
    assert list_contents(other.requests[0]) == ["one", "re: one", "two"]


def find_tokens(server: ReplayServer) -> list[str | None]:
    """The bearer tokens that a server was sent."""
    return [request.headers["Authorization"] for request in server.requests]


def test_a_token_that_names_no_host_is_not_sent_where_only_the_conversation_points(
    kimi: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """KIMI_TOKEN and the like are for the host that this run names."""
    configure(
        home,
        f'base_url = "{server.url}"\n'
        f'[profiles.desk]\nbase_url = "{other.url}"\nmodel = "m"\ntoken_variable = "DESK"\n',
    )
    token = home / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    credentials = home / "credentials"
    credentials.mkdir()
    (credentials / "kimi-token").write_text(CANARY)
    mine = kimi.but("ask", "-S", "mine")
    desk = {"DESK": "desk-token-123"}
    assert mine("--profile", "desk", "one", env=desk).status == 0
    sources = {
        "KIMI_TOKEN": CANARY,
        "KIMI_TOKEN_FILE": str(token),
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    assert mine("two", env=sources | desk).status == 0
    assert find_tokens(other) == ["Bearer desk-token-123"] * 2
    for run in [mine.start("three", env={name: value}) for name, value in sources.items()]:
        refused = run.wait()
        assert refused.status == 78
        assert "name the host with --profile desk" in refused.error
    assert len(other.requests) == 2
    for arguments, env in (
        (("--profile", "desk"), {}),
        ((), {"KIMI_PROFILE": "desk"}),
        (("--token-file", str(token)), {"KIMI_TOKEN": "unused-token-1"}),
    ):
        assert mine(*arguments, "four", env={"KIMI_TOKEN": CANARY, **env}).status == 0
    assert find_tokens(other)[2:] == [f"Bearer {CANARY}"] * 3
    assert not server.connections
    assert CANARY not in find_record(home, "mine").read_text()
    assert "desk-token-123" not in find_record(home, "mine").read_text()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_base_url_names_the_host(kimi: Kimi, server: ReplayServer, home: Path, way: str) -> None:
    """KIMI_TOKEN is for it, whatever profile the conversation has."""
    server.answer(echo)
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    asked = user("one", model="m", profile="moonshot", base_url=server.url)
    record.write_bytes(encode(asked, assistant("re: one")))
    options = ("--base-url", server.url) if way == "option" else ()
    env = {"KIMI_BASE_URL": server.url} if way == "variable" else {}
    assert kimi("ask", "-S", "mine", *options, "two", env={"KIMI_TOKEN": CANARY, **env}).status == 0
    assert find_tokens(server) == [f"Bearer {CANARY}"]


# Several at once


def test_64_at_once(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Half on one name, half on one each: every line is whole, and there once."""
    gate = threading.Event()
    server.answer(lambda request: stream(Barrier(gate), f"re: {list_contents(request)[-1]}"))
    gentle = home / "gentle"
    gentle.write_text(f'#!/bin/sh\nexec nice -n 19 "{asking.program}" "$@"\n')
    gentle.chmod(0o755)
    asking = replace(asking, program=gentle)
    names = [f"n{number}" if number % 2 else "one" for number in range(64)]
    runs = [asking.start("-S", name, f"q{number}") for number, name in enumerate(names)]
    server.await_requests(64, timeout=50)
    gate.set()
    results = [run.wait(50) for run in runs]
    assert [run.status for run in results] == [0] * 64
    assert [run.stdout for run in results] == [f"re: q{n}\n".encode() for n in range(64)]
    lines = [line for name in set(names) for line in read_lines(find_record(home, name))]
    said = Counter(line["content"] for line in lines)
    assert said == Counter(f"{re}q{number}" for number in range(64) for re in ("", "re: "))
    turns: dict[str, list[str]] = {}
    for line in lines:
        turns.setdefault(line["turn"], []).append(line["content"])
    assert all(answer == f"re: {question}" for question, answer in turns.values())
    told = ["went on in another process; both are kept" in run.error for run in results]
    # One at most may have begun after all others, and have been answered before them.
    assert sum(told[::2]) >= 31
    assert not any(run.error for run in results[1::2])
    assert len(os.listdir(home / FOLDER)) == 33


def test_two_turns_at_once(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The loser is told; both are kept, and the next turn knows of both, in order."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "A"), stream("B"))
    slow = mine.start("a")
    server.await_requests(1)
    assert mine("b").error == ""
    gate.set()
    assert "conversation mine went on in another process; both are kept" in slow.wait().error
    assert list_record(home) == ["a", "b", "B", "A"]
    assert list_contents(server.requests[1]) == ["b"]
    assert list_next(mine) == ["a", "A", "b", "B"]


def test_two_latest_at_once(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """The second takes the place of the first, which is told, and keeps out of it."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "A"), stream("B"))
    slow = asking.pty("a", stdin=None)
    server.await_requests(1)
    assert asking.pty("b", stdin=None).wait().error == ""
    gate.set()
    result = slow.wait()
    assert (result.stdout, result.status) == (b"A\n", 0)
    assert "the answer is not saved: conversation latest was replaced" in result.error
    assert list_record(home, "latest") == ["b", "B"]


def test_a_conversation_that_is_removed_meanwhile(
    mine: Kimi, kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """The answer is shown, and the file does not come back with half a turn."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = mine.start("one")
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half more\n", 0)
    assert "the answer is not saved" in result.error
    assert not find_record(home, "mine").exists()


def test_the_record_can_be_followed(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """`tail -f` sees whole lines: the question before the answer comes, then the answer."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = mine.start("one")
    run.expect(b"half")
    with find_record(home, "mine").open("rb") as tail:
        question = tail.read()
        assert (question.count(b"\n"), question[-1:]) == (1, b"\n")
        assert json.loads(question)["content"] == "one"
        gate.set()
        assert run.wait().status == 0
        answer = tail.read()
        assert (answer.count(b"\n"), answer[-1:]) == (1, b"\n")
        assert json.loads(answer)["content"] == "half more"
        assert mine("-s", "new", "two").status == 0
        assert [json.loads(line)["role"] for line in tail] == ["system", "user", "assistant"]


# What does not work


def test_a_bad_name_is_refused(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Before anything is asked or made."""
    names = ("", "a/b", ".hidden", "x" * 201)
    for name, run in [(name, asking.start("-S", name, "one")) for name in names]:
        refused = run.wait()
        assert (refused.status, refused.stdout) == (65, b"")
        assert f"'{name[:20]}" in refused.error
        assert "' cannot name a conversation: use " in refused.error
    assert not server.connections
    assert not (home / FOLDER).exists()


def _put_a_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")


def _put_a_link(folder: Path) -> None:
    folder.parent.mkdir()
    folder.symlink_to("nowhere")


def _put_folders(folder: Path) -> None:
    for name in ("mine", "latest"):
        (folder / f"{name}.jsonl").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "status"), [(_put_a_file, 66), (_put_a_link, 73), (_put_folders, 66)]
)
def test_what_cannot_be_kept(
    asking: Kimi,
    server: ReplayServer,
    home: Path,
    spoil: Callable[[Path], None],
    status: int,
) -> None:
    """Under a name it is not asked; as the latest it is answered, with a warning."""
    spoil(home / FOLDER)
    named = asking.start("-S", "mine", "one")
    run = asking.pty("two", stdin=None).wait()
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert run.error.startswith("kimi: the conversation is not saved: cannot ")
    assert run.error.count("\n") == 1
    refused = named.wait()
    assert (refused.status, refused.stdout) == (status, b"")
    assert [list_contents(request) for request in server.requests] == [["two"]]


@pytest.mark.parametrize(
    ("place", "mode", "status", "options"),
    [
        ("", 0o500, 73, ()),
        (FOLDER, 0, 66, ()),
        (f"{FOLDER}/{{}}.jsonl", 0o400, 73, ("-c",)),
        (f"{FOLDER}/{{}}.jsonl", 0o200, 66, ()),
    ],
    ids=["no new folder", "closed folder", "not to be written", "not to be read"],
)
def test_what_is_forbidden(
    asking: Kimi,
    server: ReplayServer,
    home: Path,
    place: str,
    mode: int,
    status: int,
    options: tuple[str, ...],
) -> None:
    """The same where modes are in the way; root is bound by them without its privilege."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything")
        bound = home / "bound"
        bounds = "--bounding-set=-dac_override,-dac_read_search"
        bound.write_text(f'#!/bin/sh\nexec setpriv {bounds} "{asking.program}" "$@"\n')
        bound.chmod(0o755)
        asking = replace(asking, program=bound)
    if place:
        (home / FOLDER).mkdir(parents=True)
    places = [home / (place or ".local/state").format(name) for name in ("mine", "latest")]
    for path in places:
        if path.suffix:
            path.write_bytes(encode(FIRST, LAST))
        path.chmod(mode)
    try:
        named = asking.start("-S", "mine", "one")
        run = asking.pty(*options, "two", stdin=None).wait()
        refused = named.wait()
    finally:
        for path in places:
            path.chmod(0o700)
    assert (refused.status, refused.stdout) == (status, b"")
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "the conversation is not saved: cannot " in run.error
    assert len(server.requests) == 1


def test_a_full_disk(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """No room for the question: not asked. None for the answer: shown, and the user is told."""
    server.script(stream("x" * 4000), echo)
    command = f"kimi ask --base-url {server.url} -S mine"
    refused = ask.shell(f"ulimit -f 0; {command} zero").wait()
    assert (refused.status, refused.stdout) == (74, b"")
    assert not server.requests
    run = ask.shell(f"ulimit -f 2; {command} one").wait()
    assert (run.stdout, run.status) == (b"x" * 4000 + b"\n", 0)
    assert "the answer is not saved: cannot write" in run.error
    assert list_record(home) == ["one"]
    assert ask.shell(f"ulimit -f 2; {command} two").wait().error == ""
    assert list_contents(server.requests[1]) == ["two"]
    assert list_record(home) == ["one", "two", "re: two"]


def test_a_dry_run(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """Shows the history, and neither sends nor keeps anything."""
    shown = json.loads(mine("--dry-run", "-s", "S", "one").stdout)
    assert shown["messages"] == [system("S"), user("one")]
    assert not (home / FOLDER).exists()
    assert mine("--seed", "7", "one").status == 0
    before = find_record(home, "mine").read_bytes()
    shown = json.loads(mine("--dry-run", "two").stdout)
    assert shown["messages"] == [user("one"), assistant("re: one"), user("two")]
    assert shown["seed"] == 7
    assert find_record(home, "mine").read_bytes() == before
    assert len(server.requests) == 1


@pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])
def test_json(mine: Kimi, server: ReplayServer, home: Path, mode: tuple[str, ...]) -> None:
    """One object on stdout; the record is the same as without."""
    calls = calling("c1")["tool_calls"]
    whole = completion(" Yes", reasoning="Hm.", tool_calls=calls)
    parts = stream(" Yes", {"tool_calls": [{"index": 0, **calls[0]}]}, reasoning=["Hm."])
    server.script(whole if mode else parts)
    shown = json.loads(mine("--json", *mode, "one").stdout)
    answer = read_lines(find_record(home, "mine"))[1]
    wanted = assistant(" Yes", reasoning_content="Hm.", tool_calls=calls)
    assert {key: answer[key] for key in wanted} == wanted
    assert (shown["content"], shown["reasoning"]) == (answer["content"], "Hm.")
    for key in ("id", "model", "finish_reason", "usage", "tool_calls"):
        assert shown[key] == answer[key]
    assert list_next(mine) == ["one", " Yes"]


def test_a_host_of_odd_types(mine: Kimi, server: ReplayServer) -> None:
    """Its model's name is a number: the conversation goes on all the same."""
    server.script(document({"id": 7, "model": 8, "choices": [{"message": {"content": "yes"}}]}))
    assert mine("--no-stream", "one").status == 0
    assert list_next(mine) == ["one", "yes"]


def test_the_record_of_another_program(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The messages of a request, one a line, go on; what stands there stays as it is."""
    lines = [
        system("s"), assistant("Hello!"), user("1 + 2?"), calling("c1"), result("c1"),
        assistant("3"),
    ]  # fmt: skip
    data = b"".join(json.dumps(line, indent=None).encode() + b"\r\n" for line in lines)
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    record.write_bytes(data.removesuffix(b"\r\n"))
    assert mine("two").error == ""
    lines[3]["reasoning_content"] = ""
    assert server.requests[0].json["messages"] == [*lines, user("two")]
    assert record.read_bytes().startswith(data.removesuffix(b"\r\n") + b"\n")
    assert len(record.read_bytes().splitlines()) == len(lines) + 2
