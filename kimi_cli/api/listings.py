"""What a host says of its models, in any of the shapes that hosts have for it.

Moonshot's fields are those of platform.kimi.ai/docs/api/list-models; the others were seen at
llama.cpp, LiteLLM, vLLM, Mistral, Groq, LM Studio, OpenRouter and Together.
"""

from __future__ import annotations

from typing import Any

from kimi_cli.api.catalogue import Model
from kimi_cli.api.messages import JSON
from kimi_cli.errors import NotTheApi

_INNER = ("meta", "architecture", "model_info", "capabilities")
"""Objects inside an entry that say more of its model."""
_CONTEXT = (
    *("n_ctx", "context_length", "max_input_tokens", "max_model_len"),
    *("max_context_length", "context_window", "context"),
)
_IMAGES = ("supports_image_in", "supports_vision", "vision", "multimodal")
_THINKS = ("supports_reasoning", "reasoning")


def read_models(entries: Any) -> list[Model]:
    """Return the models of a list; raises NotTheApi for what is no list of objects with an id."""
    try:
        return [_read_model(entry) for entry in entries]
    except (KeyError, TypeError, AttributeError) as error:
        raise NotTheApi("the host's list of models has an unknown shape") from error


def _read_model(entry: JSON) -> Model:
    facts = [entry, *(inner for key in _INNER if isinstance(inner := entry.get(key), dict))]
    thinks = _find_flag(facts, _THINKS, "supported_parameters", "reasoning")
    return Model(
        id=str(entry["id"]),
        context=_find_context(facts),
        thinks=None if thinks is None else ("yes" if thinks else "no"),
        images=_find_flag(facts, _IMAGES, "input_modalities", "image"),
    )


def _find_context(facts: list[JSON]) -> int | None:
    """Return the tokens that the model reads: what the server was started with comes first."""
    for key in _CONTEXT:
        for fact in facts:
            value = fact.get(key)
            if type(value) is int and 0 < value < 2**53:
                return value
    return None


def _find_flag(facts: list[JSON], names: tuple[str, ...], listing: str, entry: str) -> bool | None:
    """Return a fact that is a boolean under one of *names*, or an *entry* in a *listing*."""
    for fact in facts:
        for name in names:
            if isinstance(value := fact.get(name), bool):
                return value
        if isinstance(values := fact.get(listing), list):
            return entry in values
    return None
