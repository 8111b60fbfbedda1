"""Fields of the request in rows: which are sent, of which types, and under which names."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from rows import read_rows, write_rows
from server import ReplayServer, completion

from kimi_cli.api.fields import FIELDS, FRAME, find_fault, override
from kimi_cli.batch.records import BadRecord, Record, Shape, make_record
from kimi_cli.options.bundles import RequestOptions

SHAPE = Shape({"model": "m", "max_tokens": 5})


def send(row: Any) -> Any:
    """The request that a row becomes."""
    record = make_record(1, row, SHAPE)
    assert isinstance(record, Record), record
    return json.loads(record.payload)


# One table


GIVEN: dict[str, tuple[list[str], Any]] = {
    "temperature": (["--temperature", "0.5"], 0.5),
    "top_p": (["--top-p", "0.5"], 0.5),
    "max_tokens": (["--max-tokens", "7"], 7),
    "stop": (["--stop", "END"], ["END"]),
    "seed": (["--seed", "7"], 7),
    "reasoning_effort": (["--reasoning-effort", "low"], "low"),
    "thinking": (["--thinking", "off"], {"type": "disabled"}),
    "response_format": (["--json-mode"], {"type": "json_object"}),
}
"""The options of fields by the fields' names."""


def test_every_option_of_a_field_is_tried() -> None:
    """But for the model, the system prompt, and -O."""
    named = {item.name for item in fields(RequestOptions)} - {"model", "system", "option"}
    assert {"response_format" if name == "json_mode" else name for name in named} == GIVEN.keys()
    assert GIVEN.keys() <= FIELDS.keys()


@pytest.mark.parametrize("name", GIVEN)
def test_the_server_receives_each_field(
    ask: Kimi, batch: Kimi, server: ReplayServer, name: str
) -> None:
    """From an option of ask, from one of batch, and from a row."""
    options, value = GIVEN[name]
    server.answer(lambda request: completion("1"))
    assert ask("--no-stream", *options, "hi").status == 0
    assert batch(*options, stdin=b'"hi"\n').status == 0
    row = json.dumps({"prompt": "hi", name: value}).encode() + b"\n"
    assert batch(stdin=row).status == 0
    assert [request.json[name] for request in server.requests] == [value] * 3


# Columns


@pytest.mark.parametrize("name", [*FIELDS, *FRAME, "body", "system", "prompt"])
def test_what_is_null_is_absent(name: str) -> None:
    """As every table writes its gaps; what fills in then comes from the options."""
    other = {"messages": [{"role": "user", "content": "hi"}]} if name == "prompt" else {}
    expected = send({"prompt": "hi"})
    assert send({"prompt": "hi", **other, name: None}) == expected


def test_what_is_null_is_kept_beside_the_answer(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A column of the row's own comes back as it went."""
    write_rows(source, [{"prompt": "hi", "mine": None, "temperature": None}])
    server.answer(lambda request: completion("yes"))
    assert batch(str(source), "-o", str(out), "--format", "merge").status == 0
    [row] = read_rows(out)
    assert (row["mine"], row["temperature"]) == (None, None)
    assert "temperature" not in server.requests[0].json


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 3.0), ("n", "v"), ("n", True), ("user", 7), ("user", ["a"]), ("seed", "1"),
        ("stop", 1), ("tools", "hammer"), ("logprobs", 1), ("temperature", "hot"),
        ("model", 5), ("response_format", "json"), ("tool_choice", 1), ("stream", "yes"),
    ],
)  # fmt: skip
def test_a_column_of_a_wrong_type_is_the_rows_error(name: str, value: Any) -> None:
    """It is data that has the name of a field by chance."""
    record = make_record(1, {"prompt": "hi", name: value}, SHAPE)
    assert isinstance(record, BadRecord)
    assert (record.code, f"'{name}' must be" in record.message) == ("bad_field", True)
    assert find_fault(name, value) is not None


def test_a_template_makes_data_of_all_columns() -> None:
    """Whatever their names and types."""
    shape = Shape({"model": "m"}, template="{n} {user}")
    record = make_record(1, {"n": "v", "user": "Ann", "tools": 5}, shape)
    assert isinstance(record, Record)
    assert json.loads(record.payload)["messages"][0]["content"] == "v Ann"


def test_a_rehearsal_tells_which_columns_are_sent(batch: Kimi, source: Path) -> None:
    """And which stay beside the answers."""
    write_rows(source, [{"prompt": "hi", "seed": 1, "mine": 2}, {"prompt": "ho", "user": "x"}])
    result = batch(str(source), "--dry-run")
    assert result.status == 0
    told = (
        "columns that are sent as fields of the request: seed, user; kept beside the answers: mine"
    )
    assert told in result.error


# One setting with two names


def test_the_rows_own_limit_of_tokens_is_sent_alone() -> None:
    """Hosts answer 400 to both."""
    assert send({"prompt": "hi"})["max_tokens"] == 5
    sent = send({"prompt": "hi", "max_completion_tokens": 9})
    assert (sent.get("max_tokens"), sent["max_completion_tokens"]) == (None, 9)


