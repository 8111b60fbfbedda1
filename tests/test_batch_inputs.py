"""Inputs of a batch that are wrong as a whole, or in another encoding, and outputs beside them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rows
from program import Kimi
from rows import list_ids, list_prompts, make_rows, read_rows, write_rows
from server import ReplayServer

batch = rows.echoing

# No good row


@pytest.mark.parametrize("count", [1, 2, 9, 10, 40])
def test_an_input_without_a_good_row(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, count: int
) -> None:
    """Whatever its size: nothing is sent, and nothing is written that would be final."""
    source.write_text('{"text": "hi"}\n' * count)
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "'prompt'" in result.error
    assert not out.read_bytes()
    assert not server.requests
    assert batch(str(source), "-o", str(out), "-p", "{text}").status == 0
    assert len(read_rows(out)) == count


def test_nine_bad_rows_before_a_good_one(batch: Kimi, source: Path, out: Path) -> None:
    """Are errors of theirs, as before."""
    source.write_text('{"text": "hi"}\n' * 9 + '"good"\n')
    assert batch(str(source), "-o", str(out)).status == 4
    assert len(read_rows(out)) == 10


@pytest.mark.parametrize(
    "text",
    [
        '[\n  {"prompt": "a"},\n  {"prompt": "b"}\n]\n',
        '[{"prompt": "a"},\n{"prompt": "b"}]\n',
        '[{"prompt": "a"}, {"prompt": "b"}]\n',
        '\ufeff\n[{"prompt": "a"}]',
        '["a", "b"]\n',
        '[{\n  "prompt": "a"\n}]\n',
        '[[{"role": "user", "content": "a"}]]\n',
    ],
)
def test_a_json_array_is_named(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, text: str
) -> None:
    """With the option that reads it, which does."""
    source.write_text(text)
    result = batch("-q", str(source), "-o", str(out))
    assert result.status == 65
    assert "JSON array" in result.error
    assert "--from json" in result.error
    assert not server.requests
    read = batch("-q", "--from", "json", str(source), "-o", str(out))
    assert read.status == 0, read.error
    assert set(list_prompts(server)) <= {"a", "b"}
    assert len(read_rows(out)) == len(server.requests) == len(json.loads(text.strip("\ufeff")))


def test_a_document_over_several_lines_is_named(batch: Kimi, source: Path) -> None:
    """One object, laid out for people."""
    source.write_text(json.dumps({"prompt": "a"}, indent=2))
    result = batch("-q", str(source))
    assert result.status == 65
    assert "jq -c ." in result.error


@pytest.mark.parametrize("row", [[{"role": "user", "content": "hi"}], "[", "[a, b],"])
def test_what_begins_like_an_array_and_is_a_row(
    batch: Kimi, server: ReplayServer, row: object
) -> None:
    """An array of messages, and lines of text."""
    if isinstance(row, str):
        assert batch("--lines", stdin=row.encode()).status == 0
    else:
        assert batch(stdin=json.dumps(row).encode()).status == 0
    assert len(server.requests) == 1


# Encodings


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16", "utf-16-le", "shift_jis", "utf-8-sig"])
@pytest.mark.parametrize("kind", ["jsonl", "lines", "csv", "tsv"])
def test_an_input_in_another_encoding(
    batch: Kimi, server: ReplayServer, source: Path, encoding: str, kind: str
) -> None:
    """As a file and in a pipe."""
    word = "日本" if encoding == "shift_jis" else "Größe"
    texts = [f"{word} {number}" for number in range(3)]
    head = "text\n" if kind in ("csv", "tsv") else ""
    lines = [json.dumps(text, ensure_ascii=False) if kind == "jsonl" else text for text in texts]
    data = (head + "".join(f"{line}\n" for line in lines)).encode(encoding)
    source.write_bytes(data)
    template = ("-p", "{text}") if head else ()
    options = ("--encoding", encoding, "--from", kind, *template)
    assert batch(*options, str(source)).status == 0
    assert batch(*options, stdin=data).status == 0
    assert list_prompts(server) == sorted(texts * 2)


def test_bytes_that_are_not_of_the_encoding(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Are an error of their row, and of no other."""
    source.write_bytes("größe\n".encode("gb18030") + b"\xff\xff\n" + "日本\n".encode("gb18030"))
    result = batch("--lines", "--encoding", "gb18030", str(source), "-o", str(out))
    assert result.status == 4
    assert list_prompts(server) == ["größe", "日本"]
    cut = batch("--lines", "--encoding", "utf-16", stdin="ab\n".encode("utf-16") + b"x")
    assert cut.status == 65
    assert "--encoding" in cut.error


