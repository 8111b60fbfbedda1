"""kimi chat: a person at a terminal, and lines in a pipe."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import termios
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from program import Kimi
from screen import Screen
from server import (
    Barrier,
    Cut,
    Mark,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Stall,
    completion,
    refusal,
    stream,
)

CONVERSATIONS = ".local/state/kimi/conversations"

Start = Callable[..., Screen]


@pytest.fixture
def chat(kimi: Kimi, server: ReplayServer, home: Path) -> Iterator[Start]:
    """Starts ``kimi chat`` on a screen; the token must never be seen or kept."""
    server.answer(echo)
    screens: list[Screen] = []

    def start(*options: str, env: dict[str, str] | None = None, columns: int = 80) -> Screen:
        command = [str(kimi.program), "chat", "--base-url", server.url, *options]
        variables = {**kimi.environment, "KIMI_TOKEN": CANARY, **(env or {})}
        screens.append(Screen(command, variables, home, columns=columns))
        return screens[-1]

    yield start
    for screen in screens:
        screen.child.close(force=True)
        assert CANARY.encode() not in screen.received
    for path in home.rglob("*"):
        if path.is_file():
            assert CANARY.encode() not in path.read_bytes(), f"the token is in {path}"


def echo(request: ReceivedRequest) -> Reply:
    """Answer with the last question."""
    text = f"re: {get_question(request)}"
    return stream(text) if request.json["stream"] else completion(text)


def get_question(request: ReceivedRequest) -> str:
    """Return the last message of a request."""
    content: str = request.json["messages"][-1]["content"]
    return content


def list_contents(request: ReceivedRequest) -> list[str]:
    """Return what was sent, message by message."""
    return [message["content"] for message in request.json["messages"]]


def read_record(home: Path, name: str = "latest") -> list[dict[str, Any]]:
    """Return the messages that are kept under a name."""
    lines = (home / CONVERSATIONS / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


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


# Commands


@pytest.mark.parametrize("line", ["", "/edit ", "/model ", "/system ", "//"])
def test_what_is_no_text_is_told(chat: Start, server: ReplayServer, line: str) -> None:
    """A terminal in another encoding: nothing is asked, and nothing changed."""
    with chat(env={"EDITOR": "true"}) as screen:
        screen.see_prompt()
        screen.press(line.encode() + b"caf\xe9\r")
        screen.see("what was typed is not UTF-8 at letter")
        screen.see_prompt()
        assert not server.requests
        screen.enter("words")
        screen.see("re: words")
    assert server.requests[0].json["model"] == "kimi-k2.5"
    assert list_contents(server.requests[0]) == ["words"]


def test_help_lists_every_command(chat: Start) -> None:
    """By name, and with what it takes."""
    from kimi_cli.chat.slash import COMMANDS

    with chat() as screen:
        screen.see_prompt()
        screen.enter("/help")
        screen.see("/exit")
        for name, command in COMMANDS.items():
            assert any(
                line.startswith(f"/{name} {command.argument}".rstrip()) and command.help in line
                for line in screen.lines
            )


ANSWERS = [
    ("/modle x", "there is no command /modle; did you mean /model?"),
    ("/qqq", "there is no command /qqq; /help lists what there is"),
    ("/undo", "there is nothing to take back"),
    ("/retry", "there is nothing to ask again"),
    ("/copy", "there is no answer to copy"),
    ("/usage", "no tokens were counted yet"),
    ("/option x=1e999", "the value of 'x' cannot be sent: 1e999 is out of range"),
    ("/save x", "nothing has been said yet"),
    ("/load nothing", "there is no conversation 'nothing'"),
    ("/load ../x", "cannot name a conversation"),
    ("/file nothing", "cannot read nothing: No such file or directory"),
    ("/file -", "standard input is the keyboard here"),
    ("/file", "/file needs PATH"),
    ("/new x", "/new takes nothing after it"),
    ("/reasoning maybe", "/reasoning takes show or hide"),
    ("/option nonsense", "'nonsense' is not KEY=JSON"),
    ("/model", "model kimi-k2.5"),
    ("/system", "there is no system prompt"),
    ("/option", "no options are set"),
]


def test_commands_are_answered(chat: Start, server: ReplayServer) -> None:
    """Each in its words, and the chat goes on."""
    with chat() as screen:
        for typed, told in ANSWERS:
            screen.see_prompt()
            screen.enter(typed)
            screen.see(told)
        screen.see_prompt()
        assert not server.requests
        screen.enter("hello")
        screen.see("re: hello")


def test_model_system_and_options_change_the_next_request(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """They are in force from then on, and are kept with the conversation."""
    with chat("--temperature", "1") as screen:
        for line in (
            "/model kimi-k3",
            "/system Be brief.",
            "/option seed=7",
            "/option temperature=",
        ):
            screen.see_prompt()
            screen.enter(line)
        screen.see_prompt()
        assert "model kimi-k3" in screen.text
        assert "system prompt: Be brief." in screen.text
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
    with chat("-c") as screen:
        screen.see_prompt()
        assert "model kimi-k3, 1 turn so far" in screen.text
        screen.enter("two")
        screen.see("re: two")
    first, second = (request.json for request in server.requests)
    assert first == {
        "model": "kimi-k3",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
        ],
        "stream": True,
        "seed": 7,
    }
    assert (second["model"], second["seed"], second["messages"][0]["content"]) == (
        "kimi-k3",
        7,
        "Be brief.",
    )


def test_a_system_prompt_is_dropped(chat: Start, server: ReplayServer, home: Path) -> None:
    """From the next question on, and when the conversation goes on."""
    with chat("--system", "Be brief.") as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter('/system ""')
        screen.see("there is no system prompt")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
        screen.see_prompt()
    with chat("-c") as screen:
        screen.see_prompt()
        screen.enter("three")
        screen.see("re: three")
    roles = [
        [message["role"] for message in request.json["messages"]] for request in server.requests
    ]
    assert roles[0] == ["system", "user"]
    assert roles[1] == ["user", "assistant", "user"]
    assert roles[2] == ["user", "assistant", "user", "assistant", "user"]


def test_a_file_goes_with_the_next_question(chat: Start, server: ReplayServer, home: Path) -> None:
    """With that one only."""
    (home / "notes.txt").write_text("buy milk\n")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/file notes.txt")
        screen.see("notes.txt goes with the next question")
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
    assert list_contents(server.requests[1])[::2] == ["one\n\nnotes.txt:\nbuy milk", "two"]


def test_retry_replaces_the_answer(chat: Start, server: ReplayServer, home: Path) -> None:
    """After an answer, and after a failure; the record has each question once."""
    server.script(stream("first"), stream("second"), refusal(400, "bad_request", "no such thing"))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("first")
        screen.see_prompt()
        screen.enter("/retry")
        screen.see("second")
        screen.see_prompt()
        screen.enter("two")
        screen.see("/retry asks again")
        screen.see_prompt()
        screen.enter("/retry")
        screen.see("re: two")
        screen.see_prompt()
    assert [get_question(request) for request in server.requests] == ["one", "one", "two", "two"]
    assert len(server.requests[1].json["messages"]) == 1
    assert [line["content"] for line in read_record(home)] == ["one", "second", "two", "re: two"]


def test_undo_takes_turn_after_turn_back(chat: Start, server: ReplayServer, home: Path) -> None:
    """Out of the record, and out of what is sent."""
    with chat() as screen:
        for question in ("one", "two", "three"):
            screen.see_prompt()
            screen.enter(question)
            screen.see(f"re: {question}")
        for question in ("three", "two"):
            screen.see_prompt()
            screen.enter("/undo")
            screen.see(f"taken back: {question}")
        screen.see_prompt()
        screen.enter("four")
        screen.see("re: four")
        screen.see_prompt()
    assert list_contents(server.requests[-1]) == ["one", "re: one", "four"]
    assert [line["content"] for line in read_record(home)] == ["one", "re: one", "four", "re: four"]


def test_edit_opens_the_editor(chat: Start, server: ReplayServer, home: Path) -> None:
    """What it leaves stands at the prompt; it sees no token."""
    editor = home / "my editor"
    editor.write_text(f'#!/bin/sh\nenv > {home}/seen\nprintf "and more\\nlines\\n" >> "$2"\n')
    editor.chmod(0o755)
    secrets = {
        "VISUAL": f"'{editor}' -x",
        "MOONSHOT_API_KEY": CANARY,
        "ACEDATACLOUD_API_KEY": CANARY,
    }
    with chat(env=secrets) as screen:
        screen.see_prompt()
        screen.enter("/edit begun")
        screen.see_line("lines")
        assert not server.requests
        screen.press("\r")
        screen.see("re: begun")
    assert list_contents(server.requests[0]) == ["begunand more\nlines"]
    seen = (home / "seen").read_text()
    assert "VISUAL=" in seen
    assert "KIMI_TOKEN" not in seen


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"EDITOR": "false"}, "the editor 'false' ended with status 1"),
        ({"EDITOR": "no-such-editor"}, "cannot run the editor 'no-such-editor': "),
        ({"EDITOR": "'unclosed"}, "cannot run the editor ''unclosed': "),
        ({"EDITOR": "rm"}, "cannot use a file for the editor: No such file"),
        ({"EDITOR": "sh -c 'printf \"\\\\377\" > $0'"}, "what was edited is not UTF-8"),
        ({"EDITOR": "sh -c 'kill -9 $$'"}, "the editor 'sh -c 'kill -9 $$'' was ended by SIGKILL"),
    ],
)
def test_an_editor_that_fails_is_told(chat: Start, variables: dict[str, str], told: str) -> None:
    """In one line, and the chat goes on; the same where there is no room for the file."""
    with chat(env=variables) as screen:
        screen.see_prompt()
        screen.enter("/edit")
        screen.see(told)
        screen.see_prompt()


def test_conversations_are_saved_loaded_and_begun(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """/save gives a name and goes on there, /new begins anew, /load goes back."""
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter("/save mine")
        screen.see("kimi chat -S mine")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
        screen.see_prompt()
        screen.enter("/new")
        screen.see("a new conversation")
        screen.see_prompt()
        screen.enter("three")
        screen.see("re: three")
        screen.see_prompt()
        screen.enter("/save mine")
        screen.see("there is a conversation 'mine' already")
        screen.see_prompt()
        screen.enter("/load mine")
        screen.see("2 turns; the last question was: two")
        screen.see_prompt()
        screen.enter("four")
        screen.see("re: four")
        screen.see_prompt()
    assert list_contents(server.requests[2]) == ["three"]
    assert list_contents(server.requests[3])[::2] == ["one", "two", "four"]
    assert len(read_record(home, "mine")) == 6
    assert [line["content"] for line in read_record(home)] == ["three", "re: three"]


def test_a_conversation_of_another_host_is_not_loaded(chat: Start, home: Path) -> None:
    """What was said there stays there."""
    (home / CONVERSATIONS).mkdir(parents=True)
    line = {"role": "user", "content": "x", "model": "m", "profile": "p", "base_url": "https://x"}
    (home / CONVERSATIONS / "other.jsonl").write_text(json.dumps(line) + "\n")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/load other")
        screen.see("conversation other was held with https://x")
        screen.see("kimi chat -S other")


def test_usage_and_copy(chat: Start, server: ReplayServer) -> None:
    """Tokens of the last turn and of all; the clipboard gets the answer through the terminal."""
    usage = {"prompt_tokens": 262, "completion_tokens": 2, "total_tokens": 264}
    server.script(stream("Grüße\n", usage=usage), stream("x", usage=usage))
    with chat() as screen:
        for question in ("one", "two"):
            screen.see_prompt()
            screen.enter(question)
            screen.see_prompt()
        screen.enter("/undo")
        screen.see_prompt()
        screen.enter("/usage")
        screen.see("last turn 262 + 2 tokens; 0.1% of the 262,144 that kimi-k2.5 reads")
        screen.see("all turns 262 + 2 tokens")
        screen.see_prompt()
        screen.enter("/copy")
        screen.see("handed to the terminal's clipboard")
    data = base64.b64encode("Grüße\n".encode())
    assert b"\x1b]52;c;" + data + b"\x07" in screen.received


def test_exit_leaves(chat: Start) -> None:
    """With status 0, whatever happened before."""
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/nonsense")
        screen.see_prompt()
        screen.enter("/exit")
        assert screen.end() == 0


# What happens on the way


def test_a_wait_is_shown_and_goes(chat: Start, server: ReplayServer) -> None:
    """Seconds, and tokens of reasoning that is hidden; nothing of it is left."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "here", reasoning=["x" * 400]))
    with chat("--reasoning", "hide") as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("1 s, about 133 tokens of reasoning")
        gate.set()
        screen.see("here")
        screen.see_no("tokens of reasoning")
        screen.see_prompt()


