"""kimi batch goes on: what is done, what is asked again, and what is left alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from rows import Row, echo, get_prompt, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import ReceivedRequest, ReplayServer, Reply, Stall, refusal

from kimi_cli.batch.ledger import Ledger, is_failed, read_done
from kimi_cli.batch.records import Shape, make_record
from kimi_cli.batch.results import Result, encode_results
from kimi_cli.batch.selection import Shard, parse_shard
from kimi_cli.errors import BadInput

FORMATS = ("batch", "flat", "merge")


@pytest.fixture
def batch(batch: Kimi, server: ReplayServer) -> Kimi:
    """The command, pointed at a server that answers with the prompt."""
    server.answer(echo)
    return batch


def read_answers(path: Path) -> dict[str, str]:
    """Return what each id of an output in the hosted shape was answered."""
    return {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in read_rows(path)
        if row["error"] is None
    }


def make_lines(
    rows: Sequence[Any], style: str = "batch", failed: Mapping[str, str] | None = None
) -> list[bytes]:
    """Return the lines that a run would write for *rows*; *failed* has classes of errors by id."""
    lines = []
    for number, row in enumerate(rows, 1):
        record = make_record(number, row, Shape({"model": "kimi-k2.5"}))
        kind = (failed or {}).get(record.id)
        if kind is None:
            message = {"role": "assistant", "content": "bought before"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            result = Result(record, 200, "", {"id": "x", "choices": [choice]}, attempts=1)
        else:
            error = {"code": "some_code", "message": "no", "class": kind}
            result = Result(record, error=error, attempts=1)
        lines.append(encode_results([result], style))
    return lines


def write_output(
    path: Path, rows: Sequence[Any], style: str = "batch", failed: Mapping[str, str] | None = None
) -> Path:
    """Write the output of an earlier run."""
    path.write_bytes(b"".join(make_lines(rows, style, failed)))
    return path


def select_lines(whole: bytes, wanted: Collection[str]) -> bytes:
    """Return the lines of the *wanted* ids."""
    lines = whole.splitlines(keepends=True)
    return b"".join(line for line in lines if json.loads(line)["custom_id"] in wanted)


# --done-from --------------------------------------------------------------------------------


def test_outputs_elsewhere_count_as_done(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Our own files in each format, by several globs, also one that finds nothing."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(8)), tmp_path / "out.jsonl"
    rows = make_rows(8)
    for index, style in enumerate(FORMATS):
        write_output(tmp_path / f"old.{style}", rows[index::4], style)
    globs = ("old.b*", "old.[fm]*", "nothing.*")
    options = tuple(word for glob in globs for word in ("--done-from", str(tmp_path / glob)))
    result = batch(str(source), *options, "-o", str(out))
    assert result.status == 0, result.error
    assert "6 done before" in result.error
    assert list_prompts(server) == ["p3", "p7"]
    assert sorted(list_ids(out)) == ["r3", "r7"]


def test_a_glob_that_finds_nothing_leaves_out_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Every row is asked; without -o as well. It may be a slip, and is told."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    pattern = str(tmp_path / "none" / "*.jsonl")
    result = batch(str(source), "--done-from", pattern)
    assert result.status == 0, result.error
    assert f"--done-from {pattern}: there is no such file yet" in result.error
    assert result.stdout.count(b"\n") == 2
    assert list_prompts(server) == ["p0", "p1"]


def make_hosted(name: str, **changes: Any) -> Row:
    """Return a line of a hosted batch's output."""
    body = {"id": "c", "choices": [{"message": {"role": "assistant", "content": "hosted"}}]}
    response = {"status_code": 200, "request_id": "q", "body": body}
    return {"id": "batch_req_1", "custom_id": name, "response": response, "error": None} | changes


