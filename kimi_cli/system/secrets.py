"""What must never be seen: bearer tokens and keys, kept out of all that is told."""

from __future__ import annotations

import binascii

from kimi_cli.api.secrecy import SHORTEST_SECRET, TOKEN_SHOWN

_SHORTEST_PART = 8


class Secrets:
    """The secrets of this run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._secrets: dict[str, tuple[int, str]] = {}
        """For each, how much of its beginning betrays it, and what is shown in its place."""

    def hide(self, secret: str, shown: str = TOKEN_SHOWN) -> None:
        """Take *secret*, plain or in base64, out of every text from now on.

        *shown* stands in its place. Of a bearer token a beginning betrays it; that of a key among
        headers may be the scheme of a URL.
        """
        if len(secret) < SHORTEST_SECRET:
            return  # it would be found in ordinary words
        encoded = binascii.b2a_base64(secret.encode(), newline=False).decode().rstrip("=")
        for text in (secret, encoded):
            part = _SHORTEST_PART if shown == TOKEN_SHOWN else max(_SHORTEST_PART, len(text) // 2)
            self._secrets[text] = (min(part, len(text)), shown)

    def redact(self, text: str) -> str:
        """Return *text* without the secrets that were hidden, or a beginning that was cut off."""
        for secret, (part, shown) in sorted(
            self._secrets.items(), key=lambda entry: -len(entry[0])
        ):
            if secret[:part] in text:
                for length in range(len(secret), part - 1, -1):
                    text = text.replace(secret[:length], shown)
        return text
