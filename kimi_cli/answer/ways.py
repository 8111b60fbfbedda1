"""How a host is asked for JSON: in a field of its own, or in words; the host says what it takes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kimi_cli.answer.forms import Form
from kimi_cli.api.refusals import Refused, Verdict
from kimi_cli.settings.profiles import STRUCTURED

JSON = dict[str, Any]

WAYS = STRUCTURED
AUTO = "auto"


_OF_THE_REQUEST = (400, 422, 500, 501)
"""HTTP statuses of a refusal that may mean the way in which a form is asked for."""


@dataclass
class Ways:
    """The way that is in force for one host, and those that are left when it says no.

    One object serves a whole run, and its threads: what one request learns is known to the next.
    A refusal may be the question's own fault, so it tells nothing until the same question is
    answered when it is asked in another way.
    """

    structured: str = AUTO
    notify: Callable[[str], None] = lambda message: None
    _refused: set[str] = field(default_factory=set)
    _taken: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def choose(self, form: Form, refused: Collection[str] = ()) -> str | None:
        """Return the strictest way for an answer of that *form* that may be taken.

        None where the question was *refused* in all of them.
        """
        ways = _list_ways(form) if self.structured == AUTO else (self.structured,)
        return next((way for way in ways if way not in {*refused, *self._refused}), None)

    def may_mean(self, error: Refused, way: str) -> bool:
        """Tell whether *error* may say that the host does not take that *way*."""
        refusal = error.refusal
        is_of_request = (
            refusal.verdict is Verdict.REQUEST_REFUSED and refusal.http_status in _OF_THE_REQUEST
        )
        return is_of_request and self.structured == AUTO and way not in self._taken

    def prove(self, way: str, refused: Mapping[str, object]) -> None:
        """Note that a question was answered in that *way*, which was *refused* in others.

        The values of *refused* say why.
        """
        if way in self._taken and not refused:
            return
        with self._lock:
            self._taken.add(way)
            new = [name for name in refused if name not in {*self._refused, *self._taken}]
            self._refused.update(new)
        for name in new:
            self.notify(f"the host does not take {name} ({refused[name]}); asking with {way}")


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
