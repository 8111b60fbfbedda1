"""Rows of a batch: their forms, templates, and what they carry."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from rows import SHAPE, Row, echo, list_ids, list_prompts, make, user, write_rows
from server import ReplayServer

from kimi_cli.batch.records import BODY_FIELDS, BadRecord, Record, Shape, make_record
from kimi_cli.prompt.templates import TemplateError, check_template, fill_template

batch = rows.echoing


# Forms


def get_body(row: Any, shape: Shape = SHAPE) -> Row:
    """Return what is sent for a row."""
    body: Row = json.loads(make(row, shape).payload)
    return body


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"custom_id": "a", "body": {"messages": [user("x")]}}, [user("x")]),
        ({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
          "body": {"messages": [user("x")]}, "messages": [user("other")]}, [user("x")]),
        ({"messages": [user("x")], "prompt": "other"}, [user("x")]),
        ({"prompt": "x"}, [user("x")]),
        ({"prompt": "x", "system": "s"}, [{"role": "system", "content": "s"}, user("x")]),
        ({"prompt": "x", "system": ""}, [user("x")]),
        ([user("x"), {"role": "assistant", "content": "y"}, user("z")],
         [user("x"), {"role": "assistant", "content": "y"}, user("z")]),
        ("x", [user("x")]),
    ],
)  # fmt: skip
def test_forms_are_recognised_in_order(row: Any, messages: list[Row]) -> None:
    """A Batch line, messages, a prompt, an array, a string."""
    assert get_body(row)["messages"] == messages


@pytest.mark.parametrize(
    ("row", "code"),
    [
        (None, "invalid_row"),
        (7, "invalid_row"),
        (True, "invalid_row"),
        ({}, "invalid_row"),
        ([], "invalid_row"),
        ([7], "invalid_row"),
        ([{"content": "no role"}], "invalid_row"),
        ("", "empty_prompt"),
        (" \n", "empty_prompt"),
        ({"prompt": ""}, "empty_prompt"),
        ({"prompt": 7}, "invalid_row"),
        ({"prompt": "x", "system": 7}, "invalid_row"),
        ({"messages": "x"}, "invalid_row"),
        ({"messages": []}, "invalid_row"),
        ({"body": "x"}, "invalid_row"),
        ({"body": {}}, "invalid_row"),
        ({"body": {"messages": [user("x")]}, "method": "GET"}, "invalid_row"),
        ({"body": {"messages": [user("x")]}, "url": "/v1/embeddings"}, "invalid_row"),
    ],
)
def test_bad_rows_are_errors_of_their_own(row: Any, code: str) -> None:
    """With a code and a reason, and the number of the row as its id."""
    record = make_record(3, row, SHAPE)
    assert isinstance(record, BadRecord)
    assert (record.code, record.id) == (code, "row-3")
    assert record.message


def test_unknown_keys_are_carried_and_never_sent() -> None:
    """Those of the API are sent, those of the row come out again; stream is ours."""
    row = {"prompt": "x", "seed": 7, "gold": [1], "stream": True, "stream_options": {"a": 1}}
    record = make(row)
    assert json.loads(record.payload) == {"model": "kimi-k2.5", "messages": [user("x")], "seed": 7}
    assert record.carried == {"gold": [1]}


@given(st.dictionaries(st.text(min_size=1, max_size=9), st.integers() | st.text(), max_size=5))
def test_only_the_fields_of_the_api_are_sent(extra: Row) -> None:
    """Whatever else a row brings along."""
    extra = {key: value for key, value in extra.items() if key not in ("body", "messages")}
    row = {**extra, "prompt": "x"}
    row.pop("system", None)
    record = make_record(1, row, SHAPE)
    if isinstance(record, Record):
        assert set(json.loads(record.payload)) <= BODY_FIELDS


def test_a_row_has_the_last_word() -> None:
    """Over --model, --system and the other options."""
    shape = Shape({"model": "m", "temperature": 1}, system="be brief")
    assert get_body({"prompt": "x", "model": "own"}, shape)["model"] == "own"
    assert get_body("x", shape)["messages"][0] == {"role": "system", "content": "be brief"}
    own = {"prompt": "x", "system": "own", "temperature": 0}
    assert get_body(own, shape)["messages"][0]["content"] == "own"
    assert get_body(own, shape)["temperature"] == 0


@pytest.mark.parametrize(
    ("row", "field", "name"),
    [
        ({"custom_id": "a", "id": "b"}, None, "a"),
        ({"id": "b"}, None, "b"),
        ({"id": 7}, None, "7"),
        ({"id": 0}, None, "0"),
        ({"id": ""}, None, None),
        ({"id": None}, None, None),
        ({"id": True}, None, None),
        ({"id": [1]}, None, None),
        ({"id": "a", "key": "k"}, "key", "k"),
        ({}, None, None),
    ],
)
def test_ids(row: Row, field: str | None, name: str | None) -> None:
    """custom_id, id, --id-field, else the number of the row."""
    record = make({**row, "prompt": "x"}, Shape({"model": "m"}, id_field=field))
    assert (record.id, record.named) == (name or "row-1", name is not None)


def test_a_missing_id_field_is_the_rows_error() -> None:
    """--id-field names a field that every row has."""
    record = make_record(1, {"prompt": "x", "id": "a"}, Shape({"model": "m"}, id_field="key"))
    assert isinstance(record, BadRecord)
    assert record.code == "missing_id"


def test_keys_are_of_what_is_asked() -> None:
    """Neither the order of keys nor what is carried matters; the id and each parameter do."""
    key = make({"prompt": "x", "seed": 1}).key
    assert make({"seed": 1, "note": "n", "prompt": "x"}).key == key
    others = [
        {"prompt": "y", "seed": 1},
        {"prompt": "x", "seed": 2},
        {"prompt": "x"},
        {"prompt": "x", "seed": 1, "id": "a"},
    ]
    assert len({key, *(make(other).key for other in others)}) == 5
    assert make({"prompt": "x", "seed": 1}, Shape({"model": "other"})).key != key


# Templates


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{a}", "one"),
        ("{a}{a}", "oneone"),
        ("{b.c.1}", "three"),
        ("{b.c}", '["two","three"]'),
        ("{d.e}", "whole"),
        ("{{{a}}}", "{one}"),
        ("{{a}}", "{a}"),
        ("{f}", "{a} {{x}}"),
        ("{n} {t} {z}", "7 true null"),
        ("no field", "no field"),
        ("{ü}", "ö"),
    ],
)
def test_templates_are_filled_once(template: str, text: str) -> None:
    """{field}, dotted paths, doubled braces; a value is never a template."""
    row = {
        "a": "one", "b": {"c": ["two", "three"]}, "d.e": "whole", "d": {"e": "part"},
        "f": "{a} {{x}}", "n": 7, "t": True, "z": None, "ü": "ö",
    }  # fmt: skip
    assert fill_template(template, row) == text


@pytest.mark.parametrize(
    ("template", "code"),
    [
        ("{x}", "missing_field"),
        ("{a.b}", "missing_field"),
        ("{l.2}", "missing_field"),
        ("{l.-1}", "missing_field"),
        ("{l.²}", "missing_field"),
        ("{l." + "1" * 5000 + "}", "missing_field"),
        ("{}", "missing_field"),
    ],
)
def test_what_a_template_cannot_find_is_the_rows_error(template: str, code: str) -> None:
    """With the name of the field, or of the brace."""
    row = {"a": "x", "l": [1, 2]}
    record = make_record(1, row, Shape({"model": "m"}, template=template))
    assert isinstance(record, BadRecord)
    assert record.code == code


@pytest.mark.parametrize("template", ["{", "a}", "{a", '{"a": {n}}', "{}", "{ }", '{"a": 1}'])
def test_a_bad_template_is_a_usage_error(batch: Kimi, server: ReplayServer, template: str) -> None:
    """One, before any row: braces of JSON must be doubled."""
    result = batch("-p", template, stdin=b'{"a":"x"}\n' * 20)
    assert (result.stdout, result.status) == (b"", 2)
    assert result.error.count("\n") == 1
    assert "--prompt: " in result.error
    assert not server.requests
    with pytest.raises(TemplateError):
        check_template(template)


def test_a_missing_field_is_told_with_those_that_there_are(batch: Kimi) -> None:
    """And with the option that named it."""
    rows = b'{"text":"x","id":"a"}\n' * 2
    result = batch("-p", "{Text}", "--dry-run", stdin=rows)
    assert "--prompt: the row has no field 'Text'; it has: text, id" in result.error
    result = batch("--id-field", "nr", "-p", "{text}", "--dry-run", stdin=rows)
    assert "the row has no field 'nr' (--id-field); it has: text, id" in result.error


@given(st.text(min_size=1).filter(str.strip))
def test_a_value_is_put_in_as_it_is(value: str) -> None:
    """Any text, braces and all."""
    assert fill_template("<{v}>", {"v": value}) == f"<{value}>"


# Rows that cannot be sent


def test_bad_rows_count_and_have_their_lines(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows takes them as they come, and each run gets further."""
    source.write_text('{"x":\n{"y":\n"one"\n"two"\n')
    command = (str(source), "-o", str(out), "--max-rows", "2")
    assert batch(*command).status == 75
    assert list_ids(out) == ["row-1", "row-2"]
    assert not server.requests
    assert batch(*command).status == 4
    assert sorted(list_ids(out)) == ["row-1", "row-2", "row-3", "row-4"]
    piped = batch("--max-rows", "3", stdin=b'"one"\n{bad\n{bad2\n"two"\n')
    assert (piped.status, piped.stdout.count(b"\n")) == (4, 4)


