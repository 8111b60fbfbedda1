"""Any table: JSON arrays, CSV of any delimiter, packed input, and prompts in other shapes."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import rows
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st
from program import Kimi
from rows import list_prompts, read_rows
from server import ReplayServer

from kimi_cli.batch.arrays import read_array
from kimi_cli.batch.readers import load_row
from kimi_cli.batch.records import RecordError
from kimi_cli.errors import BadInput

batch = rows.echoing


# Arrays


def read(data: bytes, longest: int = 2**20) -> list[Any]:
    """All rows of an array."""
    return list(read_array(io.BytesIO(data), longest, lambda line, size: None, load_row))


TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=6,
)


@settings(max_examples=50)
@given(st.lists(TREES, max_size=6), st.sampled_from([None, 1, "\t"]), st.booleans())
def test_every_array_is_read(values: list[Any], indent: Any, escaped: bool) -> None:
    """In any layout, as a parser of the whole reads it."""
    text = json.dumps(values, indent=indent, ensure_ascii=escaped)
    try:
        data = text.encode()
    except UnicodeEncodeError:
        data = json.dumps(values).encode()
    assert read(b" \n" + data + b"\n") == values


@pytest.mark.parametrize("size", [2**16 - 3, 2**16, 2**17 + 1])
def test_rows_beyond_a_block(size: int) -> None:
    """A row of any size, brackets and quotes in it, and many small ones before it."""
    values = [{"a": number} for number in range(3000)] + ['x\\"]},{[' * (size // 8), "last"]
    assert read(json.dumps(values).encode()) == values


def test_an_error_in_a_row_is_its_own() -> None:
    """The others are read."""
    values = read(b'["a", nonsense, {"b" 1}, "c", ]')
    assert [v if isinstance(v, str) else type(v) for v in values] == [
        "a",
        RecordError,
        RecordError,
        "c",
        RecordError,
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "this is empty"),
        (b" \n", "this is empty"),
        (b'{"prompt": "a"}', "no JSON array"),
        (b'{"prompt": "a"}\n{"prompt": "b"}\n', "jq -c ."),
        (b'["a", {"b": "c"', "cut in its row 2"),
        (b'["a", "b', "cut in its row 2"),
        (b'["a"', "cut in its row 1"),
        (b'["a"}', "breaks in row 1"),
        (b'["a"]\n["b"]', "something follows"),
        (b'["a", "' + b"x" * 2**20 + b'"]', "row 2 is too long"),
    ],
)
def test_what_is_no_array_is_named(data: bytes, said: str) -> None:
    """And where it breaks."""
    with pytest.raises(BadInput, match=said.replace(".", "[.]")):
        read(data, longest=2**17)


def test_an_array_of_another_encoding(batch: Kimi, server: ReplayServer) -> None:
    """Is decoded as other input is, and bytes of none are told."""
    data = '["café"]'.encode("utf-16")
    assert batch("-q", "--from", "json", "--encoding", "utf-16", stdin=data).status == 0
    assert list_prompts(server) == ["café"]
    wrong = batch("-q", "--from", "json", stdin='["café"]'.encode("latin-1"))
    assert (wrong.status, "--encoding" in wrong.error) == (65, True)


def test_an_array_knows_its_rows_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Long numbers are ids with all their digits; a line's rows are an array's rows."""
    source.write_text('[{"id": 12345678901234567890, "prompt": "a"}]')
    assert batch(str(source), "--from", "json", "-o", str(out)).status == 0
    source.write_text('{"id": 12345678901234567890, "prompt": "a"}\n')
    assert batch(str(source), "-o", str(out)).status == 0
    assert len(server.requests) == 1
    assert read_rows(out)[0]["custom_id"] == "12345678901234567890"


# Tables


@pytest.mark.parametrize(
    ("spelling", "sign"), [(";", ";"), ("\\t", "\t"), ("tab", "\t"), ("§", "§")]
)
def test_a_delimiter_of_ones_own(
    batch: Kimi, server: ReplayServer, spelling: str, sign: str
) -> None:
    """It makes the input CSV, quotes included."""
    text = io.StringIO()
    csv.writer(text, delimiter=sign).writerows([["id", "prompt"], ["1", f'say "{sign}"']])
    for kind in ((), ("--csv",), ("--from", "csv")):
        result = batch("-q", *kind, "--delimiter", spelling, stdin=text.getvalue().encode())
        assert result.status == 0, result.error
    assert list_prompts(server) == [f'say "{sign}"'] * 3


@pytest.mark.parametrize(
    "options",
    [("--lines",), ("--tsv",), ("--from", "json"), ("--from", "jsonl")],
)
def test_a_delimiter_is_of_csv(batch: Kimi, options: tuple[str, ...]) -> None:
    """What has no cells has none; a tab is TSV's."""
    result = batch("-q", "--delimiter", ";", *options, stdin=b"x\n")
    assert (result.status, result.error.count("\n")) == (2, 1)


