"""`kimi ask`: refusals of both hosts, and replies that are not the API's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from answers import NO_STREAM, lines
from program import Kimi
from server import ReplayServer, Reply, document, event, recording, refusal, stream

PLAIN = {"Content-Type": "text/plain"}


# Refusals


TOKEN = "; check it with 'kimi auth status', replace it with 'kimi auth login'"
BUILT_IN = (
    "; kimi-k2.5 is the built-in default: choose another with -m, KIMI_MODEL, or model in "
    "config.toml"
)
SERVED = "; check --model and --base-url; 'kimi models' lists what there is"
MONEY = "; recharge the account"
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
    (refusal(403, "forbidden", "unsafe"), 65, "HTTP 403 forbidden: unsafe; ask in other words"),
    (refusal(404, "no_api", "no"), 69, f"HTTP 404 no_api: no{SERVED}"),
    (refusal(400, "api_not_implemented", "no"), 69, f"HTTP 400 api_not_implemented: no{SERVED}"),
    (
        refusal(429, "too_many_requests", "slow"),
        75,
        "HTTP 429 too_many_requests: slow; try again later",
    ),
    (refusal(429, "rate_limited", "slow"), 75, "HTTP 429 rate_limited: slow; try again later"),
    (
        recording("guide-error"),
        75,
        "HTTP 500 api_error: fetch failed (trace id 2cf86e86-22a4-46e1-ac2f-032c0f2a4e89)"
        "; try again later",
    ),
    (refusal(504, "timeout", "late"), 75, "HTTP 504 timeout: late; try again later"),
    (
        refusal(400, "invalid_request_error", "Input too long", dialect="moonshot"),
        65,
        "HTTP 400 invalid_request_error: Input too long",
    ),
    (
        refusal(400, "content_filter", "high risk", dialect="moonshot"),
        65,
        "HTTP 400 content_filter: high risk; ask in other words",
    ),
    (
        refusal(401, "invalid_authentication_error", "no", dialect="moonshot"),
        77,
        f"HTTP 401 invalid_authentication_error: no{TOKEN}",
    ),
    (
        refusal(404, "resource_not_found_error", "Not found the model x", dialect="moonshot"),
        69,
        f"HTTP 404 resource_not_found_error: Not found the model x{SERVED}{BUILT_IN}",
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
        "HTTP 429 engine_overloaded_error: busy; try again later",
    ),
    (
        refusal(429, "rate_limit_reached_error", "limit TPD reached", dialect="moonshot"),
        75,
        "HTTP 429 rate_limit_reached_error: limit TPD reached; "
        "this limit resets by itself, but not soon",
    ),
    (document({"error": "just words"}, status=400), 65, "HTTP 400: just words"),
    (document({"error": None}, status=402), 77, f"HTTP 402{MONEY}"),
    (document({"error": ["a"]}, status=422), 65, "HTTP 422: ['a']"),
    (document({"detail": "Not Found"}, status=404), 69, f"HTTP 404: Not Found{SERVED}"),
    (document(None, status=403), 77, f"HTTP 403{TOKEN}"),
    (document("words", status=413), 65, "HTTP 413: words"),
    (document([], status=500), 75, "HTTP 500; try again later"),
    (document({"error": {"code": 7, "message": {"a": 1}}}, status=400), 65, "HTTP 400: {'a': 1}"),
    (Reply([b"busy"], status=503, headers=PLAIN), 75, "HTTP 503: busy; try again later"),
    (Reply([], status=401), 77, f"HTTP 401{TOKEN}"),
    (Reply([b"\xff\xfe"], status=400), 65, "HTTP 400: \ufffd\ufffd"),
    (Reply([], status=405), 69, f"HTTP 405{SERVED}"),
    (Reply([], status=410), 69, f"HTTP 410{SERVED}"),
    (Reply([], status=418, reason="\x1b[31m"), 65, "HTTP 418"),
    (Reply([], status=408), 75, "HTTP 408; try again later"),
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
        (
            refusal(200, "api_error", "fetch failed", trace_id="t-1"),
            75,
            "api_error: fetch failed (trace id t-1)",
        ),
        (refusal(200, "used_up", "no"), 77, "used_up: no"),
        (document({"error": "odd"}), 75, "odd; try"),
        (document({"code": "invalid_token", "message": "no"}), 77, "invalid_token: no"),
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
    assert result.error.startswith(f"kimi: the API sent an error in its answer: {words}")
    assert len(lines(result.stderr)) == 1


def test_an_error_object_inside_the_stream(ask: Kimi, server: ReplayServer) -> None:
    """Mid-stream errors end the answer: the text stays, nothing is tried again."""
    busy = "The engine is currently overloaded, please try again later"
    error = event({"error": {"type": "engine_overloaded_error", "message": busy}})
    server.script(stream("The first half of", error, finish=None, done=False, usage=None))
    result = ask("hi")
    assert (result.stdout, result.status) == (b"The first half of\n", 75)
    assert result.error == (
        "kimi: the answer was cut off after 17 characters: the API sent an error in its answer: "
        f"engine_overloaded_error: {busy}\n"
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


HTML = Reply([b"<html><title>Log in</title></html>"], headers={"Content-Type": "text/html"})
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
        "kimi: the host sent text/html instead of an answer (HTTP 200): Log in; check --base-url\n"
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


@pytest.fixture
def elsewhere() -> Iterator[ReplayServer]:
    """Another server, which nothing may reach."""
    with ReplayServer() as server:
        yield server
    server.check()
    assert server.connections == 0


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


@pytest.mark.parametrize("option", ["--no-stream", "--json"])
def test_json_without_choices_is_no_answer(ask: Kimi, server: ReplayServer, option: str) -> None:
    """A good status and an empty object are not the API: exit 76."""
    server.script(document({}))
    result = ask(option, "hi")
    assert (result.status, result.stdout) == (76, b"")
