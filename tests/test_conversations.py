"""Conversations: what is kept of them, what is sent back, who may read and write them."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY, Kimi
from hypothesis import given
from hypothesis import strategies as st
from server import Cut, ReceivedRequest, ReplayServer, Reply, Stall, completion, refusal, stream

from kimi_cli.api.messages import Completion, Ending, Message, read_message
from kimi_cli.archive import Archive, ConversationFile
from kimi_cli.conversation import (
    Conversation,
    Entry,
    Manner,
    make_answer,
    make_question,
    read_entry,
)
from kimi_cli.dialogue import Dialogue
from kimi_cli.errors import BadInput, TemporaryFailure

CONVERSATIONS = ".local/state/kimi/conversations"
MANNER = Manner(model="kimi-k2.5", profile="acedata", base_url="https://api.acedata.cloud/kimi")
CUT = "\n\n[The answer was cut off here.]"

Line = dict[str, Any]

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "name": "add", "content": "3"}


def user(text: str, **facts: Any) -> Line:
    """Return the line of a question."""
    return {"role": "user", "content": text, **facts}


def assistant(text: str | None, **facts: Any) -> Line:
    """Return the line of an answer."""
    return {"role": "assistant", "content": text, **facts}


def make_conversation(*lines: Line) -> Conversation:
    """Read a conversation from its lines."""
    return Conversation(read_entry(json.dumps(line).encode()) for line in lines)


def list_sent(model: str, *lines: Line) -> list[Line]:
    """Return what *model* is sent of a conversation."""
    return [message.to_json() for message in make_conversation(*lines).make_messages(model)]


# What is sent back (design note api.md, section 5)


@pytest.mark.parametrize(
    ("model", "wanted"),
    [
        ("kimi-k3", True),
        ("kimi-k2.7-code-highspeed", True),
        ("kimi-k2.6", False),
        ("kimi-k2.5", False),
        ("moonshot-v1-8k", False),
    ],
)
def test_reasoning_is_sent_to_who_wants_it(model: str, wanted: bool) -> None:
    """As reasoning_content, and never as reasoning."""
    sent = list_sent(model, user("q"), assistant("a", reasoning_content="Hm."))
    assert sent[1].get("reasoning_content") == ("Hm." if wanted else None)
    assert not {"reasoning"} & sent[1].keys()


@pytest.mark.parametrize("reasoning", [{"reasoning_content": "Hm."}, {}])
def test_a_loop_of_tools_is_sent_whole(reasoning: Line) -> None:
    """With reasoning_content for every model, be it empty."""
    calling = assistant(None, tool_calls=[CALL], **reasoning)
    sent = list_sent("kimi-k2.5", user("1 + 2?"), calling, RESULT, assistant("3"))
    assert sent == [
        user("1 + 2?"),
        {**calling, "reasoning_content": reasoning.get("reasoning_content", "")},
        RESULT,
        assistant("3"),
    ]


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        ([user("q")], []),
        ([user("q"), assistant("")], []),
        ([user("q"), assistant(" \n")], []),
        ([user("q"), assistant(None, tool_calls=[CALL])], []),
        ([user("q"), assistant("text", tool_calls=[CALL])], [user("q"), assistant("text")]),
        ([user("q"), RESULT, assistant("a")], [user("q"), assistant("a")]),
        ([user("q"), assistant(None, tool_calls=[CALL]), RESULT], []),
        ([assistant("hello"), user("q"), assistant("a")], "all"),
        ([user("a", turn="1"), user("b", turn="2"), assistant("B", turn="2"),
          assistant("A", turn="1")],
         [user("a"), assistant("A"), user("b"), assistant("B")]),
        ([user("q"), assistant("half ", incomplete="length")],
         [user("q"), assistant("half" + CUT)]),
        ([user([{"type": "text", "text": "x"}]), assistant("a")], "all"),
        ([user("lost"), user("q"), assistant("a")], [user("q"), assistant("a")]),
    ],
)  # fmt: skip
def test_only_what_is_whole_is_sent(lines: list[Line], sent: list[Line] | str) -> None:
    """No question without an answer, no empty answer, no call without its result."""
    assert list_sent("kimi-k2.5", *lines) == (lines if sent == "all" else sent)


def test_the_last_system_prompt_stands_first() -> None:
    """An empty one takes it away."""
    first, second = ({"role": "system", "content": text} for text in ("one", "two"))
    lines = [first, user("q"), assistant("a"), second, user("r"), assistant("b")]
    assert list_sent("m", *lines)[0] == second
    assert [line["role"] for line in list_sent("m", *lines)].count("system") == 1
    silent = {"role": "system", "content": ""}
    assert list_sent("m", *lines, silent)[0] == user("q")


@given(st.text(), st.text(), st.none() | st.sampled_from(["stop", "length"]))
def test_any_text_survives_the_record(content: str, reasoning: str, finish: str | None) -> None:
    """On one line of UTF-8; half a character becomes U+FFFD, an empty answer nothing."""
    ending = Ending("i", "m", finish, {"total_tokens": 3})
    entry = make_answer("t", Completion(content, reasoning, ending), incomplete=None)
    if not content.strip():
        assert entry is None
        return
    assert entry is not None
    line = entry.encode()
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert read_entry(line) == entry
    expected = content.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    assert entry.message.content == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"role":"user","content":7}',
        b'{"role":"robot","content":"x"}',
        b'{"role":"user","content":["x"]}',
        b'{"role":"assistant","content":"x","tool_calls":7}',
        b'{"role":"assistant","content":"x","reasoning_content":7}',
        b'{"role":"user","content":"x","turn":7}',
        b'{"role":"user","content":"x","options":[]}',
        b'{"role":"user","content":"\xff"}',
    ],
)
def test_what_is_no_message_is_refused(line: bytes) -> None:
    """One kind of error for all of it."""
    with pytest.raises(ValueError):  # noqa: PT011 - whatever the decoder says
        read_entry(line)


def test_messages_are_read_as_they_are_written() -> None:
    """Every kind of them."""
    for document in (RESULT, assistant(None, tool_calls=[CALL], reasoning_content=""), user("x")):
        assert read_message(document).to_json() == document


# The file


def write_turn(file: ConversationFile, question: str, answer: str) -> list[Entry]:
    """Put one turn on record."""
    entries = make_question(question, question, MANNER)
    reply = make_answer(question, Completion(answer, "", Ending()), incomplete=None)
    assert reply is not None
    file.append(entries)
    file.append([reply])
    return [*entries, reply]


@pytest.mark.parametrize("rest", [b"", b"\0" * 9])
def test_any_tear_is_mended(tmp_path: Path, rest: bytes) -> None:
    """Wherever the last line was torn: what is before stays, and the next turn is whole."""
    path = tmp_path / "c" / "x.jsonl"
    write_turn(ConversationFile(path), "one", "two")
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut] + rest)
        told: list[str] = []
        file = ConversationFile(path, told.append)
        conversation = file.read()
        assert conversation is not None
        is_whole = cut == len(whole) - 1 and not rest
        is_torn = (cut > start or bool(rest)) and not is_whole
        assert len(conversation.entries) == 1 + is_whole
        assert len(told) == is_torn
        assert file.append(conversation.entries[:1])
        lines = path.read_bytes().splitlines()
        assert [json.loads(line)["content"] for line in lines] == (
            ["one", "two", "one"] if is_whole else ["one", "one"]
        )


def test_a_damaged_file_is_left_alone(tmp_path: Path) -> None:
    """Neither continued nor replaced, and the error names the line."""
    path = tmp_path / "x.jsonl"
    path.write_text('{"role":"user","content":"x"}\nmy notes\n')
    before = path.read_bytes()
    file = ConversationFile(path)
    for act in (file.read, lambda: file.replace([])):
        with pytest.raises(BadInput, match=r"x\.jsonl:2 is no message .* kimi log rm x"):
            act()
    assert path.read_bytes() == before


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o777])
def test_only_the_owner_can_read(tmp_path: Path, umask: int) -> None:
    """Whatever the umask, for what is begun and for what is replaced."""
    before = os.umask(umask)
    try:
        file = ConversationFile(tmp_path / "c" / "x.jsonl")
        write_turn(file, "one", "two")
        other = ConversationFile(tmp_path / "c" / "y.jsonl")
        other.replace(make_question("t", "q", MANNER))
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    for path in (tmp_path / "c").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_turns_are_taken_back_out_of_the_middle(tmp_path: Path) -> None:
    """Another process's lines between them stay; what it writes meanwhile forbids it."""
    path = tmp_path / "x.jsonl"
    lines = [user("a", turn="1"), user("b", turn="2"), assistant("B", turn="2"),
             assistant("A", turn="1")]  # fmt: skip
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    file = ConversationFile(path)
    dialogue = Dialogue(file.read(), file, warn=lambda message: None)
    other = ConversationFile(path)
    assert dialogue.take_back() == "b"
    assert [json.loads(line)["content"] for line in path.read_text().splitlines()] == ["a", "A"]
    other.read()
    other.append([Entry(Message("user", "c"))])
    with pytest.raises(TemporaryFailure, match="went on in another process"):
        dialogue.take_back()
    assert path.read_text().count("\n") == 3


