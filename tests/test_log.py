"""`kimi log`: the list of conversations, what was said in them, and their end."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from wcwidth import wcswidth  # type: ignore[import-untyped]

FOLDER = ".local/state/kimi/conversations"

Line = dict[str, Any]

HOUR, DAY = 3600, 86400

CALL = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": '{"a":1}'}}


def user(content: Any, **more: Any) -> Line:
    """A question as a line of a record."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Line:
    """An answer as a line of a record."""
    return {"role": "assistant", "content": content, **more}


def encode(*lines: Line) -> bytes:
    """The bytes of a record, as the program itself writes them."""
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    return "".join(encoder.encode(line) + "\n" for line in lines).encode()


@pytest.fixture
def folder(home: Path) -> Path:
    """Where conversations are kept."""
    path = home / FOLDER
    path.mkdir(parents=True)
    return path


@pytest.fixture
def log(kimi: Kimi) -> Kimi:
    """The command, without a token and without a network."""
    return kimi.but("log")


def keep(folder: Path, name: str, *lines: Line | bytes, age: float = -600) -> Path:
    """Put a conversation into the folder, last changed that many seconds ago."""
    path = folder / f"{name}.jsonl"
    path.write_bytes(b"".join(line if isinstance(line, bytes) else encode(line) for line in lines))
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def list_names(log: Kimi) -> list[str]:
    """The names in the order of the list."""
    return [json.loads(line)["name"] for line in log("list", "--json").stdout.splitlines()]


# list


def test_nothing_is_kept(log: Kimi, home: Path) -> None:
    """A missing folder and an empty one are no failure, and nothing is made."""
    for _ in range(2):
        result = log()
        assert (result.status, result.stdout) == (0, b"")
        assert result.error == f"kimi: no conversation is kept in {home / FOLDER}\n"
        (home / FOLDER).mkdir(parents=True, exist_ok=True)
    result = log("list", "--json")
    assert (result.status, result.stdout, result.stderr) == (0, b"", b"")


def test_several(log: Kimi, folder: Path) -> None:
    """The last changed first, in aligned columns; `kimi log` alone lists them too."""
    keep(folder, "old", user("q"), assistant("a"), user("r"), age=40.2 * DAY)
    keep(folder, "longer-name", user("What is\n a  pipe?\u2028"), assistant("a"), age=5.2 * HOUR)
    keep(folder, "latest", age=125)
    keep(folder, "new", assistant("Hello!"), user("q"), assistant("a"), age=-600)
    keep(folder, ".hidden", user("q"))
    (folder / "notes.txt").write_text("mine")
    table = (
        "NAME         TURNS  AGE    BEGINS\n"
        "new          2      now    Hello!\n"
        "latest       0      2 min\n"
        "longer-name  1      5 h    What is a pipe?\n"
        "old          2      40 d   q\n"
    )
    for arguments in ((), ("list",)):
        result = log(*arguments)
        assert (result.stdout.decode(), result.error, result.status) == (table, "", 0)
    for option in ("--json", "-q"):
        assert log("list", option).status == 0


@pytest.mark.parametrize("seconds", [90, 30 * 60 + 9, 3 * HOUR + 9, 2 * DAY + 9, 400 * DAY + 9])
def test_ages(log: Kimi, folder: Path, seconds: int) -> None:
    """The largest unit that fits, rounded."""
    keep(folder, "x", user("q"), age=seconds)
    number, unit = log().stdout.decode().split("\n")[1].split()[2:4]
    size = {"min": 60, "h": HOUR, "d": DAY}[unit]
    assert abs(int(number) * size - seconds) <= size / 2 + 60
    assert 0 < int(number) < {"min": 61, "h": 25, "d": 9999}[unit]


def test_turns_of_several_processes(log: Kimi, folder: Path) -> None:
    """Mixed lines count by their turns, and system prompts not at all."""
    keep(
        folder,
        "x",
        {"role": "system", "content": "s"},
        user("one", turn="1"),
        user("two", turn="2"),
        assistant("B", turn="2"),
        assistant("A", turn="1"),
    )
    assert log().stdout.decode().split("\n")[1].split() == ["x", "2", "now", "one"]


