"""Lists, completions and slips of the pen, as a person at a screen meets them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from screen import Screen
from server import ReplayServer, document

# kimi models


@pytest.mark.parametrize("columns", [64, 80, 100])
def test_models_fit_the_screen(kimi: Kimi, home: Path, columns: int) -> None:
    """No line is longer than the screen, and no note is lost: it stands below its model."""
    whole = kimi("models").stdout.decode()
    notes = [line[whole.index("NOTE") :] for line in whole.splitlines()[1:]]
    assert max(map(len, whole.splitlines())) > 100
    environment = {key: value for key, value in kimi.environment.items() if value is not None}
    with Screen([str(kimi.program), "models"], environment, home, columns=columns) as screen:
        assert screen.end() == 0
    shown = screen.received.decode().splitlines()
    rows = [row for row in shown if not row.startswith("kimi: ")]
    assert max(map(len, rows)) <= columns
    assert all(note in screen.received.decode() for note in notes)
    assert all(f"     {note}" in rows for note in notes if note and len(note) < columns - 5)


def test_models_stay_in_columns_where_there_is_room(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """A host that has no notes needs no second line."""
    server.script(document({"data": [{"id": "a"}, {"id": "b", "context_length": 8}]}))
    environment = {key: value for key, value in kimi.environment.items() if value is not None}
    command = [str(kimi.program), "models", "--base-url", server.url]
    with Screen(command, {**environment, "KIMI_TOKEN": CANARY}, home) as screen:
        assert screen.end() == 0
    assert len(screen.lines) == 3


# Descriptions in fish


@pytest.fixture
def fish(kimi: Kimi, tmp_path: Path) -> Path:
    """Our script for fish, where there is a fish."""
    if shutil.which("fish") is None:
        assert "CI" not in os.environ, "CI must have fish"
        pytest.skip("needs fish")
    path = tmp_path / "kimi.fish"
    path.write_bytes(kimi(env={"_KIMI_COMPLETE": "fish_source"}).stdout)
    return path


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("kimi a", "auth\tKeep, show and forget bearer tokens."),
        ("kimi ch", "chat\tTalk: ask, read the answer, ask on."),
        ("kimi ask --dry", "--dry-run\tPrint the request body that would be sent, and exit."),
        ("kimi auth login --insecure", "--insecure-storage\tStore in a file of mode 0600 instead"),
    ],
)
def test_fish_shows_whole_descriptions(kimi: Kimi, fish: Path, line: str, shown: str) -> None:
    """A comma is a letter like any other."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {fish}; complete --do-complete '{line}'"],
        env=kimi.environment,
        cwd=kimi.folder,
        capture_output=True,
        text=True,
        check=True,
    )
    assert any(row.startswith(shown) for row in done.stdout.splitlines()), done.stdout


# Slips of the pen


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["aks"], "no such command 'aks'; did you mean 'ask'; usage: kimi "),
        (["batches", "x"], "no such command 'batches'; did you mean 'batch'; usage: kimi "),
        (["auth", "lgoin"], "no such command 'lgoin'; did you mean 'login'; usage: kimi auth "),
        (["ask", "--dry-rum"], "no such option '--dry-rum'; did you mean '--dry-run'; usage: "),
        (["help", "aks"], "there is no help on 'aks'; did you mean 'ask'; usage: "),
        (
            ["help", "exit-stauts"],
            "there is no help on 'exit-stauts'; did you mean 'exit-status'; usage: ",
        ),
        (["xyz"], "no such command 'xyz'; usage: kimi "),
    ],
)
def test_a_slip_of_the_pen_is_known(kimi: Kimi, words: list[str], told: str) -> None:
    """What is meant is named, whether it is a command, an option or a topic."""
    run = kimi(*words)
    assert run.status == 2
    assert run.error.startswith(f"kimi: {told}")
    assert run.error.count("\n") == 1
