"""Images that a field of each row names: read when its turn comes, and sent before its text."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kimi_cli.api.messages import JSON
from kimi_cli.errors import BadInput, MissingInput
from kimi_cli.prompt.content import put_before
from kimi_cli.prompt.reading import Reading, read_image
from kimi_cli.prompt.templates import name_fields


@dataclass(frozen=True, eq=False, repr=False)
class Pictures:
    """The *field* of rows that names images, and where those are."""

    field: str
    locate: Callable[[str], str]
    """Returns the path of what a row calls so."""
    reading: Reading
    is_optional: bool = False
    """Whether a row may have no such field."""

    def attach(self, messages: Any, row: JSON) -> Any:
        """Return *messages* with the images of *row* before the text of the last question.

        Raises BadInput or MissingInput.
        """
        parts = [part for path in self._list_paths(row) for part in self._read(path)]
        if not parts or not isinstance(messages, list):
            return messages
        for place in reversed(range(len(messages))):
            message = messages[place]
            if isinstance(message, dict) and message.get("role") == "user":
                content = message.get("content")
                whole = [*parts, *content] if isinstance(content, list) else _join(parts, content)
                return [*messages[:place], {**message, "content": whole}, *messages[place + 1 :]]
        raise BadInput("the row has images, and no message of a user that they belong to")

    def _list_paths(self, row: JSON) -> list[str]:
        if self.field not in row and self.is_optional:
            return []
        if self.field not in row:
            raise BadInput(
                f"the row has no field '{self.field}' (--image-field); it has: {name_fields(row)}"
            )
        value = row[self.field]
        paths = value if isinstance(value, list) else [value]
        if not all(isinstance(path, str) and path for path in paths):
            raise BadInput(f"the field '{self.field}' must name a file, or be an array of names")
        return paths

    def _read(self, name: str) -> tuple[JSON, ...]:
        path = self.locate(name)
        if os.path.exists(path) and not os.path.isfile(path):
            raise MissingInput(f"cannot read {path}: it is no file")
        return read_image(path, self.reading).others


def _join(parts: list[JSON], content: Any) -> Any:
    return put_before(parts, content if isinstance(content, str) else "").to_content()
