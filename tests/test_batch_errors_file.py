"""kimi batch: OUT.errors, and errors among the results."""

from __future__ import annotations

from pathlib import Path

import pytest
import rows
from program import Kimi
from rows import (
    DOWN,
    REFUSED,
    answer_but,
    echo,
    get_prompt,
    list_ids,
    list_prompts,
    make_rows,
    read_rows,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, refusal

batch = rows.echoing


# OUT.errors


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


@pytest.mark.parametrize("name", [".", "", "/", "..", "x" * 250, "x" * 300])
def test_an_output_without_a_usable_name(
    batch: Kimi, server: ReplayServer, source: Path, name: str
) -> None:
    """Or whose list of errors has none: 73 in one line, before anything is asked."""
    write_rows(source, make_rows(1))
    result = batch(str(source), "-o", name)
    assert (result.status, result.error.count("\n")) == (73, 1), result.error
    assert result.error.startswith("kimi: cannot ")
    assert not server.requests


def test_a_folder_in_place_of_the_list_of_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Is told before anything is asked."""
    write_rows(source, make_rows(1))
    Path(f"{out}.errors").mkdir()
    result = batch(str(source), "-o", str(out))
    assert result.status == 73
    assert f"{out}.errors" in result.error
    assert not server.requests


def test_a_name_with_brackets_is_a_name(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--done-from takes a file that is there as it is called."""
    write_rows(source, make_rows(2))
    earlier = out.with_name("earlier[1].jsonl")
    assert batch(str(source), "-o", str(earlier)).status == 0
    result = batch(str(source), "-o", str(out), "--done-from", str(earlier))
    assert (result.status, out.read_bytes(), len(server.requests)) == (0, b"", 2)


# Errors in the output


def test_written_errors_say_how_to_go_on(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A line of an error that may pass is not called final."""
    write_rows(source, make_rows(3))
    answer_but(server, p0=DOWN, p1=REFUSED)
    command = (str(source), "-o", str(out), "--on-error", "write", "--retries", "0")
    assert batch(*command).status == 75
    result = batch(*command)
    assert result.status == 4
    told = "2 rows failed for good; the output says why; --retry-failed transient asks for 1 again"
    assert told in result.error


@pytest.mark.parametrize("scope", ["other rows", "shard"])
def test_errors_of_other_rows_stay(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, scope: str
) -> None:
    """--retry-failed takes out only what this run asks again."""
    write_rows(source, make_rows(4))
    answer_but(server, p1=REFUSED, p2=REFUSED)
    assert batch(str(source), "-o", str(out)).status == 4
    server.answer(echo)
    options = ("--shard", "0/2") if scope == "shard" else ()
    if not options:
        write_rows(source, make_rows(4)[2:3])
    result = batch(str(source), "-o", str(out), "--retry-failed", "all", *options)
    assert result.status == 0
    assert list_prompts(server, 4) == ["p2"]
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]
    assert [row["custom_id"] for row in read_rows(out) if row["error"]] == ["r1"]
