"""kimi chat at its edges: odd records, odd keys, other processes, Markdown, and the wait."""

from __future__ import annotations

import base64
import json
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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import test_log
import test_talk
from conftest import CANARY
from program import Kimi
from screen import Screen
from server import Barrier, Mark, ReplayServer, Stall, Wait, stream
from test_log import Line, assistant, encode, keep, user
from test_talk import CONVERSATIONS, Start, list_contents, read_record

chat, folder = test_talk.chat, test_log.folder


def say(screen: Screen, line: str, told: str) -> None:
    """Type a line at an empty prompt, and see what comes of it."""
    screen.see_prompt()
    screen.enter(line)
    screen.see(told)


def list_contents_of(home: Path, name: str) -> list[str]:
    """What was said in a conversation."""
    return [line["content"] for line in read_record(home, name)]


# The record, and who else writes there


def test_an_answer_that_is_not_saved_is_remembered(
    chat: Start, ask: Kimi, server: ReplayServer, home: Path
) -> None:
    """Another process began the latest anew: the chat goes on in memory, and /save writes it."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    with chat() as screen:
        say(screen, "one", "half")
        assert ask.pty("theirs", stdin=None).wait().status == 0
        gate.set()
        screen.see("the answer is not saved: conversation latest was replaced or removed")
        say(screen, "two", "re: two")
        say(screen, "/save mine", "kimi chat -S mine")
        screen.see_prompt()
        assert "is not saved" not in screen.text.partition("re: two")[2]
    said = ["one", "half an answer", "two", "re: two"]
    assert list_contents(server.requests[-1]) == said[:3]
    assert list_contents_of(home, "mine") == said
    assert list_contents_of(home, "latest") == ["theirs", "re: theirs"]


def test_an_answer_without_its_file_is_remembered(
    chat: Start, ask: Kimi, server: ReplayServer, home: Path
) -> None:
    """A named one that was removed: nothing more is asked until /save has given it a place."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    log = Kimi(ask.program, ask.environment, ask.folder, ("log",))
    with chat("-S", "mine") as screen:
        say(screen, "one", "half")
        assert log("rm", "mine").status == 0
        gate.set()
        screen.see("the answer is not saved: conversation mine was replaced or removed")
        say(screen, "two", "is not kept; /retry asks again")
        assert len(server.requests) == 1
        say(screen, "/save mine", "kimi chat -S mine")
        assert list_contents_of(home, "mine") == ["one", "half an answer"]
        say(screen, "/retry", "re: two")
        screen.see_prompt()
    said = ["one", "half an answer", "two", "re: two"]
    assert list_contents(server.requests[-1]) == said[:3]
    assert list_contents_of(home, "mine") == said


def test_the_loser_of_a_turn_is_told_once(chat: Start, ask: Kimi, server: ReplayServer) -> None:
    """However often others speak while it lasts; the next turn is told of its own."""
    gate = threading.Event()
    with chat("-S", "mine") as screen:
        screen.see_prompt()
        assert ask("-S", "mine", "before").status == 0
        server.script(stream("ours", Barrier(gate), " too"))
        say(screen, "one", "ours")
        assert ask("-S", "mine", "during").status == 0
        gate.set()
        screen.see("ours too")
        screen.see_prompt()
        assert screen.received.count(b"went on in another process") == 1
        assert ask("-S", "mine", "after").status == 0
        say(screen, "two", "re: two")
        screen.see_prompt()
        assert screen.received.count(b"went on in another process") == 2
    assert list_contents(server.requests[-1])[::2] == ["before", "one", "during", "two"]


def test_only_what_was_known_is_taken_back(chat: Start, ask: Kimi, home: Path) -> None:
    """After another process spoke /undo says so; repeated, it takes back what was said there."""
    with chat("-S", "mine") as screen:
        say(screen, "one", "re: one")
        assert ask("-S", "mine", "theirs").status == 0
        say(screen, "/undo", "went on in another process, and nothing was taken back")
        said = ["one", "re: one", "theirs", "re: theirs"]
        assert list_contents_of(home, "mine") == said
        say(screen, "/undo", "taken back: theirs")
        assert list_contents_of(home, "mine") == said[:2]
        say(screen, "/undo", "taken back: one")


