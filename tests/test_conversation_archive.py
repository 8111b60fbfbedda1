"""Conversation files: torn and damaged lines, modes, locks, full disks, and names."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from conversations import (
    FIRST,
    LAST,
    Line,
    assistant,
    calling,
    encode,
    encode_compact,
    find_mode,
    keep,
    list_record,
    read_lines,
    result,
    say,
    system,
    user,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from program import Kimi
from server import ReplayServer

from kimi_cli.api.messages import Delta, Message
from kimi_cli.conversation import archive
from kimi_cli.conversation.archive import Archive, ConversationFile
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Entry, Manner
from kimi_cli.errors import BadInput, MissingInput, TemporaryFailure
from kimi_cli.prompt.content import Prompt


def open_file(path: Path, *lines: Line) -> tuple[ConversationFile, list[str]]:
    """A conversation that has these lines and was read, and what it was told of."""
    if lines:
        path.write_bytes(encode(*lines))
    told: list[str] = []
    file = ConversationFile(path, told.append)
    file.read()
    return file, told


NEXT = say("next")
SAID = encode_compact(user("one"), assistant("re: one"))


# The file


@pytest.mark.parametrize("nuls", [0, 1, 4096, 70_000])
@pytest.mark.parametrize("before", [(), (FIRST,)], ids=["alone", "second"])
def test_a_torn_last_line_is_dropped(tmp_path: Path, before: tuple[Line, ...], nuls: int) -> None:
    """At every byte where a power cut may tear it; what only lacks its end is completed."""
    path = tmp_path / "x.jsonl"
    start, line = encode(*before), encode(LAST)
    for place in range(len(line) + 1) if nuls < 4096 else (0, 1, 20, len(line) - 1, len(line)):
        path.write_bytes(start + line[:place] + b"\0" * nuls)
        told: list[str] = []
        file = ConversationFile(path, told.append)
        conversation = file.read()
        assert conversation is not None
        is_kept = place == len(line) or (place == len(line) - 1 and not nuls)
        is_torn = bool(nuls) or (place > 0 and not is_kept)
        kept = [*before, LAST] if is_kept else [*before]
        assert [json.loads(entry.encode()) for entry in conversation.entries] == kept
        assert told == [f"{path}: the last line was torn, and is dropped"] * is_torn
        assert file.append([NEXT]) is True
        assert path.read_bytes() == encode(*kept) + NEXT.encode()


@pytest.mark.parametrize("size", [65_535, 65_536, 65_537, 200_000])
@pytest.mark.parametrize("whole", [True, False])
def test_a_long_last_line_is_mended(tmp_path: Path, size: int, whole: bool) -> None:
    """However many blocks of the file it takes to find where it begins."""
    path = tmp_path / "x.jsonl"
    line = encode(user("x"))[:-1]
    line = line.replace(b"x", b"x" * (size - len(line) + 1))
    assert len(line) == size
    path.write_bytes(encode(FIRST) + (line if whole else line[:-1]))
    file, _ = open_file(path)
    file.append([NEXT])
    kept = line + b"\n" if whole else b""
    assert path.read_bytes() == encode(FIRST) + kept + NEXT.encode()


@pytest.mark.parametrize("size", [0, 1, 3, 65_536])
def test_nothing_but_nul_is_an_empty_conversation(tmp_path: Path, size: int) -> None:
    """A file whose blocks never reached the disk."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\0" * size)
    file, told = open_file(path)
    assert len(told) == bool(size)
    file.append([NEXT])
    assert path.read_bytes() == NEXT.encode()


