"""Manners of the process: signals, pipes, full disks, closed descriptors, locales, no HOME."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest
from program import Environment, Kimi, Result, Running, Streams
from server import (
    FRAMINGS,
    Barrier,
    Framing,
    Mark,
    ReplayServer,
    Reply,
    Stall,
    completion,
    stream,
)

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
FULL = Path("/dev/full")


def assert_no_traceback(result: Result) -> None:
    """Nobody sees Python."""
    for sign in (b"Traceback", b"Exception ignored", b"a bug in kimi", b"Fatal Python"):
        assert sign not in result.stderr


# Signals


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_signal_mid_stream(
    ask: Kimi, server: ReplayServer, number: signal.Signals, framing: Framing
) -> None:
    """The program dies by the signal itself, what came is on stdout, and the server sees it go."""
    left = threading.Event()
    server.script(stream("Hel", "lo", Stall(), Mark(left), framing=framing))
    run = ask.start("hi")
    run.expect(b"Hello")
    run.signal(number)
    result = run.wait(5)
    assert (result.status, result.stdout, result.stderr) == (-number, b"Hello\n", b"")
    assert left.wait(10)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(
    "reply",
    [Reply([Stall()], framing="raw"), stream(Stall())],
    ids=["no reply", "no delta"],
)
def test_a_signal_before_the_first_word(
    ask: Kimi, server: ReplayServer, number: signal.Signals, reply: Reply
) -> None:
    """A signal ends the wait for a silent server."""
    server.script(reply)
    run = ask.start("hi")
    server.await_requests(1)
    run.signal(number)
    result = run.wait(5)
    assert (result.status, result.stdout, result.stderr) == (-number, b"", b"")


def test_a_signal_while_stdin_is_read(ask: Kimi, server: ReplayServer) -> None:
    """A signal ends the wait for a silent pipe."""
    run = ask.pty("hi", stdin="pipe", stdout="pipe")
    run.expect(b"waiting", "stderr")
    run.signal(signal.SIGINT)
    assert run.wait(5).status == -signal.SIGINT
    assert server.connections == 0


def test_a_signal_during_the_back_off(ask: Kimi, server: ReplayServer) -> None:
    """A signal ends the wait before a retry."""
    server.script(Reply([], status=503, headers={"Retry-After": "60"}))
    run = ask.start("hi")
    run.expect(b"trying again", "stderr")
    run.signal(signal.SIGTERM)
    assert run.wait(5).status == -signal.SIGTERM
    assert len(server.requests) == 1


def test_a_signal_while_the_reader_is_stuck(ask: Kimi, server: ReplayServer) -> None:
    """A reader that takes nothing cannot keep the program from dying."""
    text = "x" * 1_000_000
    server.script(stream(text, Stall()))
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb"), os.fdopen(writer, "wb") as stdout:
        run = ask.start("hi", stdout=stdout)
        server.await_requests(1)
        _await_full(writer)
        run.signal(signal.SIGINT)
        assert run.wait(5).status == -signal.SIGINT


def _await_full(writer: int) -> None:
    """Wait until a pipe takes nothing more."""
    size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
    held = bytearray(4)
    tick = threading.Event()
    for _ in range(1000):
        fcntl.ioctl(writer, FIONREAD, held)
        if int.from_bytes(held, "little") == size:
            return
        tick.wait(0.01)
    pytest.fail("the pipe never filled")


FIONREAD = 0x541B


def test_interrupt_at_the_terminal_stops_a_loop(kimi: Kimi, server: ReplayServer) -> None:
    """^C ends the whole `for` loop of a shell, not only the program in it."""
    server.script(stream("Hel", Stall()), repeat=True)
    loop = "for i in 1 2 3; do kimi ask --no-auth $i; echo next; done"
    run = _start_at_terminal(kimi, loop, {"KIMI_BASE_URL": server.url})
    run.expect(b"Hel")
    run.type(b"\x03")
    result = run.wait(10)
    assert result.status == -signal.SIGINT
    assert result.stdout == b"Hel\n"
    assert len(server.requests) == 1


def _start_at_terminal(kimi: Kimi, script: str, environment: Environment) -> Running:
    """Start a shell script in the foreground of a terminal of its own."""
    streams: Streams = {"stdin": "tty", "stdout": "pipe", "stderr": "pipe", "env": environment}
    return kimi.shell(script, **streams)


def test_interrupt_on_a_terminal_leaves_it_whole(ask: Kimi, server: ReplayServer) -> None:
    """After ^C in dim text the terminal is not dim, and the next prompt has its own line."""
    server.script(stream({"reasoning_content": "Hm"}, Stall()))
    run = ask.pty("hi")
    run.expect(b"\x1b[2mHm\x1b[22m", "stderr")
    run.type(b"\x03")
    result = run.wait(5)
    assert result.status == -signal.SIGINT
    assert result.stderr == b"\x1b[2mHm\x1b[22m\n"


def test_ignored_signals_stay_ignored(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """Under nohup, and where a shell ignores ^C, the answer comes to its end."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo"))
    script = "trap '' HUP INT; exec kimi ask --no-auth hi"
    run = kimi.shell(script, env={"KIMI_BASE_URL": server.url})
    run.expect(b"Hel")
    run.signal(signal.SIGHUP)
    run.signal(signal.SIGINT)
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"Hello\n", 0)


