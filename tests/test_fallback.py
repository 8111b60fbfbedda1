"""Models that stand in for one that is not to be had, and the names that are like a wrong one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conversations import CONVERSATIONS, read_lines
from program import Kimi
from rows import make_rows, write_rows
from server import Cut, ReplayServer, Reply, completion, document, refusal, stream

UNKNOWN = refusal(
    404,
    "resource_not_found_error",
    "Not found the model one or Permission denied",
    dialect="moonshot",
)
RETIRED = refusal(400, "invalid_request_error", "The model `one` has been decommissioned")
OVERLOADED = refusal(429, "engine_overloaded_error", "overloaded", dialect="moonshot")
SPENT = refusal(
    429, "exceeded_current_quota_error", "Your account is suspended", dialect="moonshot"
)
NAMELESS: dict[str, Any] = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
"""An answer that does not say whose it is."""
DAILY = refusal(429, "rate_limit_reached_error", "TPD limit of model one", dialect="moonshot")


@pytest.fixture
def two(once: Kimi) -> Kimi:
    """Two models."""
    return once.but("-m", "one", "--fallback", "two")


def list_models(server: ReplayServer) -> list[str]:
    """Who was asked, in turn."""
    return [request.json["model"] for request in server.requests]


# When


@pytest.mark.parametrize("reply", [UNKNOWN, RETIRED, OVERLOADED, SPENT, DAILY])
@pytest.mark.parametrize("make", [stream, completion])
def test_another_model_is_asked(two: Kimi, server: ReplayServer, reply: Reply, make: Any) -> None:
    """Of one that is unknown or retired, overloaded, or whose quota is spent; one line says so."""
    server.script(reply, make("Hello"))
    result = two("hi", *(["--no-stream"] if make is completion else []))
    assert (result.stdout, result.status) == (b"Hello\n", 0)
    assert list_models(server) == ["one", "two"]
    assert result.error.endswith("; asking two instead\n")
    assert result.error.count("\n") == 1
    assert two("-q", "--dry-run", "hi").error == ""


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (refusal(400, "bad_request", "invalid temperature"), 65),
        (refusal(401, "invalid_token", "no"), 77),
        (refusal(404, "no_api", "no such path"), 69),
        (refusal(429, "too_many_requests", "slow down"), 75),
        (refusal(500, "api_error", "no"), 75),
        (Reply([b"<html>"], headers={"Content-Type": "text/html"}), 76),
    ],
)
def test_for_no_other_failure(two: Kimi, server: ReplayServer, reply: Reply, status: int) -> None:
    """They would befall any model."""
    server.script(reply)
    assert two("hi").status == status
    assert list_models(server) == ["one"]


def test_overload_only_after_the_retries(ask: Kimi, server: ReplayServer) -> None:
    """The model that was asked for comes first."""
    server.script(OVERLOADED, OVERLOADED, stream("Hello"))
    result = ask("--retries", "1", "-m", "one", "--fallback", "two", "hi")
    assert (result.stdout, result.status) == (b"Hello\n", 0)
    assert list_models(server) == ["one", "one", "two"]


@pytest.mark.parametrize("begun", [{"reasoning": ["Hm."]}, {}])
def test_not_after_the_first_byte(two: Kimi, server: ReplayServer, begun: dict[str, Any]) -> None:
    """What was shown is one model's; reasoning is shown, too."""
    error = json.dumps({"error": {"type": "engine_overloaded_error", "message": "no"}})
    text = () if begun else ("Hel",)
    server.script(stream(*text, f"data: {error}\n\n".encode(), Cut(), **begun))
    assert two("hi").status == 75
    assert list_models(server) == ["one"]


def test_an_answer_goes_on_with_whom_it_began(two: Kimi, server: ReplayServer) -> None:
    """By --extend, and by --reask."""
    server.script(
        UNKNOWN,
        stream('{"n":', finish="length"),
        stream('"x"}'),
        stream('{"n":1}'),
    )
    result = two("--extend", "1", "--schema", "n int", "hi")
    assert (result.stdout, result.status) == (b'{"n":1}\n', 0)
    assert list_models(server) == ["one", "two", "two", "two"]


def test_each_stands_in_for_the_one_before(once: Kimi, server: ReplayServer) -> None:
    """In their order, each once; the last failure is the one that counts."""
    once = once.but("-m", "one", "--fallback", "two", "--fallback", "one", "--fallback", "three")
    server.script(UNKNOWN, OVERLOADED, stream("Hello"))
    assert once("hi").stdout == b"Hello\n"
    assert list_models(server) == ["one", "two", "three"]
    server.script(UNKNOWN, OVERLOADED, SPENT)
    result = once("hi")
    assert (result.stdout, result.status) == (b"", 77)
    assert result.error.count("instead\n") == 2
    assert result.error.count("\n") == 3


