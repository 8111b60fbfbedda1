"""A system that allows no further thread: a line and 75, never a bug."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from server import ReplayServer, completion, stream

UID = 64_123


def run_with_threads(kimi: Kimi, allowed: int, *arguments: str, stdin: bytes = b"") -> Any:
    """The program as a user of its own who may have so many threads, and no more."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("setpriv", "prlimit"))):
        pytest.skip("only a superuser can make a user with few threads")
    limits = ["prlimit", f"--nproc={allowed}", str(kimi.program), *arguments]
    rights = ["--clear-groups", "--inh-caps", "+dac_override", "--ambient-caps", "+dac_override"]
    return subprocess.run(
        ["setpriv", f"--reuid={UID}", f"--regid={UID}", *rights, *limits],
        env=dict(kimi.environment),
        input=stdin,
        capture_output=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_without_a_single_thread(kimi: Kimi, server: ReplayServer, command: str) -> None:
    """It says what is missing; the same call may succeed later."""
    options = ("--base-url", server.url, "--no-auth", "-q", *(("hi",) if command == "ask" else ()))
    done = run_with_threads(kimi, 1, command, *options, stdin=b'"hi"\n')
    assert done.returncode == 75, done.stderr
    assert b"the system allows no further thread" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert not server.requests


def test_with_few_threads(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A batch goes on with those that it has."""
    server.answer(lambda request: completion("yes"))
    options = ("--base-url", server.url, "--no-auth", "-q", "--format", "text")
    done = run_with_threads(kimi, 4, "batch", *options, stdin=b'"hi"\n' * 30)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [b'"yes"'] * 30


def test_a_question_with_two_threads(kimi: Kimi, server: ReplayServer) -> None:
    """One that carries it is enough."""
    server.script(stream("yes"))
    done = run_with_threads(kimi, 2, "ask", "--base-url", server.url, "--no-auth", "hi")
    assert (done.returncode, done.stdout) == (0, b"yes\n"), done.stderr
