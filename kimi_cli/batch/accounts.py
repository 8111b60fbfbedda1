"""What each answer took, put into the books: those of its row, of the run, and of the budget."""

from __future__ import annotations

import math

from kimi_cli.api import codec
from kimi_cli.api.cost import Cost
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.messages import JSON
from kimi_cli.api.spending import Spending
from kimi_cli.api.usage import Tokens, read_tokens
from kimi_cli.batch.jobs import Job
from kimi_cli.settings.prices import PriceList


def book(document: JSON, job: Job, prices: PriceList, spending: Spending) -> Tokens:
    """Add what an answer took to *spending* and to its *job*; return it as the host reported it.

    Where the host did not, it is estimated, for a budget must end somewhere.
    """
    tokens = read_tokens(document.get("usage"))
    answered = document.get("model")
    names = (answered if isinstance(answered, str) else None, job.record.model)
    if tokens.is_known:
        cost = prices.charge(tokens, *names)
        spending.note(tokens, cost)
        job.paid = _add(job.paid, cost)
    else:
        guess = _estimate(document, job)
        spending.guessed += guess.total - tokens.total
        spending.note(tokens, prices.charge(guess, *names), is_estimate=True)
    return tokens


def _estimate(document: JSON, job: Job) -> Tokens:
    """Return about what an answer took whose host does not tell."""
    said = codec.dumps(document.get("choices"))
    sizes = estimate_tokens(job.payload), estimate_tokens(said)
    return Tokens(*map(math.ceil, sizes))


def _add(cost: Cost | None, more: Cost | None) -> Cost | None:
    """Return the sum, as far as it has one: a row that is asked again pays for both."""
    if cost is None or more is None or cost.currency != more.currency:
        return cost if more is None else more
    return Cost(cost.amount + more.amount, cost.currency)
