"""What several answers took together: tokens as hosts report them, and money by currency."""

from __future__ import annotations

from dataclasses import dataclass, field

from kimi_cli.api.cost import UNITS, Cost
from kimi_cli.api.messages import JSON
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
        self.add(cost)
        self.estimated += is_estimate

    def add(self, cost: Cost) -> None:
        """Add money alone."""
        self.amounts[cost.currency] = self.amounts.get(cost.currency, 0) + cost.amount

    def list_costs(self) -> list[Cost]:
        """Return the money in each currency."""
        return [Cost(amount, currency) for currency, amount in sorted(self.amounts.items())]

    def describe_tokens(self) -> str:
        """Say how many tokens there are."""
        return describe_tokens(self.prompt, self.cached, self.completion, self.reasoning)

    def describe_cost(self) -> str:
        """Say what they cost, and where that is not all; empty where nothing has a price."""
        if not self.amounts:
            return ""
        shown = " and ".join(map(str, self.list_costs()))
        about = "about " if self.estimated else ""
        but = f" but for {self.unpriced} without a price" if self.unpriced else ""
        return f"{about}{shown}{but}"

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
