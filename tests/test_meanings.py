"""What a refusal means: the whole matrix of words and HTTP statuses, and what is read in texts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from conftest import Kimi
from server import ReplayServer, Reply, document, refusal, stream

from kimi_cli.api.refusals import EXACT, PLAIN, VAGUE, Refused, Verdict, read_refusal
from kimi_cli.api.retry import is_foreign
from kimi_cli.errors import ExitStatus

MANUAL = Path(__file__).parent.parent / "man" / "kimi.1"

WORDLESS = {
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
    500: Verdict.SERVER_FAILED,
    501: Verdict.NOT_SERVED,
    502: Verdict.SERVER_FAILED,
    503: Verdict.OVERLOADED,
    504: Verdict.SERVER_FAILED,
    505: Verdict.NOT_SERVED,
    520: Verdict.SERVER_FAILED,
    529: Verdict.OVERLOADED,
}
"""What these statuses mean where no word is more exact."""
SILENT = (400, 406, 413, 415, 418, 422, 451)
"""Statuses that say no more than "no"."""
STATUSES = (200, 201, *SILENT, *WORDLESS)
WORDS = (*EXACT, *PLAIN, *VAGUE, "a_word_of_its_own", None)


def expect(word: str | None, status: int) -> Verdict:
    """Return the verdict by the rule, said in other words than the program's."""
    if word in EXACT:
        return EXACT[word]
    if status == 403 and word in PLAIN:
        return PLAIN[word]
    if status in WORDLESS:
        return WORDLESS[status]
    if word in PLAIN:
        return PLAIN[word]
    if status in SILENT:
        return Verdict.REQUEST_REFUSED
    return VAGUE.get(word or "", Verdict.SERVER_FAILED)


@pytest.mark.parametrize("status", STATUSES)
def test_the_matrix_of_words_and_statuses(status: int) -> None:
    """An exact word decides, else the status, else a plain word; vague ones only inside a 200.

    A word is one and the same as code and as type, beside a vague one and LiteLLM's number.
    """
    for word in WORDS:
        for error in (
            {"code": word, "message": "x"},
            {"type": word, "code": None},
            {"code": str(status), "type": word} if status >= 400 else {"code": word},
            {"code": word, "type": "invalid_request_error"} if word in EXACT else {"code": word},
        ):
            assert read_refusal(status, {"error": error}).verdict is expect(word, status), error


@pytest.mark.parametrize(
    ("status", "body", "verdict"),
    [
        # OpenAI's token error, which chatanywhere and others repeat
        (
            401,
            {
                "message": "Incorrect API key provided: sk-x.",
                "type": "invalid_request_error",
                "code": "invalid_api_key",
            },
            Verdict.TOKEN_REFUSED,
        ),
        (401, {"message": "no", "type": "invalid_request_error"}, Verdict.TOKEN_REFUSED),
        # Ollama's unknown model
        (404, {"message": 'model "x" not found', "type": "api_error"}, Verdict.NOT_SERVED),
        (403, {"message": "no", "type": "bad_request"}, Verdict.TOKEN_REFUSED),
        (409, {"message": "no", "type": "invalid_request_error"}, Verdict.SERVER_FAILED),
        (503, {"message": "Loading model", "type": "server_error"}, Verdict.OVERLOADED),
        # LiteLLM without a database, at a wrong token; and where its database is away
        (
            400,
            {"message": "No connected db.", "type": "no_db_connection", "code": "400"},
            Verdict.TOKEN_REFUSED,
        ),
        (503, {"message": "No db", "type": "no_db_connection"}, Verdict.OVERLOADED),
    ],
)
def test_a_vague_word_does_not_beat_the_status(
    status: int, body: dict[str, Any], verdict: Verdict
) -> None:
    """F1: what hosts were seen to send."""
    assert read_refusal(status, {"error": body}).verdict is verdict


