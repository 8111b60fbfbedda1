"""kimi chat: keys, what is typed and pasted, signals, and the terminal afterwards."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import stat
import subprocess
import termios
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from conftest import CANARY
from conversations import CONVERSATIONS, get_question, list_contents, read_record
from program import Kimi
from screen import Screen, Start, say
from server import Barrier, Mark, ReplayServer, Stall, Wait, stream
from window import Tmux

# Keys


TYPED = [
    ("one\x1b\rtwo\r", "one\ntwo"),
    ("three\\\rfour\r", "three\nfour"),
    ("\x1b[200~five\nsix\r\nseven\x1b[201~\r", "five\nsix\nseven"),
    ("wrong\x15right\r", "right"),
    ("nie\x1b[Dn\r", "nine"),
    ("漢字 und ü\x7fö 👍\r", "漢字 und ö 👍"),
    ("//etc/hosts\r", "/etc/hosts"),
    ("a\\b\r", "a\\b"),
    ("ab\\\x1b[D\r", "ab\\"),
    ("c\\d\x1b[D\r", "c\\d"),
]


def test_what_is_typed_is_what_is_asked(chat: Start, server: ReplayServer) -> None:
    """Enter asks, other keys edit."""
    with chat() as screen:
        for number, (keys, asked) in enumerate(TYPED):
            screen.see_prompt()
            screen.press(keys)
            screen.see("re: " + asked.splitlines()[0])
            assert get_question(server.requests[number]) == asked
        assert len(server.requests) == len(TYPED)


def test_history_is_kept_and_searched(chat: Start, server: ReplayServer, home: Path) -> None:
    """Up and Ctrl-R find what was typed, in the next chat as well; nobody else can read it."""
    with chat() as screen:
        for question in ("first thing", "second thing"):
            screen.see_prompt()
            screen.enter(question)
            screen.see(f"re: {question}")
        screen.see_prompt()
        screen.press("\x1b[A")
        screen.see_line("> second thing")
        screen.press("\x03")
        screen.press("\x12first")
        screen.see("I-search backward: first")
        screen.press("\r")
        screen.see_line("> first thing")
    with chat() as screen:
        screen.see_prompt()
        screen.press("\x1b[A\x1b[A")
        screen.see_line("> first thing")
        screen.press("\r")
        screen.see("re: first thing")
    history = home / ".local/state/kimi/history"
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


COMPLETED = [
    ("/us\t", "> /usage"),
    ("/model kimi-k2-i\t", "> /model kimi-k2-instruct-0905"),
    ("/model kimi-k2-tu\t", "> /model kimi-k2-turbo-preview"),
    ("/model kimi-k2.7-code-\t", "> /model kimi-k2.7-code-highspeed"),
    ("/file no\t", "> /file notes.txt"),
    ("/file ~/no\t", "> /file ~/notes.txt"),
    ("/load pla\t", "> /load planning"),
    ("/reasoning h\t", "> /reasoning hide"),
]


def test_tab_completes(chat: Start, home: Path) -> None:
    """Commands, and what they take."""
    (home / "notes.txt").touch()
    (home / CONVERSATIONS).mkdir(parents=True)
    (home / CONVERSATIONS / "planning.jsonl").write_text('{"role":"user","content":"x"}\n')
    with chat() as screen:
        for typed, wanted in COMPLETED:
            screen.see_prompt()
            screen.press(typed)
            screen.see_line(wanted)
            screen.press("\x15")


def test_an_interrupt_stops_the_answer(chat: Start, server: ReplayServer, home: Path) -> None:
    """What came is kept and marked, and the next turn knows that it was cut off."""
    sent = threading.Event()
    server.script(stream("half an ans", Mark(sent), Stall()), stream("fine"))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("question")
        assert sent.wait(10)
        screen.see("half an ans")
        screen.press("\x1b[200~typed\rahead\x1b[201~")
        screen.press("\x03")
        screen.see("stopped; /retry asks again")
        screen.see_line(". ahead")
        assert "half an anstyped" not in screen.text
        screen.press("\r")
        screen.see("fine")
        screen.see_prompt()
        screen.press("\x04")
        assert screen.end() == 0
    assert read_record(home)[1]["incomplete"] == "interrupted"
    cut = "half an ans\n\n[The answer was cut off here.]"
    assert list_contents(server.requests[1]) == ["question", cut, "typed\nahead"]


def test_a_stopped_chat_goes_on_in_silence(chat: Start, server: ReplayServer) -> None:
    """After ^Z and fg, what is typed stays off the answer: the shell had its own terminal."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"), stream("fine"))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("half")
        os.kill(screen.child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, screen.child.pid, os.WSTOPPED | os.WNOWAIT)
        screen.child.setecho(True)
        os.kill(screen.child.pid, signal.SIGCONT)
        assert screen.child.waitnoecho(10)
        screen.press("ahead")
        gate.set()
        screen.see_line("> ahead")
        assert "half an answer" in screen.text
        screen.press("\r")
        screen.see("fine")


