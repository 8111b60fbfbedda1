"""What models cost: prices of the configuration, and those that Moonshot lists for its own host.

A price belongs to the model that answered, where it has one, or else to the one that was asked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kimi_cli.api.cost import Cost, Price
from kimi_cli.api.usage import Tokens
from kimi_cli.settings.precedence import Settings

LISTED: Mapping[str, tuple[float, float, float, str]] = {
    "kimi-k3.1-pro": (2.00, 0.20, 10.00, "2026-10-26"),
    "kimi-k3.1-pro-highspeed": (4.00, 0.20, 20.00, "2026-10-26"),
    "kimi-k3": (3.00, 0.30, 15.00, "2026-09-11"),
    "kimi-k2.7-code": (0.95, 0.19, 4.00, "2026-07-02"),
    "kimi-k2.7-code-highspeed": (1.90, 0.38, 8.00, "2026-07-02"),
    "kimi-k2.6": (0.95, 0.16, 4.00, "2026-07-02"),
    "kimi-k2.5": (0.60, 0.10, 3.00, "2026-03-26"),
    "kimi-k2-thinking": (0.60, 0.15, 2.50, "2026-07-02"),
    "kimi-k2-thinking-turbo": (1.15, 0.15, 8.00, "2026-07-02"),
    "kimi-k2-0905-preview": (0.60, 0.15, 2.50, "2026-07-02"),
    "kimi-k2-0711-preview": (0.60, 0.15, 2.50, "2026-07-02"),
}
"""US dollars for a million tokens of input, cached input and output, and the day they were seen.

They are those of platform.kimi.ai/docs/pricing, as that page and tables made after it
(models.dev) had them. What a cache keeps for five minutes costs no more than input.
"""

_DATED = r"-(\d{8}|\d{4}-\d{2}-\d{2})\Z"
"""The end of a name that only tells which build answered."""


@dataclass(frozen=True, eq=False, repr=False)
class PriceList:
    """The prices that count for one host."""

    configured: Mapping[str, Mapping[str, Any]]
    has_listed: bool
    """Whether Moonshot's list counts, too."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing has a price."""
        return not self.configured and not self.has_listed

    def find(self, *names: str | None) -> Price | None:
        """Return the price of the first of the models *names* that has one."""
        for name in names:
            for spelling in () if not name else (name, re.sub(_DATED, "", name)):
                if (price := self._look_up(spelling)) is not None:
                    return price
        return None

    def _look_up(self, name: str) -> Price | None:
        if (table := self.configured.get(name)) is not None:
            return Price.per_million(**table)
        if self.has_listed and (listed := LISTED.get(name)) is not None:
            fresh, cached, output, _ = listed
            return Price.per_million(fresh, output, cached)
        return None

    def charge(self, tokens: Tokens, *names: str | None) -> Cost | None:
        """Return what an answer costs by one of the models *names*; None where nobody knows."""
        price = self.find(*names)
        return None if price is None else price.charge(tokens)


NO_PRICES = PriceList({}, has_listed=False)


def make_price_list(settings: Settings) -> PriceList:
    """Return what counts at the host that *settings* name."""
    has_listed = settings.profile.list_prices and settings.at_home
    return PriceList(settings.prices, has_listed)


def explain_lack(model: str) -> str:
    """Say how a model gets a price."""
    return (
        f"{model} has no price; set input and output, for a million tokens, under "
        f'[prices."{model}"] in config.toml (see kimi-config(5))'
    )
