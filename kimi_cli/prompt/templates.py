"""Prompts made of a template: ``{name}`` and ``{dotted.path}`` take the fields of a row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from kimi_cli.api import codec

_FIELD = r"\{\{|\}\}|\{([^{}]*)\}|[{}]"
_SHOWN = 12
"""How many fields of a row are named where one is missing."""


class TemplateError(ValueError):
    """A template that cannot be read, or a field that a row does not have."""


def check_template(template: str) -> None:
    """Raise TemplateError for a template that no row could fill in."""
    for match in re.finditer(_FIELD, template):
        if match[0] in ("{", "}"):
            raise TemplateError(f"a single '{match[0]}' in the template; double it to have one")
        if match[1] is not None and (not match[1].strip() or re.search(r'["\n]', match[1])):
            raise TemplateError(
                f"'{{{match[1]}}}' in the template names no field; double its braces to keep them"
            )


def list_fields(template: str) -> list[str]:
    """Return the fields that *template* takes, each once, in their order."""
    return list(dict.fromkeys(match[1] for match in re.finditer(_FIELD, template) if match[1]))


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """Put the fields of *row* into ``{name}`` and ``{dotted.path}``; braces double to stay.

    One pass: a value is never read as a template, whatever is in it. Raises TemplateError.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] is None:
            raise TemplateError(f"a single '{match[0]}' in the template; double it")
        return _show(_look_up(row, match[1]))

    return re.sub(_FIELD, replace, template)


def name_fields(row: Mapping[str, Any]) -> str:
    """Return the names of a row's fields, for a message."""
    names = list(row)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "none"


def _look_up(row: Mapping[str, Any], path: str) -> Any:
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and _is_index(name, value):
            value = value[int(name)]
        else:
            raise TemplateError(f"the row has no field '{path}'; it has: {name_fields(row)}")
    return value


def _is_index(name: str, array: list[Any]) -> bool:
    return name.isdecimal() and len(name) <= len(str(len(array))) and int(name) < len(array)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value)
