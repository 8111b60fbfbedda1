"""kimi chat: its conversation, kept or not, and who else writes there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conversations import (
    CONVERSATIONS,
    Line,
    assistant,
    encode_compact,
    keep,
    list_contents,
    list_record,
    read_record,
    user,
)
from program import Kimi
from screen import Start, say
from server import Barrier, ReplayServer, Stall, stream

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
    assert list_record(home, "mine") == said
    assert list_record(home, "latest") == ["theirs", "re: theirs"]


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
        assert list_record(home, "mine") == ["one", "half an answer"]
        say(screen, "/retry", "re: two")
        screen.see_prompt()
    said = ["one", "half an answer", "two", "re: two"]
    assert list_contents(server.requests[-1]) == said[:3]
    assert list_record(home, "mine") == said


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
        assert list_record(home, "mine") == said
        say(screen, "/undo", "taken back: theirs")
        assert list_record(home, "mine") == said[:2]
        say(screen, "/undo", "taken back: one")


def test_what_cannot_be_asked_again_stays(chat: Start, server: ReplayServer, folder: Path) -> None:
    """/retry says why and deletes nothing; /undo takes it back."""
    path = keep(folder, "mine", assistant("Hello!"))
    with chat("-S", "mine") as screen:
        say(screen, "/retry", "the last turn has no question; /undo takes it back")
        screen.see_prompt()
        assert path.read_bytes() == encode_compact(assistant("Hello!"))
        say(screen, "/undo", "taken back: Hello!")
        assert path.read_bytes() == b""
        say(screen, "/retry", "there is nothing to ask again")
    assert not server.requests


IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}
TEXT = {"type": "text", "text": "What?"}


@pytest.mark.parametrize(
    ("content", "title"),
    [
        ([IMAGE], "[image: of no kind, 0 bytes]"),
        ([TEXT, IMAGE], "What?"),
        ([IMAGE, TEXT, IMAGE], "What?"),
    ],
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
            assert list_record(home, "mine") == ["one", "re: one"]
            say(screen, "three", "re: three")
        else:
            say(screen, "/retry", "re: two")
        screen.see_prompt()
    asked = "three" if command == "/undo" else "two"
    assert list_record(home, "mine") == ["one", "re: one", asked, f"re: {asked}"]
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
    assert list_record(home, "mine") == ["one", "half an answer", "two", "re: two"]


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
    assert list_record(home, "real") == ["old", "a", "one", "half an answer"]


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
    assert list_record(home, "mine") == ["one", "re: one"]
    assert len(server.requests) == 1


# On request, on failure


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
