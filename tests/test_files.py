"""Files that must survive: appended to, mended, locked and replaced, whatever the system says."""

from __future__ import annotations

import json
import os
import resource
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conversations import CONVERSATIONS, find_record, read_lines
from faults import fail_calls
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import echo, make_rows, write_rows
from server import ReplayServer, stream

from kimi_cli.system import files
from kimi_cli.system.files import (
    CutBack,
    Held,
    append,
    check_place,
    find_stream,
    locked,
    mend_tail,
    replace_whole,
    replacing,
)
from kimi_cli.system.terminal import Terminal


@contextmanager
def opened(path: Path) -> Iterator[int]:
    """Open a file as those do who append to it."""
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def room(size: int) -> Iterator[None]:
    """Let no file of this process grow over *size* bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(st.integers(0, 60), st.booleans())
def test_what_finds_no_room_is_cut_back(size: int, by_line: bool) -> None:
    """Nothing of it stays, or the whole lines for which there was room."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(b"old\n")
        data = b"first\nsecond\nthird line\n"
        with opened(path) as descriptor, room(size):
            try:
                append(descriptor, data, by_line=by_line)
                kept = len(data)
            except CutBack as error:
                kept = error.kept
        there = path.read_bytes()
        assert there == b"old\n" + data[:kept]
        fits = max(0, size - 4)
        whole = [0, 6, 13, 24] if by_line else [0, 24]
        assert kept == max(place for place in whole if place <= fits)


@given(st.binary(max_size=40), st.binary(max_size=12).map(lambda tail: tail.replace(b"\n", b"")))
def test_a_tail_is_mended(lines: bytes, tail: bytes) -> None:
    """What is judged whole gets its line feed, what is torn is cut off; whole lines stay."""
    import tempfile

    lines = lines.rstrip(b"\n") + b"\n" if lines.strip(b"\n") else b""
    whole = len(tail) // 2
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "f")
        path.write_bytes(lines + tail)
        with opened(path) as descriptor:
            assert mend_tail(descriptor, lambda found: whole) == len(tail)
        kept = tail[:whole] + b"\n" if whole else b""
        assert path.read_bytes() == lines + kept


def test_a_long_tail_is_mended_at_its_own_line_feed(tmp_path: Path) -> None:
    """Blocks of reading do not show: the tail may be longer than many of them."""
    path = tmp_path / "f"
    tail = b"x" * 200_000
    path.write_bytes(b"one\ntwo\n" + tail)
    seen = []
    with opened(path) as descriptor:
        mend_tail(descriptor, lambda found: seen.append(found) or 0)
    assert seen == [tail]
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    """Whoever may not wait is told the process."""
    path = tmp_path / "f"
    with opened(path) as one, opened(path) as two, locked(one, path):
        with pytest.raises(Held) as held, locked(two, path, wait=False):
            pass
        assert held.value.holder == f" (process {os.getpid()})"


def test_waiting_for_a_lock_is_told(tmp_path: Path) -> None:
    """After some seconds, once; and the lock is had when it is given back."""
    path, told, go = tmp_path / "f", [], threading.Event()

    def note(message: str) -> None:
        told.append(message)
        go.set()

    with opened(path) as one, opened(path) as two:

        def hold() -> None:
            with locked(one, path):
                ready.set()
                go.wait(30)

        ready = threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        ready.wait(30)
        with locked(two, path, notify=note):
            pass
        holder.join()
    assert told == [f"waiting for {path}, which another process holds (process {os.getpid()})"]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o644, 0o4755])
def test_replacing_keeps_mode_and_links(tmp_path: Path, mode: int) -> None:
    """A link stays a link, the mode the mode; nothing is left behind."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.write_bytes(b"old")
    real.chmod(mode)
    link.symlink_to("real")
    replace_whole(link, b"new")
    assert real.read_bytes() == b"new"
    assert link.is_symlink()
    assert stat.S_IMODE(real.stat().st_mode) == mode
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_a_new_file_has_the_mode_of_the_umask_or_the_given_one(tmp_path: Path, umask: int) -> None:
    """As ``open`` makes it; a mode that is given holds whatever the umask, or the old mode."""
    before = os.umask(umask)
    try:
        replace_whole(tmp_path / "plain", b"x")
        replace_whole(tmp_path / "secret", b"x", mode=0o600)
        (tmp_path / "old").write_bytes(b"x")
        replace_whole(tmp_path / "old", b"x", mode=0o600)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {"plain": 0o666 & ~umask, "secret": 0o600, "old": 0o600}


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    """All of the new content, or the old one, and nothing beside it."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with room(100), pytest.raises(OSError, match="File too large"):
        replace_whole(path, b"n" * 5000)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_failure_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    """Whatever it is."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError), replacing(path) as new:
        new.write(b"%d" % (1 // 0))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


def test_a_name_of_full_length_can_be_replaced(tmp_path: Path) -> None:
    """The temporary name is not made from it."""
    path = tmp_path / ("x" * 255)
    replace_whole(path, b"1")
    replace_whole(path, b"2")
    assert path.read_bytes() == b"2"


def test_what_is_no_regular_file_is_written_to(tmp_path: Path) -> None:
    """A pipe stays a pipe, and its reader gets all; a device that is full says so."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    replace_whole(pipe, b"x" * 200_000)
    reader.join(30)
    assert got == [b"x" * 200_000]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    with pytest.raises(OSError, match="No space left"):
        replace_whole("/dev/full", b"x")


