"""Conversations at their edges: last lines, locks, odd files, `kimi log`, and chats in pipes."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import test_conversation
import test_log
import test_talk
from program import Kimi
from server import ReplayServer, completion, stream
from test_conversation import FIRST, NEXT, list_record, open_file, read_lines
from test_log import DAY, assistant, encode, keep, user

from kimi_cli.api.messages import Delta, Message
from kimi_cli.conversation.archive import ConversationFile
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Manner
from kimi_cli.errors import BadInput

asking, mine = test_conversation.asking, test_conversation.mine
folder, log, piped = test_log.folder, test_log.log, test_talk.piped

# The last line


SAID = encode(user("one"), assistant("re: one"))


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
        encode(user("two"))[:-2],
        encode(user("two"))[:-1] + b"\0",
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
        (lambda file: file.append([NEXT]), encode(FIRST) + NEXT.encode()),
        (lambda file: file.remove({0}), b""),
    ],
    ids=["append", "remove"],
)
def test_who_writes_waits_for_the_lock(
    tmp_path: Path, act: Callable[[ConversationFile], object], after: bytes
) -> None:
    """Nothing changes while another process holds it."""
    path = tmp_path / "x.jsonl"
    path.write_bytes(encode(FIRST))
    file, _ = open_file(path)
    thread = threading.Thread(target=act, args=[file], daemon=True)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        thread.start()
        thread.join(0.3)
        assert path.read_bytes() == encode(FIRST)
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
    with dialogue.record("q", Manner(model="m", profile="p"), system="s") as exchange:
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


# What is sent


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        (("-m", "moonshotai/kimi-k3"), True),
        (("-O", 'model="kimi-k3"'), True),
        (("-O", "model=moonshotai/kimi-k3"), True),
        (("-m", "kimi-k3", "-O", "model=kimi-k2.5"), False),
        (("-O", 'thinking={"type":"enabled","keep":"all"}'), True),
        (("-O", 'thinking={"type":"enabled"}'), False),
        (("-O", "thinking=all"), False),
    ],
)
def test_reasoning_goes_back_to_whom_asks_for_it(
    mine: Kimi, server: ReplayServer, options: tuple[str, ...], wanted: bool
) -> None:
    """However the model is named, or told to keep it; the next turn does so by itself."""
    server.script(stream("yes", reasoning=["Hm."]))
    for question in ("one", "two"):
        assert mine(*options, question).status == 0
    assert mine("three").status == 0
    sent = {"reasoning_content": "Hm."} if wanted else {}
    for request in server.requests[1:]:
        assert request.json["messages"][1] == assistant("yes", **sent)
        assert request.json["model"] == server.requests[0].json["model"]


def test_half_a_character_in_a_part_is_sent(mine: Kimi, server: ReplayServer, folder: Path) -> None:
    """As U+FFFD, wherever in the message another program escaped it; its line stays."""
    parts = [{"type": "text", "text": "a\ud83d"}, {"type": "x", "\ude00": ["\ud83d\ude00"]}]
    data = b"".join(json.dumps(make(parts)).encode() + b"\n" for make in (user, assistant))
    path = keep(folder, "mine", data)
    result = mine("two")
    assert (result.stdout, result.error, result.status) == (b"re: two\n", "", 0)
    mended = [{"type": "text", "text": "a\ufffd"}, {"type": "x", "\ufffd": ["😀"]}]
    assert server.requests[0].json["messages"] == [user(mended), assistant(mended), user("two")]
    assert path.read_bytes().startswith(data)


# kimi log


def _close(folder: Path) -> None:
    folder.chmod(0)


def _put_a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("in the way")


def _put_a_loop(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to(folder)


def _put_a_folder(folder: Path) -> None:
    (folder / "mine.jsonl").mkdir()


@pytest.mark.parametrize("spoil", [_close, _put_a_file, _put_a_loop, _put_a_folder])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["markdown", "json"])
def test_what_cannot_be_reached_is_not_shown(
    log: Kimi, home: Path, folder: Path, spoil: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    """In one line with the system's reason; root is bound by modes without its privilege."""
    if spoil is _close and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything")
        bound = home / "bound"
        bounds = "--bounding-set=-dac_override,-dac_read_search"
        bound.write_text(f'#!/bin/sh\nexec setpriv {bounds} "{log.program}" "$@"\n')
        bound.chmod(0o755)
        log = replace(log, program=bound)
    spoil(folder)
    try:
        result = log("show", *options, "mine")
    finally:
        if spoil is _close:
            folder.chmod(0o700)
    assert (result.status, result.stdout, result.error.count("\n")) == (66, b"", 1)
    assert result.error.startswith(f"kimi: cannot read {folder}/mine.jsonl: ")


