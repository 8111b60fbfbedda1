"""kimi batch --on-change: rows that changed since they were answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rows
from outputs import read_answers, select_lines, write_output
from program import Kimi
from rows import (
    REFUSED,
    answer_but,
    echo,
    get_prompt,
    list_ids,
    list_prompts,
    make_rows,
    read_rows,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, completion, refusal

from kimi_cli.batch.records import Shape, make_record

batch = rows.echoing


# --on-change


def test_changed_rows_are_named(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """A row with another model, system prompt or parameter is refused, each by itself."""
    rows = make_rows(4)
    out = write_output(tmp_path / "out.jsonl", rows)
    before = out.read_bytes()
    rows[0]["model"] = "kimi-k3"
    rows[1]["system"] = "be brief"
    rows[2]["temperature"] = 0.5
    rows[3]["gold"] = "is not sent, so it is no change"
    source = write_rows(tmp_path / "in.jsonl", rows)
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "3 finished rows ask something else now (r0, r1, r2)" in result.error
    assert out.read_bytes() == before
    assert not server.requests


def test_changed_options_change_the_rows(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Another model, system prompt, parameter or template is refused; or kept; or redone."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2))
    before = out.read_bytes()
    command: tuple[str, ...] = (str(source), "-o", str(out), "-p", "is {prompt} good?")
    assert batch(*command).status == 65
    command += ("-m", "kimi-k3", "-s", "be brief", "--temperature", "0.5")
    assert batch(*command, "--on-change", "keep").status == 0
    assert out.read_bytes() == before
    assert not server.requests
    assert batch(*command, "--on-change", "redo").status == 0
    assert list_prompts(server) == ["is p0 good?", "is p1 good?"]
    asked = server.requests[0].json
    assert (asked["model"], asked["temperature"]) == ("kimi-k3", 0.5)
    assert asked["messages"][0] == {"role": "system", "content": "be brief"}
    assert sorted(list_ids(out)) == ["r0", "r1"]
    assert set(read_answers(out).values()) == {"re: is p0 good?", "re: is p1 good?"}


@pytest.mark.parametrize(
    "shape",
    [
        Shape({"model": "kimi-k3"}),
        Shape({"model": "kimi-k2.5", "temperature": 0}),
        Shape({"model": "kimi-k2.5"}, system="be brief"),
        Shape({"model": "kimi-k2.5"}, template="{prompt}!"),
        Shape({"model": "kimi-k2.5"}, id_field="prompt"),
    ],
)
def test_each_option_changes_the_key(shape: Shape) -> None:
    """One of them is enough to make another request of the same row."""
    row = make_rows(1)[0]
    assert make_record(1, row, shape).key != make_record(1, row, Shape({"model": "kimi-k2.5"})).key


def test_redo_asks_again_only_what_changed(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """The lines of the other rows stay byte for byte, and rows that are gone keep theirs."""
    rows = make_rows(4)
    out = write_output(tmp_path / "out.jsonl", rows)
    good = select_lines(out.read_bytes(), {"r0", "r2", "r3"})
    changed = [{**rows[1], "prompt": "changed"}, rows[2], rows[0]]
    source = write_rows(tmp_path / "in.jsonl", changed)
    assert batch(str(source), "-o", str(out), "--on-change", "redo").status == 0
    assert list_prompts(server) == ["changed"]
    assert out.read_bytes().startswith(good)
    assert list_ids(out) == ["r0", "r2", "r3", "r1"]


def test_redo_works_on_standard_input(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Whatever can be read only once is not read to its end before the run."""
    rows = make_rows(2)
    out = write_output(tmp_path / "out.jsonl", rows)
    rows[1]["prompt"] = "changed"
    text = "".join(json.dumps(row) + "\n" for row in rows)
    result = batch("-o", str(out), "--on-change", "redo", stdin=text.encode())
    assert result.status != 0 or list_prompts(server) == ["changed"]
    assert sorted(list_ids(out)) == ["r0", "r1"]


def test_redo_of_a_wrong_file_drops_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Ten bad rows at the start are noticed before the output is touched."""
    out = write_output(tmp_path / "out.jsonl", [f"p{number}" for number in range(12)])
    before = out.read_bytes()
    notes = tmp_path / "notes.txt"
    notes.write_text("just text\n" * 12)
    assert batch(str(notes), "-o", str(out), "--on-change", "redo").status == 65
    assert not server.requests
    assert out.read_bytes() == before


def test_a_changed_row_without_an_id_is_refused(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Its id is its place, and what is done there may not be replaced unless it is said."""
    out = write_output(tmp_path / "out.jsonl", ["one", "two"])
    before = out.read_bytes()
    source = write_rows(tmp_path / "in.jsonl", ["zero", "one", "two"])
    result = batch(str(source), "-o", str(out))
    assert result.status == 65
    assert "1 finished row asks something else now (row-1)" in result.error
    assert not server.requests
    assert out.read_bytes() == before


