"""Outputs of a batch for the tests: those of earlier runs, hosted ones, and what they hold."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rows import Row, read_rows

from kimi_cli.batch.records import Shape, make_record
from kimi_cli.batch.results import Result, encode_results


def list_errors(out: Path) -> dict[str, dict[str, Any]]:
    """Return the errors that are listed beside an output, by id."""
    return {row["custom_id"]: row["error"] for row in read_rows(Path(f"{out}.errors"))}


FORMATS = ("batch", "flat", "merge")


def read_answers(path: Path) -> dict[str, str]:
    """Return what each id of an output in the hosted shape was answered."""
    return {
        row["custom_id"]: row["response"]["body"]["choices"][0]["message"]["content"]
        for row in read_rows(path)
        if row["error"] is None
    }


def make_lines(
    rows: Sequence[Any], style: str = "batch", failed: Mapping[str, str] | None = None
) -> list[bytes]:
    """Return the lines that a run would write for *rows*; *failed* has classes of errors by id."""
    lines = []
    for number, row in enumerate(rows, 1):
        record = make_record(number, row, Shape({"model": "kimi-k2.5"}))
        kind = (failed or {}).get(record.id)
        if kind is None:
            message = {"role": "assistant", "content": "bought before"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            result = Result(record, 200, "", {"id": "x", "choices": [choice]}, attempts=1)
        else:
            error = {"code": "some_code", "message": "no", "class": kind}
            result = Result(record, error=error, attempts=1)
        lines.append(encode_results([result], style))
    return lines


def write_output(
    path: Path, rows: Sequence[Any], style: str = "batch", failed: Mapping[str, str] | None = None
) -> Path:
    """Write the output of an earlier run."""
    path.write_bytes(b"".join(make_lines(rows, style, failed)))
    return path


def select_lines(whole: bytes, wanted: Collection[str]) -> bytes:
    """Return the lines of the *wanted* ids."""
    lines = whole.splitlines(keepends=True)
    return b"".join(line for line in lines if json.loads(line)["custom_id"] in wanted)


def make_hosted(name: str, **changes: Any) -> Row:
    """Return a line of a hosted batch's output."""
    body = {"id": "c", "choices": [{"message": {"role": "assistant", "content": "hosted"}}]}
    response = {"status_code": 200, "request_id": "q", "body": body}
    return {"id": "batch_req_1", "custom_id": name, "response": response, "error": None} | changes
