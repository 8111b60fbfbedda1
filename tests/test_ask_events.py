"""``ask --events``: what happens, as JSON Lines, while it happens."""

from __future__ import annotations

import json
import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from server import USAGE, Barrier, Cut, ReplayServer, chunk, completion, event, refusal, stream

Event = dict[str, Any]


def read(stdout: bytes) -> list[Event]:
    """The events; the last one is how it ended, and there is one such."""
    assert stdout.endswith(b"\n")
    events = [json.loads(line) for line in stdout.split(b"\n")[:-1]]
    assert [event["type"] for event in events].index("end") == len(events) - 1
    return events


def join(events: list[Event], kind: str) -> str:
    """The text of all events of a kind."""
    return "".join(event["text"] for event in events if event["type"] == kind)


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_an_answer_in_events(ask: Kimi, server: ReplayServer, options: tuple[str, ...]) -> None:
    """Its two texts, the usage, the end; nothing on standard error."""
    server.script(
        completion("Hello\n", reasoning="Hm.")
        if options
        else stream("Hel", "lo\n", reasoning=["Hm."])
    )
    result = ask("--events", *options, "hi")
    assert (result.error, result.status) == ("", 0)
    events = read(result.stdout)
    assert (join(events, "reasoning"), join(events, "content")) == ("Hm.", "Hello\n")
    usage = events[-2]
    assert (usage["type"], usage["usage"], usage["tokens"]["prompt"]) == ("usage", USAGE, 9)
    assert usage.keys() == {"type", "usage", "tokens", "cost", "currency"}
    assert events[-1] == {
        "type": "end",
        "complete": True,
        "finish_reason": "stop",
        "model": "kimi-k2.5",
        "id": "chatcmpl-952dd5e75583c4d1",
        "exit_status": 0,
    }


def test_each_piece_comes_at_once(ask: Kimi, server: ReplayServer) -> None:
    """A line is whole when it is there."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo"))
    run = ask.start("--events", "hi")
    run.expect(b'{"type":"content","text":"Hel"}\n')
    gate.set()
    run.expect(b'{"type":"content","text":"lo"}\n')
    assert run.wait().status == 0


def test_calls_of_tools(ask: Kimi, server: ReplayServer) -> None:
    """One event each, when they are whole, in the shape of --json."""
    call = {"index": 0, "id": "c1", "type": "function"}
    server.script(
        stream(
            {"tool_calls": [{**call, "function": {"name": "add", "arguments": "{"}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
            finish="tool_calls",
        )
    )
    events = read(ask("--events", "hi").stdout)
    assert events[0]["tool_call"] == {
        "id": "c1",
        "type": "function",
        "function": {"name": "add", "arguments": "{}"},
    }
    assert (events[-1]["complete"], events[-1]["finish_reason"]) == (True, "tool_calls")


def test_retries_and_models_that_stand_in(ask: Kimi, server: ReplayServer) -> None:
    """What is told on standard error is an event as well."""
    overloaded = refusal(503, "unavailable", "no")
    server.script(overloaded, overloaded, stream("Hello"))
    result = ask("--events", "--retries", "1", "--fallback", "two", "hi")
    again, other, *events = read(result.stdout)
    assert (again["type"], again["attempt"], again["attempts"]) == ("retry", 1, 1)
    assert 0 <= again["delay"] <= 1
    assert "HTTP 503" in again["error"]
    assert (other["type"], other["model"]) == ("retry", "two")
    assert join(events, "content") == "Hello"
    assert result.error.count("\n") == 2


@pytest.mark.parametrize(
    ("reply", "options", "status", "complete", "finish"),
    [
        (stream("Hel", finish="length"), (), 3, False, "length"),
        (stream("Hel", finish="length"), ("--allow-incomplete",), 0, False, "length"),
        (stream(""), (), 3, False, "stop"),
        (stream("Hel", Cut()), (), 75, False, None),
        (refusal(400, "bad_request", "no"), (), 65, False, None),
    ],
)
def test_how_it_ended(
    once: Kimi,
    server: ReplayServer,
    reply: Any,
    options: tuple[str, ...],
    status: int,
    complete: bool,
    finish: str | None,
) -> None:
    """The last event has the exit status, and the error in the words of standard error."""
    server.script(reply)
    result = once("--events", *options, "hi")
    end = read(result.stdout)[-1]
    assert (result.status, end["exit_status"]) == (status, status)
    assert (end["complete"], end["finish_reason"]) == (complete, finish)
    if status:
        assert result.error == f"kimi: {end['error']}\n"


def test_an_end_without_a_beginning(kimi: Kimi) -> None:
    """A host that is down, and a token that is missing, end it as well."""
    for options, status in ((("--no-auth",), 75), ((), 78)):
        result = kimi(
            "ask", "--events", "--retries", "0", "--base-url", "http://127.0.0.1:1", *options, "hi"
        )
        (end,) = read(result.stdout)
        assert (result.status, end["exit_status"]) == (status, status)


def test_a_signal_is_an_end(ask: Kimi, server: ReplayServer) -> None:
    """As the shell tells it."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate)))
    run = ask.start("--events", "hi")
    run.expect(b"Hel")
    run.signal(signal.SIGTERM)
    result = run.wait()
    gate.set()
    assert result.status == -signal.SIGTERM
    assert read(result.stdout)[-1]["exit_status"] == 128 + signal.SIGTERM


