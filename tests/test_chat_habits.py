"""What people type in a chat by habit, and what goes wrong at its beginning."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from program import Kimi
from screen import Screen, Start, say
from server import ReplayServer, document, refusal, stream

# Words


@pytest.mark.parametrize(
    "word", ["exit", "quit", " EXIT ", "exit()", ":q", "logout", "/quit", "/q", "/bye"]
)
def test_a_word_that_leaves_elsewhere_leaves(chat: Start, server: ReplayServer, word: str) -> None:
    """It is not asked, and costs nothing."""
    with chat() as screen:
        screen.see_prompt()
        screen.press(word + "\r")
        assert screen.end() == 0
    assert not server.requests


@pytest.mark.parametrize("word", ["help", "?", "/?", "/h"])
def test_a_word_for_help_helps(chat: Start, server: ReplayServer, word: str) -> None:
    """The commands are listed."""
    with chat() as screen:
        screen.see_prompt()
        screen.press(word + "\r")
        screen.see("show how many tokens were used")
    assert not server.requests


def test_a_question_that_holds_such_a_word_is_asked(chat: Start) -> None:
    """Only what stands alone is meant for the program."""
    with chat() as screen:
        screen.see_prompt()
        say(screen, "exit vim", "re: exit vim")
        say(screen, "//quit", "re: /quit")


def test_lines_in_a_pipe_are_all_questions(kimi: Kimi, server: ReplayServer) -> None:
    """Data may hold any word."""
    server.script(stream("a"), stream("b"))
    run = kimi("chat", "--base-url", server.url, "--no-auth", stdin=b"exit\nquit\n")
    assert (run.status, run.stdout) == (0, b"a\n\nb\n")


# The editor


@pytest.mark.parametrize(
    ("editor", "told"),
    [
        (
            "no-such-editor",
            "cannot run the editor 'no-such-editor': No such file or directory",
        ),
        ("/", "cannot run the editor '/': Permission denied; set VISUAL or EDITOR"),
        ("'unclosed", "cannot run the editor ''unclosed': no closing quotation; set VISUAL or"),
    ],
)
def test_an_editor_that_is_not_there_is_told_in_words(chat: Start, editor: str, told: str) -> None:
    """Without the numbers of the system's errors."""
    with chat(env={"VISUAL": editor}) as screen:
        screen.see_prompt()
        screen.enter("/edit")
        screen.see(told)
        screen.see_prompt()
        assert "Errno" not in screen.text


# Markdown without what renders it


@pytest.fixture
def bare(kimi: Kimi, tmp_path: Path) -> dict[str, str]:
    """An environment in which rich cannot be imported."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys\nsys.modules['rich'] = None\n")
    return {**kimi.environment, "KIMI_TOKEN": CANARY, "PYTHONPATH": str(hidden)}


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_markdown_that_cannot_be_rendered_is_told_once(
    kimi: Kimi, server: ReplayServer, home: Path, bare: dict[str, str], command: str
) -> None:
    """At the start, before anything is typed or asked or kept; the line says what to run."""
    words = [str(kimi.program), command, "--markdown", "--base-url", server.url, "hi"]
    with Screen(words, bare, home, columns=200) as screen:
        assert screen.end() == 78
    assert screen.lines == [
        "kimi: --markdown needs rich, which is not installed; run: "
        f"{sys.executable} -m pip install 'rich>=14'"
    ]
    assert not server.requests
    assert not list(home.rglob("*.jsonl"))


def test_markdown_for_a_pipe_needs_nothing(
    kimi: Kimi, server: ReplayServer, bare: dict[str, str]
) -> None:
    """A pipe gets the answer as it is."""
    server.script(stream("*a*"))
    run = kimi("ask", "--markdown", "--base-url", server.url, "hi", env=bare)
    assert (run.status, run.stdout) == (0, b"*a*\n")


# What the model reads


@pytest.mark.parametrize(
    ("models", "window"),
    [
        ([{"id": "kimi-k3", "meta": {"n_ctx": 2048}}], "12.9% of the 2,048 that kimi-k3 reads"),
        ([{"id": "/m.gguf", "meta": {"n_ctx": 2048}}], "12.9% of the 2,048 that kimi-k3 reads"),
        (
            [{"id": "other", "context_length": 9}, {"id": "kimi-k3", "context_length": 4096}],
            "6.4% of the 4,096 that kimi-k3 reads",
        ),
        ([{"id": "kimi-k3"}], "0.0% of the 1,048,576 that kimi-k3 reads"),
        (None, "0.0% of the 1,048,576 that kimi-k3 reads"),
    ],
    ids=["named", "alone", "among others", "silent", "no list"],
)
def test_usage_believes_the_host(
    chat: Start, server: ReplayServer, models: list[dict[str, Any]] | None, window: str
) -> None:
    """What it says of its model beats what is documented; it is asked once, and only for this."""
    usage = {"prompt_tokens": 262, "completion_tokens": 2, "total_tokens": 264}
    listing = refusal(404, "not_found", "no") if models is None else document({"data": models})
    server.script(stream("fine", usage=usage), listing)
    with chat("-m", "kimi-k3") as screen:
        say(screen, "one", "fine")
        say(screen, "/usage", f"last turn 262 + 2 tokens; {window}")
        say(screen, "/usage", f"last turn 262 + 2 tokens; {window}")
    assert [request.path for request in server.requests] == [
        "/kimi/chat/completions",
        "/kimi/models",
    ]


def test_a_small_window_is_warned_of_once_it_is_known(chat: Start, server: ReplayServer) -> None:
    """The next question is measured by what the host has said."""
    usage = {"prompt_tokens": 2000, "completion_tokens": 40, "total_tokens": 2040}
    models = document({"data": [{"id": "m", "meta": {"n_ctx": 2048}}]})
    server.script(stream("fine", usage=usage), models, stream("more", usage=usage))
    with chat("-m", "m") as screen:
        say(screen, "one", "fine")
        say(screen, "/usage", "99.6% of the 2,048 that m reads")
        say(screen, "two", "fills 100% of the 2,048 tokens that m reads; /new begins another")
