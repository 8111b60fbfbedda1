"""Other models that are asked where one is not to be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from kimi_cli.answer.asking import Follow, Listener, follow_plainly
from kimi_cli.api.messages import Delta, Ending, Request
from kimi_cli.api.refusals import Refused, Verdict
from kimi_cli.errors import KimiError

if TYPE_CHECKING:
    from kimi_cli.api.client import Client

_SPENT = (Verdict.QUOTA_USED_UP, Verdict.SPENT_FOR_NOW)


@dataclass(kw_only=True)
class Fallbacks:
    """The models that stand in, in their order, and those that are known not to answer.

    One object serves a whole run: what one question learns is known to the next.
    """

    models: Sequence[str]
    warn: Callable[[str], None]
    notify: Callable[[KimiError, str], None] = lambda error, other: None
    """Told why another model is asked, and which."""
    _lost: set[str] = field(default_factory=set)

    def list_models(self, first: str) -> list[str]:
        """Return whom to ask in turn where *first* is wanted; it stands for all that are lost."""
        models = dict.fromkeys((first, *self.models))
        return [model for model in models if model not in self._lost] or [first]

    def give_up(self, model: str, error: KimiError, other: str) -> None:
        """Note that *model* does not answer, and say that *other* is asked; load may pass."""
        said = str(error)
        if isinstance(error, Refused):
            said = said.removesuffix(f"; {error.refusal.advice}")
            if error.refusal.verdict is not Verdict.OVERLOADED:
                self._lost.add(model)
        self.notify(error, other)
        self.warn(f"{said}; asking {other} instead")


def fall_back(client: Client, fallbacks: Fallbacks) -> Follow:
    """Return who asks one model after the other, as long as nothing of an answer has come.

    What it returns is for one turn: whoever answers first is asked alone from then on.
    """
    witness = _Witness()

    def follow_any(request: Request, *listeners: Listener) -> Ending:
        models = [witness.model] if witness.model else fallbacks.list_models(request.model)
        for model, other in zip(models, [*models[1:], None], strict=True):
            witness.asked = model
            heard: list[Listener] = [witness, *(_Named(listener, model) for listener in listeners)]
            try:
                return follow_plainly(client, replace(request, model=model), *heard)
            except KimiError as error:
                if other is None or witness.model or not _is_of_model(error):
                    client.explain(error, model)
                    raise
                fallbacks.give_up(model, error, other)
        raise AssertionError("unreachable")

    return follow_any


def _is_of_model(error: KimiError) -> bool:
    """Tell whether another model may answer: one is unknown, overloaded, or its quota is spent."""
    if not isinstance(error, Refused):
        return False
    if error.refusal.verdict is Verdict.NOT_SERVED:
        return error.refusal.names_model
    return error.refusal.verdict in (Verdict.OVERLOADED, *_SPENT)


class _Witness:
    """Knows which model has begun to answer."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self.model: str | None = None

    def note(self, delta: Delta) -> None:
        self.model = self.asked

    def end(self, ending: Ending) -> None:
        self.model = self.asked


class _Named:
    """Tells a listener which model answered, where the host does not."""

    def __init__(self, listener: Listener, model: str) -> None:
        self._model = model
        self._listener = listener
        self.note = listener.note

    def end(self, ending: Ending) -> None:
        self._listener.end(replace(ending, model=ending.model or self._model, asked=self._model))
