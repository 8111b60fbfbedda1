"""Files of a batch: lines, tables, pipes, and rows read ahead."""

from __future__ import annotations

import io
import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import ERROR, MEGABYTE, SHAPE, get_prompt, make_request, pause, user
from server import ReceivedRequest, ReplayServer, Reply, completion

from kimi_cli.batch.intake import Intake
from kimi_cli.batch.readers import read_jsonl, split_lines
from kimi_cli.batch.records import BadRecord, Record, Shape, read_records
from kimi_cli.batch.results import FORMATS, Result, encode_results

# Tables


@pytest.mark.parametrize(
    "cell", ['"a', 'a"', '"a"b', '6" pipe', '""', '"a, b"', "'a"], ids=range(7)
)
def test_a_quote_in_a_tsv_is_a_letter(batch: Kimi, server: ReplayServer, cell: str) -> None:
    """It swallows no row behind it, and is asked as it stands."""
    server.answer(lambda request: completion(get_prompt(request)))
    table = f"id\ttext\n1\t{cell}\n2\tb\n3\tc\n".encode()
    result = batch("--tsv", "-p", "{text}", "--format", "flat", stdin=table)
    assert result.status == 0
    answers = {
        row["custom_id"]: row["content"] for row in map(json.loads, result.stdout.splitlines())
    }
    assert answers == {"1": cell, "2": "b", "3": "c"}


# Lines


def read(data: bytes, shape: Shape = SHAPE, longest: int = 10_000) -> list[Record | BadRecord]:
    """Read JSON Lines from bytes."""
    lines = (line for _, line in split_lines(io.BytesIO(data), longest))
    return list(read_records(read_jsonl(lines), shape))


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1).filter(str.strip), max_size=6))
def test_lines_end_at_line_feeds_only(texts: list[str]) -> None:
    """U+2028, U+0085, vertical tabs and form feeds are text, raw or escaped."""
    data = "\n".join(json.dumps(text, ensure_ascii=False) for text in texts).encode()
    got = [json.loads(record.payload)["messages"][0]["content"] for record in read(data)]  # type: ignore[union-attr]
    assert got == texts


def test_byte_order_mark_line_ends_and_blank_lines() -> None:
    """None of them is a row, and the last line needs no end."""
    data = b'\xef\xbb\xbf"one"\r\n\r\n  \n\t\n"two"\n\n"three"'
    texts = [json.loads(record.payload)["messages"][0]["content"] for record in read(data)]  # type: ignore[union-attr]
    assert texts == ["one", "two", "three"]


@pytest.mark.parametrize(
    "line",
    [
        b"{torn",
        b"text",
        b"NaN",
        b'{"prompt":"x","seed":NaN}',
        b'{"prompt":"x","seed":1e999}',
        b'"\xff"',
        b'"a" "b"',
        b"\x1b[0m",
        b"[" * 5000,
        b'{"prompt":"\\ud800"}',
        b"x" * 100,
    ],
)
def test_a_bad_line_ends_nothing(line: bytes) -> None:
    """It is one row's error, and the next row is read."""
    records = read(b'"one"\n' + line + b'\n"three"\n', longest=6000 if len(line) != 100 else 50)
    assert [type(record) for record in records] == [Record, BadRecord, Record]
    assert records[1].id == "row-2"


@pytest.mark.parametrize("depth", [400, 800, 900, 950, 990, 1010, 1030, 3000])
def test_deep_nesting_is_sent_or_an_error(depth: int) -> None:
    """At every depth: what is taken can be written, too."""
    line = b'{"prompt":"x","note":' + b"[" * depth + b"]" * depth + b"}"
    first, second = read(line + b'\n"y"\n')
    assert isinstance(second, Record)
    if isinstance(first, Record):
        for style in FORMATS:
            assert encode_results([Result(first, error=ERROR)], style)
    else:
        assert "nested too deeply" in first.message


@pytest.mark.parametrize(
    "line",
    [
        b'{"method":"\\ud800","body":{"messages":[{"role":"user","content":"x"}]}}',
        b"\0",
        b'{"prompt":{"\\ud800":1}}',
    ],
)
def test_odd_lines_are_errors_and_not_too_long(line: bytes) -> None:
    """Half characters and NULs end nothing."""
    first, second = read(line + b'\n"y"\n')
    assert isinstance(first, BadRecord)
    assert "too long" not in first.message
    assert encode_results([Result(first, error=ERROR)], "batch")
    assert isinstance(second, Record)


@pytest.mark.parametrize(("size", "fits"), [(20, True), (21, False)])
def test_the_longest_line(size: int, fits: bool) -> None:
    """Up to --max-line bytes; of a longer one nothing is held."""
    line = b'"' + b"x" * (size - 3) + b'"'
    records = read(line + b'\n"y"\n', longest=20)
    assert [isinstance(record, Record) for record in records] == [fits, True]
    if not fits:
        assert "--max-line" in records[0].message  # type: ignore[union-attr]


