"""Conversations of several processes, and places where none can be kept."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conversations import (
    CONVERSATIONS,
    FIRST,
    LAST,
    assistant,
    calling,
    echo,
    encode,
    find_record,
    list_contents,
    list_next,
    list_record,
    read_lines,
    result,
    system,
    user,
)
from program import Kimi
from server import Barrier, ReplayServer, completion, document, stream

# Several at once


def test_64_at_once(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Half on one name, half on one each: every line is whole, and there once."""
    gate = threading.Event()
    server.answer(lambda request: stream(Barrier(gate), f"re: {list_contents(request)[-1]}"))
    gentle = home / "gentle"
    gentle.write_text(f'#!/bin/sh\nexec nice -n 19 "{asking.program}" "$@"\n')
    gentle.chmod(0o755)
    asking = replace(asking, program=gentle)
    names = [f"n{number}" if number % 2 else "one" for number in range(64)]
    runs = [asking.start("-S", name, f"q{number}") for number, name in enumerate(names)]
    server.await_requests(64, timeout=50)
    gate.set()
    results = [run.wait(50) for run in runs]
    assert [run.status for run in results] == [0] * 64
    assert [run.stdout for run in results] == [f"re: q{n}\n".encode() for n in range(64)]
    lines = [line for name in set(names) for line in read_lines(find_record(home, name))]
    said = Counter(line["content"] for line in lines)
    assert said == Counter(f"{re}q{number}" for number in range(64) for re in ("", "re: "))
    turns: dict[str, list[str]] = {}
    for line in lines:
        turns.setdefault(line["turn"], []).append(line["content"])
    assert all(answer == f"re: {question}" for question, answer in turns.values())
    told = ["went on in another process; both are kept" in run.error for run in results]
    # One at most may have begun after all others, and have been answered before them.
    assert sum(told[::2]) >= 31
    assert not any(run.error for run in results[1::2])
    assert len(os.listdir(home / CONVERSATIONS)) == 33


