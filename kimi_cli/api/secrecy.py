"""A host that repeats a secret of the request must not bring it into what we write."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

SHORTEST_SECRET = 6
"""Characters of a secret below which it would be found in ordinary words."""
TOKEN_SHOWN = "[bearer token]"


class Veil:
    """Takes the bearer token, and other secrets, out of what a host says."""

    def __init__(self, token: str | None, others: Mapping[str, str] = MappingProxyType({})) -> None:
        """Hide *token* and *others*, each with what stands in its place.

        None, or one that is too short to be told from words, hides nothing.
        """
        shown = {**({token: TOKEN_SHOWN} if token is not None else {}), **others}
        known = [secret for secret in shown if len(secret) >= SHORTEST_SECRET]
        # The longest first: one may be a part of another.
        self._shown = {secret: shown[secret] for secret in sorted(known, key=len, reverse=True)}
        self._encoded = [secret.encode() for secret in self._shown]

    def cover(self, value: Any) -> Any:
        """Return *value*, any JSON, without a secret in any of its strings."""
        return self._replace(value) if self._shown else value

    def cover_read(self, value: Any, data: bytes) -> Any:
        """Return *value*, read from *data*, without secrets: most bodies hold none at all."""
        if not self._shown:
            return value
        if b"\\" not in data and not any(secret in data for secret in self._encoded):
            return value
        return self._replace(value)

    def _replace(self, value: Any) -> Any:
        if isinstance(value, str):
            for secret, shown in self._shown.items():
                if secret in value:
                    value = value.replace(secret, shown)
            return value
        if isinstance(value, list):
            return [self._replace(entry) for entry in value]
        if isinstance(value, dict):
            return {self._replace(key): self._replace(entry) for key, entry in value.items()}
        return value
