"""JSON that a model wrote, and JSON that is written as the model wrote it."""

from __future__ import annotations

import json
import re
from typing import Any

from kimi_cli.api import codec

_TWO_DIGITS = r"[0-9]{2}"
_FENCED = re.compile(r"\A```[^\n`]*\n(.*?)\n?```\Z", re.DOTALL)


class Numeral(str):
    """A number with the very digits that it was written with."""


def unwrap(text: str) -> str:
    """Return *text* without white space around it, and without one fenced block around that."""
    text = text.strip()
    fenced = _FENCED.match(text)
    return fenced[1].strip() if fenced else text


def read_json(text: str) -> tuple[Any, str]:
    """Return the value of *text*, and the JSON that it was written as.

    One fenced block around it is allowed. Raises ValueError for what is not JSON.
    """
    bare = unwrap(text)
    # orjson makes a float of a whole number beyond 64 bits.
    loads = codec.loads_exactly if _may_have_long_number(bare) else codec.loads
    return loads(bare), bare


def _may_have_long_number(text: str) -> bool:
    """Tell whether 19 digits may follow each other in *text*: then two of every ninth do."""
    return re.search(_TWO_DIGITS, text[::9]) is not None


def compact_json(text: str) -> str:
    """Return JSON on one compact line, digit for digit; raises ValueError for what is none."""
    return write_compactly(json.loads(text, parse_float=Numeral, parse_int=Numeral))


def write_compactly(value: Any) -> str:
    """Return JSON without spaces; a Numeral is written as it stands."""
    if isinstance(value, Numeral):
        return str(value)
    if isinstance(value, dict):
        members = (f"{codec.dumps(name)}:{write_compactly(v)}" for name, v in value.items())
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(write_compactly, value)) + "]"
    return codec.dumps(value)
