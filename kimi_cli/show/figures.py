"""What an answer took, in tokens and in money."""

from __future__ import annotations

from typing import Any

from kimi_cli.api.cost import Cost
from kimi_cli.api.messages import Ending
from kimi_cli.api.usage import read_tokens
from kimi_cli.settings.precedence import Settings
from kimi_cli.settings.prices import make_price_list


def find_cost(ending: Ending, asked: str, settings: Settings) -> Cost | None:
    """Return what an answer cost by the model that it names, or that was *asked*."""
    tokens = read_tokens(ending.usage)
    return make_price_list(settings).charge(tokens, ending.model, asked)


def dump_figures(ending: Ending, asked: str, settings: Settings) -> dict[str, Any]:
    """Return what ``--json`` says of an answer; null is what nobody knows."""
    cost = find_cost(ending, asked, settings)
    return {
        "tokens": read_tokens(ending.usage).to_json(),
        "cost": None if cost is None else cost.to_json(),
        "currency": None if cost is None else cost.currency,
    }


def describe_figures(ending: Ending, asked: str, settings: Settings) -> str:
    """Return what ``--verbose`` says of an answer."""
    cost = find_cost(ending, asked, settings)
    shown = "" if cost is None else f", {cost}"
    return (
        f"answer {ending.id} by {ending.model}, finish_reason {ending.finish_reason}, "
        f"{read_tokens(ending.usage)}{shown}"
    )