def test_a_retry_is_told_above_the_wait(chat: Start, server: ReplayServer) -> None:
    """A line of its own, whole."""
    server.script(refusal(503, "server_unavailable", "busy", headers={"Retry-After": "2"}))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("re: question")
        assert any(line.startswith("kimi: ") and "busy" in line for line in screen.lines)


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


MARKDOWN = (
    "# Head\n\nSome **bold** text.\n\n- one\n- two\n\n```sh\nls\n\npwd\n```\n\nEnd <b>here</b>."
)


@pytest.mark.parametrize(
    ("options", "setting", "rendered"),
    [
        (["--markdown"], None, True),
        ([], None, False),
        ([], "true", True),
        (["--no-markdown"], "true", False),
    ],
)
def test_markdown_is_rendered_on_request(
    chat: Start, server: ReplayServer, options: list[str], setting: str | None, rendered: bool
) -> None:
    """Every block, in order, however it was cut; otherwise it is plain text."""
    server.script(stream(*(MARKDOWN[n : n + 3] for n in range(0, len(MARKDOWN), 3))))
    with chat(*options, env={"KIMI_MARKDOWN": setting} if setting else {}) as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("End <b>here</b>.")
        assert ("**bold**" in screen.text) is not rendered
        assert (b"\x1b[1mbold\x1b[0m" in screen.received) is rendered
        words = ["Head", "bold", "one", "two", "ls", "pwd", "End"]
        places = [screen.text.index(word) for word in words]
        assert places == sorted(places)


