"""kimi batch: none lost, none paid for twice."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from program import Kimi
from rows import echo, get_prompt, make_rows, read_rows, write_rows
from server import (
    Barrier,
    Mark,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Stall,
    Wait,
    completion,
    refusal,
)


def count_prompts(server: ReplayServer) -> Counter[str]:
    """Return how often each prompt was asked."""
    return Counter(map(get_prompt, server.requests))


def test_every_form_of_row_is_asked(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Batch lines, messages, prompts, arrays and strings; what is not the API's is carried."""
    rows = [
        {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "m", "messages": [{"role": "user", "content": "one"}]}},
        {"id": "b", "messages": [{"role": "user", "content": "two"}], "gold": 7, "seed": 1},
        {"prompt": "three", "system": "be brief", "note": "x"},
        [{"role": "user", "content": "four"}],
        "five \u2028 line",
    ]  # fmt: skip
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    text = "\ufeff" + "\r\n\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    source.write_bytes(text.encode())
    server.answer(echo)
    result = batch("--ordered", str(source), "-o", str(out))
    assert result.status == 0, result.error
    lines = read_rows(out)
    assert [line["custom_id"] for line in lines] == ["a", "b", "row-3", "row-4", "row-5"]
    assert (lines[1]["gold"], lines[2]["note"]) == (7, "x")
    assert lines[0]["response"]["body"]["choices"][0]["message"]["content"] == "re: one"
    assert lines[0]["error"] is None
    by_prompt = {get_prompt(request): request.json for request in server.requests}
    assert by_prompt["one"]["model"] == "m"
    assert by_prompt["two"] == {
        "model": "kimi-k2.5", "messages": [{"role": "user", "content": "two"}], "seed": 1,
    }  # fmt: skip
    assert by_prompt["three"]["messages"][0] == {"role": "system", "content": "be brief"}
    assert by_prompt["five \u2028 line"]


def test_the_same_command_finishes(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Attempts that ran out are listed beside the output, exit 75; a second run asks only them."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(5)), tmp_path / "out.jsonl"
    down = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) == "p3" and not down.is_set():
            return refusal(500, "api_error", "fetch failed")
        return echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--retries", "0")
    assert batch(*command).status == 75
    assert len(read_rows(out)) == 4
    assert [row["custom_id"] for row in read_rows(Path(f"{out}.errors"))] == ["r3"]
    down.set()
    assert batch(*command).status == 0
    assert sorted(row["custom_id"] for row in read_rows(out)) == [f"r{n}" for n in range(5)]
    assert not Path(f"{out}.errors").exists()
    assert count_prompts(server) == {"p0": 1, "p1": 1, "p2": 1, "p3": 2, "p4": 1}


