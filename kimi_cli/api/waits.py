"""How long a refusal asks to wait, in seconds, whatever header or word says it.

Sources: RFC 9110, section 10.2.3 (Retry-After); OpenAI's guide to rate limits, whose client reads
``retry-after-ms`` first; LiteLLM's documents, which put ``llm_provider-`` before the headers of
the host behind it; ``google.rpc.RetryInfo`` in the error bodies of Gemini.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

_PREFIXES = ("", "llm_provider-")
_BELIEVED = 600.0
"""Seconds that our own clock may find until a date: one that is wrong by hours must not count."""
_LONGEST = 40
"""Characters of a duration or a date."""
_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_EPOCH, _EPOCH_MS = 1e9, 1e11
"""From these numbers on, a reset is no count of seconds but a time: in s, in ms."""

Header = Callable[[str], str | None]
"""Looks up a header field by its name, without regard to case."""


def find_wish(header: Header, now: float) -> float | None:
    """Return the wait that the headers ask for; None where they ask for none.

    *now* is this machine's clock, seconds since 1970: it stands in for a missing Date.
    """
    for prefix in _PREFIXES:
        milliseconds = _read_number(header(f"{prefix}retry-after-ms"))
        if milliseconds is not None:
            return milliseconds / 1000
        wish = parse_retry_after(header(f"{prefix}retry-after"), header("date"), now)
        if wish is not None:
            return wish
    return None


def find_reset(header: Header, now: float) -> float | None:
    """Return when a limit that is used up begins anew; None where no header tells.

    Of several limits it is the last of those with nothing remaining. Where none says what
    remains, it is the first: a question too early costs less than a long wait for nothing.
    """
    spent, unsaid = [], []
    for prefix in _PREFIXES:
        for unit in ("-requests", "-tokens", ""):
            reset = parse_reset(header(f"{prefix}x-ratelimit-reset{unit}"), header("date"), now)
            remaining = header(f"{prefix}x-ratelimit-remaining{unit}")
            if reset is not None and remaining is None:
                unsaid.append(reset)
            elif reset is not None and _read_number(remaining) == 0:
                spent.append(reset)
    return max(spent) if spent else min(unsaid, default=None)


def parse_retry_after(
    value: str | None, date: str | None = None, now: float | None = None
) -> float | None:
    """Return the seconds that a Retry-After header asks for; None for nonsense.

    *value* is a number of seconds or an HTTP date. A date counts from the reply's own *date*
    header, for the two clocks may differ; without one from *now*, if that is not far away.
    """
    if value is None or len(value) > _LONGEST:
        return None
    if (seconds := _read_number(value)) is not None:
        return seconds
    until = _read_date(value)
    if until is None:
        return None
    since = _read_date(date)
    if since is not None:
        return until - since if until >= since else None
    if now is None or not 0 <= until - now <= _BELIEVED:
        return None
    return until - now


def parse_reset(value: str | None, date: str | None, now: float) -> float | None:
    """Return the seconds until a limit begins anew; None for nonsense.

    Hosts write a duration ("1s", "6m0s", "20ms"), a number of seconds, or a time: seconds or
    milliseconds since 1970, or RFC 3339.
    """
    if value is None or len(value) > _LONGEST:
        return None
    number = _read_number(value)
    if number is not None and number < _EPOCH:
        return number
    if number is None:
        if (seconds := parse_duration(value)) is not None:
            return seconds
        number = _read_timestamp(value)
    if number is None:
        return None
    since = _read_date(date)
    left = (number / 1000 if number >= _EPOCH_MS else number) - (now if since is None else since)
    return left if 0 <= left <= (_BELIEVED if since is None else float("inf")) else None


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration such as "6m0s" or "34.5s"; None for anything else."""
    text = text.strip()[:_LONGEST]
    if not re.fullmatch(r"(?:\d+(?:\.\d+)?(?:ms|[dhms]))+", text):
        return None
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|[dhms])", text)
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def find_hint(words: str, details: Any) -> float | None:
    """Return the wait that an error body asks for: RetryInfo, or "try again in 20s" in *words*.

    Moonshot's "try again after 1 seconds" is not read: it is said whatever the limit is.
    """
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and isinstance(delay := detail.get("retryDelay"), str):
            return parse_duration(delay)
    found = re.search(r"(?i)\b(?:retry|try again) in ((?:\d[\d.]{0,20}(?:ms|[dhms])){1,4})", words)
    return parse_duration(found[1]) if found else None


def _read_number(value: str | None) -> float | None:
    """Return a finite number that is not below 0."""
    try:
        number = float((value or "")[:_LONGEST])
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None


def _read_date(value: str | None) -> float | None:
    """Return an HTTP date as seconds since 1970."""
    try:
        return parsedate_to_datetime(value or "").timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def _read_timestamp(value: str) -> float | None:
    """Return a time of RFC 3339 as seconds since 1970."""
    try:
        time = datetime.fromisoformat(value.strip())
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