@pytest.mark.parametrize("options", [(), ("--csv", "-p", "{text}")], ids=["jsonl", "csv"])
def test_a_bad_row_is_known_by_any_path(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, options: tuple[str, ...]
) -> None:
    """Its line stands, however the file is named, and be it a pipe."""
    source.write_bytes(b"text\none\n\xff\ntwo\n" if options else b'"one"\n{"x":\n"two"\n')
    assert batch(*options, str(source), "-o", str(out)).status == 4
    before, asked = out.read_bytes(), len(server.requests)
    other = source.parent / "." / ".." / source.parent.name / source.name
    for arguments, stdin in (((str(other),), b""), ((), source.read_bytes())):
        result = batch(*options, *arguments, "-o", str(out), stdin=stdin)
        assert result.status == 4, result.error
    assert batch(*options, str(other), "-o", str(out), "--on-change", "redo").status == 4
    assert out.read_bytes() == before
    assert len(server.requests) == asked == 2


def test_a_bad_first_row_is_answered_at_once(batch: Kimi) -> None:
    """On a pipe, where who writes may wait for its line; ten of them are a wrong input."""
    run = batch.start("--format", "flat", stdin="pipe")
    for number in range(1, 10):
        run.write(b"{torn\n")
        assert json.loads(run.expect(b"\n", "stdout"))["custom_id"] == f"row-{number}"
    run.write(b"{torn\n")
    run.end_input()
    result = run.wait()
    assert result.status == 65
    assert result.stdout.count(b"\n") == 10
    assert "the first 10 rows are all bad (row 1: " in result.error


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("options", [(), ("--csv", "-p", "{a}"), ("--lines",)])
def test_another_encoding_is_told(
    batch: Kimi, server: ReplayServer, source: Path, encoding: str, options: tuple[str, ...]
) -> None:
    """UTF-16 is exit 65 with the way out, and no row is bought."""
    source.write_bytes('\ufeff"hi"\n'.encode(encoding))
    result = batch(str(source), *options)
    assert result.status == 65
    assert f"{source}: this is UTF-16" in result.error
    assert "--encoding utf-16" in result.error
    assert not server.requests