UNKNOWN = [
    "/chat/completions: Invalid model name passed in model=foo. Call `/v1/models` to view",
    "litellm.BadRequestError: The model `x/y:free` does not exist",
    "foo-bar is not a valid model ID",
    "Model Not Exist",
    "Model does not exist. Please check it carefully.",
    "Model not found: grok-9",
    "Invalid model: kimi-k9",
    "No such model x",
    "Not found the model kimi-k9 or Permission denied",
    'model "llama9" not found, try pulling it first',
    "models/gemini-9 is not found for API version v1main",
    "The requested model 'x' could not be found",
    "Unknown model: x",
    "The model `mixtral-8x7b-32768` has been decommissioned and is no longer supported.",
    "The model `kimi-k2.5` has been deprecated, learn more here",
    "model kimi-k2.5 is no longer available",
]


@pytest.mark.parametrize("status", [400, 422, 500])
@pytest.mark.parametrize("words", UNKNOWN)
def test_words_name_an_unknown_model(words: str, status: int) -> None:
    """S2: gateways send it as 400 or 500; it is the model that is not served, and no proxy."""
    error = Refused(read_refusal(status, {"error": {"message": words, "code": str(status)}}))
    assert error.refusal.verdict is Verdict.NOT_SERVED
    assert error.refusal.names_model
    assert not is_foreign(error)
    assert "'kimi models'" in str(error)


@pytest.mark.parametrize(
    "words",
    [
        "This model's maximum context length is 8192 tokens",
        "invalid temperature: only 1 is allowed for this model",
        "the model does not support tools",
        "Input token length too long",
        "thinking is not supported for this model",
        "image input is not supported",
        "Please summarise: " + "x " * 600 + "the model `y` does not exist",
    ],
)
def test_words_about_a_row_stay_the_rows(words: str) -> None:
    """A 400 that speaks of the request refuses that request only."""
    for error in ({"message": words, "type": "invalid_request_error"}, words):
        assert read_refusal(400, {"error": error}).verdict is Verdict.REQUEST_REFUSED


@pytest.mark.parametrize(
    "words",
    [
        "image input is not supported - hint: you may need to provide the mmproj",
        "litellm.InternalServerError: audio input is not supported",
        "Unsupported content part type: input_video",
        "the template does not support tools",
        "the request exceeds the available context size",
    ],
)
def test_a_500_that_says_not_supported_is_a_refusal(words: str) -> None:
    """S1: the same request would fail each time; a page that says so is a proxy's."""
    body = {"error": {"code": 500, "message": words, "type": "server_error"}}
    assert read_refusal(500, body).verdict is Verdict.REQUEST_REFUSED
    assert read_refusal(200, body).verdict is Verdict.REQUEST_REFUSED
    assert read_refusal(503, body).verdict is Verdict.OVERLOADED


def test_a_memory_that_others_filled_is_no_refusal() -> None:
    """llama.cpp's slots share one: alone, or later, the same request is answered."""
    body = {"error": {"code": 500, "message": "Context size has been exceeded."}}
    assert read_refusal(500, body).verdict is Verdict.SERVER_FAILED
    assert read_refusal(200, body).verdict is Verdict.SERVER_FAILED


SUSPENDED = (
    "litellm.RateLimitError: RateLimitError: MoonshotException - Your account org-1 <ak-2> is "
    "suspended, please check your plan and billing details"
)


