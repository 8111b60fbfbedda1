"""Which part of the work is ours: what schedulers and engines tell their workers by variables.

The table names the variables as the scheduler's manual does; kimi-batch(1) names the manual.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Scheduler:
    """The variables of one scheduler; None for what it does not tell."""

    index: str
    count: str | None = None
    first: str | None = None
    last: str | None = None
    step: str | None = None
    base: int = 0
    """The number that an array begins with there."""
    is_fixed: bool = True
    """Whether a task that is run again is told what it was told at first."""


SCHEDULERS = (
    Scheduler(
        index="SLURM_ARRAY_TASK_ID",
        count="SLURM_ARRAY_TASK_COUNT",
        first="SLURM_ARRAY_TASK_MIN",
        last="SLURM_ARRAY_TASK_MAX",
        step="SLURM_ARRAY_TASK_STEP",
        is_fixed=False,
    ),
    Scheduler(index="JOB_COMPLETION_INDEX", count="JOB_COMPLETIONS"),
    Scheduler(index="AWS_BATCH_JOB_ARRAY_INDEX", count="AWS_BATCH_JOB_ARRAY_SIZE"),
    Scheduler(index="BATCH_TASK_INDEX", count="BATCH_TASK_COUNT"),
    Scheduler(index="CLOUD_RUN_TASK_INDEX", count="CLOUD_RUN_TASK_COUNT"),
    Scheduler(index="PBS_ARRAY_INDEX", is_fixed=False),
    Scheduler(index="PBS_ARRAYID", is_fixed=False),
    Scheduler(index="LSB_JOBINDEX", last="LSB_JOBINDEX_END", base=1, is_fixed=False),
    Scheduler(
        index="SGE_TASK_ID",
        first="SGE_TASK_FIRST",
        last="SGE_TASK_LAST",
        step="SGE_TASK_STEPSIZE",
        base=1,
        is_fixed=False,
    ),
    Scheduler(index="SKYPILOT_JOB_RANK", count="SKYPILOT_NUM_JOBS"),
    Scheduler(index="OMPI_COMM_WORLD_RANK", count="OMPI_COMM_WORLD_SIZE"),
)
PARTITIONS = ("PARALLEL_SEQ", "mapreduce_task_partition", "mapred_task_partition")
"""Variables of engines that give each worker an input of its own."""
_NONE = {"LSB_JOBINDEX": "0", "SGE_TASK_ID": "undefined"}
"""What is told where there is no array."""


def find_share(environment: Mapping[str, str], count: int | None = None) -> tuple[int, int]:
    """Return which share of how many is ours; *count* is how many the user says there are.

    Raises ValueError for what the variables cannot tell.
    """
    for scheduler in SCHEDULERS:
        if is_set(environment, scheduler.index):
            told = _Told(scheduler, environment)
            return told.find_part() if count is None else told.find_part_of(count)
    known = ", ".join(scheduler.index for scheduler in SCHEDULERS)
    raise ValueError(f"no scheduler's variables are here (looked for {known})")


def find_partition(environment: Mapping[str, str]) -> str | None:
    """Return the number of the partition that this process is given; None where nobody says."""
    names = (*PARTITIONS, *(scheduler.index for scheduler in SCHEDULERS))
    found = (environment[name] for name in names if is_set(environment, name))
    return next(filter(str.isdecimal, found), None)


def is_set(environment: Mapping[str, str], index: str) -> bool:
    """Tell whether there is an array, or whatever *index* counts."""
    return index in environment and environment[index] != _NONE.get(index)


class _Told:
    """What one scheduler tells."""

    def __init__(self, scheduler: Scheduler, environment: Mapping[str, str]) -> None:
        """Read its variables; raises ValueError for one that is no number."""
        self._scheduler = scheduler
        self._environment = environment
        self._index = self._read(scheduler.index) or 0
        self._first = self._read(scheduler.first)
        self._last = self._read(scheduler.last)
        self._step = self._read(scheduler.step) or 1
        self._count = self._read(scheduler.count)

    def _read(self, name: str | None) -> int | None:
        if name is None or name not in self._environment:
            return None
        try:
            return int(self._environment[name])
        except ValueError:
            raise ValueError(f"{name} is no number: '{self._environment[name]}'") from None

    def find_part(self) -> tuple[int, int]:
        """Return our share where the variables say of how many."""
        scheduler, first, last = self._scheduler, self._first, self._last
        count = self._count
        if first is not None and last is not None:
            whole = (last - first) // self._step + 1
            if count is not None and count != whole:
                raise ValueError(
                    f"{scheduler.count} is {count}, but the array goes from {first} to {last}: "
                    "of how many shards these are some, only you can tell: auto/N"
                )
            count = whole
        if count is None:
            more = f" and no {scheduler.count}" if scheduler.count else ""
            raise ValueError(f"there is {scheduler.index}{more}: say of how many: auto/N")
        if count == 1 and not scheduler.is_fixed:
            raise ValueError(
                f"the array has one task only ({scheduler.index} {self._index}), perhaps of "
                "several that were there before; say of how many: auto/N"
            )
        return self._check((self._index - (first or 0)) // self._step, count)

    def find_part_of(self, count: int) -> tuple[int, int]:
        """Return our share of *count*: a task that is submitted alone has its old number."""
        scheduler = self._scheduler
        for name, most in ((scheduler.count, self._count), (scheduler.last, self._last)):
            if most is None:
                continue
            is_last = name == scheduler.last
            if most - scheduler.base >= count if is_last else most > count:
                raise ValueError(
                    f"{name} is {most}: an array of {count} shards is numbered from "
                    f"{scheduler.base} to {scheduler.base + count - 1}"
                )
            if scheduler.is_fixed and most < count:
                raise ValueError(f"{name} is {most}, so that {count - most} shards have no task")
        return self._check(self._index - scheduler.base, count)

    def _check(self, index: int, count: int) -> tuple[int, int]:
        if not 0 <= index < count:
            name = self._scheduler.index
            raise ValueError(f"{name} {self._index} names no shard: {index}/{count}")
        return index, count
