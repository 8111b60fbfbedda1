"""What the rows that are left will take, before any of them is sent."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kimi_cli.api import codec
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.spending import Spending
from kimi_cli.api.text import quantify
from kimi_cli.api.usage import read_tokens
from kimi_cli.api.vocabulary import Count, TokenCounter
from kimi_cli.batch.records import Record
from kimi_cli.settings.prices import PriceList, explain_lack
from kimi_cli.show.estimates import explain_doubt

_MOST_COUNTED = 2_500_000
"""Tokens, by an estimate, that are counted one by one: some seconds' work."""


@dataclass(frozen=True, eq=False, repr=False)
class Experience:
    """What the answers took that an output holds."""

    answers: int = 0
    tokens: int = 0

    @property
    def average(self) -> float | None:
        """Tokens of an answer; None before there is one."""
        return self.tokens / self.answers if self.answers else None


def read_experience(output: Path | None) -> Experience:
    """Return what the lines of *output* tell of their answers.

    One that is not there, or cannot be read, tells nothing.
    """
    if output is None:
        return Experience()
    answers = tokens = 0
    with contextlib.suppress(OSError):
        for usage in _read_usages(output):
            if (completion := read_tokens(usage).completion) is not None:
                answers += 1
                tokens += completion
    return Experience(answers, tokens)


def _read_usages(output: Path) -> Iterator[Any]:
    if output.is_file():
        with open(output, "rb") as file:
            yield from map(_find_usage, file)


def _find_usage(line: bytes) -> Any:
    """Return the usage in a line of any format; None where there is none."""
    try:
        document = codec.loads(line)
    except ValueError:
        return None
    for path in (("response", "body"), (), ("kimi_response",)):
        value = document
        for key in (*path, "usage"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None:
            return value
    return None


class Forecast:
    """Adds up what rows will take, as far as that can be known."""

    def __init__(self, prices: PriceList, experience: Experience) -> None:
        """Count at *prices*; answers are as long as by *experience*."""
        self._prices = prices
        self._experience = experience
        self._counter = TokenCounter()
        self._prompt = self._most = self._counted = 0
        self._rough = 0.0
        self._unbounded = 0
        self._doubts: dict[str, int] = {}
        self._low, self._high = Spending(), Spending()
        self._lacks: dict[str, int] = {}

    def note(self, record: Record, body: bytes) -> None:
        """Add a row, for which *body* is sent."""
        count = self._count(body)
        self._prompt += count.tokens
        if count.doubt is not None:
            self._doubts[count.doubt] = self._doubts.get(count.doubt, 0) + 1
        most = record.most_tokens
        self._most += most or 0
        self._unbounded += most is None
        price = self._prices.find(record.model)
        if price is None:
            self._lacks[record.model] = self._lacks.get(record.model, 0) + 1
            return
        usual = self._experience.average or 0.0
        usual = usual if most is None else min(usual, most)
        for total, answer in ((self._low, usual), (self._high, most or 0.0)):
            total.add(price.estimate(count.tokens, answer), price.currency)

    def _count(self, body: bytes) -> Count:
        """Count the prompt of a row; what comes late in a large input goes by its length."""
        rough = estimate_tokens(body)
        if self._rough > _MOST_COUNTED:
            ratio = self._counted / self._rough
            return Count(round(rough * ratio), "rows behind the first millions go by their length")
        count = self._counter.count(codec.loads(body))
        self._rough += rough
        self._counted += count.tokens
        return count

    def describe(self) -> Iterator[str]:
        """Yield lines for people."""
        about = "about " if self._doubts else ""
        yield f"prompts: {about}{quantify(self._prompt, 'token')}"
        if self._doubts:
            doubt = max(self._doubts, key=lambda text: self._doubts[text])
            yield explain_doubt(doubt)
        yield f"answers: {self._describe_most()}{self._describe_usual()}"
        yield f"cost: {self._describe_cost()}"

    def _describe_most(self) -> str:
        if self._unbounded:
            return f"{quantify(self._unbounded, 'row')} without a limit (see --max-tokens)"
        return f"at most {quantify(self._most, 'token')}"

    def _describe_usual(self) -> str:
        if (average := self._experience.average) is None:
            return ""
        answers = quantify(self._experience.answers, "answer")
        return f"; {average:.0f} on average so far, in {answers}"

    def _describe_cost(self) -> str:
        if not self._low.amounts:
            return f"unknown; {explain_lack(next(iter(self._lacks), 'the model'))}"
        has_average = self._experience.average is not None
        basis = "answers as so far" if has_average else "prompts alone"
        low = f"{self._low.show_cost()} ({basis})"
        shown = f"about {low}" if has_average else low
        if not self._unbounded:
            shown = f"between {low} and {self._high.show_cost()}"
        lacks = quantify(sum(self._lacks.values()), "row")
        return f"{shown}, without {lacks} of {', '.join(self._lacks)}" if self._lacks else shown