@pytest.mark.parametrize(
    ("status", "word", "words", "verdict"),
    [
        (429, "throttling_error", SUSPENDED, Verdict.QUOTA_USED_UP),
        (400, "invalid_request_error", SUSPENDED, Verdict.QUOTA_USED_UP),
        (500, None, SUSPENDED, Verdict.QUOTA_USED_UP),
        (403, None, "insufficient balance, please recharge", Verdict.QUOTA_USED_UP),
        (400, None, "w " * 100 + SUSPENDED, Verdict.REQUEST_REFUSED),
        (400, None, "insufficient balance: what does that mean?", Verdict.REQUEST_REFUSED),
        (429, None, "exceeded your current quota", Verdict.QUOTA_USED_UP),
        (429, "insufficient_quota", "You exceeded your current quota", Verdict.QUOTA_USED_UP),
        (400, "INVALID_ARGUMENT", "API key not valid. Please pass one.", Verdict.TOKEN_REFUSED),
    ],
)
def test_words_of_the_account(status: int, word: str | None, words: str, verdict: Verdict) -> None:
    """S7: the account is what is refused, whatever a gateway makes of it; a prompt's words not."""
    refused = read_refusal(status, {"error": {"type": word, "message": words}})
    assert refused.verdict is verdict


def gemini(quota: str, delay: str | None = "34.5s") -> list[Any]:
    """Return the body that Gemini's OpenAI door sends with a 429: an array."""
    details: list[Any] = [{"@type": "x/QuotaFailure", "violations": [{"quotaId": quota}]}]
    if delay is not None:
        details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay})
    words = "You exceeded your current quota, please check your plan and billing details."
    error = {"code": 429, "message": words, "status": "RESOURCE_EXHAUSTED", "details": details}
    return [{"error": error}]


def test_a_quota_that_comes_with_a_wait_is_a_limit() -> None:
    """Gemini's is one a minute (RetryInfo, or Retry-After) or one a day; without it is spent."""
    minute = read_refusal(429, gemini("GenerateRequestsPerMinutePerProject"))
    assert (minute.verdict, minute.retry_after) == (Verdict.RATE_LIMITED, 34.5)
    plain = read_refusal(429, gemini("x", None), retry_after=7.0)
    assert (plain.verdict, plain.retry_after) == (Verdict.RATE_LIMITED, 7.0)
    in_text = read_refusal(429, {"error": "exceeded your current quota. Please retry in 1m2s."})
    assert (in_text.verdict, in_text.retry_after) == (Verdict.RATE_LIMITED, 62.0)
    assert read_refusal(429, gemini("RequestsPerDay")).verdict is Verdict.SPENT_FOR_NOW
    assert read_refusal(429, gemini("x", None)).verdict is Verdict.QUOTA_USED_UP
    spent = read_refusal(429, gemini("x", None), reset=3.0)
    assert (spent.verdict, spent.retry_after) == (Verdict.QUOTA_USED_UP, None)
    code = {"error": {"code": "insufficient_quota", "message": "x"}}
    assert read_refusal(429, code, retry_after=1.0).verdict is Verdict.QUOTA_USED_UP


# As a person meets it


@pytest.mark.parametrize(
    ("reply", "status", "line"),
    [
        (
            document(
                {"error": {"message": "busy", "type": "throttling_error", "code": "429"}},
                status=429,
            ),
            75,
            "the API refused the request: HTTP 429 throttling_error: busy; try again later",
        ),
        (
            document({"error": {"message": "busy", "type": None, "code": "429"}}, status=429),
            75,
            "the API refused the request: HTTP 429: busy; try again later",
        ),
        (
            document({"error": {"message": "<html><h1>502 Bad Gateway</h1>"}}, status=502),
            75,
            "the API refused the request: HTTP 502: 502 Bad Gateway; try again later",
        ),
        (
            document({"html-message": "<html><title>t</title><body>Down"}, status=502),
            75,
            "the API refused the request: HTTP 502: Down; try again later",
        ),
        (
            Reply([b""], headers={"Content-Type": "application/json"}),
            76,
            "the host sent nothing instead of an answer (HTTP 200); check --base-url",
        ),
        (
            document([{"error": {"code": 404, "message": "nope", "status": "NOT_FOUND"}}]),
            69,
            "the API sent an error in its answer: not_found: nope; "
            "check --model and --base-url; 'kimi models' lists what there is",
        ),
        (
            document([{"error": {"message": "nope", "status": "INVALID_ARGUMENT"}}], status=400),
            65,
            "the API refused the request: HTTP 400 invalid_argument: nope",
        ),
        (
            stream({"content": ""}, finish=None, done=False, usage=None).but(
                body=[b'data: {"error": {"message": "no", "code": "500"}}\n\n']
            ),
            75,
            "the API sent an error in its answer: no; try again later",
        ),
        (
            refusal(400, "invalid_request_error", "unknown field: stream_options"),
            65,
            "the API refused the request: HTTP 400 invalid_request_error: unknown field: "
            "stream_options; set ask_usage = false in this host's profile",
        ),
    ],
    ids=[
        "number",
        "bare",
        "page-in-JSON",
        "portkey",
        "empty",
        "array-200",
        "array-400",
        "stream",
        "stream_options",
    ],
)
def test_a_message_says_who_what_and_what_to_try(
    ask: Kimi, server: ReplayServer, reply: Reply, status: int, line: str
) -> None:
    """S5: no number twice, no title twice, no page that is called the API."""
    server.script(reply)
    result = ask("--retries", "0", "hi")
    assert (result.error, result.status, result.stdout) == (f"kimi: {line}\n", status, b"")


