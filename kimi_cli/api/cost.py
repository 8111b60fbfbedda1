"""What tokens cost. Money is counted in whole units so small that nothing is ever rounded."""

from __future__ import annotations

from dataclasses import dataclass

from kimi_cli.api.usage import Tokens

UNITS = 10**12
"""The parts of one dollar, yuan, or whatever the currency is, that amounts are counted in."""
_PER_TOKEN = UNITS // 10**6
"""What makes a price for a million tokens one for a token."""


@dataclass(frozen=True, eq=False, repr=False)
class Cost:
    """An amount of money, in ``UNITS``."""

    amount: int
    currency: str

    def to_json(self) -> float:
        """Return the number that outputs show: the fewest digits that say it."""
        return self.amount / UNITS

    def __str__(self) -> str:
        """Return it for people."""
        return f"{show_amount(self.amount)} {self.currency}"


@dataclass(frozen=True, eq=False, repr=False)
class Price:
    """What tokens of a model cost, each of them, in ``UNITS``."""

    input: int
    cached: int
    """Of the prompt, where the host had read them before."""
    output: int
    currency: str

    @classmethod
    def per_million(
        cls, input: float, output: float, cached: float | None = None, currency: str = "USD"
    ) -> Price:
        """Make one of what a million tokens cost; where *cached* is None, they are as dear."""
        cached = input if cached is None else cached
        input, cached, output = (price * _PER_TOKEN for price in (input, cached, output))
        return cls(round(input), round(cached), round(output), currency)

    def charge(self, tokens: Tokens) -> Cost | None:
        """Return what an answer costs; None where the host did not tell its tokens."""
        if tokens.prompt is None or tokens.completion is None:
            return None
        cached = tokens.cached or 0
        fresh = tokens.prompt - cached
        amount = fresh * self.input + cached * self.cached + tokens.completion * self.output
        return Cost(amount, self.currency)

    def estimate(self, prompt: float, completion: float) -> int:
        """Return about what so many tokens will cost, where nothing of the prompt is cached."""
        return round(prompt * self.input + completion * self.output)


def show_amount(amount: int) -> str:
    """Return an amount with two decimal places, or as many as show three digits of it."""
    places = 2
    while 0 < amount * 10**places < 100 * UNITS and places < 12:
        places += 1
    scaled = (2 * amount * 10**places + UNITS) // (2 * UNITS)
    whole, part = divmod(scaled, 10**places)
    return f"{whole}.{part:0{places}}"
