"""Markdown rendered for a terminal, block by block: what was shown is never drawn again.

A block is shown once the next one begins, so a long answer neither flickers nor loses what has
scrolled away. Rendering is rich's; it is an optional extra.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from kimi_cli.errors import ConfigError
from kimi_cli.show.tidy import TidyText

_LONG, _GROWTH = 4000, 1.1
"""Letters of a block from which on it is looked at only when it has grown by so much."""
_OVER = ("heading_open", "hr")
_OVER_AT_BLANK = ("paragraph_open", "table_open", "blockquote_open")
"""Blocks that cannot go on, at all or beyond a blank line."""
_DEEPEST = 100
"""Levels of lists and quotes; what is deeper would be left out."""


def require_renderer() -> None:
    """Raise ConfigError, with the command that helps, where rich is not installed."""
    if find_spec("rich") is None:
        from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for who lacks it

        raise ConfigError(
            f"--markdown needs rich, which is not installed; run: {advise_extra('markdown')}"
        )


class MarkdownText:
    """Takes the pieces of an answer, gives rendered blocks."""

    def __init__(self, source: TidyText, *, find_width: Callable[[], int], colour: bool) -> None:
        """Tidy pieces with *source* first; ``require_renderer`` must have passed."""
        from markdown_it import MarkdownIt  # noqa: PLC0415 - an optional extra
        from rich.console import Console  # noqa: PLC0415 - an optional extra
        from rich.markdown import Markdown  # noqa: PLC0415 - an optional extra

        self._source = source
        self._find_width = find_width
        # HTML and images are text here: as markup they would be left out.
        self._parser: Any = MarkdownIt(
            "commonmark", {"html": False, "maxNesting": _DEEPEST}
        ).enable(["strikethrough", "table"])
        # An address that stands by itself, below the text, would be left out, too.
        self._parser.disable(["image", "reference"])
        self._markdown: Any = _fold_tables(Markdown)
        self._console: Any = lambda file, width: Console(
            file=file,
            width=width,
            force_terminal=True,
            color_system="standard" if colour else None,
            no_color=not colour,
            highlight=False,
        )
        self._buffer = ""
        self._parsed = 0
        """The length of the buffer when it was last looked at for the end of a block."""
        self._fence: re.Pattern[str] | None = None
        self._searched = 0
        self._shown = False

    def feed(self, text: str) -> str:
        """Return the blocks that *text* completes, rendered, without a last line feed."""
        piece = self._source.feed(text)
        self._buffer += piece
        if "\n" not in piece or (self._fence is not None and not self._finds_fence()):
            return ""
        if len(self._buffer) > _LONG and len(self._buffer) < _GROWTH * self._parsed:
            return ""  # a long list or table is not parsed again with each line
        # A line that is not whole may be anything yet.
        whole, feed, rest = self._buffer.rpartition("\n")
        lines = (whole + feed).split("\n")
        last = self._find_last_block(whole + feed)
        ready, self._buffer = "\n".join(lines[:last]), "\n".join(lines[last:]) + rest
        self._parsed = len(self._buffer)
        return self._render(ready)

    def flush(self, *, at_once: bool = False) -> str:
        """Return the last block, rendered; *at_once* as it is, for who does not want to wait."""
        ready, self._buffer = self._buffer + self._source.flush(), ""
        if not at_once:
            return self._render(ready)
        return ("\n\n" if self._shown and ready else "") + ready.rstrip("\n")

    def _finds_fence(self) -> bool:
        """Tell whether the end of the code has come, in what was not searched before."""
        assert self._fence is not None  # noqa: S101 - the code has begun
        start = self._buffer.rfind("\n", 0, self._searched)
        self._searched = self._buffer.rfind("\n")
        return self._fence.search(self._buffer, max(0, start)) is not None

    def _find_last_block(self, text: str) -> int:
        """Return the line where the block begins that may still go on, be it the next line."""
        blocks = [t for t in self._parser.parse(text) if t.level == 0 and t.map]
        self._fence, self._searched = None, 0
        if not blocks:
            return 0
        last = blocks[-1]
        if last.type == "fence":
            # Until its end comes, all of this is code: do not parse it again with each line.
            self._fence = re.compile(rf"\n[ >]*{re.escape(last.markup)}[^\n]*\n(?=.)", re.DOTALL)
        is_over = last.type in _OVER or (last.type in _OVER_AT_BLANK and _ends_blank(text))
        return text.count("\n") if is_over else int(last.map[0])

    def _render(self, text: str) -> str:
        if not text.strip():
            return ""
        rendered = self._markdown("", hyperlinks=False, code_theme="ansi_dark")
        rendered.parsed = tokens = self._parser.parse(text)
        file = io.StringIO()
        self._console(file, self._find_width()).print(rendered, end="")
        shown = "\n".join(line.rstrip() for line in file.getvalue().strip("\n").split("\n"))
        if not _is_complete(shown, tokens):
            shown = text.strip("\n")
        shown = f"\n\n{shown}" if self._shown else shown
        self._shown = True
        return shown


def _ends_blank(text: str) -> bool:
    return not text[:-1].rpartition("\n")[2].strip()


def _is_complete(shown: str, tokens: list[Any]) -> bool:
    """Tell whether all letters of *tokens* are there: a narrow screen has no room for some."""
    if any(token.level >= _DEEPEST - 2 for token in tokens):
        return False
    texts = [child.content for token in tokens for child in token.children or ()]
    texts += [token.content for token in tokens if token.type in ("fence", "code_block")]
    wanted = Counter(letter for text in texts for letter in text if letter.isalnum())
    return wanted <= Counter(re.sub(r"\x1b\[[0-9;]*m", "", shown))


def _fold_tables(markdown: Any) -> Any:
    """Return rich's *markdown* with tables that break long words, and cut none off."""
    table = markdown.elements["table_open"]

    def show(self: Any, console: Any, options: Any) -> Any:
        for shown in table.__rich_console__(self, console, options):
            for column in shown.columns:
                column.overflow = "fold"
            yield shown

    folding = type("FoldingTable", (table,), {"__rich_console__": show})
    elements = {**markdown.elements, "table_open": folding}
    return type("FoldingMarkdown", (markdown,), {"elements": elements})