def test_stopped_and_continued(ask: Kimi, server: ReplayServer) -> None:
    """^Z and fg: the answer goes on, and the silence in between does not count as the server's."""
    gate = threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo"))
    run = ask.start("--timeout", "2.5", "hi")
    run.expect(b"Hel")
    run.signal(signal.SIGSTOP)
    threading.Event().wait(4)
    run.signal(signal.SIGCONT)
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"Hello\n", 0)


# Readers that leave, and disks that are full


@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_reader_that_leaves(kimi: Kimi, server: ReplayServer, framing: Framing) -> None:
    """`| head -c 1` ends the program by SIGPIPE, silently, and the server sees it go."""
    gate, left = threading.Event(), threading.Event()
    server.script(stream("Hel", Barrier(gate), "lo", Stall(), Mark(left), framing=framing))
    script = "{ kimi ask --no-auth hi; echo $? >&2; } | { head -c 1; exec <&-; echo left >&2; }"
    run = kimi.shell(script, env={"KIMI_BASE_URL": server.url})
    run.expect(b"left\n", "stderr")
    gate.set()
    result = run.wait(10)
    assert (result.stdout, result.stderr) == (b"H", b"left\n141\n")
    assert left.wait(10)


@pytest.mark.parametrize("arguments", [["--json"], ["--no-stream"], []])
def test_a_reader_that_left_before(kimi: Kimi, server: ReplayServer, arguments: list[str]) -> None:
    """A pipe that nobody reads any more is SIGPIPE in every mode."""
    server.script(completion("Hello") if "--no-stream" in arguments else stream("Hello"))
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        ask = kimi.but("ask", "--no-auth", "--base-url", server.url)
        result = ask(*arguments, "hi", stdout=stdout)
    assert (result.status, result.stderr) == (-signal.SIGPIPE, b"")


