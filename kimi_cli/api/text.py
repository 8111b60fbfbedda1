"""Small matters of text: what UTF-8 does not allow, and how many of something there are."""

from __future__ import annotations


def mend_surrogates(text: str) -> str:
    """Join surrogate pairs, and put U+FFFD in the place of a lone one, so *text* can be UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def part_pair(text: str) -> tuple[str, str]:
    """Part *text* from the first half of a surrogate pair at its end; either may be empty.

    Some servers cut their deltas inside a character.
    """
    cut = len(text) - ("\ud800" <= text[-1:] <= "\udbff")
    return text[:cut], text[cut:]


def quantify(number: int, noun: str, verb: str = "") -> str:
    """Return so many of *noun*, and what they do: 1 row asks, 2 rows ask, 0 rows ask."""
    if number == 1:
        return f"1 {noun} {verb}s" if verb else f"1 {noun}"
    plural = f"{noun[:-1]}ies" if noun.endswith("ry") else f"{noun}s"
    return f"{number} {plural} {verb}".rstrip()