def test_what_cannot_be_asked_again_stays(chat: Start, server: ReplayServer, folder: Path) -> None:
    """/retry says why and deletes nothing; /undo takes it back."""
    path = keep(folder, "mine", assistant("Hello!"))
    with chat("-S", "mine") as screen:
        say(screen, "/retry", "the last turn has no question; /undo takes it back")
        screen.see_prompt()
        assert path.read_bytes() == encode(assistant("Hello!"))
        say(screen, "/undo", "taken back: Hello!")
        assert path.read_bytes() == b""
        say(screen, "/retry", "there is nothing to ask again")
    assert not server.requests


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
TEXT = {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    ("content", "title"),
    [([IMAGE], "[image_url]"), ([TEXT, IMAGE], "What?"), ([IMAGE, TEXT, IMAGE], "What?")],
    ids=["image", "text and image", "text between images"],
)
def test_a_question_with_parts_is_asked_again_whole(
    chat: Start, server: ReplayServer, folder: Path, content: list[Line], title: str
) -> None:
    """/retry sends and records the very parts, in their order; /undo names them."""
    path = keep(folder, "mine", user(content), assistant("A cat."))
    server.script(stream("A dog."))
    with chat("-S", "mine") as screen:
        say(screen, "/retry", "A dog.")
        screen.see_prompt()
        assert server.requests[-1].json["messages"] == [{"role": "user", "content": content}]
        asked, answered = [json.loads(line) for line in path.read_bytes().splitlines()]
        assert (asked["content"], answered["content"]) == (content, "A dog.")
        say(screen, "/undo", f"taken back: {title}")
        assert path.read_bytes() == b""


def test_a_file_joins_a_question_with_parts(
    chat: Start, server: ReplayServer, folder: Path, home: Path
) -> None:
    """What is attached stands behind the parts that are asked again, as a part of its own."""
    (home / "note.txt").write_text("a note\n")
    keep(folder, "mine", user([IMAGE, TEXT]), assistant("A cat."))
    server.script(stream("A dog."))
    with chat("-S", "mine") as screen:
        say(screen, "/file note.txt", "goes with the next question")
        say(screen, "/retry", "A dog.")
    note = {"type": "text", "text": "note.txt:\na note"}
    assert server.requests[-1].json["messages"][0]["content"] == [IMAGE, TEXT, note]


def test_half_a_character_is_copied(chat: Start, folder: Path) -> None:
    """Where another program escaped it inside a part of the answer."""
    parts = assistant([{"type": "text", "text": "a\ud83d"}])
    keep(folder, "mine", user("q"), json.dumps(parts).encode() + b"\n")
    with chat("-S", "mine") as screen:
        say(screen, "/copy", "handed to the terminal's clipboard")
    data = base64.b64encode("a\ufffd".encode())
    assert b"\x1b]52;c;" + data + b"\x07" in screen.received


def test_a_loaded_conversation_brings_its_manner(
    chat: Start, server: ReplayServer, folder: Path
) -> None:
    """Model and options are in force again, in place of those of the chat."""
    manner = {"profile": "acedata", "base_url": server.url, "model": "kimi-k3"}
    keep(folder, "mine", user("q", **manner, options={"seed": 7}), assistant("a"))
    with chat("--temperature", "1") as screen:
        say(screen, "/load mine", "1 turn; the last question was: q")
        say(screen, "/model", "model kimi-k3")
        say(screen, "one", "re: one")
    sent = {key: value for key, value in server.requests[0].json.items() if key != "messages"}
    assert sent == {"model": "kimi-k3", "seed": 7, "stream": True}