# Read ahead


def test_rows_read_ahead_are_bounded_in_size() -> None:
    """32 MiB of them wait to be sent; reading goes on when half of that is gone."""
    made = 0

    def read() -> Iterator[Record]:
        nonlocal made
        for number in range(1, 200):
            made += 1
            yield make_request(number, "x" * MEGABYTE)

    def settle(least: int) -> int:
        deadline = time.monotonic() + 30
        while made < least and time.monotonic() < deadline:
            pause(0.01)
        pause(0.1)
        return made

    intake = Intake(read(), wake=lambda: None)
    assert settle(32) <= 33
    for _ in range(10):
        assert intake.take() is not None
    assert settle(32) <= 33
    for _ in range(10):
        assert intake.take() is not None
    assert 45 <= settle(45) <= 53
    intake.stop()


# The whole program


def measure(request: ReceivedRequest) -> Reply:
    """Answer with the size and the beginning of the prompt."""
    text = get_prompt(request)
    return completion(f"{len(text)} {text[:40]}")


@pytest.fixture
def batch(batch: Kimi, server: ReplayServer) -> Kimi:
    """The command, pointed at a server that measures, printing in order."""
    server.answer(measure)
    return batch.but("--ordered", "--format", "flat", "-q")


def list_contents(stdout: bytes) -> list[str | None]:
    """Return the answers of flat lines."""
    return [json.loads(line)["content"] for line in stdout.splitlines()]


def test_tables(batch: Kimi) -> None:
    """CSV with quoted line ends and a BOM, TSV with quotes as text; wrong rows are named."""
    table = '\ufeffid,text\r\n1,"a\nb, c"\r\n2,only,too,many\r\n3,"say ""hi"""\r\n4\r\n'
    result = batch("--csv", "-p", "{text}", stdin=table.encode())
    assert result.status == 4
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == ["1", "row-2", "3", "row-4"]
    assert [line["content"] for line in lines] == ["6 a\nb, c", None, '8 say "hi"', None]
    assert "-:4: the row has not the header's columns" in lines[1]["error"]["message"]
    assert list_contents(batch("--csv", "-p", "{x}", stdin=b",x\n0,y\n").stdout) == ["1 y"]
    twice = batch("--csv", "-p", "{a}", stdin=b"a,a\n1,2\n")
    assert (twice.status, twice.stdout) == (65, b"")
    assert "the header names a column twice: a, a" in twice.error
    broken = batch("--csv", "-p", "{a}", stdin=b'"a"b\n1\n')
    assert (broken.status, broken.stdout) == (65, b"")
    assert "-: line 1: the header is not CSV" in broken.error
    result = batch("--tsv", "-p", "{text}", stdin=b"id\ttext\n1\ta, b\n2\tc\n")
    assert list_contents(result.stdout) == ["4 a, b", "1 c"]


@pytest.mark.parametrize(
    ("row", "lines", "why"),
    [
        (b"\xff", 1, "the row is not UTF-8"),
        (b'"b"c', 1, "the row is not CSV"),
        (b"x" * 20, 1, "the line is too long; see --max-line"),
        (b'"x\n' + b"x" * 20 + b'\ny""\nz"', 4, "the line is too long; see --max-line"),
        (b'"' + b"x\n" * 9 + b'"', 10, "the line is too long; see --max-line"),
    ],
)
def test_bad_rows_of_a_table(batch: Kimi, row: bytes, lines: int, why: str) -> None:
    """Each is an error with the line where it ends, and the next row is read as ever."""
    table = b"x\na\n" + row + b"\n" + b"y" * 15 + b"\nd\n"
    result = batch("--csv", "--max-line", "16", "-p", "{x}", stdin=table)
    assert result.status == 4
    written = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["content"] for line in written] == ["1 a", None, "15 " + "y" * 15, "1 d"]
    assert f"-:{2 + lines}: {why}" in written[1]["error"]["message"]


@pytest.mark.parametrize(
    "rows",
    [["--lines"], []],
    ids=["text", "strings"],
)
def test_templates_around_whole_lines(batch: Kimi, rows: list[str]) -> None:
    """A line of text, or a string, is the field {prompt}."""
    data = b"one\n{two}\n" if rows else b'"one"\n"{two}"\n{"prompt":"three"}\n[]\n'
    result = batch(*rows, "-p", "say {prompt}", stdin=data)
    contents = list_contents(result.stdout)
    assert contents[:2] == ["7 say one", "9 say {two}"]
    assert contents[2:] == ([] if rows else ["9 say three", None])
    assert ("with a template a row must be an object or a string" in result.stdout.decode()) is (
        not rows
    )


