"""What must never be seen: bearer tokens, kept out of all that is told."""

from __future__ import annotations

import binascii

_SHORTEST_SECRET = 6
_SHORTEST_PART = 8


class Secrets:
    """The secrets of this run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._secrets: list[str] = []

    def hide(self, secret: str) -> None:
        """Take *secret*, plain or in base64, out of every text from now on."""
        if len(secret) < _SHORTEST_SECRET:
            return  # it would be found in ordinary words
        encoded = secret.encode()
        self._secrets += [secret, binascii.b2a_base64(encoded, newline=False).decode().rstrip("=")]

    def redact(self, text: str) -> str:
        """Return *text* without the secrets that were hidden, or a beginning that was cut off."""
        for secret in self._secrets:
            if secret[:_SHORTEST_PART] in text:
                for length in range(len(secret), min(len(secret), _SHORTEST_PART) - 1, -1):
                    text = text.replace(secret[:length], "[bearer token]")
        return text
