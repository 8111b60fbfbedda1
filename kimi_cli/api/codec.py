"""JSON as it goes over the wire: read with orjson where it is installed, written by the stdlib.

Writing stays with one library, so that the same request has the same bytes on every machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from itertools import accumulate
from typing import Any, NoReturn


def _refuse_constant(name: str) -> NoReturn:
    raise json.JSONDecodeError(f"{name} is not JSON", name, 0)


def _parse_finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is out of range")
    return number


DEEPEST = 300
"""Levels of nesting that are taken. Parsers recurse, and so does who writes the value again: in
the small stack of a thread Python 3.13's own would run over its end at ten times as many."""
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}
_NO_BRACKETS = r'"(?:[^"\\]|\\.)*"|[^][{}"]+|"'


def bound_depth(data: bytes | str) -> None:
    """Raise ValueError when *data*, which should be JSON, is nested more than DEEPEST levels.

    Before it is parsed; most texts have too few brackets to be deep.
    """
    opening: Any = (b"[", b"{") if isinstance(data, bytes) else ("[", "{")
    if sum(map(data.count, opening)) <= DEEPEST:
        return
    text = data.decode("latin-1") if isinstance(data, bytes) else data
    brackets = re.sub(_NO_BRACKETS, "", text, flags=re.DOTALL)
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > DEEPEST:
        raise ValueError("the JSON is nested too deeply")


def loads_exactly(data: bytes | str) -> Any:
    """Parse *data* as RFC 8259 has it; whole numbers of any size stay whole.

    What is not JSON, as NaN is not, raises JSONDecodeError; a number that overflows, and what is
    nested too deeply, another ValueError.
    """
    bound_depth(data)
    return json.loads(data, parse_constant=_refuse_constant, parse_float=_parse_finite)


def is_json(data: bytes | str) -> bool:
    """Tell whether *data* is one JSON value, whole."""
    try:
        loads_exactly(data)
    except ValueError:
        return False
    return True


def _loads_with_fallback(data: bytes | str) -> Any:
    bound_depth(data)
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


def dumps(value: Any, *, sort_keys: bool = False) -> str:
    """Compact JSON with the text itself, not escapes; NaN and infinities raise ValueError."""
    return (_SORTED if sort_keys else _IN_ORDER).encode(value)
