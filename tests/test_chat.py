"""kimi chat: a person at a terminal asks, and goes on asking."""

from __future__ import annotations

import json
import signal
import stat
import threading
from pathlib import Path

import pytest
from conftest import CANARY
from conversations import CONVERSATIONS, keep, list_contents, read_record, user
from program import Kimi
from screen import Screen, Start, say
from server import Barrier, ReplayServer, Wait, document, stream

# Talking


def test_a_chat_remembers(chat: Start, server: ReplayServer, home: Path) -> None:
    """Each question is sent with what was said before; Ctrl-D leaves with 0."""
    with chat() as screen:
        screen.see_prompt()
        assert "model kimi-k2.5; /help lists commands, Ctrl-D leaves" in screen.text
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
        screen.see_prompt()
        screen.press("\x04")
        assert screen.end() == 0
    assert [list_contents(request) for request in server.requests] == [
        ["one"],
        ["one", "re: one", "two"],
    ]
    assert [line["content"] for line in read_record(home)] == ["one", "re: one", "two", "re: two"]
    assert stat.S_IMODE((home / CONVERSATIONS / "latest.jsonl").stat().st_mode) == 0o600


def test_reasoning_is_above_the_answer(chat: Start, server: ReplayServer) -> None:
    """Dim, parted by a blank line; hidden when it is not wanted."""
    server.script(stream("yes", reasoning=["Hm, ", "well."]), stream("no", reasoning=["Secret."]))
    with chat("question") as screen:
        screen.see("yes")
        screen.see_prompt()
        rows = screen.lines
        assert rows[rows.index("Hm, well.") + 1 :][:2] == ["", "yes"]
        assert b"\x1b[2mHm, " in screen.received
        screen.enter("/reasoning hide")
        screen.see_prompt()
        screen.enter("again")
        screen.see("no")
        assert b"Secret" not in screen.received


def test_the_first_question_may_be_an_argument(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """With its files; a slash does not make it a command."""
    (home / "notes.txt").write_text("buy milk\n")
    with chat("-f", "notes.txt", "/help", "me") as screen:
        screen.see("re: /help me")
        screen.see_prompt()
        assert list_contents(server.requests[0]) == ["/help me\n\nnotes.txt:\nbuy milk"]


# What happens on the way


def test_a_full_context_is_told_before_the_host_refuses(chat: Start, server: ReplayServer) -> None:
    """From nine tenths of the model's window on."""
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 240_000}
    server.script(stream("long", usage=usage))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("fills 92% of the 262,144 tokens")


def test_escapes_are_harmless(chat: Start, server: ReplayServer, home: Path) -> None:
    """From a model, and from a record."""
    server.script(stream("a\x1b[2Jb\x9bc"))
    (home / CONVERSATIONS).mkdir(parents=True)
    lines = [{"role": role, "content": f"{role}\x1b]0;x\x07"} for role in ("system", "user")]
    record = "".join(json.dumps(line) + "\n" for line in lines)
    (home / CONVERSATIONS / "mine.jsonl").write_text(record)
    with chat() as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("a^[[2Jb<U+009B>c")
        for typed, told in (
            ("/load mine", "the last question was: user^[]0;x^G"),
            ("/system", "system prompt: system^[]0;x^G"),
            ("/undo", "taken back: user^[]0;x^G"),
        ):
            screen.see_prompt()
            screen.enter(typed)
            screen.see(told)
        assert b"\x1b]0;x" not in screen.received


def test_odd_figures_of_a_host_are_left_out(chat: Start, server: ReplayServer) -> None:
    """A number in quotes, or none, is not added up."""
    usage = {"prompt_tokens": "7", "completion_tokens": 2, "total_tokens": None}
    listing = document({"data": []})
    server.script(stream("x", usage=usage), stream("y", usage={"prompt_tokens": 5}), listing)
    with chat("question") as screen:
        screen.see_prompt()
        screen.enter("again")
        screen.see("y")
        screen.see_prompt()
        screen.enter("/usage")
        screen.see("last turn 5 + ? tokens")
        screen.see("all turns 5 + 2 tokens")