def test_an_encoding_that_nobody_knows(batch: Kimi) -> None:
    """Is a usage error."""
    assert batch("--encoding", "klingon", stdin=b'"x"\n').status == 2


# What the output holds


def test_a_dry_run_counts_as_the_run_does(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """With an output that has some of the rows; it stays as it is."""
    write_rows(source, make_rows(5))
    command = (str(source), "-o", str(out))
    assert batch(*command, "--max-rows", "2").status == 75
    before, asked = out.read_bytes(), len(server.requests)
    rehearsal = batch(*command, "--dry-run")
    assert rehearsal.status == 0
    assert "3 rows can be sent, 0 cannot; 2 done before" in rehearsal.error
    first = json.loads(rehearsal.stdout)["messages"][0]["content"]
    assert (out.read_bytes(), len(server.requests)) == (before, asked)
    assert "3 answered; 0 failed; 2 done before" in batch(*command).error
    assert list_prompts(server, asked)[0] == first


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        ((), 65, "1 finished row asks something else now"),
        (("--on-change", "keep"), 0, "0 rows can be sent, 0 cannot; 3 done before"),
        (("--on-change", "redo"), 0, "1 row can be sent, 0 cannot; 2 done before"),
    ],
)
def test_a_dry_run_finds_what_has_changed(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, options: tuple[str, ...],
    status: int, words: str,
) -> None:  # fmt: skip
    """And says what the run says."""
    write_rows(source, make_rows(3))
    assert batch(str(source), "-o", str(out)).status == 0
    changed = make_rows(3)
    changed[1]["prompt"] = "something else"
    write_rows(source, changed)
    rehearsal = batch(str(source), "-o", str(out), *options, "--dry-run")
    assert rehearsal.status == status
    assert words in rehearsal.error
    assert len(server.requests) == 3
    assert len(read_rows(out)) == 3


def test_a_dry_run_refuses_an_output_of_others(batch: Kimi, source: Path, out: Path) -> None:
    """As the run does, and makes no file."""
    write_rows(source, make_rows(1))
    assert batch(str(source), "-o", str(out), "--dry-run").status == 0
    assert not out.exists()
    out.write_text('{"not": "ours"}\n')
    result = batch(str(source), "-o", str(out), "--dry-run")
    assert result.status == 65
    assert "not this tool's" in result.error


def test_lines_of_no_row_are_counted(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Once the input has lost rows; with a run that has nothing to do as with one that has."""
    write_rows(source, make_rows(5))
    command = (str(source), "-o", str(out))
    assert "no row" not in batch(*command).error
    write_rows(source, [*make_rows(7)[:3], make_rows(7)[6]])
    assert "2 output lines belong to no row of the input" in batch(*command, "--dry-run").error
    result = batch(*command)
    assert result.status == 0
    assert "2 output lines belong to no row of the input" in result.error
    assert len(list_ids(out)) == 6
    write_rows(source, make_rows(7))
    assert "no row" not in batch(*command).error
    assert "no row" not in batch(*command, "--shard", "0/2").error
    assert len(server.requests) == 7


def test_lines_of_no_row_are_in_the_summary(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Those of the output alone, also where --done-from says that its rows are done elsewhere."""
    earlier = out.with_name("earlier.jsonl")
    write_rows(source, make_rows(8))
    assert batch(str(source), "-o", str(earlier)).status == 0
    write_rows(source, make_rows(5))
    command = (str(source), "-o", str(out), "--summary", str(summary))
    assert batch(*command).status == 0
    assert json.loads(summary.read_text())["strays"] == 0
    write_rows(source, [*make_rows(10)[:3], *make_rows(10)[7:]])
    both = (*command, "--done-from", str(earlier))
    assert "2 output lines belong to no row of the input" in batch(*both, "--dry-run").error
    result = batch(*both)
    assert result.status == 0
    assert "2 output lines belong to no row of the input" in result.error
    shown = json.loads(summary.read_text())
    assert (shown["strays"], shown["rows"]["skipped"], shown["rows"]["answered"]) == (2, 4, 2)
    # Without an output there is none whose lines could be strange.
    result = batch(str(source), "--done-from", str(earlier), "--summary", str(summary))
    assert "no row" not in result.error
    assert json.loads(summary.read_text())["strays"] == 0


# What a row lacks


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (("-p", "{Text} {n}"), "--prompt: the row has no field 'Text'"),
        (("-p", "{text.0}"), "--prompt: the row has no field 'text.0'"),
        (("--id-field", "Id", "-p", "{text}"), "--id-field"),
        ((), "--prompt"),
    ],
)
def test_a_missing_field(
    batch: Kimi, source: Path, out: Path, options: tuple[str, ...], name: str
) -> None:
    """The error names the option that asks for it, and the fields that there are."""
    source.write_text('{"text": "hi", "note": 1}\n')
    result = batch(str(source), "-o", str(out), *options)
    assert result.status == 65
    assert name in result.error
    assert "it has: text, note" in result.error