def test_a_long_answer_is_rendered_once(chat: Start, server: ReplayServer) -> None:
    """Longer than the screen: no line is lost, none is drawn again, nothing moves the cursor up."""
    parts = [f"Paragraph {number} has *some* text.\n\n" for number in range(60)]
    parts += ["```\n", *(f"code {number}\n\n" for number in range(60)), "```\n\nLast."]
    server.script(stream(*parts))
    with chat("--markdown", "question") as screen:
        screen.see("Last.")
        screen.see_prompt()
        shown = re.sub(rb"\x1b\[[0-9;]*m", b"", screen.received)
        assert re.findall(rb"Paragraph (\d+) has some", shown) == [b"%d" % n for n in range(60)]
        assert re.findall(rb"code (\d+)", shown) == [b"%d" % n for n in range(60)]
        answer = shown[shown.index(b"Paragraph 0") : shown.index(b"Last.")]
        assert b"\x1b" not in answer


def test_nothing_is_kept_on_request(chat: Start, home: Path) -> None:
    """Neither what is said nor what is typed."""
    before = sorted(home.rglob("*"))
    with chat("--no-save") as screen:
        screen.see_prompt()
        screen.enter("secret")
        screen.see("re: secret")
        screen.see_prompt()
        screen.press("\x1b[A")
        screen.see_line("> secret")
    assert sorted(home.rglob("*")) == before


