"""Speed and size of ``kimi batch``: one line a figure, with its mark; exit 1 when one is missed.

    python benchmarks/batch.py [--quick] [--rows N] [--python PYTHON] [FIGURE]...

Every figure is a ratio within this run, or a bound that does not depend on the machine's speed.
The server has a process and cores of its own, the client under test is pinned to one core, and
where clients are compared they take turns and the best of each counts: what else the machine does
slows them down, nothing makes them faster than they are.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
_CORES = sorted(os.sched_getaffinity(0))
_CLIENT, _OTHERS = set(_CORES[:1]), set(_CORES[1:] or _CORES)
_MB = 10**6
_PROGRAM = """\
#!{python}
import sys
sys.path[0] = {root!r}
from kimi_cli.__main__ import main
sys.exit(main())
"""


@dataclass
class Bench:
    """A folder to work in, the program under test, and what was found so far."""

    folder: Path
    quick: bool
    rows: int
    rival_python: str
    missed: list[str] = field(default_factory=list)
    spent: float = 0.0
    """Seconds of processor time of the last run."""

    def __post_init__(self) -> None:
        """Write the program as ``make install`` does, and load it once for its bytecode."""
        self.environment = {
            "HOME": str(self.folder),
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPYCACHEPREFIX": str(self.folder / "bytecode"),
        }
        self.program = self.folder / "kimi"
        self.program.write_text(_PROGRAM.format(python=sys.executable, root=str(HERE.parent)))
        self.program.chmod(0o755)
        self.run([str(self.program), "batch", "--help"])

    def judge(
        self, name: str, value: float, mark: str, shown: str = "{:.2f} x", note: str = ""
    ) -> None:
        """Print one figure; *mark* is ``>= N`` or ``<= N``, or ``> N``, in the unit of *value*."""
        sign, _, bound = mark.partition(" ")
        good = {">=": value >= float(bound), "<=": value <= float(bound), ">": value > float(bound)}
        verdict = "PASS" if good[sign] else "FAIL"
        if not good[sign]:
            self.missed.append(name)
        limit = f"{sign} {shown.format(float(bound))}"
        tail = f"; {note}" if note else ""
        print(f"{verdict}  {name}: {shown.format(value)} (mark: {limit}{tail})", flush=True)

    def start(self, command: Sequence[str], cores: set[int], **options: Any) -> Any:
        """Start *command* on *cores*; children inherit the pinning."""
        os.sched_setaffinity(0, cores)
        try:
            return subprocess.Popen(command, env=self.environment, **options)
        finally:
            os.sched_setaffinity(0, _CORES)

    def run(self, command: Sequence[str], **options: Any) -> tuple[float, int, bytes]:
        """Run *command* on the client's core; return its seconds, its peak RSS, and its output."""
        began = time.monotonic()
        process = self.start(command, _CLIENT, stdout=subprocess.PIPE, **options)
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        self.spent = usage.ru_utime + usage.ru_stime
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"exit status {process.returncode}: {' '.join(command)}")
        return seconds, usage.ru_maxrss * 1024, output

    def batch(self, url: str, source: str | Path, *arguments: str, **options: Any) -> Any:
        """Run ``kimi batch``; see ``run``."""
        return self.run(self.compose(url, source, *arguments), **options)

    def compose(self, url: str, source: str | Path, *arguments: str) -> list[str]:
        """Return the command line of ``kimi batch``."""
        fixed = ["--base-url", url, "--no-auth", "--quiet"]
        return [str(self.program), "batch", str(source), *fixed, *arguments]

    def write_rows(self, count: int) -> Path:
        """Write *count* rows, with ids of their own; return the file."""
        path = self.folder / f"in-{count}.jsonl"
        with open(path, "wb") as file:
            for block in _make_rows(count):
                file.write(block)
        return path

    def output(self) -> Path:
        """Return a name for an output, which does not exist."""
        path = self.folder / "out.jsonl"
        path.unlink(missing_ok=True)
        return path

    @contextmanager
    def serve(self, **options: float | str) -> Iterator[str]:
        """Start a server; yield its URL."""
        arguments = [f"--{name}={value}" for name, value in options.items()]
        server = self.start(
            [sys.executable, str(HERE / "batch_server.py"), *arguments],
            _OTHERS,
            stdout=subprocess.PIPE,
        )
        try:
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()
            server.wait()
            server.stdout.close()


def _make_rows(count: int, block: int = 1000) -> Iterator[bytes]:
    question = "what is the sense of it? " * 5
    for start in range(0, count, block):
        rows = range(start, min(count, start + block))
        yield b"".join(
            b'{"id":"q%d","prompt":"Question %d: %s"}\n' % (row, row, question.encode())
            for row in rows
        )


