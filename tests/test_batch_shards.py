"""kimi batch --shard: a share of the rows, by a scheduler's variables too."""

from __future__ import annotations

from collections.abc import Sequence
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
    "AWS Batch": ("AWS_BATCH_JOB_ARRAY_INDEX", "AWS_BATCH_JOB_ARRAY_SIZE"),
    "Google Batch": ("BATCH_TASK_INDEX", "BATCH_TASK_COUNT"),
    "Cloud Run": ("CLOUD_RUN_TASK_INDEX", "CLOUD_RUN_TASK_COUNT"),
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


def name_slurm(task: int, array: Sequence[int], step: int = 1) -> dict[str, str]:
    """Return what Slurm tells *task* of an array of these numbers."""
    return {
        "SLURM_ARRAY_TASK_ID": str(task),
        "SLURM_ARRAY_TASK_COUNT": str(len(array)),
        "SLURM_ARRAY_TASK_MIN": str(min(array)),
        "SLURM_ARRAY_TASK_MAX": str(max(array)),
        "SLURM_ARRAY_TASK_STEP": str(step),
    }


def name_grid(task: int, first: int, last: int, step: int = 1) -> dict[str, str]:
    """Return what Grid Engine tells *task*."""
    names = ("SGE_TASK_ID", "SGE_TASK_FIRST", "SGE_TASK_LAST", "SGE_TASK_STEPSIZE")
    return dict(zip(names, map(str, (task, first, last, step)), strict=True))


def test_the_step_of_an_array_counts() -> None:
    """--array=1-7:2 has four tasks, and the shards 0 to 3; qsub -t 10-40:10 as well."""
    array = range(1, 8, 2)
    shards = [parse_shard("auto", name_slurm(task, array, 2)) for task in array]
    assert shards == [Shard(number, 4) for number in range(4)]
    shards = [parse_shard("auto", name_grid(task, 10, 40, 10)) for task in (10, 20, 30, 40)]
    assert shards == [Shard(number, 4) for number in range(4)]