def test_a_killed_chat_goes_on(chat: Start, server: ReplayServer, home: Path) -> None:
    """kill -9 in the middle of an answer: its question stands alone, and is not sent."""
    server.script(stream("fine"), stream("half", Stall()), stream("after"))
    with chat("-S", "mine") as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("fine")
        screen.see_prompt()
        screen.enter("two")
        screen.see("half")
        os.kill(screen.child.pid, signal.SIGKILL)
        assert screen.end() == -signal.SIGKILL
    with chat("-S", "mine") as screen:
        screen.see_prompt()
        screen.enter("three")
        screen.see("after")
        screen.see_prompt()
    assert list_contents(server.requests[-1]) == ["one", "fine", "three"]
    assert [line["content"] for line in read_record(home, "mine")] == [
        "one",
        "fine",
        "two",
        "three",
        "after",
    ]


def test_a_record_that_cannot_be_written_is_told(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """The latest is only warned of; under a name nothing is asked, and /retry has the question."""
    folder = home / CONVERSATIONS
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("the conversation is not saved: cannot read")
        screen.see("re: one")
    folder.unlink()
    folder.mkdir()
    with chat("-S", "mine") as screen:
        screen.see_prompt()
        folder.rmdir()
        folder.write_text("in the way")
        screen.enter("two")
        screen.see("/retry asks again")
        assert len(server.requests) == 1
        folder.unlink()
        screen.see_prompt()
        screen.enter("/retry")
        screen.see("re: two")


def test_a_history_that_cannot_be_kept_stops_nobody(chat: Start, home: Path) -> None:
    """Up brings back what was typed all the same."""
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        shutil.rmtree(home / ".local/state/kimi")
        screen.enter("two")
        screen.see("the conversation is not saved")
        screen.see("re: two")
        screen.see_prompt()
        assert "Traceback" not in screen.text
        screen.press("\x1b[A")
        screen.see_line("> two")


def test_odd_figures_of_a_host_are_left_out(chat: Start, server: ReplayServer) -> None:
    """A number in quotes, or none, is not added up."""
    usage = {"prompt_tokens": "7", "completion_tokens": 2, "total_tokens": None}
    server.script(stream("x", usage=usage), stream("y", usage={"prompt_tokens": 5}))
    with chat("question") as screen:
        screen.see_prompt()
        screen.enter("again")
        screen.see("y")
        screen.see_prompt()
        screen.enter("/usage")
        screen.see("last turn 5 + ? tokens")
        screen.see("all turns 5 + 2 tokens")


# Not a terminal


@pytest.fixture
def piped(kimi: Kimi, server: ReplayServer) -> Kimi:
    """``kimi chat`` with pipes."""
    server.answer(echo)
    return kimi.but("chat", "--base-url", server.url, env={"KIMI_TOKEN": CANARY})


def test_each_line_is_a_question(piped: Kimi, server: ReplayServer, home: Path) -> None:
    """Blank ones are none; answers are apart by a blank line; nothing is kept."""
    result = piped("--system", "s", stdin=b"one\r\n\n  \n/help\ntwo\xe2\x80\xa8three")
    assert (result.status, result.stderr) == (0, b"")
    assert result.stdout.decode() == "re: one\n\nre: /help\n\nre: two\u2028three\n"
    assert list_contents(server.requests[-1]) == [
        "s",
        "one",
        "re: one",
        "/help",
        "re: /help",
        "two\u2028three",
    ]
    assert not (home / CONVERSATIONS).exists()


def test_a_pipe_gets_plain_text(piped: Kimi, server: ReplayServer) -> None:
    """With --markdown as well."""
    server.script(stream("# Head\n\n**bold**"))
    assert piped("--markdown", stdin=b"one\n").stdout == b"# Head\n\n**bold**\n"


def test_json_is_one_object_a_line(piped: Kimi) -> None:
    """As in ask, without blank lines."""
    result = piped("--json", "zero", stdin=b"one\n")
    assert [json.loads(line)["content"] for line in result.stdout.splitlines()] == [
        "re: zero",
        "re: one",
    ]


def test_a_line_is_answered_at_once(piped: Kimi) -> None:
    """Whoever writes the lines may read the answers between them."""
    run = piped.start(stdin="pipe")
    for question in (b"one", b"two"):
        run.write(question + b"\n")
        run.expect(b"re: " + question + b"\n")
    run.end_input()
    assert run.wait().status == 0


@pytest.mark.parametrize(
    ("reply", "options", "status", "asked"),
    [
        (refusal(400, "bad_request", "no"), (), 65, 2),
        (stream("half", Cut()), ("--retries", "0"), 75, 2),
        (stream("half", finish="length"), (), 3, 2),
        (stream("half", finish="length"), ("--allow-incomplete",), 0, 3),
    ],
)
def test_the_first_failure_ends_it(
    piped: Kimi,
    server: ReplayServer,
    reply: Reply,
    options: tuple[str, ...],
    status: int,
    asked: int,
) -> None:
    """With its exit status; what was answered stays."""
    server.script(stream("fine"), reply)
    result = piped(*options, stdin=b"one\ntwo\nthree\n")
    assert result.status == status
    assert result.stdout.startswith(b"fine\n")
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("stdin", "options", "status", "told"),
    [
        (b"", (), 65, "there is no question"),
        (b"\n \n", (), 65, "there is no question"),
        (b"ok\n\xff\n", (), 65, "line 2 of standard input is not UTF-8"),
        (b"a\0b\n", (), 65, "line 1 of standard input holds NUL bytes"),
        (b"x" * 50, ("--max-input", "40"), 65, "line 1 of standard input is too long"),
        (b"x", ("-f", "-"), 2, "it cannot be a file, too"),
    ],
)
def test_bad_lines_are_named(
    piped: Kimi, stdin: bytes, options: tuple[str, ...], status: int, told: str
) -> None:
    """By their number, and what to do."""
    result = piped(*options, stdin=stdin)
    assert result.status == status
    assert told in result.error
    assert result.error.count("\n") == 1


