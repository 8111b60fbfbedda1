"""Rows that were refused in a way that may concern every row: a wrong model, URL or field."""

from __future__ import annotations

import re

from kimi_cli.api.refusals import Refused
from kimi_cli.api.refusals import Verdict as Meaning
from kimi_cli.api.retry import is_foreign
from kimi_cli.batch.jobs import Outcome
from kimi_cli.errors import KimiError

_ENOUGH = 10
"""Rows that are refused alike, and none answered: then every row would be."""
_READ = 1000
"""Characters of a message that are looked at."""
_OF_ALL = (Meaning.NOT_SERVED, Meaning.NOT_THE_API)
_OF_ONE = ("content_filter", "exceed_context_size_error", "context_length_exceeded")
_ABOUT_ONE = r"(?i)too long|too large|context|token limit|max(imum)? .*tokens|risk|polic|moderat"
"""Words that speak of one prompt, however many rows are told so."""
_OWN = r"(?i)\b[\w-]*\d[\w-]*"
"""What differs between two refusals that say the same: numbers, and names with digits in them."""


class Suspects:
    """Holds rows back until one is answered, or enough of them have been told the same."""

    def __init__(self) -> None:
        """Begin with none."""
        self._held: list[Outcome] = []

    def __len__(self) -> int:
        """How many are held."""
        return len(self._held)

    def hold(self, outcome: Outcome) -> None:
        """Hold one more."""
        self._held.append(outcome)

    def release(self) -> list[Outcome]:
        """Give up all, in the order in which they came."""
        held, self._held = self._held, []
        return held

    def find_culprit(self, *, at_end: bool = False) -> KimiError | None:
        """Return what concerns every row: what ten were told, or at the end all that there were.

        At the end, a refusal that may be the rows' own is theirs.
        """
        errors = [outcome.error for outcome in self._held if outcome.error is not None]
        if not errors:
            return None
        last = errors[-1]
        if all(map(_speaks_of_all, errors)):
            return last if at_end or len(errors) >= _ENOUGH else None
        alike = len({_name(error) for error in errors}) == 1
        return last if alike and len(errors) >= _ENOUGH and not _speaks_of_one(last) else None

    @property
    def are_mixed(self) -> bool:
        """Whether they were told different things: then each was told its own."""
        errors = [outcome.error for outcome in self._held if outcome.error is not None]
        return len({_name(error) for error in errors}) > 1 and not all(map(_speaks_of_all, errors))

    @property
    def speak_of_rows(self) -> bool:
        """Whether nothing that is held can concern every row."""
        return all(o.error is not None and _speaks_of_one(o.error) for o in self._held)


def _name(error: KimiError) -> tuple[object, ...]:
    """Return what makes two refusals the same."""
    if isinstance(error, Refused):
        refusal = error.refusal
        return refusal.http_status, refusal.code, re.sub(_OWN, "", (refusal.message or "")[:_READ])
    return type(error), str(error)


def _speaks_of_all(error: KimiError) -> bool:
    """Tell whether *error* is of the kind that a wrong model or URL has."""
    if isinstance(error, Refused) and not is_foreign(error):
        return error.refusal.verdict in _OF_ALL
    return True


def _speaks_of_one(error: KimiError) -> bool:
    if not isinstance(error, Refused):
        return False
    refusal = error.refusal
    return refusal.code in _OF_ONE or bool(re.search(_ABOUT_ONE, (refusal.message or "")[:_READ]))
