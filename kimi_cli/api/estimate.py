"""How many tokens a text may have, where nobody has counted them."""

from __future__ import annotations

import re

_EMBEDDED = rb";base64,[A-Za-z0-9+/=]+"
_TOKENS_OF_IMAGE = 1500.0
"""Roughly, of an image of a megapixel; its bytes tell nothing."""
_LETTERS_PER_TOKEN, _SIGNS_PER_TOKEN = 3.0, 1.5
"""Roughly, of ASCII and of all other characters."""


def estimate_tokens(text: str | bytes) -> float:
    """Return about how many tokens *text* has, which may be UTF-8 already, with images in it."""
    data = text if isinstance(text, bytes) else text.encode(errors="replace")
    if b";base64," in data:
        data, images = re.subn(_EMBEDDED, b"", data)
        return images * _TOKENS_OF_IMAGE + estimate_tokens(data)
    length = len(data.decode(errors="replace") if isinstance(text, bytes) else text)
    signs = (len(data) - length) / 2  # most have three bytes
    return (length - signs) / _LETTERS_PER_TOKEN + signs / _SIGNS_PER_TOKEN
