"""How many tokens a text may have, where nobody has counted them."""

from __future__ import annotations

_LETTERS_PER_TOKEN, _SIGNS_PER_TOKEN = 3.0, 1.5
"""Roughly, of ASCII and of all other characters."""


def estimate_tokens(text: str | bytes) -> float:
    """Return about how many tokens *text* has, which may be UTF-8 already."""
    data = text if isinstance(text, bytes) else text.encode(errors="replace")
    length = len(data.decode(errors="replace") if isinstance(text, bytes) else text)
    signs = (len(data) - length) / 2  # most have three bytes
    return (length - signs) / _LETTERS_PER_TOKEN + signs / _SIGNS_PER_TOKEN
