"""The list of models: documented where the host has none, live where it has one."""

from __future__ import annotations

import json

import pytest
from program import Kimi
from server import Cut, ReplayServer, Reply, document, refusal

THE_GUIDES_SEVEN = {
    "kimi-k2-thinking-turbo",
    "kimi-k2.5",
    "kimi-k2-thinking",
    "kimi-k2-instruct-0905",
    "kimi-k2-0905-preview",
    "kimi-k2-turbo-preview",
    "kimi-k2-0711-preview",
}


def test_the_gateways_models_are_documented(kimi: Kimi) -> None:
    """The guide's seven and the later ones, without token or network; stdin is left alone."""
    names = kimi("models", "-q", stdin="pipe").stdout.decode().split()
    assert set(names) > THE_GUIDES_SEVEN | {"kimi-k2.6", "kimi-k3", "kimi-k3.1-pro"}
    table = kimi("models")
    marked = [line.split()[1] for line in table.stdout.splitlines() if line.startswith(b"*")]
    assert marked == [b"kimi-k2.5"]
    assert "as of 2026-10-26" in table.error
    rows = [json.loads(line) for line in kimi("models", "--json").stdout.splitlines()]
    assert [row["id"] for row in rows] == names
    assert {row["as_of"] for row in rows} == {"2026-10-26"}
    assert [row["id"] for row in rows if row["default"]] == ["kimi-k2.5"]
    chosen = kimi("models", env={"KIMI_MODEL": "kimi-k3"}).stdout
    assert chosen.splitlines()[1].startswith(b"*  kimi-k3 ")


def test_a_host_with_a_list_is_asked(kimi: Kimi, server: ReplayServer) -> None:
    """Moonshot's, OpenAI's and llama.cpp's entries are read, each for what it says."""
    entries = [
        {
            "id": "kimi-k3",
            "context_length": 10,
            "supports_reasoning": True,
            "supports_image_in": False,
        },
        {"id": "plain", "object": "model"},
        {"id": "local", "meta": {"n_ctx": 8192}},
    ]
    server.script(document({"object": "list", "data": entries}))
    result = kimi("models", "--json", "--base-url", server.url, env={"KIMI_TOKEN": "canary-1"})
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["id"], row["context"], row["thinks"], row["images"]) for row in rows] == [
        ("kimi-k3", 10, "yes", False),
        ("plain", None, None, None),
        ("local", 8192, None, None),
    ]
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/kimi/models")
    assert request.headers.get("Authorization") == "Bearer canary-1"


def test_failures_have_their_status(kimi: Kimi, server: ReplayServer) -> None:
    """A host without the endpoint, and one that sends something else."""
    arguments = ("models", "--no-auth", "--base-url", server.url)
    server.script(refusal(404, "no_api", "x"), document({"data": [{"name": "x"}]}))
    assert kimi(*arguments).status == 69
    assert kimi(*arguments).status == 76


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (refusal(401, "invalid_token", "no"), 77),
        (refusal(402, "used_up", "no"), 77),
        (refusal(503, "api_error", "later"), 75),
        (Reply([b"<html>Log in</html>"], headers={"Content-Type": "text/html"}), 76),
        (document("models"), 76),
        (document({"data": None}), 76),
        (document({"data": ["kimi-k3"]}), 76),
        (Reply(status=302, headers={"Location": "https://example.org/"}), 76),
        (Reply([b'{"data": [', Cut()], headers={"Content-Length": "99"}, framing="close"), 75),
    ],
)
def test_whatever_the_host_says_is_one_line(
    kimi: Kimi, server: ReplayServer, reply: Reply, status: int
) -> None:
    """Nothing on stdout, one line on stderr, and a status that a script can act on."""
    server.script(reply)
    result = kimi("models", "--no-auth", "--retries", "0", "--base-url", server.url)
    assert (result.status, result.stdout) == (status, b""), result.error
    assert result.error.count("\n") == 1
    assert len(server.requests) == 1


def test_a_live_list_needs_a_token(kimi: Kimi, server: ReplayServer) -> None:
    """Unless the host is known to want none; it is not asked without."""
    result = kimi("models", "--base-url", server.url)
    assert result.status == 78
    assert "--no-auth" in result.error
    assert not server.connections


def test_a_live_list_for_people_and_for_programs(kimi: Kimi, server: ReplayServer) -> None:
    """In the host's order; -q is the names and nothing else; stdin stays open and unread."""
    entries = [{"id": "zeta"}, {"id": "alpha", "context_length": 262144}]
    server.script(document({"object": "list", "data": entries}), repeat=True)
    arguments = ("models", "--no-auth", "--base-url", server.url)
    table = kimi(*arguments, env={"KIMI_MODEL": "alpha"}, stdin="pipe")
    _, zeta, alpha = table.stdout.decode().splitlines()
    assert zeta.split() == ["zeta", "-", "-", "-"]
    assert alpha.split() == ["*", "alpha", "262,144", "-", "-"]
    assert table.stderr == b""
    names = kimi(*arguments, "-q", stdin="pipe")
    assert (names.stdout, names.stderr) == (b"zeta\nalpha\n", b"")


def test_names_cannot_touch_the_terminal(kimi: Kimi, server: ReplayServer) -> None:
    """A host's words are made harmless on a screen, and kept as they are in a pipe."""
    server.script(document({"data": [{"id": "a\x1b[2Jb"}]}), repeat=True)
    arguments = ("models", "--no-auth", "-q", "--base-url", server.url)
    shown = kimi.pty(*arguments).wait()
    assert shown.status == 0
    assert shown.stdout.strip()
    assert b"\x1b" not in shown.stdout
    assert kimi(*arguments).stdout == b"a\x1b[2Jb\n"