@pytest.mark.parametrize(
    ("names", "status", "told"),
    [
        (("none", "a", "b"), 66, ["there is no conversation 'none'"]),
        (("a", "dir", "b"), 73, ["cannot remove conversation 'dir': "]),
        (
            ("a", "none", "b", "dir"),
            66,
            ["cannot remove conversation 'dir'", "no conversation 'none'"],
        ),
        (("../x", "a", "b"), 65, ["'../x' cannot name a conversation"]),
    ],
)
def test_what_cannot_be_removed_keeps_no_other(
    log: Kimi, folder: Path, names: tuple[str, ...], status: int, told: list[str]
) -> None:
    """Each is told in a line of its own; the first decides the status."""
    for name in ("a", "b"):
        keep(folder, name, user("q"))
    (folder / "dir.jsonl").mkdir()
    result = log("rm", *names)
    assert (result.status, result.stdout) == (status, b"")
    for line, words in zip(result.error.splitlines(), told, strict=True):
        assert words in line
    assert os.listdir(folder) == ["dir.jsonl"]


def test_old_ones_go_though_one_cannot(log: Kimi, folder: Path) -> None:
    """Only what was removed is counted."""
    for name in ("a", "b", "new"):
        keep(folder, name, user("q"), age=0 if name == "new" else 9 * DAY)
    (folder / "dir.jsonl").mkdir()
    os.utime(folder / "dir.jsonl", (1, 1))
    result = log("rm", "--older-than", "7d")
    assert (result.status, result.stdout) == (73, b"")
    counted, refused = result.error.splitlines()
    assert counted == "kimi: 2 removed"
    assert refused.startswith("kimi: cannot remove conversation 'dir': ")
    assert sorted(os.listdir(folder)) == ["dir.jsonl", "new.jsonl"]


def test_a_long_name_leaves_room(log: Kimi, folder: Path) -> None:
    """For all other columns on a terminal; a pipe gets it whole."""
    name = "x" * 150
    keep(folder, name, user("What is a pipe?"), age=-600)
    keep(folder, "short", user("Who made it?"), age=DAY + 9)
    long, short = log.pty().wait().stdout.decode().splitlines()[1:]
    assert long.split(maxsplit=3) == ["x" * 39 + "…", "1", "now", "What is a pipe?"]
    assert short.split(maxsplit=4) == ["short", "1", "1", "d", "Who made it?"]
    assert long.index("What") == short.index("Who") < 80
    assert f"\n{name}  1      now  What" in log().stdout.decode()


def test_a_headline_is_one_line(log: Kimi, folder: Path) -> None:
    """Whatever another program wrote for the model, the time, and the flaw."""
    facts = {"model": "m\n## Question", "time": "now\r\n", "incomplete": "a\u2028\n# b"}
    keep(folder, "mine", user("q"), assistant("a", **facts))
    shown = log("show", "mine").stdout.decode()
    headlines = [line for line in shown.splitlines() if line.startswith("#")]
    assert headlines[1:] == ["## Question", "## Answer of m ## Question, now , incomplete: a # b"]


