"""What several answers took together: tokens as hosts report them, and money by currency."""

from __future__ import annotations

from dataclasses import dataclass, field

from kimi_cli.api.cost import UNITS, Cost
from kimi_cli.api.messages import JSON
from kimi_cli.api.text import quantify
from kimi_cli.api.usage import Tokens, describe_tokens


@dataclass(eq=False, repr=False)
class Spending:
    """Sums; what a host does not tell counts for nothing, and is told."""

    prompt: int = 0
    cached: int = 0
    completion: int = 0
    reasoning: int = 0
    amounts: dict[str, int] = field(default_factory=dict)
    """Money by currency."""
    unpriced: int = 0
    """Answers that nobody has a price for, or the tokens of."""
    estimated: int = 0
    """Answers whose cost is estimated, for their hosts do not tell their tokens."""
    guessed: int = 0
    """Tokens of those, as they are estimated; they are in no other sum."""

    @property
    def total(self) -> int:
        """All tokens."""
        return self.prompt + self.completion

    def note(self, tokens: Tokens, cost: Cost | None, *, is_estimate: bool = False) -> None:
        """Add an answer."""
        self.prompt += tokens.prompt or 0
        self.cached += tokens.cached or 0
        self.completion += tokens.completion or 0
        self.reasoning += tokens.reasoning or 0
        if cost is None:
            self.unpriced += 1
            return
        self.add(cost.amount, cost.currency)
        self.estimated += is_estimate

    def add(self, amount: int, currency: str) -> None:
        """Add money alone."""
        self.amounts[currency] = self.amounts.get(currency, 0) + amount

    def join(self, other: Spending) -> Spending:
        """Return one of the money of both."""
        both = Spending(estimated=self.estimated + other.estimated)
        for currency, amount in (*self.amounts.items(), *other.amounts.items()):
            both.add(amount, currency)
        return both

    def list_costs(self) -> list[Cost]:
        """Return the money in each currency."""
        return [Cost(amount, currency) for currency, amount in sorted(self.amounts.items())]

    def describe_tokens(self) -> str:
        """Say how many tokens there are."""
        return describe_tokens(self.prompt, self.cached, self.completion, self.reasoning)

    def show_cost(self) -> str:
        """Say what they cost; empty where nothing has a price."""
        about = "about " if self.estimated and self.amounts else ""
        return about + " and ".join(map(str, self.list_costs()))

    def describe_cost(self) -> str:
        """Say what they cost, and where that is not all of them."""
        but = quantify(self.unpriced, "answer") if self.unpriced and self.amounts else ""
        return self.show_cost() + (f" without {but} of unknown cost" if but else "")

    def dump_tokens(self) -> JSON:
        """Return the object of the tokens."""
        return {
            "prompt": self.prompt,
            "cached": self.cached,
            "completion": self.completion,
            "reasoning": self.reasoning,
        }

    def dump_cost(self) -> JSON:
        """Return the cost for outputs: null where nothing has a price.

        Several currencies have no sum: then ``costs`` has each.
        """
        costs = self.list_costs()
        only = costs[0] if len(costs) == 1 else None
        shown: JSON = {
            "cost": None if only is None else only.to_json(),
            "currency": None if only is None else only.currency,
        }
        if len(costs) > 1:
            shown["costs"] = {cost.currency: cost.to_json() for cost in costs}
        return shown


def read_amount(number: float) -> int:
    """Return the amount that outputs show as *number*."""
    return round(number * UNITS)
