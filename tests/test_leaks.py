"""The bearer token never leaks: not in output, arguments, files, nor to another server."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from conftest import CANARY
from program import Kimi, Result, Streams
from server import (
    Barrier,
    Cut,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Reset,
    Stall,
    completion,
    document,
    event,
    refusal,
    stream,
)

TOKEN = CANARY.encode()
FORMS = [TOKEN, base64.b64encode(TOKEN).rstrip(b"="), TOKEN[:16], TOKEN[-16:]]
"""What must not be found: the token, its base64, its halves."""


@pytest.fixture
def other() -> Iterator[ReplayServer]:
    """Another server, which must receive nothing at all."""
    with ReplayServer() as server:
        yield server
    server.check()
    assert server.connections == 0


@pytest.fixture
def noisy(ask: Kimi, home: Path) -> Kimi:
    """`kimi ask -v` without retries, with a trace asked for."""
    return ask.but("-v", "--retries", "0", env={"KIMI_DEBUG": str(home / "trace")})


def assert_no_leak(text: bytes, place: str) -> None:
    """No form of the token in there."""
    for form in FORMS:
        assert form not in text, place


def assert_clean(result: Result, home: Path) -> None:
    """No form of the token on any stream or in any file."""
    for place in ("stdout", "stderr", "terminal"):
        assert_no_leak(getattr(result, place), place)
    for path in home.rglob("*"):
        if path.is_file():
            assert_no_leak(path.read_bytes(), str(path))


# Failures on the way


def echo(request: ReceivedRequest) -> str:
    """What a careless server repeats: the header with the token."""
    return request.headers["Authorization"]


Answer = Callable[[ReceivedRequest], Reply]

ECHOES: dict[str, Answer] = {
    "error message": lambda r: refusal(401, "invalid_token", f"bad {echo(r)}!"),
    "error code": lambda r: refusal(401, echo(r), "no"),
    "bare error code": lambda r: refusal(401, echo(r).split()[1], "no"),
    "trace id": lambda r: refusal(401, "no_token", "no", trace_id=echo(r)),
    "moonshot": lambda r: refusal(401, echo(r), echo(r), dialect="moonshot"),
    "odd message": lambda r: document({"error": {"message": {"got": echo(r)}}}, status=400),
    "odd error": lambda r: document({"error": [echo(r)]}, status=400),
    "detail": lambda r: document({"detail": [{"input": echo(r)}]}, status=422),
    "base64": lambda r: refusal(401, "x", base64.b64encode(echo(r).split()[1].encode()).decode()),
    "headers": lambda r: document(
        {"error": {"message": "no"}},
        status=429,
        headers={"X-Request-Id": echo(r), "X-Trace-Id": echo(r), "Retry-After": echo(r)},
    ),
    "reason phrase": lambda r: Reply([], status=400, reason=echo(r)),
    "HTML": lambda r: Reply(
        [f"<html>{echo(r)}</html>".encode()], headers={"Content-Type": "text/html"}
    ),
    "content type": lambda r: Reply([b"x"], headers={"Content-Type": echo(r)}),
    "error page": lambda r: Reply([f"<p>{echo(r)}</p>".encode()], status=502),
    "not JSON": lambda r: Reply(
        [f"{{{echo(r)}".encode()], headers={"Content-Type": "application/json"}
    ),
    "unknown shape": lambda r: document({"choices": [echo(r)]}),
    "error in 200": lambda r: refusal(200, "api_error", echo(r)),
    "error event": lambda r: stream("Hel", event({"error": {"message": echo(r)}})),
    "no chunk": lambda r: stream("Hel", event(f"{{{echo(r)}")),
    "redirect": lambda r: Reply([], status=307, headers={"Location": f"/?{quote(echo(r))}"}),
    "id and model": lambda r: document(
        {
            "id": echo(r),
            "model": echo(r),
            "choices": [{"message": {"content": "x"}, "finish_reason": echo(r)}],
        }
    ),
    "status line": lambda r: Reply([f"{echo(r)}\r\n\r\n".encode()], framing="raw"),
    "header garbage": lambda r: Reply([f"HTTP/1.1 {echo(r)} OK\r\n\r\n".encode()], framing="raw"),
    "chunk size": lambda r: Reply(
        [
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n",
            f"{echo(r)}\r\n".encode(),
        ],
        framing="raw",
    ),
}
"""Replies that repeat the token in every place of which an error line may quote something."""


@pytest.mark.parametrize("place", ECHOES)
def test_a_server_that_repeats_the_token(
    noisy: Kimi, server: ReplayServer, home: Path, place: str
) -> None:
    """What a server quotes of our header is not shown, wherever it quotes it."""
    server.answer(ECHOES[place])
    result = noisy("hi")
    assert result.status != 0
    assert_clean(result, home)


@pytest.mark.parametrize("before", range(468, 500, 6))
def test_a_token_that_is_cut(noisy: Kimi, server: ReplayServer, home: Path, before: int) -> None:
    """Where a long message is cut short, no part of the token is left."""
    server.answer(lambda request: refusal(401, "x", "w" * before + echo(request)[7:]))
    assert_clean(noisy("hi"), home)


@pytest.mark.parametrize("before", range(78, 118, 13))
def test_a_token_that_is_cut_in_a_foreign_page(
    noisy: Kimi, server: ReplayServer, home: Path, before: int
) -> None:
    """Nor where the first words of a page are cut."""
    page = {"Content-Type": "text/html"}
    server.answer(lambda r: Reply([("w" * before + echo(r)[7:]).encode()], headers=page))
    assert_clean(noisy("hi"), home)


FAILURES: dict[str, Reply] = {
    "401": refusal(401, "invalid_token", "no"),
    "403": refusal(403, "used_up", "no"),
    "429": refusal(429, "too_many_requests", "slow"),
    "500": refusal(500, "api_error", "fetch failed"),
    "cut": stream("Hel", Cut()),
    "cut early": stream(Cut()),
    "reset": Reply([Reset()], framing="raw"),
    "HTML": Reply([b"<html>"], headers={"Content-Type": "text/html"}),
    "garbage": Reply([b"SSH-2.0-x\r\n"], framing="raw"),
    "silence": Reply([Stall()], framing="raw"),
    "stall": stream("Hel", Stall()),
    "unread": Reply([Stall()], framing="raw", read="head"),
}


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        *[((), name) for name in FAILURES],
        *[(("--no-stream",), name) for name in ("401", "reset", "HTML", "silence")],
    ],
)
def test_every_kind_of_failure(
    noisy: Kimi, server: ReplayServer, home: Path, name: str, mode: tuple[str, ...]
) -> None:
    """No failure shows the token, with -v and a trace asked for."""
    server.script(FAILURES[name])
    result = noisy("--timeout", "0.3", *mode, "hi")
    assert result.status not in (0, 70)
    assert_clean(result, home)


def test_retries_do_not_show_it(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """The line of a retry quotes the server, and not the token."""
    server.answer(lambda request: refusal(503, "api_error", echo(request)))
    result = ask("-v", "--retries", "1", "hi")
    assert b"trying again" in result.stderr
    assert_clean(result, home)


@pytest.mark.parametrize("status", [302, 308])
@pytest.mark.parametrize("prefix", ["", "//"])
def test_redirects_to_another_server(
    noisy: Kimi, server: ReplayServer, other: ReplayServer, home: Path, status: int, prefix: str
) -> None:
    """A redirect to another server takes nothing there."""
    target = f"//127.0.0.1:{other.port}/x" if prefix else f"{other.url}/chat/completions"
    server.script(Reply([], status=status, headers={"Location": target}))
    assert_clean(noisy("hi"), home)


def test_a_host_that_is_not_there(kimi: Kimi, tls_server: ReplayServer, home: Path) -> None:
    """Failures before any request: a name, a port, a certificate, a proxy."""
    environment = {"KIMI_TOKEN": CANARY, "KIMI_DEBUG": str(home / "trace")}
    ask = kimi.but("ask", "-v", "--retries", "0", env=environment)
    for url in ("https://kimi.invalid", "http://127.0.0.1:1", tls_server.url):
        result = ask("--base-url", url, "hi")
        assert result.status == (75 if url.endswith(":1") else 69)
        assert_clean(result, home)
    result = ask(
        "--base-url", "https://kimi.invalid", "hi", env={"ALL_PROXY": "http://127.0.0.1:1"}
    )
    assert result.status == 75
    assert_clean(result, home)
    assert tls_server.requests == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_signals(noisy: Kimi, server: ReplayServer, home: Path, number: signal.Signals) -> None:
    """A program that is killed says nothing of it, and leaves no core with it in HOME."""
    server.script(stream("Hel", Stall()))
    run = noisy.start("hi")
    run.expect(b"Hel")
    run.signal(number)
    result = run.wait(5)
    assert result.status == -number
    assert_clean(result, home)


# Arguments and children


def read_process(pid: int, name: str) -> bytes:
    """One file of /proc/PID."""
    return Path(f"/proc/{pid}/{name}").read_bytes()


@pytest.mark.parametrize("source", ["variable", "file", "stdin"])
def test_arguments(kimi: Kimi, server: ReplayServer, home: Path, source: str) -> None:
    """Whoever looks at the processes does not see the token."""
    path = home.parent / "token"
    path.write_text(CANARY)
    path.chmod(0o600)
    given: dict[str, tuple[list[str], Streams]] = {
        "variable": ([], {"env": {"KIMI_TOKEN": CANARY}}),
        "file": (["--token-file", str(path)], {}),
        "stdin": (["--token-file", "-"], {"stdin": TOKEN + b"\n"}),
    }
    options, streams = given[source]
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo"))
    run = kimi.start("ask", "--base-url", server.url, *options, "hi", **streams)
    run.expect(b"Hel")
    assert_no_leak(read_process(run.pid, "cmdline"), "the arguments")
    assert_no_leak(read_process(run.pid, "comm"), "the name")
    if source != "variable":
        assert_no_leak(read_process(run.pid, "environ"), "the environment")
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert server.requests[0].headers["Authorization"] == f"Bearer {CANARY}"
    assert_clean(result, home)


@pytest.mark.parametrize("option", ["--token", "--api-key", "--key"])
def test_no_option_takes_the_token(kimi: Kimi, option: str) -> None:
    """There is no option to give the token on the command line."""
    assert kimi("ask", option, "x", "hi").status == 2


def test_the_prompt_is_not_repeated(noisy: Kimi, server: ReplayServer) -> None:
    """Nor does -v or an error show the prompt."""
    server.script(refusal(400, "bad_request", "no"), stream("x"))
    for _ in range(2):
        assert b"top secret plan" not in noisy("-s", "top secret plan", "top secret plan").stderr


# Bad tokens


INNER = TOKEN[:20] + b"\n" + TOKEN[20:]
BAD_TOKENS: dict[str, bytes] = {
    "inner line feed": INNER,
    "inner carriage return": INNER.replace(b"\n", b"\r"),
    "header injection": TOKEN + b"\r\nX-Evil: 1",
    "space": TOKEN + b" " + TOKEN,
    "leading space": b" " + TOKEN,
    "tab": TOKEN + b"\t",
    "not ASCII": TOKEN + "é".encode(),
    "not UTF-8": TOKEN + b"\xff",
    "control": TOKEN + b"\x1b[31m",
    "long": TOKEN * 100,
    "1 MB": TOKEN * 25_000,
    "empty": b"",
    "line feed only": b"\n",
    "two line ends": TOKEN + b"\n\n",
}


@pytest.mark.parametrize(
    ("source", "name"),
    [
        *[("--token-file", name) for name in BAD_TOKENS],
        *[("KIMI_TOKEN", name) for name in BAD_TOKENS if name != "1 MB"],
        *[("KIMI_TOKEN_FILE", name) for name in ("empty", "space", "1 MB")],
        *[("-", name) for name in ("empty", "space", "not UTF-8", "1 MB")],
    ],
)
def test_bad_tokens(kimi: Kimi, server: ReplayServer, home: Path, name: str, source: str) -> None:
    """A token that cannot be one is exit 78, is not sent, and is not quoted."""
    token = BAD_TOKENS[name]
    path = home.parent / "token"
    path.write_bytes(token)
    path.chmod(0o600)
    environment = {"KIMI_DEBUG": str(home / "trace")}
    options: list[str] = []
    stdin = None
    if source == "KIMI_TOKEN":
        environment["KIMI_TOKEN"] = os.fsdecode(token)
    elif source == "KIMI_TOKEN_FILE":
        environment["KIMI_TOKEN_FILE"] = str(path)
    else:
        options = ["--token-file", "-" if source == "-" else str(path)]
        stdin = token if source == "-" else None
    arguments = ("ask", "-v", "--base-url", server.url, *options, "hi")
    result = kimi(*arguments, env=environment, stdin=stdin)
    assert (result.stdout, result.status) == (b"", 78)
    assert result.stderr.count(b"\n") == 1
    assert server.connections == 0
    assert_clean(result, home)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_one_line_end_is_no_part_of_a_token(kimi: Kimi, server: ReplayServer, end: bytes) -> None:
    """A token file may end with a line end."""
    server.script(stream("x"))
    result = kimi("ask", "--base-url", server.url, "--token-file", "-", "hi", stdin=TOKEN + end)
    assert result.status == 0
    assert server.requests[0].headers["Authorization"] == f"Bearer {CANARY}"


# The answer


def test_reasoning_on_stderr_is_an_answer_too(noisy: Kimi, server: ReplayServer) -> None:
    """A model that was told the token repeats it on stdout only."""
    server.answer(
        lambda request: completion("x", reasoning=f"They sent {request.headers['Authorization']}")
    )
    result = noisy("--no-stream", "hi")
    assert result.status == 0
    assert_no_leak(result.stderr, "stderr")


def test_json_of_an_answer_holds_no_header(noisy: Kimi, server: ReplayServer, home: Path) -> None:
    """--json is the answer and nothing of the request."""
    server.script(stream("x"))
    result = noisy("--json", "hi")
    assert set(json.loads(result.stdout)) == {
        "content", "reasoning", "model", "id", "finish_reason", "usage",
        "tokens", "cost", "currency",
    }  # fmt: skip
    assert_clean(result, home)
