"""What a refusal means: one rule, from the HTTP status, the host's word and its text.

1. A word that is more exact than any status decides: ``used_up``, ``content_filter``, ...
2. Else the status decides, as RFC 9110 has it: 401, 402, 404, 405, 408, 409, 410, 425, 429, 5xx.
3. Where it says only "no" (400, 403, 413, 422, ...), a plainer word decides, and else "no" is it.
4. In a reply that began well (200, a stream) vague words decide, too; "try later" is the rest.
5. Then the text may say more: an unknown model, a spent quota, a missing header, a request that
   is not supported.

Sources of the words: the documents of the gateway (docs.acedata.cloud), Moonshot
(platform.kimi.ai/docs/api/errors), OpenAI, Anthropic, Azure and Google (google.rpc.Code), and
bodies that llama.cpp, vLLM, LiteLLM, Portkey and Ollama were seen to send.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

from kimi_cli.api.pages import is_page, read_words
from kimi_cli.api.waits import find_hint
from kimi_cli.errors import ExitStatus, KimiError

_SHOWN = 500
"""How much of a server's own words goes into a message, in characters."""
_KEPT = 4000
"""How much of them is kept at all: nothing looks at more, for an error body may be of any size."""
_LOOKED_AT = 1000
"""How much of them is searched for what they mean."""
_NAME = 120
"""How long the name of an error or of a request may be."""


class Verdict(Enum):
    """What a refusal means: the exit status, and whether the same request may succeed later."""

    RATE_LIMITED = "rate limited", ExitStatus.TEMPORARY, True
    OVERLOADED = "overloaded", ExitStatus.TEMPORARY, True
    SERVER_FAILED = "server failed", ExitStatus.TEMPORARY, True
    SPENT_FOR_NOW = "spent for now", ExitStatus.TEMPORARY, False
    REQUEST_REFUSED = "request refused", ExitStatus.DATA, False
    TOKEN_REFUSED = "token refused", ExitStatus.NO_PERMISSION, False
    QUOTA_USED_UP = "quota used up", ExitStatus.NO_PERMISSION, False
    HEADER_MISSING = "header missing", ExitStatus.CONFIG, False
    NOT_SERVED = "not served", ExitStatus.UNAVAILABLE, False
    NOT_THE_API = "not the API", ExitStatus.PROTOCOL, False

    def __init__(self, label: str, status: ExitStatus, retryable: bool) -> None:
        """Name the verdict, and its two consequences."""
        self.label = label
        self.status = status
        self.retryable = retryable


EXACT = {
    # the account
    "used_up": Verdict.QUOTA_USED_UP,
    "exceeded_current_quota_error": Verdict.QUOTA_USED_UP,
    "insufficient_quota": Verdict.QUOTA_USED_UP,
    "insufficient_balance": Verdict.QUOTA_USED_UP,
    "billing_not_active": Verdict.QUOTA_USED_UP,
    "billing_hard_limit_reached": Verdict.QUOTA_USED_UP,
    "billing_error": Verdict.QUOTA_USED_UP,
    "budget_exceeded": Verdict.QUOTA_USED_UP,
    # the token
    "invalid_token": Verdict.TOKEN_REFUSED,
    "token_expired": Verdict.TOKEN_REFUSED,
    "invalid_authentication_error": Verdict.TOKEN_REFUSED,
    "incorrect_api_key_error": Verdict.TOKEN_REFUSED,
    "invalid_api_key": Verdict.TOKEN_REFUSED,
    "account_deactivated": Verdict.TOKEN_REFUSED,
    # the request
    "content_filter": Verdict.REQUEST_REFUSED,
    "content_policy_violation": Verdict.REQUEST_REFUSED,
    "context_length_exceeded": Verdict.REQUEST_REFUSED,
    "exceed_context_size_error": Verdict.REQUEST_REFUSED,
    "content_too_large": Verdict.REQUEST_REFUSED,
    "string_above_max_length": Verdict.REQUEST_REFUSED,
    "request_too_large": Verdict.REQUEST_REFUSED,
    "unsupported_parameter": Verdict.REQUEST_REFUSED,
    "unsupported_value": Verdict.REQUEST_REFUSED,
    # what is served
    "model_not_found": Verdict.NOT_SERVED,
    "model_not_exist": Verdict.NOT_SERVED,
    "model_not_supported": Verdict.NOT_SERVED,
    "model_decommissioned": Verdict.NOT_SERVED,
    "invalid_model": Verdict.NOT_SERVED,
    "DeploymentNotFound": Verdict.NOT_SERVED,
    "resource_not_found_error": Verdict.NOT_SERVED,
    "api_not_implemented": Verdict.NOT_SERVED,
    "no_api": Verdict.NOT_SERVED,
    # load
    "too_many_requests": Verdict.RATE_LIMITED,
    "rate_limited": Verdict.RATE_LIMITED,
    "rate_limit_reached_error": Verdict.RATE_LIMITED,
    "rate_limit_exceeded": Verdict.RATE_LIMITED,
    "rate_limit_error": Verdict.RATE_LIMITED,
    "throttling_error": Verdict.RATE_LIMITED,
    "resource_exhausted": Verdict.RATE_LIMITED,
    "engine_overloaded_error": Verdict.OVERLOADED,
    "overloaded_error": Verdict.OVERLOADED,
    "server_unavailable": Verdict.OVERLOADED,
    "unavailable_error": Verdict.OVERLOADED,
}
"""Words that say more than any HTTP status does."""

