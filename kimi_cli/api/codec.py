"""JSON as it goes over the wire: read with orjson where it is installed, written by the stdlib.

Writing stays with one library, so that the same request has the same bytes on every machine.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _parse_finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is out of range")
    return number


def loads_exactly(data: bytes | str) -> Any:
    """Parse *data* as RFC 8259 has it; whole numbers of any size stay whole.

    What is not JSON, as NaN is not, raises JSONDecodeError; a number that overflows, and what is
    nested too deeply, another ValueError.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_finite)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _loads_with_fallback(data: bytes | str) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        # orjson refuses escaped lone surrogates, which some servers send inside an answer.
        return loads_exactly(data)


try:
    import orjson
except ImportError:
    loads: Callable[[bytes | str], Any] = loads_exactly
else:
    loads = _loads_with_fallback


def _make_encoder(*, sort_keys: bool) -> json.JSONEncoder:
    return json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys
    )


_IN_ORDER, _SORTED = _make_encoder(sort_keys=False), _make_encoder(sort_keys=True)


_DEEP, _MARGIN = 500, 100
"""Brackets in a text that may be too deep, and the levels that writing it may add."""


def refuse_depth(value: Any, text: bytes | str) -> None:
    """Raise ValueError when *value*, read from *text*, is too deep to be written again."""
    opening: Any = (b"[", b"{") if isinstance(text, bytes) else ("[", "{")
    if len(text) <= _DEEP or sum(map(text.count, opening)) <= _DEEP:
        return
    for _ in range(_MARGIN):
        value = [value]
    try:
        dumps(value)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def dumps(value: Any, *, sort_keys: bool = False) -> str:
    """Compact JSON with the text itself, not escapes; NaN and infinities raise ValueError."""
    return (_SORTED if sort_keys else _IN_ORDER).encode(value)
