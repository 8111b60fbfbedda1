"""`kimi log show` and `search`: what was said in a conversation."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from conversations import DAY, assistant, encode_compact, keep, list_names, user
from program import Kimi

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


# show


RECORD = [
    {"role": "system", "content": "Be brief.", "turn": "1", "time": "2026-11-24T08:29:59Z"},
    user("Name a river", turn="1", time="2026-11-24T08:30:00Z", model="kimi-k2.5", profile="p"),
    assistant(
        "The *Rhine*.\n\n- or so\n",
        reasoning_content="Hm.",
        turn="1",
        time="2026-11-24T08:30:02Z",
        model="kimi-k2.5-0905",
        usage={"total_tokens": 13},
    ),
    user([{"type": "text", "text": "1 + 2"}, {"type": "image_url"}, {"type": "text", "text": "?"}]),
    assistant(None, tool_calls=[CALL]),
    {"role": "tool", "content": "3", "tool_call_id": "c1"},
    assistant("half", incomplete="interrupted", time="2026-11-24T08:31:00Z"),
]


MARKDOWN = """\
# mine

## System, 2026-11-24T08:29:59Z

Be brief.

## Question, 2026-11-24T08:30:00Z

Name a river

## Answer of kimi-k2.5-0905, 2026-11-24T08:30:02Z

The *Rhine*.

- or so


## Question

1 + 2
?

[image_url]

## Answer of the model

```json
{"id":"c1","type":"function","function":{"name":"add","arguments":"{\\"a\\":1}"}}
```

## Tool

3

## Answer of the model, 2026-11-24T08:31:00Z, incomplete: interrupted

half
"""


def test_a_conversation_as_markdown(log: Kimi, folder: Path) -> None:
    """Who said what when, and what is not whole; reasoning is left out."""
    keep(folder, "mine", *RECORD)
    shown = log("show", "mine")
    assert (shown.stdout.decode(), shown.error, shown.status) == (MARKDOWN, "", 0)
    assert log.pty("show", "mine").wait().stdout == shown.stdout


def test_the_latest_is_shown_by_default(log: Kimi, folder: Path) -> None:
    """With its name."""
    keep(folder, "mine", user("q"))
    keep(folder, "latest", user("r"), age=DAY)
    assert log("show").stdout.decode() == "# latest\n\n## Question\n\nr\n"


def test_the_lines_as_they_are_kept(log: Kimi, folder: Path) -> None:
    """Byte for byte, but for a torn one, which is told on stderr."""
    odd = [*RECORD, user("\u2028\x85\x7f\0 漢 😀", options={"a": 1.0, "b": [1e-9, True, None]})]
    path = keep(folder, "mine", *odd)
    shown = log("show", "mine", "--json")
    assert (shown.stdout, shown.error, shown.status) == (path.read_bytes(), "", 0)
    keep(folder, "mine", *odd, b'{"role":')
    shown = log("show", "mine", "--json")
    assert shown.stdout == encode_compact(*odd)
    assert "the last line was torn, and is dropped" in shown.error


@pytest.mark.parametrize(
    "line",
    [
        b'{"role": "user", "content": "q"}\n',
        b'{"role":"assistant","content":"a","refusal":null,"tool_calls":[]}\n',
        b'{"role":"user","content":"\\u00e9"}\n',
        b'{"time":"2026-11-24T08:30:00Z","content":"a","role":"user"}\n',
        b'{"role":"user","content":"q","options":{"temperature":1E0,"seed":18446744073709551616}}\n',
    ],
    ids=["spaces", "nulls", "escapes", "order", "numbers"],
)
def test_the_lines_of_other_programs_as_they_are_kept(log: Kimi, folder: Path, line: bytes) -> None:
    """Byte for byte as well."""
    keep(folder, "mine", line)
    assert log("show", "mine", "--json").stdout == line


def test_what_cannot_be_shown(log: Kimi, folder: Path) -> None:
    """Exit status and one line on stderr tell what is wrong."""
    damaged = keep(folder, "notes", user("q"), b"my notes\n", user("r"))
    (folder / "dir.jsonl").mkdir()
    for arguments, status, error in (
        (("none",), 66, "there is no conversation 'none'; see 'kimi log'"),
        ((), 66, "there is no conversation 'latest'; see 'kimi log'"),
        (("none", "--json"), 66, "there is no conversation 'none'; see 'kimi log'"),
        (("a/b",), 65, "'a/b' cannot name a conversation"),
        (("../x",), 65, "'../x' cannot name a conversation"),
        (("notes",), 65, f"{damaged}:2 is no message of a conversation"),
        (("dir",), 66, "cannot read"),
    ):
        result = log("show", *arguments)
        assert (result.status, result.stdout, result.error.count("\n")) == (status, b"", 1)
        assert error in result.error


def test_a_file_of_another_name_is_shown_and_removed(log: Kimi, folder: Path) -> None:
    """What was put into the folder by hand need not have a name of ours."""
    path = keep(folder, "my notes: draft", user("q"), assistant("a"))
    assert list_names(log) == ["my notes: draft"]
    assert log("show", "my notes: draft").stdout.startswith(b"# my notes: draft\n")
    assert log("rm", "my notes: draft").status == 0
    assert not path.exists()


def _close(folder: Path) -> None:
    folder.chmod(0)


def _put_a_file(folder: Path) -> None:
    folder.rmdir()
    folder.write_text("in the way")


def _put_a_loop(folder: Path) -> None:
    folder.rmdir()
    folder.symlink_to(folder)


def _put_a_folder(folder: Path) -> None:
    (folder / "mine.jsonl").mkdir()


@pytest.mark.parametrize("spoil", [_close, _put_a_file, _put_a_loop, _put_a_folder])
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["markdown", "json"])
def test_what_cannot_be_reached_is_not_shown(
    log: Kimi, home: Path, folder: Path, spoil: Callable[[Path], None], options: tuple[str, ...]
) -> None:
    """In one line with the system's reason; root is bound by modes without its privilege."""
    if spoil is _close and os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may do everything")
        bound = home / "bound"
        bounds = "--bounding-set=-dac_override,-dac_read_search"
        bound.write_text(f'#!/bin/sh\nexec setpriv {bounds} "{log.program}" "$@"\n')
        bound.chmod(0o755)
        log = replace(log, program=bound)
    spoil(folder)
    try:
        result = log("show", *options, "mine")
    finally:
        if spoil is _close:
            folder.chmod(0o700)
    assert (result.status, result.stdout, result.error.count("\n")) == (66, b"", 1)
    assert result.error.startswith(f"kimi: cannot read {folder}/mine.jsonl: ")


