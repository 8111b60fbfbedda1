"""A host that repeats the bearer token: it stands in nothing that is written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from server import ReceivedRequest, ReplayServer, Reply, document, event, refusal

from kimi_cli.api.secrecy import Veil

TOKEN = "canary/token+0123456789"


def repeat(request: ReceivedRequest) -> str:
    """Return the token, as a careless host would repeat it."""
    return request.headers["Authorization"].removeprefix("Bearer ")


def answer(request: ReceivedRequest) -> Reply:
    """Answer with the token in every place but the text."""
    said = repeat(request)
    choice = {"index": 0, "message": {"content": "Hello"}, "finish_reason": "stop"}
    fields = {"id": said, "model": f"m {said}", "system_fingerprint": said, said: [said]}
    headers = {"X-Request-Id": said}
    if request.json.get("stream"):
        chunk = {**fields, "choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}
        return Reply(
            [event(chunk), event("[DONE]")],
            headers={"Content-Type": "text/event-stream", **headers},
        )
    body = json.dumps({**fields, "choices": [choice]}).replace("/", "\\/").encode()
    return Reply([body], headers={"Content-Type": "application/json", **headers})


def find_files(folder: Path) -> list[Path]:
    """Return every file below *folder*."""
    return [path for path in folder.rglob("*") if path.is_file()]


@pytest.mark.parametrize("style", ["batch", "flat", "merge", "text"])
def test_an_answered_row_has_no_token(
    kimi: Kimi, server: ReplayServer, tmp_path: Path, style: str
) -> None:
    """T14: not as id, model or request id, nor as a key, however the host escapes it."""
    server.answer(answer)
    out = tmp_path / "out"
    options = ("--base-url", server.url, "--format", style, "-o", str(out))
    result = kimi("batch", *options, stdin=b'"hi"\n', env={"KIMI_TOKEN": TOKEN})
    assert result.status == 0, result.error
    line = out.read_text()
    assert "Hello" in line
    assert ("[bearer token]" in line) is (style == "batch")
    assert not any(TOKEN in path.read_text() for path in [out])


@pytest.mark.parametrize(
    "refuse",
    [
        lambda said: refusal(400, said, said, trace_id=said),
        lambda said: refusal(400, "bad_request", "no", headers={"X-Request-Id": said}),
        lambda said: refusal(400, "bad_request", "no", headers={"X-Trace-Id": said}),
        lambda said: document({"error": {"type": said, "param": said}}, status=422),
        lambda said: refusal(500, said, said, trace_id=said),
    ],
)
def test_a_refused_row_has_no_token(
    kimi: Kimi, server: ReplayServer, tmp_path: Path, refuse: Any
) -> None:
    """T14: neither as code nor as trace id, in the output or in the list beside it."""
    server.answer(lambda request: refuse(repeat(request)))
    out = tmp_path / "out"
    options = ("--base-url", server.url, "-o", str(out), "--retries", "0")
    result = kimi("batch", *options, stdin=b'"hi"\n', env={"KIMI_TOKEN": TOKEN})
    assert result.status in (4, 75)
    assert TOKEN not in result.error
    written = [path.read_text() for path in find_files(tmp_path)]
    assert any("[bearer token]" in text for text in written)
    assert not any(TOKEN in text for text in written)


@pytest.mark.parametrize("mode", [(), ("--no-stream",)])
def test_ask_shows_and_keeps_no_token(
    kimi: Kimi, server: ReplayServer, home: Path, mode: tuple[str, ...]
) -> None:
    """T14: --json and the record of a conversation."""
    server.answer(answer)
    options = ("--base-url", server.url, "--json", "-S", "kept")
    result = kimi("ask", *options, *mode, "hi", env={"KIMI_TOKEN": TOKEN})
    shown = json.loads(result.stdout)
    assert (shown["id"], shown["model"]) == ("[bearer token]", "m [bearer token]")
    records = [path.read_bytes() for path in find_files(home)]
    assert any(b"Hello" in record for record in records)
    assert not any(TOKEN.encode() in record for record in records)


@pytest.mark.parametrize("token", [None, "", "short"])
def test_what_is_no_secret_is_left(token: str | None) -> None:
    """A token that is found in ordinary words hides nothing: answers must stay as they are."""
    veil = Veil(token)
    assert veil.cover({"a": ["short words", 1, None]}) == {"a": ["short words", 1, None]}
    assert veil.cover_read({"a": "short"}, b'{"a": "short"}') == {"a": "short"}
