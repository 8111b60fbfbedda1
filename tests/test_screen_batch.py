"""What a person sees of a batch on a screen of 80 columns."""

from __future__ import annotations

import re
import signal
import threading
from pathlib import Path

import pytest
from program import Kimi
from rows import echo, hold, write_input
from screen import Screen
from server import ReceivedRequest, ReplayServer, Reply

BAR = re.compile(r"^ *\d+%\|[^|]{10,}\| \d+ done, ")


@pytest.mark.parametrize("columns", [60, 80, 132])
def test_the_bar_is_a_bar_and_its_figures_are_whole(
    batch: Kimi, server: ReplayServer, home: Path, source: Path, out: Path, columns: int
) -> None:
    """Figures that have no room are left out, the least important first; nothing is cut."""
    gate = threading.Event()
    write_input(source, 12)
    answered = iter(range(12))
    server.answer(
        lambda request: echo(request) if next(answered) < 3 else hold(gate, echo(request))
    )
    command = [str(batch.program), *batch.arguments, str(source), "-o", str(out), "-c", "4"]
    environment = {key: value for key, value in batch.environment.items() if value is not None}
    with Screen(command, environment, home, columns=columns) as screen:
        screen.see(" 3 done, 0 errors, ")
        [line] = screen.lines
        assert BAR.match(line)
        assert len(line) < columns
        figures = line.rpartition("| ")[2].split(", ")
        wholes = (
            r"\d+ done",
            r"\d+ errors?",
            r"\d+ s left",
            r"[\d.]+ rows/s",
            r"\d+/\d+",
            r"[a-z ]+[\d.]*[a-z ()]*",
            r"[\d.]+ tokens/s",
        )
        assert all(any(re.fullmatch(whole, figure) for whole in wholes) for figure in figures), line
        assert (columns == 132) == (figures[-1].endswith(" tokens/s"))
        gate.set()
        assert screen.end() == 0


def test_rows_on_the_screen_stand_apart_from_the_bar(
    batch: Kimi, server: ReplayServer, home: Path, source: Path
) -> None:
    """Each row is a line of its own, whatever is drawn between them."""
    answer_slowly(server)
    write_input(source, 6)
    command = [str(batch.program), *batch.arguments, str(source), "--format", "text", "-c", "1"]
    environment = {key: value for key, value in batch.environment.items() if value is not None}
    with Screen(command, environment, home) as screen:
        assert screen.end() == 0
        assert [line for line in screen.lines if "re: " in line] == [
            f'"re: p{number}"' for number in range(6)
        ]


def test_what_a_pipe_writes_on_the_screen_stands_apart_from_the_bar(
    batch: Kimi, server: ReplayServer, home: Path, source: Path
) -> None:
    """``kimi batch | jq`` on one screen: no bar is drawn for another program to write behind."""
    answer_slowly(server)
    write_input(source, 6)
    words = " ".join([str(batch.program), *batch.arguments, str(source), "--format text -c 1"])
    environment = {key: value for key, value in batch.environment.items() if value is not None}
    with Screen(["/bin/sh", "-c", f"{words} | cat"], environment, home) as screen:
        assert screen.end() == 0
        assert screen.lines[:6] == [f'"re: p{number}"' for number in range(6)]
        assert b"%|" not in screen.received


def answer_slowly(server: ReplayServer) -> None:
    """Give the bar time to be drawn between two answers."""
    never = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        never.wait(0.3)
        return echo(request)

    server.answer(answer)


# How many


@pytest.mark.parametrize(("rows", "told"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows")])
def test_one_is_one(batch: Kimi, source: Path, rows: int, told: str) -> None:
    """A number and its noun agree."""
    write_input(source, rows)
    run = batch(str(source), "--dry-run")
    assert f"{told} can be sent, 0 cannot" in run.error


def test_nothing_in_flight_is_not_waited_for(batch: Kimi) -> None:
    """A run that waits for its input says that it stops, and not for what it waits."""
    run = batch.start("--progress", "json", stdin="pipe")
    run.write(b'"unfinished')
    run.expect(b'"in_flight": 0', "stderr")
    run.signal(signal.SIGINT)
    run.expect(b"kimi: nothing is in flight; stopping\n", "stderr")
    run.end_input()
    assert run.wait().status == -signal.SIGINT
