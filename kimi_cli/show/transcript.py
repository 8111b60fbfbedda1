"""An answer as people and pipes see it: content on stdout, reasoning on stderr."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from kimi_cli.api.messages import Delta, Ending
from kimi_cli.errors import OutputClosed, OutputFailed, Terminated
from kimi_cli.show.tidy import TidyText
from kimi_cli.system.terminal import Terminal

_DIM, _NORMAL = "\x1b[2m", "\x1b[22m"


if TYPE_CHECKING:
    from kimi_cli.show.markdown import MarkdownText


def _make_renderer(terminal: Terminal) -> MarkdownText:
    from kimi_cli.show.markdown import MarkdownText  # noqa: PLC0415 - rendering is an optional extra

    return MarkdownText(
        TidyText(for_terminal=True), find_width=terminal.find_columns, colour=terminal.colour_on_out
    )


class Transcript:
    """Writes one answer, delta by delta. On a shared screen a blank line parts the two texts."""

    def __init__(
        self,
        terminal: Terminal,
        *,
        show_reasoning: bool,
        markdown: bool = False,
        gap: bool = False,
    ) -> None:
        """Write to *terminal*; nothing appears before the first delta.

        With *gap* a blank line parts the content from what was written before. With *markdown*
        it is rendered for a terminal, and a pipe gets it as it is.
        """
        self._terminal = terminal
        self._show_reasoning = show_reasoning
        self._share_screen = terminal.out_is_terminal and terminal.err_is_terminal
        self._content = (
            _make_renderer(terminal)
            if markdown and terminal.out_is_terminal
            else TidyText(for_terminal=terminal.out_is_terminal)
        )
        self._reasoning = TidyText(for_terminal=terminal.err_is_terminal)
        self._thinking = False
        self._open_line = False
        self._gap = gap
        self.has_content = False
        """Whether anything but white space has come of the answer itself."""

    def __enter__(self) -> Transcript:
        """Begin; nothing is written yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        """End the last line, however the answer ended; a signal waits for no stuck reader."""
        if kind is not Terminated:
            self.finish()
        elif self._terminal.takes_output():
            with contextlib.suppress(OutputClosed, OutputFailed):  # the window may be closed
                self.finish(at_once=True)

    def note(self, delta: Delta) -> None:
        """Show what *delta* adds."""
        if delta.reasoning and self._show_reasoning:
            self._write_reasoning(self._reasoning.feed(delta.reasoning))
        if delta.content:
            self.has_content = self.has_content or not delta.content.isspace()
            self._write_content(self._content.feed(delta.content))

    def end(self, ending: Ending) -> None:
        """End the answer; calls of tools stand for a text where there is none."""
        self.finish()
        if ending.tool_calls and not self.has_content:
            self._terminal.show("\n" * self._gap + ending.dump_tool_calls() + "\n")

    def finish(self, *, at_once: bool = False) -> None:
        """End the answer with exactly one line feed; *at_once* without rendering the rest."""
        self._write_content(self._content.flush(at_once=at_once))
        self._end_reasoning("\n")
        if self._open_line:
            self._open_line = False
            self._terminal.write("\n")

    def _write_content(self, text: str) -> None:
        if not text:
            return
        self._end_reasoning("\n\n" if self._share_screen else "\n")
        self._open_line = True  # first: a signal may come between the two
        self._terminal.write("\n" * self._gap + text)
        self._gap = False

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
            self._reasoning = TidyText(for_terminal=self._terminal.err_is_terminal)

    def _write_dim(self, text: str) -> None:
        """Switch dim off after every piece: whatever ends the process, the screen stays whole."""
        if text and self._terminal.colour_on_err:
            text = f"{_DIM}{text}{_NORMAL}"
        self._terminal.write_err(text)
