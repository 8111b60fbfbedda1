"""How long a refusal asks to wait, whichever header says it."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.api.waits import (
    find_hint,
    find_reset,
    find_wish,
    parse_duration,
    parse_reset,
    parse_retry_after,
)

DATE = "Mon, 23 Nov 2026 10:00:00 GMT"
NOW = datetime(2026, 11, 23, 10, tzinfo=UTC).timestamp()


def date(seconds: float) -> str:
    """Return the HTTP date that many seconds after NOW."""
    return format_datetime(datetime.fromtimestamp(NOW + seconds, UTC), usegmt=True)


@pytest.mark.parametrize(
    ("value", "sent", "seconds"),
    [
        (None, None, None),
        ("0", None, 0.0),
        ("1.5", None, 1.5),
        ("-1", None, None),
        ("soon", None, None),
        ("nan", None, None),
        ("inf", None, None),
        ("9" * 5000, None, None),
        (date(9), DATE, 9.0),
        (date(7200), DATE, 7200.0),
        (date(-3600), DATE, None),
        (date(9), "rubbish", 9.0),
        (date(9), None, 9.0),
        (date(7200), None, None),
        (date(-9), None, None),
    ],
)
def test_retry_after_is_read(value: str | None, sent: str | None, seconds: float | None) -> None:
    """S12: a date counts from the reply's Date, else from our clock unless that is hours away."""
    assert parse_retry_after(value, sent, NOW) == seconds


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("20ms", 0.02),
        ("1h2m3.5s", 3723.5),
        ("1d", 86400.0),
        ("7", 7.0),
        (str(int(NOW) + 9), 9.0),
        (str((int(NOW) + 9) * 1000), 9.0),
        ("2026-11-23T10:00:09Z", 9.0),
        ("2026-11-23T11:00:09+01:00", 9.0),
        (str(int(NOW) - 9), None),
        (str(int(NOW) + 7200), None),
        ("soon", None),
        ("", None),
        ("-1s", None),
        ("1s" * 30, None),
    ],
)
def test_resets_are_read(value: str, seconds: float | None) -> None:
    """OpenAI's durations, seconds, and times since 1970 or of RFC 3339."""
    assert parse_reset(value, None, NOW) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("fields", "wish", "reset"),
    [
        ({}, None, None),
        ({"retry-after": "7"}, 7.0, None),
        ({"retry-after": "7", "retry-after-ms": "500"}, 0.5, None),
        ({"llm_provider-retry-after": "7"}, 7.0, None),
        ({"llm_provider-retry-after-ms": "70"}, 0.07, None),
        ({"retry-after": "soon", "llm_provider-retry-after": "7"}, 7.0, None),
        ({"x-ratelimit-reset": "7"}, None, 7.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, None, 1.0),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "0"}, None, 360.0),
        ({"x-ratelimit-reset-tokens": "6m0s", "x-ratelimit-remaining-tokens": "9"}, None, None),
        (
            {"llm_provider-x-ratelimit-reset": "3", "llm_provider-x-ratelimit-remaining": "0"},
            None,
            3.0,
        ),
    ],
)
def test_one_place_reads_all_headers(
    fields: dict[str, str], wish: float | None, reset: float | None
) -> None:
    """S6: what is asked for, and when a limit that is used up begins anew."""
    assert find_wish(fields.get, NOW) == wish
    assert find_reset(fields.get, NOW) == reset


@given(st.text(max_size=50))
def test_nonsense_is_no_wish(text: str) -> None:
    """Whatever a header says, the wait is a finite number that is not below 0, or none."""
    for seconds in (
        parse_retry_after(text, text, NOW),
        parse_reset(text, text, NOW),
        parse_duration(text),
        find_hint(f"try again in {text}", [{"retryDelay": text}]),
    ):
        assert seconds is None or 0 <= seconds < float("inf")