UNCLEAR = {
    "one task alone": (name_slurm(3, [3]), "one task only"),
    "two tasks of eight": (name_slurm(3, [3, 5]), "goes from 3 to 5"),
    "one task of Grid Engine": (name_grid(3, 3, 3), "one task only"),
    "PBS": ({"PBS_ARRAY_INDEX": "3"}, "PBS_ARRAY_INDEX"),
    "Torque": ({"PBS_ARRAYID": "3"}, "PBS_ARRAYID"),
    "LSF": ({"LSB_JOBINDEX": "3", "LSB_JOBINDEX_END": "8"}, "LSB_JOBINDEX"),
    "Kubernetes without a count": ({"JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETIONS"),
}


@pytest.mark.parametrize("what", UNCLEAR)
def test_what_variables_do_not_tell_is_not_guessed(what: str) -> None:
    """A task that is submitted again alone is no array of one: who knows says auto/N."""
    variables, wanted = UNCLEAR[what]
    with pytest.raises(ValueError, match=wanted) as raised:
        parse_shard("auto", variables)
    assert "auto/N" in str(raised.value)


LSF = {"LSB_JOBINDEX_END": "8", "LSB_JOBINDEX_STEP": "1"}
NUMBERED: dict[str, tuple[dict[str, str], int]] = {
    "the whole array": (name_slurm(3, range(8)), 3),
    "one task alone": (name_slurm(3, [3]), 3),
    "two tasks of eight": (name_slurm(5, [3, 5]), 5),
    "every other task": (name_slurm(6, [0, 2, 4, 6], 2), 6),
    "Grid Engine counts from 1": (name_grid(8, 1, 8), 7),
    "Grid Engine, one task": (name_grid(3, 3, 3), 2),
    "LSF counts from 1": ({"LSB_JOBINDEX": "8", **LSF}, 7),
    "PBS": ({"PBS_ARRAY_INDEX": "3"}, 3),
    "Torque": ({"PBS_ARRAYID": "0"}, 0),
    "Kubernetes without a count": ({"JOB_COMPLETION_INDEX": "7"}, 7),
    "Cloud Run": ({"CLOUD_RUN_TASK_INDEX": "7", "CLOUD_RUN_TASK_COUNT": "8"}, 7),
}


@pytest.mark.parametrize("what", NUMBERED)
def test_a_count_makes_a_task_the_same_again(what: str) -> None:
    """With auto/8 the shard is the task's number, whatever else was submitted with it."""
    variables, index = NUMBERED[what]
    assert parse_shard("auto/8", variables) == Shard(index, 8)


WRONG: dict[str, dict[str, str]] = {
    "an array from 1": name_slurm(3, range(1, 9)),
    "an array from 0 of Grid Engine's": name_grid(9, 1, 9),
    "a longer array": {"LSB_JOBINDEX": "3", "LSB_JOBINDEX_END": "9"},
    "fewer tasks": {"CLOUD_RUN_TASK_INDEX": "3", "CLOUD_RUN_TASK_COUNT": "4"},
    "more tasks": {"AWS_BATCH_JOB_ARRAY_INDEX": "3", "AWS_BATCH_JOB_ARRAY_SIZE": "9"},
    "a number beyond": {"PBS_ARRAY_INDEX": "8"},
    "a number below": {"SGE_TASK_ID": "0"},
    "no number": {"PBS_ARRAY_INDEX": "3a"},
    "no array of LSF": {"LSB_JOBINDEX": "0"},
    "no array of Grid Engine": {"SGE_TASK_ID": "undefined"},
    "nothing": {},
}


@pytest.mark.parametrize("what", WRONG)
def test_a_count_that_does_not_fit_is_refused(what: str) -> None:
    """Each task of such an array says so, not only the one that has no shard."""
    with pytest.raises(ValueError, match=r"\w"):
        parse_shard("auto/8", WRONG[what])


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


@pytest.mark.parametrize(
    "text",
    [
        "2/2",
        "0/0",
        "-1/2",
        "a/b",
        "1",
        "1/2/3",
        "",
        "AUTO",
        "auto/",
        "auto/0",
        "auto/x",
        "auto/1/2",
    ],
)
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


def test_an_output_of_another_shard_is_noticed(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its rows are not bought again: 65, before any request; the shard itself goes on."""
    write_rows(source, make_rows(8))
    assert batch(str(source), "-o", str(out), "--shard", "1/4").status == 0
    before = out.read_bytes()
    for shard in ("0/1", "0/4", "1/2"):
        for more in ((), ("--dry-run",)):
            result = batch(str(source), "-o", str(out), "--shard", shard, *more)
            assert result.status == 65
            assert f"{out} was written by shard 1/4, and this is shard {shard}" in result.error
    assert out.read_bytes() == before
    variables = name_slurm(1, [1])
    result = batch(str(source), "-o", str(out), "--shard", "auto/4", env=variables)
    assert result.status == 0
    assert "2 done before" in result.error
    assert len(server.requests) == 2


@pytest.mark.parametrize("style", ["batch", "flat", "merge"])
def test_shards_that_were_put_together_go_on(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, style: str
) -> None:
    """Lines of all shards in one file are the output of a run without shards."""
    write_rows(source, make_rows(5))
    for index in range(2):
        options = ("--shard", f"{index}/2", "--format", style)
        assert batch(str(source), "-o", f"{out}.{index}", *options).status == 0
    out.write_bytes(b"".join(Path(f"{out}.{index}").read_bytes() for index in range(2)))
    result = batch(str(source), "-o", str(out), "--format", style)
    assert result.status == 0
    assert "5 done before" in result.error
    assert len(server.requests) == 5


def test_an_old_output_of_a_shard_goes_on(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Lines that do not say which shard they are of are taken as ours."""
    write_rows(source, make_rows(4))
    assert batch(str(source), "-o", str(out), "--shard", "0/2").status == 0
    out.write_bytes(out.read_bytes().replace(b',"shard":"0/2"', b""))
    assert batch(str(source), "-o", str(out), "--shard", "0/2").status == 0
    assert len(server.requests) == 2