# The model and its options


def test_a_long_question_is_told_before_it_is_asked(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """That it fills the window together with what was said before."""
    gate = threading.Event()
    (home / "long.txt").write_text("x" * 140_000)
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 200_000}
    server.script(stream("fine", usage=usage), stream(Barrier(gate), "done", usage=None))
    with chat() as screen:
        say(screen, "one", "fine")
        say(screen, "/file long.txt", "long.txt goes with the next question")
        assert b"fills" not in screen.received
        say(screen, "two", "fills 94% of the 262,144 tokens that kimi-k2.5 reads")
        gate.set()
        screen.see("done")


# Figures, hints, and terminals that can do nothing


def test_a_figure_beyond_reason_is_none(chat: Start, server: ReplayServer) -> None:
    """Of a host that counts nonsense: nothing is told of it, then or later."""
    usage = {"prompt_tokens": 10**400, "completion_tokens": -1, "total_tokens": 10**400}
    server.script(stream("fine", usage=usage), document({"data": []}))
    with chat("-S", "mine") as screen:
        say(screen, "one", "fine")
        say(screen, "/usage", "last turn ? + ? tokens")
        say(screen, "two", "re: two")
    with chat("-S", "mine") as screen:
        say(screen, "three", "re: three")
        screen.see_prompt()


@pytest.mark.parametrize("text", ["x" * 800_000, "漢" * 400_000], ids=["ASCII", "CJK"])
def test_the_first_question_may_be_too_long(
    chat: Start, server: ReplayServer, home: Path, text: str
) -> None:
    """It is told before the host refuses it, be it of signs that are a token each."""
    (home / "long.txt").write_text(text)
    with chat() as screen:
        say(screen, "/file long.txt", "goes with the next question")
        say(screen, "one", "of the 262,144 tokens that kimi-k2.5 reads")


def test_a_dumb_terminal_gets_text(chat: Start, server: ReplayServer) -> None:
    """No control sequence; lines are questions, ^C and ^D are what they are elsewhere."""
    server.script(stream(Wait(0.4), "re: one"))
    with chat(env={"TERM": "dumb"}) as screen:
        say(screen, "one", "re: one")
        say(screen, "/model", "model kimi-k2.5")
        screen.see_prompt()
        screen.press("half\x03")
        screen.see("Ctrl-C again leaves")
        say(screen, "two", "re: two")
        screen.see_prompt()
        screen.press("\x04")
        assert screen.end() == 0
        assert b"\x1b" not in screen.received
    with chat(env={"TERM": "dumb"}) as screen:
        screen.see_prompt()
        screen.press("\x03")
        screen.see("Ctrl-C again leaves")
        screen.press("\x03")
        assert screen.end() == -signal.SIGINT
    assert list_contents(server.requests[-1])[-1] == "two"


def test_a_screen_on_stdout_gets_its_marks(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """Where stderr is a file, no control sequence goes there."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    errors = home / "errors"
    command = f"exec {kimi.program} chat --base-url {server.url} question 2> {errors}"
    environment = {**kimi.environment, "KIMI_TOKEN": CANARY}
    with Screen(["/bin/sh", "-c", command], environment, home) as screen:
        screen.see("half")
        assert b"\x1b[?2004h" in screen.received
        gate.set()
        screen.see("an answer")
        screen.see_prompt()
    assert b"\x1b" not in errors.read_bytes()


def test_a_long_first_question_is_listed(kimi: Kimi, folder: Path) -> None:
    """Cut to the screen, and at once: a pipe may have brought it."""
    keep(folder, "mine", user("word " * 200_000))
    shown = kimi.but("log").pty().wait().stdout.decode().splitlines()
    assert shown[1].endswith("…")
    assert len(shown) == 2
    assert 70 < len(shown[1]) <= 80
