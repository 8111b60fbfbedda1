"""What the API means when it says no: error bodies of every known dialect, and their verdicts.

Sources: the gateway's guide ("Error Handling") and its error page, Moonshot's error page, and
the bodies of llama.cpp and vLLM servers; collected in the design note api.md, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any

from kimi_cli.errors import ExitStatus, KimiError

_SHOWN = 500
"""How much of a server's own words goes into a message, in characters."""


class Verdict(Enum):
    """What a refusal means: the exit status, and whether the same request may succeed later."""

    RATE_LIMITED = "rate limited", ExitStatus.TEMPORARY, True
    OVERLOADED = "overloaded", ExitStatus.TEMPORARY, True
    SERVER_FAILED = "server failed", ExitStatus.TEMPORARY, True
    SPENT_FOR_NOW = "spent for now", ExitStatus.TEMPORARY, False
    REQUEST_REFUSED = "request refused", ExitStatus.DATA, False
    TOKEN_REFUSED = "token refused", ExitStatus.NO_PERMISSION, False
    QUOTA_USED_UP = "quota used up", ExitStatus.NO_PERMISSION, False
    NOT_SERVED = "not served", ExitStatus.UNAVAILABLE, False
    NOT_THE_API = "not the API", ExitStatus.PROTOCOL, False

    def __init__(self, label: str, status: ExitStatus, retryable: bool) -> None:
        """Name the verdict, and its two consequences."""
        self.label = label
        self.status = status
        self.retryable = retryable


_BY_CODE = {
    # the gateway
    "bad_request": Verdict.REQUEST_REFUSED,
    "no_token": Verdict.TOKEN_REFUSED,
    "token_mismatched": Verdict.TOKEN_REFUSED,
    "invalid_token": Verdict.TOKEN_REFUSED,
    "token_expired": Verdict.TOKEN_REFUSED,
    "disabled": Verdict.TOKEN_REFUSED,
    "used_up": Verdict.QUOTA_USED_UP,
    "forbidden": Verdict.REQUEST_REFUSED,  # content moderation, not the token
    "api_not_implemented": Verdict.NOT_SERVED,
    "no_api": Verdict.NOT_SERVED,
    "too_many_requests": Verdict.RATE_LIMITED,
    "rate_limited": Verdict.RATE_LIMITED,
    "api_error": Verdict.SERVER_FAILED,
    "timeout": Verdict.SERVER_FAILED,
    # Moonshot
    "content_filter": Verdict.REQUEST_REFUSED,
    "invalid_request_error": Verdict.REQUEST_REFUSED,
    "invalid_authentication_error": Verdict.TOKEN_REFUSED,
    "incorrect_api_key_error": Verdict.TOKEN_REFUSED,
    "permission_denied_error": Verdict.TOKEN_REFUSED,
    "resource_not_found_error": Verdict.NOT_SERVED,
    "exceeded_current_quota_error": Verdict.QUOTA_USED_UP,
    "engine_overloaded_error": Verdict.OVERLOADED,
    "rate_limit_reached_error": Verdict.RATE_LIMITED,
    "server_error": Verdict.SERVER_FAILED,
    "unexpected_output": Verdict.SERVER_FAILED,
    "server_unavailable": Verdict.OVERLOADED,
    # OpenAI and servers that speak its dialect
    "insufficient_quota": Verdict.QUOTA_USED_UP,
    "model_not_found": Verdict.NOT_SERVED,
    "authentication_error": Verdict.TOKEN_REFUSED,
    "exceed_context_size_error": Verdict.REQUEST_REFUSED,
    "unavailable_error": Verdict.OVERLOADED,
}

_BY_STATUS = {
    401: Verdict.TOKEN_REFUSED,
    402: Verdict.QUOTA_USED_UP,
    403: Verdict.TOKEN_REFUSED,
    404: Verdict.NOT_SERVED,
    405: Verdict.NOT_SERVED,
    407: Verdict.NOT_SERVED,
    408: Verdict.SERVER_FAILED,
    409: Verdict.SERVER_FAILED,
    410: Verdict.NOT_SERVED,
    425: Verdict.SERVER_FAILED,
    429: Verdict.RATE_LIMITED,
    501: Verdict.NOT_SERVED,
    503: Verdict.OVERLOADED,
    505: Verdict.NOT_SERVED,
    529: Verdict.OVERLOADED,
}

_BY_CLASS = {
    2: Verdict.SERVER_FAILED,  # an error object inside a reply that began well
    3: Verdict.NOT_THE_API,
    4: Verdict.REQUEST_REFUSED,
    5: Verdict.SERVER_FAILED,
}

_SAID_WITH_429 = (Verdict.RATE_LIMITED, Verdict.OVERLOADED, Verdict.QUOTA_USED_UP)
_VAGUE = ("invalid_request_error", "bad_request")
"""Codes that hosts send with any status."""

