"""What real servers were asked, and how kimi ends: recorded once, replayed by the tests."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from server import RECORDINGS, Cut, Reply


@dataclass(frozen=True)
class Scene:
    """One request of kimi to a host, and all that comes of it.

    `door` and `path` say which fault stands in the way; `tests/recordings/record.py` has them.
    `then` is the recording that answers what kimi asks next.
    """

    name: str
    arguments: tuple[str, ...]
    status: int = 0
    stdout: str = ""
    stderr: str = ""
    door: str = ""
    path: str = "/v1"
    token: str = "good-token"
    then: str = ""

    @property
    def host(self) -> str:
        """The folder of the host's recordings."""
        return self.name.partition("/")[0]

    @property
    def file(self) -> Path:
        """Where the bytes are that the host sent."""
        return RECORDINGS / f"{self.name}.http"

    def replay(self) -> list[Reply]:
        """Return what the host sent, to the byte; a connection ends after each reply."""
        files = [self.file, *([RECORDINGS / f"{self.then}.http"] if self.then else [])]
        return [Reply([file.read_bytes(), Cut()], framing="raw") for file in files]


HELLO = "What is the capital of France?"
LONG = "Count the words. " * 400
BAD_SCHEMA = (
    'response_format={"type":"json_schema","json_schema":'
    '{"schema":{"type":"object","properties":{"a":{"$ref":"#/nowhere"}}}}}'
)
IMAGE = (
    'messages=[{"role":"user","content":[{"type":"image_url","image_url":'
    '{"url":"data:image/png;base64,iVBORw0KGgo="}}]}]'
)


def ask(*options: str, model: str = "smollm2", prompt: str = HELLO) -> tuple[str, ...]:
    """Return the arguments of a question."""
    return ("ask", "-m", model, *options, prompt)


MODELS = "  MODEL    CONTEXT  THINKS  IMAGES  NOTE\n  smollm2  1,024    -       no\n"
STORY = (
    "In the year 2018, a small Italian town was about to celebrate its 20th anniversary. "
    "The town's mayor, a charismatic and ambitious individual named Marco, had just "
    "announced a"
)
LATER = "; try again later"
TOKEN = "; check it with 'kimi auth status', replace it with 'kimi auth login'"
SERVED = "; check --model and --base-url; 'kimi models' lists what there is"
WAIT = "; the host asks to wait 7 s"


def said(words: str, advice: str = "") -> str:
    """Return the one line of a failure."""
    return f"kimi: {words}{advice}\n"


def refused(words: str, advice: str = "") -> str:
    """Return the line on a refusal of the API."""
    return said(f"the API refused the request: HTTP {words}", advice)


def paged(words: str, advice: str = "") -> str:
    """Return the line on a page of a web server."""
    return said(f"a web server answered instead of the API: HTTP {words}", advice)


