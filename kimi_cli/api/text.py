"""Text that JSON allowed and UTF-8 does not."""

from __future__ import annotations


def mend_surrogates(text: str) -> str:
    """Join surrogate pairs, and put U+FFFD in the place of a lone one, so *text* can be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text