@pytest.mark.parametrize(
    "damage",
    [b"my notes\n", b"\0\0\0\n", b'{"role":"user"\n', b"{}\n", b"\xff\n", b'{"role":"user","con'],
)
@pytest.mark.parametrize("tail", [b"", b'{"role":"us', encode(LAST)])
def test_a_damaged_file_is_left_alone(tmp_path: Path, damage: bytes, tail: bytes) -> None:
    """A bad line with another after it: neither read nor replaced, and not a byte changes."""
    path = tmp_path / "x.jsonl"
    data = encode(FIRST) + damage + encode(FIRST) + tail
    path.write_bytes(data)
    file = ConversationFile(path)
    for act in (file.read, lambda: file.replace([NEXT])):
        with pytest.raises(BadInput, match=r"x\.jsonl:2 is no message"):
            act()
    assert path.read_bytes() == data
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_blank_lines_and_other_line_ends_are_tolerated(tmp_path: Path) -> None:
    """As other programs write them."""
    path = tmp_path / "x.jsonl"
    data = b"\n" + encode(FIRST).replace(b"\n", b"\r\n\r\n") + b"  \n" + encode(LAST)
    path.write_bytes(data)
    file, told = open_file(path)
    conversation = file.read()
    assert conversation is not None
    assert [entry.message.text for entry in conversation.entries] == ["first é", "last 漢 😀"]
    file.append([NEXT])
    assert path.read_bytes() == data + NEXT.encode()
    file.remove({1})
    assert path.read_bytes() == data.removesuffix(encode(LAST)) + NEXT.encode()
    assert not told


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_messages_are_taken_out_again(tmp_path: Path, data: st.DataObject) -> None:
    """Next to each other or not; the others stay byte for byte, and the file goes on."""
    path = tmp_path / "x.jsonl"
    count = data.draw(st.integers(1, 8))
    gone = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    lines = [encode(user("x" * number)) for number in range(count)]
    path.write_bytes(b"".join(lines))
    file, _ = open_file(path)
    file.remove(gone)
    left = b"".join(line for number, line in enumerate(lines) if number not in gone)
    assert path.read_bytes() == left
    assert file.append([NEXT]) is True
    assert path.read_bytes() == left + NEXT.encode()


def test_the_last_turn_is_taken_back(tmp_path: Path) -> None:
    """As a whole, out of the middle of somebody else's, and only of what was seen."""
    path = tmp_path / "x.jsonl"
    lines = [
        system("s", turn="1"),
        user("a", turn="1"),
        user("b", turn="2"),
        calling("c1", turn="2"),
        assistant("A", turn="1"),
        result("c1", turn="2"),
        assistant("B", turn="2"),
    ]
    file, _ = open_file(path, *lines)
    dialogue = Dialogue(file.read(), file, warn=pytest.fail)
    assert dialogue.take_back() == "b"
    assert read_lines(path) == [lines[0], lines[1], lines[4]]
    other, _ = open_file(path)
    other.append([NEXT])
    before = path.read_bytes()
    with pytest.raises(TemporaryFailure, match="went on in another process"):
        dialogue.take_back()
    assert path.read_bytes() == before


UMASKS = pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
WAYS = pytest.mark.parametrize("way", [ConversationFile.append, ConversationFile.replace])
Way = Callable[[ConversationFile, Sequence[Entry]], object]


@pytest.fixture
def masked(umask: int) -> Iterator[None]:
    """The test runs with that umask."""
    before = os.umask(umask)
    yield
    os.umask(before)


@UMASKS
@WAYS
@pytest.mark.usefixtures("masked")
def test_only_the_owner_may_read(tmp_path: Path, way: Way) -> None:
    """Folder 0700 and file 0600, whatever the umask, however the file is begun."""
    path = tmp_path / "conversations" / "x.jsonl"
    way(ConversationFile(path), [NEXT])
    assert (find_mode(path.parent), find_mode(path)) == (0o700, 0o600)
    path.parent.chmod(0o755)
    way(ConversationFile(path.with_name("y.jsonl")), [NEXT])
    assert (find_mode(path.parent), find_mode(path.with_name("y.jsonl"))) == (0o700, 0o600)


@pytest.mark.parametrize("umask", [0o000, 0o777])
@WAYS
@pytest.mark.usefixtures("masked")
def test_folders_above_are_for_the_owner(tmp_path: Path, way: Way) -> None:
    """What is made on the way is as the XDG specification wants it: 0700."""
    way(ConversationFile(tmp_path / "kimi" / "conversations" / "x.jsonl"), [NEXT])
    assert find_mode(tmp_path / "kimi") == 0o700


def _recreate(path: Path) -> None:
    path.unlink()
    path.write_bytes(encode(user("new")))


def _rename_over(path: Path) -> None:
    ConversationFile(path).replace([say("new")])


