"""What a question would take of its model, before it is asked."""

from __future__ import annotations

from kimi_cli.api import codec
from kimi_cli.api.vocabulary import TokenCounter
from kimi_cli.show.estimates import explain_doubt
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.planning import Turn


def show_count(turn: Turn, terminal: Terminal, *, as_json: bool) -> None:
    """Print how many tokens the prompt of *turn* has, and say where that is an estimate."""
    body = turn.shape().to_json()
    count = TokenCounter().count(body)
    shown = {"prompt_tokens": count.tokens, "estimated": count.doubt is not None}
    terminal.show((codec.dumps(shown) if as_json else str(count.tokens)) + "\n")
    if count.doubt is not None:
        terminal.warn(explain_doubt(count.doubt))
