"""How near to the best ``kimi batch`` comes, whatever a host counts and says: in virtual time.

    python benchmarks/pace.py [--runs N] [--seed S] [ACCOUNT]...

A line for each simulated account whose name begins so: the median and the worst time, as a multiple
of what a client needs that asks the host before it sends (and ramps up from 16 at once, one more
for each answer), and the same of the refusals, as a share of the rows. Words of refusals, and what
they ask to wait, are drawn anew for each run. It ends with 1 where a mark is missed.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from virtual_host import ACCOUNTS, DIALECTS, RETRY_AFTERS, Score, score  # noqa: E402 - see above

SLACK, WORST, REFUSED, BLIND = 1.25, 1.6, 0.1, 2
"""Marks: time in the median and ever, refusals, requests a second while all is refused."""

Job = tuple[int, str, str, int]


def carry_out(job: Job) -> Score:
    """Let one run meet one account."""
    number, dialect, after, seed = job
    return score(ACCOUNTS[number], dialect, after, seed)


def judge(name: str, jobs: Sequence[Job], scores: Sequence[Score]) -> bool:
    """Print the line of one account; tell whether it meets the marks."""
    ratios = [one.ratio for one in scores]
    refused = [one.refused for one in scores]
    good = (
        statistics.median(ratios) <= SLACK
        and max(ratios) <= WORST
        and statistics.median(refused) <= REFUSED
        and max(one.blind for one in scores) <= BLIND
        and not any(one.lost for one in scores)
    )
    _, dialect, after, seed = jobs[ratios.index(max(ratios))]
    print(
        f"{'PASS' if good else 'FAIL'}  {name:<43} time {statistics.median(ratios):5.2f} x,"
        f" at worst {max(ratios):5.2f} x ({dialect}, Retry-After {after}, seed {seed});"
        f" refused {100 * statistics.median(refused):4.1f} %, at worst {100 * max(refused):4.1f} %;"
        f" lost {sum(one.lost for one in scores)}",
        flush=True,
    )
    return good


def main() -> None:
    """Simulate, print, and say with the exit status whether all marks were met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("accounts", nargs="*", metavar="ACCOUNT", help="the beginning of a name")
    parser.add_argument("--runs", type=int, default=12, help="runs of each account (12)")
    parser.add_argument("--seed", type=int, default=1, help="what words and answers are drawn by")
    options = parser.parse_args()
    dice = random.Random(options.seed)
    chosen = [
        number
        for number, account in enumerate(ACCOUNTS)
        if account.name.startswith(tuple(options.accounts or [""]))
    ]
    jobs = [
        (number, dice.choice(list(DIALECTS)), dice.choice(list(RETRY_AFTERS)), options.seed + run)
        for number in chosen
        for run in range(options.runs)
    ]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        scores = list(pool.map(carry_out, jobs, chunksize=options.runs))
    good = True
    for place, number in enumerate(chosen):
        part = slice(place * options.runs, (place + 1) * options.runs)
        good = judge(ACCOUNTS[number].name, jobs[part], scores[part]) and good
    ratios = [one.ratio for one in scores]
    print(
        f"{len(scores)} runs: time {statistics.median(ratios):.2f} x in the median,"
        f" {sum(ratio > SLACK for ratio in ratios)} beyond {SLACK} x,"
        f" {sum(ratio > WORST for ratio in ratios)} beyond {WORST} x,"
        f" {sum(one.refused > REFUSED for one in scores)} with more than {REFUSED:.0%} refused"
    )
    if not good:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