@pytest.mark.parametrize(
    "meanwhile",
    [
        Path.unlink,
        lambda path: shutil.rmtree(path.parent),
        lambda path: path.write_bytes(b""),
        _recreate,
        _rename_over,
    ],
    ids=["removed", "folder removed", "emptied", "made anew", "replaced"],
)
def test_what_took_its_place_is_left_alone(
    tmp_path: Path, meanwhile: Callable[[Path], object]
) -> None:
    """Who still talks in the old file is told, and neither adds to the new one nor makes one."""
    path = tmp_path / "conversations" / "x.jsonl"
    path.parent.mkdir()
    file, _ = open_file(path, FIRST, LAST)
    meanwhile(path)
    before = path.read_bytes() if path.exists() else None
    for _ in range(2):
        with pytest.raises(TemporaryFailure, match="conversation x was replaced or removed"):
            file.append([NEXT])
    with pytest.raises(TemporaryFailure):
        file.remove({0})
    assert (path.read_bytes() if path.exists() else None) == before


def test_who_wrote_in_between_is_noticed(tmp_path: Path) -> None:
    """Both are kept; a shorter file is noticed as well as a longer one."""
    path = tmp_path / "x.jsonl"
    one, two = ConversationFile(path), ConversationFile(path)
    assert one.read() is None
    assert one.append([say("1")]) is True
    two.read()
    assert two.append([say("2")]) is True
    assert one.append([say("3")]) is False
    assert one.append([say("4")]) is True
    two.read()
    one.remove({2})
    assert two.append([say("5")]) is False
    assert [line["content"] for line in read_lines(path)] == ["1", "2", "4", "5"]


@pytest.mark.parametrize("data", [b"", b'{"role":"us'])
def test_two_may_begin_in_an_empty_file(tmp_path: Path, data: bytes) -> None:
    """As a full disk or `touch` leaves it: the second is told of the first, and both are kept."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(data)
    (one, _), (two, _) = open_file(path), open_file(path)
    assert one.append([say("1")]) is True
    assert two.append([say("2")]) is False
    assert [line["content"] for line in read_lines(path)] == ["1", "2"]


def test_what_comes_while_reading_is_not_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line that is not part of the conversation that was read is somebody else's."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST))
    look_at = archive._look_at

    def be_late(descriptor: int) -> object:
        monkeypatch.undo()
        with path.open("ab") as other:
            other.write(encode(LAST))
        return look_at(descriptor)

    monkeypatch.setattr(archive, "_look_at", be_late)
    file = ConversationFile(path)
    conversation = file.read()
    assert conversation is not None
    seen = [entry.message.text for entry in conversation.entries]
    assert file.append([NEXT]) is (len(seen) == 2)


FULL_DISK = """
import resource, sys
from pathlib import Path
from kimi_cli.api.messages import Message
from kimi_cli.conversation.archive import ConversationFile
from kimi_cli.conversation.record import Entry
from kimi_cli.errors import OutputFailed

path, limit, way = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
file = ConversationFile(path)
file.read()
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
pair = [Entry(Message("system", "s" * 90)), Entry(Message("user", "é" * 90))]
count = 0
try:
    while True:
        file.remove({0}) if way == "remove" else getattr(file, way)(pair)
        count += 1
except OutputFailed as error:
    print(count, error)
"""


def fill_disk(path: Path, limit: int, way: str) -> int:
    """Write to the file in a process whose files have a limit; tell how often it worked."""
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path), str(limit), way],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    count, _, error = done.stdout.partition(" ")
    assert error == f"cannot write {path}: File too large\n"
    return int(count)


@pytest.mark.parametrize("limit", [100, 1000, 1399, 1700])
def test_a_full_disk_leaves_whole_lines_only(tmp_path: Path, limit: int) -> None:
    """Of what was written in one go all or nothing stays, and the rest stays as it was."""
    path = tmp_path / "x.jsonl"
    count = fill_disk(path, limit, "append")
    assert (count == 0) is (limit == 100)
    assert path.exists() is (count > 0)
    roles = [line["role"] for line in read_lines(path)] if count else []
    assert roles == ["system", "user"] * count
    file, told = open_file(path)
    file.append([NEXT])
    assert read_lines(path)[-1]["content"] == "next"
    assert not told


def test_a_full_disk_mends_no_tail(tmp_path: Path) -> None:
    """Where there is no room for a line feed the file stays byte for byte."""
    path = tmp_path / "x.jsonl"
    data = encode(FIRST, LAST)[:-1]
    path.write_bytes(data)
    assert fill_disk(path, len(data), "append") == 0
    assert path.read_bytes() == data


def test_a_full_disk_replaces_nothing(tmp_path: Path) -> None:
    """The old conversation is still there, and nothing lies beside it."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST, LAST))
    assert fill_disk(path, 100, "replace") == 0
    assert path.read_bytes() == encode(FIRST, LAST)
    assert os.listdir(tmp_path) == ["x.jsonl"]


