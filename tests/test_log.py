"""`kimi log`: the list of conversations, and their end."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from conversations import CONVERSATIONS, DAY, HOUR, assistant, keep, list_names, user
from program import Kimi
from wcwidth import wcswidth

# list


def test_nothing_is_kept(log: Kimi, home: Path) -> None:
    """A missing folder and an empty one are no failure, and nothing is made."""
    for _ in range(2):
        result = log()
        assert (result.status, result.stdout) == (0, b"")
        assert result.error == f"kimi: no conversation is kept in {home / CONVERSATIONS}\n"
        (home / CONVERSATIONS).mkdir(parents=True, exist_ok=True)
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


def test_a_headline_is_one_line(log: Kimi, folder: Path) -> None:
    """Whatever another program wrote for the model, the time, and the flaw."""
    facts = {"model": "m\n## Question", "time": "now\r\n", "incomplete": "a\u2028\n# b"}
    keep(folder, "mine", user("q"), assistant("a", **facts))
    shown = log("show", "mine").stdout.decode()
    headlines = [line for line in shown.splitlines() if line.startswith("#")]
    assert headlines[1:] == ["## Question", "## Answer of m ## Question, now , incomplete: a # b"]


NAMELESS = "[image: of no kind, 0 bytes]"


def test_an_image_has_a_sign(log: Kimi, folder: Path) -> None:
    """Where a question has no text, and beside its text."""
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    keep(folder, "mine", user([image]), user([{"type": "text", "text": "What?"}, image, {"a": 1}]))
    assert log().stdout.decode().split("\n")[1].split()[3:] == NAMELESS.split()
    shown = log("show", "mine").stdout.decode().split("\n\n")
    assert shown[2:3] + shown[4:] == [NAMELESS, "What?", NAMELESS, "[something]\n"]


@pytest.mark.parametrize("columns", ["²", "0", "-1", "x", "٣"])
def test_odd_widths_are_none(log: Kimi, folder: Path, columns: str) -> None:
    """COLUMNS counts where it is a number."""
    keep(folder, "mine", user("q"))
    result = log.pty(env={"COLUMNS": columns}).wait()
    assert (result.status, b"mine" in result.stdout) == (0, True)


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


@pytest.mark.parametrize(
    ("names", "status", "told"),
    [
        (("none", "a", "b"), 66, ["there is no conversation 'none'"]),
        (("a", "dir", "b"), 73, ["cannot remove conversation 'dir': "]),
        (
            ("a", "none", "b", "dir"),
            66,
            ["cannot remove conversation 'dir'", "no conversation 'none'"],
        ),
        (("../x", "a", "b"), 65, ["'../x' cannot name a conversation"]),
    ],
)
def test_what_cannot_be_removed_keeps_no_other(
    log: Kimi, folder: Path, names: tuple[str, ...], status: int, told: list[str]
) -> None:
    """Each is told in a line of its own; the first decides the status."""
    for name in ("a", "b"):
        keep(folder, name, user("q"))
    (folder / "dir.jsonl").mkdir()
    result = log("rm", *names)
    assert (result.status, result.stdout) == (status, b"")
    for line, words in zip(result.error.splitlines(), told, strict=True):
        assert words in line
    assert os.listdir(folder) == ["dir.jsonl"]


def test_old_ones_go_though_one_cannot(log: Kimi, folder: Path) -> None:
    """Only what was removed is counted."""
    for name in ("a", "b", "new"):
        keep(folder, name, user("q"), age=0 if name == "new" else 9 * DAY)
    (folder / "dir.jsonl").mkdir()
    os.utime(folder / "dir.jsonl", (1, 1))
    result = log("rm", "--older-than", "7d")
    assert (result.status, result.stdout) == (73, b"")
    counted, refused = result.error.splitlines()
    assert counted == "kimi: 2 removed"
    assert refused.startswith("kimi: cannot remove conversation 'dir': ")
    assert sorted(os.listdir(folder)) == ["dir.jsonl", "new.jsonl"]


def test_a_long_name_leaves_room(log: Kimi, folder: Path) -> None:
    """For all other columns on a terminal; a pipe gets it whole."""
    name = "x" * 150
    keep(folder, name, user("What is a pipe?"), age=-600)
    keep(folder, "short", user("Who made it?"), age=DAY + 9)
    long, short = log.pty().wait().stdout.decode().splitlines()[1:]
    assert long.split(maxsplit=3) == ["x" * 39 + "…", "1", "now", "What is a pipe?"]
    assert short.split(maxsplit=4) == ["short", "1", "1", "d", "Who made it?"]
    assert long.index("What") == short.index("Who") < 80
    assert f"\n{name}  1      now  What" in log().stdout.decode()


# path


def test_the_path(log: Kimi, home: Path) -> None:
    """Of one that need not exist, or of all; nothing is made."""
    assert log("path").stdout.decode() == f"{home / CONVERSATIONS}\n"
    assert log("path", "漢字").stdout.decode() == f"{home / CONVERSATIONS}/漢字.jsonl\n"
    for name in ("a/b", ".x", "", "a b"):
        assert log("path", name).status == 65
    assert not (home / CONVERSATIONS).exists()
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
    (home / CONVERSATIONS).parent.mkdir()
    (home / CONVERSATIONS).write_text("in the way")
    line = {"COMP_WORDS": "kimi log show ", "COMP_CWORD": "3", "_KIMI_COMPLETE": "bash_complete"}
    done = kimi(env=line)
    assert (done.status, done.stdout.strip(), done.stderr) == (0, b"", b"")


def test_a_folder_that_is_none(log: Kimi, home: Path) -> None:
    """Said in one line."""
    (home / CONVERSATIONS).parent.mkdir()
    (home / CONVERSATIONS).write_text("in the way")
    for arguments in ((), ("search", "x"), ("show", "x"), ("rm", "--older-than", "1d")):
        result = log(*arguments)
        assert (result.status, result.stdout) == (66, b"")
        assert result.error.startswith("kimi: cannot read ")
        assert result.error.count("\n") == 1
