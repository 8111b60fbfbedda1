"""`kimi ask`: what is sent."""

from __future__ import annotations

from typing import Any

import pytest
from answers import lines
from program import Kimi
from server import ReplayServer, completion, stream

PLAIN_BODY = {
    "model": "kimi-k2.5",
    "messages": [{"role": "user", "content": "hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
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
    answers = {True: stream("1"), False: completion("1")}
    server.answer(lambda request: answers[request.json["stream"]])
    assert ask(*options, "hi").status == 0
    expected = {**PLAIN_BODY, **changes}
    if not expected["stream"]:
        del expected["stream_options"]
    assert server.requests[0].json == expected


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
    """Usage is asked for where a host only then sends it: everywhere but at the gateway."""
    server.script(stream("x"), stream("x"), completion("x"))
    moonshot = ask.but("--profile", "moonshot", "hi")
    moonshot()
    ask("hi")
    moonshot("--no-stream")
    asked = [request.json.get("stream_options") for request in server.requests]
    assert asked == [{"include_usage": True}, {"include_usage": True}, None]


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
    assert not server.requests


def test_options_are_utf_8_whatever_the_locale(ask: Kimi, server: ReplayServer) -> None:
    """Text options are sent as typed under any locale."""
    server.script(stream("x"))
    ask("-s", "ü", "-mö", "--stop=ä", "-Ox=é", "hi", env={"LC_ALL": "C", "PYTHONUTF8": "0"})
    body = server.requests[0].json
    assert (body["messages"][0]["content"], body["model"]) == ("ü", "ö")
    assert (body["stop"], body["x"]) == (["ä"], "é")
