"""Rows of a batch for the tests: making, writing and reading them, and what was asked for them."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server import Barrier, ReceivedRequest, ReplayServer, Reply, Stall, completion

Row = dict[str, Any]

SILENT = Reply([Stall()], framing="raw")
"""A host that takes a request and says nothing."""


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
