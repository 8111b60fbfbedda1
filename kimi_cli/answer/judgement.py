"""Whether an answer is whole, and what follows where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kimi_cli.api.messages import Ending
from kimi_cli.errors import IncompleteAnswer


@dataclass(frozen=True)
class Answer:
    """How an answer ended, and whether it has any text."""

    ending: Ending
    has_text: bool

    @property
    def flaw(self) -> str | None:
        """Why it is not whole; None when the model came to its own full stop."""
        return self.ending.find_flaw(has_text=self.has_text)


def judge(answer: Answer, *, allow_incomplete: bool, warn: Callable[[str], None]) -> None:
    """Raise IncompleteAnswer unless the answer is whole, or only *warn* of what it lacks."""
    flaw = answer.flaw
    if flaw is None:
        return
    if not allow_incomplete:
        raise IncompleteAnswer(flaw)
    warn(flaw)
