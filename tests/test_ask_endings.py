"""`kimi ask`: whether the answer is complete, and calls of tools."""

from __future__ import annotations

import json
import re
import threading
from typing import Any

import pytest
from answers import lines
from program import Kimi
from server import (
    FRAMINGS,
    Barrier,
    Framing,
    ReplayServer,
    Reset,
    Stall,
    completion,
    recording,
    stream,
)

# Whether the answer is complete


INCOMPLETE: list[tuple[dict[str, Any], bytes, str]] = [
    ({"content": "Hel", "finish": "length"}, b"Hel\n", "finish_reason length"),
    ({"content": "Hel", "finish": "content_filter"}, b"Hel\n", "finish_reason content_filter"),
    ({"content": "Hel", "finish": "brand_new"}, b"Hel\n", "finish_reason brand_new"),
    ({"content": "", "finish": "content_filter"}, b"", "finish_reason content_filter"),
    ({"content": ""}, b"", "empty"),
    ({"content": " \n\t"}, b" \n\t", "empty"),
    ({"content": "", "reasoning": "Hm"}, b"", "empty"),
    ({"content": "", "reasoning": "Hm", "finish": "length"}, b"", "finish_reason length"),
]
MODES = [((), case) for case in INCOMPLETE] + [
    (("--no-stream",), case) for case in INCOMPLETE[1:6:2]
]


@pytest.mark.parametrize(("mode", "case"), MODES)
def test_incomplete_answers(
    ask: Kimi, server: ReplayServer, mode: tuple[str, ...], case: tuple[dict[str, Any], bytes, str]
) -> None:
    """Text that ended early is printed, one line says why, exit 3; or 0 if that is allowed."""
    given, stdout, why = case
    content, reasoning = given["content"], given.get("reasoning")
    finish = given.get("finish", "stop")
    streamed = stream(content, reasoning=[reasoning] if reasoning else [], finish=finish)
    whole = completion(content, reasoning=reasoning, finish=finish)
    server.script(whole if mode else streamed, repeat=True)
    result = ask(*mode, "hi")
    shown = [reasoning] if reasoning else []
    assert result.stdout.strip() == stdout.strip()
    assert result.status == 3
    *before, line = lines(result.stderr)
    assert before == shown
    assert why in line
    allowed = ask(*mode, "--allow-incomplete", "hi")
    assert allowed.status == 0
    assert (allowed.stdout, allowed.stderr) == (result.stdout, result.stderr)


def test_an_incomplete_answer_as_json(ask: Kimi, server: ReplayServer) -> None:
    """--json prints an answer that ended early, with its finish_reason, and exits 3."""
    server.script(stream("Hel", finish="length"))
    result = ask("--json", "hi")
    assert json.loads(result.stdout)["finish_reason"] == "length"
    assert json.loads(result.stdout)["content"] == "Hel"
    assert result.status == 3
    assert len(lines(result.stderr)) == 1
    server.script(stream("Hel", finish="length"))
    allowed = ask("--allow-incomplete", "-q", "hi")
    assert (allowed.stdout, allowed.stderr, allowed.status) == (b"Hel\n", b"", 0)


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize(("finish", "done"), [(None, True), ("stop", False), ("stop", True)])
def test_either_end_mark_completes_a_stream(
    ask: Kimi, server: ReplayServer, framing: Framing, finish: str | None, done: bool
) -> None:
    """A finish_reason or [DONE] is enough, in every framing."""
    server.script(stream("Hel", "lo", finish=finish, done=done, framing=framing))
    result = ask("hi")
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_done_ends_the_answer_though_the_connection_stays(ask: Kimi, server: ReplayServer) -> None:
    """[DONE] is the end, whatever a server does with its connection."""
    reply = stream("Hello", framing="close")
    server.script(reply.but(body=[*reply.body, Stall()]))
    assert ask("hi", timeout=10).stdout == b"Hello\n"


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_stream_without_an_end_is_cut_off(
    once: Kimi, server: ReplayServer, framing: Framing
) -> None:
    """A stream that ends well by HTTP, but without an end mark, is exit 75; its text stays."""
    server.script(stream("Hel", "lo", finish=None, done=False, usage=None, framing=framing))
    result = once("hi")
    assert (result.stdout, result.status) == (b"Hello\n", 75)
    assert result.error == (
        "kimi: the answer was cut off after 5 characters: "
        "the stream ended without finish_reason or [DONE]\n"
    )


