"""Why a count of tokens is an estimate, for people."""

from __future__ import annotations

from kimi_cli.api.vocabulary import NOT_INSTALLED


def explain_doubt(doubt: str) -> str:
    """Say why a count is an estimate, and what can be done about it."""
    shown = f"this is an estimate: {doubt}"
    if doubt != NOT_INSTALLED:
        return shown
    from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for who lacks it

    return f"{shown}; for exact counts, run: {advise_extra('tokens')}"
