"""The models that are asked where nobody chose one, and what is said when a host refuses them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from server import ReceivedRequest, ReplayServer, Reply, document, refusal, stream

GONE = refusal(
    404,
    "resource_not_found_error",
    "Not found the model kimi-k3.1-pro or Permission denied",
    dialect="moonshot",
)
LISTED = document({"object": "list", "data": [{"id": "kimi-k9"}, {"id": "kimi-k9-highspeed"}]})


def configure(home: Path, text: str) -> None:
    """Write the configuration."""
    folder = home / ".config" / "kimi"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)


def answer(request: ReceivedRequest) -> Reply:
    """Refuse every model, and list others."""
    return LISTED if request.method == "GET" else GONE


@pytest.mark.parametrize(
    ("profile", "model"),
    [
        ("acedata", "kimi-k2.5"),
        ("moonshot", "kimi-k3.1-pro"),
        ("moonshot-cn", "kimi-k3.1-pro"),
    ],
)
def test_the_default_model_of_a_profile(kimi: Kimi, profile: str, model: str) -> None:
    """S11: the guide's at the gateway; at Moonshot one that new accounts may use."""
    shown = json.loads(kimi("ask", "--dry-run", "--profile", profile, "hi").stdout)
    assert shown["model"] == model


@pytest.mark.parametrize("command", ["ask", "ask --no-stream", "batch"])
def test_a_refused_default_names_the_hosts_models(
    kimi: Kimi, server: ReplayServer, home: Path, command: str
) -> None:
    """S11: the error says that nobody chose it, how to choose, and what the host lists."""
    configure(home, f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n')
    server.answer(answer)
    arguments = [*command.split(), "--profile", "moonshot"]
    result = kimi(*arguments, stdin=b'"hi"\n')
    assert result.status == 69, result.error
    assert "kimi-k3.1-pro is the built-in default" in result.error
    assert "KIMI_MODEL" in result.error
    assert "config.toml; there are kimi-k9, kimi-k9-highspeed" in result.error
    if command != "batch":
        assert result.error.count("\n") == 1
    assert [request.method for request in server.requests].count("GET") == 1


@pytest.mark.parametrize(
    ("options", "how"),
    [
        (("-m", "kimi-k3.1-pro"), {}),
        ((), {"env": {"KIMI_MODEL": "kimi-k3.1-pro"}}),
        (("-O", "model=kimi-k8"), {}),
    ],
)
def test_a_model_that_was_chosen_is_no_default(
    kimi: Kimi, server: ReplayServer, home: Path, options: tuple[str, ...], how: dict[str, Any]
) -> None:
    """Who named it knows how; the ids that look like it are named, if there are any."""
    configure(home, f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n')
    server.answer(answer)
    result = kimi("ask", "--profile", "moonshot", *options, "hi", **how)
    assert result.status == 69
    assert "built-in" not in result.error
    assert result.error.endswith("; the nearest are kimi-k9, kimi-k9-highspeed\n")
    assert [request.method for request in server.requests] == ["POST", "GET"]


def test_at_another_base_url_the_command_is_named(ask: Kimi, server: ReplayServer) -> None:
    """A host that nothing is known of is asked nothing more."""
    server.script(document({"error": "Invalid model name passed in model=kimi-k2.5"}, status=400))
    result = ask("hi")
    assert result.status == 69
    assert result.error == (
        "kimi: the API refused the request: HTTP 400: Invalid model name passed in "
        "model=kimi-k2.5; check --model and --base-url; 'kimi models' lists what there is; "
        "kimi-k2.5 is the built-in default: choose another with -m, KIMI_MODEL, or model in "
        "config.toml\n"
    )


def test_a_list_that_fails_leaves_the_error(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """A host without a list: the error stays, without names."""
    configure(home, f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n')
    server.answer(lambda request: GONE)
    result = kimi("ask", "--profile", "moonshot", "hi")
    assert result.status == 69
    assert "the built-in default" in result.error
    assert "there are" not in result.error


def test_a_chat_tells_a_refused_default_as_well(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """Its errors are those of ask."""
    configure(home, f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n')
    server.answer(answer)
    result = kimi("chat", "--profile", "moonshot", stdin=b"hi\n")
    assert "there are kimi-k9, kimi-k9-highspeed" in result.error


ENTRIES: list[tuple[dict[str, Any], int | None, str | None, bool | None]] = [
    # LiteLLM
    (
        {"max_input_tokens": 8192, "max_output_tokens": 10, "supports_vision": True},
        8192,
        None,
        True,
    ),
    ({"model_info": {"max_input_tokens": 9000, "supports_reasoning": True}}, 9000, "yes", None),
    # llama.cpp
    ({"meta": {"n_ctx_train": 131072, "n_ctx": 2048}}, 2048, None, None),
    (
        {"meta": {"n_ctx_train": 131072, "n_ctx": 2048}, "max_input_tokens": 131072},
        2048,
        None,
        None,
    ),
    ({"architecture": {"input_modalities": ["text", "image"]}}, None, None, True),
    ({"input_modalities": ["text"]}, None, None, False),
    # vLLM, Mistral, Groq, OpenRouter
    ({"max_model_len": 4096}, 4096, None, None),
    ({"max_context_length": 4096, "capabilities": {"vision": False}}, 4096, None, False),
    ({"context_window": 4096}, 4096, None, None),
    ({"supported_parameters": ["tools", "reasoning"]}, None, "yes", None),
    # nonsense
    ({"context_length": "many", "meta": [], "supports_image_in": "yes"}, None, None, None),
    ({"context_length": -1, "capabilities": ["vision"]}, None, None, None),
    ({"context_length": True}, None, None, None),
]


@pytest.mark.parametrize("bare", [False, True], ids=["object", "array"])
def test_what_hosts_say_of_their_models(kimi: Kimi, server: ReplayServer, bare: bool) -> None:
    """S8, F21: each in its own words, in an object or as a bare array (Together)."""
    entries = [{"id": f"m{number}", **entry[0]} for number, entry in enumerate(ENTRIES)]
    server.script(document(entries if bare else {"data": entries}))
    result = kimi("models", "--json", "--no-auth", "--base-url", server.url)
    assert result.status == 0, result.error
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["context"], row["thinks"], row["images"]) for row in rows] == [
        entry[1:] for entry in ENTRIES
    ]


def test_an_array_may_be_an_error(kimi: Kimi, server: ReplayServer) -> None:
    """Gemini's errors come in one, even inside a 200."""
    error = {"error": {"code": 401, "message": "no", "status": "UNAUTHENTICATED"}}
    server.script(document([error]), document([]), document([1]))
    arguments = ("models", "--no-auth", "--base-url", server.url)
    assert kimi(*arguments).status == 77
    assert kimi(*arguments).status == 0
    assert kimi(*arguments).status == 76


def test_the_refused_model_may_be_one_of_a_row(
    kimi: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A row that names its own model is told of that one: nobody's default is at fault."""
    server.answer(lambda request: GONE if b"own" in request.body else stream("x"))
    source = tmp_path / "in.jsonl"
    source.write_text('{"prompt": "hi", "model": "own"}\n')
    result = kimi("batch", str(source), "--no-auth", "--base-url", server.url)
    assert result.status == 69
    assert "built-in" not in result.error
