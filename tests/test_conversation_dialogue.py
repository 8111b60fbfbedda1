"""What of a conversation is sent back: whole turns that a host accepts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conversations import (
    NOTE,
    Line,
    assistant,
    calling,
    keep,
    list_sent,
    make_conversation,
    result,
    system,
    user,
)
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from server import ReplayServer, stream

from kimi_cli.api.messages import Message, Request
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Conversation, read_entry
from kimi_cli.prompt.content import Prompt


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


# As it is asked


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("-m", "moonshotai/kimi-k3"), True),
        (("-O", 'model="kimi-k3"'), True),
        (("-O", "model=moonshotai/kimi-k3"), True),
        (("-m", "kimi-k3", "-O", "model=kimi-k2.5"), False),
        (("-O", 'thinking={"type":"enabled","keep":"all"}'), True),
        (("-O", 'thinking={"type":"enabled"}'), False),
        (("-O", "thinking=all"), False),
    ],
)
def test_reasoning_goes_back_to_whom_asks_for_it(
    mine: Kimi, server: ReplayServer, options: tuple[str, ...], wanted: bool
) -> None:
    """However the model is named, or told to keep it; the next turn does so by itself."""
    server.script(stream("yes", reasoning=["Hm."]))
    for question in ("one", "two"):
        assert mine(*options, question).status == 0
    assert mine("three").status == 0
    sent = {"reasoning_content": "Hm."} if wanted else {}
    for request in server.requests[1:]:
        assert request.json["messages"][1] == assistant("yes", **sent)
        assert request.json["model"] == server.requests[0].json["model"]


def test_half_a_character_in_a_part_is_sent(mine: Kimi, server: ReplayServer, folder: Path) -> None:
    """As U+FFFD, wherever in the message another program escaped it; its line stays."""
    parts = [{"type": "text", "text": "a\ud83d"}, {"type": "x", "\ude00": ["\ud83d\ude00"]}]
    data = b"".join(json.dumps(make(parts)).encode() + b"\n" for make in (user, assistant))
    path = keep(folder, "mine", data)
    result = mine("two")
    assert (result.stdout, result.error, result.status) == (b"re: two\n", "", 0)
    mended = [{"type": "text", "text": "a\ufffd"}, {"type": "x", "\ufffd": ["😀"]}]
    assert server.requests[0].json["messages"] == [user(mended), assistant(mended), user("two")]
    assert path.read_bytes().startswith(data)
