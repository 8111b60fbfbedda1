"""The ledger of a batch: torn lines, files that are not ours, and what is done."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import rows
from hypothesis import given
from hypothesis import strategies as st
from outputs import FORMATS, make_hosted, make_lines, read_answers, write_output
from program import Kimi
from rows import list_ids, list_prompts, make_rows, write_rows
from server import ReplayServer

from kimi_cli.batch.done import HashSet
from kimi_cli.batch.ledger import Ledger
from kimi_cli.errors import BadInput

batch = rows.echoing


# The memory of what is done


HASHES = st.binary(min_size=4, max_size=4)


@given(st.lists(HASHES), st.lists(HASHES))
def test_a_set_of_hashes_is_a_set(added: list[bytes], asked: list[bytes]) -> None:
    """Whatever lies beside it in its bucket, a hash is found if and only if it was added."""
    hashes, truth = HashSet(4), set[bytes]()
    for item in added:
        assert hashes.add(item) is (item not in truth)
        truth.add(item)
    assert len(hashes) == len(truth)
    assert all((item in hashes) is (item in truth) for item in [*added, *asked])


@given(st.lists(HASHES), st.lists(HASHES))
def test_sets_are_merged(one: list[bytes], other: list[bytes]) -> None:
    """Every hash of both is in the result, once."""
    left, right = HashSet(4), HashSet(4)
    for hashes, items in ((left, one), (right, other)):
        for item in items:
            hashes.add(item)
    left.merge(right)
    assert len(left) == len({*one, *other})
    assert all(item in left for item in [*one, *other])


def test_it_is_small() -> None:
    """A hundred thousand keys take a few bytes each beyond their own sixteen."""

    def make(numbers: Iterable[int]) -> HashSet:
        hashes = HashSet(16)
        for number in numbers:
            hashes.add(hashlib.blake2b(str(number).encode(), digest_size=16).digest())
        return hashes

    tracemalloc.start()
    hashes = make(range(100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(hashes) == 100_000
    assert size < 8_000_000


# Torn lines and power cuts


def test_every_tear_and_power_cut_is_mended(tmp_path: Path) -> None:
    """Whatever a crash left of the last line, zeros or nothing, the lines before it stay."""
    for style in FORMATS:
        lines = make_lines([*make_rows(2), {"custom_id": 'ü"\\', "prompt": "\u2028"}], style)
        kept, last = b"".join(lines[:2]), lines[2]
        out = tmp_path / "out.jsonl"
        for cut in range(len(last) + 1):
            for zeros in (0, len(last) - cut, 5000) if style == "batch" else (len(last) - cut,):
                out.write_bytes(kept + last[:cut] + b"\0" * zeros)
                with Ledger(out, sync="never") as ledger:
                    whole = cut >= len(last) - 1
                    assert len(ledger.done) == (3 if whole else 2), (style, cut, zeros)
                    ledger.append(b"")
                assert out.read_bytes() == (kept + last if whole else kept), (style, cut, zeros)


def test_a_long_power_cut_is_mended(tmp_path: Path) -> None:
    """Zeros may be many blocks; a file of nothing else is empty."""
    out, line = tmp_path / "out.jsonl", make_lines(make_rows(1))[0]
    for text, left in ((line, line), (line + line[:9], line), (b"", b"")):
        out.write_bytes(text + b"\0" * (3 * 2**20 + 7))
        with Ledger(out, sync="never") as ledger:
            assert len(ledger.done) == bool(left)
        assert out.read_bytes() == left


def test_a_power_cut_costs_one_row(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """The row of the zeros is asked again; a whole line is completed and asks for nothing."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    first, last = make_lines(make_rows(2))
    outs = {cut: tmp_path / f"{cut}.jsonl" for cut in (0, 20, len(last) - 2, len(last) - 1)}
    runs = []
    for cut, out in outs.items():
        out.write_bytes(first + last[:cut] + b"\0" * 4096)
        runs.append(batch.start(str(source), "-o", str(out)))
    assert [run.wait().status for run in runs] == [0] * 4
    assert list_prompts(server) == ["p1"] * 3
    for cut, out in outs.items():
        assert out.read_bytes().startswith(first)
        assert b"\0" not in out.read_bytes()
        expected = "bought before" if cut == len(last) - 1 else "re: p1"
        assert read_answers(out) == {"r0": "bought before", "r1": expected}
        assert list_ids(out) == ["r0", "r1"]


