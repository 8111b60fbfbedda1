"""The text of an answer, tidied piece by piece as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_cli.api.text import part_pair

if TYPE_CHECKING:
    from kimi_cli.system.sanitizer import Sanitizer


class TidyText:
    """One of the two texts, tidied as it comes: K2.5 begins with a space, and ends vary."""

    def __init__(self, *, for_terminal: bool) -> None:
        """Text for a terminal is made harmless; a pipe or file gets the characters as sent."""
        self._sanitizer = _make_sanitizer() if for_terminal else None
        self._line_feeds = 0
        self._half = ""
        self.begun = False

    def feed(self, text: str) -> str:
        """Return what can be shown now: all but the line feeds, which may prove to be the last."""
        text, self._half = part_pair(self._half + text)
        if self._sanitizer is not None:
            text = self._sanitizer.feed(text)
        if not self.begun and text:
            self.begun = True
            text = text.removeprefix(" ")
        shown = text.rstrip("\n")
        if shown:
            shown = "\n" * self._line_feeds + shown
            self._line_feeds = 0
        self._line_feeds += len(text) - len(text.rstrip("\n"))
        return shown

    def flush(self, *, at_once: bool = False) -> str:
        """Return what was held back, but for the last line feeds; that is always done at once."""
        rest, self._half = self._half, ""
        if self._sanitizer is not None:
            rest = self._sanitizer.feed(rest) + self._sanitizer.flush()
        return "\n" * self._line_feeds + rest if rest else ""


def _make_sanitizer() -> Sanitizer:
    from kimi_cli.system.sanitizer import Sanitizer  # noqa: PLC0415 - a pipe needs none

    return Sanitizer()
