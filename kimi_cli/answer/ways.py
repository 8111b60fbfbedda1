"""How a host is asked for JSON: in a field of its own, or in words; the host says what it takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kimi_cli.answer.forms import Form
from kimi_cli.settings.profiles import STRUCTURED

JSON = dict[str, Any]

WAYS = STRUCTURED
AUTO = "auto"


@dataclass
class Ways:
    """The way that is in force for one host, and those that are left when it says no.

    One object serves a whole run, and its threads: what one request learns is known to the next.
    """

    structured: str = AUTO
    notify: Callable[[str], None] = lambda message: None
    _refused: set[str] = field(default_factory=set)

    def choose(self, form: Form) -> str:
        """Return the way to ask for an answer of that *form*."""
        if self.structured != AUTO:
            return self.structured
        return next(way for way in _list_ways(form) if way not in self._refused)

    def give_up(self, way: str, form: Form, reason: str) -> bool:
        """Note that the host refused a request that was asked in that *way*.

        Returns whether another is left, which the next request takes.
        """
        left = [other for other in _list_ways(form) if other not in {*self._refused, way}]
        if self.structured != AUTO or not left:
            return False
        if way not in self._refused:
            self._refused.add(way)
            self.notify(f"the host does not take {way} ({reason}); asking with {left[0]}")
        return True


def _list_ways(form: Form) -> Sequence[str]:
    """Return the ways that make sense for a *form*, the strictest first."""
    if not form.is_json:
        return WAYS[2:]
    return WAYS if form.schema is not None else WAYS[1:]


def make_format(form: Form, way: str) -> JSON | None:
    """Return the ``response_format`` that asks for *form*; None where words do (OpenAI's chat
    reference; Moonshot's chat reference for ``strict``).
    """
    if not form.is_json or way == "prompt":
        return None
    if way == "json_schema" and form.schema is not None:
        schema = {"name": "answer", "strict": True, "schema": form.schema}
        return {"type": "json_schema", "json_schema": schema}
    return {"type": "json_object"}


def make_instruction(form: Form, way: str) -> str | None:
    """Return what the system prompt says of *form*; None where a field says it."""
    return None if form.is_json and way == "json_schema" else form.instruction
