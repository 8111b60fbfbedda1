"""The profiles of kimi-config(5), as written there, at hosts that insist on what they want."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from program import Kimi, Result
from resolver import lead_to
from server import ReceivedRequest, ReplayServer, Reply, completion, document, refusal, stream

PAGE = Path(__file__).parents[1] / "man/kimi-config.5"
KEY = "key-0123456789abcdef"
SECOND = "second-0123456789abcdef"
"""What the environment holds; no output may."""


@dataclass(frozen=True)
class Host:
    """A host of the page: what it wants, and what it says where that is missing."""

    wants: dict[str, str]
    """Headers by their names in lower case."""
    refuses: Reply
    status: int
    """The exit status of that."""
    advice: str
    """What the line says then, besides the host's own words."""
    variables: dict[str, str] = field(default_factory=dict)
    query: dict[str, list[str]] = field(default_factory=dict)


UNAUTHORIZED = refusal(401, "invalid_api_key", "No key", dialect="moonshot")
HOSTS = {
    "portkey": Host(
        {"x-portkey-api-key": KEY, "x-portkey-provider": "@moonshot"},
        document(
            {
                "status": "failure",
                "message": "Either x-portkey-config or x-portkey-provider header is required",
            },
            status=400,
        ),
        78,
        "name it in 'headers' or 'query' of the profile, kimi-config(5)",
        {"PORTKEY_API_KEY": KEY},
    ),
    "azure": Host(
        {"api-key": KEY},
        document(
            {
                "error": {
                    "code": "401",
                    "message": "Access denied due to missing subscription key.",
                }
            },
            status=401,
        ),
        77,
        "no bearer token was sent; see 'auth' and 'headers' in kimi-config(5)",
        {"AZURE_OPENAI_API_KEY": KEY},
        {"api-version": ["2024-10-21"]},
    ),
    "openrouter": Host(
        {
            "authorization": f"Bearer {KEY}",
            "http-referer": "https://notes.example.com",
            "x-openrouter-title": "Notes",
        },
        document({"error": {"message": "Missing Authentication header", "code": 401}}, status=401),
        77,
        "check it with 'kimi auth status'",
        {"OPENROUTER_API_KEY": KEY},
    ),
    "office": Host(
        {
            "authorization": "Bearer office-token-0123456789",
            "cf-access-client-id": SECOND,
            "cf-access-client-secret": KEY,
        },
        Reply(
            status=302,
            headers={
                "Location": "https://me.cloudflareaccess.com/cdn-cgi/access/login/llm.example.com"
            },
        ),
        76,
        "whoever stands before it may want 'headers' of the profile, kimi-config(5)",
        {
            "OFFICE_API_KEY": "office-token-0123456789",
            "CF_ACCESS_CLIENT_ID": SECOND,
            "CF_ACCESS_CLIENT_SECRET": KEY,
        },
    ),
    "litellm": Host(
        {"authorization": f"Bearer {KEY}", "x-litellm-tags": "nightly"},
        UNAUTHORIZED,
        77,
        "check it with 'kimi auth status'",
        {"LITELLM_API_KEY": KEY},
    ),
    "ollama": Host({"host": "ollama:11434"}, UNAUTHORIZED, 77, "no bearer token was sent"),
}


def plain(text: str) -> str:
    """The text of mdoc without its escapes."""
    return text.replace(r"\-", "-").replace(r"\(dq", '"').replace(r"\(ti", "~")


def find_profile(name: str) -> str:
    """Return the example of the page that has this profile."""
    blocks = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", PAGE.read_text(), re.DOTALL | re.M)
    [found] = [plain(block) for block in blocks if f"[profiles.{name}]" in block]
    return found


def configure(home: Path, text: str) -> None:
    """Write the configuration file."""
    folder = home / ".config/kimi"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(text)


def answer(host: Host) -> Callable[[ReceivedRequest], Reply]:
    """Answer who brings all that the *host* wants, and nobody else."""

    def reply(request: ReceivedRequest) -> Reply:
        brought = {name.lower(): value for name, value in request.headers.items()}
        query = parse_qs(urlsplit(request.path).query)
        if not host.wants.items() <= brought.items() or query != host.query:
            return host.refuses
        if "authorization" in brought.keys() - host.wants.keys():
            return host.refuses
        if request.method == "GET":
            return document({"data": [{"id": "kimi-k3"}]})
        return stream("Hello") if request.json.get("stream") else completion("Hello")

    return reply