def test_a_named_chat_in_a_pipe_is_kept(piped: Kimi, server: ReplayServer, home: Path) -> None:
    """And goes on in ask."""
    assert piped("-S", "mine", stdin=b"one\n").status == 0
    ask = Kimi(piped.program, piped.environment, piped.folder)
    again = ask("ask", "--base-url", server.url, "-S", "mine", "two")
    assert again.stdout == b"re: two\n"
    assert list_contents(server.requests[-1]) == ["one", "re: one", "two"]
    assert len(read_record(home, "mine")) == 4


def test_without_a_screen_there_is_no_chat(piped: Kimi) -> None:
    """A keyboard alone is wrong usage, and nothing waits for it."""
    result = piped.pty(stdout="pipe", stderr="pipe").wait()
    assert result.status == 2
    assert "there is no screen to talk on" in result.error


def test_answers_can_be_redirected(piped: Kimi, home: Path) -> None:
    """The screen has the prompt, the file the answers."""
    answers = home / "answers.txt"
    run = piped.pty(stdout=answers, stderr="tty", env={"PROMPT_TOOLKIT_NO_CPR": "1"})
    for question in (b"one", b"two"):
        run.expect(b"\x1b[?2004h", "stderr")
        run.type(question + b"\r")
    run.expect(b"\x1b[?2004h", "stderr")
    run.type(b"\x04")
    assert run.wait().status == 0
    assert answers.read_bytes() == b"re: one\n\nre: two\n"


