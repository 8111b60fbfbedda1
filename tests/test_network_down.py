"""A network that is down is no reason to wake a person; a name that does not exist is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from rows import write_input
from screen import Screen
from server import ReplayServer, stream

REMOTE = "https://kimi.example.com/v1"


@pytest.fixture
def offline(kimi: Kimi, home: Path) -> Kimi:
    """The program in a network namespace of its own, which has nothing but itself."""
    probe = ["unshare", "-rn", "true"]
    if shutil.which("unshare") is None or subprocess.run(probe, check=False).returncode:
        pytest.skip("needs unshare, and a kernel that lets us")
    wrapper = home / "offline"
    wrapper.write_text(f'#!/bin/sh\nexec unshare -rn "{kimi.program}" "$@"\n')
    wrapper.chmod(0o755)
    return replace(kimi.but(env={"KIMI_TOKEN": CANARY}), program=wrapper)


@pytest.mark.parametrize("url", [REMOTE, "https://192.0.2.7/v1", "https://[2001:db8::7]/v1"])
def test_no_network_is_worth_another_run(offline: Kimi, url: str) -> None:
    """A resolver that cannot be asked, and an address without a way to it, of either family."""
    run = offline("ask", "--base-url", url, "--retries", "1", "hi")
    assert (run.status, run.stdout) == (75, b"")
    retry, failure = run.error.splitlines()
    assert failure.endswith("; check the network and the address; try again later")
    assert "later; trying" not in retry


def test_ask_and_batch_agree(offline: Kimi, source: Path, out: Path) -> None:
    """At boot both are 75: the same command goes on later."""
    write_input(source, 2)
    run = offline("batch", "--base-url", REMOTE, str(source), "-o", str(out), "--max-wait", "1s")
    assert run.status == 75
    assert offline("models", "--base-url", REMOTE, "--retries", "0").status == 75


def test_a_chat_says_how_it_is_asked_again(offline: Kimi, home: Path) -> None:
    """Not later, but by its own command."""
    words = [str(offline.program), "chat", "--base-url", REMOTE, "--retries", "0", "hi"]
    environment = {key: value for key, value in offline.environment.items() if value is not None}
    with Screen(words, environment, home, columns=200) as screen:
        screen.see("; check the network and the address; /retry asks again")


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("EAI_AGAIN", 75, "try again later"),
        ("EAI_FAIL", 75, "try again later"),
        ("EAI_SYSTEM", 75, "try again later"),
        ("EAI_NONAME", 69, "check --base-url or the profile"),
        ("EAI_NODATA", 69, "check --base-url or the profile"),
    ],
)
def test_what_a_resolver_says_decides(
    kimi: Kimi, home: Path, source: Path, out: Path, code: str, status: int, advice: str
) -> None:
    """A hiccup is 75; that there is no such name is 69, at once, for one question and for many."""
    resolver = home / "resolver"
    resolver.mkdir()
    (resolver / "sitecustomize.py").write_text(
        "import socket\n"
        "def getaddrinfo(*arguments, **options):\n"
        f"    raise socket.gaierror(socket.{code}, 'what the resolver says')\n"
        "socket.getaddrinfo = getaddrinfo\n"
    )
    failing = kimi.but(env={"KIMI_TOKEN": CANARY, "PYTHONPATH": str(resolver)})
    run = failing("ask", "--base-url", REMOTE, "--retries", "0", "hi")
    assert run.status == status
    assert run.error.startswith("kimi: cannot resolve kimi.example.com: what the resolver says; ")
    assert run.error.endswith(f"{advice}\n")
    write_input(source, 2)
    words = ("batch", "--base-url", REMOTE, str(source), "-o", str(out), "--max-wait", "1s")
    assert failing(*words).status == status


def test_a_tilde_that_nobody_expanded(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """A table of cron and a unit of systemd hand it over as it stands."""
    server.script(stream("a"))
    token = home / ".config/kimi/token"
    token.parent.mkdir()
    token.write_text(CANARY + "\n")
    token.chmod(0o600)
    variables = {"KIMI_TOKEN_FILE": "~/.config/kimi/token"}
    assert kimi("ask", "--base-url", server.url, "hi", env=variables).status == 0
    assert server.requests[0].headers["Authorization"] == f"Bearer {CANARY}"
