"""A prompt: text, and content parts beside it, in the API's own form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kimi_cli.api.messages import JSON, read_text


@dataclass(frozen=True)
class Prompt:
    """What one question asks.

    *content* is text, or the parts of a message in their order: objects with a ``type``, of which
    those of text have a ``text`` (OpenAI's chat reference, "Content parts").
    """

    content: str | tuple[JSON, ...]

    @property
    def text(self) -> str:
        """The content as far as it is text."""
        return read_text(self.content)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked."""
        return isinstance(self.content, str) and not self.content.strip()

    def to_content(self) -> str | list[JSON]:
        """Return the ``content`` of the message that asks it."""
        return self.content if isinstance(self.content, str) else list(self.content)

    def list_parts(self) -> list[JSON]:
        """Return the content as parts, text included."""
        if isinstance(self.content, str):
            return [{"type": "text", "text": self.content}]
        return list(self.content)


def join_prompts(prompts: Iterable[Prompt]) -> Prompt:
    """Return one prompt of several, empty ones left out; a blank line parts their texts.

    Where one of them has parts, the parts of all follow each other.
    """
    asked = [prompt for prompt in prompts if not prompt.is_empty]
    if all(isinstance(prompt.content, str) for prompt in asked):
        return Prompt("\n\n".join(prompt.text for prompt in asked))
    return Prompt(tuple(part for prompt in asked for part in prompt.list_parts()))