@pytest.mark.parametrize("framing", FRAMINGS)
def test_no_cut_is_taken_for_success(once: Kimi, server: ReplayServer, framing: Framing) -> None:
    """Wherever a stream is cut, exit 0 is impossible before the finish_reason has come."""
    reply = stream("Hel", "lo", "!", framing=framing, usage=None)
    body = b"".join(step for step in reply.body if isinstance(step, bytes))
    finished = body.index(b'"stop"')
    ends = [match.end() for match in re.finditer(rb"\n\n", body)]
    cuts = {0, 1, *range(131, finished, 197), ends[0], ends[1] - 1, *ends[1:-2]}
    cuts |= {finished - 1, finished + 5, ends[-2], len(body)}
    server.answer(lambda request: reply.cut_after(int(request.json["messages"][0]["content"])))
    for cut in sorted(cuts):
        result = once(str(cut))
        assert b"Hello!".startswith(result.stdout.rstrip(b"\n")), cut
        if cut < finished:
            assert result.status == 75, cut
            assert re.search(r"^kimi: .*(cut off|closed the connection)", result.error), cut
            assert len(lines(result.stderr)) == 1
        elif cut >= ends[-2]:
            assert (result.stdout, result.stderr, result.status) == (b"Hello!\n", b"", 0), cut
        else:
            assert result.status in (0, 75), cut


def test_a_reset_mid_stream(once: Kimi, server: ReplayServer) -> None:
    """A reset connection is a cut answer; the line says how much arrived."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), Reset()))
    run = once.start("hi")
    run.expect(b"Hel")
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"Hel\n", 75)
    assert result.error.startswith("kimi: the answer was cut off after 3 characters: ")


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_document_cut_off(once: Kimi, server: ReplayServer, framing: Framing) -> None:
    """Half of a JSON answer is exit 75, and none of it is shown."""
    server.script(completion("Hello").but(framing=framing).cut_after(40))
    result = once("--no-stream", "hi")
    assert (result.stdout, result.status) == (b"", 75)
    assert len(lines(result.stderr)) == 1


# Tool calls


CALLS = [
    {
        "id": "get_weather:0",
        "type": "function",
        "function": {"name": "get_weather", "arguments": '{"city": "北京"}'},
    },
    {
        "id": "get_time:1",
        "type": "function",
        "function": {"name": "get_time", "arguments": '{"zone": "Asia/Shanghai"}'},
    },
]


@pytest.mark.parametrize(
    ("name", "mode", "calls"),
    [("tool-calls-stream", (), CALLS), ("tool-calls", ("--no-stream",), CALLS[:1])],
)
def test_tool_calls_are_one_line_of_json(
    ask: Kimi, server: ReplayServer, name: str, mode: tuple[str, ...], calls: list[object]
) -> None:
    """Without content the calls are a JSON array on one line; --json has them as a key."""
    server.script(recording(name), recording(name))
    result = ask(*mode, "hi")
    assert json.loads(result.stdout) == calls
    assert len(lines(result.stdout)) == 1
    assert "北京" in result.stdout.decode()
    assert (result.stderr, result.status) == (b"", 0)
    shown = json.loads(ask(*mode, "--json", "hi").stdout)
    assert shown["tool_calls"] == calls
    assert shown["content"] == ""
    assert shown["finish_reason"] == "tool_calls"


def test_tool_calls_beside_content(ask: Kimi, server: ReplayServer) -> None:
    """With content only the content is printed; --json has both."""
    calling = stream(
        "Let me look.", {"tool_calls": [{"index": 0, **CALLS[0]}]}, finish="tool_calls"
    )
    server.script(calling, calling)
    result = ask("hi")
    assert (result.stdout, result.stderr, result.status) == (b"Let me look.\n", b"", 0)
    shown = json.loads(ask("--json", "hi").stdout)
    assert (shown["content"], shown["tool_calls"]) == ("Let me look.", CALLS[:1])


def test_tool_call_fragments_without_index(ask: Kimi, server: ReplayServer) -> None:
    """A fragment without a name continues the call before it."""
    fragments = [
        {"id": "a", "function": {"name": "f", "arguments": "{"}},
        {"function": {"arguments": "}"}},
        {"id": "b", "function": {"name": "g", "arguments": "{}"}},
    ]
    deltas = [{"tool_calls": [fragment]} for fragment in fragments]
    server.script(stream(*deltas, finish="tool_calls"))
    calls = json.loads(ask("hi").stdout)
    assert [(call["id"], call["function"]) for call in calls] == [
        ("a", {"name": "f", "arguments": "{}"}),
        ("b", {"name": "g", "arguments": "{}"}),
    ]
