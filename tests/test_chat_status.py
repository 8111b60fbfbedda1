"""kimi chat: the wait is shown, counted, and goes."""

from __future__ import annotations

import re
import threading

import pytest
from screen import Screen, Start, say
from server import Barrier, Mark, ReplayServer, Stall, Wait, refusal, stream


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
