"""Which limit a refusal speaks of: Moonshot's text has numbers, the gateway's codes have none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from kimi_cli.api.refusals import Refusal


class Kind(Enum):
    """Which limit a refusal speaks of."""

    CONCURRENCY = "concurrency"
    RATE = "rate"
    TOKENS = "tokens"
    OVERLOAD = "overload"
    UNKNOWN = "load"


@dataclass(frozen=True)
class Notice:
    """What one refusal says: the kind of limit, its value and period (s) where announced."""

    kind: Kind
    limit: float | None = None
    period: float = 1.0


_LOOKED_AT = 1000
"""Characters of a refusal that are searched: a longer one must not hold the results up."""
# Compiled with the first refusal, not for every start of the program.
_NUMBER = r"[^0-9]{0,24}?(\d[\d,]*)"
_ANNOUNCED = (
    (r"(?i)(?:max|organization)[^.]{0,40}concurrency" + _NUMBER, Kind.CONCURRENCY, 0),
    (r"(?i)\bRPM\b" + _NUMBER, Kind.RATE, 60.0),
    (r"(?i)\bTPM\b.*\blimit\D{0,3}(\d[\d,]*)", Kind.TOKENS, 60.0),
)
_BY_CODE = {
    "rate_limited": Kind.CONCURRENCY,  # the gateway's two codes
    "too_many_requests": Kind.RATE,
    "engine_overloaded_error": Kind.OVERLOAD,
}


def read_notice(refusal: Refusal) -> Notice:
    """Read which limit *refusal* speaks of.

    Moonshot's texts name the limit that was reached and its value: "organization max concurrency:
    N", "max RPM: N", "TPM rate limit, current:X, limit:Y" (platform.kimi.ai/docs/api/errors). The
    gateway's codes stand alone (docs.acedata.cloud/en/concepts/responses).
    """
    words = (refusal.message or "")[:_LOOKED_AT]
    for pattern, kind, period in _ANNOUNCED:
        if found := re.search(pattern, words):
            return Notice(kind, float(found[1].replace(",", "")), period or 1.0)
    if refusal.http_status in (503, 529):
        return Notice(Kind.OVERLOAD)
    return Notice(_BY_CODE.get(refusal.code or "", Kind.UNKNOWN))