# A real terminal


class Tmux:
    """A program in a window of a tmux server of our own."""

    def __init__(self, command: str, env: dict[str, str], folder: Path) -> None:
        """Run *command* in a shell of 80 columns and 24 rows."""
        self._socket = str(folder / "tmux")
        self._env = env
        self._call("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", command)

    def __enter__(self) -> Tmux:
        """Return this window."""
        return self

    def __exit__(self, *exception: object) -> None:
        """End the server."""
        subprocess.run(["tmux", "-S", self._socket, "kill-server"], check=False)

    def press(self, *keys: str) -> None:
        """Press keys by their tmux names; other words are typed."""
        self._call("send-keys", *keys)

    def paste(self, text: str) -> None:
        """Paste *text* as a terminal does: marked as such if the program has asked for that."""
        self._call("set-buffer", text)
        self._call("paste-buffer", "-p")

    def resize(self, columns: int) -> None:
        """Make the window narrower or wider."""
        self._call("resize-window", "-x", str(columns), "-y", "24")

    def see(self, text: str) -> None:
        """Wait until *text* is on the screen."""
        ends = time.monotonic() + 20
        while text not in (shown := self._call("capture-pane", "-p")):
            assert time.monotonic() < ends, shown
            time.sleep(0.05)

    def _call(self, *words: str) -> str:
        command = ["tmux", "-S", self._socket, "-u", *words]
        done = subprocess.run(command, env=self._env, capture_output=True, text=True, check=True)
        return done.stdout


@pytest.fixture
def window(kimi: Kimi, server: ReplayServer, tmp_path: Path) -> Iterator[Tmux]:
    """``kimi chat`` in tmux."""
    if shutil.which("tmux") is None:
        assert "CI" not in os.environ, "CI must have tmux"
        pytest.skip("needs tmux")
    server.answer(echo)
    env = {
        **kimi.environment,
        "KIMI_TOKEN": CANARY,
        "PATH": os.environ["PATH"],
        "TERM": "xterm",
        "LC_ALL": "C.UTF-8",
    }
    command = f"{kimi.program} chat --base-url {server.url}; sleep 60"
    with Tmux(command, env, tmp_path) as window:
        window.see("/help lists commands")
        window.see("\n>")
        yield window


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