def test_interrupts_at_the_prompt(chat: Start, server: ReplayServer) -> None:
    """The first clears the line, the second leaves with 130."""
    with chat() as screen:
        screen.see_prompt()
        screen.press("some words")
        screen.see_line("> some words")
        screen.press("\x03")
        screen.see("Ctrl-C again leaves")
        screen.press("more")
        screen.see_no("Ctrl-C again leaves")
        screen.press("\x03")
        screen.see("Ctrl-C again leaves")
        screen.press("\x03")
        assert screen.end() == -signal.SIGINT
    assert not server.requests


@pytest.mark.parametrize("moment", ["prompt", "answer"])
def test_the_terminal_is_left_as_it_was(chat: Start, server: ReplayServer, moment: str) -> None:
    """Also by SIGTERM; what came of an answer is kept."""
    server.script(stream("half", Stall()))
    with chat() as screen:
        before = termios.tcgetattr(screen.child.fileno())
        screen.see_prompt()
        during = termios.tcgetattr(screen.child.fileno())
        if moment == "answer":
            screen.enter("question")
            screen.see("half")
        os.kill(screen.child.pid, signal.SIGTERM)
        assert screen.end() == -signal.SIGTERM
        assert termios.tcgetattr(screen.child.fileno()) == before != during


# What is typed


@pytest.mark.parametrize("keys", ["a\0b", "/file a\0b", "/edit a\0b", "//a\0b"])
def test_nul_bytes_are_told(chat: Start, server: ReplayServer, keys: str) -> None:
    """In one line; nothing is asked, and the chat goes on."""
    with chat(env={"EDITOR": "true"}) as screen:
        screen.see_prompt()
        screen.press(f"\x1b[200~{keys}\x1b[201~\r")
        screen.see("kimi: what was typed holds NUL bytes: it looks binary")
        say(screen, "words", "re: words")
    assert [list_contents(request) for request in server.requests] == [["words"]]


# Ends


def reads_keys(screen: Screen) -> bool:
    """Whether the terminal echoes and gathers lines, as it did before."""
    modes: int = termios.tcgetattr(screen.child.child_fd)[3]
    return bool(modes & termios.ECHO and modes & termios.ICANON)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_spares_what_is_being_edited(
    chat: Start, home: Path, signum: signal.Signals
) -> None:
    """The editor may save it first; the keyboard is as it was, whatever the editor left."""
    script = home / "editor"
    script.write_text(
        "#!/bin/sh\nstty raw -echo\ntrap 'echo saved > \"$1\"; exit 1' TERM HUP\n"
        "echo open\nwhile :; do sleep 0.1; done\n"
    )
    script.chmod(0o755)
    with chat(env={"EDITOR": str(script), "TMPDIR": str(home)}) as screen:
        say(screen, "/edit draft", "open")
        screen.child.kill(signum)
        assert screen.end() == -signum
        assert reads_keys(screen)
        found = re.search(r"what was being edited is in (\S+)", "".join(screen.lines))
        assert found is not None
    assert [path.read_text() for path in home.glob("kimi-*/question.md")] == ["saved\n"]


def test_a_stopped_screen_holds_no_signal_up(chat: Start, server: ReplayServer) -> None:
    """After ^S nothing can be written: SIGTERM ends the chat all the same."""
    server.script(stream(*["word " * 50, Wait(0.01)] * 2000))
    with chat() as screen:
        say(screen, "question", "word")
        screen.press("\x13")
        time.sleep(0.5)
        screen.child.kill(signal.SIGTERM)
        screen.child.wait()
        assert screen.child.signalstatus == signal.SIGTERM