PLAIN = {
    "no_token": Verdict.TOKEN_REFUSED,
    "token_mismatched": Verdict.TOKEN_REFUSED,
    "disabled": Verdict.TOKEN_REFUSED,
    "authentication_error": Verdict.TOKEN_REFUSED,
    "auth_error": Verdict.TOKEN_REFUSED,
    "permission_error": Verdict.TOKEN_REFUSED,
    "permission_denied_error": Verdict.TOKEN_REFUSED,
    "unauthenticated": Verdict.TOKEN_REFUSED,
    "permission_denied": Verdict.TOKEN_REFUSED,
    "no_db_connection": Verdict.TOKEN_REFUSED,  # LiteLLM: no token but its own, and not this one
    "forbidden": Verdict.REQUEST_REFUSED,  # the gateway's content moderation, not the token
    "not_found_error": Verdict.NOT_SERVED,
    "not_found": Verdict.NOT_SERVED,
    "unavailable": Verdict.OVERLOADED,
}
"""Words that decide where the HTTP status says no more than "no"."""

VAGUE = {
    "bad_request": Verdict.REQUEST_REFUSED,
    "invalid_request_error": Verdict.REQUEST_REFUSED,
    "invalid_argument": Verdict.REQUEST_REFUSED,
    "failed_precondition": Verdict.REQUEST_REFUSED,
    "api_error": Verdict.SERVER_FAILED,
    "server_error": Verdict.SERVER_FAILED,
    "internal_server_error": Verdict.SERVER_FAILED,
    "internal": Verdict.SERVER_FAILED,
    "unexpected_output": Verdict.SERVER_FAILED,
    "timeout": Verdict.SERVER_FAILED,
}
"""Words that hosts send with any status: they decide only where there is none, inside a 200."""

