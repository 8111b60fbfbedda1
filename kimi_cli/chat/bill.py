"""What a conversation took so far."""

from __future__ import annotations

from kimi_cli.api.spending import Spending
from kimi_cli.api.usage import read_tokens
from kimi_cli.conversation.record import Conversation
from kimi_cli.settings.precedence import Settings
from kimi_cli.settings.prices import make_price_list


class Bill:
    """The tokens and the cost of a conversation's answers, as far as its host told them."""

    def __init__(self, conversation: Conversation, settings: Settings) -> None:
        """Count at the prices of *settings*."""
        prices, asked = make_price_list(settings), None
        self._all, self._last, self._cost = Spending(), read_tokens(None), ""
        for entry in conversation.entries:
            if entry.manner is not None:
                asked = entry.manner.model
            if entry.usage is None:
                continue
            self._last = read_tokens(entry.usage)
            cost = prices.charge(self._last, entry.facts.get("model"), asked)
            self._cost = "" if cost is None else f", {cost}"
            self._all.note(self._last, cost)

    def describe_last(self) -> str:
        """Say what the last answer took."""
        return f"{self._last}{self._cost}"

    def describe_all(self) -> str:
        """Say what all of them took."""
        return ", ".join(filter(None, (self._all.describe_tokens(), self._all.describe_cost())))
