"""Text from outside is harmless on a terminal."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.system.sanitizer import Sanitizer, sanitize

ATTACKS = {
    "\x1b]52;c;ZXZpbA==\x07": "^[]52;c;ZXZpbA==^G",
    "\x1b[8mhidden": "^[[8mhidden",
    "\x9b2J": "<U+009B>2J",
    "safe\rEVIL": "safe^MEVIL",
    "a\u202eb\u2066c": "a<U+202E>b<U+2066>c",
    "x\U000e0041y": "x<U+E0041>y",
    "a\u200bb": "a<U+200B>b",
    "del\x7f": "del^?",
    "nul\0": "nul^@",
}
FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


@pytest.mark.parametrize(("text", "shown"), ATTACKS.items())
def test_attacks_are_shown(text: str, shown: str) -> None:
    """Control characters are seen, not obeyed, wherever the text was cut."""
    assert sanitize(text) == shown
    for cut in range(len(text) + 1):
        sanitizer = Sanitizer()
        assert sanitizer.feed(text[:cut]) + sanitizer.feed(text[cut:]) + sanitizer.flush() == shown


@pytest.mark.parametrize(
    "text",
    ["plain\ttext\n", "世界 你好", "👩‍💻 👍🏽 ❤️ 1️⃣", "می‌خواهم", "क्‍ष", "naïve café €", "עברית שלום"],
)
def test_honest_text_passes(text: str) -> None:
    """Emoji sequences, joiners inside words, and every script stay as they are."""
    assert sanitize(text) == text


def test_a_line_end_of_dos_is_one_line_end() -> None:
    """CR LF is harmless, also when it is cut in two."""
    sanitizer = Sanitizer()
    assert sanitizer.feed("one\r") + sanitizer.feed("\ntwo") == "one\ntwo"


@given(st.lists(st.text()))
def test_nothing_harmful_comes_out(pieces: list[str]) -> None:
    """No cut lets a control character through, and the whole is the sum of its pieces."""
    sanitizer = Sanitizer()
    shown = "".join(map(sanitizer.feed, pieces)) + sanitizer.flush()
    assert not FORBIDDEN.search(shown)
    assert shown == sanitize("".join(pieces))
    assert sanitize(shown) == shown
