"""An answer that cannot be put into the conversation that was named for it."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conversations import CONVERSATIONS, list_record
from program import Kimi
from screen import Start, say
from server import Barrier, ReplayServer, stream

UNSAVED = "kimi: the answer is not saved: conversation mine was replaced or removed"


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_an_answer_that_is_not_kept_as_asked_is_74(
    mine: Kimi, kimi: Kimi, server: ReplayServer, quiet: tuple[str, ...]
) -> None:
    """T16: it is on stdout, whole; the status and one line say that it is nowhere else."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = mine.start(*quiet, "one")
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half more\n", 74)
    assert result.error.startswith(UNSAVED)
    assert result.error.endswith("; it is on standard output alone\n")
    assert result.error.count("\n") == 1


def test_an_answer_that_is_neither_whole_nor_kept(
    mine: Kimi, kimi: Kimi, server: ReplayServer
) -> None:
    """T16: both are said in the one line; what is nowhere to be found decides the status."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), finish="length"))
    run = mine.start("-q", "one")
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half\n", 74)
    assert "it is incomplete: length" in result.error


def test_another_failure_keeps_its_status_and_says_so_besides(
    mine: Kimi, kimi: Kimi, server: ReplayServer
) -> None:
    """T16: an answer that was cut off is 75, and -q does not hide that its half is not kept."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), finish=None, done=False))
    run = mine.start("-q", "one")
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half\n", 75)
    assert "the answer was cut off" in result.error
    assert "; the answer is not saved: " in result.error
    assert result.error.count("\n") == 1


def test_lines_in_a_pipe_end_with_the_first_that_is_not_kept(
    kimi: Kimi, server: ReplayServer
) -> None:
    """T16: the next question would have been asked in a conversation with a gap."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = kimi.start(
        *("chat", "--base-url", server.url, "-S", "mine"),
        stdin=b"one\ntwo\n",
        env={"KIMI_TOKEN": "sk-123456"},
    )
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half more\n", 74)
    assert len(server.requests) == 1


@pytest.mark.parametrize("rescued", [False, True])
def test_a_chat_that_leaves_an_answer_behind_is_74(
    chat: Start, kimi: Kimi, server: ReplayServer, home: Path, rescued: bool
) -> None:
    """T16: at its end, unless the answer has found a place until then."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    with chat("-S", "mine", "-q") as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("half")
        assert kimi("log", "rm", "mine").status == 0
        gate.set()
        screen.see(UNSAVED)
        screen.see("; it is on standard output alone; /save NAME keeps it")
        screen.see_prompt()
        if rescued:
            say(screen, "/save mine", "kimi chat -S mine")
            screen.see_prompt()
        screen.press(b"\x04")
        assert screen.end() == (0 if rescued else 74)
    assert (home / CONVERSATIONS / "mine.jsonl").exists() == rescued
    assert not rescued or list_record(home) == ["one", "half more"]


def test_an_answer_without_a_name_is_only_warned_of(asking: Kimi, server: ReplayServer) -> None:
    """Nobody asked to keep it."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "A"), stream("B"))
    slow = asking.pty("a", stdin=None)
    server.await_requests(1)
    assert asking.pty("b", stdin=None).wait().status == 0
    gate.set()
    assert slow.wait().status == 0