def test_the_stronger_limit_of_tokens_is_sent_alone(ask: Kimi) -> None:
    """-O is stronger than an option, and this question than the one before."""
    result = ask("--max-tokens", "5", "-O", "max_completion_tokens=9", "--dry-run", "hi")
    sent = json.loads(result.stdout)
    assert (sent.get("max_tokens"), sent["max_completion_tokens"]) == (None, 9)
    assert override({"max_completion_tokens": 9}, {"max_tokens": 5}) == {"max_tokens": 5}


# Ids


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a", "a"), (7, "7"), (1.0, "1.0"), (1.5, "1.5"), ("0071", "0071"),
        (None, "row-1"), ("", "row-1"), (True, "row-1"), ([1], "row-1"), ({"a": 1}, "row-1"),
    ],
)  # fmt: skip
def test_an_id_has_one_rule(given: Any, name: str) -> None:
    """Text or a number, as it stands; by --id-field the same."""
    assert make_record(1, {"prompt": "hi", "id": given}, SHAPE).id == name
    named = make_record(1, {"prompt": "hi", "nr": given}, Shape({"model": "m"}, id_field="nr"))
    assert named.id == name
    assert isinstance(named, Record) is (name != "row-1")


def test_odd_ids_are_counted(batch: Kimi, server: ReplayServer) -> None:
    """All that cannot be one, empty ones included."""
    rows = [{"prompt": f"p{n}", "id": value} for n, value in enumerate([True, [1], None, "", "x"])]
    server.answer(lambda request: completion("yes"))
    result = batch(stdin="".join(json.dumps(row) + "\n" for row in rows).encode())
    assert result.status == 0
    assert "4 rows named by place, for an id must be text or a number" in result.error


# Kinds of input


@pytest.mark.parametrize(
    ("kind", "data"),
    [("jsonl", b'{"a":"x"}\n'), ("lines", b"x\n"), ("csv", b"a\nx\n"), ("tsv", b"a\nx\n")],
)
def test_a_kind_of_input_is_named_by_an_option(
    batch: Kimi, server: ReplayServer, kind: str, data: bytes
) -> None:
    """Or by its short form; both together are a usage error."""
    server.answer(lambda request: completion("yes"))
    template = () if kind == "lines" else ("-p", "{a}")
    assert batch("--from", kind, *template, stdin=data).status == 0
    if kind != "jsonl":
        assert batch(f"--{kind}", *template, stdin=data).status == 0
        assert batch(f"--{kind}", "--from", "jsonl", *template, stdin=data).status == 2
    prompts = {request.json["messages"][0]["content"] for request in server.requests}
    assert prompts == {"x"}


# Tables


CELLS = [
    ("max_tokens", "5", 5),
    ("max_tokens", "5.0", 5),
    ("temperature", "0.5", 0.5),
    ("temperature", "1", 1),
    ("model", "kimi-k3", "kimi-k3"),
    ("stop", "END", "END"),
    ("store", "True", True),
    ("logit_bias", '{"5":-100}', {"5": -100}),
    ("response_format", '{"type":"json_object"}', {"type": "json_object"}),
    ("user", "007", "007"),
]


@pytest.mark.parametrize("kind", ["csv", "tsv"])
def test_cells_of_fields_are_read_for_what_they_say(
    batch: Kimi, server: ReplayServer, source: Path, kind: str
) -> None:
    """And empty ones, as every table writes a gap, are absent."""
    server.answer(lambda request: completion("ok"))
    mark = "," if kind == "csv" else "\t"
    for name, cell, value in CELLS:
        quoted = '"' + cell.replace('"', '""') + '"' if kind == "csv" else cell
        source.write_text(f"id{mark}prompt{mark}{name}\na{mark}hi{mark}{quoted}\nb{mark}ho{mark}\n")
        result = batch(f"--{kind}", "-m", "m", str(source))
        assert result.status == 0, (name, cell, result.error)
        sent = [json.loads(request.body) for request in server.requests[-2:]]
        [asked] = [body for body in sent if body["messages"][-1]["content"] == "hi"]
        [empty] = [body for body in sent if body["messages"][-1]["content"] == "ho"]
        assert asked[name] == value
        assert type(asked[name]) is type(value)
        assert empty.get(name) == ("m" if name == "model" else None)


def test_a_cell_that_says_nothing_of_the_kind(batch: Kimi, source: Path) -> None:
    """It is that row's error, and names the column; with a template all columns are data."""
    source.write_text("prompt,max_tokens,store\nhi,many,London\n")
    result = batch("--csv", "--dry-run", str(source))
    assert result.status == 65
    assert "'max_tokens' must be a whole number, not \"many\"; rename the column" in result.error
    result = batch("--csv", "--dry-run", "-p", "{prompt} {store}", str(source))
    assert result.status == 0
    assert b"hi London" in result.stdout


def test_messages_in_a_cell(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """A column of messages holds them as JSON."""
    server.answer(lambda request: completion("ok"))
    source.write_text('messages\n"[{""role"":""user"",""content"":""hi""}]"\n')
    assert batch("--csv", str(source)).status == 0
    [request] = server.requests
    assert json.loads(request.body)["messages"] == [{"role": "user", "content": "hi"}]