def test_hosted_outputs_count_as_done(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Their lines have no field of ours; those with errors, torn and foreign ones do not count."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(6)), tmp_path / "out.jsonl"
    broken = {"code": "batch_expired", "message": "too late"}
    lines = [
        json.dumps(make_hosted("r0")),
        json.dumps(make_hosted("r1", response=None, error=broken)),
        json.dumps({"custom_id": 2, "note": "another tool"}),
        "not JSON at all r2",
        '["r2"]',
        "",
        json.dumps(make_hosted("r3"), separators=(",", ":")),
        json.dumps(make_hosted("r4"))[:-9],
    ]
    hosted = tmp_path / "batch_output.jsonl"
    hosted.write_text("\n".join(lines))
    before = hosted.read_bytes()
    result = batch(str(source), "--done-from", str(hosted), "-o", str(out))
    assert result.status == 0, result.error
    assert list_prompts(server) == ["p1", "p2", "p4", "p5"]
    assert hosted.read_bytes() == before


def test_hosted_refusals_are_not_done(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A hosted error file says it by the status of the response; its error is null."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    refused = {"status_code": 429, "request_id": "q", "body": {"error": {"message": "busy"}}}
    hosted = write_rows(tmp_path / "batch_error.jsonl", [make_hosted("r0", response=refused)])
    out = tmp_path / "out.jsonl"
    assert batch(str(source), "--done-from", str(hosted), "-o", str(out)).status == 0
    assert list_prompts(server) == ["p0", "p1"]


@pytest.mark.parametrize("count", [1, 2])
def test_a_hosted_output_may_lack_its_last_line_feed(tmp_path: Path, count: int) -> None:
    """A last line that is whole counts, however many there are before it."""
    lines = [json.dumps(make_hosted(f"r{number}")) for number in range(count)]
    hosted = tmp_path / "hosted.jsonl"
    hosted.write_text("\n".join(lines))
    assert len(read_done([hosted]).elsewhere) == count


def test_our_lines_among_hosted_ones_keep_their_keys(tmp_path: Path) -> None:
    """In a file of both kinds ours are known by what they ask, as in a file of their own."""
    both = write_rows(tmp_path / "both.jsonl", [make_hosted("r1")])
    both.write_bytes(make_lines(make_rows(1))[0] + both.read_bytes())
    done = read_done([both])
    assert (len(done.keys), len(done.elsewhere)) == (1, 1)


def test_our_errors_are_not_done_elsewhere(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A line of ours that holds an error, or is torn, leaves its row to be asked."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(4))
    failed = {"r1": "permanent", "r2": "transient"}
    old, out = write_output(tmp_path / "old.jsonl", make_rows(4), failed=failed), tmp_path / "out"
    old.write_bytes(old.read_bytes()[:-20])
    assert batch(str(source), "--done-from", str(old), "-o", str(out)).status == 0
    assert list_prompts(server) == ["p1", "p2", "p3"]


def test_a_glob_may_find_the_errors_file(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """What OUT.errors lists is to be asked again, so it is not done."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    write_output(tmp_path / "old.jsonl", make_rows(1))
    lines = make_lines(make_rows(2), failed={"r1": "transient"})
    (tmp_path / "old.jsonl.errors").write_bytes(lines[1])
    options = ("--done-from", str(tmp_path / "old.jsonl*"), "-o", str(tmp_path / "new.jsonl"))
    assert batch(str(source), *options).status == 0
    assert list_prompts(server) == ["p1"]


def test_what_cannot_be_read_is_named(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A glob that finds a folder ends the run before any request."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(1))
    (tmp_path / "old").mkdir()
    result = batch(str(source), "--done-from", str(tmp_path / "ol?"), "-o", str(tmp_path / "out"))
    assert result.status == 66
    assert str(tmp_path / "old") in result.error
    assert not server.requests


# --retry-failed -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("which", "style", "again"),
    [
        ("none", "batch", []),
        ("transient", "flat", ["p2"]),
        ("all", "batch", ["p1", "p2"]),
        ("all", "flat", ["p1", "p2"]),
        ("all", "merge", ["p1", "p2"]),
    ],
)
def test_failed_rows_are_asked_again(
    batch: Kimi, server: ReplayServer, tmp_path: Path, which: str, style: str, again: list[str]
) -> None:
    """Those of the class that is named; the good lines stay, and each row has one line."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(4))
    failed = {"r1": "permanent", "r2": "transient"}
    out = write_output(tmp_path / "out.jsonl", make_rows(4), style, failed)
    kept = {f"r{number}" for number in range(4)} - {prompt.replace("p", "r") for prompt in again}
    good = select_lines(out.read_bytes(), kept)
    command = (str(source), "-o", str(out), "--format", style)
    assert batch(*command, "--retry-failed", which).status == (0 if which == "all" else 4)
    assert list_prompts(server) == again
    assert out.read_bytes().startswith(good)
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]
    assert out.read_bytes().count(b'"error":{"code"') == 2 - len(again)


def test_written_errors_are_final_until_they_are_named(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """--on-error write puts them into the output, and --retry-failed transient takes them out."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(3)), tmp_path / "out.jsonl"

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) == "p1":
            return refusal(403, "forbidden", "moderation")
        return refusal(500, "api_error", "down") if get_prompt(request) == "p2" else echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--retries", "0", "--on-error", "write")
    assert batch(*command).status == 75
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]
    assert not Path(f"{out}.errors").exists()
    good = select_lines(out.read_bytes(), {"r0", "r1"})
    server.answer(echo)
    assert batch(*command, "--retry-failed", "transient").status == 4
    assert list_prompts(server, 3) == ["p2"]
    assert out.read_bytes().startswith(good)
    assert list_ids(out)[2:] == ["r2"]
    assert read_answers(out) == {"r0": "re: p0", "r2": "re: p2"}


def test_a_row_that_speaks_of_errors_has_not_failed(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """An answer is kept by --retry-failed all, whatever keys and words its row has."""
    rows = [
        {"custom_id": "a", "prompt": "pa", "error": {"code": 7, "class": "transient"}},
        {"custom_id": "b", "prompt": "pb", "log": {"error": {"code": 7}}},
    ]
    source = write_rows(tmp_path / "in.jsonl", rows)
    for style in FORMATS:
        assert not any(is_failed(line, None) for line in make_lines(rows, style)), style
    out = write_output(tmp_path / "out.jsonl", rows, "merge")
    before = out.read_bytes()
    assert batch(str(source), "-o", str(out), "--retry-failed", "all").status == 0
    assert out.read_bytes() == before
    assert not server.requests


def test_a_row_that_fails_again_has_one_line(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Refused once more it has its new error; deferred it has none, and is asked next time."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(3))
    out = write_output(
        tmp_path / "out.jsonl", make_rows(3), failed={"r1": "permanent", "r2": "transient"}
    )
    good = select_lines(out.read_bytes(), {"r0"})

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) == "p1":
            return refusal(403, "forbidden", "moderation")
        return refusal(500, "api_error", "fetch failed")

    server.answer(answer)
    command = (str(source), "-o", str(out), "--retries", "0")
    assert batch(*command, "--retry-failed", "all").status == 75
    assert list_prompts(server) == ["p1", "p2"]
    assert list_ids(out) == ["r0", "r1"]
    assert out.read_bytes().startswith(good)
    assert read_rows(out)[1]["error"]["code"] == "forbidden"
    server.answer(echo)
    assert batch(*command).status == 4
    assert list_prompts(server, 2) == ["p2"]
    assert list_ids(out) == ["r0", "r1", "r2"]


def test_kill_9_while_failed_rows_are_asked_again(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """The good lines and the new ones are there; the rest is asked by the same command."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(7))
    failed = dict.fromkeys(("r1", "r3", "r5"), "transient")
    out = write_output(tmp_path / "out.jsonl", make_rows(7), failed=failed)
    good = select_lines(out.read_bytes(), {"r0", "r2", "r4", "r6"})
    server.script(echo)
    server.answer(lambda request: Reply([Stall()], framing="raw"))
    command = (str(source), "-o", str(out), "-c", "1", "--retry-failed", "all")
    run = batch.start(*command)
    server.await_requests(2)
    run.signal(signal.SIGKILL)
    assert run.wait().status == -signal.SIGKILL
    after = out.read_bytes()
    assert after.startswith(good)
    assert list_ids(out) == ["r0", "r2", "r4", "r6", "r1"]
    server.answer(echo)
    assert batch(*command).status == 0
    assert out.read_bytes().startswith(after)
    assert sorted(list_ids(out)) == [f"r{number}" for number in range(7)]
    assert list_prompts(server) == ["p1", "p3", "p3", "p5"]


@pytest.mark.parametrize("option", ["--ordered", "--retry-failed=all"])
def test_a_rewritten_output_stays_as_private(batch: Kimi, tmp_path: Path, option: str) -> None:
    """Taking lines out, or sorting, does not open the file to others."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2), failed={"r1": "permanent"})
    out.chmod(0o600)
    assert batch(str(source), "-o", str(out), option).status == (4 if option == "--ordered" else 0)
    assert list_ids(out) == ["r0", "r1"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_rewritten_output_may_be_a_link(batch: Kimi, tmp_path: Path) -> None:
    """The file that a symbolic link leads to is the output, also when lines are taken out."""
    source, real = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "real.jsonl"
    write_output(real, make_rows(2), failed={"r1": "permanent"})
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    assert batch(str(source), "-o", str(link), "--retry-failed", "all").status == 0
    assert link.is_symlink()
    assert read_answers(real) == {"r0": "bought before", "r1": "re: p1"}


# Ids that come twice ------------------------------------------------------------------------


def test_an_id_that_comes_twice_is_named(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Exit 65 with the ids: neither they nor what comes behind them is sent."""
    rows = [*make_rows(3), {"custom_id": "r1", "prompt": "x"}, {"id": "r2", "prompt": "p2"}, "q"]
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "the ids of 2 rows came before (r1, r2); 1 row not sent" in result.error
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]
    assert list_prompts(server) == ["p0", "p1", "p2"]
    rehearsed = batch(str(source), "-o", str(out), "--dry-run")
    assert rehearsed.status == 65
    assert "the ids of 2 rows came before (r1, r2)" in rehearsed.error
    assert "row 4: the id r1 came before" in batch(str(source), "--dry-run").error


def test_an_id_that_comes_twice_has_its_line_on_a_pipe(batch: Kimi, server: ReplayServer) -> None:
    """Every row of the input has one line of output there, whatever became of it."""
    rows = [*make_rows(2), {"custom_id": "r0", "prompt": "x"}, "last"]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    result = batch("--ordered", stdin=text.encode())
    assert result.status == 65
    assert list_prompts(server) == ["last", "p0", "p1"]
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == ["r0", "r1", "r0", "row-4"]


TWINS = [
    {"custom_id": "a", "prompt": "one"},
    {"custom_id": "a", "prompt": "two"},
    {"custom_id": "a", "prompt": "two"},
    {"custom_id": "b", "prompt": "three"},
    "four",
    "four",
]


def test_rows_of_one_id_are_all_asked(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """With --allow-duplicate-ids each has a line, even if it asks the same; then all are done."""
    source, out = write_rows(tmp_path / "in.jsonl", TWINS), tmp_path / "out.jsonl"
    command = (str(source), "-o", str(out), "--allow-duplicate-ids")
    assert batch(*command).status == 0
    assert sorted(list_ids(out)) == ["a", "a", "a", "b", "row-5", "row-6"]
    assert len({row["kimi"]["key"] for row in read_rows(out)}) == 6
    prompts = ["four", "four", "one", "three", "two", "two"]
    assert list_prompts(server) == prompts
    before = out.read_bytes()
    assert batch(*command).status == 0
    assert list_prompts(server) == prompts
    assert out.read_bytes() == before


def test_rows_of_one_id_are_resumed(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """After a stop between them, the rows that are missing are asked, and no other."""
    source, out = write_rows(tmp_path / "in.jsonl", TWINS), tmp_path / "out.jsonl"
    command = (str(source), "-o", str(out), "--allow-duplicate-ids", "-c", "1")
    assert batch(*command, "--max-rows", "1").status == 75
    result = batch(*command)
    assert result.status == 0, result.error
    assert sorted(list_ids(out)) == ["a", "a", "a", "b", "row-5", "row-6"]
    assert list_prompts(server) == ["four", "four", "one", "three", "two", "two"]


# --on-change --------------------------------------------------------------------------------


def test_changed_rows_are_named(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A row with another model, system prompt or parameter is refused, each by itself."""
    rows = make_rows(4)
    out = write_output(tmp_path / "out.jsonl", rows)
    before = out.read_bytes()
    rows[0]["model"] = "kimi-k3"
    rows[1]["system"] = "be brief"
    rows[2]["temperature"] = 0.5
    rows[3]["gold"] = "is not sent, so it is no change"
    source = write_rows(tmp_path / "in.jsonl", rows)
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "3 finished rows ask something else now (r0, r1, r2)" in result.error
    assert out.read_bytes() == before
    assert not server.requests


def test_changed_options_change_the_rows(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Another model, system prompt, parameter or template is refused; or kept; or redone."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2))
    before = out.read_bytes()
    command: tuple[str, ...] = (str(source), "-o", str(out), "-p", "is {prompt} good?")
    assert batch(*command).status == 65
    command += ("-m", "kimi-k3", "-s", "be brief", "--temperature", "0.5")
    assert batch(*command, "--on-change", "keep").status == 0
    assert out.read_bytes() == before
    assert not server.requests
    assert batch(*command, "--on-change", "redo").status == 0
    assert list_prompts(server) == ["is p0 good?", "is p1 good?"]
    asked = server.requests[0].json
    assert (asked["model"], asked["temperature"]) == ("kimi-k3", 0.5)
    assert asked["messages"][0] == {"role": "system", "content": "be brief"}
    assert sorted(list_ids(out)) == ["r0", "r1"]
    assert set(read_answers(out).values()) == {"re: is p0 good?", "re: is p1 good?"}


@pytest.mark.parametrize(
    "shape",
    [
        Shape({"model": "kimi-k3"}),
        Shape({"model": "kimi-k2.5", "temperature": 0}),
        Shape({"model": "kimi-k2.5"}, system="be brief"),
        Shape({"model": "kimi-k2.5"}, template="{prompt}!"),
        Shape({"model": "kimi-k2.5"}, id_field="prompt"),
    ],
)
def test_each_option_changes_the_key(shape: Shape) -> None:
    """One of them is enough to make another request of the same row."""
    row = make_rows(1)[0]
    assert make_record(1, row, shape).key != make_record(1, row, Shape({"model": "kimi-k2.5"})).key


def test_redo_asks_again_only_what_changed(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """The lines of the other rows stay byte for byte, and rows that are gone keep theirs."""
    rows = make_rows(4)
    out = write_output(tmp_path / "out.jsonl", rows)
    good = select_lines(out.read_bytes(), {"r0", "r2", "r3"})
    changed = [{**rows[1], "prompt": "changed"}, rows[2], rows[0]]
    source = write_rows(tmp_path / "in.jsonl", changed)
    assert batch(str(source), "-o", str(out), "--on-change", "redo").status == 0
    assert list_prompts(server) == ["changed"]
    assert out.read_bytes().startswith(good)
    assert list_ids(out) == ["r0", "r2", "r3", "r1"]


def test_redo_works_on_standard_input(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Whatever can be read only once is not read to its end before the run."""
    rows = make_rows(2)
    out = write_output(tmp_path / "out.jsonl", rows)
    rows[1]["prompt"] = "changed"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    result = batch("-o", str(out), "--on-change", "redo", stdin=text.encode())
    assert result.status != 0 or list_prompts(server) == ["changed"]
    assert sorted(list_ids(out)) == ["r0", "r1"]


def test_redo_of_a_wrong_file_drops_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Ten bad rows at the start are noticed before the output is touched."""
    out = write_output(tmp_path / "out.jsonl", [f"p{number}" for number in range(12)])
    before = out.read_bytes()
    notes = tmp_path / "notes.txt"
    notes.write_text("just text\n" * 12)
    assert batch(str(notes), "-o", str(out), "--on-change", "redo").status == 65
    assert not server.requests
    assert out.read_bytes() == before


def test_a_changed_row_without_an_id_is_refused(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Its id is its place, and what is done there may not be replaced unless it is said."""
    out = write_output(tmp_path / "out.jsonl", ["one", "two"])
    before = out.read_bytes()
    source = write_rows(tmp_path / "in.jsonl", ["zero", "one", "two"])
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "1 finished row asks something else now (row-1)" in result.error
    assert not server.requests
    assert out.read_bytes() == before


def test_redo_knows_rows_without_ids_by_what_they_ask(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """An answer that is still wanted is not bought twice because its row has moved."""
    out = write_output(tmp_path / "out.jsonl", ["one", "two"])
    before = out.read_bytes()
    source = write_rows(tmp_path / "in.jsonl", ["zero", "one", "two"])
    assert batch(str(source), "-o", str(out), "--on-change", "redo").status == 0
    assert list_prompts(server) == ["zero"]
    assert out.read_bytes().startswith(before)


# Torn lines and power cuts ------------------------------------------------------------------


def test_every_tear_and_power_cut_is_mended(tmp_path: Path) -> None:
    """Whatever a crash left of the last line, zeros or nothing, the lines before it stay."""
    for style in FORMATS:
        lines = make_lines([*make_rows(2), {"custom_id": 'ü"\\', "prompt": "\u2028"}], style)
        kept, last = b"".join(lines[:2]), lines[2]
        out = tmp_path / "out.jsonl"
        for cut in range(len(last) + 1):
            for zeros in (0, len(last) - cut, 5000) if style == "batch" else (len(last) - cut,):
                out.write_bytes(kept + last[:cut] + b"\0" * zeros)
                with Ledger(out, sync="never") as ledger:
                    whole = cut >= len(last) - 1
                    assert len(ledger.done) == (3 if whole else 2), (style, cut, zeros)
                    ledger.append(b"")
                assert out.read_bytes() == (kept + last if whole else kept), (style, cut, zeros)


def test_a_long_power_cut_is_mended(tmp_path: Path) -> None:
    """Zeros may be many blocks; a file of nothing else is empty."""
    out, line = tmp_path / "out.jsonl", make_lines(make_rows(1))[0]
    for text, left in ((line, line), (line + line[:9], line), (b"", b"")):
        out.write_bytes(text + b"\0" * (3 * 2**20 + 7))
        with Ledger(out, sync="never") as ledger:
            assert len(ledger.done) == bool(left)
        assert out.read_bytes() == left


def test_a_power_cut_costs_one_row(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """The row of the zeros is asked again; a whole line is completed and asks for nothing."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    first, last = make_lines(make_rows(2))
    outs = {cut: tmp_path / f"{cut}.jsonl" for cut in (0, 20, len(last) - 2, len(last) - 1)}
    runs = []
    for cut, out in outs.items():
        out.write_bytes(first + last[:cut] + b"\0" * 4096)
        runs.append(batch.start(str(source), "-o", str(out)))
    assert [run.wait().status for run in runs] == [0] * 4
    assert list_prompts(server) == ["p1"] * 3
    for cut, out in outs.items():
        assert out.read_bytes().startswith(first)
        assert b"\0" not in out.read_bytes()
        expected = "bought before" if cut == len(last) - 1 else "re: p1"
        assert read_answers(out) == {"r0": "bought before", "r1": expected}
        assert list_ids(out) == ["r0", "r1"]


def test_a_whole_line_needs_only_its_line_feed(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """It is complete JSON, so it is kept and not bought again, also by --retry-failed."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2))
    before = out.read_bytes()
    out.write_bytes(before.removesuffix(b"\n"))
    assert batch(str(source), "-o", str(out), "--retry-failed", "all").status == 0
    assert out.read_bytes() == before
    assert not server.requests


def test_fsync_changes_no_byte(batch: Kimi, tmp_path: Path) -> None:
    """Never, each second or each time: the same lines, but for how long they took."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(5))
    outs = {when: tmp_path / f"{when}.jsonl" for when in ("never", "interval", "always")}
    runs = [
        batch.start(str(source), "-o", str(out), "-c", "1", "--fsync", when)
        for when, out in outs.items()
    ]
    assert [run.wait().status for run in runs] == [0, 0, 0]
    seen = set()
    for out in outs.values():
        rows = read_rows(out)
        assert [row["kimi"].pop("ms") >= 0 for row in rows] == [True] * 5
        seen.add(json.dumps(rows))
    assert len(seen) == 1


# OUT.errors ---------------------------------------------------------------------------------


def test_the_errors_file_is_of_the_last_run(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """It has one line for each row that is left, in the format of the output; then it goes."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(3)), tmp_path / "out.jsonl"
    errors = tmp_path / "out.jsonl.errors"
    down = {"p1", "p2"}

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) in down:
            return refusal(500, "api_error", f"no {get_prompt(request)}")
        return echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--retries", "0", "--format", "flat")
    assert batch(*command).status == 75
    listed = {row["custom_id"]: row for row in read_rows(errors)}
    assert sorted(listed) == ["r1", "r2"]
    assert listed["r1"]["content"] is None
    assert listed["r1"]["error"]["class"] == "transient"
    assert "no p1" in listed["r1"]["error"]["message"]
    assert list_ids(out) == ["r0"]
    down.remove("p1")
    assert batch(*command).status == 75
    assert list_ids(errors) == ["r2"]
    assert list_ids(out) == ["r0", "r1"]
    down.clear()
    assert batch(*command).status == 0
    assert not errors.exists()
    assert list_prompts(server) == ["p0", "p1", "p1", "p2", "p2", "p2"]


def test_the_errors_file_is_not_the_input(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """An input of that name is refused and untouched, as the output itself would be."""
    source = write_rows(tmp_path / "out.jsonl.errors", make_rows(2))
    before = source.read_bytes()
    result = batch(str(source), "-o", str(tmp_path / "out.jsonl"))
    assert source.exists()
    assert source.read_bytes() == before
    assert result.status == 65
    assert not server.requests


# Full disks and other places that take nothing ----------------------------------------------


def test_a_full_disk_ends_the_buying(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Exit 74 with the first row that has no room; the same command buys the rest, and that."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(30)), tmp_path / "out.jsonl"
    command = f"kimi batch --base-url {server.url} -c 1 {source} -o {out}"
    result = batch.shell(f"ulimit -f 8; exec {command}").wait()
    assert result.status == 74
    assert str(out) in result.error
    kept = out.read_bytes()
    assert kept.endswith(b"\n")
    count = len(list_ids(out))
    assert 1 < count < 30
    assert len(server.requests) == count + 1
    assert batch.shell(f"exec {command}").wait().status == 0
    assert out.read_bytes().startswith(kept)
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))
    assert len(server.requests) == 31


def test_a_disk_too_full_to_rewrite_keeps_the_output(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Where the copy without the failed lines has no room, the old file stays: exit 74."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(30))
    out = write_output(tmp_path / "out.jsonl", make_rows(30), failed={"r7": "transient"})
    before = out.read_bytes()
    command = f"kimi batch --base-url {server.url} {source} -o {out} --retry-failed all"
    assert batch.shell(f"ulimit -f 8; exec {command}").wait().status == 74
    assert out.read_bytes() == before
    assert not server.requests
    assert batch.shell(f"exec {command}").wait().status == 0
    assert list_prompts(server) == ["p7"]
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))


def test_a_copy_that_has_no_room_is_taken_away(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Least of all on a full disk may a part of it stay behind."""
    source, folder = write_rows(tmp_path / "in.jsonl", make_rows(30)), tmp_path / "folder"
    folder.mkdir()
    out = write_output(folder / "out.jsonl", make_rows(30), failed={"r7": "transient"})
    command = f"kimi batch --base-url {server.url} {source} -o {out} --retry-failed all"
    assert batch.shell(f"ulimit -f 8; exec {command}").wait().status == 74
    assert list(folder.iterdir()) == [out]


def test_an_output_that_cannot_be_made_costs_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A folder that is missing, a device: exit 73, no request."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    outs = (tmp_path / "no" / "out.jsonl", Path("/dev/full"))
    runs = [batch.start(str(source), "-o", str(out)) for out in outs]
    for out, run in zip(outs, runs, strict=True):
        result = run.wait()
        assert result.status == 73
        assert str(out) in result.error
    assert not server.requests
    assert not (tmp_path / "no").exists()


def test_a_read_only_folder_costs_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Exit 73 before any request; root is bound by modes once its privilege is taken away."""
    source, folder = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    prefix = ""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere")
        prefix = "setpriv --bounding-set=-dac_override,-dac_read_search "
    out = folder / "out.jsonl"
    command = f"{prefix}kimi batch --base-url {server.url} {source} -o {out}"
    result = batch.shell(f"exec {command}").wait()
    assert result.status == 73
    assert f"cannot open {out}" in result.error
    assert not list(folder.iterdir())
    assert not server.requests


# --ordered ----------------------------------------------------------------------------------


def test_an_ordered_file_is_sorted_after_all(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """However many runs it took, the finished file is in the order of the input."""
    rows = make_rows(12)
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    up = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) in ("p2", "p6") and not up.is_set():
            return refusal(500, "api_error", "fetch failed")
        return echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--ordered", "-c", "3", "--retries", "0")
    assert batch(*command).status == 75
    assert "r2" not in list_ids(out)
    up.set()
    lines = set(out.read_bytes().splitlines())
    assert batch(*command).status == 0
    assert list_ids(out) == [row["custom_id"] for row in rows]
    assert lines < set(out.read_bytes().splitlines())
    asked = Counter(list_prompts(server))
    assert asked == {f"p{number}": 1 + (number in (2, 6)) for number in range(12)}


def test_an_ordered_file_follows_the_input_of_now(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Rows that were bought from an input in another order stand where this one has them."""
    rows = make_rows(6)
    out = write_output(tmp_path / "out.jsonl", rows[:3])
    source = write_rows(tmp_path / "in.jsonl", rows[::-1])
    assert batch(str(source), "-o", str(out), "--ordered").status == 0
    assert list_prompts(server) == ["p3", "p4", "p5"]
    assert list_ids(out) == ["r5", "r4", "r3", "r2", "r1", "r0"]


def test_ordered_text_in_a_file(batch: Kimi, tmp_path: Path) -> None:
    """One answer a line, in the order of the input; such lines have no row numbers to sort by."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(5)), tmp_path / "out.txt"
    result = batch(str(source), "-o", str(out), "--ordered", "--format", "text")
    assert result.status == 0, result.error
    assert [json.loads(line) for line in out.read_text().splitlines()] == [
        f"re: p{number}" for number in range(5)
    ]


# What is left alone -------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["symbolic link", "hard link", "standard input"])
def test_the_input_is_no_output(
    batch: Kimi, server: ReplayServer, tmp_path: Path, way: str
) -> None:
    """By whatever name: 65, no request, not a byte changed, also with options that rewrite."""
    source, out = write_output(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "out.jsonl"
    before = source.read_bytes()
    files: tuple[str, ...] = (str(source),)
    if way == "symbolic link":
        out.symlink_to(source)
    elif way == "hard link":
        out.hardlink_to(source)
    else:
        files, out = (), source
    options = ("--ordered", "--retry-failed", "all", "-o", str(out))
    with source.open("rb") as file:
        result = batch(*files, *options, stdin=file)
    assert result.status == 65
    assert f"{out} is the input" in result.error
    assert source.read_bytes() == before
    assert not server.requests


FOREIGN = [
    json.dumps(make_hosted("r0")) + "\n",
    json.dumps(make_hosted("r0")),
    '{"custom_id": "r0", "prompt": "p0"}\n',
    '{"custom_id":"r0","prompt":"p0"}\n{"custom_id":"r1","prompt":"p1"}',
    '"an answer"\n',
    "null",
    make_lines(make_rows(1))[0].decode().replace('"r0"', r'"\q"'),
    '{"custom_id":"r0","prompt":"p0"}',
    '{"custom_id":"r0","response":{"status_code":200,"body":{"kimi":{"key":"x"}}}}',
]


@pytest.mark.parametrize("text", FOREIGN)
def test_lines_of_another_tool_are_left_alone(tmp_path: Path, text: str) -> None:
    """JSON Lines that are not ours are no output to go on with: refused and untouched."""
    out = tmp_path / "out.jsonl"
    out.write_text(text)
    with suppress(BadInput), Ledger(out):
        pass
    assert out.read_text() == text
    with pytest.raises(BadInput, match="name another file with -o"):
        Ledger(out)


@pytest.mark.parametrize("option", ["--retry-failed=all", "--on-change=redo"])
def test_no_option_makes_another_file_ours(
    batch: Kimi, server: ReplayServer, tmp_path: Path, option: str
) -> None:
    """The output of a hosted batch, named as ours: exit 65, no request, not a byte changed."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    broken = make_hosted("r1", response=None, error={"code": "x"})
    out = write_rows(tmp_path / "out.jsonl", [make_hosted("r0"), broken])
    before = out.read_bytes()
    result = batch(str(source), "-o", str(out), option)
    assert result.status == 65
    assert f"{out} has 2 lines that are not this tool's" in result.error
    assert out.read_bytes() == before
    assert not server.requests


def test_one_foreign_line_is_enough(tmp_path: Path) -> None:
    """Wherever it stands among ours, and however ours ends, nothing is cut or added."""
    ours, out = make_lines(make_rows(2)), tmp_path / "out.jsonl"
    for tail in (b"", b"\0" * 9, b'{"custom'):
        for place in range(3):
            lines = [*ours[:place], b"my note\n", *ours[place:]]
            out.write_bytes(b"".join(lines) + tail)
            before = out.read_bytes()
            with pytest.raises(BadInput, match="has a line that is not"):
                Ledger(out)
            assert out.read_bytes() == before


@pytest.mark.parametrize("first", FORMATS)
def test_the_format_may_change_between_runs(
    batch: Kimi, server: ReplayServer, tmp_path: Path, first: str
) -> None:
    """Old lines stay as they were, and count, which is told; only text cannot go on with them."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    before = b""
    for count, style in enumerate(sorted(FORMATS, key=first.__ne__), 1):
        write_rows(source, make_rows(count))
        result = batch(str(source), "-o", str(out), "--format", style)
        assert result.status == 0
        told = f"kimi: {out} has lines of --format {first}; they stay as they are\n"
        assert result.error.startswith(told) == (style != first)
        assert out.read_bytes().startswith(before)
        before = out.read_bytes()
    assert list_ids(out) == ["r0", "r1", "r2"]
    assert b'"response":{' in before
    assert b',"content":"re: p' in before
    assert b',"kimi_response":{"content":"re: p' in before
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert batch(str(source), "-o", str(out), "--format", "text").status == 73
    assert out.read_bytes() == before


@pytest.mark.parametrize("rest", [b"}", b',"row":1}}', b"garbage", b'},"x":1}', b'},"a":nul}'])
def test_a_line_without_its_answer_goes_on(
    batch: Kimi, server: ReplayServer, tmp_path: Path, rest: bytes
) -> None:
    """Whatever somebody did to what stands behind the key: the row is done."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "out.jsonl"
    assert batch(str(source), "-o", str(out), "--max-rows", "1", "-c", "1").status == 75
    head = out.read_bytes().partition(b',"row"')[0]
    out.write_bytes(head + rest + b"\n")
    result = batch(str(source), "-o", str(out))
    assert (result.status, result.error.count("\n")) == (0, 1)
    assert out.read_bytes().startswith(head + rest + b"\n")
    assert list_prompts(server) == ["p0", "p1"]


# --shard ------------------------------------------------------------------------------------

SCHEDULERS = {
    "Slurm": ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    "Kubernetes": ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    "SkyPilot": ("SKYPILOT_JOB_RANK", "SKYPILOT_NUM_JOBS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_scheduler_names_the_shard(scheduler: str) -> None:
    """Its two variables say it; one alone does not."""
    index, count = SCHEDULERS[scheduler]
    for number in range(3):
        assert parse_shard("auto", {index: str(number), count: "3"}) == Shard(number, 3)
    for alone in (index, count):
        with pytest.raises(ValueError, match=index):
            parse_shard("auto", {alone: "1"})


def test_slurm_counts_from_its_first_index() -> None:
    """An array of 5 to 7 has the shards 0 to 2."""
    for task in (5, 6, 7):
        variables = {
            "SLURM_ARRAY_TASK_ID": str(task),
            "SLURM_ARRAY_TASK_COUNT": "3",
            "SLURM_ARRAY_TASK_MIN": "5",
        }
        assert parse_shard("auto", variables) == Shard(task - 5, 3)


BAD_SHARDS = [
    ("x", "2"),
    ("0", "x"),
    ("", "2"),
    ("0", ""),
    ("0.5", "2"),
    ("2", "2"),
    ("7", "2"),
    ("-1", "2"),
    ("0", "0"),
    ("0", "-1"),
]


@pytest.mark.parametrize(("index", "count"), BAD_SHARDS)
def test_a_wrong_shard_is_refused(index: str, count: str) -> None:
    """What is no number, and an index that is not below the count, is an error of usage."""
    for names in SCHEDULERS.values():
        with pytest.raises(ValueError, match=r"\w"):
            parse_shard("auto", dict(zip(names, (index, count), strict=True)))


@pytest.mark.parametrize("text", ["2/2", "0/0", "-1/2", "a/b", "1", "1/2/3", "", "AUTO"])
def test_a_wrong_shard_option_is_refused(text: str) -> None:
    """Only I/N with I below N, or auto."""
    with pytest.raises(ValueError, match="I/N"):
        parse_shard(text, {})


@pytest.mark.parametrize(
    ("index", "count"),
    [
        ("one", "2"),
        ("2", "2"),
        ("0", "0"),
    ],
)
def test_wrong_variables_are_wrong_usage(
    batch: Kimi, server: ReplayServer, tmp_path: Path, index: str, count: str
) -> None:
    """Exit 2 with a line that names the option; no request, no file."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "out.jsonl"
    variables = {"JOB_COMPLETION_INDEX": index, "JOB_COMPLETIONS": count}
    result = batch(str(source), "--shard", "auto", "-o", str(out), env=variables)
    assert result.status == 2
    assert "--shard auto" in result.error
    assert "Traceback" not in result.error
    assert not server.requests
    assert not out.exists()