@pytest.mark.parametrize("asked", [True, False])
def test_a_new_conversation_keeps_the_system_prompt(
    chat: Start, server: ReplayServer, home: Path, asked: bool
) -> None:
    """Whether or not a question was asked with it before."""
    with chat("--system", "Be brief.") as screen:
        if asked:
            say(screen, "one", "re: one")
        say(screen, "/new", "a new conversation")
        say(screen, "two", "re: two")
        screen.see_prompt()
    assert list_contents(server.requests[-1]) == ["Be brief.", "two"]
    assert list_contents_of(home, "latest") == ["Be brief.", "two", "re: two"]


# The model and its options


def test_a_model_that_is_named_as_a_field_is_the_model(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """For /model, the record, and whether reasoning is sent back."""
    server.script(stream("yes", reasoning=["Hm."]))
    with chat("-O", 'model="x"') as screen:
        screen.see("model x; /help lists commands")
        say(screen, "/model", "\nmodel x\n")
        say(screen, '/option model="kimi-k3"', "\nmodel kimi-k3\n")
        say(screen, "/option", "no options are set")
        say(screen, "one", "yes")
        say(screen, "two", "re: two")
    first, second = (request.json for request in server.requests)
    assert (first["model"], second["model"]) == ("kimi-k3", "kimi-k3")
    assert second["messages"][1] == assistant("yes", reasoning_content="Hm.")
    question = read_record(home)[0]
    assert (question["model"], question.get("options")) == ("kimi-k3", None)


def test_reasoning_is_shown_on_request(chat: Start, server: ReplayServer) -> None:
    """From the next answer on."""
    server.script(stream("no", reasoning=["Secret."]), stream("yes", reasoning=["Hm, well."]))
    with chat("--reasoning", "hide") as screen:
        say(screen, "one", "no")
        screen.see_prompt()
        screen.enter("/reasoning show")
        say(screen, "two", "Hm, well.")
        screen.see_prompt()
        assert "Secret." not in screen.text


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


WORDS = [
    ("/model\x1b\rfoo", "model foo"),
    ("/system\x1b\rBe brief.", "system prompt: Be brief."),
    ("/HELP", "there is no command /HELP; did you mean /help?"),
    ("/q", "there is no command /q; did you mean /exit?"),
    ("/quit", "there is no command /quit; did you mean /exit?"),
    ("/bye", "there is no command /bye; did you mean /exit?"),
    ("/clear", "there is no command /clear; did you mean /new?"),
    ("/option =1", "kimi: invalid value: '=1' is not KEY=JSON"),
    ("/option stop=漢", 'stop="漢"'),
]


def test_odd_words_are_understood(chat: Start, server: ReplayServer) -> None:
    """A line feed behind a command is a space; what other programs call it is known."""
    with chat() as screen:
        for typed, told in WORDS:
            say(screen, typed, told)
        say(screen, "hello", "re: hello")
    request = server.requests[0].json
    assert (request["model"], request["stop"]) == ("foo", "漢")


@pytest.mark.parametrize(
    ("options", "data", "sent"),
    [
        (("--encoding", "latin-1"), b"caf\xe9\n", "café"),
        (("--replace-invalid",), b"caf\xe9\n", "caf\ufffd"),
        (("--max-input", "5"), b"12345", "12345"),
    ],
)
def test_files_are_read_as_the_command_says(
    chat: Start, server: ReplayServer, home: Path, options: tuple[str, ...], data: bytes, sent: str
) -> None:
    """Those of /file, too, be they below the home folder."""
    (home / "x.txt").write_bytes(data)
    with chat(*options) as screen:
        say(screen, "/file ~/x.txt", "~/x.txt goes with the next question")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == [f"one\n\n{home}/x.txt:\n{sent}"]


def test_a_file_that_is_too_large_is_told(chat: Start, server: ReplayServer, home: Path) -> None:
    """By the limit of the command; nothing of it goes with the next question."""
    (home / "x.txt").write_bytes(b"123456")
    with chat("--max-input", "5") as screen:
        say(screen, "/file x.txt", "x.txt is larger than 5 bytes; see --max-input")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == ["one"]


# Markdown


def cut(text: str, size: int) -> list[str]:
    """The pieces in which a text comes."""
    return [text[start : start + size] for start in range(0, len(text), size)]


LINKS = (
    "[a]: https://example.org/first\n\nSee [the guide][a], [b], and [c](https://example.org/third)."
    "\n\n[b]: https://example.org/second 'Title'\n\nEnd."
)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_addresses_stay_on_the_screen(chat: Start, server: ReplayServer, size: int) -> None:
    """Those of links, and those that are defined on lines of their own, however it is cut."""
    server.script(stream(*cut(LINKS, size)))
    with chat("--markdown") as screen:
        say(screen, "question", "End.")
        for words in ("[a]:", "first", "the guide", "[b]:", "second", "third"):
            assert words in screen.text
        assert screen.text.count("https://example.org/") == 3


def test_long_words_in_tables_are_folded(chat: Start, server: ReplayServer) -> None:
    """On a narrow screen; none is cut off."""
    rows = "".join(f"| {letter * 50} | {number} |\n" for number, letter in enumerate("XYZ"))
    server.script(stream(f"| Word | Number |\n|---|---|\n{rows}\nEnd."))
    with chat("--markdown", columns=40) as screen:
        say(screen, "question", "End.")
        assert [screen.text.count(letter) for letter in "XYZ"] == [50, 50, 50]
        assert "…" not in screen.text


def test_an_interrupt_shows_the_open_block_as_it_is(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """Rendering it would keep who has stopped it waiting."""
    server.script(stream("# Head\n\nSome **bold** wo", Stall()))
    with chat("--markdown") as screen:
        say(screen, "question", "Head")
        screen.press("\x03")
        screen.see("kimi: stopped; /retry asks again")
        shown = screen.lines[screen.lines.index("Some **bold** wo") :]
        assert shown[1] == "kimi: stopped; /retry asks again"
        screen.see_prompt()
        assert "# Head" not in screen.text
    assert read_record(home)[1]["content"] == "# Head\n\nSome **bold** wo"


@pytest.mark.parametrize("size", [3, 50])
def test_a_long_list_is_complete(chat: Start, server: ReplayServer, size: int) -> None:
    """Each of its items is there once and in order, though it is not looked at with each line."""
    text = "".join(f"- item {number} of *many*\n" for number in range(500))
    server.script(stream(*cut(f"Before.\n\n{text}\nEnd.", size)))
    with chat("--markdown") as screen:
        say(screen, "question", "End.")
        shown = re.sub(rb"\x1b\[[0-9;]*m", b"", screen.received)
        assert re.findall(rb"item (\d+) of many", shown) == [b"%d" % n for n in range(500)]


def test_the_wait_lasts_until_a_block_is_shown(chat: Start, server: ReplayServer) -> None:
    """What has come of the first one is not on the screen yet."""
    sent, gate = threading.Event(), threading.Event()
    server.script(stream("One *and* two", Mark(sent), Barrier(gate), ".\n\nThree"))
    with chat("--markdown") as screen:
        screen.see_prompt()
        screen.enter("question")
        assert sent.wait(10)
        screen.see("1 s")
        assert "One" not in screen.text
        gate.set()
        screen.see("Three")
        assert screen.lines[screen.lines.index("One and two.") :][1:3] == ["", "Three"]
        assert not find_waits(screen)


# The wait


def find_waits(screen: Screen) -> list[str]:
    """The lines of the screen that tell for how long nothing has come."""
    return re.findall(r"^\d+ s\b.*", screen.text, re.MULTILINE)


def test_a_wait_is_counted(chat: Start, server: ReplayServer) -> None:
    """From a short silence on, second by second, and nothing of it is left."""
    gates = [threading.Event() for _ in range(3)]
    server.script(*(stream(Barrier(gate), f"here {n}") for n, gate in enumerate(gates)))
    with chat() as screen:
        for number, gate in enumerate(gates):
            say(screen, "question", " s")
            if number == 0:
                screen.see("1 s")
            gate.set()
            screen.see(f"here {number}")
            screen.see_prompt()
            assert not find_waits(screen)
        # A busy machine may be late once, not always.
        assert b"\x1b[K0 s" in screen.received


@pytest.mark.parametrize("columns", [30, 36, 37])
def test_a_wait_takes_one_line(chat: Start, server: ReplayServer, columns: int) -> None:
    """On a screen that is too narrow for it: none of it is left behind."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "here", reasoning=["x" * 40_000]))
    with chat("--reasoning", "hide", columns=columns) as screen:
        say(screen, "question", "1 s, about 13333 tokens of r")
        assert len(find_waits(screen)) == 1
        gate.set()
        screen.see("here")
        screen.see_prompt()
        assert screen.lines[screen.lines.index("> question") :][1:3] == ["here", ""]
        assert not find_waits(screen)


def test_an_interrupt_ends_the_wait(chat: Start, server: ReplayServer) -> None:
    """Before anything has come: no part of its line is left."""
    server.script(stream(Stall()))
    with chat() as screen:
        say(screen, "question", " s")
        screen.press("\x03")
        screen.see("stopped; /retry asks again")
        screen.see_prompt()
        shown = screen.lines[screen.lines.index("> question") :]
        assert shown[1] == "kimi: stopped; /retry asks again"


def test_a_quiet_chat_shows_no_wait(chat: Start, server: ReplayServer) -> None:
    """With -q there is nothing but the answer."""
    server.script(stream(Wait(0.4), "here"))
    with chat("-q") as screen:
        say(screen, "question", "here")
        screen.see_prompt()
        assert screen.lines == ["> question", "here", "", ">"]
        assert not re.search(rb"\d s\b", screen.received)


# Odd surroundings


@contextmanager
def hidden(path: Path) -> Iterator[None]:
    """Let a folder stand in place of a file for a while: nothing can be written there."""
    aside = path.rename(path.with_suffix(".aside"))
    path.mkdir()
    yield
    path.rmdir()
    aside.rename(path)


@pytest.mark.parametrize("command", ["/undo", "/retry"])
def test_an_unsaved_answer_is_taken_back_like_any_other(
    chat: Start, server: ReplayServer, home: Path, command: str
) -> None:
    """Or saved with the next question; the file could not be written for a moment."""
    gate = threading.Event()
    server.script(stream("re: one"), stream("half", Barrier(gate), " an answer"))
    path = home / CONVERSATIONS / "mine.jsonl"
    with chat("-S", "mine") as screen:
        say(screen, "one", "re: one")
        say(screen, "two", "half")
        with hidden(path):
            gate.set()
            screen.see("the answer is not saved: ")
        if command == "/undo":
            say(screen, "/undo", "taken back: two")
            assert list_contents_of(home, "mine") == ["one", "re: one"]
            say(screen, "three", "re: three")
        else:
            say(screen, "/retry", "re: two")
        screen.see_prompt()
    asked = "three" if command == "/undo" else "two"
    assert list_contents_of(home, "mine") == ["one", "re: one", asked, f"re: {asked}"]
    assert list_contents(server.requests[-1]) == ["one", "re: one", asked]


def test_an_unsaved_answer_is_saved_with_the_next_question(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """The record has no gap then."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    path = home / CONVERSATIONS / "mine.jsonl"
    with chat("-S", "mine") as screen:
        say(screen, "one", "half")
        with hidden(path):
            gate.set()
            screen.see("the answer is not saved: ")
        say(screen, "two", "re: two")
        screen.see_prompt()
    assert list_contents_of(home, "mine") == ["one", "half an answer", "two", "re: two"]


def test_what_is_no_file_stays_as_it_is(
    chat: Start, ask: Kimi, server: ReplayServer, home: Path, folder: Path
) -> None:
    """A pipe or device in place of the history, or behind a conversation's name."""
    device = home / "device"
    os.mkfifo(device, 0o644)
    (home / ".local/state/kimi/history").symlink_to(device)
    (folder / "mine.jsonl").symlink_to(device)
    with chat() as screen:
        say(screen, "one", "re: one")
        screen.see_prompt()
    result = ask("-S", "mine", "two")
    assert result.status in (66, 73)
    assert stat.S_IMODE(device.stat().st_mode) == 0o644


def test_a_linked_conversation_stays_linked(
    chat: Start, ask: Kimi, server: ReplayServer, home: Path, folder: Path
) -> None:
    """/undo takes its lines out of the file that the link names."""
    keep(folder, "real", user("old"), assistant("a"))
    (folder / "mine.jsonl").symlink_to(folder / "real.jsonl")
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " an answer"))
    with chat("-S", "mine") as screen:
        say(screen, "one", "half")
        assert ask("-S", "mine", "theirs").status == 0
        gate.set()
        screen.see("an answer")
        say(screen, "/undo", "taken back: theirs")
        screen.see_prompt()
    assert (folder / "mine.jsonl").is_symlink()
    assert list_contents_of(home, "real") == ["old", "a", "one", "half an answer"]


