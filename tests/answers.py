"""Answers of `kimi ask` for the tests: what hosts reply, and what must come out."""

from __future__ import annotations

import pytest
from program import Result

NO_STREAM = pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])


def lines(text: bytes) -> list[str]:
    """The lines of a stream, each of which must be ended."""
    assert text.endswith(b"\n") or not text
    return text.decode().split("\n")[:-1]


def assert_failed(result: Result, status: int, *words: str) -> None:
    """Nothing on stdout, and one line on stderr that holds these words."""
    assert (result.stdout, result.status) == (b"", status), result.error
    assert result.error.startswith("kimi: ")
    assert result.error.count("\n") == 1
    for word in words:
        assert word in result.error