SCENES = [
    # llama.cpp
    Scene("llama-cpp/stream", ask(), stdout="Paris.\n"),
    Scene("llama-cpp/plain", ask("--no-stream"), stdout="Paris.\n"),
    Scene(
        "llama-cpp/length",
        ask("--max-tokens", "2"),
        3,
        stdout="Paris.\n",
        stderr=said("the answer is incomplete: finish_reason length; raise --max-tokens"),
    ),
    Scene("llama-cpp/schema", ask("--schema", "capital"), stdout='{"capital":"FRANCE"}\n'),
    Scene(
        "llama-cpp/image",
        ask("-O", IMAGE),
        65,
        stderr=refused(
            "500 server_error: image input is not supported - hint: if this is "
            "unexpected, you may need to provide the mmproj"
        ),
    ),
    Scene(
        "llama-cpp/long",
        ask(prompt=LONG),
        65,
        stderr=refused(
            "400 exceed_context_size_error: request (1630 tokens) exceeds the available "
            "context size (1024 tokens), try increasing it"
        ),
    ),
    Scene(
        "llama-cpp/bad-token",
        ask(),
        77,
        stderr=refused("401 authentication_error: Invalid API Key", TOKEN),
        token="bad-token",
    ),
    Scene(
        "llama-cpp/bad-schema",
        ask("--no-stream", "-O", BAD_SCHEMA),
        65,
        stderr=refused(
            "400 invalid_request_error: Unable to generate parser for this template. "
            "Automatic parser generation failed: JSON schema error at #/properties/a: "
            "cannot resolve $ref #/nowhere, nowhere not found"
        ),
    ),
    Scene(
        "llama-cpp/bad-value",
        ask("-O", 'temperature="hot"'),
        65,
        stderr=refused(
            "400 invalid_request_error: Field 'temperature': "
            "[json.exception.type_error.302] type must be number, but is string"
        ),
    ),
    Scene(
        "llama-cpp/bad-path",
        ask(),
        69,
        stderr=refused("404 not_found_error: File Not Found", SERVED),
        path="/nothing",
    ),
    Scene("llama-cpp/models", ("models",), stdout=MODELS),
    Scene(
        "llama-cpp/killed",
        ask(prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the connection broke: "
            "the reply ended too early; try again later"
        ),
        door="killed",
    ),
    Scene(
        "llama-cpp/crowded",
        ask(prompt="Tell a story."),
        75,
        stdout=f"{STORY}\n",
        stderr=said(
            "the answer was cut off after 174 characters: the API sent an error in its "
            "answer: server_error: Context size has been exceeded.",
            LATER,
        ),
        door="crowded",
    ),
    # LiteLLM
    Scene("litellm/stream", ask(model="main"), stdout="Paris.\n"),
    Scene("litellm/plain", ask("--no-stream", model="main"), stdout="Paris.\n"),
    Scene(
        "litellm/models",
        ("models",),
        stdout=(
            "  MODEL    CONTEXT  THINKS  IMAGES  NOTE\n  main     -        "
            "-       -\n  cut      -        -       -\n  tight    -        "
            "-       -\n  nowhere  -        -       -\n  page     -        "
            "-       -\n  limited  -        -       -\n  refused  -        "
            "-       -\n"
        ),
    ),
    Scene(
        "litellm/bad-token",
        ask(model="main"),
        77,
        stderr=refused("400 no_db_connection: No connected db.", TOKEN),
        token="bad-token",
    ),
    Scene(
        "litellm/no-token",
        ask("--no-auth", model="main"),
        75,
        stderr=refused("500: Internal Server Error", LATER),
    ),
    Scene(
        "litellm/unknown-model",
        ask(model="nothing"),
        69,
        stderr=refused(
            "400 invalid_request_error: /chat/completions: Invalid model name passed in "
            "model=nothing. Call `/v1/models` to view available models for your key.",
            f"{SERVED}; the nearest are tight",
        ),
        then="litellm/models",
    ),
    Scene(
        "litellm/thinking",
        ask("--thinking", "off", model="main"),
        65,
        stderr=refused(
            "400 invalid_request_error: litellm.UnsupportedParamsError: openai does not "
            "support parameters: ['thinking'], for model=smollm2. To drop these, set "
            "`litellm.drop_params=True` or for proxy: `litellm_settings: drop_params: "
            "true` . If you want to use these params dynamically send "
            "allowed_openai_params=['thinking'] in your request. LiteLLM: model group "
            "'main' failed with the error above. No fallback was attempted."
        ),
    ),
    Scene(
        "litellm/long",
        ask(model="main", prompt=LONG),
        65,
        stderr=refused(
            "400 invalid_request_error: litellm.ContextWindowExceededError: "
            "litellm.BadRequestError: ContextWindowExceededError: OpenAIException - "
            "request (1630 tokens) exceeds the available context size (1024 tokens), try "
            "increasing it model=main. context_window_fallbacks=None. fallbacks=None. "
            "Set 'context_window_fallback' - "
            "https://docs.litellm.ai/docs/routing#fallbacks LiteLLM: model group 'main' "
            "failed with the error above. No fallback was attempted."
        ),
    ),
    Scene(
        "litellm/nowhere",
        ask(model="nowhere"),
        75,
        stderr=refused(
            "500 internal_server_error: litellm.InternalServerError: "
            "InternalServerError: OpenAIException - Connection error. LiteLLM: model "
            "group 'nowhere' failed with the error above. No fallback was attempted.",
            LATER,
        ),
    ),
    Scene(
        "litellm/refused",
        ask(model="refused"),
        77,
        stderr=refused(
            "401 authentication_error: litellm.AuthenticationError: AuthenticationError: "
            "OpenAIException - Invalid API Key LiteLLM: model group 'refused' failed "
            "with the error above. No fallback was attempted.",
            TOKEN,
        ),
    ),
    Scene(
        "litellm/page",
        ask(model="page"),
        75,
        stderr=refused(
            "502 internal_server_error: litellm.BadGatewayError: BadGatewayError: "
            "OpenAIException - 502 Bad Gateway nginx/1.22.1 LiteLLM: model group 'page' "
            "fai",
            LATER,
        ),
    ),
    Scene(
        "litellm/limited",
        ask(model="limited"),
        75,
        stderr=refused(
            "429 throttling_error: litellm.RateLimitError: RateLimitError: "
            "OpenAIException - 429 Too Many Requests nginx/1.22.1 LiteLLM: model group "
            "'limit",
            WAIT,
        ),
        door="limited",
    ),
    Scene(
        "litellm/cut",
        ask(model="cut", prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the API sent an error in its "
            "answer: litellm.APIConnectionError: APIConnectionError: OpenAIException - "
            "Response payload is not completed: <TransferEncodingError: 400, "
            "message='Not enough data to satisfy transfer length header.'>",
            LATER,
        ),
    ),
    Scene(
        "litellm/crowded",
        ask(model="tight", prompt="Tell a story."),
        75,
        stdout=f"{STORY} new\n",
        stderr=said(
            "the answer was cut off after 178 characters: the API sent an error in its "
            "answer: litellm.APIConnectionError: APIConnectionError: OpenAIException - "
            "Context size has been exceeded.",
            LATER,
        ),
    ),
    # Portkey
    Scene("portkey/stream", ask(), stdout="Paris.\n"),
    Scene(
        "portkey/today", ask(), 75, stderr=refused("500: Something went wrong", LATER), door="today"
    ),
    Scene("portkey/plain", ask("--no-stream"), stdout="Paris.\n"),
    Scene(
        "portkey/unnamed",
        ask(),
        78,
        stderr=refused(
            "400: Either x-portkey-config or x-portkey-provider header is required",
            "; name it in 'headers' or 'query' of the profile, kimi-config(5)",
        ),
        door="unnamed",
    ),
    Scene(
        "portkey/bad-token",
        ask(),
        77,
        stderr=refused("401 authentication_error: openai error: Invalid API Key", TOKEN),
        token="bad-token",
    ),
    Scene(
        "portkey/nowhere",
        ask(),
        75,
        stderr=refused(
            "500: Message: fetch failed Cause: Error: connect ECONNREFUSED "
            "127.0.0.1:37307 Name: TypeError",
            LATER,
        ),
        door="nowhere",
    ),
    Scene(
        "portkey/page",
        ask(),
        75,
        stderr=refused("502: 502 Bad Gateway nginx/1.22.1", LATER),
        door="page",
    ),
    Scene(
        "portkey/limited",
        ask(),
        75,
        stderr=refused("429: 429 Too Many Requests nginx/1.22.1", WAIT),
        door="limited",
    ),
    Scene(
        "portkey/cut",
        ask(prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the stream ended without "
            "finish_reason or [DONE]"
        ),
        door="cut",
    ),
    Scene(
        "portkey/crowded",
        ask(prompt="Tell a story."),
        75,
        stdout=f"{STORY} new\n",
        stderr=said(
            "the answer was cut off after 178 characters: the API sent an error in its "
            "answer: server_error: Context size has been exceeded.",
            LATER,
        ),
        door="tight",
    ),
    # MLflow
    Scene("mlflow/stream", ask(model="main"), stdout="Paris.\n"),
    Scene("mlflow/plain", ask("--no-stream", model="main"), stdout="Paris.\n"),
    Scene("mlflow/models", ("models",), 69, stderr=refused("404: Not Found", SERVED)),
    Scene(
        "mlflow/unknown-model",
        ask(model="nothing"),
        75,
        stderr=refused("500: Internal Server Error", LATER),
    ),
    Scene(
        "mlflow/refused",
        ask(model="refused"),
        75,
        stderr=said(
            "the answer was cut off before its first word: the connection broke: "
            "the reply ended too early; try again later"
        ),
    ),
    Scene(
        "mlflow/refused-plain",
        ask("--no-stream", model="refused"),
        77,
        stderr=refused("401: Invalid API Key", TOKEN),
    ),
    Scene(
        "mlflow/limited",
        ask("--no-stream", model="limited"),
        75,
        stderr=refused(
            "502: The returned data type from the route service is not supported. "
            "Received content type: text/html",
            LATER,
        ),
        door="limited",
    ),
    Scene(
        "mlflow/cut",
        ask(model="cut", prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the connection broke: "
            "the reply ended too early; try again later"
        ),
    ),
    Scene(
        "mlflow/crowded",
        ask(model="tight", prompt="Tell a story."),
        75,
        stdout=f"{STORY}\n",
        stderr=said(
            "the answer was cut off after 174 characters: the connection broke: "
            "the reply ended too early; try again later"
        ),
    ),
    # nginx
    Scene(
        "nginx/502",
        ask(),
        75,
        stderr=paged("502: Bad Gateway nginx/1.22.1", LATER),
        path="/page/v1",
    ),
    Scene(
        "nginx/504",
        ask(),
        75,
        stderr=paged("504: Gateway Time-out nginx/1.22.1", LATER),
        path="/504/v1",
    ),
    Scene(
        "nginx/503",
        ask(),
        75,
        stderr=paged("503: Service Temporarily Unavailable nginx/1.22.1", LATER),
        path="/503/v1",
        door="limited",
    ),
    Scene(
        "nginx/429",
        ask(),
        75,
        stderr=paged("429: Too Many Requests nginx/1.22.1", WAIT),
        path="/limited/v1",
        door="limited",
    ),
    Scene(
        "nginx/413",
        ask(),
        65,
        stderr=paged("413: Request Entity Too Large nginx/1.22.1"),
        path="/413/v1",
    ),
    Scene(
        "nginx/401",
        ask(),
        77,
        stderr=paged("401: Authorization Required nginx/1.22.1", TOKEN),
        path="/401/v1",
    ),
    Scene(
        "nginx/403", ask(), 77, stderr=paged("403: Forbidden nginx/1.22.1", TOKEN), path="/403/v1"
    ),
    Scene(
        "nginx/404", ask(), 69, stderr=paged("404: Not Found nginx/1.22.1", SERVED), path="/404/v1"
    ),
    Scene(
        "nginx/301",
        ask(),
        76,
        stderr=said(
            "the host redirects (HTTP 301) to https://localhost/301/v1/chat/completions; "
            "redirects are not followed, for the prompt and token would go with them; "
            "check --base-url"
        ),
        path="/301/v1",
    ),
    Scene(
        "nginx/cut",
        ask(prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the connection broke: "
            "the reply ended too early; try again later"
        ),
        path="/cut/v1",
    ),
    # HAProxy
    Scene(
        "haproxy/502",
        ask(),
        75,
        stderr=paged(
            "502: Bad Gateway The server returned an invalid or incomplete response.", LATER
        ),
        path="/502/v1",
    ),
    Scene(
        "haproxy/503",
        ask(),
        75,
        stderr=paged(
            "503: Service Unavailable No server is available to handle this request.", LATER
        ),
        path="/503/v1",
    ),
    Scene(
        "haproxy/504",
        ask(),
        75,
        stderr=paged("504: Gateway Time-out The server didn't respond in time.", LATER),
        path="/504/v1",
    ),
    Scene(
        "haproxy/408",
        ask(),
        75,
        stderr=paged(
            "408: Request Time-out Your browser didn't send a complete request in time.", LATER
        ),
        door="slow",
    ),
    Scene(
        "haproxy/429",
        ask(),
        75,
        stderr=paged(
            "429: Too Many Requests You have sent too many requests in a given amount of time.",
            LATER,
        ),
        path="/429/v1",
    ),
    Scene(
        "haproxy/413",
        ask(),
        65,
        stderr=paged("413: Payload Too Large The request entity exceeds the maximum allowed."),
        path="/413/v1",
    ),
    Scene(
        "haproxy/cut",
        ask(prompt="Tell a story."),
        75,
        stdout="In the year\n",
        stderr=said(
            "the answer was cut off after 11 characters: the connection broke: "
            "the reply ended too early; try again later"
        ),
        path="/cut/v1",
    ),
]
"""Every recording, by the host that sent it."""
