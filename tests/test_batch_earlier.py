"""F4: outputs of elsewhere, as other programs wrote them; what they do not tell is told."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from outputs import make_hosted, make_lines
from program import Kimi, Result
from rows import echo, list_prompts, make_rows, write_rows
from server import ReplayServer

ROWS = make_rows(4)


@pytest.fixture
def going_on(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> Kimi:
    """A run of four rows."""
    server.answer(echo)
    write_rows(source, ROWS)
    return batch.but(str(source), "-o", str(out))


def write(path: Path, *lines: Any) -> Path:
    """Write lines of JSON with the spaces of Python's writer."""
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.mark.parametrize("style", ["batch", "flat", "merge"])
@pytest.mark.parametrize("way", ["spaces", "sorted", "columns", "bom", "crlf"])
def test_keys_count_and_not_spacing(
    going_on: Kimi, server: ReplayServer, tmp_path: Path, style: str, way: str
) -> None:
    """Our lines count whoever wrote them again; a failed one does not."""
    lines = [json.loads(line) for line in make_lines(ROWS, style, {"r3": "transient"})]
    texts = [json.dumps(line, sort_keys=way == "sorted") for line in lines]
    if way == "columns":
        texts = [json.dumps({"extra": None, **dict(reversed(line.items()))}) for line in lines]
    if way == "crlf":
        texts = [json.dumps(line, separators=(",", ":")) + "\r" for line in lines]
    start = "\ufeff" if way == "bom" else ""
    (tmp_path / "old").write_text(start + "\n".join(texts) + "\n")
    result = going_on("--done-from", str(tmp_path / "old"))
    assert result.status == 0, result.error
    assert list_prompts(server) == ["p3"]
    assert "tell" not in result.error


def test_gzip_is_known_by_its_beginning(
    going_on: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Whatever its name is; one that is cut short is an error."""
    packed = gzip.compress(b"".join(make_lines(ROWS[:2])))
    old = tmp_path / "old.jsonl"
    old.write_bytes(packed)
    assert going_on("--done-from", str(old)).status == 0
    assert list_prompts(server) == ["p2", "p3"]
    old.write_bytes(packed[:-20])
    result = going_on("--done-from", str(old))
    assert result.status == 66
    assert result.error == f"kimi: cannot read {old}: its gzip is cut short or damaged\n"


def succeed(reason: str) -> Any:
    """The line of an answer that ended for that *reason*, as Anthropic writes it."""
    result = {"type": "succeeded", "message": {"stop_reason": reason}}
    return {"custom_id": "r0", "result": result}


OTHERS = {
    "Anthropic": (
        {
            "custom_id": "r0",
            "result": {"type": "succeeded", "message": {"stop_reason": "end_turn"}},
        },
        {"custom_id": "r1", "result": {"type": "errored", "error": {"type": "invalid_request"}}},
        {"custom_id": "r2", "result": {"type": "expired"}},
    ),
    "Gemini": (
        {"key": "r0", "response": {"candidates": [{"finishReason": "STOP"}]}},
        {"key": "r1", "error": {"code": 3, "message": "no"}},
        {"key": "r2", "response": {"candidates": []}},
    ),
    "Bedrock": (
        {"recordId": "r0", "modelInput": {}, "modelOutput": {"stop_reason": "end_turn"}},
        {"recordId": "r1", "modelInput": {}, "error": {"errorCode": 400}},
    ),
    "OGX": (
        make_hosted(
            "r0",
            response={
                "status_code": 200,
                "body": json.dumps(
                    {"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
                ),
            },
        ),
    ),
}


@pytest.mark.parametrize("vendor", OTHERS)
def test_lines_of_other_vendors(
    going_on: Kimi, server: ReplayServer, tmp_path: Path, vendor: str
) -> None:
    """What they answered is done, what they did not is asked; nothing of it is unknown."""
    result = going_on("--done-from", str(write(tmp_path / "old", *OTHERS[vendor])))
    assert result.status == 0, result.error
    assert list_prompts(server) == ["p1", "p2", "p3"]
    assert "of no row" not in result.error


def run_cut(going_on: Kimi, path: Path, line: Any) -> Result:
    """Go on after a line that tells of a cut answer."""
    return going_on("--done-from", str(write(path, line)))


CUT = {"choices": [{"message": {"content": "x"}, "finish_reason": "length"}]}


@pytest.mark.parametrize(
    "line",
    [
        make_hosted("r0", response={"status_code": 200, "body": CUT}),
        make_hosted("r0", response={"status_code": 200, "body": json.dumps(CUT)}),
        {
            "custom_id": "r0",
            "result": {"type": "succeeded", "message": {"stop_reason": "max_tokens"}},
        },
        {"key": "r0", "response": {"candidates": [{"finishReason": "MAX_TOKENS"}]}},
    ],
)
def test_a_cut_answer_elsewhere_counts_as_one(
    going_on: Kimi, server: ReplayServer, tmp_path: Path, line: Any
) -> None:
    """S3: as one of our own does, with status 4."""
    result = run_cut(going_on, tmp_path / "old", line)
    assert result.status == 4, result.error
    assert "1 answer ended early or empty" in result.error
    assert list_prompts(server) == ["p1", "p2", "p3"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('"an answer"\n"another"\n', "2 of 2 lines tell of no row"),
        ("plain text\n", "1 of 1 line tells of no row"),
        ('{"custom_id": "r0", "content": "x"}\n', "1 of 1 line tells of no row"),
        ('{"custom_id": "r0", "kimi": {"key": "short"}}\n', "1 of 1 line tells of no row"),
        ("[" * 100_000 + "\n", "1 of 1 line tells of no row"),
        ("\n\n", "is empty"),
        ("", "is empty"),
    ],
)
def test_what_tells_of_no_row_is_counted(
    going_on: Kimi, server: ReplayServer, tmp_path: Path, text: str, told: str
) -> None:
    """With the file's name; the rows are asked."""
    old = tmp_path / "old"
    old.write_text(text)
    result = going_on("--done-from", str(old))
    assert result.status == 0, result.error
    assert told in result.error
    assert str(old) in result.error
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"\x28\xb5\x2f\xfd\x04\x00abc", "zstd"),
        (b"PAR1\x15\x04", "Parquet"),
        (b"SQLite format 3\0\x10", "an SQLite database"),
        (b"PK\x03\x04\x14", "a zip archive"),
        ('{"custom_id":"r0"}'.encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n\0\0", "an image (PNG)"),
        (gzip.compress(b"\x89PNG\r\n\x1a\n\0\0", mtime=0), "an image (PNG)"),
    ],
)
def test_a_binary_file_is_refused(
    going_on: Kimi, server: ReplayServer, tmp_path: Path, data: bytes, kind: str
) -> None:
    """65 with what it is, before anything is bought."""
    old = tmp_path / "old"
    old.write_bytes(data)
    result = going_on("--done-from", str(old))
    assert result.status == 65
    assert result.error == f"kimi: --done-from: {old} is {kind}, not lines of JSON\n"
    assert not server.requests
