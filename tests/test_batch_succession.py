"""An answer that was paid for leaves the disk only when its successor is on it."""

from __future__ import annotations

import json
import signal
import stat
from pathlib import Path

import pytest
from faults import fail_calls
from outputs import make_lines, write_output
from program import Kimi
from rows import (
    DOWN,
    REFUSED,
    SILENT,
    echo,
    get_prompt,
    list_ids,
    list_prompts,
    make_rows,
    read_rows,
    write_rows,
)
from server import ReplayServer, refusal

COUNT = 40


@pytest.fixture
def redo(batch: Kimi, source: Path, out: Path) -> Kimi:
    """A run over rows that all ask something else than the output answers."""
    write_output(out, make_rows(COUNT))
    write_rows(source, make_rows(COUNT, "new {}"))
    return batch.but(str(source), "-o", str(out), "--on-change", "redo")


def read_old(out: Path) -> set[str]:
    """Return the ids whose old answers are there."""
    return {row["custom_id"] for row in read_rows(out) if "bought before" in json.dumps(row)}


@pytest.mark.parametrize(
    ("reply", "status"), [(refusal(401, "invalid_token", "no"), 77), (DOWN, 75)]
)
def test_a_host_that_answers_nothing_costs_nothing(
    redo: Kimi, server: ReplayServer, out: Path, reply: object, status: int
) -> None:
    """F2: the token is refused, or the host is down: not a byte of the output has changed."""
    before = out.read_bytes()
    server.answer(lambda request: reply)
    assert redo("--max-wait", "1", "--retries", "0", "--max-errors", "3").status == status
    assert out.read_bytes() == before


def test_a_dead_host_costs_nothing(redo: Kimi, out: Path) -> None:
    """F2: nobody listens."""
    before = out.read_bytes()
    nowhere = redo.but("--base-url", "http://127.0.0.1:1/kimi")
    assert nowhere("--max-wait", "1", "--retries", "0", "--max-errors", "3").status in (69, 75)
    assert out.read_bytes() == before


def test_a_limit_replaces_as_many_as_were_bought(
    redo: Kimi, server: ReplayServer, out: Path
) -> None:
    """F2: --max-rows 10 leaves 30 old answers and 10 new ones, one line a row; the rest follows."""
    server.answer(echo)
    assert redo("--max-rows", "10").status == 75
    assert len(read_rows(out)) == COUNT
    assert len(read_old(out)) == COUNT - 10
    assert redo().status == 0
    assert sorted(list_ids(out)) == sorted(f"r{number}" for number in range(COUNT))
    assert read_old(out) == set()
    assert len(server.requests) == COUNT


def test_kill_9_loses_neither_old_nor_new(redo: Kimi, server: ReplayServer, out: Path) -> None:
    """F2: both lines of a row are there; the next run, of any kind, takes the old ones out."""
    server.script(*[echo] * 5)
    server.answer(lambda request: SILENT)
    run = redo.start("-c", "1")
    server.await_requests(6)
    run.signal(signal.SIGKILL)
    run.wait()
    assert len(read_rows(out)) == COUNT + 5
    assert len(read_old(out)) == COUNT
    server.answer(echo)
    assert redo("--on-change", "keep").status == 0
    assert len(read_rows(out)) == COUNT
    assert len(read_old(out)) == COUNT - 5
    assert redo().status == 0
    assert read_old(out) == set()
    assert len(list_ids(out)) == COUNT
    assert len(server.requests) == 6 + COUNT - 5


def test_an_error_takes_no_answers_place(redo: Kimi, server: ReplayServer, out: Path) -> None:
    """The old answer stays beside the error, until an answer takes the place of both."""
    server.answer(lambda request: REFUSED if get_prompt(request) == "new 7" else echo(request))
    assert redo().status == 4
    assert len(read_rows(out)) == COUNT + 1
    assert read_old(out) == {"r7"}
    server.answer(echo)
    assert redo("--retry-failed", "all").status == 0
    assert sorted(list_ids(out)) == sorted(f"r{number}" for number in range(COUNT))
    assert read_old(out) == set()


