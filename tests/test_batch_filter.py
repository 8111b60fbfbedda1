"""kimi batch as a filter: every line that goes in has exactly one that comes out."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rows
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from program import Kimi
from rows import FAILED, NO_MODEL, SILENT, echo, get_prompt, list_prompts, make_rows, write_rows
from server import ReceivedRequest, ReplayServer, Reply, refusal

batch = rows.echoing

TOKEN = refusal(401, "invalid_authentication_error", "no such token", dialect="moonshot")
REFUSED = refusal(400, "bad_request", "this prompt is too long")
GOOD, BAD, BLANK = '"{}"', '{{"question": {}}}', "  "


def make_input(kinds: str) -> bytes:
    """Return a line for each letter: g(ood), b(ad), or anything else for a blank one."""
    shapes = {"g": GOOD, "b": BAD}
    lines = [shapes.get(kind, BLANK).format(number) for number, kind in enumerate(kinds, 1)]
    return "".join(f"{line}\n" for line in lines).encode()


@dataclass(frozen=True)
class Way:
    """A way to end a run, and the exit status that tells of it."""

    status: int
    options: tuple[str, ...] = ()
    answer: Callable[[ReceivedRequest], Reply] = echo


def fail_after(good: int, reply: Reply) -> Callable[[ReceivedRequest], Reply]:
    """Answer the first *good* rows, and all others with *reply*."""

    def answer(request: ReceivedRequest) -> Reply:
        return echo(request) if int(get_prompt(request)) <= good else reply

    return answer


WAYS = {
    "nothing": Way(0),
    "a token that is refused": Way(77, answer=lambda request: TOKEN),
    "a token that expires": Way(77, ("-c", "1"), fail_after(1, TOKEN)),
    "an unknown model": Way(69, answer=lambda request: NO_MODEL),
    "a page": Way(76, ("--retries", "0"), lambda request: rows.PAGE),
    "a host that fails": Way(4, ("--retries", "0", "--max-wait", "0.2"), lambda request: FAILED),
    "a host that is silent": Way(4, ("--timeout", "0.2", "--retries", "0"), lambda request: SILENT),
    "--deadline": Way(4, ("-c", "1", "--deadline", "0.1"), lambda request: wait_a_little(request)),
    "--max-rows": Way(4, ("--max-rows", "1")),
    "--max-errors": Way(4, ("--max-errors", "0", "-c", "1"), fail_after(1, REFUSED)),
    "--max-total-tokens": Way(4, ("--max-total-tokens", "70", "--max-tokens", "20", "-c", "1")),
    "a budget below one row": Way(65, ("--max-total-tokens", "1", "--max-tokens", "9")),
    "a host that is not there": Way(4, ("--max-wait", "0.2", "--retries", "0")),
}


def wait_a_little(request: ReceivedRequest) -> Reply:
    """Answer after a while."""
    rows.pause(0.1)
    return echo(request)


def run_filter(
    batch: Kimi, server: ReplayServer, way: str, data: bytes, *options: str
) -> tuple[int, list[Any]]:
    """Run over *data* until *way* ends it; return the exit status and the lines of output."""
    server.answer(WAYS[way].answer)
    url = ("--base-url", "http://127.0.0.1:9") if way == "a host that is not there" else ()
    result = batch(*WAYS[way].options, *url, *options, stdin=data)
    assert "Traceback" not in result.error
    return result.status, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("way", WAYS)
def test_every_line_has_its_line_whatever_ends_the_run(
    batch: Kimi, server: ReplayServer, way: str
) -> None:
    """The exit status is that of what ended it, and 4 where only the lines hold errors."""
    status, lines = run_filter(batch, server, way, make_input("g" * 24), "--ordered")
    assert status == WAYS[way].status
    assert [line["custom_id"] for line in lines] == [f"row-{number}" for number in range(1, 25)]
    classes = {line["error"]["class"] for line in lines if line["error"]}
    assert classes <= {"permanent", "transient", "not_asked"}
    assert all(
        (line["response"] or {}).get("status_code") == 200 or line["error"] for line in lines
    )


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kinds=st.text("gggb-", max_size=20),
    way=st.sampled_from(list(WAYS)),
    is_ordered=st.booleans(),
    format=st.sampled_from(["batch", "flat", "merge"]),
)
@example(kinds="b" * 10 + "ggg", way="nothing", is_ordered=False, format="flat")
@example(kinds="b" * 13, way="nothing", is_ordered=True, format="batch")
@example(kinds="bbb", way="nothing", is_ordered=False, format="batch")
@example(kinds="-", way="nothing", is_ordered=False, format="flat")
@example(kinds="g-", way="nothing", is_ordered=True, format="flat")
@example(kinds="", way="a token that is refused", is_ordered=False, format="batch")
def test_any_input_keeps_its_lines(
    batch: Kimi, server: ReplayServer, kinds: str, way: str, is_ordered: bool, format: str
) -> None:
    """Good, bad and blank lines in any order, in every format, and every end."""
    options = ("--format", format, *(["--ordered"] if is_ordered else []))
    status, lines = run_filter(batch, server, way, make_input(kinds), *options)
    names = [line["custom_id"] for line in lines]
    wanted = [f"row-{number}" for number in range(1, len(kinds) + 1)]
    assert (names if is_ordered else sorted(names, key=wanted.index)) == wanted
    flaws = {line["custom_id"]: line["kimi"].get("failed") for line in lines}
    for name, kind in zip(wanted, kinds, strict=True):
        assert flaws[name] == {"b": "permanent", "-": "not_asked"}.get(kind, flaws[name])
    assert status != 75
    assert (status == 0) == (set(flaws.values()) <= {None})


def test_a_row_that_nobody_was_asked_for_says_why(batch: Kimi, server: ReplayServer) -> None:
    """Its class tells it from a row that failed, and its words what ended the run."""
    _, lines = run_filter(batch, server, "a token that is refused", make_input("g" * 300))
    left = [line["error"] for line in lines if line["error"]["class"] == "not_asked"]
    assert len(left) > 200
    assert len(lines) == 300
    assert {error["code"] for error in left} == {"not_asked"}
    assert all("no such token" in error["message"] for error in left)


@pytest.mark.parametrize("kind", ["lines", "csv", "tsv"])
def test_a_blank_line_is_no_prompt_and_has_a_line(
    batch: Kimi, server: ReplayServer, kind: str
) -> None:
    """Nobody is asked for it, and the exit status says that not all lines are answers."""
    head = "" if kind == "lines" else "prompt\n"
    data = f"{head}one\n\ntwo\n\n".encode()
    result = batch("--from", kind, "--ordered", "--format", "text", stdin=data)
    assert result.status == 4
    assert result.stdout == b'"re: one"\nnull\n"re: two"\nnull\n'
    assert "2 not asked" in result.error
    assert list_prompts(server) == ["one", "two"]


def test_a_blank_line_is_none_for_a_file(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """What goes on later has rows only; a rehearsal of the filter minds it as little."""
    source.write_bytes(make_input("g-g"))
    assert batch(str(source), "-o", str(out)).status == 0
    assert sorted(rows.list_ids(out)) == ["row-1", "row-2"]
    assert batch("--dry-run", stdin=make_input("g-g")).status == 0


def test_rows_that_others_hold_back_have_lines(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A finished row that asks something else now is not asked, nor what comes behind it: 65."""
    write_rows(source, make_rows(3))
    assert batch(str(source), "-o", str(out)).status == 0
    changed = [*make_rows(1), {"custom_id": "r1", "prompt": "new"}, "behind"]
    write_rows(source, changed)
    result = batch(str(source), "--done-from", str(out), "--format", "flat", "--ordered")
    assert result.status == 65
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == ["r1", "row-3"]
    assert {line["error"]["class"] for line in lines} == {"not_asked"}
    assert len(server.requests) == 3