def test_a_full_disk_takes_nothing_out(tmp_path: Path) -> None:
    """Messages that were to stay are there, whether or not the others could be removed."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST, LAST, LAST))
    assert fill_disk(path, 100, "remove") == 0
    assert read_lines(path)[-2:] == [LAST, LAST]


@pytest.mark.parametrize("name", ["x", "A_1", "漢字", "a.b", "a+b@c,d=e-f", "x" * 200, "latest"])
def test_good_names(tmp_path: Path, name: str) -> None:
    """Letters of any script and a little more."""
    assert Archive(tmp_path).find(name).path == tmp_path / f"{name}.jsonl"
    assert Archive(tmp_path).find(name).name == name


@pytest.mark.parametrize(
    "name",
    [*("", ".", "..", ".x", "a/b", "/x", "../x", "-x", "+x", "a b", "a\n", "a\0", "a\x1b"),
     *("x" * 201, "漢" * 67, "a:b", "a*", "~", "a\\b")],
)  # fmt: skip
def test_bad_names(tmp_path: Path, name: str) -> None:
    """Whatever could leave the folder, hide in it, or confuse a shell."""
    with pytest.raises(BadInput, match="cannot name a conversation"):
        Archive(tmp_path).find(name)


def test_what_is_not_there_is_not_made(tmp_path: Path) -> None:
    """By looking at it."""
    archive = Archive(tmp_path / "none")
    assert archive.find("x").read() is None
    assert archive.list_names() == []
    with pytest.raises(MissingInput):
        archive.load("x")
    with pytest.raises(MissingInput):
        archive.remove("x")
    assert not archive.folder.exists()


# The last line


@pytest.mark.parametrize(
    "tail",
    [
        b"my only notes",
        b'{"messages":[{"role":"user","content":"x"}]}',
        b'{"role":"developer","content":"x"}',
        b'[{"role":"user","content":"x"',
        b"{name: me",
        b"\x01\xfe\xff",
        b"7",
        b"my notes\0\0\0",
    ],
)
def test_what_is_no_message_is_no_torn_one(
    asking: Kimi, log: Kimi, server: ReplayServer, folder: Path, tail: bytes
) -> None:
    """Though no line feed ends it: nothing is asked, nothing shown, and not a byte changes."""
    paths = [keep(folder, "mine", tail), keep(folder, "latest", SAID, tail)]
    runs = [
        asking.start("-S", "mine", "two"),
        log.start("show", "mine"),
        log.start("show", "mine", "--json"),
        asking.pty("-c", "two", stdin=None),
        log.start("show"),
    ]
    for run, (path, line) in zip(runs, [(paths[0], 1)] * 3 + [(paths[1], 3)] * 2, strict=True):
        result = run.wait()
        assert (result.status, result.stdout, result.error.count("\n")) == (65, b"", 1)
        assert f"{path}:{line} is no message of a conversation, and the file" in result.error
    assert not server.requests
    result = asking.pty("two", stdin=None).wait()
    assert (result.stdout, result.status) == (b"re: two\n", 0)
    assert "the conversation is not saved: " in result.error
    assert [path.read_bytes() for path in paths] == [tail, SAID + tail]


@pytest.mark.parametrize("before", [b"", SAID], ids=["alone", "third"])
@pytest.mark.parametrize(
    "tail",
    [
        b"{",
        b'{"rol',
        b'{ "role": "user", "conte',
        b"\0\0\0",
        b'{"role":"us\0\0\0',
        b'{"role":"user","content":"x","y":' + b"[" * 200_000,
        encode_compact(user("two"))[:-2],
        encode_compact(user("two"))[:-1] + b"\0",
    ],
)
def test_a_torn_message_is_told_and_goes(
    mine: Kimi, log: Kimi, server: ReplayServer, folder: Path, before: bytes, tail: bytes
) -> None:
    """Whoever reads tells of it; after the next turn there is nothing to tell."""
    path = keep(folder, "mine", before, tail)
    told = f"kimi: {path}: the last line was torn, and is dropped\n"
    shown = log("show", "mine", "--json")
    assert (shown.stdout, shown.error, shown.status) == (before, told, 0)
    assert path.read_bytes() == before + tail
    result = mine("three")
    assert (result.stdout, result.error, result.status) == (b"re: three\n", told, 0)
    assert path.read_bytes().startswith(before + b'{"role":"user","content":"three",')
    assert [line["content"] for line in read_lines(path)][-2:] == ["three", "re: three"]
    assert log("show", "mine").error == ""


def test_a_whole_message_lacks_only_its_line_feed(mine: Kimi, log: Kimi, folder: Path) -> None:
    """It is kept without a word, and gets one."""
    path = keep(folder, "mine", SAID[:-1])
    assert log("show", "mine", "--json").stdout == SAID
    result = mine("two")
    assert (result.error, result.status) == ("", 0)
    assert path.read_bytes().startswith(SAID + b'{"role":"user","content":"two",')
    assert list_record(folder.parents[3]) == ["one", "re: one", "two", "re: two"]


# Writing


@pytest.mark.parametrize(
    ("act", "after"),
    [
        (lambda file: file.append([NEXT]), encode_compact(FIRST) + NEXT.encode()),
        (lambda file: file.remove({0}), b""),
    ],
    ids=["append", "remove"],
)
def test_who_writes_waits_for_the_lock(
    tmp_path: Path, act: Callable[[ConversationFile], object], after: bytes
) -> None:
    """Nothing changes while another process holds it."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode_compact(FIRST))
    file, _ = open_file(path)
    thread = threading.Thread(target=act, args=[file], daemon=True)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.3)
        assert path.read_bytes() == encode_compact(FIRST)
    thread.join(20)
    assert path.read_bytes() == after


