"""An answer as people and pipes see it: content on stdout, reasoning on stderr."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kimi_cli.api.messages import Delta
from kimi_cli.errors import Terminated
from kimi_cli.terminal import Terminal

_DIM, _NORMAL = "\x1b[2m", "\x1b[22m"


if TYPE_CHECKING:
    from kimi_cli.sanitizer import Sanitizer


class Text:
    """One of the two texts, tidied as it comes: K2.5 begins with a space, and ends vary."""

    def __init__(self, *, for_terminal: bool) -> None:
        """Text for a terminal is made harmless; a pipe or file gets the characters as sent."""
        self._sanitizer = _make_sanitizer() if for_terminal else None
        self._line_feeds = 0
        self._half = ""
        self.begun = False

    def feed(self, text: str) -> str:
        """Return what can be shown now: all but the line feeds, which may prove to be the last."""
        if self._half or "\ud800" <= text[-1:] <= "\udbff":
            # Half of a surrogate pair: some servers cut their deltas inside a character.
            text = self._half + text
            self._half = text[-1:] if "\ud800" <= text[-1:] <= "\udbff" else ""
            text = text[: len(text) - len(self._half)]
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

    def flush(self) -> str:
        """Return what was held back, but for the last line feeds."""
        rest, self._half = self._half, ""
        if self._sanitizer is not None:
            rest = self._sanitizer.feed(rest) + self._sanitizer.flush()
        return "\n" * self._line_feeds + rest if rest else ""


def _make_sanitizer() -> Sanitizer:
    from kimi_cli.sanitizer import Sanitizer  # noqa: PLC0415 - a pipe needs none

    return Sanitizer()


class Transcript:
    """Writes one answer, delta by delta. On a shared screen a blank line parts the two texts."""

    def __init__(self, terminal: Terminal, *, show_reasoning: bool) -> None:
        """Write to *terminal*; nothing appears before the first delta."""
        self._terminal = terminal
        self._show_reasoning = show_reasoning
        self._share_screen = terminal.out_is_terminal and terminal.err_is_terminal
        self._content = Text(for_terminal=terminal.out_is_terminal)
        self._reasoning = Text(for_terminal=terminal.err_is_terminal)
        self._thinking = False
        self._open_line = False
        self.has_content = False
        """Whether anything but white space has come of the answer itself."""

    def __enter__(self) -> Transcript:
        """Begin; nothing is written yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """End the last line, however the answer ended; a signal waits for no stuck reader."""
        if kind is not Terminated or self._terminal.takes_output():
            self.finish()

    def write(self, delta: Delta) -> None:
        """Show what *delta* adds."""
        if delta.reasoning and self._show_reasoning:
            self._write_reasoning(self._reasoning.feed(delta.reasoning))
        if delta.content:
            self.has_content = self.has_content or not delta.content.isspace()
            self._write_content(self._content.feed(delta.content))

    def finish(self) -> None:
        """End the answer with exactly one line feed."""
        self._write_content(self._content.flush())
        self._end_reasoning("\n")
        if self._open_line:
            self._open_line = False
            self._terminal.write("\n")

    def _write_content(self, text: str) -> None:
        if not text:
            return
        self._end_reasoning("\n\n" if self._share_screen else "\n")
        self._open_line = True  # first: a signal may come between the two
        self._terminal.write(text)

    def _write_reasoning(self, text: str) -> None:
        if not text:
            return
        if not self._thinking:
            self._thinking = True
            if self._open_line and self._share_screen:
                # Thinking after text: the two share a screen, but not a line.
                self._terminal.write_err("\n\n")
        self._write_dim(text)

    def _end_reasoning(self, ending: str) -> None:
        if self._thinking:
            self._thinking = False
            self._write_dim(self._reasoning.flush())
            self._terminal.write_err(ending)
            self._reasoning = Text(for_terminal=self._terminal.err_is_terminal)

    def _write_dim(self, text: str) -> None:
        """Switch dim off after every piece: whatever ends the process, the screen stays whole."""
        if text and self._terminal.colour_on_err:
            text = f"{_DIM}{text}{_NORMAL}"
        self._terminal.write_err(text)