def test_a_whole_line_needs_only_its_line_feed(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """It is complete JSON, so it is kept and not bought again, also by --retry-failed."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2))
    before = out.read_bytes()
    out.write_bytes(before.removesuffix(b"\n"))
    assert batch(str(source), "-o", str(out), "--retry-failed", "all").status == 0
    assert out.read_bytes() == before
    assert not server.requests


# What is left alone


@pytest.mark.parametrize("way", ["symbolic link", "hard link", "standard input"])
def test_the_input_is_no_output(
    batch: Kimi, server: ReplayServer, tmp_path: Path, way: str
) -> None:
    """By whatever name: 65, no request, not a byte changed, also with options that rewrite."""
    source, out = write_output(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "out.jsonl"
    before = source.read_bytes()
    files: tuple[str, ...] = (str(source),)
    if way == "symbolic link":
        out.symlink_to(source)
    elif way == "hard link":
        out.hardlink_to(source)
    else:
        files, out = (), source
    options = ("--ordered", "--retry-failed", "all", "-o", str(out))
    with source.open("rb") as file:
        result = batch(*files, *options, stdin=file)
    assert result.status == 65
    assert f"{out} is the input" in result.error
    assert source.read_bytes() == before
    assert not server.requests


FOREIGN = [
    json.dumps(make_hosted("r0")) + "\n",
    json.dumps(make_hosted("r0")),
    '{"custom_id": "r0", "prompt": "p0"}\n',
    '{"custom_id":"r0","prompt":"p0"}\n{"custom_id":"r1","prompt":"p1"}',
    '"an answer"\n',
    "null",
    make_lines(make_rows(1))[0].decode().replace('"r0"', r'"\q"'),
    '{"custom_id":"r0","prompt":"p0"}',
    '{"custom_id":"r0","response":{"status_code":200,"body":{"kimi":{"key":"x"}}}}',
]


@pytest.mark.parametrize("text", FOREIGN)
def test_lines_of_another_tool_are_left_alone(tmp_path: Path, text: str) -> None:
    """JSON Lines that are not ours are no output to go on with: refused and untouched."""
    out = tmp_path / "out.jsonl"
    out.write_text(text)
    with suppress(BadInput), Ledger(out):
        pass
    assert out.read_text() == text
    with pytest.raises(BadInput, match="name another file with -o"):
        Ledger(out)


@pytest.mark.parametrize("option", ["--retry-failed=all", "--on-change=redo"])
def test_no_option_makes_another_file_ours(
    batch: Kimi, server: ReplayServer, tmp_path: Path, option: str
) -> None:
    """The output of a hosted batch, named as ours: exit 65, no request, not a byte changed."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    broken = make_hosted("r1", response=None, error={"code": "x"})
    out = write_rows(tmp_path / "out.jsonl", [make_hosted("r0"), broken])
    before = out.read_bytes()
    result = batch(str(source), "-o", str(out), option)
    assert result.status == 65
    assert f"{out} has 2 lines that are not this tool's" in result.error
    assert out.read_bytes() == before
    assert not server.requests


def test_one_foreign_line_is_enough(tmp_path: Path) -> None:
    """Wherever it stands among ours, and however ours ends, nothing is cut or added."""
    ours, out = make_lines(make_rows(2)), tmp_path / "out.jsonl"
    for tail in (b"", b"\0" * 9, b'{"custom'):
        for place in range(3):
            lines = [*ours[:place], b"my note\n", *ours[place:]]
            out.write_bytes(b"".join(lines) + tail)
            before = out.read_bytes()
            with pytest.raises(BadInput, match="has a line that is not"):
                Ledger(out)
            assert out.read_bytes() == before


@pytest.mark.parametrize("first", FORMATS)
def test_the_format_may_change_between_runs(
    batch: Kimi, server: ReplayServer, tmp_path: Path, first: str
) -> None:
    """Old lines stay as they were, and count, which is told; only text cannot go on with them."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    before = b""
    for count, style in enumerate(sorted(FORMATS, key=first.__ne__), 1):
        write_rows(source, make_rows(count))
        result = batch(str(source), "-o", str(out), "--format", style)
        assert result.status == 0
        told = f"kimi: {out} has lines of --format {first}; they stay as they are\n"
        assert result.error.startswith(told) == (style != first)
        assert out.read_bytes().startswith(before)
        before = out.read_bytes()
    assert list_ids(out) == ["r0", "r1", "r2"]
    assert b'"response":{' in before
    assert b',"content":"re: p' in before
    assert b',"kimi_response":{"content":"re: p' in before
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert batch(str(source), "-o", str(out), "--format", "text").status == 73
    assert out.read_bytes() == before


@pytest.mark.parametrize("rest", [b"}", b',"row":1}}', b"garbage", b'},"x":1}', b'},"a":nul}'])
def test_a_line_without_its_answer_goes_on(
    batch: Kimi, server: ReplayServer, tmp_path: Path, rest: bytes
) -> None:
    """Whatever somebody did to what stands behind the key: the row is done."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "out.jsonl"
    assert batch(str(source), "-o", str(out), "--max-rows", "1", "-c", "1").status == 75
    head = out.read_bytes().partition(b',"row"')[0]
    out.write_bytes(head + rest + b"\n")
    result = batch(str(source), "-o", str(out))
    assert (result.status, result.error.count("\n")) == (0, 1)
    assert out.read_bytes().startswith(head + rest + b"\n")
    assert list_prompts(server) == ["p0", "p1"]


def test_the_input_has_answered_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--done-from with a pattern that matches it, too, and lines without an answer."""
    write_rows(source, make_rows(4))
    hosted = {"custom_id": "r0", "response": {"status_code": 200, "body": {}}, "error": None}
    lines: list[Any] = [
        hosted,
        {"custom_id": "r1", "response": None, "error": None},
        {"custom_id": "r2", "response": {"status_code": 429}, "error": None},
        {"custom_id": "r3", "prompt": "x"},
    ]
    write_rows(source.with_name("hosted.jsonl"), lines)
    pattern = str(source.with_name("*.jsonl"))
    result = batch(str(source), "-o", str(out), "--done-from", pattern)
    assert result.status == 0
    assert f"--done-from: {source} is the input, and is left out" in result.error
    assert list_prompts(server) == ["p1", "p2", "p3"]
