"""`kimi ask`: what is tried again, when, and what is told of it."""

from __future__ import annotations

import re
from email.utils import formatdate

import pytest
from answers import NO_STREAM, lines
from program import Kimi
from server import (
    Cut,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Reset,
    document,
    event,
    refusal,
    stream,
)

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
    assert told[2:] == ["try again later"]
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
    assert result.error == (
        "kimi: the API refused the request: HTTP 503 api_error: busy; try again later\n"
    )