def test_a_chat_learns_who_answers(kimi: Kimi, server: ReplayServer) -> None:
    """A model that is unknown is not asked again; load may have passed."""
    chat = kimi.but("chat", "--no-auth", "--retries", "0", "--base-url", server.url, "-m", "one")
    server.script(UNKNOWN, stream("a"), stream("b"))
    result = chat("--fallback", "two", stdin=b"1\n2\n")
    assert (result.stdout, result.status) == (b"a\n\nb\n", 0)
    assert list_models(server) == ["one", "two", "two"]
    server.script(OVERLOADED, stream("a"), stream("b"))
    assert chat("--fallback", "two", stdin=b"1\n2\n").status == 0
    assert list_models(server)[3:] == ["one", "two", "one"]


# Who answered


@pytest.mark.parametrize("told", [True, False])
def test_the_object_tells_who_answered(two: Kimi, server: ReplayServer, told: bool) -> None:
    """In the host's words, or by the name that was asked where it has none."""
    server.script(UNKNOWN, document(NAMELESS | ({"model": "two-0905"} if told else {})))
    shown = json.loads(two("--no-stream", "--json", "hi").stdout)
    assert shown["model"] == ("two-0905" if told else "two")


def test_who_answered_is_paid(two: Kimi, server: ReplayServer, home: Path) -> None:
    """By its own price, though its host calls it otherwise, and another was asked first."""
    folder = home / ".config" / "kimi"
    folder.mkdir()
    (folder / "config.toml").write_text(
        "[prices.one]\ninput = 1.0\noutput = 1.0\n[prices.two]\ninput = 4.0\noutput = 8.0\n"
    )
    usage = {"prompt_tokens": 1_000_000, "completion_tokens": 1_000_000}
    server.script(UNKNOWN, document(NAMELESS | {"usage": usage, "model": "2026-two"}))
    shown = json.loads(two("--no-stream", "--json", "hi").stdout)
    assert (shown["model"], shown["cost"]) == ("2026-two", 12)


def test_the_record_tells_who_answered(two: Kimi, server: ReplayServer, home: Path) -> None:
    """The question has the model that was wanted: the conversation goes on with it."""
    server.script(UNKNOWN, document(NAMELESS), stream("ok"))
    assert two("-S", "mine", "--no-stream", "hi").status == 0
    question, answer = read_lines(home / CONVERSATIONS / "mine.jsonl")
    assert (question["model"], answer["model"]) == ("one", "two")


def test_reasoning_is_there_for_whoever_wants_it(ask: Kimi, server: ReplayServer) -> None:
    """A model that needs its reasoning back gets it, though another was asked first."""
    server.script(stream("one", reasoning=["Hm."]), UNKNOWN, stream("two"))
    ask = ask.but("-S", "mine", "-m", "kimi-k2.6")
    assert ask("hi").status == 0
    assert ask("--fallback", "kimi-k3", "on").status == 0
    assert server.requests[-1].json["messages"][1]["reasoning_content"] == "Hm."


# Names that are like it

LISTED = document({"data": [{"id": "kimi-k2.6"}, {"id": "Moonshot/Kimi-K3"}, {"id": "other"}]})


@pytest.mark.parametrize(
    ("model", "near"),
    [
        ("kimi-k2.7", "; the nearest are kimi-k2.6, Moonshot/Kimi-K3\n"),
        ("KIMI-K3", "; the nearest are Moonshot/Kimi-K3, kimi-k2.6\n"),
        ("zzz", "'kimi models' lists what there is\n"),
    ],
)
@pytest.mark.parametrize("command", ["ask", "chat"])
def test_an_unknown_model_is_told_those_like_it(
    kimi: Kimi, server: ReplayServer, command: str, model: str, near: str
) -> None:
    """Of the list that `kimi models` shows; nothing is said where none is like it."""
    server.script(UNKNOWN, LISTED)
    result = kimi(command, "--no-auth", "--base-url", server.url, "-n", "-m", model, "hi")
    assert result.status == 69
    assert result.error.endswith(near)


def test_a_list_that_does_not_come_is_not_waited_for(ask: Kimi, server: ReplayServer) -> None:
    """The error is the error: one request for the list, and no second."""
    server.script(UNKNOWN, refusal(503, "unavailable", "no"))
    result = ask("-m", "one", "hi")
    assert result.status == 69
    assert "trying again" not in result.error
    assert result.error.count("\n") == 1


def test_many_rows_ask_for_the_list_once(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """However many of them are refused at the same time."""
    rows = make_rows(8)
    write_rows(source, rows)
    server.answer(lambda request: LISTED if request.method == "GET" else UNKNOWN)
    done = batch(str(source), "-o", str(out), "-m", "kimi-k2.7", "--concurrency", "8")
    assert done.status != 0
    assert "the nearest are kimi-k2.6" in done.error + out.read_text()
    assert [request.method for request in server.requests].count("GET") == 1


def test_the_gateway_has_a_documented_list(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """It is not asked."""
    folder = home / ".config" / "kimi"
    folder.mkdir()
    (folder / "config.toml").write_text(
        f'[profiles.acedata]\nbase_url = "{server.url}"\nauth = "none"\n'
    )
    server.script(UNKNOWN)
    result = kimi("ask", "-m", "kimi-k2.55", "hi")
    assert "; the nearest are kimi-k2.5, kimi-k2.6" in result.error