def test_a_question_is_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its system prompt, and so is an answer: nobody sees a part of either."""
    path = tmp_path / "x.jsonl"
    file, _ = open_file(path, FIRST)
    dialogue = Dialogue(file.read(), file, warn=pytest.fail)
    write, lines = os.write, []

    def spy(descriptor: int, data: bytes) -> int:
        written = write(descriptor, data)
        if os.path.samestat(os.fstat(descriptor), path.stat()):
            lines.append(len(read_lines(path)))
        return written

    monkeypatch.setattr(os, "write", spy)
    with dialogue.record(Prompt("q"), Manner(model="m", profile="p"), system="s") as exchange:
        assert lines == [3]
        exchange.note(Delta("a", ""))
    monkeypatch.undo()
    assert lines == [3, 4]
    assert [line["role"] for line in read_lines(path)] == ["user", "system", "user", "assistant"]


def test_a_file_that_others_could_read_is_closed(mine: Kimi, folder: Path) -> None:
    """Once something is added to it."""
    path = keep(folder, "mine", SAID)
    path.chmod(0o644)
    assert mine("two").status == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_name_is_given_once(tmp_path: Path) -> None:
    """Of all that begin a conversation of one name at one moment, one does; the rest are told."""
    for attempt in range(10):
        barrier = threading.Barrier(8)
        kept: list[int] = []

        def begin(number: int, path: Path, barrier: threading.Barrier, kept: list[int]) -> None:
            entry = replace(NEXT, message=Message("user", f"q{number}"))
            barrier.wait(20)
            with suppress(BadInput):
                ConversationFile(path).create([entry])
                kept.append(number)

        path = tmp_path / f"{attempt}.jsonl"
        arguments = [(number, path, barrier, kept) for number in range(8)]
        threads = [threading.Thread(target=begin, args=each) for each in arguments]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert [line["content"] for line in read_lines(path)] == [f"q{number}" for number in kept]
        assert len(kept) == 1
    assert len(os.listdir(tmp_path)) == 10