def test_a_reader_that_leaves(ask: Kimi, server: ReplayServer) -> None:
    """The program dies by SIGPIPE, as it does otherwise."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo"))
    reader, writer = os.pipe()
    with os.fdopen(writer, "wb") as sink:
        run = ask.start("--events", "hi", stdout=sink)
    assert os.read(reader, 100).startswith(b'{"type":"content"')
    os.close(reader)
    gate.set()
    assert run.wait().status == -signal.SIGPIPE


def test_an_answer_of_a_form(ask: Kimi, server: ReplayServer) -> None:
    """It is told once it fits; the reasoning of each attempt while it comes."""
    server.script(stream("no", reasoning=["Hm."]), stream('{"n": 1}', reasoning=["So."]))
    events = read(ask("--events", "--schema", "n int", "hi").stdout)
    assert [event["type"] for event in events] == [
        "reasoning",
        "reasoning",
        "content",
        "usage",
        "end",
    ]
    assert (events[2]["text"], events[-1]["valid"]) == ('{"n":1}', True)
    server.script(stream("no"))
    result = ask("--events", "--schema", "n int", "--reask", "0", "hi")
    assert result.status == 5
    (*_, end) = events = read(result.stdout)
    assert (end["complete"], end["valid"], end["exit_status"]) == (True, False, 5)
    assert join(events, "content") == ""


def test_a_pair_that_is_cut_in_two(ask: Kimi, server: ReplayServer) -> None:
    """Some servers cut inside a character; a line has all of it."""
    halves = [
        event(chunk({"content": half})).replace(b"\\\\", b"\\") for half in ("\\ud83d", "\\ude00")
    ]
    server.script(stream(*halves, "!"))
    events = read(ask("--events", "hi").stdout)
    assert join(events, "content") == "😀!"


def test_the_answer_itself_goes_into_a_file(
    once: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """With -o the events stay where they are, and the last one tells of the file as well."""
    path = tmp_path / "answer.txt"
    server.script(stream("Hello", reasoning=["Hm."]), stream('{"n": 1}'), stream("Hel", Cut()))
    events = read(once("--events", "-o", str(path), "hi").stdout)
    assert join(events, "content") == "Hello"
    assert path.read_bytes() == b"Hello\n"
    assert once("--events", "-o", str(path), "--schema", "n int", "hi").status == 0
    assert path.read_bytes() == b'{"n":1}\n'
    end = read(once("--events", "-o", str(path), "hi").stdout)[-1]
    assert end["error"].endswith("answer.txt is as it was")
    assert path.read_bytes() == b'{"n":1}\n'


@pytest.mark.parametrize("other", [("--json",), ("--test",), ("--count",), ("-o", "-")])
def test_options_that_make_no_sense(
    ask: Kimi, server: ReplayServer, other: tuple[str, ...]
) -> None:
    """Two forms of one output, or none."""
    result = ask("--events", *other, "hi")
    assert (result.stdout, result.status) == (b"", 65 if "-o" in other else 2)
    assert server.requests == []
