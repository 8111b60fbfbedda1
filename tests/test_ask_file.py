"""``ask -o``: a file that gets a whole answer, or stays as it was."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
from pathlib import Path

import pytest
from faults import fail_calls, limit_files
from program import Kimi
from server import Barrier, Cut, Mark, ReplayServer, Reply, completion, refusal, stream

OLD = b"yesterday\n"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """A file with yesterday's answer, in a folder of its own."""
    folder = tmp_path / "reports"
    folder.mkdir()
    path = folder / "report.txt"
    path.write_bytes(OLD)
    return path


def check_old(report: Path) -> None:
    """The file is as it was, and nothing is beside it."""
    assert report.read_bytes() == OLD
    assert [path.name for path in report.parent.iterdir()] == [report.name]


# Whole


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_a_whole_answer_is_the_file(
    ask: Kimi, server: ReplayServer, report: Path, options: tuple[str, ...]
) -> None:
    """What would have been printed, and nothing on standard output; the reasoning is seen."""
    make = completion if options else stream
    server.script(make(" Hello, world\n\n", reasoning=["Hm."] if not options else "Hm."))
    result = ask("-o", str(report), *options, "hi")
    assert (result.stdout, result.stderr, result.status) == (b"", b"Hm.\n", 0)
    assert report.read_bytes() == b"Hello, world\n"
    assert [path.name for path in report.parent.iterdir()] == [report.name]


@pytest.mark.parametrize(
    ("options", "answer", "wanted"),
    [
        (("--schema", "n int"), '{"n": 1.0}', b'{"n":1.0}\n'),
        (("--choice", "yes,no"), "**Yes**", b"yes\n"),
        (("-x",), "Do:\n```sh\nls\n```\nso.", b"ls\n"),
    ],
)
def test_a_checked_answer_is_the_file(
    ask: Kimi,
    server: ReplayServer,
    report: Path,
    options: tuple[str, ...],
    answer: str,
    wanted: bytes,
) -> None:
    """What fits, as it would have been printed."""
    server.script(stream(answer))
    result = ask("-o", str(report), *options, "hi")
    assert (result.stdout, result.error, result.status) == (b"", "", 0)
    assert report.read_bytes() == wanted


def test_the_object_of_json_is_the_file(ask: Kimi, server: ReplayServer, report: Path) -> None:
    """--json goes where the answer goes, with --tee to both."""
    server.script(stream("Hello"), stream("Hello"))
    assert ask("-o", str(report), "--json", "hi").stdout == b""
    alone = report.read_bytes()
    assert json.loads(alone)["content"] == "Hello"
    assert ask("-o", str(report), "--tee", "--json", "hi").stdout == alone == report.read_bytes()


def test_a_new_file_is_made(ask: Kimi, server: ReplayServer, report: Path) -> None:
    """Where there was none, with the mode that the umask leaves."""
    server.script(stream("Hello"))
    report.unlink()
    before = os.umask(0o027)
    try:
        assert ask("-o", str(report), "hi").status == 0
    finally:
        os.umask(before)
    assert report.read_bytes() == b"Hello\n"
    assert stat.S_IMODE(report.stat().st_mode) == 0o640


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o755])
def test_links_and_modes_stay(ask: Kimi, server: ReplayServer, report: Path, mode: int) -> None:
    """A link stays a link, the mode the mode."""
    server.script(stream("Hello"))
    report.chmod(mode)
    link = report.parent.parent / "link"
    link.symlink_to("reports/report.txt")
    assert ask("-o", str(link), "hi").status == 0
    assert link.is_symlink()
    assert report.read_bytes() == b"Hello\n"
    assert stat.S_IMODE(report.stat().st_mode) == mode


def test_a_file_can_be_both_prompt_and_answer(
    ask: Kimi, server: ReplayServer, report: Path
) -> None:
    """It is read before, and written after."""
    server.script(stream("today"), stream("tomorrow"))
    assert ask("-o", str(report), stdin=report).status == 0
    assert ask("-o", str(report), "-f", str(report), "on").status == 0
    assert server.requests[0].json["messages"][0]["content"] == "yesterday"
    assert "today" in server.requests[1].json["messages"][0]["content"]
    assert report.read_bytes() == b"tomorrow\n"


# Tee