def test_an_image_has_a_sign(log: Kimi, folder: Path) -> None:
    """Where a question has no text, and beside its text."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    keep(folder, "mine", user([image]), user([{"type": "text", "text": "What?"}, image, {"a": 1}]))
    assert log().stdout.decode().split("\n")[1].split() == ["mine", "2", "now", "[image_url]"]
    shown = log("show", "mine").stdout.decode().split("\n\n")
    assert shown[2:3] + shown[4:] == ["[image_url]", "What?", "[image_url]", "[something]\n"]


# Chats in pipes


def test_an_empty_answer_leaves_no_gap(piped: Kimi, server: ReplayServer) -> None:
    """Blank lines stand between answers, not before the first or in place of one."""
    server.script(stream("", finish="length"), stream("A"), stream(" \n"), stream("B"))
    result = piped("--allow-incomplete", stdin=b"1\n2\n3\n4\n")
    assert (result.stdout, result.status) == (b"A\n\nB\n", 0)


def test_lines_are_measured_in_bytes(piped: Kimi, server: ReplayServer) -> None:
    """With their ends, as files are."""
    result = piped("--max-input", "40", stdin=f"{'é' * 19}e\n{'é' * 20}\n".encode())
    assert (result.status, result.stdout.decode()) == (65, f"re: {'é' * 19}e\n")
    assert result.error.startswith("kimi: line 2 of standard input is too long; see --max-input")
    assert len(server.requests) == 1


def test_lines_without_a_byte_order_mark(piped: Kimi, server: ReplayServer) -> None:
    """Where the encoding wants one it is told; with it, lines are lines."""
    result = piped("--encoding", "utf-16", stdin="one\ntwo\n".encode("utf-16-le"))
    assert (result.status, result.stdout) == (65, b"")
    assert result.error.startswith("kimi: line 1 of standard input is not UTF-16; ")
    assert result.error.count("\n") == 1
    assert not server.requests
    result = piped("--encoding", "utf-16", stdin="one\ntwo\n".encode("utf-16"))
    assert (result.status, result.stdout) == (0, b"re: one\n\nre: two\n")


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_calls_of_tools_are_answers_apart(piped: Kimi, server: ReplayServer) -> None:
    """A blank line parts them from the others as well."""
    calls = completion(None, finish="tool_calls", tool_calls=[CALL])
    server.script(completion("one"), calls, completion("three"))
    result = piped("--no-stream", stdin=b"1\n2\n3\n")
    first, second, third = result.stdout.decode().split("\n\n")
    assert (first, third, result.status) == ("one", "three\n", 0), result.error
    assert json.loads(second)[0]["id"] == "c1"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("See:\n```python\nx = 1", "\n```"),
        ("~~~~\n```\n~~~\nx", "\n~~~~"),
        ("```\nx\n```", ""),
        ("```\nx\n````  ", ""),
        ("``` not a fence ```", ""),
        ("````\n```\n````\n  ```js\ny", "\n```"),
    ],
)
def test_a_cut_block_of_code_ends_with_its_answer(
    log: Kimi, folder: Path, text: str, end: str
) -> None:
    """The next heading is not a part of it."""
    keep(folder, "mine", user("q"), assistant(text), user("next"))
    assert f"\n\n{text}{end}\n\n## Question" in log("show", "mine").stdout.decode()


def test_words_are_found_across_spaces(log: Kimi, folder: Path) -> None:
    """However many are between them, there or in what is looked for."""
    keep(folder, "mine", user("Go   and\nsee more"))
    assert log("search", "go  and  SEE").status == 0
    assert b"Go and see more" in log("search", "go  and  SEE").stdout


@pytest.mark.parametrize("columns", ["²", "0", "-1", "x", "٣"])
def test_odd_widths_are_none(log: Kimi, folder: Path, columns: str) -> None:
    """COLUMNS counts where it is a number."""
    keep(folder, "mine", user("q"))
    result = log.pty(env={"COLUMNS": columns}).wait()
    assert (result.status, b"mine" in result.stdout) == (0, True)


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