def test_lines_that_were_kept_are_no_answers(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A filter's output, taken as the output of a run, lacks the rows that were not asked."""
    write_rows(source, make_rows(5))
    result = batch(str(source), "--max-rows", "2", "-c", "1")
    assert result.status == 4
    out.write_bytes(result.stdout)
    assert batch(str(source), "-o", str(out)).status == 0
    assert rows.read_ids(out) == [f"r{number}" for number in range(5)]
    assert list_prompts(server) == [f"p{number}" for number in range(5)]


def test_a_signal_leaves_lines_out(batch: Kimi, server: ReplayServer) -> None:
    """Who is stopped from outside ends at once, and reads no more."""
    server.answer(lambda request: SILENT)
    run = batch.start("-c", "1", stdin="pipe")
    run.write(make_input("g" * 5))
    server.await_requests(1)
    run.signal(signal.SIGTERM)
    run.expect(b"in flight", "stderr")
    run.signal(signal.SIGTERM)
    result = run.wait()
    assert result.status == -signal.SIGTERM
    assert result.stdout == b""


def test_a_row_that_comes_after_the_end_has_its_line(batch: Kimi, server: ReplayServer) -> None:
    """Who writes a row when it has read the line before it gets one for each, to the last."""
    server.answer(lambda request: TOKEN)
    run = batch.start("--format", "flat", stdin="pipe")
    for number in range(1, 4):
        run.write(b'"question"\n')
        line = json.loads(run.expect(b"\n", "stdout"))
        assert line["custom_id"] == f"row-{number}"
        assert "no such token" in line["error"]["message"]
    run.end_input()
    assert run.wait().status == 77
    assert len(server.requests) == 1


# Ids of rows without one


def read_names(batch: Kimi, *options: str, env: dict[str, str] | None = None) -> list[str]:
    """Return the ids of two rows, one of them without one."""
    result = batch(
        "--ordered", *options, stdin=b'"one"\n{"id": "x", "prompt": "p"}\n', env=env or {}
    )
    assert result.status == 0, result.error
    return [json.loads(line)["custom_id"] for line in result.stdout.splitlines()]


def test_a_prefix_parts_partitions(batch: Kimi) -> None:
    """It is put before names by place only."""
    assert read_names(batch, "--id-prefix", "part 7/") == ["part 7/row-1", "x"]
    assert read_names(batch, "--id-prefix", "") == ["row-1", "x"]


@pytest.mark.parametrize(
    "name", ["PARALLEL_SEQ", "mapreduce_task_partition", "SLURM_ARRAY_TASK_ID"]
)
def test_an_engine_numbers_its_partitions(batch: Kimi, name: str) -> None:
    """A filter takes the number without being told; a text says where it goes."""
    assert read_names(batch, env={name: "17"}) == ["17-row-1", "x"]
    assert read_names(batch, "--id-prefix", "p{partition}:", env={name: "17"}) == ["p17:row-1", "x"]
    assert read_names(batch, "--id-prefix", "", env={name: "17"}) == ["row-1", "x"]


def test_who_names_a_file_has_all_rows(batch: Kimi, source: Path, out: Path) -> None:
    """Numbers are then those of the file, whatever engine there is; so they are in a shard."""
    write_rows(source, ["one", "two"])
    env = {"PARALLEL_SEQ": "3"}
    for options in ((str(source),), (str(source), "-o", str(out))):
        assert batch(*options, env=env).status == 0
    assert sorted(rows.list_ids(out)) == ["row-1", "row-2"]
    assert read_names(batch, "--shard", "0/1", env=env) == ["row-1", "x"]


def test_a_number_that_no_engine_gives_is_wrong_usage(batch: Kimi, server: ReplayServer) -> None:
    """Exit 2 with the names of variables that were looked for."""
    result = batch("--id-prefix", "{partition}-", stdin=b'"one"\n')
    assert result.status == 2
    assert "PARALLEL_SEQ" in result.error
    assert not server.requests


def test_a_prefix_goes_on(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """Rows are known again by what they ask: another prefix buys nothing twice."""
    write_rows(source, ["one", "two"])
    assert batch(str(source), "-o", str(out), "--id-prefix", "a-").status == 0
    assert sorted(rows.list_ids(out)) == ["a-row-1", "a-row-2"]
    assert batch(str(source), "-o", str(out), "--id-prefix", "b-").status == 0
    assert len(server.requests) == 2