def test_json(log: Kimi, folder: Path) -> None:
    """One object a line, with the whole title and the moment."""
    path = keep(folder, "漢字", user("Grüße\n" * 50), assistant("a"))
    os.utime(path, (1_700_000_000, 1_700_000_000))
    damaged = keep(folder, "notes", b"my notes\n", age=2**31)
    lines = log("list", "--json").stdout.decode().splitlines()
    shown, problem = map(json.loads, lines)
    assert shown == {
        "name": "漢字",
        "turns": 1,
        "changed": "2023-11-14T22:13:20Z",
        "title": " ".join(["Grüße"] * 50),
        "problem": None,
    }
    assert "漢字" in lines[0]
    assert (problem["name"], problem["turns"], problem["title"]) == ("notes", 0, "")
    assert f"{damaged}:1 is no message of a conversation" in problem["problem"]


def test_what_cannot_be_read_is_listed(log: Kimi, folder: Path) -> None:
    """And named with its line on stderr; all others are listed as ever."""
    keep(folder, "good", user("q"), age=1)
    damaged = keep(folder, "notes", user("q"), b"\n", b"my notes\n", age=2)
    (folder / "dir.jsonl").mkdir()
    os.utime(folder / "dir.jsonl", (1, 1))
    os.mkfifo(folder / "pipe.jsonl")
    os.utime(folder / "pipe.jsonl", (0, 0))
    torn = keep(folder, "torn", user("q"), b'{"role":', age=3)
    result = log()
    assert result.status == 0
    rows = [re.split("  +", line) for line in result.stdout.decode().splitlines()[1:]]
    assert [(row[0], row[1], row[-1]) for row in rows] == [
        ("good", "1", "q"),
        ("notes", "0", "(cannot be read)"),
        ("torn", "1", "q"),
        ("dir", "0", "(cannot be read)"),
        ("pipe", "0", "(cannot be read)"),
    ]
    assert f"{torn}: the last line was torn" in result.error
    assert f"{damaged}:3 is no message" in result.error
    assert f"cannot read {folder / 'dir.jsonl'}: Is a directory" in result.error
    assert f"cannot read {folder / 'pipe.jsonl'}: it is a pipe" in result.error


def test_a_dangling_link_hides_nothing(log: Kimi, folder: Path) -> None:
    """Nor would a file that is removed while the list is made."""
    keep(folder, "good", user("q"))
    (folder / "gone.jsonl").symlink_to("nowhere")
    assert "good" in list_names(log)


def test_wide_characters_are_aligned(log: Kimi, folder: Path) -> None:
    """Names and titles of any script begin at the same column."""
    names = ["plan", "漢字", "한국어", "e\u0301te\u0301", "Ω"]
    for age, name in enumerate(names):
        keep(folder, name, user(f"“{name}” 漢"), age=age * DAY)
    header, *rows = log.pty().wait().stdout.decode().splitlines()
    place = header.index("BEGINS")
    starts = [wcswidth(row[: row.index("“")]) for row in rows]
    assert starts == [place] * len(names)
    assert [row[row.index("“") :] for row in rows] == [f"“{name}” 漢" for name in names]


@pytest.mark.parametrize("columns", [40, 41, None])
@pytest.mark.parametrize(
    "title", ["word " * 60, "漢字" * 60, "e\u0301" * 99], ids=["words", "wide", "combining"]
)
def test_titles_are_cut(log: Kimi, folder: Path, columns: int | None, title: str) -> None:
    """No line is wider than the terminal, and a pipe gets them whole."""
    keep(folder, "planning", user(title), assistant("a"), age=9)
    keep(folder, "short", user("What is it?"), age=1)
    size = {"COLUMNS": str(columns)} if columns else {}
    _, short, long = log.pty(env=size).wait().stdout.decode().splitlines()
    assert short.endswith("What is it?")
    assert long.endswith("…")
    assert (columns or 80) - 2 <= wcswidth(long) <= (columns or 80)
    assert log(env=size).stdout.decode().splitlines()[2].endswith(" " + " ".join(title.split()))


