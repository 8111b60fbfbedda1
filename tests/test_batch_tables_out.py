"""kimi batch --format csv|tsv: the input's columns, what was answered, and how it ended."""

from __future__ import annotations

import csv
import io
import json
import random
import signal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import REFUSED, answer_but, echo, get_prompt, make_rows, write_rows
from server import ReplayServer, completion, refusal

from kimi_cli.batch.layouts import TableRows

HEADER = "id,town,prompt\n"


def read_table(text: str, delimiter: str = ",") -> list[dict[str, str]]:
    """Return the rows of a table by their columns."""
    quoting = csv.QUOTE_MINIMAL if delimiter == "," else csv.QUOTE_NONE
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting)
    return list(reader)


def read_file(path: Path) -> list[dict[str, str]]:
    """Return the rows of a file."""
    return read_table(path.read_bytes().decode())


@pytest.fixture
def towns(tmp_path: Path) -> Path:
    """A table of cells that are hard to write."""
    path = tmp_path / "in.csv"
    rows = [["1", 'a "b", c', "p1"], ["2", "two\nlines", "p2"], ["3", "=SUM(A1)", "p3"]]
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    path.write_bytes((HEADER + text.getvalue()).encode())
    return path


def test_a_table_comes_out_on_standard_output(
    batch: Kimi, server: ReplayServer, towns: Path
) -> None:
    """The input's columns, the answer and its end; the header once, and formulas left alone."""
    server.answer(lambda request: completion(f'=HYPERLINK("x"),\n{get_prompt(request)}'))
    result = batch("--csv", str(towns), "--format", "csv", "--ordered")
    assert result.status == 0, result.error
    lines = result.stdout.decode()
    assert lines.splitlines()[0] == "id,town,prompt,answer,finish_reason,error"
    assert lines.count("finish_reason") == 1
    assert [list(row.values()) for row in read_table(lines)] == [
        ["1", 'a "b", c', "p1", '=HYPERLINK("x"),\np1', "stop", ""],
        ["2", "two\nlines", "p2", '=HYPERLINK("x"),\np2', "stop", ""],
        ["3", "=SUM(A1)", "p3", '=HYPERLINK("x"),\np3', "stop", ""],
    ]


def test_a_table_without_quotes_has_line_ends_in_words(batch: Kimi, server: ReplayServer) -> None:
    """Tabs and line ends are \\t, \\n and \\r; a quote is a letter, and a backslash stays."""
    server.script(completion('one\ttwo\n"three" \\four'))
    result = batch("--tsv", "--format", "tsv", stdin=b'prompt\nsay "x"\n')
    assert result.stdout.decode() == (
        'prompt\tanswer\tfinish_reason\terror\nsay "x"\tone\\ttwo\\n"three" \\four\tstop\t\n'
    )


def test_a_schema_has_a_column_for_each_property(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path
) -> None:
    """Digit for digit; what does not fit is told, and so is its text."""
    answers = {
        "p1": '{"size": 1.70, "tags": ["a", "b"], "town": "Rome"}',
        "p2": '{"size": 12345678901234567890.0, "tags": [], "town": ""}',
    }
    server.answer(lambda request: completion(answers.get(request.json["messages"][0]["content"],
                                                         "prose")))  # fmt: skip
    command = ("--csv", str(towns), "--format", "csv", "--schema", "size float, tags [str], town")
    result = batch(*command, "-o", str(out), "--ordered")
    assert result.status == 4
    one, two, three = read_file(out)
    assert list(one) == [
        "id", "town", "prompt", "size", "tags", "kimi_town", "finish_reason", "error", "kimi",
    ]  # fmt: skip
    assert (one["size"], one["tags"], one["kimi_town"]) == ("1.70", '["a","b"]', "Rome")
    assert (two["size"], two["tags"], two["kimi_town"]) == ("12345678901234567890.0", "[]", "")
    assert (three["size"], three["town"]) == ("", "=SUM(A1)")
    assert three["error"].startswith("invalid_answer: it is not JSON")
    assert three["error"].endswith("the answer was: prose")
    asked = len(server.requests)
    assert batch(*command, "-o", str(out)).status == 4
    assert len(server.requests) == asked
    server.answer(lambda request: completion(answers["p1"]))
    assert batch(*command, "-o", str(out), "--retry-failed", "invalid").status == 0
    assert len(server.requests) == asked + 1
    assert [row["size"] for row in read_file(out)][-1] == "1.70"
    assert len(read_file(out)) == 3