def test_two_turns_at_once(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The loser is told; both are kept, and the next turn knows of both, in order."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "A"), stream("B"))
    slow = mine.start("a")
    server.await_requests(1)
    assert mine("b").error == ""
    gate.set()
    assert "conversation mine went on in another process; both are kept" in slow.wait().error
    assert list_record(home) == ["a", "b", "B", "A"]
    assert list_contents(server.requests[1]) == ["b"]
    assert list_next(mine) == ["a", "A", "b", "B"]


def test_two_latest_at_once(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """The second takes the place of the first, which is told, and keeps out of it."""
    gate = threading.Event()
    server.script(stream(Barrier(gate), "A"), stream("B"))
    slow = asking.pty("a", stdin=None)
    server.await_requests(1)
    assert asking.pty("b", stdin=None).wait().error == ""
    gate.set()
    result = slow.wait()
    assert (result.stdout, result.status) == (b"A\n", 0)
    assert "the answer is not saved: conversation latest was replaced" in result.error
    assert list_record(home, "latest") == ["b", "B"]


def test_a_conversation_that_is_removed_meanwhile(
    mine: Kimi, kimi: Kimi, server: ReplayServer, home: Path
) -> None:
    """The answer is shown, and the file does not come back with half a turn."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = mine.start("one")
    run.expect(b"half")
    assert kimi("log", "rm", "mine").status == 0
    gate.set()
    result = run.wait()
    assert (result.stdout, result.status) == (b"half more\n", 74)
    assert "the answer is not saved" in result.error
    assert not find_record(home, "mine").exists()


def test_the_record_can_be_followed(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """`tail -f` sees whole lines: the question before the answer comes, then the answer."""
    gate = threading.Event()
    server.script(stream("half", Barrier(gate), " more"))
    run = mine.start("one")
    run.expect(b"half")
    with find_record(home, "mine").open("rb") as tail:
        question = tail.read()
        assert (question.count(b"\n"), question[-1:]) == (1, b"\n")
        assert json.loads(question)["content"] == "one"
        gate.set()
        assert run.wait().status == 0
        answer = tail.read()
        assert (answer.count(b"\n"), answer[-1:]) == (1, b"\n")
        assert json.loads(answer)["content"] == "half more"
        assert mine("-s", "new", "two").status == 0
        assert [json.loads(line)["role"] for line in tail] == ["system", "user", "assistant"]


# What does not work


def test_a_bad_name_is_refused(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Before anything is asked or made."""
    names = ("", "a/b", ".hidden", "x" * 201)
    for name, run in [(name, asking.start("-S", name, "one")) for name in names]:
        refused = run.wait()
        assert (refused.status, refused.stdout) == (65, b"")
        assert f"'{name[:20]}" in refused.error
        assert "' cannot name a conversation: use " in refused.error
    assert not server.connections
    assert not (home / CONVERSATIONS).exists()


def _put_a_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("in the way")


def _put_a_link(folder: Path) -> None:
    folder.parent.mkdir()
    folder.symlink_to("nowhere")


def _put_folders(folder: Path) -> None:
    for name in ("mine", "latest"):
        (folder / f"{name}.jsonl").mkdir(parents=True)


@pytest.mark.parametrize(
    ("spoil", "status"), [(_put_a_file, 66), (_put_a_link, 73), (_put_folders, 66)]
)
def test_what_cannot_be_kept(
    asking: Kimi,
    server: ReplayServer,
    home: Path,
    spoil: Callable[[Path], None],
    status: int,
) -> None:
    """Under a name it is not asked; as the latest it is answered, with a warning."""
    spoil(home / CONVERSATIONS)
    named = asking.start("-S", "mine", "one")
    run = asking.pty("two", stdin=None).wait()
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert run.error.startswith("kimi: the conversation is not saved: cannot ")
    assert run.error.count("\n") == 1
    refused = named.wait()
    assert (refused.status, refused.stdout) == (status, b"")
    assert [list_contents(request) for request in server.requests] == [["two"]]


@pytest.mark.parametrize(
    ("place", "mode", "status", "options"),
    [
        ("", 0o500, 73, ()),
        (CONVERSATIONS, 0, 66, ()),
        (f"{CONVERSATIONS}/{{}}.jsonl", 0o400, 73, ("-c",)),
        (f"{CONVERSATIONS}/{{}}.jsonl", 0o200, 66, ()),
    ],
    ids=["no new folder", "closed folder", "not to be written", "not to be read"],
)
def test_what_is_forbidden(
    asking: Kimi,
    server: ReplayServer,
    home: Path,
    place: str,
    mode: int,
    status: int,
    options: tuple[str, ...],
) -> None:
    """The same where modes are in the way; root is bound by them without its privilege."""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything")
        bound = home / "bound"
        bounds = "--bounding-set=-dac_override,-dac_read_search"
        bound.write_text(f'#!/bin/sh\nexec setpriv {bounds} "{asking.program}" "$@"\n')
        bound.chmod(0o755)
        asking = replace(asking, program=bound)
    if place:
        (home / CONVERSATIONS).mkdir(parents=True)
    places = [home / (place or ".local/state").format(name) for name in ("mine", "latest")]
    for path in places:
        if path.suffix:
            path.write_bytes(encode(FIRST, LAST))
        path.chmod(mode)
    try:
        named = asking.start("-S", "mine", "one")
        run = asking.pty(*options, "two", stdin=None).wait()
        refused = named.wait()
    finally:
        for path in places:
            path.chmod(0o700)
    assert (refused.status, refused.stdout) == (status, b"")
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "the conversation is not saved: cannot " in run.error
    assert len(server.requests) == 1


def test_a_full_disk(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """No room for the question: not asked. None for the answer: shown, and the user is told."""
    server.script(stream("x" * 4000), echo)
    command = f"kimi ask --base-url {server.url} -S mine"
    refused = ask.shell(f"ulimit -f 0; {command} zero").wait()
    assert (refused.status, refused.stdout) == (74, b"")
    assert not server.requests
    run = ask.shell(f"ulimit -f 2; {command} one").wait()
    assert (run.stdout, run.status) == (b"x" * 4000 + b"\n", 74)
    assert "the answer is not saved: cannot write" in run.error
    assert list_record(home) == ["one"]
    assert ask.shell(f"ulimit -f 2; {command} two").wait().error == ""
    assert list_contents(server.requests[1]) == ["two"]
    assert list_record(home) == ["one", "two", "re: two"]


def test_a_dry_run(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """Shows the history, and neither sends nor keeps anything."""
    shown = json.loads(mine("--dry-run", "-s", "S", "one").stdout)
    assert shown["messages"] == [system("S"), user("one")]
    assert not (home / CONVERSATIONS).exists()
    assert mine("--seed", "7", "one").status == 0
    before = find_record(home, "mine").read_bytes()
    shown = json.loads(mine("--dry-run", "two").stdout)
    assert shown["messages"] == [user("one"), assistant("re: one"), user("two")]
    assert shown["seed"] == 7
    assert find_record(home, "mine").read_bytes() == before
    assert len(server.requests) == 1


@pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])
def test_json(mine: Kimi, server: ReplayServer, home: Path, mode: tuple[str, ...]) -> None:
    """One object on stdout; the record is the same as without."""
    calls = calling("c1")["tool_calls"]
    whole = completion(" Yes", reasoning="Hm.", tool_calls=calls)
    parts = stream(" Yes", {"tool_calls": [{"index": 0, **calls[0]}]}, reasoning=["Hm."])
    server.script(whole if mode else parts)
    shown = json.loads(mine("--json", *mode, "one").stdout)
    answer = read_lines(find_record(home, "mine"))[1]
    wanted = assistant(" Yes", reasoning_content="Hm.", tool_calls=calls)
    assert {key: answer[key] for key in wanted} == wanted
    assert (shown["content"], shown["reasoning"]) == (answer["content"], "Hm.")
    for key in ("id", "model", "finish_reason", "usage", "tool_calls"):
        assert shown[key] == answer[key]
    assert list_next(mine) == ["one", " Yes"]


def test_a_host_of_odd_types(mine: Kimi, server: ReplayServer) -> None:
    """Its model's name is a number: the conversation goes on all the same."""
    server.script(document({"id": 7, "model": 8, "choices": [{"message": {"content": "yes"}}]}))
    assert mine("--no-stream", "one").status == 0
    assert list_next(mine) == ["one", "yes"]


def test_the_record_of_another_program(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The messages of a request, one a line, go on; what stands there stays as it is."""
    lines = [
        system("s"), assistant("Hello!"), user("1 + 2?"), calling("c1"), result("c1"),
        assistant("3"),
    ]  # fmt: skip
    data = b"".join(json.dumps(line, indent=None).encode() + b"\r\n" for line in lines)
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    record.write_bytes(data.removesuffix(b"\r\n"))
    assert mine("two").error == ""
    lines[3]["reasoning_content"] = ""
    assert server.requests[0].json["messages"] == [*lines, user("two")]
    assert record.read_bytes().startswith(data.removesuffix(b"\r\n") + b"\n")
    assert len(record.read_bytes().splitlines()) == len(lines) + 2