def test_tee_prints_as_well(ask: Kimi, server: ReplayServer, report: Path) -> None:
    """As it comes on standard output, in the end in the file."""
    event = threading.Event()
    server.script(stream("Hel", Barrier(event), "lo"))
    run = ask.start("-o", str(report), "--tee", "hi")
    run.expect(b"Hel")
    check_old(report)
    event.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"Hello\n", 0)
    assert report.read_bytes() == b"Hello\n"


def test_the_file_gets_what_was_sent(ask: Kimi, server: ReplayServer, report: Path) -> None:
    """A screen is protected from control characters; the file is a file."""
    server.script(stream("a\x1b[31mb"))
    result = ask.pty("-o", str(report), "--tee", "--no-save", "hi").wait()
    assert b"a^[[31mb" in result.stdout
    assert report.read_bytes() == b"a\x1b[31mb\n"


# Not whole


@pytest.mark.parametrize(
    ("reply", "options", "status"),
    [
        (refusal(400, "bad_request", "no"), (), 65),
        (refusal(403, "used_up", "no"), (), 77),
        (stream("Hel", Cut()), (), 75),
        (stream("Hel", finish="length"), (), 3),
        (stream("Hel", finish="content_filter"), ("--json",), 3),
        (stream(""), (), 3),
        (stream("prose"), ("--schema", "n int", "--reask", "0"), 5),
        (stream("prose"), ("-x", "--reask", "0", "--json"), 5),
        (Reply([b"<html>"], headers={"Content-Type": "text/html"}), (), 76),
    ],
)
@pytest.mark.parametrize("tee", [(), ("--tee",)])
def test_an_answer_that_is_not_whole_leaves_the_file(
    once: Kimi,
    server: ReplayServer,
    report: Path,
    reply: Reply,
    options: tuple[str, ...],
    status: int,
    tee: tuple[str, ...],
) -> None:
    """Yesterday's report stays, and the error says so."""
    server.script(reply)
    result = once("-o", str(report), *tee, *options, "hi")
    assert result.status == status
    assert result.error.endswith("report.txt is as it was\n")
    assert tee or result.stdout == b""
    check_old(report)