@pytest.mark.parametrize(
    "title",
    ["\x1b[31m" + "x" * 99, "\u202e" * 99, "x" * 99 + "\x07"],
    ids=["escape", "rtl", "bell"],
)
def test_titles_that_are_made_harmless_are_cut(log: Kimi, folder: Path, title: str) -> None:
    """To the width of what is shown in their place."""
    keep(folder, "planning", user(title), assistant("a"))
    row = log.pty().wait().stdout.decode().splitlines()[1]
    assert row.endswith("…")
    assert 80 - 8 <= wcswidth(row) <= 80


@pytest.mark.parametrize("columns", ["1", "20"])
def test_a_very_narrow_terminal(log: Kimi, folder: Path, columns: str) -> None:
    """Names stay whole; of the title nothing but a sign is left."""
    keep(folder, "planning", user("What is a pipe?"))
    rows = log.pty(env={"COLUMNS": columns}).wait().stdout.decode().splitlines()
    assert rows[1].split() == ["planning", "1", "now", "…"]


ATTACK = "a\x1b]52;c;QUJD\x07b\x1b[2Jc\u202ed\x9be\rf"
HARMLESS = "a^[]52;c;QUJD^Gb^[[2Jc<U+202E>d<U+009B>e^Mf"


def test_escapes_are_harmless_on_a_terminal(log: Kimi, folder: Path) -> None:
    """In names, titles, texts, models and excerpts; a pipe gets them as they are."""
    name = "x\x1b[2J\u202e"
    keep(folder, name, user(ATTACK), assistant(ATTACK, model="m\x1b[31m", incomplete="\x1b[0m"))
    keep(folder, "notes\x1b[31m", b"my notes\n")
    for arguments in ((), ("list", "--json"), ("show", name), ("show", name, "--json")):
        shown = log.pty(*arguments).wait()
        assert shown.status == 0
        for text in (shown.stdout.decode(), shown.error):
            assert not set(text) & set("\x1b\x07\x9b\r\u202e")
    assert HARMLESS in log.pty("show", name).wait().stdout.decode()
    found = log.pty("search", "QUJD").wait().stdout.decode()
    assert HARMLESS.replace("^M", " ") in found
    assert ATTACK in log("show", name).stdout.decode()
    assert json.loads(log("show", name, "--json").stdout.splitlines()[0])["content"] == ATTACK
    assert "\x1b]52;c;QUJD\x07" in log("search", "QUJD").stdout.decode()


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
    assert shown.stdout == encode(*odd)
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


# rm


def test_several_are_removed(log: Kimi, folder: Path) -> None:
    """Damaged ones too, without a word."""
    for name in ("one", "two", "漢字"):
        keep(folder, name, user("q"))
    keep(folder, "notes", b"my notes\n")
    result = log("rm", "one", "notes", "漢字")
    assert (result.status, result.stdout, result.stderr) == (0, b"", b"")
    assert os.listdir(folder) == ["two.jsonl"]


def test_what_is_not_there_is_not_removed(log: Kimi, folder: Path) -> None:
    """It is told, and the others go all the same; nothing outside the folder is touched."""
    outside = keep(folder.parent, "outside", user("q"))
    for name in ("one", "two"):
        keep(folder, name, user("q"))
    result = log("rm", "one", "none", "two")
    assert (result.status, result.stdout) == (66, b"")
    assert result.error == "kimi: there is no conversation 'none'; see 'kimi log'\n"
    assert os.listdir(folder) == []
    for name in ("../outside", str(outside.with_suffix("")), ".", ""):
        assert log("rm", name).status in (65, 66)
    assert outside.exists()
    (folder / "dir.jsonl").mkdir()
    assert log("rm", "dir").status == 73


