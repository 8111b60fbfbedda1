"""The recipes that are printed: every call in them is good, and GNU parallel's is true."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi
from server import ReceivedRequest, ReplayServer, Reply, Stall, completion, refusal

ROOT = Path(__file__).parents[1]
PAGE = "man/kimi-batch.1"
DOCUMENTS = [name for name in (PAGE, "README.md") if (ROOT / name).exists()]

WORKERS = 8
ROWS = 8 * WORKERS
SCHEDULER = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}


def read_blocks(name: str) -> list[str]:
    """The literal blocks of a document in which ``kimi batch`` is called."""
    text = (ROOT / name).read_text()
    if name.endswith(".1"):
        for escape, character in ((r"\-", "-"), (r"\(dq", '"'), (r"\(aq", "'"), (r"\e", "\\")):
            text = text.replace(escape, character)
        blocks = re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", text, re.DOTALL | re.MULTILINE)
    else:
        blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if re.search(r"kimi,? batch\b", block)]


def find_block(name: str, word: str) -> str:
    """The block of a document with that word in it."""
    (block,) = [block for block in read_blocks(name) if word in block]
    return block


def make_script(block: str) -> str:
    """A shell script of what a block lets run, be it YAML or Python."""
    if found := re.search(r"command: \[(.*?)\]", block, re.DOTALL):
        return shlex.join(word.strip().strip('"') for word in found[1].split(","))
    if found := re.search(r'\.(?:pipe|run)\(\s*"(.*?)",\n', block):
        return found[1]
    return block


def require(tool: str) -> None:
    """Skip where the tool is not installed, but not in CI."""
    if shutil.which(tool) is None:
        assert "CI" not in os.environ, f"CI must have {tool}"
        pytest.skip(f"needs {tool}")


def install(folder: Path, name: str, script: str) -> None:
    """Put a program of the test's own in the folder that is searched first."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


BLOCKS = [
    pytest.param(block, id=f"{Path(name).stem}-{number}")
    for name in DOCUMENTS
    for number, block in enumerate(read_blocks(name), 1)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_printed_call_is_good(block: str, kimi: Kimi, home: Path) -> None:
    if "| parallel" in block:
        require("parallel")
    (home / "examples").mkdir()
    rows = (ROOT / "examples/prompts.jsonl").read_text()
    for name in ("prompts.jsonl", "examples/prompts.jsonl", "letters.jsonl"):
        (home / name).write_text(rows)
    (home / "reviews.csv").write_text("id,text\n1,It broke at once\n")
    (home / "questions.txt").write_text("What is a pipe?\n")
    folder = home / "stand-ins"
    install(folder, "kimi", 'printf "%s\\n" "$@" > call.$$; cat > /dev/null')
    install(folder, "srun", 'shift 2; exec "$@"')
    install(folder, "scontrol", "")
    install(folder, "sleep", "")
    for tool in ("jq", "sqlite3", "duckdb"):
        install(folder, tool, "[ -t 0 ] || cat > /dev/null")
    path = f"{folder}:{kimi.environment['PATH']}"
    ran = kimi.shell(make_script(block), env={"PATH": path, **SCHEDULER}).wait()
    calls = [path.read_text().splitlines() for path in sorted(home.glob("call.*"))]
    assert calls, ran
    for call in calls[:2]:
        ran = kimi(*call, "--dry-run", stdin=rows.encode(), env=SCHEDULER)
        assert (ran.status, b"0 cannot" in ran.stderr or "-q" in call) == (0, True), ran


# GNU parallel


class Workers:
    """The recipe of the manual, its rows, and a server that counts what each of them cost."""

    def __init__(self, kimi: Kimi, server: ReplayServer, home: Path) -> None:
        self.home = home
        self.bought: Counter[int] = Counter()
        self._kimi = kimi
        self._server = server
        self._counting = threading.Lock()
        rows = [json.dumps({"id": f"q{row}", "prompt": str(row)}) for row in range(ROWS)]
        (home / "prompts.jsonl").write_text("\n".join(rows))
        # The program, and a note of the worker that the test is going to kill.
        install(
            home / "bin",
            "kimi",
            f'case " $* " in *" 3/8 "*) echo $$ >> victims ;; esac; exec {kimi.program} "$@"',
        )

    def answer(self, treat: Callable[[int], Reply | None]) -> None:
        """Answer each row, unless *treat* has another reply for it."""

        def reply(request: ReceivedRequest) -> Reply:
            row = int(request.json["messages"][-1]["content"])
            if (other := treat(row)) is not None:
                return other
            with self._counting:
                self.bought[row] += 1
            return completion(f"answer {row}")

        self._server.answer(reply)

    def start(self) -> Callable[[], int]:
        """Run the recipe as it is printed; the result waits for its exit status."""
        script = find_block(PAGE, "| parallel").replace("cat answers", "status=$?\ncat answers")
        variables = {
            "PATH": f"{self.home / 'bin'}:{self._kimi.environment['PATH']}",
            "KIMI_BASE_URL": self._server.url,
            "KIMI_TOKEN": CANARY,
        }
        run = self._kimi.shell(f"{script}\nexit $status", env=variables)
        return lambda: run.wait(50).status

    def read_victims(self) -> list[int]:
        """The processes that have worked on the third shard, in order; the last is at work."""
        return [int(word) for word in (self.home / "victims").read_text().split()]

    def read_answers(self) -> dict[str, str]:
        """The answers by id, each of which there must be once."""
        answers = (self.home / "answers.jsonl").read_text()
        lines = [json.loads(line) for line in answers.splitlines()]
        assert len({line["custom_id"] for line in lines}) == len(lines)
        return {
            line["custom_id"]: line["response"]["body"]["choices"][0]["message"]["content"]
            for line in lines
        }


@pytest.fixture
def workers(kimi: Kimi, server: ReplayServer, home: Path) -> Workers:
    require("parallel")
    return Workers(kimi, server, home)


ALL = {f"q{row}": f"answer {row}" for row in range(ROWS)}


def test_parallel_starts_a_killed_worker_again(workers: Workers) -> None:
    def hold_some_of_the_victim(row: int) -> Reply | None:
        held = row % WORKERS == 3 and row >= ROWS // 2 and len(workers.read_victims()) == 1
        return Reply([Stall()], framing="raw") if held else None

    workers.answer(hold_some_of_the_victim)
    finish = workers.start()
    part = workers.home / "answers.3.jsonl"
    wanted = ROWS // WORKERS // 2
    ends = time.monotonic() + 30
    while not (part.exists() and part.read_bytes().count(b"\n") == wanted):
        assert time.monotonic() < ends, "the victim has written nothing"
        time.sleep(0.02)
    (victim,) = workers.read_victims()
    os.kill(victim, signal.SIGKILL)
    assert finish() == 0
    assert len(workers.read_victims()) == 2
    assert workers.read_answers() == ALL
    assert set(workers.bought.values()) == {1}


def test_the_same_line_goes_on_where_workers_failed(workers: Workers) -> None:
    workers.answer(lambda row: refusal(401, "invalid_token", "no") if row % WORKERS == 3 else None)
    assert workers.start()() == 1
    failed = dict(item for item in ALL.items() if int(item[0][1:]) % WORKERS == 3)
    assert workers.read_answers() == {name: ALL[name] for name in ALL.keys() - failed.keys()}
    workers.answer(lambda row: None)
    assert workers.start()() == 0
    assert workers.read_answers() == ALL
    assert set(workers.bought.values()) == {1}