def test_a_question_that_is_not_kept_is_the_last_one(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """/undo forgets it and nothing else; /new begins without it."""
    path = home / CONVERSATIONS / "mine.jsonl"
    with chat("-S", "mine") as screen:
        say(screen, "one", "re: one")
        screen.see_prompt()
        with hidden(path):
            say(screen, "two", "/retry asks again")
            say(screen, "/undo", "taken back: two")
            say(screen, "three", "/retry asks again")
            say(screen, "/new", "a new conversation")
            say(screen, "/retry", "there is nothing to ask again")
    assert list_contents_of(home, "mine") == ["one", "re: one"]
    assert len(server.requests) == 1


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


# Figures, hints, and terminals that can do nothing


def test_a_figure_beyond_reason_is_none(chat: Start, server: ReplayServer) -> None:
    """Of a host that counts nonsense: nothing is told of it, then or later."""
    usage = {"prompt_tokens": 10**400, "completion_tokens": -1, "total_tokens": 10**400}
    server.script(stream("fine", usage=usage))
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


def test_a_copy_goes_to_the_screen(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """Where stderr is a file, by way of stdout."""
    server.script(stream("an answer"))
    errors = home / "errors"
    command = f"exec {kimi.program} chat --base-url {server.url} question 2> {errors}"
    environment = {**kimi.environment, "KIMI_TOKEN": CANARY}
    with Screen(["/bin/sh", "-c", command], environment, home) as screen:
        screen.see("an answer")
        screen.see_prompt()
        screen.enter("/copy")
        screen.see_prompt()
        screen.press("\x04")
        assert screen.end() == 0
        data = base64.b64encode(b"an answer")
        assert b"\x1b]52;c;" + data + b"\x07" in screen.received
    assert b"]52" not in errors.read_bytes()


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


def test_a_pipe_that_says_nothing_is_left(chat: Start, server: ReplayServer, home: Path) -> None:
    """^C ends the wait for what /file names, and the chat goes on."""
    os.mkfifo(home / "pipe")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/file pipe")
        time.sleep(0.3)
        screen.press("\x03")
        screen.see("kimi: stopped")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == ["one"]


def test_a_saved_conversation_is_a_named_one(
    chat: Start, server: ReplayServer, folder: Path
) -> None:
    """When its file is removed, nothing more is asked until it has another."""
    with chat() as screen:
        say(screen, "one", "re: one")
        say(screen, "/save mine", "saved")
        (folder / "mine.jsonl").unlink()
        say(screen, "two", "/retry asks again")
        assert len(server.requests) == 1
        say(screen, "/save other", "saved")
        say(screen, "/retry", "re: two")


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


def test_a_long_first_question_is_listed(kimi: Kimi, folder: Path) -> None:
    """Cut to the screen, and at once: a pipe may have brought it."""
    keep(folder, "mine", user("word " * 200_000))
    shown = kimi.but("log").pty().wait().stdout.decode().splitlines()
    assert shown[1].endswith("…")
    assert len(shown) == 2
    assert 70 < len(shown[1]) <= 80
