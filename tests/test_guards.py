"""kimi batch and its files: what it will not touch, what it keeps, and what it says instead."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
from pathlib import Path

import pytest
from program import Kimi
from rows import SILENT, echo, get_prompt, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import Barrier, ReceivedRequest, ReplayServer, Reply, completion, refusal

from kimi_cli.batch.records import Shape, make_record
from kimi_cli.batch.results import Result, encode_results

# --summary


@pytest.mark.parametrize(
    "place", ["in.jsonl", "link", "out.jsonl", "out.jsonl.errors", "old.jsonl"]
)
def test_a_summary_is_no_file_of_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, place: str
) -> None:
    """The input, the output, its list of errors, an earlier output: 65, and not a byte changed."""
    write_rows(source, make_rows(2))
    old = out.with_name("old.jsonl")
    server.answer(echo)
    assert batch(str(source), "-o", str(old), "--max-rows", "1").status == 75
    server.answer(lambda request: refusal(500, "api_error", "down"))
    command = (str(source), "-o", str(out), "--done-from", str(old), "--retries", "0")
    assert batch(*command).status == 75
    out.with_name("link").symlink_to(source)
    before = {path: path.read_bytes() for path in out.parent.glob("*.jsonl*")}
    result = batch(*command, "--summary", str(out.with_name(place)))
    assert {path: path.read_bytes() for path in before} == before
    assert result.status == 65
    assert str(out.with_name(place)) in result.error
    assert len(server.requests) == 2


def test_a_summary_is_not_standard_output(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """It would be written over the answers: 65 before any request."""
    write_rows(source, make_rows(2))
    server.answer(echo)
    command = f"kimi batch --base-url {server.url} {source} --summary {summary}"
    assert batch.shell(f"exec {command} > {summary}").wait().status == 65
    assert not server.requests


def test_a_summary_is_not_of_a_run_that_found_no_place(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Where another run holds the output, the figures of that one stay as they are: 75."""
    write_rows(source, make_rows(1))
    gate, whole = threading.Event(), completion("late")
    server.script(whole.but(body=[Barrier(gate), *whole.body]))
    first = batch.start(str(source), "-o", str(out))
    server.await_requests(1)
    summary.write_text("mine")
    assert batch(str(source), "-o", str(out), "--summary", str(summary)).status == 75
    assert summary.read_text() == "mine"
    gate.set()
    assert first.wait().status == 0


