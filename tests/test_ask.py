"""`kimi ask`: what is sent, what is shown, what is retried, and the exit status."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from program import Kimi, Stream
from server import (
    FRAMINGS,
    USAGE,
    Barrier,
    Cut,
    Framing,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Reset,
    Stall,
    chunk,
    completion,
    document,
    event,
    recording,
    refusal,
    stream,
)

TERMINALS = {"TERM": "xterm-256color"}
HTML = Reply([b"<html><title>Log in</title></html>"], headers={"Content-Type": "text/html"})
NO_STREAM = pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])


@pytest.fixture
def once(ask: Kimi) -> Kimi:
    """`kimi ask` that never tries again."""
    return ask.but("--retries", "0")


@pytest.fixture
def elsewhere() -> Iterator[ReplayServer]:
    """Another server, which nothing may reach."""
    with ReplayServer() as server:
        yield server
    server.check()
    assert server.connections == 0


def lines(text: bytes) -> list[str]:
    """The lines of a stream, each of which must be ended."""
    assert text.endswith(b"\n") or not text
    return text.decode().split("\n")[:-1]


# The answer


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
        ("llama-cpp-stream", "Paris.\n", ""),
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


# What is sent


PLAIN_BODY = {
    "model": "kimi-k2.5",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
}


@pytest.mark.parametrize(
    ("options", "changes"),
    [
        ([], {}),
        (["-m", "a/b:c d", "--max-tokens", "32"], {"model": "a/b:c d", "max_tokens": 32}),
        (["--temperature", "0.6", "--top-p", "1"], {"temperature": 0.6, "top_p": 1}),
        (["--stop", "a", "--stop", "ü", "--seed", "-7"], {"stop": ["a", "ü"], "seed": -7}),
        (
            ["--model", "kimi-k9", "--reasoning-effort", "max", "--json-mode", "--stop", "END"],
            {
                "model": "kimi-k9",
                "reasoning_effort": "max",
                "response_format": {"type": "json_object"},
                "stop": ["END"],
            },
        ),
        (
            ["-O", 'thinking={"type":"disabled"}', "--option", "user=me", "-O", "n=1"],
            {"thinking": {"type": "disabled"}, "user": "me", "n": 1},
        ),
        (
            [
                "-O",
                "a=b=c",
                "-O",
                "b=",
                "-O",
                "c=NaN",
                "-O",
                'd="7"',
                "-O",
                "e=null",
                "-O",
                "f=[1]",
            ],
            {"a": "b=c", "b": "", "c": "NaN", "d": "7", "e": None, "f": [1]},
        ),
        (
            ["-O", "temperature=0.5", "--temperature", "1", "-O", "a=1", "-O", "a=3"],
            {"temperature": 0.5, "a": 3},
        ),
        (["--no-stream"], {"stream": False}),
    ],
)
def test_every_option_is_sent_and_nothing_else(
    ask: Kimi, server: ReplayServer, options: list[str], changes: dict[str, Any]
) -> None:
    """A body field is sent only when its option was given, with that value."""
    server.answer(lambda request: stream("x") if request.json["stream"] else completion("x"))
    assert ask(*options, "hi").status == 0
    assert server.requests[0].json == {**PLAIN_BODY, **changes}


def test_system_prompt_comes_first(ask: Kimi, server: ReplayServer) -> None:
    """-s is a message of its own, before the prompt."""
    server.script(stream("x"))
    ask("-s", "Be brief.", "What", "is  a", "pipe?")
    assert server.requests[0].json["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is  a pipe?"},
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--temperature", "hot"],
        ["--temperature", "nan"],
        ["--top-p", "inf"],
        ["--max-tokens", "0"],
        ["--max-tokens", "many"],
        ["--seed", "1.5"],
        ["-O", "novalue"],
        ["-O", "=1"],
        ["--retries", "-1"],
        ["--timeout", "0"],
        ["--max-time", "-3"],
        ["--connect-timeout", "nan"],
        ["--max-input", "0"],
        ["--reasoning", "loud"],
        ["--no-such-option"],
        ["-O", "n=2"],
    ],
)
def test_bad_values_are_usage_errors(ask: Kimi, server: ReplayServer, arguments: list[str]) -> None:
    """A value of the wrong kind is one line on stderr, exit 2, and no request."""
    result = ask(*arguments, "hi")
    assert (result.status, result.stdout) == (2, b"")
    assert len(lines(result.stderr)) == 1
    assert server.connections == 0


def test_headers(ask: Kimi, server: ReplayServer) -> None:
    """The request names us, our types, no compression, and the token, once."""
    server.script(stream("x"))
    ask("hi")
    headers = server.requests[0].headers
    assert headers["Content-Type"] == "application/json"
    assert headers["Accept-Encoding"] == "identity"
    assert headers["User-Agent"].startswith("kimi-pipe/")
    assert [value.split(" ")[0] for value in headers.get_all("Authorization", [])] == ["Bearer"]
    assert headers["Cookie"] is None


def test_no_auth_sends_no_token(ask: Kimi, server: ReplayServer) -> None:
    """--no-auth leaves the token at home even if there is one."""
    server.script(stream("x"))
    assert ask("--no-auth", "hi").status == 0
    assert server.requests[0].headers["Authorization"] is None


@pytest.mark.parametrize(
    "arguments",
    [
        ["hi"],
        ["--no-stream", "-s", "ü", "--temperature", "0.5", "-O", 'a={"b":[1]}', "日本 😀"],
        ["--profile", "moonshot", "-m", "x", "--stop", "\\n", 'he said "no"\t'],
    ],
)
def test_dry_run_prints_the_bytes_of_a_real_run(
    ask: Kimi, server: ReplayServer, arguments: list[str]
) -> None:
    """--dry-run prints the body that a real run sends, without a token or a connection."""
    dry = ask("--dry-run", *arguments, env={"KIMI_TOKEN": None})
    assert (dry.status, dry.stderr) == (0, b"")
    assert server.connections == 0
    server.answer(lambda request: stream("x") if request.json["stream"] else completion("x"))
    assert ask(*arguments).status == 0
    assert dry.stdout == server.requests[0].body + b"\n"


def test_a_stream_asks_moonshot_for_its_usage(ask: Kimi, server: ReplayServer) -> None:
    """Usage is asked for where a host only then sends it, and not at the gateway."""
    server.script(stream("x"), stream("x"), completion("x"))
    moonshot = ask.but("--profile", "moonshot", "hi")
    moonshot()
    ask("hi")
    moonshot("--no-stream")
    asked = [request.json.get("stream_options") for request in server.requests]
    assert asked == [{"include_usage": True}, None, None]


@pytest.mark.parametrize(
    "options",
    [
        ["-O", "x=1e999"],
        ["-O", "deep=" + "[" * 100_000],
        ["-O", 'x="\\ud800"'],
        [b"-Ox=\xff"],
        [b"-s\xff"],
        [b"--stop=\xff"],
        [b"-m\xff"],
        [b"--reasoning-effort=\xff"],
    ],
)
def test_what_json_cannot_hold_is_bad_input(
    ask: Kimi, server: ReplayServer, options: list[str | bytes]
) -> None:
    """Infinity, a pit of brackets, lone surrogates, other bytes: exit 65, and not sent."""
    result = ask(*options, "hi")
    assert (result.stdout, result.status) == (b"", 65)
    assert len(lines(result.stderr)) == 1
    assert server.connections == 0


def test_options_are_utf_8_whatever_the_locale(ask: Kimi, server: ReplayServer) -> None:
    """Text options are sent as typed under any locale."""
    server.script(stream("x"))
    ask("-s", "ü", "-mö", "--stop=ä", "-Ox=é", "hi", env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    body = server.requests[0].json
    assert (body["messages"][0]["content"], body["model"]) == ("ü", "ö")
    assert (body["stop"], body["x"]) == (["ä"], "é")


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


# Refusals


TOKEN = "; check it with 'kimi auth status', replace it with 'kimi auth login'"
SERVED = "; check --model and --base-url; 'kimi models' lists what there is"
MONEY = "; recharge the account"
PLAIN = {"Content-Type": "text/plain"}

REFUSALS: list[tuple[Reply, int, str]] = [
    (refusal(400, "bad_request", "no"), 65, "HTTP 400 bad_request: no"),
    (
        refusal(400, "bad_request", "no", trace_id="abc-1"),
        65,
        "HTTP 400 bad_request: no (trace id abc-1)",
    ),
    (refusal(400, "token_mismatched", "no"), 77, f"HTTP 400 token_mismatched: no{TOKEN}"),
    (refusal(400, "no_token", "no"), 77, f"HTTP 400 no_token: no{TOKEN}"),
    (refusal(401, "invalid_token", "no"), 77, f"HTTP 401 invalid_token: no{TOKEN}"),
    (refusal(401, "token_expired", "no"), 77, f"HTTP 401 token_expired: no{TOKEN}"),
    (refusal(403, "used_up", "no"), 77, f"HTTP 403 used_up: no{MONEY}"),
    (refusal(403, "disabled", "no"), 77, f"HTTP 403 disabled: no{TOKEN}"),
    (refusal(403, "forbidden", "unsafe"), 65, "HTTP 403 forbidden: unsafe"),
    (refusal(404, "no_api", "no"), 69, f"HTTP 404 no_api: no{SERVED}"),
    (refusal(400, "api_not_implemented", "no"), 69, f"HTTP 400 api_not_implemented: no{SERVED}"),
    (refusal(429, "too_many_requests", "slow"), 75, "HTTP 429 too_many_requests: slow"),
    (refusal(429, "rate_limited", "slow"), 75, "HTTP 429 rate_limited: slow"),
    (
        recording("guide-error"),
        75,
        "HTTP 500 api_error: fetch failed (trace id 2cf86e86-22a4-46e1-ac2f-032c0f2a4e89)",
    ),
    (refusal(504, "timeout", "late"), 75, "HTTP 504 timeout: late"),
    (
        refusal(400, "invalid_request_error", "Input too long", dialect="moonshot"),
        65,
        "HTTP 400 invalid_request_error: Input too long",
    ),
    (
        refusal(400, "content_filter", "high risk", dialect="moonshot"),
        65,
        "HTTP 400 content_filter: high risk",
    ),
    (
        refusal(401, "invalid_authentication_error", "no", dialect="moonshot"),
        77,
        f"HTTP 401 invalid_authentication_error: no{TOKEN}",
    ),
    (
        refusal(404, "resource_not_found_error", "Not found the model x", dialect="moonshot"),
        69,
        f"HTTP 404 resource_not_found_error: Not found the model x{SERVED}",
    ),
    (
        recording("moonshot-quota"),
        77,
        "HTTP 429 exceeded_current_quota_error: You exceeded your current token quota, "
        f"please check your account balance{MONEY}",
    ),
    (
        refusal(429, "engine_overloaded_error", "busy", dialect="moonshot"),
        75,
        "HTTP 429 engine_overloaded_error: busy",
    ),
    (
        refusal(429, "rate_limit_reached_error", "limit TPD reached", dialect="moonshot"),
        75,
        "HTTP 429 rate_limit_reached_error: limit TPD reached; "
        "this limit resets by itself, but not soon",
    ),
    (
        recording("llama-cpp-unauthorized"),
        77,
        f"HTTP 401 authentication_error: Invalid API Key{TOKEN}",
    ),
    (recording("gateway-timeout-html"), 75, "HTTP 504: 504 Gateway Time-out 504 Gateway Time-out"),
    (document({"error": "just words"}, status=400), 65, "HTTP 400: just words"),
    (document({"error": None}, status=402), 77, f"HTTP 402{MONEY}"),
    (document({"error": ["a"]}, status=422), 65, "HTTP 422: ['a']"),
    (document({"detail": "Not Found"}, status=404), 69, f"HTTP 404: Not Found{SERVED}"),
    (document(None, status=403), 77, f"HTTP 403{TOKEN}"),
    (document("words", status=413), 65, "HTTP 413: words"),
    (document([], status=500), 75, "HTTP 500"),
    (document({"error": {"code": 7, "message": {"a": 1}}}, status=400), 65, "HTTP 400: {'a': 1}"),
    (Reply([b"busy"], status=503, headers=PLAIN), 75, "HTTP 503: busy"),
    (Reply([], status=401), 77, f"HTTP 401{TOKEN}"),
    (Reply([b"\xff\xfe"], status=400), 65, "HTTP 400: \ufffd\ufffd"),
    (Reply([], status=405), 69, f"HTTP 405{SERVED}"),
    (Reply([], status=410), 69, f"HTTP 410{SERVED}"),
    (Reply([], status=418, reason="\x1b[31m"), 65, "HTTP 418"),
    (Reply([], status=408), 75, "HTTP 408"),
    (Reply([b"{}"], status=999), 76, "HTTP 999; check --base-url"),
    (
        document({"error": {"message": "no"}}, status=400, headers={"X-Request-Id": "r-7"}),
        65,
        "HTTP 400: no (trace id r-7)",
    ),
    (
        refusal(400, "bad_request", "w" * 600),
        65,
        f"HTTP 400 bad_request: {'w' * 500}…",
    ),
]


@pytest.mark.parametrize(("reply", "status", "words"), REFUSALS, ids=[row[2] for row in REFUSALS])
def test_refusals(once: Kimi, server: ReplayServer, reply: Reply, status: int, words: str) -> None:
    """A refusal of any dialect is one line with status, code, words and trace id."""
    server.script(reply)
    result = once("hi")
    assert result.error == f"kimi: the API refused the request: {words}\n"
    assert (result.stdout, result.status) == (b"", status)


@pytest.mark.parametrize(
    ("reply", "status", "words"),
    [
        (refusal(200, "api_error", "fetch failed", trace_id="t-1"), 75, "HTTP 200 api_error"),
        (refusal(200, "used_up", "no"), 77, "HTTP 200 used_up"),
        (document({"error": "odd"}), 75, "HTTP 200: odd"),
        (document({"code": "invalid_token", "message": "no"}), 77, "HTTP 200 invalid_token"),
    ],
)
@NO_STREAM
def test_an_error_object_inside_a_200(
    once: Kimi,
    server: ReplayServer,
    mode: tuple[str, ...],
    reply: Reply,
    status: int,
    words: str,
) -> None:
    """A 200 that holds an error is a refusal."""
    server.script(reply)
    result = once(*mode, "hi")
    assert (result.stdout, result.status) == (b"", status)
    assert result.error.startswith(f"kimi: the API refused the request: {words}")
    assert len(lines(result.stderr)) == 1


def test_an_error_object_inside_the_stream(ask: Kimi, server: ReplayServer) -> None:
    """Mid-stream errors end the answer: the text stays, nothing is tried again."""
    server.script(recording("error-mid-stream"))
    result = ask("hi")
    assert (result.stdout, result.status) == (b"The first half of\n", 75)
    assert result.error == (
        "kimi: the answer was cut off after 17 characters: the API refused the request: HTTP 200 "
        "engine_overloaded_error: The engine is currently overloaded, please try again later\n"
    )


def test_an_error_object_before_the_first_delta(ask: Kimi, server: ReplayServer) -> None:
    """An error that comes before any text decides the status as a refusal does."""
    quota = {"error": {"type": "exceeded_current_quota_error", "message": "no"}}
    reply = stream(event(quota), finish=None, done=False, usage=None)
    server.script(reply)
    result = ask("hi")
    assert (result.stdout, result.status) == (b"", 77)
    assert len(server.requests) == 1


# Replies that are not the API's


FOREIGN = [
    HTML,
    HTML.but(headers={"Content-Type": "text/html; charset=utf-8"}, framing="chunked"),
    Reply([b"Welcome to our network"], headers=PLAIN),
    Reply([b"hello"]),
    Reply([b"{"], headers={"Content-Type": "application/json"}),
    Reply([b"null"], headers={"Content-Type": "application/json"}),
    Reply([b"[]"], headers={"Content-Type": "application/json"}),
    Reply([b"NaN"], headers={"Content-Type": "application/json"}),
    Reply([b"[" * 100_000], headers={"Content-Type": "application/json"}),
    Reply([b'{"choices":[7],"x":1e999}'], headers={"Content-Type": "application/json"}),
    Reply([b'{"choices":{"a":"\\udcff"}}'], headers={"Content-Type": "application/json"}),
    document({"choices": 7}),
    document({"choices": [7]}),
    document({"choices": [{"message": {"content": [{"type": "text"}]}}]}),
]


@pytest.mark.parametrize(
    ("mode", "reply"),
    [*[((), reply) for reply in FOREIGN], *[(("--no-stream",), reply) for reply in FOREIGN[::3]]],
)
def test_what_is_not_the_api(
    ask: Kimi, server: ReplayServer, mode: tuple[str, ...], reply: Reply
) -> None:
    """HTML, a captive portal, broken or foreign JSON: exit 76, one line, one request."""
    server.script(reply)
    result = ask(*mode, "hi")
    assert (result.stdout, result.status) == (b"", 76)
    assert len(lines(result.stderr)) == 1
    assert len(server.requests) == 1


def test_the_first_words_of_a_foreign_page(ask: Kimi, server: ReplayServer) -> None:
    """The line tells what came instead, and what to check."""
    server.script(HTML)
    assert ask("hi").error == (
        "kimi: the host sent text/html instead of an answer (HTTP 200): "
        "<html><title>Log in</title></html>; check --base-url\n"
    )


@pytest.mark.parametrize(
    "data",
    [
        "{",
        "null",
        "[]",
        "7",
        "[" * 100_000,
        '{"choices": 7}',
        '{"choices": [{"delta": 7}]}',
        '{"choices": [{"delta": {"content": 7}}]}',
        '{"choices": [{"delta": {"reasoning": ["a"]}}]}',
        '{"choices": [{"delta": {"tool_calls": [7]}}]}',
        '{"choices": [{"delta": {"tool_calls": [{"function": {"name": 7}}]}}]}',
    ],
)
def test_what_is_no_chunk(ask: Kimi, server: ReplayServer, data: str) -> None:
    """An event that is not a chunk ends the answer with exit 76; the text before it stays."""
    server.script(stream("Hel", event(data), "lo"))
    result = ask("hi")
    assert (result.stdout, result.status) == (b"Hel\n", 76)
    assert len(lines(result.stderr)) == 1


@pytest.mark.parametrize(
    "data",
    ["{}", '{"choices": null}', '{"choices": [{}]}', '{"choices":[{"delta":{"content":null}}]}'],
)
def test_harmless_oddities(ask: Kimi, server: ReplayServer, data: str) -> None:
    """Chunks without a word in them are passed over."""
    server.script(stream("Hel", event(data), "lo"))
    result = ask("hi")
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_redirects_are_never_followed(
    ask: Kimi, server: ReplayServer, elsewhere: ReplayServer, status: int
) -> None:
    """No kind of redirect takes the prompt or the token elsewhere: exit 76."""
    target = f"{elsewhere.url}/chat/completions"
    server.script(Reply([], status=status, headers={"Location": target}))
    result = ask("hi")
    assert (result.stdout, result.status) == (b"", 76)
    assert f"the host redirects (HTTP {status}) to {target};" in result.error
    assert len(lines(result.stderr)) == 1
    assert len(server.requests) == 1


@pytest.mark.parametrize("target", [None, "/elsewhere", "//evil.invalid/", "file:///etc/passwd"])
def test_redirects_at_home(ask: Kimi, server: ReplayServer, target: str | None) -> None:
    """A redirect within the origin, or to nowhere, is no better."""
    headers = {"Location": target} if target else {}
    server.script(Reply([], status=307, headers=headers))
    assert ask("hi").status == 76
    assert len(server.requests) == 1


# Retries


def by_prompt(request: ReceivedRequest) -> str:
    """The prompt of a request, which tells here what to reply."""
    return request.json["messages"][0]["content"]


def test_which_statuses_are_tried_again(ask: Kimi, server: ReplayServer) -> None:
    """What may pass is tried again, what will not is told at once."""
    passing = ["408", "409", "425", "429", "500", "502", "503", "504", "529"]
    lasting = ["400", "401", "402", "403", "404", "405", "410", "413", "422", "501"]
    seen: list[str] = []

    def answer(request: ReceivedRequest) -> Reply:
        prompt = by_prompt(request)
        seen.append(prompt)
        if seen.count(prompt) > 1:
            return stream("Yes")
        return document({"error": {"message": "no"}}, status=int(prompt))

    server.answer(answer)
    runs = {prompt: ask.start("--retries", "1", prompt) for prompt in (*passing, *lasting)}
    results = {prompt: run.wait(50) for prompt, run in runs.items()}
    assert sorted(seen) == sorted([*passing, *passing, *lasting])
    for prompt in passing:
        assert (results[prompt].stdout, results[prompt].status) == (b"Yes\n", 0)
        assert re.fullmatch(
            rf"kimi: the API refused the request: HTTP {prompt}: no; "
            r"trying again in [01]\.\d s \(1 of 1\)\n",
            results[prompt].error,
        )
    assert all(results[prompt].status != 0 for prompt in lasting)


@NO_STREAM
def test_retries_are_counted(ask: Kimi, server: ReplayServer, mode: tuple[str, ...]) -> None:
    """Two retries are the default; then the last error is told, with a line for each retry."""
    busy = refusal(503, "api_error", "busy")
    server.script(busy, busy, busy)
    result = ask(*mode, "hi")
    assert len(server.requests) == 3
    assert result.status == 75
    told = [line.partition("; ")[2] for line in lines(result.stderr)]
    assert re.fullmatch(r"trying again in \d\.\d s \(1 of 2\)", told[0])
    assert re.fullmatch(r"trying again in \d\.\d s \(2 of 2\)", told[1])
    assert told[2:] == [""]
    assert len({request.body for request in server.requests}) == 1


@pytest.mark.parametrize("given", [("--retries", "0"), {"KIMI_RETRIES": "0"}])
def test_no_retries(
    ask: Kimi, server: ReplayServer, given: tuple[str, ...] | dict[str, str]
) -> None:
    """--retries 0 and KIMI_RETRIES=0 mean one request."""
    server.script(refusal(503, "api_error", "busy"))
    options, environment = ((), given) if isinstance(given, dict) else (given, {})
    assert ask(*options, "hi", env=environment).status == 75
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "first",
    [
        Reply([Reset()], framing="raw"),
        Reply([Cut()], framing="raw"),
        stream(Cut()),
        stream(Cut(), framing="close"),
        stream(finish=None, done=False),
        stream(event({"error": {"type": "engine_overloaded_error", "message": "busy"}})),
        refusal(200, "api_error", "fetch failed"),
    ],
    ids=["reset", "closed", "cut", "cut-close", "no-end", "error-event", "error-in-200"],
)
def test_failures_before_the_first_word_are_tried_again(
    ask: Kimi, server: ReplayServer, first: Reply
) -> None:
    """Until a first delta came the call is repeated; -q hides that it was."""
    server.script(first, stream("Yes"))
    result = ask("-q", "--retries", "1", "hi")
    assert (result.stdout, result.stderr, result.status) == (b"Yes\n", b"", 0)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "broken",
    [
        stream("Hel", Cut()),
        stream("Hel", finish=None, done=False),
        stream({"reasoning_content": "Hm"}, Cut()),
        stream("Hel", event({"error": {"type": "engine_overloaded_error", "message": "busy"}})),
    ],
    ids=["cut", "no-end", "reasoning", "error-event"],
)
def test_nothing_is_tried_again_after_the_first_delta(
    ask: Kimi, server: ReplayServer, broken: Reply
) -> None:
    """Text is never bought twice: not even reasoning."""
    server.script(broken)
    assert ask("hi").status == 75
    assert len(server.requests) == 1


def test_retry_after_is_waited_for(ask: Kimi, server: ReplayServer) -> None:
    """Retry-After is a floor: seconds, or a date counted from the reply's own."""
    then = 1_700_000_000
    dated = {
        "Retry-After": formatdate(then + 1, usegmt=True),
        "Date": formatdate(then, usegmt=True),
    }
    server.script(
        refusal(429, "rate_limited", "slow", headers={"Retry-After": "0.5"}),
        refusal(503, "api_error", "busy", headers=dated),
        stream("Yes"),
    )
    assert ask("hi").stdout == b"Yes\n"
    first, second, third = (request.at for request in server.requests)
    assert second - first >= 0.5
    assert third - second >= 1