COMMANDS = [
    ["ask", "--no-auth", "hi"],
    ["ask", "--no-auth", "--json", "hi"],
    ["ask", "--dry-run", "hi"],
    ["--help"],
    ["ask", "--help"],
    ["--version"],
    ["help", "exit-status"],
    ["models", "-q", "--profile", "acedata"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_full_disk(kimi: Kimi, server: ReplayServer, command: list[str]) -> None:
    """What cannot be written is exit 74 and one line, for every command."""
    server.answer(lambda request: stream("Hello"))
    result = kimi(*command, stdout=FULL, env={"KIMI_BASE_URL": server.url})
    assert result.status == 74
    assert b"No space left on device" in result.stderr
    assert result.stderr.count(b"\n") == 1
    assert_no_traceback(result)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_closed_stdout(kimi: Kimi, server: ReplayServer, command: list[str]) -> None:
    """Without a standard output nothing is asked or lost: exit 74."""
    environment = {"KIMI_BASE_URL": server.url}
    result = kimi(*command, stdout="closed", env=environment)
    assert (result.status, result.stderr) == (74, b"kimi: standard output is closed\n")
    assert server.connections == 0


@pytest.mark.parametrize("command", COMMANDS[2:], ids=" ".join)
def test_a_closed_pipe(kimi: Kimi, command: list[str]) -> None:
    """`kimi --help | true` ends by SIGPIPE and is silent."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as stdout:
        result = kimi(*command, stdout=stdout)
    assert (result.status, result.stderr) == (-signal.SIGPIPE, b"")


@pytest.mark.parametrize("stderr", ["closed", FULL])
def test_a_stderr_that_takes_nothing(ask: Kimi, server: ReplayServer, stderr: Path) -> None:
    """Reasoning and errors that cannot be shown do not change the answer or the status."""
    server.script(stream("Hello", reasoning=["Hm"]), Reply([], status=401))
    result = ask("-v", "hi", stderr=stderr)
    assert (result.stdout, result.status) == (b"Hello\n", 0)
    assert ask("hi", stderr=stderr).status == 77


def test_every_stream_closed(ask: Kimi, server: ReplayServer) -> None:
    """A program without any descriptor never writes into its own connection."""
    closed: Streams = {"stdin": "closed", "stderr": "closed"}
    server.script(stream("Hello", reasoning=["Hm"]))
    result = ask("-v", "hi", **closed)
    assert (result.stdout, result.status) == (b"Hello\n", 0)
    assert ask("hi", stdout="closed", **closed).status == 74
    assert len(server.requests) == 1


def test_a_non_blocking_pipe(ask: Kimi, server: ReplayServer) -> None:
    """A pipe that somebody made non-blocking still gets every byte."""
    text = "0123456789abcdef" * 40_000
    server.script(stream(text))
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    received = bytearray()

    def read() -> None:
        with os.fdopen(reader, "rb") as file:
            received.extend(file.read())

    thread = threading.Thread(target=read)
    with os.fdopen(writer, "wb") as stdout:
        run = ask.start("hi", stdout=stdout)
        server.await_requests(1)
        thread.start()
    assert run.wait().status == 0
    thread.join(10)
    assert received == text.encode() + b"\n"


# Locale, HOME, files


LOCALES: list[Environment] = [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"LC_ALL": "xx_YY.UTF-8"},
    {"LANG": "en_US.ISO-8859-1", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONUNBUFFERED": "1"},
    {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"},
]


@pytest.mark.parametrize("environment", LOCALES, ids=repr)
def test_output_is_utf_8_whatever_the_locale(
    ask: Kimi, server: ReplayServer, environment: Environment
) -> None:
    """Answer, reasoning and messages are UTF-8 under any locale and any Python setting."""
    server.script(stream("日本 😀 é", reasoning=["思考"], finish="length"))
    result = ask("naïve ☃", env=environment)
    assert result.stdout.decode() == "日本 😀 é\n"
    assert result.error.startswith("思考\nkimi: the answer is incomplete")
    assert result.status == 3
    assert server.requests[0].json["messages"][0]["content"] == "naïve ☃"


@pytest.mark.parametrize("value", [None, "", "/nonexistent", "relative"])
def test_without_a_home(ask: Kimi, server: ReplayServer, value: str | None) -> None:
    """No HOME, or a useless one, does not keep a question from being asked."""
    server.script(stream("Hello"))
    names = ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")
    environment = {**dict.fromkeys(names), "XDG_RUNTIME_DIR": None, "HOME": value}
    result = ask("hi", env=environment)
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_a_question_writes_no_file(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """Asking leaves nothing behind, and so works where nothing can be written."""
    before = sorted(home.rglob("*"))
    for folder in (home, *(path for path in before if path.is_dir())):
        folder.chmod(0o500)
    server.script(stream("Hello", reasoning=["Hm"]), Reply([], status=500))
    assert ask("hi").stdout == b"Hello\n"
    assert ask("--retries", "0", "hi").status == 75
    assert sorted(home.rglob("*")) == before


def test_a_folder_that_is_gone(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """The current folder may have been removed."""
    server.script(stream("Hello"))
    script = 'mkdir gone && cd gone && rmdir "$PWD" && kimi ask --no-auth hi'
    result = kimi.shell(script, env={"KIMI_BASE_URL": server.url}).wait()
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_few_descriptors(kimi: Kimi, server: ReplayServer) -> None:
    """Sixteen descriptors are enough."""
    server.script(stream("Hello"))
    script = "ulimit -n 16; kimi ask --no-auth hi"
    result = kimi.shell(script, env={"KIMI_BASE_URL": server.url}).wait()
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_modules_beside_the_user_are_not_loaded(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """A requests.py in the current folder is not run."""
    for name in ("requests", "json", "click", "kimi_cli", "orjson"):
        (home / f"{name}.py").write_text("raise SystemExit('hijacked')\n")
    server.script(stream("Hello"))
    result = kimi("ask", "--no-auth", "hi", env={"KIMI_BASE_URL": server.url})
    assert (result.stdout, result.stderr, result.status) == (b"Hello\n", b"", 0)


def test_memory_is_not_spent_on_a_slow_reader(ask: Kimi, server: ReplayServer) -> None:
    """A reader that does not read holds the server back, not our memory."""
    text = "x" * 2**20
    taken = threading.Event()
    server.script(stream(*[text] * 64, Mark(taken)))
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as output:
        with os.fdopen(writer, "wb") as stdout:
            run = ask.start("hi", stdout=stdout)
        server.await_requests(1)
        assert not taken.wait(1.5)
        assert sum(len(piece) for piece in iter(lambda: output.read(2**20), b"")) == 64 * 2**20 + 1
    assert run.wait().status == 0