@pytest.mark.parametrize(
    "text",
    ["<", "<h1", "<style>", "</", "TPM limit ", "model ", "your account ", "1", "suspended "],
)
@pytest.mark.parametrize("as_json", [False, True], ids=["page", "JSON"])
def test_long_words_take_no_longer(
    ask: Kimi, server: ReplayServer, text: str, as_json: bool
) -> None:
    """T5: a megabyte of what matches badly is looked at no longer than a few kilobytes."""
    words = "<html>" * (not as_json) + text * (10**6 // len(text))
    page = Reply([words.encode()], status=429, headers={"Content-Type": "text/html"})
    reply = document({"error": {"message": words, "type": words, "code": words}}, status=429)
    server.script(reply if as_json else page)
    result = ask("--retries", "0", "hi")
    assert result.status in (75, 77), result.error
    assert len(result.error) < 1500


def test_login_stores_no_refused_token(kimi: Kimi, server: ReplayServer) -> None:
    """F1: OpenAI's 401 has a vague type; it is the token that is refused."""
    body = {"error": {"message": "Incorrect API key", "type": "invalid_request_error"}}
    server.script(document(body, status=401), repeat=True)
    how = ("--insecure-storage", "--base-url", server.url)
    result = kimi("auth", "login", *how, stdin=b"canary-token-1\n")
    assert result.status == ExitStatus.NO_PERMISSION, result.error
    assert kimi("auth", "token", "--base-url", server.url).status == ExitStatus.CONFIG


def test_login_says_when_nothing_is_known_of_the_token(kimi: Kimi, server: ReplayServer) -> None:
    """A host that fails says nothing of the token: it is stored, with a word."""
    server.script(refusal(500, "api_error", "fetch failed"), repeat=True)
    how = ("--insecure-storage", "--base-url", server.url)
    result = kimi("auth", "login", *how, stdin=b"canary-token-1\n")
    assert result.status == 0
    assert "the token is not verified: the API refused" in result.error
    assert kimi("auth", "token", "--base-url", server.url).stdout == b"canary-token-1\n"


@pytest.mark.parametrize(
    "headers",
    [
        {"Retry-After": "0.4"},
        {"retry-after-ms": "400", "Retry-After": "30"},
        {"llm_provider-retry-after": "0.4"},
        {"x-ratelimit-reset-requests": "400ms", "x-ratelimit-reset-tokens": "6m0s"},
        {
            "x-ratelimit-reset-requests": "20m",
            "x-ratelimit-remaining-requests": "7",
            "x-ratelimit-reset-tokens": "0.4s",
            "x-ratelimit-remaining-tokens": "0",
        },
    ],
)
def test_the_wait_that_a_host_asks_for_is_kept(
    ask: Kimi, server: ReplayServer, headers: dict[str, str]
) -> None:
    """S6: whichever header says it, the next attempt is not before it."""
    arrived: list[float] = []
    busy = refusal(429, "rate_limited", "slow", headers=headers)

    def answer(request: object) -> Reply:
        arrived.append(time.monotonic())
        return busy if len(arrived) == 1 else stream("Yes")

    server.answer(answer)
    result = ask("hi")
    assert (result.status, result.stdout) == (0, b"Yes\n")
    assert "the host asks to wait 0.4 s" in result.error
    assert arrived[1] - arrived[0] >= 0.4


PARAGRAPHS = {
    Verdict.REQUEST_REFUSED: "the request is refused",
    Verdict.NOT_SERVED: "not served here",
    Verdict.HEADER_MISSING: "a header is missing",
    Verdict.RATE_LIMITED: "a rate limit",
    Verdict.OVERLOADED: "an overloaded server",
    Verdict.SERVER_FAILED: "a failure of the server",
    Verdict.TOKEN_REFUSED: "the token is refused",
    Verdict.QUOTA_USED_UP: "the quota is used up",
}


@pytest.mark.parametrize("verdict", PARAGRAPHS)
def test_the_page_has_the_words_of_the_program(verdict: Verdict) -> None:
    """kimi(1) lists under each meaning its exit status, its words and its HTTP statuses."""
    page = MANUAL.read_text(encoding="utf-8").partition(".Ss What a refusal means\n")[2]
    heading, _, rest = page.partition(f".It {PARAGRAPHS[verdict]} (")[2].partition(")\n")
    assert int(heading.removeprefix("exit status ")) == verdict.status
    text = rest.partition(".It ")[0].partition(".El")[0]
    for label, table in (("Exact", EXACT), ("Plain", PLAIN), ("Vague", VAGUE)):
        words = {word for word, meaning in table.items() if meaning is verdict}
        listed = text.partition(f"{label} words: ")[2].partition(".\n")[0]
        assert set(listed.replace("\n", " ").split(", ")) - {""} == words, label
    first = text.partition(".\n")[0]
    for status in WORDLESS.keys() - {500, 502, 504, 520}:
        assert (str(status) in first) == (WORDLESS[status] is verdict), status


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Either x-portkey-config or x-portkey-provider header is required"),
        (400, "anthropic-version: header is required"),
        (400, "Missing required header: api-key"),
        (400, "Missing x-api-key header"),
        (422, "Required header 'X-Tenant' is not present."),
        (400, "Missing required query parameter: api-version"),
        (400, "The api-version query parameter is required"),
    ],
)
def test_a_missing_header_is_a_matter_of_the_profile(status: int, words: str) -> None:
    """F21: the words of gateways that insist on one; Portkey sends no word beside them."""
    refused = Refused(read_refusal(status, {"status": "failure", "message": words}))
    assert refused.refusal.verdict is Verdict.HEADER_MISSING
    assert words in str(refused)
    assert str(refused).endswith("name it in 'headers' or 'query' of the profile, kimi-config(5)")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, "Invalid base64 image: missing header"),
        (400, "Invalid request: the PNG header is missing"),
        (400, "the column header is required"),
        (400, "x-portkey-custom-host header is not valid"),
        (400, f"{'the prompt says ' * 20} that the x-api-key header is required"),
        (413, "Missing x-api-key header"),
    ],
)
def test_other_headers_are_the_request_s(status: int, words: str) -> None:
    """Those of files and tables, and what a text repeats of a prompt."""
    assert read_refusal(status, {"message": words}).verdict is Verdict.REQUEST_REFUSED


def test_a_word_has_one_meaning() -> None:
    """No word stands in two of the three tables."""
    assert len({*EXACT, *PLAIN, *VAGUE}) == len(EXACT) + len(PLAIN) + len(VAGUE)