# What a row carries


def test_carried_keys_survive(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Those that the line has itself, such as error and id, are kept within kimi."""
    taken = {"id": 7, "error": "old", "response": [1], "kimi": {"key": "k"}}
    write_rows(source, [{"custom_id": "a", "prompt": "p", "gold": 1, **taken}])
    server.answer(echo)
    line = json.loads(batch(str(source)).stdout)
    assert line["kimi"]["carried"] == taken
    assert (line["custom_id"], line["gold"], line["error"]) == ("a", 1, None)
    assert line["response"]["status_code"] == 200
    assert list(server.requests[0].json) == ["messages", "model"]


def test_a_system_prompt_beside_messages_is_sent(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """As the first message, unless the messages begin with one."""
    user = {"role": "user", "content": "hi"}
    own = {"role": "system", "content": "own"}
    rows = [{"messages": [user], "system": "be brief"}, {"messages": [own, user], "system": "no"}]
    write_rows(source, rows)
    server.answer(echo)
    assert batch(str(source), "-c", "1").status == 0
    brief = {"role": "system", "content": "be brief"}
    assert [request.json["messages"] for request in server.requests] == [[brief, user], [own, user]]


def test_an_id_is_no_switch(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """What --id-field names must be text or a number; the row's line says so."""
    write_rows(source, [{"n": 1, "prompt": "a"}, {"n": True, "prompt": "b"}])
    server.answer(echo)
    result = batch(str(source), "--id-field", "n")
    assert result.status == 4
    lines = {
        line["custom_id"]: line["error"] for line in map(json.loads, result.stdout.splitlines())
    }
    assert lines["1"] is None
    assert lines["row-2"]["code"] == "bad_id"
    assert "'n' is neither text nor a number" in lines["row-2"]["message"]
    assert list_prompts(server) == ["a"]
