"""What a refusal means: every documented code of both hosts, and bodies that nobody documented."""

from __future__ import annotations

from typing import Any

import pytest

from kimi_cli.api.refusals import Refused, Verdict, holds_error, read_refusal
from kimi_cli.errors import ExitStatus

# status, body, verdict
CASES: list[tuple[int, Any, Verdict]] = [
    (400, {"error": {"code": "bad_request", "message": "x"}}, Verdict.REQUEST_REFUSED),
    (400, {"error": {"code": "no_token"}}, Verdict.TOKEN_REFUSED),
    (400, {"error": {"code": "token_mismatched"}}, Verdict.TOKEN_REFUSED),
    (400, {"error": {"code": "api_not_implemented"}}, Verdict.NOT_SERVED),
    (401, {"error": {"code": "invalid_token"}}, Verdict.TOKEN_REFUSED),
    (403, {"error": {"code": "used_up"}}, Verdict.QUOTA_USED_UP),
    (403, {"error": {"code": "disabled"}}, Verdict.TOKEN_REFUSED),
    (403, {"error": {"code": "forbidden"}}, Verdict.REQUEST_REFUSED),
    (404, {"error": {"code": "no_api"}}, Verdict.NOT_SERVED),
    (429, {"error": {"code": "too_many_requests"}}, Verdict.RATE_LIMITED),
    (429, {"error": {"code": "rate_limited"}}, Verdict.RATE_LIMITED),
    (500, {"success": False, "error": {"code": "api_error"}}, Verdict.SERVER_FAILED),
    (504, {"error": {"code": "timeout"}}, Verdict.SERVER_FAILED),
    (400, {"error": {"type": "content_filter"}}, Verdict.REQUEST_REFUSED),
    (400, {"error": {"type": "invalid_request_error"}}, Verdict.REQUEST_REFUSED),
    (401, {"error": {"type": "incorrect_api_key_error"}}, Verdict.TOKEN_REFUSED),
    (403, {"error": {"type": "permission_denied_error"}}, Verdict.TOKEN_REFUSED),
    (404, {"error": {"type": "resource_not_found_error"}}, Verdict.NOT_SERVED),
    (429, {"error": {"type": "exceeded_current_quota_error"}}, Verdict.QUOTA_USED_UP),
    (429, {"error": {"type": "engine_overloaded_error"}}, Verdict.OVERLOADED),
    (429, {"error": {"type": "rate_limit_reached_error"}}, Verdict.RATE_LIMITED),
    (
        429,
        {"error": {"type": "rate_limit_reached_error", "message": "reached TPD rate limit"}},
        Verdict.SPENT_FOR_NOW,
    ),
    (429, {"error": {"message": "You exceeded your current quota"}}, Verdict.QUOTA_USED_UP),
    (503, {"error": {"code": 503, "type": "unavailable_error"}}, Verdict.OVERLOADED),
    (401, {"error": {"code": 401, "type": "authentication_error"}}, Verdict.TOKEN_REFUSED),
    (200, {"error": {"code": 500, "message": "slot failed"}}, Verdict.SERVER_FAILED),
    (402, {}, Verdict.QUOTA_USED_UP),
    (413, {"error": "too large"}, Verdict.REQUEST_REFUSED),
    (422, None, Verdict.REQUEST_REFUSED),
    (500, ["odd"], Verdict.SERVER_FAILED),
    (502, {"message": "Bad Gateway"}, Verdict.SERVER_FAILED),
    (501, {}, Verdict.NOT_SERVED),
    (529, {}, Verdict.OVERLOADED),
    (999, {}, Verdict.NOT_THE_API),
]
STATUSES = {
    Verdict.RATE_LIMITED: (ExitStatus.TEMPORARY, True),
    Verdict.OVERLOADED: (ExitStatus.TEMPORARY, True),
    Verdict.SERVER_FAILED: (ExitStatus.TEMPORARY, True),
    Verdict.SPENT_FOR_NOW: (ExitStatus.TEMPORARY, False),
    Verdict.REQUEST_REFUSED: (ExitStatus.DATA, False),
    Verdict.TOKEN_REFUSED: (ExitStatus.NO_PERMISSION, False),
    Verdict.QUOTA_USED_UP: (ExitStatus.NO_PERMISSION, False),
    Verdict.HEADER_MISSING: (ExitStatus.CONFIG, False),
    Verdict.NOT_SERVED: (ExitStatus.UNAVAILABLE, False),
    Verdict.NOT_THE_API: (ExitStatus.PROTOCOL, False),
}


@pytest.mark.parametrize(("http_status", "body", "verdict"), CASES)
def test_bodies_are_judged(http_status: int, body: Any, verdict: Verdict) -> None:
    """The code decides, then the wording, then the HTTP status; no body makes it raise."""
    refusal = read_refusal(http_status, body)
    assert refusal.verdict is verdict
    assert Refused(refusal).status is verdict.status


def test_every_verdict_has_its_own_consequences() -> None:
    """No two verdicts are one and the same, and each leads to the status in the table."""
    assert {verdict: (verdict.status, verdict.retryable) for verdict in Verdict} == STATUSES


def test_a_refusal_is_told_in_one_line() -> None:
    """Status, code, the server's words, trace id and the wait are all there, words cut short."""
    refusal = read_refusal(
        429,
        {"error": {"code": "rate_limited", "message": "slow\ndown " * 200}, "trace_id": "t-1"},
        retry_after=7.0,
    )
    line = str(Refused(refusal))
    assert "\n" not in line
    assert len(line) < 700
    for part in ("HTTP 429", "rate_limited", "slow down", "…", "trace id t-1", "wait 7 s"):
        assert part in line


@pytest.mark.parametrize(
    ("document", "is_error"),
    [
        ({"error": {"message": "x"}}, True),
        ({"type": "error", "message": "x"}, True),
        ({"choices": [], "error": None}, False),
        ({"choices": []}, False),
        ({"ping": 1}, False),
    ],
)
def test_errors_are_told_from_chunks(document: Any, is_error: bool) -> None:
    """An error object may come inside a reply that began well."""
    assert holds_error(document) is is_error
