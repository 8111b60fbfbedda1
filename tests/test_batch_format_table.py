"""kimi batch --format table: one flat object a line, that every reader takes for what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import FAILED, NO_MODEL, REFUSED, answer_but, echo, make_rows, read_rows, write_rows
from server import ReplayServer, completion, document, refusal

from kimi_cli.batch.columns import OURS, Columns
from kimi_cli.batch.done import begins_line, read_mark
from kimi_cli.batch.records import BadRecord, Record, Shape, read_records
from kimi_cli.batch.results import Result, encode_results, name_format

batch = rows.echoing

TABLE = ("--format", "table")
TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
CELLS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
)
NAMES = st.sampled_from(["a", "A", "Error", "ROW", "kimi", "id", "CONTENT", "carried", "b c", ""])
ROWS = st.lists(st.dictionaries(NAMES, CELLS | st.lists(CELLS, max_size=2)), min_size=1, max_size=6)


def lay_out(table: list[Any], names: list[str] | None = None) -> list[Record | BadRecord]:
    """Return the records of rows as a run with a template has them, with their cells."""
    records = read_records(table, Shape({"model": "m"}, template="ask"))
    return list(Columns(names).lay_out(records))


def encode(record: Record | BadRecord, **told: Any) -> bytes:
    """Return the line of a row that was refused, or what is *told* of it."""
    error = {"code": "c", "message": "m", "class": "permanent"}
    return encode_results([Result(record, **(told or {"error": error}))], "table")


def test_the_columns_are_those_of_the_manual(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """The documented ones in their order, then the row's own as text; no cell is null."""
    usage = {
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "prompt_tokens_details": {"cached_tokens": 3},
        "completion_tokens_details": {"reasoning_tokens": 2},
    }
    server.answer(lambda request: completion("yes", reasoning="hm", usage=usage))
    write_rows(source, [{"id": "0071", "prompt": "p", "label": 3, "tags": ["x"], "gap": None}])
    result = batch(str(source), *TABLE)
    assert result.status == 0
    line = json.loads(result.stdout)
    assert list(line) == [*OURS, "label", "tags", "gap"]
    assert line | {"ms": 0, "kimi": ""} == {
        "custom_id": "0071",
        "row": 1,
        "status": "ok",
        "content": "yes",
        "reasoning": "hm",
        "finish_reason": "stop",
        "prompt_tokens": 5,
        "completion_tokens": 7,
        "cached_tokens": 3,
        "reasoning_tokens": 2,
        "cost": line["cost"],
        "error_code": "",
        "error": "",
        "attempts": 1,
        "ms": 0,
        "kimi": "",
        "carried": "",
        "label": "3",
        "tags": '["x"]',
        "gap": "",
    }
    assert isinstance(line["cost"], float)


def test_each_fate_has_its_status(batch: Kimi, server: ReplayServer) -> None:
    """ok, incomplete, failed and not_asked, each with what is known of it."""
    cut = completion("half", finish="length")
    answer_but(server, cut=cut, bad=REFUSED)
    lines = ['"good"', '"cut"', '"bad"', "", "{", '"last"']
    result = batch(*TABLE, "--ordered", "-c", "1", stdin="\n".join(lines).encode())
    assert result.status == 4
    table = [json.loads(line) for line in result.stdout.splitlines()]
    statuses = [row["status"] for row in table]
    assert statuses == ["ok", "incomplete", "failed", "not_asked", "failed", "ok"]
    assert [row["error_code"] for row in table][2:5] == [
        "bad_request",
        "blank_line",
        "invalid_json",
    ]
    assert {tuple(row) for row in table} == {OURS}
    assert "too long" in table[2]["error"]
    assert table[1]["content"] == "half"


@given(table=ROWS)
def test_any_rows_make_one_table(table: list[dict[str, Any]]) -> None:
    """The same keys in the same order, no two alike but for case, scalars only, nothing lost."""
    lines = [json.loads(encode(record)) for record in lay_out(table)]
    assert len({tuple(line) for line in lines}) == 1
    names = [name.lower() for name in lines[0]]
    assert len(set(names)) == len(names)
    assert {type(cell) for line in lines for cell in line.values()} <= {str, int, float}
    assert len({tuple(map(type, line.values())) for line in lines}) == 1
    for line, row in zip(lines, table, strict=True):
        own = {key: value for key, value in row.items() if value is not None}
        for key, value in own.items():
            cell = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            more = json.loads(line["carried"] or "{}")
            is_name = key == "id" and str(value) == line["custom_id"]
            texts = list(line.values())
            is_there = cell in texts or json.dumps(value) in texts or key in more or is_name
            assert is_there or json.loads(json.dumps(value)) in map(_parse, texts)


def _parse(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError):
        return text


@given(table=ROWS)
def test_a_later_run_finds_the_same_columns(table: list[dict[str, Any]]) -> None:
    """Names that were found once are those of each row, whichever comes first then."""
    first = [json.loads(encode(record)) for record in lay_out(table)]
    again = lay_out(table[::-1], list(first[0])[len(OURS) :])
    cells = [list(json.loads(encode(record)))[len(OURS) :] for record in again]
    assert all(names == list(first[0])[len(OURS) :] for names in cells)


