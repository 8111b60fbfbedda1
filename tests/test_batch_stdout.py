"""kimi batch: results on standard output, in pipes and on terminals."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from program import Kimi
from rows import NO_MODEL, SILENT, echo, make_rows, write_input, write_rows
from server import ReplayServer, completion

# Standard output


@pytest.mark.parametrize("way", ["named", "standard input"])
def test_standard_output_is_not_the_input(
    batch: Kimi, server: ReplayServer, source: Path, way: str
) -> None:
    """A file that is read and added to would never end: 65 before any request."""
    write_rows(source, make_rows(2))
    before = source.read_bytes()
    names = source if way == "named" else f"< {source}"
    result = batch.shell(f"exec kimi batch --base-url {server.url} {names} >> {source}").wait()
    assert result.status == 65
    assert "standard output is the input" in result.error
    assert source.read_bytes() == before
    assert not server.requests


def test_a_dash_is_standard_output(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """-o - is the same as no -o, and no file of that name is made."""
    write_rows(source, make_rows(1))
    server.answer(echo)
    result = batch(str(source), "-o", "-", cwd=source.parent)
    assert result.status == 0
    assert json.loads(result.stdout)["custom_id"] == "r0"
    assert list(source.parent.glob("-*")) == []


@pytest.mark.parametrize(
    "value", ["retry-failed=all", "on-change=redo", "on-error=defer", "fsync=always"]
)
def test_what_needs_an_output_file_says_so(
    batch: Kimi, server: ReplayServer, source: Path, value: str
) -> None:
    """An option that only means something with -o is refused without it, and with -o -: 2."""
    write_rows(source, make_rows(1))
    for output in ((), ("-o", "-")):
        result = batch(str(source), f"--{value}", *output)
        assert result.status == 2
        assert f"--{value.partition('=')[0]}" in result.error
    assert not server.requests


def test_an_output_that_is_a_folder(
    batch: Kimi, server: ReplayServer, source: Path, tmp_path: Path
) -> None:
    """A folder, or a file in one that is missing, is exit 73 with its name, before any request."""
    write_rows(source, make_rows(1))
    for place in (tmp_path, tmp_path / "no" / "out.jsonl"):
        result = batch(str(source), "-o", str(place))
        assert result.status == 73
        assert str(place) in result.error
    assert not server.requests


@pytest.mark.parametrize("options", [(), ("--ordered",)])
def test_a_reader_that_left_is_noticed(
    batch: Kimi, server: ReplayServer, source: Path, options: tuple[str, ...]
) -> None:
    """Death by SIGPIPE, without another request, even while the one in flight stalls."""
    write_input(source, 50)
    server.script(completion("first"))
    server.answer(lambda request: SILENT)
    reader, writer = os.pipe()
    with open(reader, "rb") as ours:
        with open(writer, "wb") as theirs:
            run = batch.start(str(source), "-c", "1", *options, stdout=theirs)
        assert json.loads(ours.readline())["custom_id"] == "r0"
        server.await_requests(2)
    result = run.wait(timeout=10)
    assert result.status == -signal.SIGPIPE
    assert result.stderr == b""
    assert len(server.requests) == 2


def test_who_waits_for_a_line_gets_it(batch: Kimi, server: ReplayServer) -> None:
    """A program that writes a row when it has read the line before it is not kept waiting."""
    server.answer(lambda request: NO_MODEL)
    run = batch.start("--format", "flat", stdin="pipe")
    for number in (1, 2):
        run.write(b'"question"\n')
        line = json.loads(run.expect(b"\n", "stdout"))
        assert line["custom_id"] == f"row-{number}"
        assert "no such model" in line["error"]["message"]
    run.end_input()
    assert run.wait().status == 4


# Terminals


def test_nothing_to_read_on_a_terminal(batch: Kimi, server: ReplayServer) -> None:
    """Without a FILE nobody is made to type JSON: 2, with what to do."""
    result = batch.pty().wait()
    assert result.status == 2
    assert b"there is no input; name a FILE, or pipe prompts in" in result.stderr


def test_answers_are_harmless_on_a_terminal(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """Control characters do nothing there; a pipe gets them as they are."""
    write_rows(source, make_rows(1))
    server.answer(lambda request: completion("red \x9b31m \x1b]0;title\x07 and \u202eback"))
    shown = batch.pty(str(source), "-q", "--format", "text").wait().stdout.decode()
    assert "red" in shown
    assert not any(letter in shown for letter in "\x9b\x1b\x07\u202e")
    piped = batch(str(source), "-q", "--format", "text").stdout.decode()
    assert json.loads(piped) == "red \x9b31m \x1b]0;title\x07 and \u202eback"