def test_a_file_that_has_gone_is_not_begun_again(tmp_path: Path) -> None:
    """Removed or replaced under a talker: it is told, and writes nowhere."""
    path = tmp_path / "x.jsonl"
    file = ConversationFile(path)
    write_turn(file, "one", "two")
    path.unlink()
    with pytest.raises(TemporaryFailure, match="replaced or removed"):
        write_turn(file, "three", "four")
    ConversationFile(path).replace([])
    with pytest.raises(TemporaryFailure, match="replaced or removed"):
        write_turn(file, "three", "four")
    assert path.read_bytes() == b""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    """What has no room is taken back as a whole."""
    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from kimi_cli.archive import ConversationFile\n"
        "from kimi_cli.conversation import Entry; from kimi_cli.api.messages import Message\n"
        "from kimi_cli.errors import OutputFailed\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
        "file = ConversationFile(Path(sys.argv[1]))\n"
        "try:\n"
        "    while True: file.append([Entry(Message('user', 'x' * 900))])\n"
        "except OutputFailed as error: print(error)\n"
    )
    path = tmp_path / "x.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert "cannot write" in done.stdout
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(lines) == 5
    assert all(json.loads(line)["content"] == "x" * 900 for line in lines)


# kimi ask


def echo(request: ReceivedRequest) -> Reply:
    """Answer with the last question."""
    text = f"re: {list_contents(request)[-1]}"
    return stream(text) if request.json["stream"] else completion(text)


