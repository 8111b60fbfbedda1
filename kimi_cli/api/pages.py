"""The words of a reply that is not the API's: a proxy's page, a plain text."""

from __future__ import annotations

import re

_LOOKED_AT = 16 * 2**10
"""Bytes of a reply that are searched for its words: a longer one must not take longer."""
_QUOTED = 120
"""Characters of them that are shown."""
_PAGE = rb"(?i)<(?:!doctype|html|head|title|body|h\d|p|center|div)\b"
_UNSEEN = ("style", "script", "title")


def is_page(data: bytes) -> bool:
    """Tell whether *data* begins as HTML."""
    return re.search(_PAGE, data[:1024]) is not None


def read_words(data: bytes) -> str:
    """Return the first words of *data*, in one line; of a page, what a browser shows.

    A title is read only where there is nothing else: most pages repeat it.
    """
    text = data[:_LOOKED_AT].decode(errors="replace")
    if not is_page(data):
        return _join(text[:400])
    seen, unseen, hidden = [], [], ""
    first, *parts = text.split("<")
    for part in parts:
        tag, _, words = part.partition(">")
        name = tag.split(None, 1)[0].lower() if tag.strip() else ""
        if name == f"/{hidden}":
            hidden = ""
        elif name in _UNSEEN and not hidden:
            hidden = name
        if hidden == "title":
            unseen.append(words)
        elif not hidden:
            seen.append(words)
    return _join(" ".join([first, *seen])) or _join(" ".join(unseen))


def _join(text: str) -> str:
    return " ".join(text.split())[:_QUOTED]
