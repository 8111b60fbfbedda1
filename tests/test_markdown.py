"""Markdown block by block: the same however it is cut, and no letter is lost on any screen."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kimi_cli.show.markdown import MarkdownText
from kimi_cli.show.tidy import TidyText

LINES = st.sampled_from([
    "# Head", "para one", "para *two*", "", "", "", "- item", "  - nested", "1. one", "1. more",
    "12. twelve", "> quote", "> > deeper", "```", "code # x", "~~~", "| a | b |", "|---|---|",
    "| 1 | 2 |", "***", "---", "===", "    indented", "  continued", "[a]: http://x/y", "**bo",
    "ld** end", "<b>", "* star", "漢字", "#hash", "3 | 4 |",
])  # fmt: skip
DOCUMENTS = st.lists(LINES, min_size=1, max_size=12).map("\n".join)


def render(text: str, *, size: int = 0, columns: int = 60) -> str:
    """Return *text* as it is shown when it comes in pieces of *size* letters, or whole."""
    shown = MarkdownText(TidyText(for_terminal=True), find_width=lambda: columns, colour=False)
    size = size or max(1, len(text))
    pieces = [shown.feed(text[start : start + size]) for start in range(0, len(text), size)]
    return "".join([*pieces, shown.flush()])


def list_lines(text: str) -> list[str]:
    """Return the lines with anything in them."""
    return [line for line in text.split("\n") if line.strip()]


@given(DOCUMENTS, st.integers(1, 9))
@example("First:\n\n1. one\n\n1. two\n\n1. three\n\nzz.\n", 1)
@example("see the issue\n#12 of it", 15)
@example("| a | b |\n|---|---|\n| 1 | 2 |\n#3 | 4 |\n", 31)
@example("- item\n***bold***", 10)
@example("Use\n\n```x``` for code.\n\nEnd.", 8)
def test_it_is_the_same_however_it_is_cut(text: str, size: int) -> None:
    """Blank lines apart, which some blocks leave between them."""
    assert list_lines(render(text, size=size)) == list_lines(render(text))


@given(DOCUMENTS, st.integers(1, 40))
def test_no_letter_is_lost_on_a_narrow_screen(text: str, columns: int) -> None:
    """Where there is no room to render it, a block is shown as it is."""
    wanted = Counter(letter for letter in text if letter.isalpha())
    assert wanted <= Counter(render(text, columns=columns))


@pytest.mark.parametrize("depth", [9, 20, 40, 60])
def test_deep_lists_and_quotes_are_whole(depth: int) -> None:
    """And so is what comes after them."""
    levels = "".join(f"{'  ' * level}- level{level}\n" for level in range(depth))
    shown = render(f"{levels}\n{'>' * depth} quoted\n\n# Heading\n\nLast.\n", columns=200)
    found = re.findall(r"level\d+|quoted|Heading|Last", shown)
    assert found == [*(f"level{level}" for level in range(depth)), "quoted", "Heading", "Last"]


@pytest.mark.parametrize("columns", [1, 10, 20, 30, 60])
def test_tables_lose_no_column(columns: int) -> None:
    """However narrow the screen is."""
    cells = [" | ".join(f"{kind}{number}" for number in range(12)) for kind in "cv"]
    shown = render(f"| {cells[0]} |\n{'|---' * 12}|\n| {cells[1]} |\n\nEnd.\n", columns=columns)
    letters = "".join(shown.split())
    assert (letters.count("c"), letters.count("v")) == (12, 12)


def test_a_paragraph_is_shown_when_it_is_over() -> None:
    """At its blank line: the next one, which may be long, is not waited for."""
    shown = MarkdownText(TidyText(for_terminal=True), find_width=lambda: 60, colour=False)
    assert shown.feed("# Head\n") == ""  # a line feed may prove to be the last
    first = shown.feed("\nOne *para*graph.\n\nT")
    assert list_lines(first)[1:] == ["One paragraph."]
    assert shown.feed("he next one goes on and on") == ""
    assert shown.flush() == "\n\nThe next one goes on and on"