@pytest.mark.parametrize("style", ["csv", "tsv"])
def test_the_same_command_goes_on(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path, style: str
) -> None:
    """Rows that are done are known from the file; what is deferred is listed under a header."""
    answer_but(server, p2=refusal(500, "api_error", "down"))
    command = ("--csv", str(towns), "--format", style, "-o", str(out), "--retries", "0")
    assert batch(*command).status == 75
    assert out.read_text().count("finish_reason") == 1
    errors = Path(f"{out}.errors").read_text()
    assert errors.startswith(out.read_text().split("\n")[0])
    assert "p2" in errors
    server.answer(echo)
    assert batch(*command, "--ordered").status == 0
    assert len(server.requests) == 4
    text = out.read_bytes().decode()
    assert text.count("finish_reason") == 1
    rows = read_table(text, "," if style == "csv" else "\t")
    assert [row["answer"] for row in rows] == ["re: p1", "re: p2", "re: p3"]
    assert batch(*command).status == 0
    assert len(server.requests) == 4


def test_a_refused_row_is_told_and_known(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path
) -> None:
    """It is not asked again before it is mended, or --retry-failed says so."""
    answer_but(server, p1=REFUSED)
    command = ("--csv", str(towns), "--format", "csv", "-o", str(out), "-c", "1")
    assert batch(*command).status == 4
    (failed,) = [row for row in read_file(out) if row["error"]]
    assert (failed["id"], failed["answer"], failed["finish_reason"]) == ("1", "", "")
    assert failed[
        "error"
    ] == "bad_request: the API refused the request: too long (bad_request)" or (
        "too long" in failed["error"]
    )
    assert batch(*command).status == 4
    assert len(server.requests) == 3
    server.answer(echo)
    assert batch(*command, "--retry-failed", "all").status == 0
    assert len(server.requests) == 4
    assert sorted(row["answer"] for row in read_file(out)) == ["re: p1", "re: p2", "re: p3"]


def test_a_changed_row_is_noticed(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path
) -> None:
    """As in any other output: the option is a part of what was asked."""
    server.answer(echo)
    command = ("--csv", str(towns), "--format", "csv", "-o", str(out))
    assert batch(*command).status == 0
    assert batch(*command, "--temperature", "0.5").status == 65
    assert batch(*command, "--temperature", "0.5", "--on-change", "redo").status == 0
    assert (len(server.requests), len(read_file(out))) == (6, 3)


def test_any_tear_is_mended(batch: Kimi, server: ReplayServer, out: Path, towns: Path) -> None:
    """Wherever the last row was torn, also between quotes, the next run has each row once."""
    server.answer(lambda request: completion(f'two\nlines of "{get_prompt(request)}"'))
    command = ("--csv", str(towns), "--format", "csv", "-o", str(out), "--ordered")
    assert batch(*command).status == 0
    whole = out.read_bytes()
    start = whole.index(b"\n3,") + 1
    for cut in (*range(start, len(whole), 23), len(whole) - 1):
        out.write_bytes(whole[:cut] + (b"\0" * 7 if cut % 2 else b""))
        result = batch(*command)
        assert result.status == 0, (cut, result.error)
        assert sorted(row["id"] for row in read_file(out)) == ["1", "2", "3"], cut
    assert out.read_bytes().count(b"finish_reason") == 1


def test_kill_9_loses_nothing(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """Killed at random moments, the file ends as that of a quiet run."""
    write_rows(source, make_rows(60, "line\n{}"))
    server.answer(echo)
    moments = random.Random(7)
    command = (str(source), "--format", "csv", "-o", str(out), "-c", "3")
    for _ in range(5):
        before = len(server.requests)
        run = batch.start(*command)
        server.await_requests(before + moments.randint(1, 9))
        run.signal(signal.SIGKILL)
        run.wait()
    assert batch(*command).status == 0
    rows = read_file(out)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"r{n}" for n in range(60))
    assert all(row["answer"] == f"re: {row['prompt']}" for row in rows)


