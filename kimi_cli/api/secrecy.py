"""A host that repeats the bearer token must not bring it into what we write."""

from __future__ import annotations

from typing import Any

_SHORTEST = 6
"""Characters of a token below which it would be found in ordinary words."""
_SHOWN = "[bearer token]"


class Veil:
    """Takes one bearer token out of what a host says."""

    def __init__(self, token: str | None) -> None:
        """Hide *token*; None, or one that is too short to be told from words, hides nothing."""
        self._token = token if token is not None and len(token) >= _SHORTEST else None

    def cover(self, value: Any) -> Any:
        """Return *value*, any JSON, without the token in any of its strings."""
        if self._token is None:
            return value
        return _replace(value, self._token)

    def cover_read(self, value: Any, data: bytes) -> Any:
        """Return *value*, read from *data*, without the token: most bodies hold none at all."""
        if self._token is None or (b"\\" not in data and self._token.encode() not in data):
            return value
        return _replace(value, self._token)


def _replace(value: Any, token: str) -> Any:
    if isinstance(value, str):
        return value.replace(token, _SHOWN) if token in value else value
    if isinstance(value, list):
        return [_replace(entry, token) for entry in value]
    if isinstance(value, dict):
        return {_replace(key, token): _replace(entry, token) for key, entry in value.items()}
    return value
