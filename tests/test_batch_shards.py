"""kimi batch --shard: a share of the rows, by a scheduler's variables too."""

from __future__ import annotations

from pathlib import Path

import pytest
import rows
from program import Kimi
from rows import echo, make_rows, write_rows
from server import ReplayServer

from kimi_cli.batch.selection import Shard, parse_shard

batch = rows.echoing


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
