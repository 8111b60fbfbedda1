"""The text in what hosts send instead of a text: lists of parts, objects of reasoning.

Mistral's reasoning models answer with ``[{"type": "thinking", "thinking": [...]}, {"type":
"text", "text": ...}]`` (docs.mistral.ai/capabilities/reasoning); others send ``reasoning`` as
``{"content": ...}`` or as a list of summaries.
"""

from __future__ import annotations

from typing import Any

_THOUGHTS = ("thinking", "reasoning", "reasoning_content", "reasoning_text")
_HOLDERS = ("text", "content", "thinking", "reasoning", "summary", "value")
"""Keys under which the text of a part stands."""
_DEEPEST = 8


def read_content(content: Any) -> tuple[str, str]:
    """Return the text in the content of an answer, and the reasoning that stands among it.

    Parts of other kinds, images and references, hold neither. Raises TypeError for what is no
    text, no part and no list of parts.
    """
    if content is None or isinstance(content, str):
        return content or "", ""
    texts, thoughts = [], []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict):
            raise TypeError("neither a text nor a part")
        kind = part.get("type")
        if kind in _THOUGHTS:
            thoughts.append(gather_text(part))
        elif kind in ("text", "output_text", None):
            if part.keys().isdisjoint(_HOLDERS):
                raise TypeError("a part without its text")
            texts.append(gather_text(part))
        elif kind == "refusal" and isinstance(part.get("refusal"), str):
            texts.append(part["refusal"])
    return "".join(texts), "".join(thoughts)


def gather_text(value: Any, depth: int = 0) -> str:
    """Return the text in *value*: a string, or what an object or list of them holds of it."""
    if isinstance(value, str):
        return value
    if depth < _DEEPEST and isinstance(value, list):
        return "".join(gather_text(entry, depth + 1) for entry in value)
    if depth < _DEEPEST and isinstance(value, dict):
        found = (gather_text(value.get(key), depth + 1) for key in _HOLDERS)
        return next((text for text in found if text), "")
    return ""


def read_reasoning(message: dict[str, Any]) -> str:
    """Return the reasoning of a message; ``reasoning`` is a copy where both names are sent.

    Raises TypeError for what is no text, no object and no list of objects.
    """
    reasoning = message.get("reasoning_content") or message.get("reasoning") or ""
    for part in reasoning if isinstance(reasoning, list) else ():
        if not isinstance(part, dict):
            raise TypeError("not a part")
    if not isinstance(reasoning, (str, list, dict)):
        raise TypeError("no reasoning")
    return gather_text(reasoning)
