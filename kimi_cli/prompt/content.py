"""A prompt: text, and content parts beside it, in the API's own form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
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
        return not self.text.strip() and not self.others

    @property
    def others(self) -> tuple[JSON, ...]:
        """The parts that are no text."""
        if isinstance(self.content, str):
            return ()
        return tuple(part for part in self.content if "text" not in part)

    @property
    def title(self) -> str:
        """The text in one line, or what there is instead."""
        return " ".join(self.text.split()) or ", ".join(f"[{name_part(p)}]" for p in self.others)

    def to_content(self) -> str | list[JSON]:
        """Return the ``content`` of the message that asks it."""
        return self.content if isinstance(self.content, str) else list(self.content)


def join_prompts(prompts: Iterable[Prompt]) -> Prompt:
    """Return one prompt of several, empty ones left out; a blank line parts their texts.

    Pictures alone stand first; parts that had an order keep it, and what is only text follows.
    """
    asked = [prompt for prompt in prompts if not prompt.is_empty]
    if len(asked) == 1:
        return asked[0]
    pictures = [part for prompt in asked if not prompt.text for part in prompt.others]
    parts: list[JSON] = []
    texts: list[str] = []
    for prompt in asked:
        if isinstance(prompt.content, str):
            texts.append(prompt.content)
        elif prompt.text:
            parts += [*_make_text(texts), *prompt.content]
            texts = []
    return put_before([*pictures, *parts], "\n\n".join(texts))


def _make_text(texts: list[str]) -> list[JSON]:
    return [{"type": "text", "text": "\n\n".join(texts)}] if texts else []


def put_before(parts: Sequence[JSON], text: str) -> Prompt:
    """Return the prompt of *parts*, and a *text* behind them, if there is one."""
    if not parts:
        return Prompt(text)
    return Prompt((*parts, {"type": "text", "text": text}) if text else tuple(parts))


def name_part(part: JSON) -> str:
    """Say in a few words what a part that is no text holds."""
    held = part.get("image_url")
    url = held.get("url") if isinstance(held, dict) else held
    if not isinstance(url, str):
        return str(part.get("type") or "something")
    head, comma, data = url.partition(",")
    if not url.startswith("data:") or not comma:
        return f"image: {url}"
    kind = head.removeprefix("data:").partition(";")[0] or "of no kind"
    return f"image: {kind}, {len(data) * 3 // 4 - data[-2:].count('='):,} bytes"


def measure(content: object) -> int:
    """Return about how many bytes the parts of a message's *content* have that are no text."""
    if not isinstance(content, list):
        return 0
    return sum(len(str(part)) for part in content if isinstance(part, dict) and "text" not in part)


LARGEST = 100 * 10**6
"""Bytes that a request with images may have (Moonshot's guide on images)."""


def find_excess(size: int) -> str | None:
    """Say that a request of *size* bytes has too many images in it; None where it can be sent."""
    if size <= LARGEST:
        return None
    return (
        f"the request would have {size / 10**6:,.0f} MB, and hosts take {LARGEST // 10**6}; "
        "send fewer or smaller images: magick OLD -resize 2048x2048 NEW"
    )