def test_a_file_that_is_mounted_is_written_over(tmp_path: Path) -> None:
    """Its name cannot be given to another file, as in containers that get one file."""
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.write_bytes(b"")
    outside.write_bytes(b"longer than the new content")
    mounted = os.system(f"mount --bind {outside} {inside} 2>/dev/null") == 0
    if not mounted:
        pytest.skip("nothing can be mounted here")
    try:
        check_place(inside)
        replace_whole(inside, b"new")
    finally:
        os.system(f"umount {inside}")
    assert outside.read_bytes() == b"new"


@pytest.mark.parametrize("size", [0, 10, 4000])
def test_a_file_that_is_written_over_gets_its_content_back(tmp_path: Path, size: int) -> None:
    """Where the new one finds no room: there is no other copy of the old one."""
    path = tmp_path / "file"
    path.write_bytes(b"o" * size)
    with room(4096), pytest.raises(OSError, match="File too large"):
        files._write_over(path, b"n" * 6000)
    assert path.read_bytes() == b"o" * size
    files._write_over(path, b"new")
    assert path.read_bytes() == b"new"


def test_our_own_streams_are_known_by_any_name(tmp_path: Path) -> None:
    """By number, through links, and no other process's."""
    link = tmp_path / "link"
    link.symlink_to("/dev/stderr")
    again = tmp_path / "again"
    again.symlink_to("link")
    names = ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", f"/proc/{os.getpid()}/fd/2"]
    names += ["/proc/thread-self/fd/2", "/dev/../dev/fd/2", str(link), str(again)]
    assert {name: find_stream(name) for name in names} == dict.fromkeys(names, 2)
    assert find_stream("/dev/fd/77") == 77
    assert find_stream("/proc/1/fd/2") is None
    assert find_stream(tmp_path / "2") is None
    assert find_stream("/dev/null") is None
    unused = os.dup(2)
    os.close(unused)
    with pytest.raises(OSError, match="Bad file descriptor"):
        check_place(f"/dev/fd/{unused}")


@pytest.mark.parametrize("name", ["/dev/stderr", "/dev/fd/2", "run.log", "link"])
def test_a_summary_on_stderr_is_added_to_its_log(
    batch: Kimi, server: ReplayServer, home: Path, name: str
) -> None:
    """F13: what the log held before stays, and what is written to it afterwards comes as well."""
    server.answer(echo)
    source = write_rows(home / "in.jsonl", make_rows(1))
    (home / "run.log").write_bytes(b"yesterday\n")
    (home / "link").symlink_to("/dev/stderr")
    line = f"{batch.program} batch --base-url {server.url} {source} -o out.jsonl --summary {name}"
    run = batch.shell(f"{line} 2>>run.log; echo end >&2 2>>run.log").wait()
    assert run.status == 0
    lines = (home / "run.log").read_bytes().splitlines()
    assert lines[0] == b"yesterday"
    assert any(b'"answered": 1' in line or b'"answered":1' in line for line in lines)
    assert (home / "run.log").stat().st_nlink == 1


def test_a_summary_goes_through_another_descriptor(
    batch: Kimi, server: ReplayServer, home: Path
) -> None:
    """As a shell gives it for ``--summary /dev/fd/3 3>>figures``, or ``>(jq .)``."""
    server.answer(echo)
    source = write_rows(home / "in.jsonl", make_rows(1))
    (home / "figures").write_text("{}\n")
    line = f"{batch.program} batch --base-url {server.url} {source} -o out.jsonl"
    assert batch.shell(f"{line} --summary /dev/fd/3 3>>figures").wait().status == 0
    first, *rest = (home / "figures").read_text().splitlines()
    assert first == "{}"
    assert json.loads("".join(rest))["rows"]["answered"] == 1
    result = batch.shell(f"{line} --summary /dev/fd/9").wait()
    assert result.status == 73
    assert "cannot write /dev/fd/9: Bad file descriptor" in result.error


def test_a_conversation_without_locks(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """F20: it is kept, and a word says what stands in for the lock."""
    server.script(stream("one"))
    result = fail_calls(ask, "flock", "error=ENOLCK")("-S", "mine", "hi")
    assert (result.status, result.stdout) == (0, b"one\n")
    assert "mine.jsonl.lock stands in for one" in result.error
    record = find_record(home, "mine")
    assert [line["content"] for line in read_lines(record)] == ["hi", "one"]
    assert [path.name for path in record.parent.iterdir()] == ["mine.jsonl"]


def test_no_answer_is_kept_twice(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """T7: a disk that cannot be read for a moment, after a good write or before one."""
    server.answer(lambda request: stream(f"re: {request.json['messages'][-1]['content']}"))
    chat = kimi.but("chat", "--no-auth", "--base-url", server.url)
    for when in range(1, 13):
        failing = fail_calls(chat, "pread64", f"error=EIO:when={when}")
        failing("-S", f"s{when}", stdin=b"q1\nq2\nq3\n")
        record = home / CONVERSATIONS / f"s{when}.jsonl"
        said = (
            [line["content"] for line in read_lines(record)]
            if record.exists() and record.stat().st_size
            else []
        )
        assert len(said) == len(set(said)), (when, said)


def test_a_trace_is_private_whatever_was_there(tmp_path: Path) -> None:
    """T13: a file that others could read is replaced; a stream is written to."""
    path = tmp_path / "trace"
    path.write_text("old")
    path.chmod(0o644)
    Terminal({}).save_trace(str(path), ValueError("oh"))
    assert path.read_text() == "ValueError: oh\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with (tmp_path / "log").open("a+") as log:
        log.write("before\n")
        log.flush()
        Terminal({}).save_trace(f"/dev/fd/{log.fileno()}", ValueError("oh"))
    assert (tmp_path / "log").read_text() == "before\nValueError: oh\n"
    with pytest.raises(FileNotFoundError):
        Terminal({}).save_trace(str(tmp_path / "nowhere/trace"), ValueError("oh"))