def test_any_tear_is_mended(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Wherever the last line was torn, the next run ends with each row once."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(3)), tmp_path / "out.jsonl"
    server.answer(echo)
    assert batch(str(source), "-o", str(out)).status == 0
    whole = out.read_bytes()
    start = whole.rstrip(b"\n").rfind(b"\n") + 1
    for cut in range(start, len(whole), 97):
        out.write_bytes(whole[:cut] + (b"\0" * 7 if cut % 2 else b""))
        result = batch(str(source), "-o", str(out))
        assert result.status == 0, result.error
        assert sorted(row["custom_id"] for row in read_rows(out)) == ["r0", "r1", "r2"]
    before = len(server.requests)
    out.write_bytes(whole[:-1])
    assert batch(str(source), "-o", str(out)).status == 0
    assert out.read_bytes() == whole
    assert len(server.requests) == before


@pytest.mark.timeout(300)  # a hundred starts
def test_kill_9_loses_nothing(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A hundred kills at random moments: the lines of a quiet run, and little paid for twice."""
    moments = random.Random(9)
    rows = make_rows(1000)
    source, out = write_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"

    def answer(request: ReceivedRequest) -> Reply:
        reply = completion(get_prompt(request) + "x" * 20_000)
        return reply.but(body=[Wait(0.005), *reply.body])

    server.answer(answer)
    kills, status = 0, None
    while status != 0:
        before = len(server.requests)
        run = batch.start(str(source), "-o", str(out), "-c", "4", "--progress", "none")
        if kills < 100:
            server.await_requests(before + moments.randint(1, 16))
            time.sleep(moments.uniform(0, 0.005))
            run.signal(signal.SIGKILL)
            kills += 1
        status = run.wait(timeout=60).status
        assert status in (0, -signal.SIGKILL)
    assert kills == 100
    # In flight are at most four; what was received but not yet written is among them.
    assert len(rows) <= len(server.requests) <= len(rows) + 4 * kills
    quiet = tmp_path / "quiet.jsonl"
    assert batch(str(source), "-o", str(quiet), "-c", "4").status == 0
    assert list_answers(out) == list_answers(quiet)
    assert len(list_answers(out)) == len(rows)


def list_answers(path: Path) -> list[str]:
    """Return the lines of an output, sorted, without what differs from run to run."""
    for row in (rows := read_rows(path)):
        row["kimi"] = {"key": row["kimi"]["key"], "row": row["kimi"]["row"]}
    return sorted(map(json.dumps, rows))


def test_a_changed_row_is_not_taken_for_done(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Another prompt or model under a finished id is refused with counts; or kept, or redone."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(3)), tmp_path / "out.jsonl"
    server.answer(echo)
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 0
    rows = make_rows(3)[::-1]
    write_rows(source, rows)
    assert batch(*command).status == 0, "another order is no change"
    rows[0]["prompt"] = "changed"
    write_rows(source, rows)
    refused = batch(*command)
    assert refused.status == 65
    assert "1 finished row asks something else now (r2)" in refused.error
    assert batch(*command, "--on-change", "keep").status == 0
    assert len(server.requests) == 3
    assert batch(*command, "--on-change", "redo").status == 0
    contents = {row["custom_id"]: row["response"]["body"] for row in read_rows(out)}
    assert contents["r2"]["choices"][0]["message"]["content"] == "re: changed"
    assert len(contents) == len(read_rows(out)) == 3
    assert len(server.requests) == 4


def test_one_run_at_a_time(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """The second run on an output ends at once with 75, and names the first."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(1)), tmp_path / "out.jsonl"
    gate = threading.Event()
    server.script(Reply([Barrier(gate), *completion("late").body], headers=completion("x").headers))
    first = batch.start(str(source), "-o", str(out))
    server.await_requests(1)
    second = batch(str(source), "-o", str(out))
    assert second.status == 75
    assert f"process {first.pid}" in second.error
    gate.set()
    assert first.wait().status in (0, 75)


@pytest.mark.parametrize("kind", ["input", "foreign", "torn foreign", "fifo"])
def test_what_is_not_our_output_is_left_alone(batch: Kimi, tmp_path: Path, kind: str) -> None:
    """The input, another program's file, or no file at all: refused, byte for byte untouched."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = source if kind == "input" else tmp_path / "out"
    if kind == "input":
        source.write_bytes(source.read_bytes().rstrip(b"\n"))
    elif kind == "fifo":
        import os

        os.mkfifo(out)
    else:
        out.write_text("my notes\nand more" if kind == "torn foreign" else "my notes\n")
    before = b"" if kind == "fifo" else out.read_bytes()
    result = batch(str(source), "-o", str(out))
    assert result.status in (65, 73)
    assert kind == "fifo" or out.read_bytes() == before


def test_bad_rows_are_errors_of_their_own(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A malformed line names its place; a moderated one is refused; the others are answered."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('"good"\n{torn\n{"other": 1}\n"bad word"\n"last"\n')

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) == "bad word":
            return refusal(403, "forbidden", "moderation")
        return echo(request)

    server.answer(answer)
    result = batch(str(source), "-o", str(out), "--format", "flat")
    assert result.status == 4
    lines = {row["custom_id"]: row for row in read_rows(out)}
    assert f"{source}:2:" in lines["row-2"]["error"]["message"]
    assert lines["row-3"]["error"]["code"] == "invalid_row"
    assert lines["row-4"]["error"]["code"] == "forbidden"
    assert [lines[name]["content"] for name in ("row-1", "row-5")] == ["re: good", "re: last"]
    before = len(server.requests)
    assert batch(str(source), "-o", str(out), "--format", "flat").status == 4
    assert len(server.requests) == before


def test_a_wrong_file_is_noticed_first(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Ten bad rows out of the first ten: exit 65 before any request."""
    source = tmp_path / "notes.txt"
    source.write_text("just text\n" * 30)
    result = batch(str(source), "-o", str(tmp_path / "out"))
    assert result.status == 65
    assert "--lines" in result.error
    assert not server.requests
    server.answer(echo)
    assert batch("--lines", str(source), "-o", str(tmp_path / "out")).status == 0


def test_templates_and_tables(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """{fields} are filled in once, from JSON or from a table; the answer joins the row."""
    table = tmp_path / "in.csv"
    table.write_text('id,text\n1,"say {x}\nagain"\n2,b\n')
    out = tmp_path / "out.jsonl"
    server.answer(echo)
    options = ("--csv", "-p", "Is {text} {{kind}}?", "--format", "merge", "--ordered")
    assert batch(*options, str(table), "-o", str(out)).status == 0
    assert set(count_prompts(server)) == {"Is say {x}\nagain {kind}?", "Is b {kind}?"}
    assert [row["kimi_response"]["content"] for row in read_rows(out)][1] == "re: Is b {kind}?"


def test_refusals_for_load_cost_no_attempt(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A row that was refused often enough to be lost elsewhere is answered here."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(1)), tmp_path / "out.jsonl"
    busy = refusal(429, "rate_limited", "too many", dialect="gateway")
    server.script(*[busy] * 8, completion("done"))
    assert batch(str(source), "-o", str(out), "--retries", "0").status == 0
    assert read_rows(out)[0]["kimi"]["attempts"] == 1


@pytest.mark.parametrize(
    ("status", "code"), [(401, "invalid_token"), (403, "used_up"), (403, "disabled")]
)
def test_a_dead_account_stops_at_once(
    batch: Kimi, server: ReplayServer, tmp_path: Path, status: int, code: str
) -> None:
    """Exit 77 after a few requests, and no lines that all say the same."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(2000)), tmp_path / "out.jsonl"
    server.answer(lambda request: refusal(status, code, "no"))
    assert batch(str(source), "-o", str(out)).status == 77
    assert len(server.requests) <= 64
    assert out.read_bytes() == b""


def test_it_is_a_filter(batch: Kimi, server: ReplayServer) -> None:
    """The first row is answered before the input has ended."""
    server.answer(echo)
    run = batch.start("--format", "text", stdin="pipe")
    run.write(b'"one"\n')
    run.expect(b'"re: one"\n', "stdout")
    run.write(b'"two"\n')
    run.expect(b'"re: two"\n', "stdout")
    run.end_input()
    assert run.wait().status == 0


def test_every_row_has_a_line_on_a_pipe(batch: Kimi, server: ReplayServer) -> None:
    """In order, whatever became of the rows, so that paste and its like stay aligned."""

    def answer(request: ReceivedRequest) -> Reply:
        fails = get_prompt(request) == "p1"
        return refusal(500, "api_error", "x") if fails else echo(request)

    server.answer(answer)
    text = "".join(json.dumps(row) + "\n" for row in make_rows(20)) + "{torn\n"
    options = ("--ordered", "--retries", "0", "--format", "flat")
    result = batch(*options, stdin=text.encode())
    assert result.status == 4
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == [*(f"r{n}" for n in range(20)), "row-21"]
    assert lines[1]["error"]["class"] == "transient"


@pytest.mark.parametrize("limit", ["--timeout", "--max-time"])
def test_an_attempt_has_its_time(
    batch: Kimi, server: ReplayServer, tmp_path: Path, limit: str
) -> None:
    """A reply that stands still costs its row the attempt, and nobody else anything."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(3)), tmp_path / "out.jsonl"
    silent = Reply([Stall()], framing="raw")
    server.answer(lambda request: silent if get_prompt(request) == "p1" else echo(request))
    result = batch(str(source), "-o", str(out), limit, "0.3", "--retries", "0")
    assert result.status == 75
    assert sorted(row["custom_id"] for row in read_rows(out)) == ["r0", "r2"]
    (left,) = read_rows(Path(f"{out}.errors"))
    assert left["error"]["code"] == "TimedOut"


def test_limits_stop_in_good_order(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """--max-rows ends with 75 while rows are left, and with 0 when there are none."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(5)), tmp_path / "out.jsonl"
    server.answer(echo)
    statuses = [batch(str(source), "-o", str(out), "--max-rows", "2").status for _ in range(3)]
    assert statuses == [75, 75, 0]
    assert len(server.requests) == 5


def test_shards_are_the_whole(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Each row is in exactly one shard; a scheduler's variables name it."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(7))
    server.answer(echo)
    pattern = str(tmp_path / "out.{shard}.jsonl")
    assert batch(str(source), "--shard", "0/2", "-o", pattern).status == 0
    variables = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_MIN": "1",
                 "SLURM_ARRAY_TASK_COUNT": "2"}  # fmt: skip
    assert batch(str(source), "--shard", "auto", "-o", pattern, env=variables).status == 0
    sizes = [len(read_rows(tmp_path / f"out.{shard}.jsonl")) for shard in (0, 1)]
    assert sizes == [4, 3]
    assert set(count_prompts(server).values()) == {1}


def test_an_interrupt_waits_for_what_is_paid(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """The first ^C drains and says so, and the process dies by SIGINT; a second leaves now."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(50)), tmp_path / "out.jsonl"
    gate = threading.Event()
    whole = completion("paid")
    server.answer(lambda request: Reply([Barrier(gate), *whole.body], headers=whole.headers))
    run = batch.start(str(source), "-o", str(out), "-c", "3")
    server.await_requests(3)
    run.signal(signal.SIGINT)
    run.expect(b"3 requests in flight", "stderr")
    gate.set()
    assert run.wait().status == -signal.SIGINT
    assert len(read_rows(out)) == 3
    server.answer(lambda request: Reply([Stall()], framing="raw"))
    before = len(server.requests)
    run = batch.start(str(source), "-o", str(out), "-c", "3")
    server.await_requests(before + 3)
    run.signal(signal.SIGINT)
    run.expect(b"in flight", "stderr")
    run.signal(signal.SIGINT)
    assert run.wait(timeout=10).status == -signal.SIGINT
    assert len(read_rows(out)) == 3


def test_a_reader_that_leaves_stops_the_buying(batch: Kimi, server: ReplayServer) -> None:
    """| head ends the run by SIGPIPE after little more than what was read."""
    server.answer(echo)
    rows = "".join(json.dumps(f"p{number}") + "\n" for number in range(5000))
    path = Path(batch.environment["HOME"], "rows.jsonl")
    path.write_text(rows)
    url = server.url
    run = batch.shell(f"kimi batch --no-auth --base-url {url} -c 4 {path} | head -n 1")
    assert run.wait().stdout.count(b"\n") == 1
    assert len(server.requests) < 2000


def test_a_full_disk_stops_the_buying(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Exit 74 at once; whole lines stay, and the same command goes on when there is room."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(300)), tmp_path / "out.jsonl"
    server.answer(echo)
    command = f"kimi batch --no-auth --base-url {server.url} -c 2 {source} -o {out}"
    assert batch.shell(f"ulimit -f 8; trap '' XFSZ; {command}").wait().status == 74
    assert len(server.requests) < 200
    kept = read_rows(out)
    assert kept
    assert batch.shell(command).wait().status == 0
    assert len(read_rows(out)) == 300


def test_a_dry_run_checks_everything(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """The first request and the counts, and no network."""
    source = write_rows(tmp_path / "in.jsonl", [*make_rows(2), {"x": 1}])
    result = batch("--dry-run", str(source))
    assert result.status == 65
    assert json.loads(result.stdout) == {
        "messages": [{"role": "user", "content": "p0"}], "model": "kimi-k2.5",
    }  # fmt: skip
    assert "2 rows can be sent, 1 cannot" in result.error
    assert not server.requests


def test_the_summary_has_the_figures(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Rows, attempts, tokens, latency; an answer that ended early is counted, exit 4."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(3))
    out, summary = tmp_path / "out.jsonl", tmp_path / "summary.json"
    server.answer(lambda request: completion("cut", finish="length"))
    command = (str(source), "-o", str(out), "--summary", str(summary))
    assert batch(*command).status == 4
    figures = json.loads(summary.read_text())
    assert figures["rows"]["answered"] == figures["rows"]["incomplete"] == 3
    assert figures["sends"] == 3
    assert set(figures["latency_ms"]) == {"p50", "p95", "p99"}
    assert batch(*command, "--allow-incomplete").status == 0


def test_signal_usr1_tells_how_it_stands(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """One line on stderr, and the run goes on."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(1))
    gate, sent = threading.Event(), threading.Event()
    whole = completion("late")
    server.script(Reply([Mark(sent), Barrier(gate), *whole.body], headers=whole.headers))
    run = batch.start(str(source), "-o", str(tmp_path / "out.jsonl"))
    server.await_requests(1)
    run.signal(signal.SIGUSR1)
    run.expect(b"1 in flight", "stderr")
    gate.set()
    assert run.wait().status == 0