def test_a_template_from_a_file(batch: Kimi, home: Path) -> None:
    """Without its last line end; one that is none is told, and nothing is asked."""
    (home / "template").write_text("say {x}\r\n")
    (home / "latin").write_bytes(b"caf\xe9 {x}")
    row = b'{"x":"this"}\n'
    assert list_contents(batch("-p", "@template", stdin=row).stdout) == ["8 say this"]
    for name, status in (("latin", 65), ("none", 66), (".", 66)):
        failed = batch("-p", f"@{name}", stdin=row)
        assert (failed.status, failed.stdout) == (status, b"")
        assert failed.error.count("\n") == 1
        assert name in failed.error


def test_templates_keep_fields_of_the_row_to_themselves(server: ReplayServer, batch: Kimi) -> None:
    """Data that is named like a field of the API is carried, not sent."""
    result = batch("-p", "{model}", stdin=b'{"model":"Golf","n":3}\n')
    assert list_contents(result.stdout) == ["4 Golf"]
    body = server.requests[-1].json
    assert body["model"] != "Golf"
    assert "n" not in body


def test_long_numbers_stay_whole(batch: Kimi) -> None:
    """Beyond 64 bits too: as ids, in templates and in what is carried."""
    long = 12345678901234567890123
    result = batch("-p", "{n}", "--format", "merge", stdin=b'{"id":%d,"n":%d}\n' % (long, long))
    (line,) = [json.loads(line) for line in result.stdout.splitlines()]
    assert (line["custom_id"], line["n"]) == (str(long), long)
    assert line["kimi_response"]["content"] == f"23 {long}"


def test_lines_of_text(batch: Kimi) -> None:
    """Each is a prompt, whatever it looks like; CR LF is no text, a blank line is none."""
    data = b'one\r\n\r\n{"prompt": "x"}\n  two  \n\xff\nlast'
    result = batch("--lines", stdin=data)
    assert result.status == 4
    assert list_contents(result.stdout) == [
        "3 one",
        None,
        '15 {"prompt": "x"}',
        "7   two  ",
        None,
        "4 last",
    ]


def test_several_files_and_standard_input(batch: Kimi, tmp_path: Path) -> None:
    """One after the other, rows counted over all; a bad line is named by its own file."""
    first, second = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    first.write_text('"one"\n')
    second.write_text('"three"\n{torn\n')
    result = batch(str(first), "-", str(second), stdin=b'"two"')
    assert result.status == 4
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["content"] for line in lines] == ["3 one", "3 two", "5 three", None]
    assert [line["custom_id"] for line in lines] == [f"row-{number}" for number in range(1, 5)]
    assert f"{second}:2: " in lines[3]["error"]["message"]
    missing = batch(str(first), str(tmp_path / "c.jsonl"))
    assert (missing.status, missing.stdout) == (66, b"")


def test_named_pipes_are_read_once(batch: Kimi, tmp_path: Path) -> None:
    """One after the other, and each as long as somebody writes."""
    pipes = [tmp_path / "a", tmp_path / "b"]
    for pipe in pipes:
        os.mkfifo(pipe)

    def write() -> None:
        for pipe in pipes:
            pipe.write_text(f'"{pipe.name}"\n' * 3)

    writer = threading.Thread(target=write)
    writer.start()
    result = batch(*map(str, pipes))
    writer.join()
    assert result.status == 0
    assert list_contents(result.stdout) == ["1 a"] * 3 + ["1 b"] * 3


def test_a_line_of_50_megabytes(batch: Kimi, server: ReplayServer) -> None:
    """Is sent whole, once --max-line and the host allow it; a longer one is named."""
    row = b'{"custom_id":"big","prompt":"' + b"x" * 50_000_000 + b'"}\n'
    result = batch("--format", "flat", stdin=row + b'"small"\n')
    assert list_contents(result.stdout) == ["50000000 " + "x" * 40, "5 small"]
    result = batch("--max-line", "1000", stdin=row + b'"small"\n')
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["custom_id"] for line in lines] == ["row-1", "row-2"]
    assert "-:1: the line is too long; see --max-line" in lines[0]["error"]["message"]


def test_a_dry_run_checks_every_row(batch: Kimi, server: ReplayServer) -> None:
    """The first body, the counts, the bad rows by name: no request, no token."""
    rows = b'{torn\n{"prompt":"x","seed":1}\n"y"\n7\n'
    bare = Kimi(batch.program, batch.environment, batch.folder)
    result = bare("batch", "--dry-run", "-m", "m", stdin=rows, env={"KIMI_TOKEN": None})
    assert result.status == 65
    assert json.loads(result.stdout) == {"messages": [user("x")], "model": "m", "seed": 1}
    assert "row 1: -:1: the line is not JSON" in result.error
    assert "2 rows can be sent, 2 cannot" in result.error
    assert bare("batch", "--dry-run", stdin=b'"y"\n', env={"KIMI_TOKEN": None}).status == 0
    assert not server.requests