def _ask_stats(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(f"{url}/stats") as reply:
        stats: dict[str, Any] = json.load(reply)
    return stats


def _count_lines(path: Path) -> int:
    with open(path, "rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(2**20), b""))


# The figures


def measure_start(bench: Bench) -> None:
    """How soon the first request is on the wire."""
    source = bench.write_rows(1)
    baseline = [sys.executable, "-c", "import click, requests"]
    loaded, sent = [], []
    with bench.serve() as url:
        for _ in range(10 if bench.quick else 25):
            loaded.append(bench.run(baseline)[0])
            _ask_stats(url)
            began = time.monotonic()
            bench.batch(url, source, "-o", str(bench.output()))
            sent.append(_ask_stats(url)["first"] - began)
    note = f"{1000 * min(sent):.0f} ms"
    bench.judge("first request, of import click, requests", min(sent) / min(loaded), "<= 1.3",
                note=note)  # fmt: skip


def measure_overhead(bench: Bench) -> None:
    """How near to the ideal the rate is when a row takes a second."""
    waves = 20 if bench.quick else 60
    source = bench.write_rows(256 * waves)
    with bench.serve(delay=1) as url:
        seconds = bench.batch(url, source, "-o", str(bench.output()), "-c", "256")[0]
    bench.judge("of the ideal rows/s at 256 with 1 s answers", 100 * waves / seconds, ">= 97",
                "{:.1f} %")  # fmt: skip


def measure_rivals(bench: Bench) -> None:
    """How many rows a second, next to others; what the others need to start is not counted."""
    count = 4000 if bench.quick else 10_000
    source = bench.write_rows(count)
    for delay, concurrency in ((0.0, 64), (0.05, 256)):
        best: dict[str, float] = {}
        with bench.serve(delay=delay) as url:
            for turn in range(2 if bench.quick else 3):
                for name in ("kimi", "lm-deluge", "flexllm", "openai"):
                    if name == "openai" and turn:
                        continue
                    rate = _race(bench, name, url, concurrency, source, count)
                    best[name] = max(rate, best.get(name, 0.0))
        what = f"{1000 * delay:g} ms answers at {concurrency}"
        marks = {"flexllm": ">= 2", "openai": ">= 3", "lm-deluge": "> 1"}
        for name, mark in marks.items():
            note = f"{best['kimi']:.0f} and {best[name]:.0f} rows/s"
            bench.judge(f"rows/s of {name}, {what}", best["kimi"] / best[name], mark, note=note)


def _race(bench: Bench, name: str, url: str, concurrency: int, source: Path, count: int) -> float:
    output = bench.output()
    if name == "kimi":
        seconds = bench.batch(url, source, "-o", str(output), "-c", str(concurrency))[0]
        done = _count_lines(output)
    else:
        command = [bench.rival_python, str(HERE / "batch_rivals.py"), name, url, str(concurrency)]
        told = bench.run([*command, str(source), str(output)], stderr=subprocess.DEVNULL)[2]
        seconds, done = map(float, told.split())
    if done != count:
        raise SystemExit(f"{name} answered {done:g} of {count} rows")
    return count / seconds


_PERSON = "name, age int, size float, tags [str], open bool, town, zip int, share float, note, kind"
_ANSWER = (
    '{"name": "Ada Lovelace", "age": 36, "size": 1.70, "tags": ["first", "second"], "open": true, '
    '"town": "London", "zip": 10115, "share": 0.25, "note": "what is said of her", "kind": "one"}'
)


def measure_checks(bench: Bench) -> None:
    """What it costs to check answers, in processor time next to the same batch unchecked."""
    count = 4000 if bench.quick else 20_000
    source = bench.write_rows(count)
    schema = json.loads(bench.run([str(bench.program), "schema", _PERSON])[2])
    wanted = {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": True, "schema": schema},
    }
    ways = {
        "unchecked": ("-O", f"response_format={json.dumps(wanted, separators=(',', ':'))}"),
        "checked": ("--schema", _PERSON),
    }
    best: dict[str, float] = {}
    with bench.serve(content=_ANSWER) as url:
        for _ in range(3):
            for name, options in ways.items():
                output = bench.output()
                bench.batch(url, source, "-o", str(output), "-c", "64", *options)
                if _count_lines(output) != count:
                    raise SystemExit(f"{name}: not every row has a line")
                best[name] = min(bench.spent, best.get(name, bench.spent))
    more = 100 * (best["checked"] / best["unchecked"] - 1)
    note = f"{1e6 * (best['checked'] - best['unchecked']) / count:.0f} us a row"
    bench.judge(f"of {count:,} rows, to check ten properties", more, "<= 5", "{:.1f} %", note)


def measure_memory(bench: Bench) -> None:
    """How much memory many rows take, and whether the first is answered before the last comes."""
    output = bench.output()
    early = False

    def feed(pipe: IO[bytes]) -> None:
        nonlocal early
        with pipe:
            for number, block in enumerate(_make_rows(bench.rows)):
                pipe.write(block)
                if number == 0:
                    pipe.flush()
                    early = _await(lambda: output.exists() and output.stat().st_size > 0)

    with bench.serve() as url:
        command = bench.compose(url, "-", "-o", str(output), "-c", "64")
        process = bench.start(command, _CLIENT, stdin=subprocess.PIPE)
        threading.Thread(target=feed, args=(process.stdin,)).start()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    done = _count_lines(output)
    rows = f"{bench.rows:,} rows"
    bench.judge(f"answered of {rows}", 100 * done / bench.rows, ">= 100", "{:.0f} %")
    bench.judge(f"peak memory, {rows}", usage.ru_maxrss * 1024 / _MB, "<= 150", "{:.0f} MB")
    bench.judge("rows answered before the input ended", float(early), ">= 1", "{:.0f}")


def _await(condition: Callable[[], bool], seconds: float = 30.0) -> bool:
    ends = time.monotonic() + seconds
    while not (met := condition()) and time.monotonic() < ends:
        time.sleep(0.01)
    return met


def measure_keys(bench: Bench) -> None:
    """What it costs to go on with an output of many rows."""
    rows = 100_000 if bench.quick else 1_000_000
    source = bench.write_rows(1)
    with bench.serve() as url:
        small = bench.output()
        _, before, _ = bench.batch(url, source, "-o", str(small))
        line = small.read_bytes()
        head = b'{"custom_id":"done-%d","kimi":{"key":"%s"'
        rest = line[line.index(b',"row":') :]
        with open(bench.output(), "wb") as file:
            for number in range(rows):
                file.write(head % (number, os.urandom(16).hex().encode()) + rest)
        seconds, after, _ = bench.batch(url, source, "-o", str(small))
    many = f"{rows:,} done rows"
    bench.judge(f"memory of the keys of {many}", (after - before) / _MB, "<= 40",
                "{:.0f} MB")  # fmt: skip
    bench.judge(f"start with {many}", seconds, "<= 15", "{:.1f} s")


@dataclass(frozen=True)
class Account:
    """A simulated account: its limits, its rows, and what of them may take how long."""

    name: str
    server: Mapping[str, float | str]
    rows: int
    seconds: float
    factor: float
    refusals: int


ACCOUNTS = (
    Account(
        "Tier 1 (50 at once, 200 a minute, announced)",
        {"delay": 2, "concurrency": 50, "rate": 200, "period": 60, "dialect": "moonshot"},
        rows=1000,
        seconds=242,
        factor=1.1,
        refusals=30,
    ),
    Account(
        "20 at once, unannounced",
        {"delay": 0.2, "concurrency": 20},
        rows=600,
        seconds=6,
        factor=1.15,
        refusals=60,
    ),
    Account(
        "25 a second, unannounced",
        {"delay": 0.1, "rate": 25, "period": 1},
        rows=500,
        seconds=20,
        factor=1.1,
        refusals=100,
    ),
    Account(
        "120 a minute, unannounced",
        {"delay": 1, "rate": 120, "period": 60},
        rows=360,
        seconds=120,
        factor=1.1,
        refusals=100,
    ),
)


def measure_queue(bench: Bench) -> None:
    """What a server of one's own sees, which refuses nothing: it is busy, and not buried."""
    slots, delay, rows = 32, 0.25, 4000
    output, summary = bench.output(), bench.folder / "summary.json"
    with bench.serve(delay=delay, slots=slots) as url:
        source = bench.write_rows(rows)
        seconds = bench.batch(url, source, "-o", str(output), "--summary", str(summary))[0]
    waited = json.loads(summary.read_text())["latency_ms"]["p50"] / 1000
    name = f"{slots} at once, the rest queues"
    bench.judge(f"{name}: time", seconds / (rows * delay / slots), "<= 1.1")
    bench.judge(f"{name}: what a row takes", waited / delay, "<= 2.5")


def measure_accounts(bench: Bench) -> None:
    """How near to the bound a run comes that is told nothing of the account's limits."""
    for account in ACCOUNTS[1:3] if bench.quick else ACCOUNTS:
        output = bench.output()
        with bench.serve(**account.server) as url:
            seconds = bench.batch(url, bench.write_rows(account.rows), "-o", str(output))[0]
            stats = _ask_stats(url)
        lost = account.rows - _count_lines(output)
        name = account.name
        bench.judge(f"{name}: time", seconds / account.seconds, f"<= {account.factor}")
        bench.judge(f"{name}: refusals", stats["refused"], f"<= {account.refusals}", "{:.0f}")
        bench.judge(f"{name}: rows lost", lost, "<= 0", "{:.0f}")
        bench.judge(f"{name}: rows paid for twice", stats["answered"] - account.rows, "<= 0",
                    "{:.0f}")  # fmt: skip


_PLACES = {"delay": 0.2, "concurrency": 20}
_RATE = {"delay": 0.05, "rate": 25, "period": 1}
COMBINATIONS: tuple[tuple[str, Mapping[str, float | str], int, float], ...] = tuple(
    (f"{limit}, {dialect}{'' if after is None else f', Retry-After {after}'}",
     {**server, "dialect": dialect, **({} if after is None else {"after": after})}, rows, ideal)
    for limit, server, rows, ideal, words in (
        ("20 at once", _PLACES, 600, 6.0,
         (("rate", None), ("rate", "1"), ("silent", "1"), ("busy", "1"), ("page", "1"),
          ("moonshot", None))),
        ("25 a second", _RATE, 500, 19.0,
         (("empty", None), ("detail", "1"), ("places", None), ("busy", None), ("page", "1"),
          ("moonshot", None))),
    )
    for dialect, after in words
)  # fmt: skip
"""What the host has and says, how many rows, and the least seconds that they take."""


def measure_pace(bench: Bench) -> None:
    """How near to the ideal a run comes in real time, whatever words a limit is refused in."""
    times = 1 if bench.quick else 3
    for name, server, rows, ideal in COMBINATIONS[:: 3 if bench.quick else 1]:
        source, taken = bench.write_rows(rows), []
        for _ in range(times):
            output = bench.output()
            with bench.serve(**server) as url:
                taken.append(bench.batch(url, source, "-o", str(output))[0] / ideal)
                stats = _ask_stats(url)
            bench.judge(f"{name}: rows lost", rows - _count_lines(output), "<= 0", "{:.0f}")
            bench.judge(f"{name}: refused", 100 * stats["refused"] / rows, "<= 10", "{:.1f} %")
        note = "; ".join(_ask_rivals(bench, server, source, rows, ideal))
        bench.judge(f"{name}: time", sorted(taken)[times // 2], "<= 1.25", note=note)
        bench.judge(f"{name}: time of the slowest run", max(taken), "<= 1.6")


def _ask_rivals(
    bench: Bench, server: Mapping[str, float | str], source: Path, rows: int, ideal: float
) -> Iterator[str]:
    """Let others do the same with their defaults; tell how long they took, and what they lost."""
    for name in ("openai-defaults", "flexllm-defaults"):
        command = [bench.rival_python, str(HERE / "batch_rivals.py"), name]
        with bench.serve(**server) as url:
            arguments = [url, "0", str(source), str(bench.output())]
            try:
                told = bench.run([*command, *arguments], stderr=subprocess.DEVNULL)[2]
            except SystemExit:
                yield f"{name} failed"
                continue
        seconds, done = map(float, told.split())
        yield f"{name} {seconds / ideal:.2f} x, {rows - done:.0f} rows lost"


FIGURES: dict[str, Callable[[Bench], None]] = {
    "start": measure_start,
    "overhead": measure_overhead,
    "rivals": measure_rivals,
    "checks": measure_checks,
    "memory": measure_memory,
    "keys": measure_keys,
    "queue": measure_queue,
    "accounts": measure_accounts,
    "pace": measure_pace,
}


def main() -> None:
    """Measure, print, and say with the exit status whether all marks were met."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("figures", nargs="*", metavar="FIGURE", help=", ".join(FIGURES))
    parser.add_argument("--quick", action="store_true", help="fewer rows, no minutes of waiting")
    parser.add_argument("--rows", type=int, help="rows of the memory figure (1,000,000)")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the rivals")
    options = parser.parse_args()
    if unknown := set(options.figures) - set(FIGURES):
        parser.error(f"no such figure: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="kimi-bench-") as folder:
        rows = options.rows or (50_000 if options.quick else 1_000_000)
        bench = Bench(Path(folder), options.quick, rows, options.python)
        for name in options.figures or FIGURES:
            FIGURES[name](bench)
    if bench.missed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
