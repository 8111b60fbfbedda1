"""kimi chat --markdown: answers are rendered, each once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from conversations import read_record
from screen import Start, say
from server import ReplayServer, Stall, stream

MARKDOWN = (
    "# Head\n\nSome **bold** text.\n\n- one\n- two\n\n```sh\nls\n\npwd\n```\n\nEnd <b>here</b>."
)


@pytest.mark.parametrize(
    ("options", "setting", "rendered"),
    [
        (["--markdown"], None, True),
        ([], None, False),
        ([], "true", True),
        (["--no-markdown"], "true", False),
    ],
)
def test_markdown_is_rendered_on_request(
    chat: Start, server: ReplayServer, options: list[str], setting: str | None, rendered: bool
) -> None:
    """Every block, in order, however it was cut; otherwise it is plain text."""
    server.script(stream(*(MARKDOWN[n : n + 3] for n in range(0, len(MARKDOWN), 3))))
    with chat(*options, env={"KIMI_MARKDOWN": setting} if setting else {}) as screen:
        screen.see_prompt()
        screen.enter("question")
        screen.see("End <b>here</b>.")
        assert ("**bold**" in screen.text) is not rendered
        assert (b"\x1b[1mbold\x1b[0m" in screen.received) is rendered
        words = ["Head", "bold", "one", "two", "ls", "pwd", "End"]
        places = [screen.text.index(word) for word in words]
        assert places == sorted(places)


def test_a_long_answer_is_rendered_once(chat: Start, server: ReplayServer) -> None:
    """Longer than the screen: no line is lost, none is drawn again, nothing moves the cursor up."""
    parts = [f"Paragraph {number} has *some* text.\n\n" for number in range(60)]
    parts += ["```\n", *(f"code {number}\n\n" for number in range(60)), "```\n\nLast."]
    server.script(stream(*parts))
    with chat("--markdown", "question") as screen:
        screen.see("Last.")
        screen.see_prompt()
        shown = re.sub(rb"\x1b\[[0-9;]*m", b"", screen.received)
        assert re.findall(rb"Paragraph (\d+) has some", shown) == [b"%d" % n for n in range(60)]
        assert re.findall(rb"code (\d+)", shown) == [b"%d" % n for n in range(60)]
        answer = shown[shown.index(b"Paragraph 0") : shown.index(b"Last.")]
        assert b"\x1b" not in answer


def cut(text: str, size: int) -> list[str]:
    """The pieces in which a text comes."""
    return [text[start : start + size] for start in range(0, len(text), size)]


LINKS = (
    "[a]: https://example.org/first\n\nSee [the guide][a], [b], and [c](https://example.org/third)."
    "\n\n[b]: https://example.org/second 'Title'\n\nEnd."
)


@pytest.mark.parametrize("size", [1, 7, 40, 1000])
def test_addresses_stay_on_the_screen(chat: Start, server: ReplayServer, size: int) -> None:
    """Those of links, and those that are defined on lines of their own, however it is cut."""
    server.script(stream(*cut(LINKS, size)))
    with chat("--markdown") as screen:
        say(screen, "question", "End.")
        for words in ("[a]:", "first", "the guide", "[b]:", "second", "third"):
            assert words in screen.text
        assert screen.text.count("https://example.org/") == 3


def test_long_words_in_tables_are_folded(chat: Start, server: ReplayServer) -> None:
    """On a narrow screen; none is cut off."""
    rows = "".join(f"| {letter * 50} | {number} |\n" for number, letter in enumerate("XYZ"))
    server.script(stream(f"| Word | Number |\n|---|---|\n{rows}\nEnd."))
    with chat("--markdown", columns=40) as screen:
        say(screen, "question", "End.")
        assert [screen.text.count(letter) for letter in "XYZ"] == [50, 50, 50]
        assert "…" not in screen.text


def test_an_interrupt_shows_the_open_block_as_it_is(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """Rendering it would keep who has stopped it waiting."""
    server.script(stream("# Head\n\nSome **bold** wo", Stall()))
    with chat("--markdown") as screen:
        say(screen, "question", "Head")
        screen.press("\x03")
        screen.see("kimi: stopped; /retry asks again")
        shown = screen.lines[screen.lines.index("Some **bold** wo") :]
        assert shown[1] == "kimi: stopped; /retry asks again"
        screen.see_prompt()
        assert "# Head" not in screen.text
    assert read_record(home)[1]["content"] == "# Head\n\nSome **bold** wo"


@pytest.mark.parametrize("size", [3, 50])
def test_a_long_list_is_complete(chat: Start, server: ReplayServer, size: int) -> None:
    """Each of its items is there once and in order, though it is not looked at with each line."""
    text = "".join(f"- item {number} of *many*\n" for number in range(500))
    server.script(stream(*cut(f"Before.\n\n{text}\nEnd.", size)))
    with chat("--markdown") as screen:
        say(screen, "question", "End.")
        shown = re.sub(rb"\x1b\[[0-9;]*m", b"", screen.received)
        assert re.findall(rb"item (\d+) of many", shown) == [b"%d" % n for n in range(500)]