@pytest.mark.parametrize(
    ("limit", "gone"),
    [
        ("30d", ["ancient", "notes", "older"]),
        ("2h", ["ancient", "day", "notes", "older"]),
        ("400d", []),
        ("3000000", ["ancient", "notes", "older"]),
        ("1000m", ["ancient", "day", "notes", "older"]),
        ("0s", ["ancient", "day", "new", "notes", "older"]),
    ],
)
def test_old_ones_are_removed(log: Kimi, folder: Path, limit: str, gone: list[str]) -> None:
    """By the time of their last change; their number is told."""
    ages = {"ancient": 300, "older": 40, "day": 1, "new": 0.001}
    for name, days in ages.items():
        keep(folder, name, user("q"), age=days * DAY)
    keep(folder, "notes", b"my notes\n", age=50 * DAY)
    result = log("rm", "--older-than", limit)
    assert (result.status, result.stdout) == (0, b"")
    assert result.error == f"kimi: {len(gone)} removed\n"
    left = {path.stem for path in folder.iterdir()}
    assert sorted({*ages, "notes"} - left) == gone


def test_names_or_an_age_must_be_given(log: Kimi, folder: Path) -> None:
    """One of the two; anything else is a usage error, and removes nothing."""
    keep(folder, "x", user("q"), age=DAY)
    for arguments in (
        (),
        ("x", "--older-than", "1s"),
        ("--older-than", "soon"),
        ("--older-than", "-1"),
        ("--older-than", ""),
    ):
        result = log("rm", *arguments)
        assert (result.status, result.stdout) == (2, b"")
    assert os.listdir(folder) == ["x.jsonl"]
    assert log("rm", "--older-than", "0.5d").status == 0
    assert os.listdir(folder) == []


# path


def test_the_path(log: Kimi, home: Path) -> None:
    """Of one that need not exist, or of all; nothing is made."""
    assert log("path").stdout.decode() == f"{home / FOLDER}\n"
    assert log("path", "漢字").stdout.decode() == f"{home / FOLDER}/漢字.jsonl\n"
    for name in ("a/b", ".x", "", "a b"):
        assert log("path", name).status == 65
    assert not (home / FOLDER).exists()
    places = {"/somewhere": "/somewhere", "relative": f"{home}/.local/state", "": None, None: None}
    for place, found in places.items():
        shown = log("path", env={"XDG_STATE_HOME": place}).stdout.decode()
        assert shown == f"{found or f'{home}/.local/state'}/kimi/conversations\n"


# Completion


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("command", ["log show", "log rm", "log path", "ask -S", "chat --session"])
def test_names_are_completed(kimi: Kimi, folder: Path, shell: str, command: str) -> None:
    """All that begin so, whatever is in them, without a word on stderr."""
    for age, name in enumerate(("planning", "pläne", "other")):
        keep(folder, name, user("q"), age=age)
    keep(folder, "plainly-damaged", b"my notes\n", age=9)

    def complete(beginning: str) -> list[str]:
        words = ["kimi", *command.split(), beginning]
        place = beginning if shell == "fish" else str(len(words) - 1)
        line = {"COMP_WORDS": " ".join(words), "COMP_CWORD": place}
        done = kimi(env={**line, "_KIMI_COMPLETE": f"{shell}_complete"})
        assert (done.status, done.stderr) == (0, b"")
        lines = done.stdout.decode().strip().splitlines()
        if shell == "zsh":
            return lines[1::3]
        return [line.partition(",")[2].partition("\t")[0] for line in lines]

    assert complete("pl") == ["planning", "pläne", "plainly-damaged"]
    assert complete("x") == []


def test_completion_without_a_folder(kimi: Kimi, home: Path) -> None:
    """Nothing is offered, nothing is said."""
    (home / FOLDER).parent.mkdir()
    (home / FOLDER).write_text("in the way")
    line = {"COMP_WORDS": "kimi log show ", "COMP_CWORD": "3", "_KIMI_COMPLETE": "bash_complete"}
    done = kimi(env=line)
    assert (done.status, done.stdout.strip(), done.stderr) == (0, b"", b"")


def test_a_folder_that_is_none(log: Kimi, home: Path) -> None:
    """Said in one line."""
    (home / FOLDER).parent.mkdir()
    (home / FOLDER).write_text("in the way")
    for arguments in ((), ("search", "x"), ("show", "x"), ("rm", "--older-than", "1d")):
        result = log(*arguments)
        assert (result.status, result.stdout) == (66, b"")
        assert result.error.startswith("kimi: cannot read ")
        assert result.error.count("\n") == 1
