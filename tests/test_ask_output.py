"""`kimi ask`: the answer on pipes, files and terminals, and as JSON."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from answers import NO_STREAM
from program import Kimi, Stream
from server import (
    FRAMINGS,
    USAGE,
    Barrier,
    Cut,
    Framing,
    ReplayServer,
    chunk,
    completion,
    document,
    event,
    recording,
    refusal,
    stream,
)

GUIDE_CONTENT = "Hello! How can I help you today?\n"
GUIDE_REASONING = """\
The user said "Hello". This is a simple greeting. I should respond in a friendly, welcoming \
manner. Since this is the start of a conversation, I should ask how I can help them today.

Let me craft a response:
- Acknowledge the greeting
- Offer assistance
- Keep it warm and professional

Something like: "Hello! How can I help you today?" or "Hi there! What can I do for you?"

Actually, looking at the context, this seems to be a general conversation starter. I'll keep it \
simple and open-ended to encourage them to share what they need help with.\x20
"""


# The answer


@pytest.mark.parametrize("write_size", [None, 1])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_shows_the_guides_stream(
    ask: Kimi, server: ReplayServer, framing: Framing, write_size: int | None
) -> None:
    """The guide's stream is shown whole, however HTTP frames it and packets cut it."""
    server.script(recording("guide-hello-stream", framing).but(write_size=write_size))
    result = ask("Hello")
    assert result.stdout.decode() == GUIDE_CONTENT
    assert result.error == GUIDE_REASONING
    assert result.status == 0
    [request] = server.requests
    assert (request.method, request.path) == ("POST", "/kimi/chat/completions")


@pytest.mark.parametrize("name", ["guide-hello", "guide-multiturn"])
def test_shows_the_guides_documents(ask: Kimi, server: ReplayServer, name: str) -> None:
    """An answer in one piece is shown as a streamed one is, without its leading spaces."""
    reply = recording(name)
    message = json.loads(reply.body[0])["choices"][0]["message"]  # type: ignore[arg-type]
    server.script(reply)
    result = ask("--no-stream", "Hello")
    assert result.stdout.decode() == message["content"].removeprefix(" ") + "\n"
    assert result.error == message["reasoning_content"].removeprefix(" ") + "\n"
    assert result.status == 0
    assert server.requests[0].json["stream"] is False


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    ("name", "stdout", "stderr"),
    [
        ("k3-stream", "Hello! How can I help you today?\n", "A greeting.\n"),
        ("moonshot-stream-usage-in-choice", "Hi there.\n", "The user greets me.\n"),
    ],
)
def test_shows_the_streams_of_other_hosts(
    ask: Kimi, server: ReplayServer, name: str, stdout: str, stderr: str, newline: str
) -> None:
    """Every host's way to write a stream is understood, with any line end."""
    reply = recording(name)
    body = [step.replace(b"\n", newline.encode()) for step in reply.body if isinstance(step, bytes)]
    server.script(reply.but(body=body))
    result = ask("Hello")
    assert (result.stdout.decode(), result.error, result.status) == (stdout, stderr, 0)


@pytest.mark.parametrize("framing", FRAMINGS)
def test_each_delta_is_shown_at_once(ask: Kimi, server: ReplayServer, framing: Framing) -> None:
    """Reasoning and content reach a pipe before the server sends the next delta."""
    gates = [threading.Event() for _ in range(3)]
    thought: dict[str, Any] = {"reasoning_content": "Hm", "reasoning": "Hm"}
    first, second, third = map(Barrier, gates)
    server.script(stream(thought, first, "Hel", second, "lo", third, "!", framing=framing))
    run = ask.start("hi")
    run.expect(b"Hm", "stderr")
    gates[0].set()
    run.expect(b"Hel")
    gates[1].set()
    run.expect(b"lo")
    gates[2].set()
    result = run.wait()
    assert (result.stdout, result.stderr, result.status) == (b"Hello!\n", b"Hm\n", 0)


