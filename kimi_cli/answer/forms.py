"""The forms that an answer may be asked for, and whether it has the one that was wanted.

A form says what the model is told, and reads what it answers: a value, or why it is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from kimi_cli.answer.jsontext import compact_json, read_json
from kimi_cli.api import codec
from kimi_cli.errors import BadInput, ConfigError

if TYPE_CHECKING:
    from jsonschema_rs import Validator

JSON = dict[str, Any]

_SHOWN = 200
"""How much of a validator's words is passed on, in characters."""
_AROUND = re.compile(r"\A[\s*_`'\"“”‘’]+|[\s*_`'\"“”‘’.]+\Z")
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})([^\n]*)$")


class Misfit(ValueError):
    """An answer has not the form that was asked for; the text says where, then why."""


@dataclass(frozen=True)
class Fit:
    """An answer in its form: the value for programs, and what the model wrote for it."""

    value: Any
    written: str
    is_json: bool = False

    @property
    def text(self) -> str:
        """What is printed: JSON on one compact line, digit for digit; all else as it stands."""
        return compact_json(self.written) if self.is_json else self.written

    @property
    def json(self) -> str:
        """The value as JSON on one line, digit for digit."""
        if not self.is_json:
            return codec.dumps(self.value)
        # In JSON a line end stands between values only, never inside one.
        return self.written.replace("\n", " ").replace("\r", " ")


class Form(Protocol):
    """What an answer must be."""

    @property
    def instruction(self) -> str | None:
        """What the model is told where the request has no field for it; None for nothing."""

    @property
    def schema(self) -> JSON | None:
        """The JSON Schema that the answer must fit; None where JSON is all that is asked for."""

    @property
    def is_json(self) -> bool:
        """Whether the answer is JSON, so that the host can be told so in its own field."""

    def read(self, text: str) -> Fit:
        """Return what the answer *text* is; raises Misfit."""


@dataclass(frozen=True)
class JsonForm:
    """Any JSON."""

    instruction: str | None = None
    schema: JSON | None = None
    is_json: bool = True

    def read(self, text: str) -> Fit:
        """Parse *text*, in which one fenced block is allowed around it; raises Misfit."""
        try:
            value, written = read_json(text)
        except ValueError as error:
            raise Misfit(f"it is not JSON: {error}") from error
        return Fit(value, written, is_json=True)


@dataclass(frozen=True)
class SchemaForm:
    """JSON that fits a schema."""

    schema: JSON
    validator: Validator
    is_json: bool = True

    @property
    def instruction(self) -> str | None:
        """The schema, for hosts that have no field for it."""
        written = codec.dumps(self.schema)
        return f"Answer with nothing but JSON that fits this JSON Schema: {written}"

    def read(self, text: str) -> Fit:
        """Parse *text* and check it, ``format`` included; raises Misfit."""
        fit = JsonForm().read(text)
        if self.validator.is_valid(fit.value):
            return fit
        error = next(iter(self.validator.iter_errors(fit.value)))
        place = "".join(f"/{step}" for step in error.instance_path)
        raise Misfit(f"at {place or 'the top'}: {' '.join(error.message.split())[:_SHOWN]}")


@dataclass(frozen=True)
class ChoiceForm:
    """One of several labels."""

    labels: tuple[str, ...]
    schema: JSON | None = None
    is_json: bool = False

    @property
    def instruction(self) -> str | None:
        """The labels."""
        return f"Answer with exactly one of these and nothing else: {', '.join(self.labels)}"

    def read(self, text: str) -> Fit:
        """Find the label that *text* is, but for case, quotes, emphasis and a last full stop.

        Raises Misfit.
        """
        wanted = _strip(text)
        for label in self.labels:
            if _strip(label) == wanted:
                return Fit(label, label)
        said = " ".join(text.split())[:60]
        raise Misfit(f"'{said}' is none of {', '.join(self.labels)}")


def _strip(text: str) -> str:
    return " ".join(re.sub(_AROUND, "", text).casefold().split())


@dataclass(frozen=True)
class BlockForm:
    """A fenced block of code."""

    last: bool = False
    schema: JSON | None = None
    is_json: bool = False

    @property
    def instruction(self) -> str | None:
        """That there must be one."""
        return "Put what is asked for into one fenced code block"

    def read(self, text: str) -> Fit:
        """Return the first block of *text*, or the *last*, without its fences; raises Misfit."""
        blocks = _find_blocks(text)
        if not blocks:
            raise Misfit("it has no fenced code block")
        block = blocks[-1 if self.last else 0]
        if block is None:
            raise Misfit("its fenced code block never closes")
        return Fit(block, block)


def _find_blocks(text: str) -> list[str | None]:
    """Return the fenced blocks of *text* (CommonMark, section 4.5); None for one left open."""
    blocks: list[str | None] = []
    fence, lines = "", list[str]()
    for line in text.split("\n"):
        found = _FENCE.match(line.removesuffix("\r"))
        if not fence:
            if found and not (found[1][0] == "`" and "`" in found[2]):
                fence, lines = found[1], []
        elif found and found[1].startswith(fence) and not found[2].strip():
            blocks.append("".join(f"{line}\n" for line in lines))
            fence = ""
        else:
            lines.append(line)
    return [*blocks, None] if fence else blocks


def make_choice(labels: Sequence[str]) -> ChoiceForm:
    """Return the form of a choice; raises BadInput where two labels cannot be told apart."""
    bare = [_strip(label) for label in labels]
    if not all(bare):
        raise BadInput("a label of --choice is empty")
    if len(set(bare)) < len(bare):
        raise BadInput(f"two labels of --choice cannot be told apart: {', '.join(labels)}")
    return ChoiceForm(tuple(labels))


def make_schema(schema: Any) -> SchemaForm:
    """Return the form of a JSON Schema; references lead nowhere outside it.

    Raises BadInput for what is no schema, ConfigError where the validator is not installed.
    """
    try:
        import jsonschema_rs  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for this failure

        raise ConfigError(
            "--schema needs jsonschema-rs, which is not installed; run: " + advise_extra("schema")
        ) from error
    if not isinstance(schema, Mapping):
        raise BadInput("the schema is no JSON object")
    try:
        validator = jsonschema_rs.validator_for(
            dict(schema), validate_formats=True, ignore_unknown_formats=True, offline=True
        )
    except (jsonschema_rs.ValidationError, jsonschema_rs.ReferencingError, ValueError) as error:
        reason = " ".join(str(getattr(error, "message", None) or error).split())[:_SHOWN]
        raise BadInput(f"the schema is not valid: {reason}") from error
    return SchemaForm(dict(schema), validator)
