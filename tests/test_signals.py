"""Signals that end the program: the terminal is as it was, and no image of it is left."""

from __future__ import annotations

import os
import re
import resource
import signal
import termios
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from screen import Screen, Start
from server import ReplayServer, Stall, stream

ENDING = [
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGALRM,
    signal.SIGUSR2,
    signal.SIGXCPU,
]
KEYBOARD = termios.ECHO | termios.ICANON | termios.ISIG


def see_keyboard(screen: Screen) -> int:
    """Return what of the keyboard's local modes people rely on."""
    return int(termios.tcgetattr(screen.child.child_fd)[3]) & KEYBOARD


@pytest.mark.parametrize("signum", ENDING)
def test_a_login_that_is_ended_gives_the_echo_back(
    kimi: Kimi, server: ReplayServer, home: Path, signum: signal.Signals
) -> None:
    """T15: whatever signal ends it while the token is typed unseen."""
    command = [str(kimi.program), "auth", "login", "--base-url", server.url]
    with Screen(command, kimi.environment, home) as screen:
        before = see_keyboard(screen)
        screen.see("Bearer token for")
        screen.wait(lambda: not see_keyboard(screen) & termios.ECHO, "it echoes")
        os.kill(screen.child.pid, signum)
        assert screen.end() == -signum
        assert see_keyboard(screen) == before == KEYBOARD


def test_quitting_a_login_by_its_key(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    r"""T15: ^\ ends it, and the shell's line is to be seen again."""
    command = [str(kimi.program), "auth", "login", "--base-url", server.url]
    with Screen(command, kimi.environment, home) as screen:
        screen.see("Bearer token for")
        screen.wait(lambda: not see_keyboard(screen) & termios.ECHO, "it echoes")
        screen.press(CANARY[:20])
        screen.press(b"\x1c")
        assert screen.end() == -signal.SIGQUIT
        assert see_keyboard(screen) == KEYBOARD
        assert CANARY[:20].encode() not in screen.received


@pytest.mark.parametrize("signum", ENDING)
@pytest.mark.parametrize("answers", [True, False], ids=["answering", "editing"])
def test_a_chat_that_is_ended_gives_the_keyboard_back(
    chat: Start, server: ReplayServer, signum: signal.Signals, answers: bool
) -> None:
    """T15: in the editor as well as while an answer comes."""
    server.script(stream("half", Stall()))
    with chat() as screen:
        screen.see_prompt()
        if answers:
            screen.enter("one")
            screen.see("half")
        os.kill(screen.child.pid, signum)
        assert screen.end() == -signum
        assert see_keyboard(screen) == KEYBOARD


# Images of the process


def test_no_image_of_the_process_is_left(ask: Kimi, server: ReplayServer) -> None:
    """T15: neither as a file nor down a pipe of the system's, and not for its children either."""
    server.script(stream("Hel", Stall()))
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    run = ask.start("hi")
    run.expect(b"Hel")
    assert resource.prlimit(run.pid, resource.RLIMIT_CORE) == (0, limit)
    assert int(Path(f"/proc/{run.pid}/coredump_filter").read_text(), 16) == 0
    run.signal(signal.SIGABRT)
    assert run.wait(5).status == -signal.SIGABRT


@pytest.mark.skipif(
    not re.fullmatch(rb"core\n?", Path("/proc/sys/kernel/core_pattern").read_bytes()),
    reason="the system's dumps go elsewhere",
)
def test_an_image_that_is_taken_all_the_same_holds_no_token(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """T15: a limit does not hold where dumps go down a pipe; the memory is left out, too."""
    server.script(stream("Hel", Stall()))
    token = "sk-" + "x7Qz" * 12
    run = kimi.start("ask", "--base-url", server.url, "hi", env={"KIMI_TOKEN": token})
    run.expect(b"Hel")
    limit = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.prlimit(run.pid, resource.RLIMIT_CORE, (limit, limit))
    run.signal(signal.SIGABRT)
    assert run.wait(5).status == -signal.SIGABRT
    images = list(home.glob("core*"))
    assert images
    assert not any(token.encode() in image.read_bytes() for image in images)