def test_each_delta_is_in_the_file_at_once(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A delta is in a file before the server sends the next: nothing waits in a buffer."""
    gate, tick = threading.Event(), threading.Event()
    path = tmp_path / "answer"
    server.script(stream("Hel", Barrier(gate), "lo"))
    run = ask.start("hi", stdout=path)
    for _ in range(1000):
        if path.read_bytes():
            break
        tick.wait(0.01)
    assert path.read_bytes() == b"Hel"
    gate.set()
    assert run.wait().status == 0
    assert path.read_bytes() == b"Hello\n"


@pytest.mark.parametrize(
    ("deltas", "stdout"),
    [
        ([" Hello"], b"Hello\n"),
        ([" ", "Hello"], b"Hello\n"),
        (["  Hello"], b" Hello\n"),
        (["", " Hello", " there "], b"Hello there \n"),
        (["Hello\n"], b"Hello\n"),
        (["Hello\n\n", "\n"], b"Hello\n"),
        (["a\n", "\nb", "\n"], b"a\n\nb\n"),
        (["\nHello"], b"\nHello\n"),
        (["a\x1b[31mb\x07\r\x00\x7f"], b"a\x1b[31mb\x07\r\x00\x7f\n"),
        (["a\u2028b\x85c\x0bd\u202ee"], "a\u2028b\x85c\x0bd\u202ee\n".encode()),
        (["\ud83d", "\ude00"], "😀\n".encode()),
        (["a\ud83d"], "a\ufffd\n".encode()),
        (["a\udcff", "b"], "a\ufffdb\n".encode()),
        (["x" * 200_000], b"x" * 200_000 + b"\n"),
    ],
)
def test_text_output(ask: Kimi, server: ReplayServer, deltas: list[str], stdout: bytes) -> None:
    """A pipe gets the characters as sent, but for one leading space and a single line end."""
    body = [event(json.dumps(chunk({"content": delta}))) for delta in deltas]
    server.script(stream(*body))
    result = ask("hi")
    assert (result.stdout, result.status) == (stdout, 0)


def test_a_character_may_be_split_between_packets(ask: Kimi, server: ReplayServer) -> None:
    """Bytes of one character that come apart are one character."""
    server.script(stream("北京 é 😀").but(write_size=1))
    assert ask("hi").stdout == "北京 é 😀\n".encode()


def test_byte_order_mark_and_unknown_fields_are_skipped(ask: Kimi, server: ReplayServer) -> None:
    """Comments, event names and a byte order mark are no part of an answer."""
    odd = [b"\xef\xbb\xbf: hello\n\n", b"event: message\nid: 7\nretry: 1\n", b":\n\n"]
    reply = stream("Hel", b": beat\n\n", "lo")
    server.script(reply.but(body=[*odd, *reply.body]))
    result = ask("hi")
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


@pytest.mark.parametrize(
    ("arguments", "environment", "stderr"),
    [
        ((), {}, b"Let me see.\n"),
        (("--reasoning", "show"), {"KIMI_REASONING": "hide"}, b"Let me see.\n"),
        (("--reasoning", "hide"), {}, b""),
        ((), {"KIMI_REASONING": "hide"}, b""),
        (("-q",), {}, b""),
        (("--no-stream",), {}, b"Let me see.\n"),
        (("--no-stream", "--reasoning", "hide"), {}, b""),
    ],
)
def test_reasoning_goes_to_stderr_once(
    ask: Kimi,
    server: ReplayServer,
    arguments: tuple[str, ...],
    environment: dict[str, str],
    stderr: bytes,
) -> None:
    """The copy of the reasoning is not shown again; --reasoning hide shows none."""
    thoughts = [" Let me", " see."]
    whole = completion("Yes", reasoning="".join(thoughts))
    server.script(whole if "--no-stream" in arguments else stream("Yes", reasoning=thoughts))
    result = ask(*arguments, "hi", env=environment)
    assert (result.stdout, result.stderr, result.status) == (b"Yes\n", stderr, 0)


@pytest.mark.parametrize(
    "deltas",
    [
        [{"reasoning": "Hm"}, {"content": "Yes"}],
        [{"reasoning_content": "Hm", "content": "Yes"}],
        [{"reasoning_content": "Hm", "reasoning": "Hm", "content": "Y"}, {"content": "es"}],
        [{"content": "Y"}, {"reasoning_content": "Hm"}, {"content": "es"}],
    ],
)
def test_reasoning_and_content_may_mix(
    ask: Kimi, server: ReplayServer, deltas: list[dict[str, str]]
) -> None:
    """One chunk may carry both texts, either key, and they may come in any order."""
    server.script(stream(*deltas))
    result = ask("hi")
    assert (result.stdout, result.stderr, result.status) == (b"Yes\n", b"Hm\n", 0)


def test_only_the_first_choice_is_the_answer(ask: Kimi, server: ReplayServer) -> None:
    """Choices that nobody asked for do not get between the lines, and n=2 is refused."""
    second = event({"choices": [{"index": 1, "delta": {"content": "No"}, "finish_reason": "stop"}]})
    server.script(stream("Ye", second, "s"))
    assert ask("hi").stdout == b"Yes\n"
    refused = ask("-O", "n=2", "hi")
    assert refused.status == 2
    assert len(server.requests) == 1


# Terminals


@pytest.mark.parametrize(
    ("environment", "dim"),
    [
        ({}, True),
        ({"NO_COLOR": ""}, True),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
    ],
)
def test_reasoning_is_dim_on_a_terminal(
    ask: Kimi, server: ReplayServer, environment: dict[str, str], dim: bool
) -> None:
    """On terminals one blank line parts the dim reasoning from the answer."""
    server.script(stream(" Yes", reasoning=[" Hm\n\n"]))
    result = ask.pty("hi", env=environment).wait()
    assert result.stdout == b"Yes\n"
    assert result.stderr == (b"\x1b[2mHm\x1b[22m\n\n" if dim else b"Hm\n\n")
    assert result.status == 0


def test_colour_in_a_pipe_only_by_force(ask: Kimi, server: ReplayServer) -> None:
    """FORCE_COLOR dims the reasoning of a pipe."""
    server.script(stream("Yes", reasoning=["Hm"]))
    assert ask("hi", env={"FORCE_COLOR": "1"}).stderr == b"\x1b[2mHm\x1b[22m\n"


@pytest.mark.parametrize("piped", ["stdout", "stderr"])
def test_no_blank_line_where_the_texts_part_by_themselves(
    ask: Kimi, server: ReplayServer, piped: Stream
) -> None:
    """With one of the two streams in a pipe, each text ends with one line feed."""
    server.script(stream("Yes", reasoning=["Hm"]))
    result = ask.pty("hi", env={"NO_COLOR": "1"}, **{piped: "pipe"}).wait()  # type: ignore[misc]
    assert (result.stdout, result.stderr) == (b"Yes\n", b"Hm\n")


def test_thinking_after_text_has_lines_of_its_own(ask: Kimi, server: ReplayServer) -> None:
    """On terminals reasoning that follows text does not continue its line."""
    gates = [threading.Event(), threading.Event()]
    thought = {"reasoning_content": "Hm"}
    server.script(stream("Yes.", Barrier(gates[0]), thought, Barrier(gates[1]), " Sure."))
    run = ask.pty("hi", env={"NO_COLOR": "1"})
    run.expect(b"Yes.")
    gates[0].set()
    run.expect(b"\n\nHm", "stderr")
    gates[1].set()
    result = run.wait()
    assert (result.stdout, result.stderr) == (b"Yes. Sure.\n", b"\n\nHm\n\n")


ATTACKS = [
    ("a\x1b[31mred", "a^[[31mred"),
    ("\x1b]52;c;QUJD\x07", "^[]52;c;QUJD^G"),
    ("over\rwritten", "over^Mwritten"),
    ("\x9b31m", "<U+009B>31m"),
    ("evil\u202etxt", "evil<U+202E>txt"),
    ("\U000e0041", "<U+E0041>"),
    ("back\x08\x7f", "back^H^?"),
    ("tab\tand\r\nline", "tab\tand\nline"),
]


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
def test_a_terminal_gets_no_control_characters(
    ask: Kimi, server: ReplayServer, split: bool
) -> None:
    """Escapes and invisible characters of the model are shown, wherever the deltas cut them."""
    attack = "|".join(sent for sent, _ in ATTACKS)
    shown = "|".join(shown for _, shown in ATTACKS)
    deltas = list(attack) if split else [attack]
    server.script(stream(*deltas, reasoning=deltas))
    result = ask.pty("hi", env={"NO_COLOR": "1"}).wait()
    assert result.stdout.decode() == shown + "\n"
    assert result.error == shown + "\n\n"


def test_a_pipe_gets_control_characters_as_sent(ask: Kimi, server: ReplayServer) -> None:
    """`> file` is faithful to the byte."""
    attack = "|".join(sent for sent, _ in ATTACKS)
    server.script(stream(attack, reasoning=[attack]))
    result = ask("hi")
    assert (result.stdout.decode(), result.error) == (attack + "\n", attack + "\n")


def test_messages_never_hold_control_characters(once: Kimi, server: ReplayServer) -> None:
    """A server's words in an error are made harmless in a pipe too, and stay on one line."""
    server.script(refusal(400, "bad_request", "a\x1b]0;title\x07\r\nb\x9bc"))
    line = "kimi: the API refused the request: HTTP 400 bad_request: a^[]0;title^G b<U+009B>c\n"
    assert once("hi").error == line


# --json


@NO_STREAM
def test_json_object(ask: Kimi, server: ReplayServer, mode: tuple[str, ...]) -> None:
    """--json is one object on one line, the answer as sent, and nothing on stderr."""
    whole = completion(" Yes\n", reasoning=" Hm ")
    server.script(whole if mode else stream(" Yes", "\n", reasoning=[" Hm", " "]))
    result = ask("--json", *mode, "hi")
    assert result.stdout.endswith(b"}\n")
    assert result.stdout.count(b"\n") == 1
    assert list(json.loads(result.stdout).items()) == [
        ("content", " Yes\n"),
        ("reasoning", " Hm "),
        ("model", "kimi-k2.5"),
        ("id", "chatcmpl-952dd5e75583c4d1"),
        ("finish_reason", "stop"),
        ("usage", USAGE),
        ("tokens", {"prompt": 9, "cached": None, "completion": 135, "reasoning": None}),
        ("cost", None),
        ("currency", None),
    ]
    assert (result.stderr, result.status) == (b"", 0)


def test_json_of_the_guides_stream(ask: Kimi, server: ReplayServer) -> None:
    """--json keeps the leading space of the guide's answer, and its usage."""
    server.script(recording("guide-hello-stream"))
    answer = json.loads(ask("--json", "Hello").stdout)
    assert answer["content"] == " " + GUIDE_CONTENT.strip()
    assert answer["reasoning"] == " " + GUIDE_REASONING.removesuffix("\n")
    assert answer["usage"]["completion_tokens"] == 135


def test_json_of_a_host_that_says_little(ask: Kimi, server: ReplayServer) -> None:
    """The keys are there even when the host sent none of it."""
    server.script(document({"choices": [{"message": {"content": "Yes"}}]}))
    shown = json.loads(ask("--json", "--no-stream", "hi").stdout)
    assert shown == {
        **dict.fromkeys(["model", "id", "finish_reason", "usage"]),
        "content": "Yes",
        "reasoning": "",
        "tokens": dict.fromkeys(["prompt", "cached", "completion", "reasoning"]),
        **dict.fromkeys(["cost", "currency"]),
    }


@pytest.mark.parametrize(
    "odd",
    [
        '{"usage": {"prompt_tokens": 1e999}}',
        '{"usage": 7}',
        '{"usage": [NaN]}',
        '{"id": {"a": "\\ud800"}, "model": 7}',
        '{"choices": [{"index": 0, "delta": {}, "finish_reason": {"a": 1}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"index": "a"}, {"index": 0}]}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"index": [7]}]}}]}',
    ],
)
@pytest.mark.parametrize("mode", [("--json",), ("-v",)])
def test_odd_values_are_no_bug(
    ask: Kimi, server: ReplayServer, odd: str, mode: tuple[str, ...]
) -> None:
    """Whatever types a host sends, the status is one of a reply, and a JSON line is JSON."""
    reply = stream("Hello", usage=None)
    server.script(reply.but(body=[event(odd), *reply.body]))
    result = ask(*mode, "hi")
    assert result.status in (0, 3, 76), result.error
    if mode == ("--json",) and result.stdout:
        json.loads(result.stdout, parse_constant=pytest.fail)


def test_json_is_only_printed_when_the_answer_is_complete(once: Kimi, server: ReplayServer) -> None:
    """A cut answer is no JSON object."""
    server.script(stream("Hel", Cut()))
    result = once("--json", "hi")
    assert (result.stdout, result.status) == (b"", 75)