def test_a_summary_is_told_of_a_second_interrupt(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """What was left in flight has an unknown outcome."""
    write_rows(source, make_rows(3))
    server.script(completion("good"), SILENT)
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--summary", str(summary))
    server.await_requests(2)
    run.signal(signal.SIGINT)
    run.expect(b"again to leave", "stderr")
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    figures = json.loads(summary.read_text())
    assert (figures["stopped"], figures["attempts"]) == ("SIGINT", 2)
    assert figures["rows"]["answered"] == figures["attempts_with_unknown_outcome"] == 1


def test_a_summary_is_told_of_a_reader_that_left(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """Death by SIGPIPE leaves the figures."""
    write_rows(source, make_rows(9))
    server.script(completion("first"))
    server.answer(lambda request: SILENT)
    reader, writer = os.pipe()
    with open(reader, "rb") as ours:
        with open(writer, "wb") as theirs:
            options = ("-c", "1", "--summary", str(summary))
            run = batch.start(str(source), *options, stdout=theirs)
        ours.readline()
        server.await_requests(2)
    assert run.wait().status == -signal.SIGPIPE
    assert json.loads(summary.read_text())["rows"]["answered"] == 1


def test_a_summary_is_told_of_a_full_disk(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """Which ends the run: 74, and the figures say what was bought for nothing."""
    write_rows(source, make_rows(3))
    server.answer(echo)
    full = Path("/dev/full")
    result = batch(str(source), "-c", "1", "--summary", str(summary), stdout=full)
    assert result.status == 74
    figures = json.loads(summary.read_text())
    assert figures["stopped"] == "cannot write to standard output: No space left on device"
    assert figures["attempts"] == len(server.requests) < 3


# Standard output


@pytest.mark.parametrize("way", ["named", "standard input"])
def test_standard_output_is_not_the_input(
    batch: Kimi, server: ReplayServer, source: Path, way: str
) -> None:
    """A file that is read and added to would never end: 65 before any request."""
    write_rows(source, make_rows(2))
    before = source.read_bytes()
    names = source if way == "named" else f"< {source}"
    result = batch.shell(f"exec kimi batch --base-url {server.url} {names} >> {source}").wait()
    assert result.status == 65
    assert "standard output is the input" in result.error
    assert source.read_bytes() == before
    assert not server.requests


def test_a_dash_is_standard_output(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """-o - is the same as no -o, and no file of that name is made."""
    write_rows(source, make_rows(1))
    server.answer(echo)
    result = batch(str(source), "-o", "-", cwd=source.parent)
    assert result.status == 0
    assert json.loads(result.stdout)["custom_id"] == "r0"
    assert list(source.parent.glob("-*")) == []


@pytest.mark.parametrize(
    "value", ["retry-failed=all", "on-change=redo", "on-error=defer", "fsync=always"]
)
def test_what_needs_an_output_file_says_so(
    batch: Kimi, server: ReplayServer, source: Path, value: str
) -> None:
    """An option that only means something with -o is refused without it, and with -o -: 2."""
    write_rows(source, make_rows(1))
    for output in ((), ("-o", "-")):
        result = batch(str(source), f"--{value}", *output)
        assert result.status == 2
        assert f"--{value.partition('=')[0]}" in result.error
    assert not server.requests


def test_an_output_that_is_a_folder(
    batch: Kimi, server: ReplayServer, source: Path, tmp_path: Path
) -> None:
    """A folder, or a file in one that is missing, is exit 73 with its name, before any request."""
    write_rows(source, make_rows(1))
    for place in (tmp_path, tmp_path / "no" / "out.jsonl"):
        result = batch(str(source), "-o", str(place))
        assert result.status == 73
        assert str(place) in result.error
    assert not server.requests


# A full disk


def test_a_full_disk_keeps_what_had_room(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Of rows that finish at once whole lines are kept; the others are told of, and asked again."""
    write_rows(source, make_rows(30))
    gate = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        return whole.but(body=[Barrier(gate), *whole.body])

    server.answer(answer)
    command = f"kimi batch --base-url {server.url} -c 30 {source} -o {out} --summary {summary}"
    run = batch.shell(f"ulimit -f 8; exec {command}")
    server.await_requests(30)
    # While it is stopped all answers come, so that many are written together.
    run.signal(signal.SIGSTOP)
    gate.set()
    threading.Event().wait(0.3)
    run.signal(signal.SIGCONT)
    result = run.wait()
    assert result.status == 74
    assert json.loads(summary.read_text())["attempts"] == 30
    kept = out.read_bytes()
    count = len(list_ids(out))
    assert 3 < count < 30
    assert kept.endswith(b"\n")
    told = re.findall(r"every finished row is kept but (\d+) that found no room", result.error)
    assert [1 <= int(lost) <= 30 - count for lost in told] == [True], result.error
    assert batch.shell(f"exec {command}").wait().status == 0
    assert out.read_bytes().startswith(kept)
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))
    assert len(server.requests) == 30 + 30 - count


def test_an_output_is_locked_while_it_is_rewritten(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--retry-failed: a second run in the middle of it is refused with 75."""
    rows, shape = make_rows(400), Shape({"model": "kimi-k2.5"})
    records = [make_record(number, row, shape) for number, row in enumerate(rows, 1)]
    error = {"code": "c", "message": "no", "class": "transient"}
    results = [Result(record, 200, "", {"id": "x" * 300}) for record in records[1:]]
    out.write_bytes(encode_results([*results, Result(records[0], error=error)], "batch"))
    before = out.read_bytes()
    copy = out.with_name(f".{out.name}.tmp")
    os.mkfifo(copy)  # takes a part of the copy, and then nothing more
    command = (str(write_rows(source, rows)), "-o", str(out), "--retry-failed", "all")
    first = batch.start(*command)
    with copy.open("rb"):
        second = batch(*command)
        assert second.status == 75
        assert f"being written by another run (process {first.pid})" in second.error
    assert first.wait().status == 74
    assert out.read_bytes() == before
    assert not server.requests


# Changed and mended rows


def test_another_model_is_noticed_before_it_costs(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Finished rows that ask something else hold back the rows behind them: 65, no request."""
    write_rows(source, make_rows(8))
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1")
    assert batch(*command, "--max-rows", "3").status == 75
    before = out.read_bytes()
    result = batch(*command, "-m", "kimi-k3")
    assert result.status == 65
    assert "3 finished rows ask something else now (r0, r1, r2); 8 rows not sent" in result.error
    assert out.read_bytes() == before
    assert len(server.requests) == 3


def test_rows_behind_a_changed_one_are_held_back(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Those before it are sent as they are; neither it nor those behind it are."""
    rows = make_rows(6)
    write_rows(source, rows[3:4])
    server.answer(echo)
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 0
    rows[3]["prompt"] = "changed"
    write_rows(source, rows)
    assert batch(*command).status == 65
    assert list_prompts(server, 1) == ["p0", "p1", "p2"]
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]


GOOD = '{"custom_id":"r1","prompt":"mended"}'
MENDED = {
    "refused": (GOOD.replace("mended", "bad"), GOOD),
    "torn": ('{"prompt":"mended"', '{"prompt":"mended"}'),
    "torn, with an id": (GOOD[:-2], GOOD),
}


def answer_bad(request: ReceivedRequest) -> Reply:
    """Refuse one prompt."""
    bad = refusal(400, "bad_request", "too long")
    return bad if get_prompt(request) == "bad" else echo(request)


@pytest.mark.parametrize("kind", MENDED)
def test_a_mended_row_is_asked_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """The same command asks it, and its answer takes the place of the error."""
    bad, good = MENDED[kind]
    others = '"first"\n{}\n"last"\n'
    server.answer(answer_bad)
    source.write_text(others.format(bad))
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 4
    asked = len(server.requests)
    source.write_text(others.format(good))
    assert batch(*command).status == 0
    assert list_prompts(server, asked) == ["mended"]
    name = json.loads(good).get("custom_id", "row-2")
    assert sorted(list_ids(out)) == sorted(["row-1", name, "row-3"])
    assert not any(row["error"] for row in read_rows(out))


def test_a_mended_row_on_a_pipe_is_refused(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """An input that cannot be read twice is not compared with its errors: 65, nothing sent."""
    server.answer(answer_bad)
    rows = [b'"first"\n"bad"\n', b'"first"\n"mended"\n']
    assert batch("-o", str(out), stdin=rows[0]).status == 4
    before = out.read_bytes()
    assert batch("-o", str(out), stdin=rows[1]).status == 65
    assert out.read_bytes() == before
    assert len(server.requests) == 2


# Shards


@pytest.mark.parametrize("way", ["--done-from", "cat"])
def test_equal_rows_in_shards_are_put_together(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, way: str
) -> None:
    """Rows without ids that ask the same are told apart by all: nothing is asked again."""
    source.write_text('"same"\n' * 7 + '"other"\n')
    server.answer(echo)
    parts = str(out.with_name("part.{shard}"))
    for index in range(2):
        assert batch(str(source), "--shard", f"{index}/2", "-o", parts).status == 0
    assert len(server.requests) == 8
    if way == "cat":
        out.write_bytes(b"".join(part.read_bytes() for part in out.parent.glob("part.*")))
        result = batch(str(source), "-o", str(out))
    else:
        result = batch(str(source), "--done-from", str(out.with_name("part.*")))
    assert result.status == 0, result.error
    assert "8 done before" in result.error
    assert result.stdout == b""
    assert len(server.requests) == 8


# Terminals


def test_nothing_to_read_on_a_terminal(batch: Kimi, server: ReplayServer) -> None:
    """Without a FILE nobody is made to type JSON: 2, with what to do."""
    result = batch.pty().wait()
    assert result.status == 2
    assert b"there is no input; name a FILE, or pipe prompts in" in result.stderr


def test_answers_are_harmless_on_a_terminal(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """Control characters do nothing there; a pipe gets them as they are."""
    write_rows(source, make_rows(1))
    server.answer(lambda request: completion("red \x9b31m \x1b]0;title\x07 and \u202eback"))
    shown = batch.pty(str(source), "-q", "--format", "text").wait().stdout.decode()
    assert "red" in shown
    assert not any(letter in shown for letter in "\x9b\x1b\x07\u202e")
    piped = batch(str(source), "-q", "--format", "text").stdout.decode()
    assert json.loads(piped) == "red \x9b31m \x1b]0;title\x07 and \u202eback"


# What a row carries


def test_carried_keys_survive(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Those that the line has itself, such as error and id, are kept within kimi."""
    taken = {"id": 7, "error": "old", "response": [1], "kimi": {"key": "k"}}
    write_rows(source, [{"custom_id": "a", "prompt": "p", "gold": 1, **taken}])
    server.answer(echo)
    line = json.loads(batch(str(source)).stdout)
    assert line["kimi"]["carried"] == taken
    assert (line["custom_id"], line["gold"], line["error"]) == ("a", 1, None)
    assert line["response"]["status_code"] == 200
    assert list(server.requests[0].json) == ["messages", "model"]


def test_a_system_prompt_beside_messages_is_sent(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """As the first message, unless the messages begin with one."""
    user = {"role": "user", "content": "hi"}
    own = {"role": "system", "content": "own"}
    rows = [{"messages": [user], "system": "be brief"}, {"messages": [own, user], "system": "no"}]
    write_rows(source, rows)
    server.answer(echo)
    assert batch(str(source), "-c", "1").status == 0
    brief = {"role": "system", "content": "be brief"}
    assert [request.json["messages"] for request in server.requests] == [[brief, user], [own, user]]


def test_an_id_is_no_fraction(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """What --id-field names must be text or a whole number; the row's line says so."""
    write_rows(source, [{"n": 1, "prompt": "a"}, {"n": 1.5, "prompt": "b"}])
    server.answer(echo)
    result = batch(str(source), "--id-field", "n")
    assert result.status == 4
    lines = {
        line["custom_id"]: line["error"] for line in map(json.loads, result.stdout.splitlines())
    }
    assert lines["1"] is None
    assert lines["row-2"]["code"] == "bad_id"
    assert "'n' is no text or whole number" in lines["row-2"]["message"]
    assert list_prompts(server) == ["a"]


# Before the first row


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("options", [(), ("--csv", "-p", "{a}"), ("--lines",)])
def test_another_encoding_is_told(
    batch: Kimi, server: ReplayServer, source: Path, encoding: str, options: tuple[str, ...]
) -> None:
    """UTF-16 is exit 65 with the way out, and no row is bought."""
    source.write_bytes('\ufeff"hi"\n'.encode(encoding))
    result = batch(str(source), *options)
    assert result.status == 65
    assert f"{source}: this is UTF-16" in result.error
    assert "iconv -f utf-16 -t utf-8" in result.error
    assert not server.requests


def test_who_asks_too_early_is_no_killer(
    batch: Kimi, server: ReplayServer, source: Path, tmp_path: Path
) -> None:
    """SIGUSR1 before the run has begun, while its template is read, does nothing."""
    write_rows(source, make_rows(1))
    server.answer(echo)
    template = tmp_path / "template"
    os.mkfifo(template)
    run = batch.start(str(source), "-q", "-p", f"@{template}")
    with template.open("w") as file:  # goes on when the program has opened it, too
        run.signal(signal.SIGUSR1)
        file.write("is {prompt} good?")
    assert run.wait().status == 0
    assert list_prompts(server) == ["is p0 good?"]