@contextmanager
def serve(
    host: Host, url: str, certificate: Callable[..., Path], folder: Path
) -> Iterator[tuple[ReplayServer, dict[str, str]]]:
    """Stand in for the host of *url*; yield the server and the variables that lead there."""
    parts = urlsplit(url)
    path = certificate(parts.hostname) if parts.scheme == "https" else None
    with ReplayServer(path) as server:
        server.answer(answer(host))
        variables = lead_to(server.port, folder)
        if path is not None:
            variables["SSL_CERT_FILE"] = str(path)
        yield server, variables
    server.check()


def assert_hidden(result: Result) -> None:
    """No value that came from the environment is anywhere."""
    assert KEY.encode() not in result.stdout + result.stderr
    assert SECOND.encode() not in result.stdout + result.stderr


@pytest.mark.parametrize("name", HOSTS)
def test_a_profile_of_the_page_is_answered(
    kimi: Kimi, home: Path, tmp_path: Path, certificate: Callable[..., Path], name: str
) -> None:
    """F21: ask, batch, chat, models and auth status bring the same to a host that insists on it."""
    host, text = HOSTS[name], find_profile(name)
    configure(home, text)
    found = re.search('base_url = "(.*?)"', text)
    assert found
    url = found[1]
    with serve(host, url, certificate, tmp_path / "resolver") as (server, variables):
        run = kimi.but(env={**variables, **host.variables})
        asked = run("ask", "-v", "--profile", name, "hi")
        assert (asked.stdout, asked.status) == (b"Hello\n", 0), asked.error
        row = run("batch", "-v", "--profile", name, "--format", "flat", stdin=b'"hi"\n')
        assert (json.loads(row.stdout)["content"], row.status) == ("Hello", 0), row.error
        said = run("chat", "-v", "--profile", name, stdin=b"hi\n")
        assert (said.stdout, said.status) == (b"Hello\n", 0), said.error
        listed = run("models", "-qv", "--profile", name)
        assert (listed.stdout, listed.status) == (b"kimi-k3\n", 0), listed.error
        shown = run("auth", "status", "--profile", name)
        assert shown.status == 0, shown.error
        paths = [urlsplit(request.path).path for request in server.requests]
        base = urlsplit(url).path
        assert paths == [f"{base}/chat/completions"] * 3 + [f"{base}/models"]
        for result in (asked, row, said, listed, shown):
            assert_hidden(result)


@pytest.mark.parametrize("name", HOSTS)
def test_what_a_host_misses_is_understood(
    kimi: Kimi, home: Path, tmp_path: Path, certificate: Callable[..., Path], name: str
) -> None:
    """F21: without its headers and query the host's words come with what can be done."""
    host, text = HOSTS[name], find_profile(name)
    lines = text.partition(f"[profiles.{name}.headers]")[0].splitlines()
    bare = [line for line in lines if not line.startswith(("headers", "query"))]
    configure(home, "\n".join(bare))
    found = re.search('base_url = "(.*?)"', text)
    assert found
    refusing = Host({"never": ""}, host.refuses, host.status, host.advice)
    with serve(refusing, found[1], certificate, tmp_path / "resolver") as (server, variables):
        run = kimi.but(env={**variables, **host.variables})
        for command in (("ask", "hi"), ("models",)):
            result = run(command[0], "--profile", name, *command[1:])
            assert (result.stdout, result.status) == (b"", host.status), result.error
            assert result.error.count("\n") == 1
            assert host.advice in result.error
        rows = b'"hi"\n' * 12
        result = run("batch", "--profile", name, "-c", "1", stdin=rows)
        assert result.status == host.status, result.error
        assert host.advice in result.error
        # Whoever sends elsewhere may do so for a moment: those rows are tried again.
        assert len(server.requests) <= 2 + 12 * (3 if host.status == 76 else 1)
