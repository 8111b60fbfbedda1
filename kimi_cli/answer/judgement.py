"""Whether an answer is whole, and what follows where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kimi_cli.api.messages import Ending
from kimi_cli.errors import IncompleteAnswer, InvalidAnswer

if TYPE_CHECKING:
    from kimi_cli.answer.forms import Fit


@dataclass(frozen=True)
class Answer:
    """How an answer ended, and whether it has any text."""

    ending: Ending
    has_text: bool
    fit: Fit | None = None
    """What a whole answer is that has the form that was asked for."""
    problem: str | None = None
    """Why a whole answer has not that form."""

    @property
    def flaw(self) -> str | None:
        """Why it is not whole; None when the model came to its own full stop."""
        return self.ending.find_flaw(has_text=self.has_text)


def judge(
    answer: Answer,
    *,
    allow_incomplete: bool,
    allow_invalid: bool = False,
    warn: Callable[[str], None],
) -> None:
    """Raise IncompleteAnswer or InvalidAnswer, or only *warn* of what is allowed to be wrong."""
    if answer.flaw is not None:
        if not allow_incomplete:
            raise IncompleteAnswer(answer.flaw)
        warn(answer.flaw)
    if answer.problem is not None:
        what = f"the answer does not fit: {answer.problem}"
        if not allow_invalid:
            raise InvalidAnswer(f"{what}; ask in other words, or see --reask and --allow-invalid")
        warn(what)
