"""Templates that are kept: a head of TOML between lines of +++, and the text of the prompt.

Nothing in one names a host, a token, a file to read or a command to run, so that a template of
somebody else can be tried: the worst that it can do is to ask.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kimi_cli.api import codec
from kimi_cli.api.fields import FIELDS, FRAME, find_fault
from kimi_cli.errors import BadInput, MissingInput
from kimi_cli.prompt.reading import Reading, read_text
from kimi_cli.prompt.templates import check_template, list_fields
from kimi_cli.settings.configfile import find_folder

SUFFIX = ".md"
_FENCE = "+++"
_NAME = r"\w[\w.@+,=-]*"
_HEAD = {"model": str, "system": str, "extract": bool, "options": dict}
"""The keys of a head, and their types in TOML; schema and choice have two each."""
KEYS = ("model", "system", "schema", "choice", "extract", "options")


@dataclass(frozen=True, kw_only=True)
class Template:
    """A prompt with ``{name}`` fields, and how it is asked where nobody says otherwise."""

    name: str
    text: str
    model: str | None = None
    system: str | None = None
    """With fields of its own."""
    schema: str | None = None
    """JSON, or the short notation; never the name of a file."""
    choice: tuple[str, ...] = ()
    extract: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """Body fields by their API names."""

    @property
    def fields(self) -> list[str]:
        """The fields of the text and of the system prompt, each once."""
        return list(dict.fromkeys([*list_fields(self.text), *list_fields(self.system or "")]))

    @property
    def has_form(self) -> bool:
        """Whether the answer must be of a form."""
        return self.schema is not None or bool(self.choice) or self.extract

    def check(self) -> None:
        """Raise TemplateError for fields that nothing could fill in."""
        for text in (self.text, self.system or ""):
            check_template(text)

    def encode(self) -> str:
        """Return what its file holds; raises BadInput for what TOML has no word for."""
        head: dict[str, Any] = {
            "model": self.model,
            "system": self.system,
            "schema": self.schema,
            "choice": list(self.choice) or None,
            "extract": self.extract or None,
        }
        lines = [f"{key} = {_show(value)}" for key, value in head.items() if value is not None]
        if self.options:
            lines += ["[options]"]
            lines += [f"{_show(key)} = {_show(value)}" for key, value in self.options.items()]
        whole = [_FENCE, *lines, _FENCE] if lines or self.text.startswith(_FENCE) else []
        return "\n".join([*whole, *[""] * bool(whole), self.text, ""])


def find_templates(environment: Mapping[str, str]) -> Path:
    """Return the folder of templates."""
    return find_folder(environment, "XDG_CONFIG_HOME", ".config") / "templates"


def list_names(folder: Path) -> list[str]:
    """Return the names of the templates that there are."""
    try:
        names = [path.stem for path in folder.glob(f"*{SUFFIX}")]
    except OSError:
        return []
    return sorted(name for name in names if re.fullmatch(_NAME, name))


def locate_template(name: str, folder: Path) -> Path:
    """Return the file of the template *name*; raises BadInput for what cannot be a name."""
    if not re.fullmatch(_NAME, name):
        raise BadInput(
            f"'{name}' cannot name a template: a name has letters, digits and any of . _ - @ + , ="
        )
    return folder / f"{name}{SUFFIX}"


def read_template(name: str, folder: Path) -> Template:
    """Return the template of that name, or of that path where it has a slash or ends in .md.

    Raises MissingInput, BadInput for a head that is none, TemplateError for fields that are none.
    """
    if "/" in name or name.endswith(SUFFIX):
        return parse_template(read_text(name, Reading()), name)
    path = locate_template(name, folder)
    if not path.exists():
        names = ", ".join(list_names(folder)) or "none"
        raise MissingInput(f"there is no template '{name}' in {folder}; there are: {names}")
    return parse_template(read_text(str(path), Reading()), name)


def parse_template(text: str, name: str) -> Template:
    """Return the template that a file called *name* holds; raises BadInput, TemplateError."""
    head: dict[str, Any] = {}
    lines = text.splitlines(keepends=True)
    if lines and lines[0].rstrip() == _FENCE:
        ends = [place for place, line in enumerate(lines) if line.rstrip() == _FENCE]
        if len(ends) < 2:
            raise BadInput(f"template {name}: its head has no end; put {_FENCE} on a line below it")
        try:
            head = tomllib.loads("".join(lines[1 : ends[1]]).replace("\r\n", "\n"))
        except ValueError as error:
            raise BadInput(f"template {name}: its head is not TOML: {error}") from error
        below = lines[ends[1] + 1 :]
        text = "".join(below if below and below[0].strip() else below[1:])
    try:
        template = Template(name=name, text=text, **_read_head(head))
    except ValueError as error:
        raise BadInput(f"template {name}: {error}") from error
    template.check()
    return template


def _read_head(head: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a template; raises ValueError."""
    if unknown := [key for key in head if key not in KEYS]:
        raise ValueError(f"'{unknown[0]}' is no key of a template; there are {', '.join(KEYS)}")
    if len(forms := [key for key in ("schema", "choice", "extract") if head.get(key)]) > 1:
        raise ValueError(f"{forms[0]} and {forms[1]} exclude each other")
    read: dict[str, Any] = {}
    for key, value in head.items():
        if key == "schema":
            value = _read_schema(value)
        elif key == "choice":
            value = (value,) if isinstance(value, str) else value
            if not isinstance(value, (list, tuple)) or not all(isinstance(v, str) for v in value):
                raise ValueError("'choice' must be an array of labels")
            value = tuple(value)
        elif not isinstance(value, _HEAD[key]):
            raise ValueError(f"'{key}' must be {_NAMES[_HEAD[key]]}")
        read[key] = value
    _check_options(read.get("options", {}))
    return read


_NAMES: Mapping[type, str] = {str: "text", bool: "true or false", dict: "a table"}


def _read_schema(value: object) -> str:
    """Return a schema, which is a table, JSON or the short notation, as text."""
    if isinstance(value, dict):
        return codec.dumps(value)
    if not isinstance(value, str):
        raise ValueError("'schema' must be text or a table")
    if value.lstrip().startswith("{"):
        return value
    if re.fullmatch(r"\S*(?:/\S*|\.json)", value):
        raise ValueError(f"'schema' is the name of a file, which no template reads: {value}")
    return value


def _check_options(options: Mapping[str, Any]) -> None:
    for key, value in options.items():
        if key in FRAME:
            raise ValueError(f"'{key}' is no body field that [options] may have")
        if key in FIELDS and (fault := find_fault(key, value)) is not None:
            raise ValueError(f"[options] {fault}")
        try:
            codec.dumps(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"[options] '{key}' cannot be sent as JSON: {error}") from None


def _show(value: Any) -> str:
    """Return *value* as TOML has it; raises BadInput."""
    match value:
        case str() | bool() | int() | float():
            return codec.dumps(value).replace("\x7f", "\\u007f")
        case list():
            return f"[{', '.join(map(_show, value))}]"
        case dict():
            return f"{{{', '.join(f'{_show(key)} = {_show(v)}' for key, v in value.items())}}}"
    raise BadInput("a template cannot hold null")
