"""What rows cost, in tokens and in money, and whether there is enough for one more."""

from __future__ import annotations

from collections.abc import Iterable

from kimi_cli.api.cost import Cost
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.spending import Spending
from kimi_cli.api.usage import Tokens
from kimi_cli.batch.jobs import Job
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import Record
from kimi_cli.settings.prices import explain_lack

_FIRST_GUESS = 256.0
"""Tokens of an answer, before there is one."""
_LEAST_WEIGHT = 0.1
"""Share of the last answer in the mean of what answers cost."""


class Budget:
    """Estimates what a row will use, learns what rows did use, and keeps to the plan's limits."""

    def __init__(self, plan: Plan) -> None:
        """Keep to the tokens and to the money that *plan* allows; None is any number."""
        self._most_tokens, self._most_cost = plan.max_tokens, plan.max_cost
        self._prices = plan.prices
        self._currency: str | None = None
        """What the first row is paid in, and so the limit."""
        self._extra = self._completion = _FIRST_GUESS
        """Tokens beyond the estimate of the prompt, and those of the answer alone."""
        self._ratio = 1.0
        """What prompts have of the tokens that were estimated."""
        self._answers = 0

    def make_job(self, record: Record) -> Job:
        """Return the job of a row, with what it will use: by its length, and the rows before."""
        job = Job(record, record.payload, 0.0)
        self._weigh(job)
        return job

    def _weigh(self, job: Job) -> None:
        """Estimate what a job will use that was not sent yet."""
        prompt, most = estimate_tokens(job.payload), job.record.most_tokens
        job.tokens = prompt + (self._extra if most is None else most)
        if self._most_cost is None or (price := self._prices.find(job.record.model)) is None:
            return
        answer = self._completion if most is None else most
        job.cost = price.estimate(prompt * self._ratio, answer)

    def find_fault(self, record: Record) -> str | None:
        """Say why nobody could tell what a row costs, where money is limited; None if one can."""
        if self._most_cost is None:
            return None
        price = self._prices.find(record.model)
        if price is None:
            return f"row {record.number}: {explain_lack(record.model)}"
        self._currency = self._currency or price.currency
        if price.currency != self._currency:
            return (
                f"row {record.number} is paid in {price.currency}, and the first in "
                f"{self._currency}: --max-cost bounds one currency"
            )
        return None

    def note(self, payload: bytes, tokens: Tokens) -> None:
        """Learn from an answer what its prompt, *payload*, and itself used."""
        self._answers += 1
        if not tokens.total:
            return
        weight = max(_LEAST_WEIGHT, 1 / self._answers)
        estimated = estimate_tokens(payload)
        self._extra += weight * (max(0.0, tokens.total - estimated) - self._extra)
        if tokens.prompt is not None and tokens.completion is not None:
            self._completion += weight * (tokens.completion - self._completion)
            self._ratio += weight * (tokens.prompt / max(1.0, estimated) - self._ratio)

    def find_excess(self, job: Job, under_way: Iterable[Job], spent: Spending) -> str | None:
        """Name the limit that *job* may exceed beside all that is *under_way*; None if none."""
        if self._most_tokens is None and self._most_cost is None:
            return None
        if not job.sent:
            self._weigh(job)  # there may have been an answer since
        others = list(under_way)
        # What an answer costs is not known before the first.
        is_unknown = not self._answers and bool(others) and job.record.most_tokens is None
        used = spent.total + spent.guessed + sum(other.tokens for other in others) + job.tokens
        if self._most_tokens is not None and (is_unknown or used > self._most_tokens):
            return f"--max-total-tokens {self._most_tokens}"
        if self._most_cost is not None:
            currency = self._currency or ""
            cost = spent.amounts.get(currency, 0) + sum(other.cost for other in others) + job.cost
            if is_unknown or cost > self._most_cost:
                return f"--max-cost {Cost(self._most_cost, currency)}"
        return None
