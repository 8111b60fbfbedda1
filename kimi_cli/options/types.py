"""What the text of an option becomes, and what is wrong with it."""

from __future__ import annotations

import codecs
import json
import math
import re
from typing import Any

import click

from kimi_cli.errors import BadInput
from kimi_cli.prompt.reading import decode_argument
from kimi_cli.settings.configfile import LONGEST

LARGEST_INPUT = 2**40
"""Bytes of input that an option may allow; no machine here holds more."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class FiniteNumber(click.ParamType[Any]):
    """A number that JSON can hold: neither infinite nor NaN."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | int:
        """Return an int where the text is one, so that it is sent as it was typed."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return int(value) if str(value).lstrip("+-").isdigit() else number


class Seconds(FiniteNumber):
    """A positive number of seconds."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | int:
        """Return a number greater than 0."""
        number = super().convert(value, param, ctx)
        if number <= 0:
            self.fail("must be greater than 0", param, ctx)
        if number >= LONGEST:
            self.fail(f"must be below {LONGEST:g}, which is ten years", param, ctx)
        return number


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if found is None:
            self.fail(f"'{value}' is not a duration such as 90, 30s, 10m, 2h or 30d", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


class BodyField(click.ParamType[Any]):
    """``KEY=JSON``: any field of the request body; a value that is not JSON is a string."""

    name = "key=json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the key and the parsed value."""
        key, equals, text = decode_argument(value).partition("=")
        if not key or not equals:
            self.fail(f"'{value}' is not KEY=JSON", param, ctx)
        from kimi_cli.api import codec  # noqa: PLC0415 - few calls need it

        try:
            return key, codec.loads_exactly(text)
        except json.JSONDecodeError:
            return key, text
        except ValueError as error:
            raise BadInput(f"the value of '{key}' cannot be sent: {error}") from error


class Utf8(click.ParamType[Any]):
    """Text that is read as UTF-8 whatever the locale."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; raises BadInput when it is not UTF-8."""
        return decode_argument(value)


class Encoding(click.ParamType[Any]):
    """The name of a text encoding that Python knows."""

    name = "encoding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the encoding's usual name."""
        try:
            b"text".decode(value, "replace")  # some codecs turn bytes into bytes, or only raise
        except (LookupError, ValueError):
            self.fail(f"'{value}' is not a text encoding", param, ctx)
        return codecs.lookup(value).name