def test_retry_after_that_is_too_long(ask: Kimi, server: ReplayServer) -> None:
    """A wait beyond the budget is not begun: exit 75 at once, with the time."""
    server.script(refusal(429, "rate_limited", "slow", headers={"Retry-After": "3600"}))
    result = ask("hi")
    assert result.status == 75
    assert "the host asks to wait 3600 s" in result.error
    assert len(server.requests) == 1


def test_a_retry_stays_within_max_time(ask: Kimi, server: ReplayServer) -> None:
    """A retry that --max-time cannot hold is not begun."""
    server.script(refusal(429, "rate_limited", "slow", headers={"Retry-After": "20"}))
    assert ask("--max-time", "10", "hi").status == 75
    assert len(server.requests) == 1


@pytest.mark.parametrize("value", ["-1", "soon", "", "inf", "nan", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_retry_after_nonsense_is_ignored(ask: Kimi, server: ReplayServer, value: str) -> None:
    """Negative, junk and past values leave the usual back-off."""
    server.script(refusal(503, "api_error", "busy", headers={"Retry-After": value}), stream("Yes"))
    assert ask("-q", "--retries", "1", "hi").stdout == b"Yes\n"


# -v and -q


def test_verbose_tells_what_goes_on(ask: Kimi, server: ReplayServer) -> None:
    """-v adds model, host, source of the token, id, finish_reason and token counts."""
    server.script(stream("Yes"))
    told = "\n".join(lines(ask("-v", "hi").stderr))
    for fact in ("kimi-k2.5", server.url, "KIMI_TOKEN", "chatcmpl-952dd5e75583c4d1", "stop", "135"):
        assert fact in told


def test_quiet_leaves_the_error(ask: Kimi, server: ReplayServer) -> None:
    """-q silences all but the error."""
    busy = refusal(503, "api_error", "busy")
    server.script(busy, busy)
    result = ask("-q", "--retries", "1", "hi")
    assert result.error == "kimi: the API refused the request: HTTP 503 api_error: busy\n"


@pytest.mark.parametrize("option", ["--no-stream", "--json"])
def test_json_without_choices_is_no_answer(ask: Kimi, server: ReplayServer, option: str) -> None:
    """A good status and an empty object are not the API: exit 76."""
    server.script(document({}))
    result = ask(option, "hi")
    assert (result.status, result.stdout) == (76, b"")
