"""The tokens of an answer, as hosts report them in several places."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kimi_cli.api.messages import JSON, count_tokens

_CACHED = ("cached_tokens", "prompt_cache_hit_tokens")
"""Beside ``prompt_tokens``: Moonshot's name, and DeepSeek's."""


@dataclass(frozen=True, eq=False, repr=False)
class Tokens:
    """What one answer took; None where the host did not say."""

    prompt: int | None = None
    completion: int | None = None
    """Those of the answer, its reasoning among them."""
    cached: int | None = None
    """Those of the prompt that the host had read before."""
    reasoning: int | None = None

    @property
    def total(self) -> int:
        """All that are known."""
        return (self.prompt or 0) + (self.completion or 0)

    @property
    def is_known(self) -> bool:
        """Whether there is enough to say what the answer costs."""
        return self.prompt is not None and self.completion is not None

    def to_json(self) -> JSON:
        """Return the object that outputs show, whatever the host calls things."""
        return {
            "prompt": self.prompt,
            "cached": self.cached,
            "completion": self.completion,
            "reasoning": self.reasoning,
        }

    def __str__(self) -> str:
        """Return them in words."""
        return describe_tokens(self.prompt, self.cached, self.completion, self.reasoning)


def describe_tokens(
    prompt: int | None, cached: int | None, completion: int | None, reasoning: int | None
) -> str:
    """Say how many tokens there are: those of the prompt, then those of the answer."""
    asked = _show(prompt) + (f" ({cached} cached)" if cached else "")
    answered = _show(completion) + (f" ({reasoning} of reasoning)" if reasoning else "")
    return f"{asked} + {answered} tokens"


def _show(number: int | None) -> str:
    return "?" if number is None else str(number)


def read_tokens(usage: Any) -> Tokens:
    """Read the ``usage`` object of an answer, which may be anything.

    Details are those of OpenAI's reference (``prompt_tokens_details.cached_tokens``,
    ``completion_tokens_details.reasoning_tokens``).
    """
    if not isinstance(usage, dict):
        return Tokens()
    prompt = count_tokens(usage, "prompt_tokens")
    completion = count_tokens(usage, "completion_tokens")
    cached = _find_detail(usage, "prompt_tokens_details", "cached_tokens")
    for name in _CACHED:
        cached = count_tokens(usage, name) if cached is None else cached
    reasoning = _find_detail(usage, "completion_tokens_details", "reasoning_tokens")
    if reasoning is None:
        reasoning = count_tokens(usage, "reasoning_tokens")
    return Tokens(prompt, completion, _bound(cached, prompt), _bound(reasoning, completion))


def _find_detail(usage: Mapping[str, Any], group: str, name: str) -> int | None:
    details = usage.get(group)
    return count_tokens(details, name) if isinstance(details, dict) else None


def _bound(part: int | None, whole: int | None) -> int | None:
    """A part is never more than the whole, whatever a host says."""
    return part if part is None or whole is None else min(part, whole)