def test_redo_knows_rows_without_ids_by_what_they_ask(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """An answer that is still wanted is not bought twice because its row has moved."""
    out = write_output(tmp_path / "out.jsonl", ["one", "two"])
    before = out.read_bytes()
    source = write_rows(tmp_path / "in.jsonl", ["zero", "one", "two"])
    assert batch(str(source), "-o", str(out), "--on-change", "redo").status == 0
    assert list_prompts(server) == ["zero"]
    assert out.read_bytes().startswith(before)


@pytest.mark.parametrize("kind", ["cut", "refused"])
def test_what_is_kept_keeps_its_flaw(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """An old line that is no whole answer is status 4 with --on-change keep as well."""
    rows = make_rows(2)
    answer_but(server, p0=completion("half", finish="length") if kind == "cut" else REFUSED)
    write_rows(source, rows)
    assert batch(str(source), "-o", str(out)).status == 4
    rows[0]["prompt"] = "changed"
    data = write_rows(source, rows).read_bytes()
    result = batch("-o", str(out), "--on-change", "keep", stdin=data)
    assert result.status == 4
    assert len(server.requests) == 2


def test_kept_rows_keep_their_places(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--ordered sorts them by where their rows are now."""
    rows = make_rows(3)
    write_rows(source, rows)
    assert batch(str(source), "-o", str(out), "--ordered").status == 0
    rows[0]["prompt"] = "changed"
    write_rows(source, [rows[1], rows[0], rows[2]])
    assert batch(str(source), "-o", str(out), "--ordered", "--on-change", "keep").status == 0
    assert list_ids(out) == ["r1", "r0", "r2"]
    assert len(server.requests) == 3


REDONE: dict[str, tuple[list[Any], list[Any], tuple[str, ...], list[str]]] = {
    "moved": (["x", "x", "y"], ["x", "w", "x", "y"], (), ["w"]),
    "in front": (["a", "b", "c"], ["z", "a", "b", "c"], (), ["z"]),
    "same id": (
        [{"id": "a", "prompt": prompt} for prompt in ("1", "1", "2")],
        [{"id": "a", "prompt": prompt} for prompt in ("1", "1", "3")],
        ("--allow-duplicate-ids",),
        ["3"],
    ),
}


@pytest.mark.parametrize("kind", REDONE)
def test_redo_buys_only_what_is_not_there(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """Equal rows have their answers; a row without an id takes no other's name."""
    before, after, options, bought = REDONE[kind]
    command = (str(source), "-o", str(out), *options)
    write_rows(source, before)
    assert batch(*command).status == 0
    write_rows(source, after)
    assert batch(*command, "--on-change", "redo").status == 0
    assert list_prompts(server, len(before)) == bought
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in read_rows(out)]
    asked = [row if isinstance(row, str) else row["prompt"] for row in after]
    assert sorted(said) == sorted(f"re: {prompt}" for prompt in asked)
    if not options:
        assert len(set(list_ids(out))) == len(after)
    assert batch(*command).status == 0
    assert len(server.requests) == len(before) + len(bought)


# Changed and mended rows


def test_another_model_is_noticed_before_it_costs(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Finished rows that ask something else hold back the rows behind them: 65, no request."""
    write_rows(source, make_rows(8))
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1")
    assert batch(*command, "--max-rows", "3").status == 75
    before = out.read_bytes()
    result = batch(*command, "-m", "kimi-k3")
    assert result.status == 65
    assert "3 finished rows ask something else now (r0, r1, r2); 8 rows not sent" in result.error
    assert out.read_bytes() == before
    assert len(server.requests) == 3


def test_rows_behind_a_changed_one_are_held_back(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Those before it are sent as they are; neither it nor those behind it are."""
    rows = make_rows(6)
    write_rows(source, rows[3:4])
    server.answer(echo)
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 0
    rows[3]["prompt"] = "changed"
    write_rows(source, rows)
    assert batch(*command).status == 65
    assert list_prompts(server, 1) == ["p0", "p1", "p2"]
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]


GOOD = '{"custom_id":"r1","prompt":"mended"}'
MENDED = {
    "refused": (GOOD.replace("mended", "bad"), GOOD),
    "torn": ('{"prompt":"mended"', '{"prompt":"mended"}'),
    "torn, with an id": (GOOD[:-2], GOOD),
}


def answer_bad(request: ReceivedRequest) -> Reply:
    """Refuse one prompt."""
    bad = refusal(400, "bad_request", "too long")
    return bad if get_prompt(request) == "bad" else echo(request)


@pytest.mark.parametrize("kind", MENDED)
def test_a_mended_row_is_asked_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """The same command asks it, and its answer takes the place of the error."""
    bad, good = MENDED[kind]
    others = '"first"\n{}\n"last"\n'
    server.answer(answer_bad)
    source.write_text(others.format(bad))
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 4
    asked = len(server.requests)
    source.write_text(others.format(good))
    assert batch(*command).status == 0
    assert list_prompts(server, asked) == ["mended"]
    name = json.loads(good).get("custom_id", "row-2")
    assert sorted(list_ids(out)) == sorted(["row-1", name, "row-3"])
    assert not any(row["error"] for row in read_rows(out))


def test_a_mended_row_on_a_pipe_is_refused(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """An input that cannot be read twice is not compared with its errors: 65, nothing sent."""
    server.answer(answer_bad)
    rows = [b'"first"\n"bad"\n', b'"first"\n"mended"\n']
    assert batch("-o", str(out), stdin=rows[0]).status == 4
    before = out.read_bytes()
    assert batch("-o", str(out), stdin=rows[1]).status == 65
    assert out.read_bytes() == before
    assert len(server.requests) == 2