# search


@pytest.fixture
def library(folder: Path) -> Path:
    """Three conversations, one of them damaged."""
    keep(
        folder,
        "unix",
        {"role": "system", "content": "pipe"},
        user("What is a\n named pipe?"),
        assistant("A FIFO.", reasoning_content="secretly"),
        user("Who made it?"),
        assistant(None, tool_calls=[CALL]),
        {"role": "tool", "content": "Doug McIlroy", "tool_call_id": "c1"},
        assistant("x " * 50 + "The first Pipe" + " y" * 50),
        age=1,
    )
    keep(folder, "straße", user("Große Pipelines"), assistant("İstanbul"), age=2)
    keep(folder, "notes", b"pipe\n", age=3)
    return folder


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["named", "PIPE"], ["unix\t1\tuser\tWhat is a named pipe?"]),
        (["pipe", "named"], ["unix\t1\tuser\tWhat is a named pipe?"]),
        (["fifo."], ["unix\t1\tassistant\tA FIFO."]),
        (["mcilroy"], ["unix\t2\ttool\tDoug McIlroy"]),
        (["STRASSE"], []),
        (["GROSSE"], ["straße\t1\tuser\tGroße Pipelines"]),
        (["İSTANBUL"], ["straße\t1\tassistant\tİstanbul"]),
        (["named", "fifo"], []),
        (["secretly"], []),
    ],
)
def test_search(log: Kimi, words: list[str], found: list[str]) -> None:
    """All words in one message, in any order and case; what cannot be read is warned of."""
    result = log("search", *words)
    assert (result.stdout.decode().splitlines(), result.status) == (found, 0)
    assert "notes.jsonl:1 is no message" in result.error
    assert ("no message holds all of these words" in result.error) is (not found)


@pytest.mark.usefixtures("library")
def test_excerpts(log: Kimi) -> None:
    """The words around the first place, with signs where text was left out."""
    first, second, third = log("search", "pipe").stdout.decode().splitlines()
    assert first == "unix\t1\tuser\tWhat is a named pipe?"
    name, turn, role, excerpt = second.split("\t")
    assert (name, turn, role) == ("unix", "2", "assistant")
    assert excerpt.startswith("…x x")
    assert excerpt.endswith(" y…")
    assert "The first Pipe y" in excerpt
    assert len(excerpt) < 120
    assert third == "straße\t1\tuser\tGroße Pipelines"


@pytest.mark.parametrize("before", ["ß" * 100, "İ" * 100, "ﬃ" * 60], ids=["ss", "i", "ffi"])
def test_excerpts_show_the_word(log: Kimi, folder: Path, before: str) -> None:
    """Whatever letters stand before it."""
    keep(folder, "x", user(f"{before} needle in hay"))
    assert "needle" in log("search", "needle").stdout.decode()


def test_nothing_is_found(log: Kimi, folder: Path) -> None:
    """A line on stderr that -q silences, and no failure; without words it is one."""
    keep(folder, "x", user("q"))
    result = log("search", "needle")
    assert (result.status, result.stdout) == (0, b"")
    assert result.error == "kimi: no message holds all of these words\n"
    assert log("search", "-q", "needle").stderr == b""
    assert log("search").status == 2


def test_words_are_found_across_spaces(log: Kimi, folder: Path) -> None:
    """However many are between them, there or in what is looked for."""
    keep(folder, "mine", user("Go   and\nsee more"))
    assert log("search", "go  and  SEE").status == 0
    assert b"Go and see more" in log("search", "go  and  SEE").stdout