def test_a_host_that_is_down_leaves_the_file(kimi: Kimi, report: Path) -> None:
    """Nor is one made where there was none."""
    down = kimi.but("ask", "--no-auth", "--retries", "0", "--base-url", "http://127.0.0.1:1")
    assert down("-o", str(report), "hi").status == 75
    check_old(report)
    report.unlink()
    result = down("-o", str(report), "hi")
    assert result.error.endswith("report.txt is not written\n")
    assert list(report.parent.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_leaves_the_file(
    ask: Kimi, server: ReplayServer, report: Path, number: signal.Signals
) -> None:
    """In the middle of an answer, kill -9 included."""
    event, sent = threading.Event(), threading.Event()
    server.script(stream("Hel", Mark(sent), Barrier(event), "lo", reasoning=["Hm."]))
    run = ask.start("-o", str(report), "hi")
    run.expect(b"Hm.", "stderr")
    assert sent.wait(10)
    run.signal(number)
    assert run.wait().status == -number
    event.set()
    check_old(report)


def test_what_is_allowed_to_lack_something_is_written(
    ask: Kimi, server: ReplayServer, report: Path
) -> None:
    """--allow-incomplete and --allow-invalid mean the file as well."""
    server.script(stream("Hel", finish="length"), stream("prose"))
    assert ask("-o", str(report), "--allow-incomplete", "hi").status == 0
    assert report.read_bytes() == b"Hel\n"
    options = ("--schema", "n int", "--reask", "0", "--allow-invalid")
    assert ask("-o", str(report), *options, "hi").status == 0
    assert report.read_bytes() == b"prose\n"


def test_a_full_disk_leaves_the_file_and_the_answer(
    ask: Kimi, server: ReplayServer, report: Path
) -> None:
    """What was paid for is printed; status 74."""
    text = "x" * 4000
    server.script(stream(text), stream(text))
    result = limit_files(ask, 4)("-o", str(report), "hi")
    assert (result.stdout.decode(), result.status) == (f"{text}\n", 74)
    assert "report.txt: File too large; the answer is on standard output" in result.error
    check_old(report)
    result = limit_files(ask, 4)("-o", str(report), "--tee", "hi")
    assert (result.stdout.decode(), result.status) == (f"{text}\n", 74)
    check_old(report)


@pytest.mark.parametrize("call", ["rename", "fsync"])
def test_a_failing_disk_leaves_the_file(
    ask: Kimi, server: ReplayServer, report: Path, call: str
) -> None:
    """Whichever call it is that the system refuses."""
    server.script(stream("Hello"))
    result = fail_calls(ask, call, "error=EIO")("-o", str(report), "hi")
    assert (result.stdout, result.status) == (b"Hello\n", 74)
    check_old(report)


def test_an_answer_that_is_not_kept_is_printed(
    ask: Kimi, server: ReplayServer, report: Path, home: Path
) -> None:
    """The conversation has no room for it: status 74, and it is not lost."""
    text = "x" * 4000
    server.script(stream(text))
    result = limit_files(ask, 4)("-o", str(report), "-S", "mine", "hi")
    assert (result.stdout.decode(), result.status) == (f"{text}\n", 74)
    assert "it is on standard output alone" in result.error
    check_old(report)


# Where it cannot be written, and where it is not replaced


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing/report.txt", "No such file or directory"),
        (".", "Is a directory"),
        ("", "Is a directory"),
        ("report.txt/x", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_bad_name_is_refused_before_anything_is_asked(
    ask: Kimi, server: ReplayServer, report: Path, name: str, why: str
) -> None:
    """Status 73, and no request."""
    result = ask("-o", name, "hi", cwd=report.parent)
    assert (result.stdout, result.status) == (b"", 73)
    assert why in result.error
    assert server.requests == []
    check_old(report)


def test_a_device_stays_a_device(ask: Kimi, server: ReplayServer) -> None:
    """Nothing takes the name of /dev/null; a device that is full says so."""
    server.script(stream("Hello"), stream("Hello"))
    before = os.stat("/dev/null")
    result = ask("-o", "/dev/null", "hi")
    assert (result.stdout, result.status) == (b"", 0)
    assert os.path.samestat(before, os.stat("/dev/null"))
    result = ask("-o", "/dev/full", "hi")
    assert result.status == 74
    assert "cannot write /dev/full: No space left on device" in result.error


def test_a_pipe_gets_each_piece(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """As it comes, also of an answer that is not whole."""
    event = threading.Event()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    server.script(stream("Hel", Barrier(event), "lo", finish="length"))
    run = ask.start("-o", str(pipe), "hi")
    with pipe.open("rb", buffering=0) as reader:
        assert reader.read(100) == b"Hel"
        event.set()
        result = run.wait()
        assert reader.read(100) == b"lo\n"
    assert (result.stdout, result.status) == (b"", 3)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_pipe_whose_reader_leaves(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Status 74: it is not standard output, of which nobody need be told."""
    event = threading.Event()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    server.script(stream("Hel", Barrier(event), "lo"))
    run = ask.start("-o", str(pipe), "hi")
    with pipe.open("rb", buffering=0) as reader:
        assert reader.read(100) == b"Hel"
    event.set()
    result = run.wait()
    assert result.status == 74
    assert "pipe: Broken pipe" in result.error


def test_a_descriptor_of_the_shell(kimi: Kimi, ask: Kimi, server: ReplayServer) -> None:
    """It is added to, as the shell opened it; standard output has its own names."""
    server.script(stream("one"), stream("two"), stream("three"))
    script = (
        "echo zero > log; "
        f"kimi ask --no-auth --base-url {server.url} -o /dev/fd/3 1 3>> log; "
        f"kimi ask --no-auth --base-url {server.url} -o - 2; "
        f"kimi ask --no-auth --base-url {server.url} -o /dev/stdout 3"
    )
    result = kimi.shell(script).wait()
    assert (result.stdout, result.status) == (b"two\nthree\n", 0)
    assert (kimi.folder / "log").read_bytes() == b"zero\none\n"


def test_a_dry_run_leaves_the_file(ask: Kimi, report: Path) -> None:
    """It shows the request, and waits for no pipe."""
    pipe = report.parent.parent / "pipe"
    os.mkfifo(pipe)
    for path in (report, pipe):
        assert json.loads(ask("-o", str(path), "--dry-run", "hi").stdout)["messages"]
    check_old(report)


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (("--tee",), 2, "--tee needs a file"),
        (("--test", "-o", "report.txt"), 2, "exclude each other"),
        (("--tee", "-o", "-"), 65, "is standard output"),
        (("--tee", "-o", "/dev/stdout"), 65, "is standard output"),
    ],
)
def test_options_that_make_no_sense(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...], status: int, said: str
) -> None:
    """Are told before anything is asked."""
    result = ask(*options, "hi")
    assert (result.stdout, result.status) == (b"", status)
    assert said in result.error
    assert server.requests == []
