"""kimi batch: which rows are asked: not those done elsewhere, those that failed, and twins."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import rows
from outputs import FORMATS, make_hosted, make_lines, read_answers, select_lines, write_output
from program import Kimi
from rows import echo, get_prompt, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import ReceivedRequest, ReplayServer, Reply, Stall, refusal

from kimi_cli.batch.done import read_mark
from kimi_cli.batch.earlier import read_done

batch = rows.echoing


# --done-from


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


# --retry-failed


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
        marks = [read_mark(line) for line in make_lines(rows, style)]
        assert [mark is not None and mark.failed for mark in marks] == [None] * len(marks), style
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


# Ids that come twice


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
