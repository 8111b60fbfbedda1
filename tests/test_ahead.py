"""The connection that a question opens before all of the program is there."""

from __future__ import annotations

import pytest
from conftest import CANARY, Kimi
from server import ReplayServer, refusal, stream


@pytest.fixture
def anyone(kimi: Kimi, server: ReplayServer) -> Kimi:
    """``kimi ask`` at the server, without a token yet."""
    return kimi.but("ask", "--base-url", server.url)


def test_one_question_is_one_connection(anyone: Kimi, server: ReplayServer) -> None:
    """What was opened ahead is what the question goes over."""
    server.script(stream("x"))
    assert anyone("hi", env={"KIMI_TOKEN": CANARY}).status == 0
    assert (server.connections, len(server.requests)) == (1, 1)


def test_each_attempt_has_its_own(anyone: Kimi, server: ReplayServer) -> None:
    """Only the first finds one open."""
    busy = refusal(429, "too_many_requests", "slow down")
    server.script(busy.but(headers={**busy.headers, "Retry-After": "0"}), stream("x"))
    assert anyone("hi", env={"KIMI_TOKEN": CANARY}).status == 0
    assert (server.connections, len(server.requests)) == (2, 2)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--dry-run", "hi"], 0),
        (["--help"], 0),
        (["--no-such-option", "hi"], 2),
        (["-f", "/no/such/file", "hi"], 66),
        ([""], 65),
        (["--test", "--choice", "a,b", "hi"], 2),
        (["--schema", "{", "hi"], 65),
    ],
)
def test_nothing_connects_for_what_asks_nothing(
    anyone: Kimi, server: ReplayServer, arguments: list[str], status: int
) -> None:
    """Neither help nor a dry run, nor anything that is wrong with the question."""
    result = anyone(*arguments, env={"KIMI_TOKEN": CANARY})
    assert result.status in (status, 2), result.error
    assert server.connections == 0


def test_without_a_token_nobody_is_asked(anyone: Kimi, server: ReplayServer) -> None:
    """Nor is the host, which would only learn that somebody is there."""
    result = anyone("hi")
    assert result.status == 78
    assert server.connections == 0
