"""Text from outside, made harmless for a terminal.

Control characters could rewrite what is on the screen or answer for the user; bidirectional
overrides and invisible characters could make text say what it does not (CVE-2021-42574). They
are shown instead: C0 and DEL in caret notation, all others as ``<U+XXXX>``.
"""

from __future__ import annotations

import re

# An invisible joiner is honest only inside what it joins: after a letter, a mark or an emoji.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f]"  # C0 but tab and line feed; a lone carriage return is among them
    "|[\x80-\x9f]"  # C1
    "|[\u202a-\u202e\u2066-\u2069]"  # bidirectional overrides and isolates
    "|[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u2028\u2029\u2060-\u2065"
    "\u206a-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]"
    "|(?<![\u0300-\u2000\u2100-\u2bff\u3000-\ufdff\U00010000-\U000dffff\ufe0f])[\u200c\u200d]"
    "|(?<![#*0-9©®\u2000-\u33ff\U0001f000-\U0001faff])[\ufe00-\ufe0f]"
)


class Sanitizer:
    """Makes pieces of text harmless, wherever they were cut."""

    def __init__(self) -> None:
        """Start before the first piece."""
        self._before = ""
        self._held = ""

    def feed(self, text: str) -> str:
        """Return what of *text* can be shown now; at most a carriage return is held back."""
        text = self._held + text
        self._held = ""
        if text.endswith("\r"):
            # Half of a CR LF is harmless, a lone one rewrites the line: the next piece decides.
            text, self._held = text[:-1], "\r"
        if not text:
            return ""
        shown = _clean(self._before + text)[len(_clean(self._before)) :]
        self._before = text[-1]
        return shown

    def flush(self) -> str:
        """Return what was held back."""
        held, self._held = self._held, ""
        return _clean(held)


def sanitize(text: str) -> str:
    """Return the whole of *text* made harmless."""
    return _clean(text)


def _clean(text: str) -> str:
    if _HARMFUL.search(text) is None:
        return text
    return _HARMFUL.sub(_show, text.replace("\r\n", "\n"))


def _show(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20 or code == 0x7F:
        return "^" + chr(code ^ 0x40)
    return f"<U+{code:04X}>"
