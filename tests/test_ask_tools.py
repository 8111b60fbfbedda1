"""Tools that the model may call, and results that go back to it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conversations import CONVERSATIONS, calling, encode, read_lines, result, user
from program import Kimi
from server import ReplayServer, completion, refusal, stream

TOOLS = [
    {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "maximum": 1.0}},
    },
    {"type": "builtin_function", "function": {"name": "$web_search"}},
]


def call(number: int, name: str = "weather") -> dict[str, Any]:
    """A call of a tool."""
    function = {"name": name, "arguments": f'{{"n":{number}}}'}
    return {"id": f"call_{number}", "type": "function", "function": function}


def calls(*numbers: int, **more: Any) -> Any:
    """A streamed answer that only calls tools."""
    fragments = [{"index": place, **call(n)} for place, n in enumerate(numbers)]
    return stream({"tool_calls": fragments}, finish="tool_calls", **more)


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """The tools of these tests."""
    path = tmp_path / "tools.json"
    path.write_text(json.dumps(TOOLS))
    return path


def give(folder: Path, name: str, text: str) -> str:
    """The option that answers a call."""
    path = folder / f"{name}.txt"
    path.write_text(text)
    return f"{name}={path}"


# What is sent, and what comes out


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ("auto", "auto"),
        ("required", "required"),
        ('{"type":"function","function":{"name":"weather"}}', None),
    ],
)
def test_tools_are_sent_as_they_are(
    ask: Kimi, server: ReplayServer, tools: Path, choice: str, sent: str | None
) -> None:
    """The array of the file, and the choice: a word, or an object; calls come out as one line."""
    server.script(calls(1, 2))
    done = ask("--tools", str(tools), "--tool-choice", choice, "hi")
    body = server.requests[-1].json
    assert body["tools"] == TOOLS
    assert b'"maximum":1.0' in server.requests[-1].body
    assert body["tool_choice"] == (sent or json.loads(choice))
    assert json.loads(done.stdout) == [call(1), call(2)]
    assert (done.stdout.count(b"\n"), done.error, done.status) == (1, "", 0)


# The loop


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_a_script_closes_the_loop(
    ask: Kimi, server: ReplayServer, tools: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """Question, calls, results, more calls, results, answer: all goes back, reasoning included."""
    if options:
        first = completion(None, reasoning="Hm.", tool_calls=[call(1), call(2)])
        second = completion("", finish="tool_calls", tool_calls=[call(3)])
        server.script(first, second, completion("Sunny."), completion("Yes."))
    else:
        first = calls(1, 2, reasoning=["Hm."])
        server.script(first, calls(3), stream("Sunny."), stream("Yes."))
    ask = ask.but("-S", "trip", *options)
    assert json.loads(ask("--tools", str(tools), "Weather?").stdout) == [call(1), call(2)]
    one, two = give(tmp_path, "call_1", "19 °C\n"), give(tmp_path, "call_2", "rain")
    again = ask("--tool-result", two, "--tool-result", one)
    assert json.loads(again.stdout) == [call(3)]
    done = ask("--tool-result", "call_3=-", stdin=b"sun\n")
    assert (done.stdout, done.error, done.status) == (b"Sunny.\n", "", 0)
    body = server.requests[-1].json
    assert body["tools"] == TOOLS
    question, asked, *given, asked_again, last = body["messages"]
    assert question == {"role": "user", "content": "Weather?"}
    assert (asked["tool_calls"], asked["reasoning_content"]) == ([call(1), call(2)], "Hm.")
    assert given == [
        {"role": "tool", "content": text, "tool_call_id": name, "name": "weather"}
        for name, text in (("call_1", "19 °C"), ("call_2", "rain"))
    ]
    assert (asked_again["tool_calls"], asked_again["reasoning_content"]) == ([call(3)], "")
    assert (last["content"], last["tool_call_id"]) == ("sun", "call_3")
    assert ask("So?").status == 0
    after = server.requests[-1].json["messages"]
    assert after[: len(body["messages"])] == body["messages"]
    assert [m["content"] for m in after[-2:]] == ["Sunny.", "So?"]


def test_a_choice_is_made_once(
    ask: Kimi, server: ReplayServer, tools: Path, tmp_path: Path
) -> None:
    """Or the tool would be called for ever; it can be made again."""
    server.script(calls(1), calls(2), stream("Sunny."))
    ask = ask.but("-S", "trip")
    assert ask("--tools", str(tools), "--tool-choice", "required", "hi").status == 0
    assert ask("--tool-result", give(tmp_path, "call_1", "x")).status == 0
    assert "tool_choice" not in server.requests[-1].json
    last = give(tmp_path, "call_2", "x")
    assert ask("--tool-result", last, "--tool-choice", "none").status == 0
    assert server.requests[-1].json["tool_choice"] == "none"


def test_results_are_sent_again_after_a_failure(
    once: Kimi, server: ReplayServer, tools: Path, tmp_path: Path, home: Path
) -> None:
    """The same command does it; what is new in it counts."""
    server.script(calls(1), refusal(503, "unavailable", "no"), stream("Sunny."), stream("Yes."))
    once = once.but("-S", "trip")
    assert once("--tools", str(tools), "hi").status == 0
    assert once("--tool-result", give(tmp_path, "call_1", "old")).status == 75
    assert once("--tool-result", give(tmp_path, "call_1", "new")).stdout == b"Sunny.\n"
    sent = server.requests[-1].json["messages"]
    assert [(m["role"], m["content"]) for m in sent[2:]] == [("tool", "new")]
    assert once("So?").status == 0
    sent = server.requests[-1].json["messages"]
    assert [m["content"] for m in sent if m["role"] == "tool"] == ["new"]
    record = read_lines(home / CONVERSATIONS / "trip.jsonl")
    assert len({line["turn"] for line in record[:-2]}) == 1


def test_a_dry_run_shows_the_results(
    ask: Kimi, server: ReplayServer, folder: Path, tmp_path: Path
) -> None:
    """Also of a record that another program wrote, and of calls without an id."""
    lines = user("hi"), calling("a", content="")
    (folder / "theirs.jsonl").write_bytes(encode(*lines))
    shown = json.loads(
        ask("-S", "theirs", "--dry-run", "--tool-result", give(tmp_path, "a", "3")).stdout
    )
    assert shown["messages"][-1] == result("a")
    nameless = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "add"}}]}
    (folder / "other.jsonl").write_bytes(encode(user("hi"), nameless))
    shown = json.loads(
        ask("-S", "other", "--dry-run", "--tool-result", give(tmp_path, "add", "3")).stdout
    )
    assert shown["messages"][-1] == {"role": "tool", "content": "3", "name": "add"}
    assert server.requests == []


def test_an_answer_of_a_form_at_the_end(
    ask: Kimi, server: ReplayServer, tools: Path, tmp_path: Path
) -> None:
    """Whose place another call does not take: that is status 5, and is not asked for again."""
    server.script(calls(1), calls(2), stream('{"n": 1}'))
    ask = ask.but("-S", "trip")
    assert ask("--tools", str(tools), "hi").status == 0
    answer = ("--schema", "n int", "--tool-result")
    done = ask(*answer, give(tmp_path, "call_1", "x"))
    assert (done.stdout, done.status) == (b"", 5)
    assert "the model calls a tool instead of answering" in done.error
    assert ask(*answer, give(tmp_path, "call_2", "x")).stdout == b'{"n":1}\n'


# What makes no sense

RESULT = ("--tool-result",)
TRIP = ("-S", "trip", *RESULT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not JSON"),
        ("", "is not JSON"),
        ("{}", "must be a JSON array of objects"),
        ('["weather"]', "must be a JSON array of objects"),
        ("[]", "holds no tools"),
    ],
)
def test_a_file_that_holds_no_tools(
    ask: Kimi, server: ReplayServer, tmp_path: Path, text: str, said: str
) -> None:
    """Status 65, and no request; a file that is not there is 66."""
    path = tmp_path / "bad.json"
    path.write_text(text)
    done = ask("--tools", str(path), "hi")
    assert (done.status, said in done.error) == (65, True)
    assert ask("--tools", str(tmp_path / "none.json"), "hi").status == 66
    assert server.requests == []


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--tool-choice", "auto", "hi"), 2, "--tool-choice needs tools"),
        (("--tool-choice", "{", "-O", "tools=[]", "hi"), 65, "--tool-choice is not JSON"),
        (("--tools", "tools.json", "--schema", "n int", "hi"), 2, "exclude each other"),
        (("--tools", "tools.json", "--test", "hi"), 2, "exclude each other"),
        ((*RESULT, "call_1=x.txt"), 2, "name it with -S, or -c"),
        ((*TRIP, "call_1"), 2, "is not ID=FILE"),
        ((*TRIP, "call_1="), 2, "is not ID=FILE"),
        ((*TRIP, "call_1=x.txt", "hi"), 2, "the place of a prompt"),
        ((*TRIP, "call_1=none.txt", *RESULT, "call_2=x.txt"), 66, "No such file"),
        ((*TRIP, "call_1=x.txt"), 65, "no result: call_2"),
        ((*TRIP, "call_9=x.txt"), 65, "there are call_1, call_2"),
        ((*TRIP, "call_1=-", *RESULT, "call_2=-"), 2, "two results"),
        ((*TRIP, "call_1=x.txt", *RESULT, "call_1=x.txt"), 2, "two results"),
        ((*TRIP, "call_1=x.txt", "-O", "messages=[]"), 2, "exclude each other"),
        ((*TRIP, "call_1=-", "-n"), 2, "--no-stdin forbids"),
        (("-S", "new", *RESULT, "call_1=x.txt"), 65, "does not end with calls"),
        (("-S", "over", *RESULT, "call_1=x.txt"), 65, "does not end with calls"),
    ],
)
def test_options_that_make_no_sense(
    ask: Kimi,
    server: ReplayServer,
    tools: Path,
    folder: Path,
    options: tuple[str, ...],
    status: int,
    said: str,
) -> None:
    """Are told before anything is asked, and put nothing on record."""
    record = encode(user("hi"), calling("call_1", "call_2"))
    (folder / "trip.jsonl").write_bytes(record)
    over = encode(
        user("hi"), calling("call_1"), result("call_1"), {"role": "assistant", "content": "x"}
    )
    (folder / "over.jsonl").write_bytes(over)
    (tools.parent / "x.txt").write_text("x")
    done = ask(*options, cwd=tools.parent)
    assert (done.stdout, done.status) == (b"", status)
    assert said in done.error
    assert server.requests == []
    assert (folder / "trip.jsonl").read_bytes() == record
