"""On what terms questions are asked: which model of which host, with which body fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kimi_cli.api.fields import override
from kimi_cli.settings.precedence import Rank, Settings, Source, settle_model

if TYPE_CHECKING:
    from kimi_cli.answer.checking import Check
    from kimi_cli.answer.fallback import Fallbacks
    from kimi_cli.conversation.record import Manner


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What stays from one question to the next, until a person changes it."""

    settings: Settings
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Body fields by their API names; the model is not among them."""
    system: str | None = None
    """A system prompt that is in force from the next question on."""
    stream: bool = True
    check: Check | None = None
    """What an answer must be; None where any will do."""
    fallbacks: Fallbacks | None = None
    """Who is asked where the model is not to be had."""
    extend: int = 0
    """How often an answer is gone on with that was cut short."""
    prefix: str = ""
    """What an answer begins with."""

    @property
    def model(self) -> str:
        """The model that is asked."""
        return self.settings.model

    @property
    def keeps_reasoning(self) -> bool:
        """Whether the model was asked to keep what it reasoned in earlier turns."""
        thinking = self.parameters.get("thinking")
        return isinstance(thinking, dict) and thinking.get("keep") == "all"

    @property
    def sends_reasoning(self) -> bool:
        """Whether what was reasoned is sent back, to any of those who may be asked."""
        from kimi_cli.api.catalogue import wants_reasoning  # noqa: PLC0415 - few questions need it

        others = self.fallbacks.models if self.fallbacks else ()
        return self.keeps_reasoning or any(map(wants_reasoning, (self.model, *others)))

    def name_model(self, model: str) -> Terms:
        """Return terms on which *model* is asked, as a person wants now."""
        source = Source(Rank.OPTION, "/model")
        return replace(self, settings=self.settings.name_model(model, source))

    def set_field(self, name: str, value: Any) -> Terms:
        """Return terms with one more body field, which may be the model."""
        parameters = override(self.parameters, {name: value})
        settings = settle_model(self.settings, parameters)
        return replace(self, settings=settings, parameters=parameters)

    def drop_field(self, name: str) -> Terms:
        """Return terms without a body field."""
        rest = {key: value for key, value in self.parameters.items() if key != name}
        return replace(self, parameters=rest)

    def go_on_as(self, manner: Manner) -> Terms:
        """Return the terms of a conversation that was held in that *manner* with this host."""
        source = Source(Rank.CONVERSATION, "the conversation")
        settings = self.settings.name_model(manner.model, source)
        return replace(self, settings=settings, parameters=dict(manner.options))

    def make_manner(self) -> Manner:
        """Return what a conversation remembers of how a question was asked."""
        from kimi_cli.conversation.record import Manner  # noqa: PLC0415 - most runs keep nothing

        return Manner(
            model=self.settings.model,
            profile=self.settings.profile.name,
            base_url=self.settings.base_url or None,
            options=self.parameters,
        )

    def find_window(self) -> int | None:
        """Return how many tokens the model reads, where that is known."""
        from kimi_cli.api.catalogue import find_model  # noqa: PLC0415 - for a chat only

        if (known := find_model(self.settings.model)) is not None:
            return known.context
        if not self.settings.needs_engine:
            return None  # a host may not tell
        from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

        return engine.CONTEXT_TOKENS
