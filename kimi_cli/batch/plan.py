"""How a run is carried out, as its options say."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kimi_cli.api.retry import RetryPolicy
from kimi_cli.settings.configfile import BATCH_RETRIES
from kimi_cli.settings.prices import NO_PRICES, PriceList

POLICY = RetryPolicy(retries=BATCH_RETRIES, longest=60.0, budget=math.inf, foreign=2)
"""Of one row, where nothing was said: a run has more time than a person has."""


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """How a run is carried out. Times are in seconds."""

    policy: RetryPolicy = POLICY
    timeout: float = 600.0
    max_wait: float = 600.0
    max_rows: int | None = None
    max_errors: int | None = None
    max_error_share: float | None = None
    max_tokens: int | None = None
    max_cost: int | None = None
    """In ``UNITS`` of ``api.cost``, of whatever currency the first row is paid in."""
    prices: PriceList = NO_PRICES
    deadline: float | None = None
    allow_invalid: bool = False
    fills_up: bool = False
    """Whether every row has a line of output, whatever ends the run."""
