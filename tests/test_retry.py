"""What is tried again, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.api.refusals import Refusal, Refused
from kimi_cli.api.retry import RetryPolicy, is_transient
from kimi_cli.errors import (
    BadInput,
    KimiError,
    NotTheApi,
    StreamTruncated,
    TimedOut,
    Unreachable,
)


def refuse(status: int, retry_after: float | None = None) -> Refused:
    """Return a refusal of that HTTP status."""
    return Refused(Refusal(status, retry_after=retry_after))


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        *((refuse(status), True) for status in (408, 425, 429, 500, 502, 503, 504, 529)),
        *((refuse(status), False) for status in (302, 400, 401, 402, 403, 404, 413, 422, 501)),
        (Unreachable("refused", transient=True), True),
        (Unreachable("bad certificate"), False),
        (TimedOut("idle"), True),
        (TimedOut("total", final=True), False),
        (StreamTruncated("cut"), True),
        (NotTheApi("html"), False),
        (BadInput("x"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: KimiError, transient: bool) -> None:
    """The table of what is worth another attempt."""
    assert is_transient(error) is transient


@given(st.integers(1, 12))
def test_the_wait_grows_and_is_random(attempt: int) -> None:
    """Full jitter: anything from 0 to 1, 2, 4 … 30 seconds."""
    delay = RetryPolicy(retries=20).plan_delay(refuse(500), attempt=attempt, elapsed=0)
    assert delay is not None
    assert 0 <= delay <= min(30, 2 ** (attempt - 1))


def test_what_the_host_asks_for_is_a_floor() -> None:
    """Retry-After is waited for, and jitter comes on top."""
    delay = RetryPolicy().plan_delay(refuse(429, 5.0), attempt=1, elapsed=0)
    assert delay is not None
    assert 5 <= delay <= 6


@pytest.mark.parametrize(
    ("error", "attempt", "elapsed"),
    [
        (refuse(500), 3, 0),
        (refuse(400), 1, 0),
        (refuse(429, 121.0), 1, 0),
        (refuse(429, 30), 1, 100),
    ],
)
def test_it_ends(error: KimiError, attempt: int, elapsed: float) -> None:
    """No more attempts, a final error, or a wait that the budget cannot hold."""
    assert RetryPolicy().plan_delay(error, attempt=attempt, elapsed=elapsed) is None