_QUOTA_WORDS = ("exceeded your current quota", "check your account balance", "insufficient balance")
_PERIOD_WORDS = (" tpd", "tokens per day", "per day", "usage limit for this", "billing cycle")

_ADVICE = {
    Verdict.TOKEN_REFUSED: "check it with 'kimi auth status', replace it with 'kimi auth login'",
    Verdict.QUOTA_USED_UP: "recharge the account",
    Verdict.SPENT_FOR_NOW: "this limit resets by itself, but not soon",
    Verdict.NOT_SERVED: "check --model and --base-url; 'kimi models' lists what there is",
    Verdict.NOT_THE_API: "check --base-url",
}


@dataclass(frozen=True)
class Refusal:
    """One refusal: the HTTP status, and what the body said (None where it did not)."""

    http_status: int
    code: str | None = None
    message: str | None = None
    trace_id: str | None = None
    retry_after: float | None = None

    @property
    def verdict(self) -> Verdict:
        """Judge by the code first, then by the wording, then by the HTTP status."""
        words = (self.message or "").lower()
        verdict = _BY_CODE.get(self.code or "") or self._judge_status()
        if self.http_status == 429 and verdict not in _SAID_WITH_429:
            verdict = Verdict.RATE_LIMITED
        if self.http_status >= 500 and self.code in _VAGUE:
            verdict = self._judge_status()
        about_the_row = self.http_status in (400, 404, 413, 422)  # such words may be the prompt's
        if not about_the_row and any(phrase in words for phrase in _QUOTA_WORDS):
            return Verdict.QUOTA_USED_UP
        may_pass = verdict is Verdict.RATE_LIMITED or self.http_status == 403
        if may_pass and any(phrase in words for phrase in _PERIOD_WORDS):
            return Verdict.SPENT_FOR_NOW
        return verdict

    def _judge_status(self) -> Verdict:
        return _BY_STATUS.get(self.http_status) or _BY_CLASS.get(
            self.http_status // 100, Verdict.NOT_THE_API
        )


class Refused(KimiError):
    """The API said no. ``refusal`` holds its words; ``status`` follows from the verdict."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep *refusal* and compose the one line that tells it."""
        self.refusal = refusal
        self.status = refusal.verdict.status
        super().__init__(_compose(refusal))


def read_refusal(
    http_status: int,
    document: Any,
    *,
    trace_id: str | None = None,
    retry_after: float | None = None,
) -> Refusal:
    """Read the parsed body of an error reply; *document* may be anything that JSON can be.

    The gateway sends ``{"error": {"code", "message"}, "trace_id"}``, Moonshot ``{"error":
    {"type", "message"}}``; others send a string, null, or no ``error`` at all.
    """
    top = document if isinstance(document, dict) else {"error": document}
    error = top.get("error", top)
    if not isinstance(error, dict):
        error = {"message": error}
    code, kind, message = (error.get(key) for key in ("code", "type", "message"))
    if isinstance(code, int) and not isinstance(code, bool):
        # llama.cpp repeats the HTTP status as the code; inside a stream only this tells it.
        http_status = code if http_status < 300 and 400 <= code < 600 else http_status
        code = None
    known = [word for word in (code, kind) if isinstance(word, str) and word]
    return Refusal(
        http_status=http_status,
        code=next((word for word in known if word in _BY_CODE), known[0] if known else None),
        message=_first_text(message, error.get("detail"), top.get("detail")),
        trace_id=_first_text(top.get("trace_id"), trace_id),
        retry_after=retry_after,
    )


def holds_error(document: Any) -> bool:
    """Tell an error object from a chunk or completion; ``success`` is not to be relied on."""
    if not isinstance(document, dict):
        return False
    if document.get("error"):
        return True
    return "choices" not in document and "message" in document


def _first_text(*values: Any) -> str | None:
    for value in values:
        if value not in (None, "", [], {}):
            return value if isinstance(value, str) else str(value)
    return None


def _compose(refusal: Refusal) -> str:
    """Make one line: status, code, the server's words, trace id, advice."""
    head = f"HTTP {refusal.http_status}"
    if refusal.code:
        head += f" {refusal.code}"
    parts = [f"the API refused the request: {head}"]
    if refusal.message:
        words = " ".join(refusal.message.split())
        parts.append(words if len(words) <= _SHOWN else words[:_SHOWN] + "…")
    line = ": ".join(parts)
    if refusal.trace_id:
        line += f" (trace id {refusal.trace_id})"
    if refusal.retry_after:
        line += f"; the host asks to wait {refusal.retry_after:g} s"
    if advice := _ADVICE.get(refusal.verdict):
        line += f"; {advice}"
    return line