def test_columns_of_ours_make_room(batch: Kimi, server: ReplayServer, out: Path) -> None:
    """A column of the input keeps its name; the file is known again."""
    server.answer(echo)
    table = b"prompt,answer,error,kimi_answer,kimi\np,a,e,k,x\n"
    command = ("--csv", "--format", "csv", "-o", str(out))
    assert batch(*command, stdin=table).status == 0
    (row,) = read_file(out)
    assert list(row)[5:] == ["kimi_kimi_answer", "finish_reason", "kimi_error", "kimi_kimi"]
    assert (row["answer"], row["kimi_kimi_answer"], row["error"]) == ("a", "re: p", "e")
    assert batch(*command, stdin=table).status == 0
    assert len(server.requests) == 1


def test_rows_of_json_have_the_columns_of_the_first(batch: Kimi, server: ReplayServer) -> None:
    """Text as it is, nothing for null, all else as JSON; a string is a prompt."""
    server.answer(echo)
    rows = b'{"prompt":"a","n1":1.5,"tags":["x"],"no":null}\n{"prompt":"b","more":1}\n"c"\n'
    result = batch("--format", "csv", "--ordered", stdin=rows)
    assert result.stdout.decode() == (
        "prompt,n1,tags,no,answer,finish_reason,error\n"
        'a,1.5,"[""x""]",,re: a,stop,\n'
        "b,,,,re: b,stop,\n"
        "c,,,,re: c,stop,\n"
    )


@pytest.mark.parametrize(
    ("style", "there"),
    [("csv", "flat"), ("flat", "csv"), ("csv", "tsv"), ("csv", "schema")],
)
def test_a_file_of_another_kind_is_left_alone(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path, style: str, there: str
) -> None:
    """A table does not go on in lines of JSON, nor one with other columns: status 65."""
    server.answer(lambda request: completion('{"size":1}'))
    first = ("csv", "--schema", "size int") if there == "schema" else (there,)
    command = ("--csv", str(towns), "-o", str(out), "--format")
    assert batch(*command, *first).status == 0
    before = out.read_bytes()
    result = batch(*command, style)
    assert (result.status, out.read_bytes()) == (65, before)
    assert "name another file with -o" in result.error
    assert len(server.requests) == 3


def test_identical_rows_are_bought_once(batch: Kimi, server: ReplayServer) -> None:
    """--dedupe has a row for each, with its own columns."""
    server.answer(echo)
    result = batch(
        "--csv", "--format", "csv", "--dedupe", "--ordered", stdin=b"place,prompt\n1,p\n2,p\n"
    )
    assert result.stdout.decode().splitlines()[1:] == ["1,p,re: p,stop,", "2,p,re: p,stop,"]
    assert len(server.requests) == 1


CELLS = st.lists(st.text(alphabet='a",\n\r\t=\\{} ', max_size=6), min_size=2, max_size=4)


@given(st.lists(CELLS, max_size=5))
def test_rows_are_parted_as_they_were_written(rows: list[list[str]]) -> None:
    """Whatever stands in their cells."""
    layout = TableRows(",", ("answer",))
    pieces = [layout.encode(cells).encode() for cells in rows]
    assert list(layout.split(io.BytesIO(b"".join(pieces)))) == pieces
    assert [layout.read_cells(piece) for piece in pieces] == rows


def test_the_head_is_that_of_a_line(
    batch: Kimi, server: ReplayServer, out: Path, towns: Path
) -> None:
    """Its last cell says what a later run must know."""
    server.answer(echo)
    assert batch("--csv", str(towns), "--format", "csv", "-o", str(out)).status == 0
    heads = [json.loads(row["kimi"]) for row in read_file(out)]
    assert {head["custom_id"] for head in heads} == {"1", "2", "3"}
    assert all(len(head["kimi"]["key"]) == 32 for head in heads)