def test_there_and_back_again(redo: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """Rows that ask again what they asked at first: the lines of now stay, whatever was killed."""
    server.answer(echo)
    assert redo().status == 0
    write_rows(source, make_rows(COUNT))
    assert redo("--ordered").status == 0
    assert list_ids(out) == [f"r{number}" for number in range(COUNT)]
    assert list_prompts(server, COUNT) == sorted(f"p{number}" for number in range(COUNT))
    before = out.read_bytes()
    assert redo("--ordered").status == 0
    assert out.read_bytes() == before


def test_rows_of_one_id_keep_their_own_answers(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """With --allow-duplicate-ids a new answer replaces what is not asked any more, and no other."""
    rows = [{"custom_id": "x", "prompt": prompt} for prompt in ("a", "b")]
    command = (str(source), "-o", str(out), "--allow-duplicate-ids", "--on-change", "redo")
    server.answer(echo)
    assert batch(str(write_rows(source, rows)), *command[1:]).status == 0
    rows[1]["prompt"] = "c"
    write_rows(source, rows)
    assert batch(*command).status == 0
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in read_rows(out)]
    assert sorted(said) == ["re: a", "re: c"]
    assert list_prompts(server) == ["a", "b", "c"]


def test_the_advice_says_what_it_costs(redo: Kimi, server: ReplayServer) -> None:
    """F2: how many answers --on-change redo pays for."""
    result = redo("--on-change", "fail")
    assert result.status == 65
    assert f"or pay for {COUNT} new ones with --on-change redo" in result.error
    assert not server.requests


def test_a_planted_name_is_not_written_through(
    redo: Kimi, server: ReplayServer, out: Path, tmp_path: Path
) -> None:
    """T12: neither the old temporary name nor a linked list of errors leads anywhere."""
    mine = tmp_path / "mine"
    mine.write_text("precious")
    out.with_name(f".{out.name}.tmp").symlink_to(mine)
    Path(f"{out}.errors").symlink_to(mine)
    out.chmod(0o600)
    server.answer(lambda request: DOWN if get_prompt(request) == "new 3" else echo(request))
    assert redo("--retries", "0").status == 75
    assert mine.read_text() == "precious"
    for path in (out, Path(f"{out}.errors")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list_ids(Path(f"{out}.errors")) == ["r3"]
    assert read_old(out) == {"r3"}


@pytest.mark.parametrize("place", [0.2, 0.5, 0.9])
def test_a_hole_in_a_line_is_told(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, place: float
) -> None:
    """T16: NULs where an answer was, as a power cut leaves them: 65, and nothing is bought."""
    rows = make_rows(5)
    lines = make_lines(rows)
    at = int(len(lines[2]) * place)
    lines[2] = lines[2][:at] + bytes(20) + lines[2][at + 20 :]
    out.write_bytes(b"".join(lines))
    before = out.read_bytes()
    result = batch(str(write_rows(source, rows)), "-o", str(out))
    assert result.status == 65
    assert "damaged" in result.error or "not this tool's" in result.error
    assert out.read_bytes() == before
    assert not server.requests


def test_a_disk_that_cannot_be_forced_is_no_failure(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """F20: a file system that says EINVAL or ENOTSUP to fdatasync and fsync has all the lines."""
    server.answer(echo)
    write_rows(source, make_rows(3))
    failing = fail_calls(batch, "fdatasync", "error=EINVAL")
    assert failing(str(source), "-o", str(out), "--fsync", "always").status == 0
    failing = fail_calls(batch, "fsync", "error=EOPNOTSUPP")
    assert failing(str(source), "-o", str(out), "--ordered").status == 0
    failing = fail_calls(batch, "flock", "error=ENOLCK")
    result = failing(str(source), "-o", str(out))
    assert result.status == 0
    assert f"{out}.lock stands in for one" in result.error
    assert len(read_rows(out)) == 3
    assert not Path(f"{out}.lock").exists()
