"""Input that is no text, and names of files that are words: said before anything is sent."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import json
import lzma
import os
import sqlite3
import zipfile
from pathlib import Path

import pytest
from program import Kimi
from server import ReplayServer, completion

from kimi_cli.prompt.kinds import find_kind

ROWS = b'{"prompt": "one"}\n' * 3


def make_database(folder: Path) -> bytes:
    """A real SQLite file."""
    path = folder / "made.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("create table rows (prompt text)")
    return path.read_bytes()


def make_archive(*names: str, stored: str = "") -> bytes:
    """A real archive of files with these names, of which the first may hold what is *stored*."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            plain = zipfile.ZIP_STORED if stored and name == names[0] else None
            archive.writestr(name, stored or "<xml>" * 40, plain)
    return made.getvalue()


OFFICE = "[Content_Types].xml"
OPEN = "application/vnd.oasis.opendocument."
KINDS = {
    "gzip": gzip.compress(ROWS),
    "zstd": b"\x28\xb5\x2f\xfd\x24\x12" + ROWS,
    "xz": lzma.compress(ROWS),
    "bzip2": bz2.compress(ROWS),
    "a zip archive": make_archive("notes.txt", "more/words.txt"),
    "a Word document (docx)": make_archive(OFFICE, "_rels/.rels", "word/document.xml"),
    "an Excel sheet (xlsx)": make_archive("docProps/app.xml", "xl/workbook.xml"),
    "a PowerPoint file (pptx)": make_archive(OFFICE, "ppt/presentation.xml"),
    "a spreadsheet (ods)": make_archive("mimetype", stored=f"{OPEN}spreadsheet"),
    "an OpenDocument file": make_archive("mimetype", stored=f"{OPEN}text"),
    "an EPUB book": make_archive("mimetype", stored="application/epub+zip"),
    "an old Office file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100),
    "Parquet": b"PAR1\x15\x04\x15\x20" + ROWS,
    "an SQLite database": None,
}
HELP = {
    "gzip": "gzip -dc 'my notes' | kimi ask",
    "a zip archive": "unzip -p 'my notes' NAME | kimi ask",
    "a Word document (docx)": "pandoc -t plain 'my notes' | kimi ask",
    "an Excel sheet (xlsx)": "CSV",
    "an SQLite database": "kimi-batch(1)",
}


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("gzip", "zstd")])
@pytest.mark.parametrize("form", ["jsonl", "lines", "csv"])
def test_batch_names_what_is_no_text(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str, form: str
) -> None:
    """However few lines it has, as a file and in a pipe; nothing is written."""
    data = KINDS[kind] or make_database(source.parent)
    source.write_bytes(data)
    for result in (
        batch("-q", "--from", form, str(source), "-o", str(out)),
        batch("-q", "--from", form, stdin=data),
    ):
        assert (result.status, result.stdout) == (65, b""), result.error
        assert f"this is {kind}" in result.error
        assert result.error.count("\n") == 1
    assert not out.exists() or not out.read_bytes()
    assert not server.requests


@pytest.mark.parametrize("kind", KINDS)
def test_ask_names_what_is_no_text(
    ask: Kimi, server: ReplayServer, tmp_path: Path, kind: str
) -> None:
    """Attached or piped, and in any encoding."""
    data = KINDS[kind] or make_database(tmp_path)
    path = tmp_path / "my notes"
    path.write_bytes(data)
    beside = ask("-f", "my notes", "Sum up", cwd=tmp_path)
    assert HELP.get(kind, "") in beside.error
    for result in (ask("-f", str(path), "Sum up"), ask("--encoding", "latin-1", "Sum", stdin=data)):
        assert result.status == 65
        assert f"is {kind}" in result.error
    assert not server.requests


@pytest.mark.parametrize("text", [b"BZh is no word", b"PAR1S", b"PK", b"%PDF is a format", b""])
def test_text_is_no_other_kind(text: bytes) -> None:
    """Though it begins alike."""
    assert find_kind(text) is None


# Names


def test_words_that_are_files_are_told_of(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """As a shell makes them of -f *.txt; they are sent all the same."""
    server.answer(lambda request: completion("x"))
    for name in ("a.txt", "b.txt", "c.txt"):
        (tmp_path / name).write_text(f"in {name}")
    result = ask("--no-stream", "-f", "a.txt", "b.txt", "c.txt", "Sum up", cwd=tmp_path)
    assert result.status == 0
    assert "b.txt, c.txt" in result.error
    assert "-f" in result.error
    assert "a.txt" not in result.error
    assert server.requests[0].json["messages"][0]["content"].startswith("b.txt c.txt Sum up")
    alone = ask("--no-stream", "./b.txt", cwd=tmp_path)
    assert "./b.txt" in alone.error
    assert ask("--no-stream", "Sum", "up", "d.txt", cwd=tmp_path).stderr == b""
    assert ask("--no-stream", "-q", "./b.txt", cwd=tmp_path).stderr == b""


@pytest.mark.parametrize("word", ["--what is this", "--zzzzzz", "-1 + 1"])
def test_a_prompt_that_looks_like_an_option(ask: Kimi, server: ReplayServer, word: str) -> None:
    """The error tells of --, which helps."""
    server.answer(lambda request: completion("x"))
    result = ask(word)
    assert result.status == 2
    assert "'--'" in result.error
    assert ask("--no-stream", "--", word).status == 0
    assert server.requests[0].json["messages"][0]["content"] == word


def test_a_name_that_is_not_utf8(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Its file is attached; the bytes of the name are not worth an error."""
    server.answer(lambda request: completion("x"))
    name = b"na\xefve.txt"
    with open(os.path.join(os.fsencode(tmp_path), name), "wb") as file:
        file.write(b"inside")
    result = ask("--no-stream", "-f", name, "Sum", cwd=tmp_path)
    assert result.status == 0, result.error
    content = server.requests[0].json["messages"][0]["content"]
    assert content == "Sum\n\nna\ufffdve.txt:\ninside"
    missing = ask("-f", b"no\xff.txt", "Sum", cwd=tmp_path)
    assert missing.status == 66
    assert missing.error.count("\n") == 1


# Two system prompts


@pytest.mark.parametrize("role", ["system", "developer"])
@pytest.mark.parametrize("place", [0, 1])
def test_a_row_has_one_system_prompt(
    batch: Kimi, server: ReplayServer, role: str, place: int
) -> None:
    """Its own, wherever it stands and whatever it is called."""
    server.answer(lambda request: completion("x"))
    messages = [{"role": "user", "content": "hi"}]
    messages.insert(place, {"role": role, "content": "mine"})
    for row in (messages, {"messages": messages}, {"messages": messages, "system": "other"}):
        assert batch("-s", "theirs", stdin=json.dumps(row).encode() + b"\n").status == 0
    assert [request.json["messages"] for request in server.requests] == [messages] * 3


def test_a_token_command_waits_for_a_person(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """Who must unlock something, and needs longer than the ten seconds of a job."""
    server.answer(lambda request: completion("x"))
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    command = '["sh", "-c", "sleep 11; echo token"]'
    config.write_text(f'[profiles.here]\nbase_url = "{server.url}"\ntoken_command = {command}\n')
    result = kimi("ask", "--no-stream", "--profile", "here", "hi", stderr="tty", timeout=60)
    assert result.status == 0, result.terminal
    assert server.requests[0].headers["Authorization"] == "Bearer token"
