"""Emoji in the line of a chat: every terminal draws it as wide as the editor believes."""

from __future__ import annotations

import pytest
from conversations import list_contents
from server import ReplayServer
from wcwidth import wcwidth
from window import Tmux

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
ASTRONAUT = "\U0001f469\U0001f3fd\u200d\U0001f680"
PIRATE = "\U0001f3f4\u200d\u2620\ufe0f"
HEART = "\u2764\ufe0f"
KEYCAP = "1\ufe0f\u20e3"
GERMANY = "\U0001f1e9\U0001f1ea"
SCOTLAND = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbsct") + "\U000e007f"


@pytest.mark.parametrize(
    ("typed", "keys"),
    [
        (FAMILY, 5),
        (ASTRONAUT, 4),
        (PIRATE, 4),
        (HEART, 2),
        (KEYCAP, 3),
        (GERMANY, 2),
        (SCOTLAND, 7),
    ],
    ids=["family", "astronaut", "pirate", "heart", "keycap", "flag", "tags"],
)
def test_the_line_does_not_shift(window: Tmux, server: ReplayServer, typed: str, keys: int) -> None:
    """The cursor stands where the text is changed, and what is sent is what was typed."""
    window.press("-l", f"a{typed}bc")
    window.see("bc")
    window.press("Left", "x")
    window.see("bxc")
    column, line = window.find_cursor()
    assert line.endswith("bxc")
    assert column == sum(map(wcwidth, line.replace("\u20e3", ""))) - 1
    window.press(*["Left"] * (keys + 2), "y")
    window.see("> ay")
    column, line = window.find_cursor()
    assert (column, line[:4]) == (4, "> ay")
    window.press("Enter")
    window.see("re: ay")
    assert list_contents(server.requests[0]) == [f"ay{typed}bxc"]


def test_joiners_of_letters_stay_where_they_were(window: Tmux, server: ReplayServer) -> None:
    """Persian and Hindi words need theirs, and are drawn with them."""
    words = "می\u200cخواهم"
    window.press("-l", words)
    window.see("خواهم")
    window.press("Enter")
    window.see("re: ")
    assert list_contents(server.requests[0]) == [words]