_BY_STATUS = {
    401: Verdict.TOKEN_REFUSED,
    402: Verdict.QUOTA_USED_UP,
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

# Patterns are compiled with the first refusal, not for every start of the program. Each has only
# bounded repetitions, so that none takes more than linear time.
_QUOTA_WORDS = (
    r"exceeded your current (?:token )?quota|check your account balance|insufficient balance|"
    r"insufficient credits|plan and billing details"
)
_SUSPENDED = (
    r"\A.{0,120}\byour account\b.{0,120}\bsuspended\b.{0,160}\b(?:billing|balance|recharge)"
)
"""At the beginning of a text: further on, it may be the prompt's own."""
_PERIOD_WORDS = r"\btpd\b|\brpd\b|per ?day|usage limit for this|billing cycle"
_UNKNOWN_MODEL = (
    r"\b(?:invalid|unknown|unrecogni[sz]ed|unsupported|no such|not found the) model\b"
    r"(?! (?:output|response|param|input|option))"
    r"|\bnot a valid model\b|\bno model (?:named|called)\b|模型不存在"
    r"|\bmodels?[ :/]{0,3}[`'\"]?[\w./:@+-]{0,100}[`'\"]?,? {0,2}"
    r"(?:(?:is|was|could) )?(?:does not exist|doesn't exist|not exist|not (?:be )?found|"
    r"not (?:available|served|deployed|supported)\b(?! (?:for|with|in|when))|"
    r"(?:(?:is|has been) )?(?:retired|decommissioned|discontinued|deprecated|shut down)\b|"
    r"(?:is )?no longer (?:available|served|supported)\b(?! (?:for|with|in|when)))"
)
_BAD_TOKEN = r"\A.{0,120}\bapi key not valid"
_HEADER_NAME = r"\b[a-z][a-z0-9]{0,30}(?:[-_][a-z0-9]{1,30}){1,6}\b"
_HEADER_WORDS = (
    rf"\A.{{0,80}}{_HEADER_NAME}['\"`]?:? (?:request |http )?headers?\b.{{0,40}}"
    r"\b(?:required|missing|must be|not (?:set|present|provided|specified|found))"
    r"|\A.{0,80}\b(?:missing|required|requires|without|no)\b.{0,40}"
    rf"(?:\b(?:required|request|http) headers?\b|{_HEADER_NAME}['\"`]? headers?\b|"
    rf"\bheaders?:? ['\"`]?{_HEADER_NAME})"
    r"|\A.{0,80}\bquery (?:string )?param(?:eter)?s?\b.{0,40}\b(?:required|missing|not specified)"
    r"|\A.{0,80}\b(?:missing|required|requires)\b.{0,40}\bquery (?:string )?param(?:eter)?s?\b"
)
"""At the beginning: Portkey's, Anthropic's and Azure's words for what a gateway insists on."""
_UNSUPPORTED = (
    r"\b(?:(?:is|are) )?not supported\b|\bunsupported\b|\bdoes not support\b"
    r"|\bcontext (?:length|window)\b|\broles must alternate\b"
    # With "has been exceeded", llama.cpp says that its requests share a memory that is full now.
    r"|\bcontext size\b(?! has been exceeded)"
)

_LATER = "try again later"
_ADVICE = {
    Verdict.RATE_LIMITED: _LATER,
    Verdict.OVERLOADED: _LATER,
    Verdict.SERVER_FAILED: _LATER,
    Verdict.TOKEN_REFUSED: "check it with 'kimi auth status', replace it with 'kimi auth login'",
    Verdict.QUOTA_USED_UP: "recharge the account",
    Verdict.HEADER_MISSING: "name it in 'headers' or 'query' of the profile, kimi-config(5)",
    Verdict.SPENT_FOR_NOW: "this limit resets by itself, but not soon",
    Verdict.NOT_SERVED: "check --model and --base-url; 'kimi models' lists what there is",
    Verdict.NOT_THE_API: "check --base-url",
}
_OF_MODEL = (
    *("model_not_found", "model_not_exist", "model_not_supported", "model_decommissioned"),
    "invalid_model",
)
_FILTERED = ("content_filter", "content_policy_violation", "forbidden")


class Teller(Enum):
    """Who speaks, and how: a page of HTML is never the API's."""

    API = "the API refused the request"
    ANSWER = "the API sent an error in its answer"
    PAGE = "a web server answered instead of the API"


@dataclass(frozen=True)
class Refusal:
    """One refusal: the HTTP status, and what the body said (None where it did not).

    *retry_after* is in seconds. *is_limit* is whether the body or a header says that to wait is
    enough, whatever the words say of a quota.
    """

    http_status: int
    code: str | None = None
    message: str | None = None
    trace_id: str | None = None
    retry_after: float | None = None
    param: str | None = None
    is_limit: bool = False
    teller: Teller = Teller.API
    has_token: bool = True
    """Whether the request brought a bearer token."""

    @property
    def verdict(self) -> Verdict:
        """Judge by the rule at the top of this module."""
        if (exact := EXACT.get(self.code or "")) not in (None, Verdict.RATE_LIMITED):
            return exact
        verdict = exact or self._judge_status()
        return self._read_text(verdict) or verdict

    @property
    def names_model(self) -> bool:
        """Whether it says in words that there is no such model."""
        if self.http_status in (401, 402, 403, 408, 429):
            return False
        if self.param == "model" or self.code in _OF_MODEL:
            return True
        return _says(_UNKNOWN_MODEL, self.message)

    @property
    def advice(self) -> str | None:
        """What can be tried; None where the host's own words are all there is to say."""
        if self.code in _FILTERED and self.verdict is Verdict.REQUEST_REFUSED:
            return "ask in other words"
        if self.verdict is Verdict.REQUEST_REFUSED and "stream_options" in (self.message or ""):
            return "set ask_usage = false in this host's profile"
        if self.verdict is Verdict.TOKEN_REFUSED and not self.has_token:
            return "no bearer token was sent; see 'auth' and 'headers' in kimi-config(5)"
        advice = _ADVICE.get(self.verdict)
        said = self.retry_after or "try again" in (self.message or "")[:_SHOWN].lower()
        return None if said and advice == _LATER else advice

    def _judge_status(self) -> Verdict:
        status, word = self.http_status, self.code or ""
        if verdict := _BY_STATUS.get(status):
            return verdict
        if status == 403:
            return PLAIN.get(word, Verdict.TOKEN_REFUSED)
        match status // 100:
            case 2:
                return PLAIN.get(word) or VAGUE.get(word) or Verdict.SERVER_FAILED
            case 4:
                return PLAIN.get(word) or Verdict.REQUEST_REFUSED
            case 5:
                return Verdict.SERVER_FAILED
        return Verdict.NOT_THE_API

    def _read_text(self, verdict: Verdict) -> Verdict | None:
        """Return what the text says more exactly than *verdict*; None where it does not.

        The text of a 400, 404, 413 or 422 may repeat the prompt: it is believed less.
        """
        words = self.message
        speaks_of_row = self.http_status in (400, 404, 413, 422)
        if verdict is Verdict.RATE_LIMITED or self.http_status == 403:
            if _says(_PERIOD_WORDS, words):
                return Verdict.SPENT_FOR_NOW
            if self.is_limit:
                return None
        if not speaks_of_row and _says(_QUOTA_WORDS, words):
            return Verdict.QUOTA_USED_UP
        if verdict in (Verdict.REQUEST_REFUSED, Verdict.SERVER_FAILED):
            if _says(_SUSPENDED, words):
                return Verdict.QUOTA_USED_UP
            if self.names_model:
                return Verdict.NOT_SERVED
        if verdict is Verdict.REQUEST_REFUSED:
            return self._read_demand()
        return Verdict.REQUEST_REFUSED if self._is_final(verdict) else None

    def _read_demand(self) -> Verdict | None:
        """Return what a refusal wants besides another request; None where it does not say."""
        if _says(_BAD_TOKEN, self.message):
            return Verdict.TOKEN_REFUSED
        wants_header = self.http_status in (400, 422) and _says(_HEADER_WORDS, self.message)
        return Verdict.HEADER_MISSING if wants_header else None

    def _is_final(self, verdict: Verdict) -> bool:
        """Tell whether a failure would be the same each time: the API's own words say so."""
        if verdict is not Verdict.SERVER_FAILED:
            return False
        in_api = self.teller in (Teller.API, Teller.ANSWER)
        return in_api and self.http_status in (200, 500) and _says(_UNSUPPORTED, self.message)


class Refused(KimiError):
    """The API said no. ``refusal`` holds its words; ``status`` follows from the verdict."""

    def __init__(self, refusal: Refusal) -> None:
        """Keep *refusal* and compose the one line that tells it."""
        self.refusal = refusal
        self.status = refusal.verdict.status
        super().__init__(_compose(refusal))

    def miss_token(self) -> None:
        """Say what can be done where the request brought no bearer token."""
        self.refusal = replace(self.refusal, has_token=False)
        self.args = (_compose(self.refusal),)


def read_refusal(
    http_status: int,
    document: Any,
    *,
    trace_id: str | None = None,
    retry_after: float | None = None,
    reset: float | None = None,
    teller: Teller = Teller.API,
) -> Refusal:
    """Read the parsed body of an error reply; *document* may be anything that JSON can be.

    The gateway sends ``{"error": {"code", "message"}, "trace_id"}``, Moonshot ``{"error":
    {"type", "message"}}``, Gemini the same in an array; others send a string, null, or no
    ``error`` at all. *retry_after* is what the headers ask for, *reset* when they say that a
    limit begins anew, both in seconds: the latter counts only for a limit.
    """
    top, error = _find_error(document)
    words = [part.get(key) for key in ("code", "type", "status") for part in (error, top)]
    if http_status < 300 and (number := _find_status(words)) is not None:
        http_status = number  # inside an answer only the body tells it
    message = _find_message(error, top)
    hint = find_hint((message or "")[:_LOOKED_AT], error.get("details"))
    wish = hint if retry_after is None and http_status in (429, 503) else retry_after
    refusal = Refusal(
        http_status=http_status,
        code=_find_word(words),
        message=message,
        trace_id=_first_text(top.get("trace_id"), top.get("request_id"), trace_id, limit=_NAME),
        retry_after=wish,
        param=_first_text(error.get("param"), limit=_NAME),
        is_limit=http_status == 429 and wish is not None,
        teller=teller,
    )
    if wish is None and refusal.verdict is Verdict.RATE_LIMITED:
        return replace(refusal, retry_after=reset)
    return refusal


def holds_error(document: Any) -> bool:
    """Tell an error object from a chunk or completion; ``success`` is not to be relied on."""
    if not isinstance(document, dict):
        return False
    if document.get("error"):
        return True
    return "choices" not in document and "message" in document


def _find_error(document: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the whole object of an error body, and the error in it."""
    if isinstance(document, list) and document and isinstance(document[0], dict):
        document = document[0]
    top = document if isinstance(document, dict) else {"error": document}
    error = top.get("error", top)
    if error is top and isinstance(top.get("detail"), dict):
        error = top["detail"]
    if isinstance(error, dict) and error is not top and isinstance(error.get("error"), dict):
        error = error["error"]  # a gateway that wraps what it was sent
    return top, error if isinstance(error, dict) else {"message": error}


def _find_status(words: list[Any]) -> int | None:
    """Return the HTTP status that an error body has as its code: 429, or "429"."""
    for word in words:
        if isinstance(word, str) and len(word) == 3 and word.isascii() and word.isdigit():
            word = int(word)
        if type(word) is int and 400 <= word < 600:
            return word
    return None


def _find_word(words: list[Any]) -> str | None:
    """Return the most exact of the words that a body has for one error: code, type, status.

    LiteLLM's code is the status, which is told already.
    """
    texts = [word for word in words if isinstance(word, str) and word and not _find_status([word])]
    texts = [word.lower() if word.isupper() else word for word in texts]  # Google's are capitals
    for table in (EXACT, PLAIN, VAGUE):
        for word in texts:
            if word in table:
                return word
    own = [word for word in texts if word not in words[4:]]  # "status": "error" is no word
    return own[0][:_NAME] if own else None


def _find_message(error: dict[str, Any], top: dict[str, Any]) -> str | None:
    keys = ("message", "detail", "html-message", "error")
    values = [error.get(key) for key in keys]
    if top is not error:
        values += [top.get(key) for key in keys[:3]]
    violations = [
        violation.get("quotaId")
        for detail in _list_objects(error.get("details"))
        for violation in _list_objects(detail.get("violations"))
    ]
    words = _first_text(*values, limit=_KEPT)
    if words and is_page(words.encode(errors="replace")):
        words = read_words(words.encode(errors="replace"))  # a proxy's page, in a gateway's JSON
    quotas = " ".join(name for name in violations if isinstance(name, str))[:_NAME]
    return f"{words} ({quotas})" if words and quotas else words


def _list_objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in value[:20] if isinstance(entry, dict)] if type(value) is list else []


def _first_text(*values: Any, limit: int) -> str | None:
    for value in values:
        if value not in (None, "", [], {}):
            return (value if isinstance(value, str) else str(value))[:limit]
    return None


def _says(pattern: str, words: str | None) -> bool:
    start = (words or "")[:_LOOKED_AT]
    return re.search(pattern, start, re.DOTALL | re.IGNORECASE) is not None


def _compose(refusal: Refusal) -> str:
    """Make one line: who says it, status, code, the server's words, trace id, advice."""
    status = str(refusal.http_status)
    head = f"HTTP {status}" if refusal.teller is not Teller.ANSWER else ""
    words = " ".join((refusal.message or "").split())
    if len(words) > _SHOWN:
        words = words[:_SHOWN] + "…"
    if refusal.teller is Teller.PAGE and words.startswith(status):
        words = words.removeprefix(status).strip()  # most pages begin with it
    if refusal.code:
        head = f"{head} {refusal.code}".strip()
    line = ": ".join(part for part in (refusal.teller.value, head, words) if part)
    if refusal.trace_id:
        line += f" (trace id {refusal.trace_id})"
    if refusal.retry_after:
        line += f"; the host asks to wait {refusal.retry_after:g} s"
    if refusal.advice:
        line += f"; {refusal.advice}"
    return line
