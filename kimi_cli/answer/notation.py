"""The short notation of a schema: ``name, age int, tags [str], sub {a, b float}``.

One property after the other, parted by commas: its name, its type where it is not text, and behind
a colon a description. Types are ``str``, ``int``, ``float`` and ``bool``; ``[T]`` is an array of
them, ``{…}`` an object. Every property is required, and there are no others.
"""

from __future__ import annotations

import re
from typing import Any

JSON = dict[str, Any]

_TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
_TOKEN = re.compile(r"\s*(?:(?P<name>[^\s,:{}\[\]]+)|(?P<mark>[,{}\[\]])|:(?P<words>[^,{}\[\]]*))")


def read_notation(text: str) -> JSON:
    """Return the JSON Schema that *text* stands for; raises ValueError and names the place."""
    return _Reader(text).read_object(closing=None)


class _Reader:
    """Reads token after token."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._place = 0
        self._token = self._scan()

    def read_object(self, closing: str | None) -> JSON:
        """Read properties up to *closing*, or to the end."""
        properties: JSON = {}
        while True:
            name = self._take("name")
            if name is None:
                raise self._complain("a name")
            if name in properties:
                raise ValueError(f"'{name}' comes twice")
            properties[name] = self._read_property()
            if self._take("mark", ",") is None:
                break
        if closing is None and self._token is not None:
            raise self._complain("a comma or the end")
        if closing is not None and self._take("mark", closing) is None:
            raise self._complain(f"'{closing}'")
        return {
            "type": "object",
            "properties": properties,
            "required": list(properties),
            "additionalProperties": False,
        }

    def _read_property(self) -> JSON:
        schema = self._read_type()
        words = self._take("words")
        if words is not None and words.strip():
            schema["description"] = " ".join(words.split())
        return schema

    def _read_type(self) -> JSON:
        """Read a type; text is what has none."""
        if self._take("mark", "{") is not None:
            return self.read_object("}")
        if self._take("mark", "[") is not None:
            items = self._read_type()
            if self._take("mark", "]") is None:
                raise self._complain("']'")
            return {"type": "array", "items": items}
        name = self._take("name")
        if name is None:
            return {"type": "string"}
        if name not in _TYPES:
            raise ValueError(f"'{name}' is no type; use {', '.join(_TYPES)}, [T] or {{…}}")
        return {"type": _TYPES[name]}

    def _take(self, kind: str, value: str | None = None) -> str | None:
        """Take the next token if it is of that *kind*, and the *value* that is wanted."""
        token = self._token
        if token is None or token[0] != kind or value not in (None, token[1]):
            return None
        self._token = self._scan()
        return token[1]

    def _scan(self) -> tuple[str, str] | None:
        if not self._text[self._place :].strip():
            self._place = len(self._text)
            return None
        found = _TOKEN.match(self._text, self._place)
        if found is None or found.lastgroup is None:
            raise self._complain("a name, a type or a comma")
        self._place = found.end()
        return found.lastgroup, found[found.lastgroup]

    def _complain(self, wanted: str) -> ValueError:
        token = None if self._place and self._token is None else self._token
        seen = f"not '{token[1]}'" if token else "but it ends"
        return ValueError(f"{wanted} is wanted here, {seen}")