@given(table=ROWS, cut=st.integers(1, 10_000))
def test_a_line_is_known_again(table: list[dict[str, Any]], cut: int) -> None:
    """By its id and key, whatever its cells say; and the beginning of one as the beginning."""
    table[0]["trap"] = ',"kimi":"' + "0" * 32 + '"'
    for record in lay_out(table):
        line = encode(record)
        mark = read_mark(line)
        assert mark is not None
        assert (mark.name, mark.key.hex(), mark.failed) == (record.id, record.key, "permanent")
        assert name_format(line) == "table"
        assert begins_line(line[: cut % len(line)])


@pytest.mark.parametrize(
    "line",
    [
        b'{"custom_id":"a","row":1}',
        b'{"custom_id":"a","row":"1","status":"ok"}',
        b'{"custom_id":"a","row":1,"score":2}',
        b'{"custom_id":"a","row":1,"status":"ok","kimi":"x"}',
    ],
)
def test_a_line_of_somebody_else_is_none(line: bytes) -> None:
    """A table that looks a little like ours is not written into."""
    assert read_mark(line) is None
    assert name_format(line) is None


def test_a_table_goes_on(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """With the columns that it began with; what is done is not asked again."""
    table = [
        {"id": "a", "prompt": "p0", "Label": "x"},
        {"id": "b", "prompt": "p1", "Label": "y", "new": 1},
        {"id": "c", "prompt": "p2"},
    ]
    write_rows(source, table)
    assert batch(str(source), *TABLE, "-o", str(out), "--max-rows", "1", "-c", "1").status == 75
    torn = out.read_bytes()
    out.write_bytes(torn + torn[:200])
    source.write_text("".join(source.read_text().splitlines(keepends=True)[::-1]))
    result = batch(str(source), *TABLE, "-o", str(out))
    assert result.status == 0, result.error
    lines = {line["custom_id"]: line for line in read_rows(out)}
    assert {tuple(line) for line in lines.values()} == {(*OURS, "Label")}
    assert [lines[name]["Label"] for name in "abc"] == ["x", "y", ""]
    assert json.loads(lines["b"]["carried"]) == {"new": 1}
    assert len(server.requests) == 3
    assert batch(str(source), *TABLE, "-o", str(out)).status == 0
    assert len(server.requests) == 3


def test_errors_of_a_table_are_asked_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--retry-failed reads what a table says of them; the order is kept at the end."""
    write_rows(source, make_rows(3))
    answer_but(server, p1=refusal(400, "content_filter", "no"))
    command = (str(source), *TABLE, "-o", str(out), "--ordered")
    assert batch(*command).status == 4
    server.answer(echo)
    assert batch(*command, "--retry-failed", "transient").status == 4
    assert batch(*command, "--retry-failed", "all").status == 0
    assert [line["status"] for line in read_rows(out)] == ["ok"] * 3
    assert [line["row"] for line in read_rows(out)] == [1, 2, 3]
    assert len(server.requests) == 4


def test_rows_that_are_left_are_listed_in_the_same_columns(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The list beside the output is such a table, too."""
    write_rows(source, [{"prompt": f"p{number}", "label": "x"} for number in range(2)])
    answer_but(server, p1=FAILED)
    options = ("-o", str(out), "--retries", "0", "-c", "1")
    assert batch(str(source), *TABLE, *options).status == 75
    (line,) = read_rows(Path(f"{out}.errors"))
    assert list(line) == list(read_rows(out)[0])
    assert line["status"] == "failed"


@pytest.mark.parametrize("is_rewritten", [False, True])
def test_a_table_counts_as_done(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, is_rewritten: bool
) -> None:
    """For --done-from, also as another program wrote it again."""
    write_rows(source, make_rows(3))
    answer_but(server, p2=NO_MODEL)
    batch(str(source), *TABLE, "-o", str(out), "-c", "1")
    if is_rewritten:
        write_rows(out, read_rows(out))
    server.answer(echo)
    result = batch(str(source), "--done-from", str(out), "--format", "flat")
    assert result.status == 0, result.error
    assert [json.loads(line)["custom_id"] for line in result.stdout.splitlines()] == ["r2"]


def test_several_answers_are_all_there(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """The cell is then their array."""
    choices = [{"index": n, "message": {"content": t}} for n, t in enumerate("ab")]
    server.answer(lambda request: document({"choices": choices}))
    write_rows(source, [{"prompt": "p", "n": 2}])
    assert json.loads(json.loads(batch(str(source), *TABLE).stdout)["content"]) == ["a", "b"]


def test_a_table_of_cells_has_them_all(batch: Kimi, source: Path) -> None:
    """The columns of a CSV are those of the output; one that is named as ours has a suffix."""
    source.write_text("ID,Status,id,note\n1,open,0071,\n2,shut,0072,x\n")
    result = batch("--csv", str(source), "-p", "Is {note} {ID}?", *TABLE, "--ordered")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert list(lines[0])[len(OURS) :] == ["ID", "Status_row", "note"]
    assert [line["custom_id"] for line in lines] == ["0071", "0072"]
    assert [line["ID"] for line in lines] == ["1", "2"]