@pytest.mark.parametrize("question", ["question", None], ids=["answering", "waiting"])
def test_a_window_that_is_closed_ends_the_chat(
    kimi: Kimi, server: ReplayServer, home: Path, question: str | None
) -> None:
    """By SIGHUP, and what came of the answer is kept as interrupted."""
    if question is not None:
        server.script(stream("half", Stall()))
    master, slave = pty.openpty()
    environment = {
        **kimi.environment,
        "KIMI_TOKEN": CANARY,
        "TERM": "xterm",
        "PROMPT_TOOLKIT_NO_CPR": "1",
    }
    command = [str(kimi.program), "chat", "--base-url", server.url, *filter(None, [question])]
    child = subprocess.Popen(
        ["setsid", "--ctty", *command], stdin=slave, stdout=slave, stderr=slave, env=environment
    )
    os.close(slave)
    shown = b""
    try:
        while (b"half" if question else b">") not in shown:
            assert select.select([master], [], [], 20)[0], shown
            shown += os.read(master, 4096)
    finally:
        os.close(master)
        status = child.wait(20)
    assert status == -signal.SIGHUP
    if question is None:
        return
    answer = read_record(home)[-1]
    assert (answer["content"], answer["incomplete"]) == ("half", "interrupted")


def test_many_interrupts_are_one(chat: Start) -> None:
    """From another program, as fast as they come: no trace, and the chat leaves by them."""
    for _ in range(3):
        with chat() as screen:
            screen.see_prompt()
            screen.press("q")
            screen.see_line("> q")
            for _ in range(40):
                with suppress(ProcessLookupError):
                    os.kill(screen.child.pid, signal.SIGINT)
                time.sleep(0.0005)
            assert screen.end() == -signal.SIGINT
            assert b"Exception" not in screen.received
            assert b"Press ENTER" not in screen.received


def test_a_stopped_chat_leaves_the_keyboard(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """As it was, for a shell that does not look after it; fg takes it again."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    environment = {**kimi.environment, "KIMI_TOKEN": CANARY, "PS1": "$ "}
    with Screen(["/bin/sh", "-i"], environment, home) as screen:
        screen.see("$")
        assert reads_keys(screen)
        screen.press(f"{kimi.program} chat --base-url {server.url} question\r")
        screen.see("half")
        assert not reads_keys(screen)
        screen.press("\x1a")
        screen.see("topped")
        assert reads_keys(screen)
        screen.press("fg\r")
        gate.set()
        screen.see("an answer")
        screen.see_prompt()


def test_a_second_hangup_kills_no_record(chat: Start, server: ReplayServer, home: Path) -> None:
    """A shell and the system both send one when a window is closed."""
    server.script(*[stream("half", Stall())] * 5)
    for _ in range(5):
        with chat() as screen:
            say(screen, "question", "half")
            for _ in range(3):
                os.kill(screen.child.pid, signal.SIGHUP)
                time.sleep(0.0002)
            assert screen.end() == -signal.SIGHUP
        answer = read_record(home)[-1]
        assert (answer["content"], answer["incomplete"]) == ("half", "interrupted")


# A real terminal


def test_a_window_is_resized_while_typing(window: Tmux, server: ReplayServer) -> None:
    """The line is folded anew, arrows find their way in it, and nothing is lost."""
    words = " ".join(f"word{number}" for number in range(14))
    window.press(words)
    window.see("word13")
    window.resize(40)
    window.see("word13")
    window.press("Home", "Right", "Delete", "Up", "End")
    window.press("!", "Enter")
    window.see("re: wrd0")
    assert list_contents(server.requests[0]) == [words.replace("word0", "wrd0") + "!"]


def test_wide_characters_are_edited(window: Tmux, server: ReplayServer) -> None:
    """Two columns each: the cursor stands where the text is changed."""
    window.press("漢字かな")
    window.see("漢字かな")
    window.press("Left", "Left", "BSpace", "x")
    window.see("> 漢xかな")
    window.press("Enter")
    window.see("re: 漢xかな")
    assert list_contents(server.requests[0]) == ["漢xかな"]


def test_what_is_pasted_meanwhile_is_one_question(window: Tmux, server: ReplayServer) -> None:
    """Lines that are pasted while an answer comes wait for Enter, and are not asked one by one."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    window.press("question", "Enter")
    window.see("half")
    window.paste("one\ntwo\nthree")
    gate.set()
    window.see("half an answer")
    window.see("three")
    window.press("!", "Enter")
    window.see("re: one")
    assert list_contents(server.requests[-1])[-1] == "one\ntwo\nthree!"
    assert len(server.requests) == 2
