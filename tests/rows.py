"""Rows of a batch for the tests: making, writing and reading them, and what was asked for them."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from program import Kimi, Running
from server import Barrier, ReceivedRequest, ReplayServer, Reply, Stall, completion, refusal

from kimi_cli.batch.records import Record, Shape, make_record

Row = dict[str, Any]

SILENT = Reply([Stall()], framing="raw")
"""A host that takes a request and says nothing."""
FORBIDDEN = refusal(403, "forbidden", "moderation")
FAILED = refusal(500, "api_error", "fetch failed")
DOWN = refusal(500, "api_error", "down")
REFUSED = refusal(400, "bad_request", "too long")
NO_MODEL = refusal(404, "resource_not_found_error", "no such model", dialect="moonshot")
PAGE = Reply([b"<html>Welcome to the hotel</html>"], headers={"Content-Type": "text/html"})
JSON = {"Content-Type": "application/json"}
ERROR = {"code": "c", "message": "m", "class": "transient"}
SHAPE = Shape({"model": "kimi-k2.5"})
MEGABYTE = 2**20


def make_rows(count: int, prompt: str = "p{}") -> list[Row]:
    """Return *count* rows with the ids r0, r1, …"""
    return [{"custom_id": f"r{number}", "prompt": prompt.format(number)} for number in range(count)]


def write_rows(path: Path, rows: Sequence[Any]) -> Path:
    """Write JSON Lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read_rows(path: Path) -> list[Row]:
    """Read JSON Lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def list_ids(path: Path) -> list[str]:
    """Return the ids of an output, in the order of its lines."""
    return [row["custom_id"] for row in read_rows(path)]


def get_prompt(request: ReceivedRequest) -> str:
    """Return the last message of a request."""
    content: str = request.json["messages"][-1]["content"]
    return content


def list_prompts(server: ReplayServer, since: int = 0) -> list[str]:
    """Return what was asked after the first *since* requests, sorted: they come in any order."""
    return sorted(map(get_prompt, server.requests[since:]))


def echo(request: ReceivedRequest) -> Reply:
    """Answer with the prompt."""
    return completion(f"re: {get_prompt(request)}")


def hold(gate: threading.Event, reply: Reply) -> Reply:
    """Keep the body of *reply* back until *gate* is open."""
    return reply.but(body=[Barrier(gate), *reply.body])


def charge(prompt: int, answer: int) -> Reply:
    """Answer at that price in tokens."""
    return completion("x", usage={"prompt_tokens": prompt, "completion_tokens": answer})


def write_input(path: Path, count: int, *, prompt: str = "p{}") -> list[str]:
    """Write *count* rows with ids, which are returned."""
    return list_ids(write_rows(path, make_rows(count, prompt)))


def read_ids(path: Path) -> list[str]:
    """Return the ids of an output, sorted as their numbers are."""
    return sorted((row["custom_id"] for row in read_rows(path)), key=lambda name: int(name[1:]))


def finish(batch: Kimi, server: ReplayServer, source: Path, out: Path, ids: list[str]) -> None:
    """Run without limits against a healthy host: only what is missing is asked, and kept once."""
    kept, before = read_ids(out) if out.exists() else [], len(server.requests)
    server.answer(echo)
    has_failures = out.exists() and any(row["error"] for row in read_rows(out))
    result = batch(str(source), "-o", str(out))
    assert result.status == (4 if has_failures else 0), result.error
    assert read_ids(out) == ids
    assert len(server.requests) - before == len(ids) - len(kept)
    assert not Path(f"{out}.errors").exists()


def await_status(run: Running, wanted: bytes) -> None:
    """Ask how the run stands until that is part of the answer."""
    lines: list[bytes] = []
    while not lines or wanted not in lines[-1]:
        assert len(lines) < 2000, lines[-5:]
        run.signal(signal.SIGUSR1)
        lines.append(run.expect(b"\n", "stderr"))
        time.sleep(0.01)  # asked without a pause, the run would do nothing but answer


def pause(seconds: float) -> None:
    """Give the program the time to do what it must not do."""
    threading.Event().wait(seconds)


def make_request(number: int, prompt: str = "p") -> Record:
    """Return a row of that number."""
    record = make_record(number, {"prompt": prompt}, Shape({"model": "m"}))
    assert isinstance(record, Record)
    return record


def answer_but(server: ReplayServer, **special: Reply) -> None:
    """Answer some prompts in a special way, and the others with themselves."""
    server.answer(lambda request: special.get(get_prompt(request)) or echo(request))


def write_names(path: Path, names: list[str]) -> Path:
    """Write a row for each name, which is its id and its prompt."""
    return write_rows(path, [{"custom_id": name, "prompt": name} for name in names])


def make(row: Any, shape: Shape = SHAPE) -> Record:
    """Make the record of a row that is good."""
    record = make_record(1, row, shape)
    assert isinstance(record, Record), record
    return record


def user(text: str) -> Row:
    """Return a user message."""
    return {"role": "user", "content": text}


@pytest.fixture
def echoing(batch: Kimi, server: ReplayServer) -> Kimi:
    """The command, pointed at a server that answers with the prompt: `batch = rows.echoing`."""
    server.answer(echo)
    return batch