def list_contents(request: ReceivedRequest) -> list[str]:
    """Return what was sent, message by message."""
    return [message["content"] for message in request.json["messages"]]


def read_record(home: Path, name: str = "latest") -> list[Line]:
    """Return the messages that are kept under a name."""
    lines = (home / CONVERSATIONS / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture
def asking(ask: Kimi, server: ReplayServer) -> Kimi:
    """``kimi ask`` towards a server that echoes."""
    server.answer(echo)
    return ask


def test_a_named_conversation_goes_on(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """In a pipe as well, with its model, options and system prompt."""
    options = ("-m", "kimi-k3", "--temperature", "0.5", "-s", "Be brief.")
    assert asking("-S", "trip", *options, "one").stdout == b"re: one\n"
    assert asking("-S", "trip", "two").stdout == b"re: two\n"
    assert asking("-S", "trip", "-m", "kimi-k2.6", "--top-p", "1", "-s", "Now long.", "three")
    _, second, third = (request.json for request in server.requests)
    assert list_contents(server.requests[1]) == ["Be brief.", "one", "re: one", "two"]
    assert (second["model"], second["temperature"]) == ("kimi-k3", 0.5)
    assert (third["model"], third["temperature"], third["top_p"]) == ("kimi-k2.6", 0.5, 1)
    assert list_contents(server.requests[2])[0] == "Now long."
    roles = [line["role"] for line in read_record(home, "trip")]
    assert roles == ["system", *["user", "assistant"] * 2, "system", "user", "assistant"]
    question, answer = read_record(home, "trip")[1:3]
    assert question == {
        "role": "user", "content": "one", "model": "kimi-k3", "profile": "acedata",
        "base_url": server.url, "options": {"temperature": 0.5}, "turn": answer["turn"],
        "time": question["time"],
    }  # fmt: skip
    assert (answer["finish_reason"], answer["usage"]["total_tokens"]) == ("stop", 144)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", answer["time"])


def test_the_latest_goes_on(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Kept on a terminal, replaced by the next; read but not added to in a pipe."""
    assert asking("-c", "x").status == 66
    assert asking("unseen").status == 0
    assert not (home / CONVERSATIONS).exists()
    for question in ("zero", "one"):
        assert asking.pty(question, stdin=None).wait().status == 0
    assert asking.pty("-c", "two", stdin=None).wait().status == 0
    assert asking("-c", "three").status == 0
    assert list_contents(server.requests[-1]) == ["one", "re: one", "two", "re: two", "three"]
    assert [line["content"] for line in read_record(home)] == ["one", "re: one", "two", "re: two"]


@pytest.mark.parametrize("way", ["option", "variable", "file"])
def test_nothing_is_kept_on_request(asking: Kimi, home: Path, way: str) -> None:
    """Not even under a name, which is told."""
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text("save = false\n" if way == "file" else "")
    options = ("--no-save",) if way == "option" else ()
    env = {"KIMI_SAVE": "false"} if way == "variable" else {}
    assert asking.pty(*options, "one", stdin=None, env=env).wait().status == 0
    result = asking(*options, "-S", "mine", "one", env=env)
    source = {"option": "--no-save", "variable": "KIMI_SAVE", "file": str(config)}[way]
    assert f"conversation mine is not saved ({source})" in result.error
    assert not (home / ".local/state/kimi").exists()


@pytest.mark.parametrize(
    ("reply", "options", "status", "incomplete"),
    [
        (stream("half", Cut()), ("--retries", "0"), 75, "failed"),
        (stream("half", finish="length"), (), 3, "length"),
        (stream("half", Stall()), ("--timeout", "0.3", "--retries", "0"), 75, "failed"),
    ],
)
def test_a_cut_answer_is_marked(
    asking: Kimi,
    server: ReplayServer,
    home: Path,
    reply: Reply,
    options: tuple[str, ...],
    status: int,
    incomplete: str,
) -> None:
    """And is not sent back as if it were whole."""
    server.script(reply)
    assert asking(*options, "-S", "mine", "one").status == status
    assert read_record(home, "mine")[1]["incomplete"] == incomplete
    assert asking("-S", "mine", "go on").status == 0
    assert list_contents(server.requests[-1]) == ["one", "half" + CUT, "go on"]


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_keeps_what_came(
    asking: Kimi, server: ReplayServer, home: Path, signum: signal.Signals
) -> None:
    """But for kill -9, after which the question stands alone and is not sent."""
    server.script(stream("half", Stall()))
    run = asking.start("-S", "mine", "one")
    run.expect(b"half")
    run.signal(signum)
    assert run.wait().status == -signum
    assert asking("-S", "mine", "two").status == 0
    killed = signum == signal.SIGKILL
    before = [] if killed else ["one", "half" + CUT]
    assert list_contents(server.requests[-1]) == [*before, "two"]
    assert [line.get("incomplete") for line in read_record(home, "mine")] == (
        [None] * 3 if killed else [None, "interrupted", None, None]
    )


def test_a_refusal_leaves_the_question(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """On record, and out of the next request; an empty answer too."""
    server.script(refusal(400, "bad_request", "no"), stream(" "))
    assert asking("-S", "mine", "one").status == 65
    assert asking("-S", "mine", "two").status == 3
    assert asking("-S", "mine", "three").status == 0
    assert list_contents(server.requests[-1]) == ["three"]
    assert [line["content"] for line in read_record(home, "mine")][:2] == ["one", "two"]


def test_another_host_is_not_told(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """What was said goes elsewhere only when an option says so."""
    assert asking("-S", "mine", "one").status == 0
    plain = Kimi(asking.program, asking.environment, asking.folder)
    with ReplayServer() as other:
        other.answer(echo)
        for env in ({}, {"KIMI_BASE_URL": other.url}):
            result = plain("ask", "-S", "mine", "two", env=env)
            assert result.status == 78
            assert f"was held with {server.url}" in result.error
        assert not other.requests
        assert plain("ask", "-S", "mine", "--base-url", other.url, "two").status == 0
        assert list_contents(other.requests[0]) == ["one", "re: one", "two"]
    assert len(server.requests) == 1


def test_a_token_is_not_sent_where_only_the_conversation_points(
    kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """KIMI_TOKEN names no host: it goes along when this run names one."""
    server.answer(echo)
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profiles.desk]\nbase_url = "{server.url}"\nmodel = "m"\n')
    token = {"KIMI_TOKEN": CANARY}
    assert kimi("ask", "--profile", "desk", "-S", "mine", "one", env=token).status == 0
    refused = kimi("ask", "-S", "mine", "two", env=token)
    assert refused.status == 78
    assert "--profile desk" in refused.error
    assert len(server.requests) == 1
    again = {**token, "KIMI_PROFILE": "desk"}
    assert kimi("ask", "-S", "mine", "two", env=again).status == 0
    file = home / "token"
    file.write_text(CANARY)
    file.chmod(0o600)
    assert kimi("ask", "-S", "mine", "--token-file", str(file), "three").status == 0
    assert len(server.requests) == 3
    assert CANARY not in (home / CONVERSATIONS / "mine.jsonl").read_text()


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".x", "a b", "x" * 201, "\n"])
def test_a_bad_name_is_refused(asking: Kimi, server: ReplayServer, name: str) -> None:
    """Before anything is asked."""
    assert asking("-S", name, "one").status == 65
    assert not server.requests


def test_what_cannot_be_kept_is_not_bought_under_a_name(
    asking: Kimi, server: ReplayServer, home: Path
) -> None:
    """The latest is only warned of, and its answer printed."""
    folder = home / CONVERSATIONS
    folder.parent.mkdir(parents=True)
    folder.write_text("in the way")
    assert asking("-S", "mine", "one").status in (66, 73)
    assert not server.requests
    result = asking.pty("two", stdin=None).wait()
    assert result.status == 0
    assert "the conversation is not saved: " in result.error
    assert b"re: two" in result.stdout
    folder.unlink()
    folder.mkdir()
    (folder / "latest.jsonl").write_text("my notes\n")
    result = asking.pty("three", stdin=None).wait()
    assert result.status == 0
    assert (folder / "latest.jsonl").read_text() == "my notes\n"


def test_a_dry_run_keeps_nothing(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """And shows what would be sent, with what was said before."""
    assert asking("-S", "mine", "one").status == 0
    before = (home / CONVERSATIONS / "mine.jsonl").read_bytes()
    shown = json.loads(asking("-S", "mine", "--dry-run", "two").stdout)
    assert [message["content"] for message in shown["messages"]] == ["one", "re: one", "two"]
    assert (home / CONVERSATIONS / "mine.jsonl").read_bytes() == before
    assert len(server.requests) == 1


def test_json_and_one_piece_are_kept_as_well(asking: Kimi, home: Path) -> None:
    """However the answer is asked for and printed."""
    assert asking("-S", "mine", "--json", "one").status == 0
    assert asking("-S", "mine", "--no-stream", "two").status == 0
    contents = [line["content"] for line in read_record(home, "mine")]
    assert contents == ["one", "re: one", "two", "re: two"]


@pytest.mark.parametrize("names", [1, 64])
def test_64_at_the_same_time(asking: Kimi, server: ReplayServer, home: Path, names: int) -> None:
    """On one name or many: every question and answer is whole, and there once."""
    asked = threading.Semaphore(0)
    gate = threading.Event()

    def hold(request: ReceivedRequest) -> Reply:
        asked.release()
        assert gate.wait(50)
        return echo(request)

    server.answer(hold)
    herd = home / "herd"
    herd.write_text(f'#!/bin/sh\nexec nice -n 19 {asking.program} "$@"\n')  # others test, too
    herd.chmod(0o755)
    asking = replace(asking, program=herd)
    runs = [asking.start("-S", f"n{number % names}", f"q{number}") for number in range(64)]
    for _ in runs:
        assert asked.acquire(timeout=50)
    gate.set()
    results = [run.wait(50) for run in runs]
    assert {result.status for result in results} == {0}
    lines = [line for name in range(names) for line in read_record(home, f"n{name}")]
    said = Counter(line["content"] for line in lines)
    assert said == Counter(f"{re}q{number}" for number in range(64) for re in ("", "re: "))
    turns = {}
    for line in lines:
        turns.setdefault(line["turn"], []).append(line["content"])
    assert all(answer == f"re: {question}" for question, answer in turns.values())
    told = sum("went on in another process" in result.error for result in results)
    assert told == (64 if names == 1 else 0) or (names == 1 and told >= 63)


# kimi log


@pytest.fixture
def log(kimi: Kimi, home: Path) -> Kimi:
    """``kimi log`` over three conversations, one of them damaged."""
    archive = Archive(home / CONVERSATIONS)
    planning = archive.find("planning")
    write_turn(planning, "What is a\n named pipe?", "A file.\x1b[2J")
    write_turn(planning, "Who made it?", "Somebody at Bell Labs.")
    write_turn(archive.find("漢字"), "Grüße", "Hallo")
    damaged = home / CONVERSATIONS / "notes.jsonl"
    damaged.write_text("my notes\n")
    now = time.time()
    for name, age in (("planning", 90), ("漢字", 3 * 86400), ("notes", 40 * 86400)):
        os.utime(home / CONVERSATIONS / f"{name}.jsonl", (now - age, now - age))
    return kimi.but("log")


def test_the_list(log: Kimi) -> None:
    """The last changed first, aligned; what cannot be read is named."""
    for result in (log(), log("list")):
        assert result.status == 0
        assert result.stdout.decode() == (
            "NAME      TURNS  AGE    BEGINS\n"
            "planning  2      2 min  What is a named pipe?\n"
            "漢字      1      3 d    Grüße\n"
            "notes     0      40 d   (cannot be read)\n"
        )
        assert "notes.jsonl:1 is no message" in result.error
    rows = [json.loads(line) for line in log("list", "--json").stdout.splitlines()]
    assert [(row["name"], row["turns"], row["problem"] is None) for row in rows] == [
        ("planning", 2, True),
        ("漢字", 1, True),
        ("notes", 0, False),
    ]


def test_the_list_of_nothing(kimi: Kimi) -> None:
    """It is said on stderr."""
    result = kimi("log")
    assert (result.status, result.stdout) == (0, b"")
    assert "no conversation is kept" in result.error


def test_a_list_fits_the_terminal(log: Kimi) -> None:
    """Titles are cut."""
    shown = log.pty(env={"COLUMNS": "40"}).wait().stdout
    assert "planning  2      2 min  What is a named…" in shown.decode()


def test_a_conversation_is_shown(log: Kimi, home: Path) -> None:
    """As Markdown, or line by line as it is kept; escapes are harmless on a terminal."""
    text = log("show", "planning").stdout.decode()
    assert text.startswith("# planning\n\n## Question, 20")
    assert "\n\nWhat is a\n named pipe?\n\n## Answer of the model, 20" in text
    assert "A file.\x1b[2J" in text
    assert "A file.^[[2J" in log.pty("show", "planning").wait().stdout.decode()
    kept = (home / CONVERSATIONS / "planning.jsonl").read_bytes()
    assert log("show", "planning", "--json").stdout == kept
    assert log("show").status == 66
    assert log("show", "notes").status == 65


def test_a_search_finds_messages(log: Kimi) -> None:
    """With all words, in any case; a line says where."""
    assert log("search", "bell", "SOMEBODY").stdout.decode() == (
        "planning\t2\tassistant\tSomebody at Bell Labs.\n"
    )
    assert log("search", "GRÜSSE").stdout.decode() == "漢字\t1\tuser\tGrüße\n"
    nothing = log("search", "-q", "nothing")
    assert (nothing.status, nothing.stdout, nothing.stderr) == (0, b"", b"")


def test_conversations_are_removed(log: Kimi, home: Path) -> None:
    """By name or by age, damaged or not; one of both must be said."""
    assert log("rm").status == 2
    assert log("rm", "x", "--older-than", "1d").status == 2
    assert log("rm", "nothing").status == 66
    result = log("rm", "--older-than", "30d")
    assert (result.status, result.error) == (0, "kimi: 1 removed\n")
    assert log("rm", "planning", "漢字").status == 0
    assert list((home / CONVERSATIONS).iterdir()) == []


def test_the_path_is_told(log: Kimi, home: Path) -> None:
    """Of a conversation that need not exist, or of all."""
    assert log("path", "new").stdout.decode() == f"{home / CONVERSATIONS / 'new.jsonl'}\n"
    assert log("path").stdout.decode() == f"{home / CONVERSATIONS}\n"
    assert log("path", "a/b").status == 65
    elsewhere = log("path", env={"XDG_STATE_HOME": "/somewhere"})
    assert elsewhere.stdout == b"/somewhere/kimi/conversations\n"


def test_names_are_completed(log: Kimi) -> None:
    """By the shell."""
    words = {"_KIMI_COMPLETE": "bash_complete", "COMP_WORDS": "kimi log show pl", "COMP_CWORD": "3"}
    bare = Kimi(log.program, log.environment, log.folder)
    assert bare(env=words).stdout.split() == [b"plain,planning"]