@pytest.mark.parametrize("sign", ["", ";;", '"', "\n"])
def test_a_delimiter_is_one_character(batch: Kimi, sign: str) -> None:
    """That can part cells."""
    assert batch("-q", "--delimiter", sign, stdin=b"x\n").status == 2


def test_columns_without_a_name_are_left_out(batch: Kimi, server: ReplayServer, out: Path) -> None:
    """However many; two of one name are none of these."""
    table = b",prompt, ,note,\n0,hi,1,kept,2\n"
    assert batch("-q", "--csv", "-o", str(out), stdin=table).status == 0
    line = read_rows(out)[0]
    assert line["note"] == "kept"
    assert "" not in line
    assert " " not in line
    assert list_prompts(server) == ["hi"]
    assert batch("-q", "--csv", stdin=b",a,a\n0,1,2\n").status == 65


# Packed


def pack(kind: str, data: bytes) -> bytes:
    """The same, packed."""
    return gzip.compress(data) if kind == "gzip" else zstd.compress(data)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("jsonl", '"a"\n"b"\n'),
        ("lines", "a\nb\n"),
        ("csv", "prompt\na\nb\n"),
        ("json", '["a","b"]'),
    ],
)
def test_packed_input(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str, form: str, text: str
) -> None:
    """Of any form, as a file of any name and in a pipe; several packs are one input."""
    data = pack(kind, text.encode())
    source.write_bytes(data)
    assert batch("-q", "--from", form, stdin=data).status == 0
    assert batch("-q", "--from", form, str(source), "-o", str(out)).status == 0
    assert sorted(list_prompts(server)) == ["a", "a", "b", "b"]
    assert batch("-q", "--from", form, str(source), "-o", str(out)).status == 0
    assert len(server.requests) == 4
    if form == "lines":
        assert batch("-q", "--lines", stdin=data + pack(kind, b"c\n")).status == 0
        assert "c" in list_prompts(server)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("hurt", ["cut", "damaged"])
def test_a_pack_that_is_hurt(
    batch: Kimi, server: ReplayServer, source: Path, kind: str, hurt: str
) -> None:
    """Ends the run with a word of why."""
    data = bytearray(pack(kind, "".join(f"{n * n}\n" for n in range(5000)).encode()))
    if hurt == "cut":
        del data[len(data) // 2 :]
    else:
        data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    source.write_bytes(data)
    result = batch("-q", "--lines", "--dry-run", str(source))
    assert result.status == 65
    assert f"its {kind} is" in result.error
    assert result.error.count("\n") == 1


def test_what_is_packed_may_be_no_text(batch: Kimi, source: Path) -> None:
    """Such as an archive."""
    source.write_bytes(gzip.compress(gzip.compress(b'"a"\n')))
    result = batch("-q", str(source))
    assert (result.status, "this is gzip" in result.error) == (65, True)


def test_zstd_without_its_extra(batch: Kimi, source: Path, tmp_path: Path) -> None:
    """The message has both ways out."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('backports.zstd', 'compression.zstd'): sys.modules[name] = None\n"
    )
    source.write_bytes(zstd.compress(b'"a"\n'))
    result = batch.but(env={"PYTHONPATH": str(tmp_path)})("-q", str(source))
    assert result.status == 65
    assert "zstd -dc FILE | kimi batch" in result.error
    assert "backports.zstd" in result.error


# Shapes


def test_a_prompt_of_messages_or_parts(batch: Kimi, server: ReplayServer) -> None:
    """Is what it says; anything else is the row's error."""
    messages = [{"role": "user", "content": "hi"}]
    parts = [{"type": "text", "text": "hi"}]
    odd: list[Any] = [[], ["hi"], [{"x": 1}], 5, {"role": "user"}]
    data = [{"prompt": prompt, "system": "s"} for prompt in (messages, parts, *odd)]
    text = "".join(json.dumps(row) + "\n" for row in data)
    result = batch("-q", "-c", "1", stdin=text.encode())
    assert result.status == 4
    system = {"role": "system", "content": "s"}
    assert [request.json["messages"] for request in server.requests] == [
        [system, *messages],
        [system, {"role": "user", "content": parts}],
    ]
    assert result.stdout.count(b"must be a string, messages or content parts") == len(odd)


@pytest.mark.parametrize(
    "text",
    [
        '{"prompt": "a",\n"id": 1}\n',
        '{"prompt": "a", "more": [\n1]}\n{"prompt": "b", "more": [\n1]}\n',
        '{\n"prompt": "a"\n}\n',
    ],
)
def test_json_over_several_lines_is_named(batch: Kimi, text: str) -> None:
    """Wherever the first line breaks."""
    result = batch("-q", stdin=text.encode())
    assert result.status == 65
    assert "JSON over several lines" in result.error


def test_several_values_in_a_line_are_named(batch: Kimi, server: ReplayServer) -> None:
    """As programs write that put no line ends between them."""
    result = batch("-q", stdin=b'{"prompt": "a"}{"prompt": "b"}')
    assert result.status == 65
    assert "several values" in result.error
    assert not server.requests