@pytest.mark.parametrize(
    "template", ['{"a": {text}}', 'Answer as {"a": 1}: {text}', "{}: {text}", "{text", "a } b"]
)
def test_a_template_that_no_row_fits(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, template: str
) -> None:
    """Is one usage error, and not an error of each row; braces of JSON are told how to stay."""
    source.write_text('{"text": "hi"}\n' * 20)
    result = batch(str(source), "-o", str(out), "-p", template)
    assert result.status == 2
    assert "double" in result.error
    assert result.error.count("\n") == 1
    assert not out.exists()


def test_nulls_inside_a_body_are_absent(batch: Kimi, server: ReplayServer) -> None:
    """As those beside a prompt: the model of -m is asked."""
    body = {"model": None, "temperature": None, "messages": [{"role": "user", "content": "hi"}]}
    row = json.dumps({"custom_id": "a", "body": body}).encode()
    assert batch("-m", "wanted", stdin=row).status == 0
    assert server.requests[0].json["model"] == "wanted"
    assert "temperature" not in server.requests[0].json


def test_a_model_of_the_rows_own_is_told_of(batch: Kimi) -> None:
    """It beats the option, and may be a column of data."""
    result = batch("--dry-run", stdin=b'{"prompt": "hi", "model": "T-Ford", "wheels": 4}\n')
    assert "sent as fields of the request: model; kept beside the answers: wheels" in result.error


# Ids


@pytest.mark.parametrize("key", ["id", "custom_id"])
@pytest.mark.parametrize("value", [None, "", True, [1], {"a": 1}])
def test_an_id_that_is_none_is_told(
    batch: Kimi, source: Path, out: Path, key: str, value: object
) -> None:
    """With a count, by the run and by --dry-run; one that is not there at all is no matter."""
    write_rows(source, [{"prompt": "a", key: value}, {"prompt": "b", key: value}, {"prompt": "c"}])
    command = (str(source), "-o", str(out))
    words = "2 rows named by place"
    assert words in batch(*command, "--dry-run").error
    result = batch(*command)
    assert (result.status, words in result.error) == (0, True)
    assert sorted(list_ids(out)) == ["row-1", "row-2", "row-3"]


@pytest.mark.parametrize("options", [(), ("--id-field", "id")])
@pytest.mark.parametrize(
    ("value", "name"), [("1.0", "1.0"), ("7", "7"), ("1e5", "100000.0"), ('"x"', "x"), ("-0", "0")]
)
def test_a_number_is_an_id(
    batch: Kimi, source: Path, out: Path, options: tuple[str, ...], value: str, name: str
) -> None:
    """As it stands, by either way to name a row."""
    source.write_text(f'{{"prompt": "a", "id": {value}}}\n')
    result = batch(str(source), "-o", str(out), *options)
    assert (result.status, list_ids(out)) == (0, [name])
    assert "named by place" not in result.error


def test_a_wait_for_rows_is_told(batch: Kimi, server: ReplayServer) -> None:
    """F16: in a job, too, whose pipe nobody writes to; the rows are answered when they come."""
    run = batch.start(stdin="pipe")
    run.expect(b"waiting for rows on standard input", "stderr")
    run.write(b'"late"\n')
    run.end_input()
    result = run.wait()
    assert result.status == 0
    assert list_prompts(server) == ["late"]
    assert "waiting" not in batch(stdin=b'"soon"\n').error


def test_an_id_that_comes_twice_hides_no_line_of_another_row(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Lines of no row are counted by rows, however often the input names one."""
    write_rows(source, [{"id": name, "prompt": name} for name in ("a", "gone")])
    assert batch(str(source), "-o", str(out)).status == 0
    write_rows(source, [{"id": "a", "prompt": "a"}] * 2)
    result = batch(str(source), "-o", str(out))
    assert "1 output line belongs to no row of the input" in result.error
