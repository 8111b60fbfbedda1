"""Rows become records: what is sent for each, and what is kept of it. No network, no clock.

A row is recognised in this order: an OpenAI or Moonshot Batch line, an object with ``messages``,
one with ``prompt``, an array of messages, a string; with a template any object. What is wrong
with one row is that record's error, never the end of the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kimi_cli.api import codec
from kimi_cli.api.fields import FIELDS, FRAME, find_fault, override, read_cell
from kimi_cli.batch.pictures import Pictures
from kimi_cli.errors import KimiError
from kimi_cli.prompt.content import Prompt, find_excess, measure
from kimi_cli.prompt.templates import TemplateError, fill_template, name_fields

if TYPE_CHECKING:
    from kimi_cli.answer.forms import Fit

JSON = dict[str, Any]

BODY_FIELDS = frozenset((*FIELDS, *FRAME))
"""What is sent of a row's own; any other key is carried through to the output."""
NOT_ASKED = "not_asked"
"""The class of the error of a row that nobody was asked for."""
BLANK = "blank_line"
"""The code of a line that holds no row."""
_IDS = ("custom_id", "id")
"""The keys of a row that name it, the first before the second."""


class RecordError(Exception):
    """One record cannot be sent; the text says why, the code names the kind."""

    def __init__(self, code: str, message: str) -> None:
        """Name the kind of error and say it."""
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Record:
    """One input row: what is sent for it, and what is kept of it for the output."""

    number: int
    """Its place in the input, counted from 1 over all files."""
    id: str
    payload: bytes
    """The effective request as it is sent: JSON with sorted keys, so that it can be hashed."""
    row: JSON
    """The input object as it was read."""
    carried: JSON
    """Its keys that are not the API's."""
    key: str
    """A hash of the effective request (and of the id, where the row has one of its own)."""
    named: bool
    """Whether the row brought its own id."""
    asks: str
    """The same without the id: it is alike for rows that ask the same."""
    most_tokens: int | None = None
    """The tokens that the answer may have, where the request says."""
    model: str = ""
    """The model that is asked."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """One input row that cannot be sent."""

    number: int
    id: str
    code: str
    message: str
    key: str
    row: JSON = field(default_factory=dict)
    carried: JSON = field(default_factory=dict)
    kind: str = "permanent"
    """The class of its error."""
    condemns: str = ""
    """What it shows of the whole input, where that is wrong."""


@dataclass(frozen=True, eq=False, repr=False)
class Shape:
    """How rows become requests: the template, and what fills in where a row says nothing."""

    defaults: Mapping[str, Any]
    """Body fields; ``model`` is always among them."""
    system: str | None = None
    template: str | None = None
    template_system: str | None = None
    """A system prompt with fields of the row."""
    template_name: str = "--prompt"
    """How the template was given."""
    id_field: str | None = None
    is_table: bool = False
    """Whether rows have cells of text, whatever is meant by them."""
    form: str | None = None
    """What is asked of the form of each answer, beside what the row asks."""
    read: Callable[[str], Fit] | None = None
    """Reads an answer that must have a form."""
    properties: tuple[str, ...] = ()
    """Those of the schema that it must fit, at the top."""
    pictures: Pictures | None = None
    id_prefix: str = ""
    """What the names of rows without an id begin with."""
    unkept: str | None = None
    """A field that is not carried to the output."""


def read_records(rows: Iterable[Any], shape: Shape) -> Iterator[Record | BadRecord]:
    """Make a record of every row; an exception among *rows* becomes a BadRecord."""
    for number, row in enumerate(rows, 1):
        yield make_record(number, row, shape)


def make_record(number: int, row: Any, shape: Shape) -> Record | BadRecord:
    """Make a record of one parsed *row*; what is wrong is in a BadRecord, and not raised."""
    source = _describe(row)
    name, identifier = None, name_by_place(number, shape.id_prefix)
    try:
        if isinstance(row, RecordError):
            raise row
        name = _find_id(source, shape)
        identifier = name or identifier
        body, carried = _recognise(row, shape)
        body = _complete(_illustrate(body, source, shape), shape)
        payload = _encode(body)
        _check_size(payload, body["messages"])
    except RecordError as error:
        # Not of what the message says: it names the file.
        key = make_key(f"{number}\0{error.code}".encode(), name)
        carried = _keep(source, shape) if shape.template is not None else _carry(source)
        kind = NOT_ASKED if error.code == BLANK else "permanent"
        return BadRecord(number, identifier, error.code, str(error), key, source, carried, kind)
    asks_form = shape.form is not None and "response_format" not in body
    asked = payload + (shape.form or "").encode() if asks_form else payload
    asks = make_key(asked, None)
    key = asks if name is None else make_key(asked, name)
    most, answers = body.get("max_completion_tokens", body.get("max_tokens")), body.get("n")
    if isinstance(most, int) and isinstance(answers, int):
        most *= max(1, answers)
    return Record(
        number,
        identifier,
        payload,
        source,
        carried,
        key,
        name is not None,
        asks,
        most if isinstance(most, int) else None,
        str(body.get("model") or ""),
    )


def _describe(row: Any) -> JSON:
    """Return *row* as an object, whatever it is."""
    match row:
        case dict():
            return row
        case str():
            return {"prompt": row}
        case list():
            return {"messages": row}
    return {}


def name_by_place(number: int, prefix: str = "") -> str:
    """Return the id of a row that has none of its own."""
    return f"{prefix}row-{number}"


def make_key(payload: bytes, name: str | None) -> str:
    """Return 128 bits over *payload*, and over *name* where the row has one of its own."""
    return _hash(payload if name is None else payload + b"\0" + name.encode(errors="replace"))


def _illustrate(body: JSON, row: JSON, shape: Shape) -> JSON:
    """Put the images that *row* names into its messages."""
    if shape.pictures is None:
        return body
    try:
        return {**body, "messages": shape.pictures.attach(body.get("messages"), row)}
    except KimiError as error:
        raise RecordError("bad_image", str(error)) from error


def _check_size(payload: bytes, messages: list[JSON]) -> None:
    if (excess := find_excess(len(payload))) and any(measure(m.get("content")) for m in messages):
        raise RecordError("too_large", excess)


def _encode(body: JSON) -> bytes:
    try:
        return codec.dumps(body, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise RecordError("invalid_text", f"the row cannot be sent as JSON: {error}") from None


def repeat_key(key: str, occurrence: int) -> str:
    """Return the key of the *occurrence*-th row (from 2) that asks the same."""
    return _hash(f"{key}#{occurrence}".encode())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def is_id(value: object) -> bool:
    """Tell whether *value* can be a row's id: text, or a number, which is taken as it stands.

    So a column of whole numbers that has a gap (1.0 in a table's JSON, "1.0" in its CSV) has one
    fate.
    """
    return isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""


def has_odd_id(record: Record | BadRecord) -> bool:
    """Tell whether a row that is named by its place brought an id that is none.

    One that is null or empty counts: a table with gaps in its ids is seldom meant.
    """
    return any(name in record.row for name in _IDS)


def _find_id(row: JSON, shape: Shape) -> str | None:
    names = (shape.id_field,) if shape.id_field else _IDS
    for name in names:
        value = row.get(name)
        if is_id(value):
            return str(value)
    if shape.id_field and row.get(shape.id_field) not in (None, ""):
        raise RecordError("bad_id", f"the field '{shape.id_field}' is neither text nor a number")
    if shape.id_field:
        there = name_fields(row)
        raise RecordError(
            "missing_id", f"the row has no field '{shape.id_field}' (--id-field); it has: {there}"
        )
    return None


def _recognise(row: Any, shape: Shape) -> tuple[JSON, JSON]:
    """Return the body that *row* asks for, and the keys that are carried through."""
    if shape.template is not None:
        return _apply_template(shape.template, row, shape)
    if isinstance(row, str):
        return {"messages": [_user(Prompt(row))]}, {}
    if isinstance(row, list):
        return {"messages": row}, {}
    if not isinstance(row, dict):
        raise RecordError("invalid_row", "a row must be an object, an array or a string")
    carried, row = _carry(row), _drop_nulls(_read_cells(row) if shape.is_table else row)
    if shape.pictures is not None:
        row = {key: value for key, value in row.items() if key != shape.pictures.field}
    if "body" in row:
        return _read_batch_line(row)
    if "messages" in row:
        body = _take_fields(row)
        body["messages"] = _add_system(row["messages"], row.get("system"))
    elif "prompt" in row:
        body = _take_fields(row)
        body["messages"] = _read_prompt(row)
    else:
        there = name_fields(carried | row)
        raise RecordError(
            "invalid_row",
            "a row needs 'body', 'messages' or 'prompt', or a template (--prompt) that says what "
            f"to ask; it has: {there}",
        )
    return body, carried


def _read_cells(row: JSON) -> JSON:
    """Return the row of a table with the body fields that its cells mean."""
    fields = {name: read_cell(name, row[name]) for name in row.keys() & BODY_FIELDS}
    return {**row, **fields}


def _drop_nulls(row: JSON) -> JSON:
    """Return *row* without what is null: every table writes its gaps so."""
    if None not in row.values():
        return row
    return {key: value for key, value in row.items() if value is not None}


def _take_fields(row: JSON) -> JSON:
    """Return the body fields of *row*; a column of data may only have the name of one."""
    body = {key: value for key, value in row.items() if key in BODY_FIELDS}
    for name, value in body.items():
        if name != "messages" and (fault := find_fault(name, value)) is not None:
            shown = codec.dumps(value)[:40]
            raise RecordError(
                "bad_field", f"{fault}, not {shown}; rename the column if it is data of your own"
            )
    return body


def _carry(row: JSON) -> JSON:
    """Return the keys of *row* that are its own affair."""
    used = BODY_FIELDS | {"prompt", "system", "body", "method", "url"}
    return {key: value for key, value in row.items() if key not in used}


def _keep(row: JSON, shape: Shape) -> JSON:
    """Return what is carried of a *row* whose fields are all data."""
    return {key: value for key, value in row.items() if key != shape.unkept}


def _apply_template(template: str, row: Any, shape: Shape) -> tuple[JSON, JSON]:
    """All of an object is data, also what is named like a field of the API."""
    if not isinstance(row, (dict, str)):
        raise RecordError("invalid_row", "with a template a row must be an object or a string")
    fields = row if isinstance(row, dict) else {"prompt": row}
    carried = _keep(row, shape) if isinstance(row, dict) else {}
    try:
        text = fill_template(template, fields)
        system = fill_template(shape.template_system or "", fields)
    except TemplateError as error:
        raise RecordError("missing_field", f"{shape.template_name}: {error}") from error
    return {"messages": _add_system([_user(Prompt(text))], system)}, carried


def _read_batch_line(row: JSON) -> tuple[JSON, JSON]:
    body, method, url = row["body"], row.get("method", "POST"), row.get("url")
    if not isinstance(body, dict):
        raise RecordError("invalid_row", "'body' must be an object")
    if method != "POST" or not (url is None or str(url).endswith("/chat/completions")):
        raise RecordError("invalid_row", f"only POST to …/chat/completions, not {method} {url}")
    used = ("body", "method", "url")
    return _drop_nulls(body), {key: value for key, value in row.items() if key not in used}


def _add_system(messages: Any, system: Any) -> Any:
    """Put a row's own system prompt before its *messages*; ``_complete`` judges those."""
    if system is None:
        return messages
    if not isinstance(system, str):
        raise RecordError("invalid_row", "'system' must be a string")
    if not isinstance(messages, list) or not system or _has_system(messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _has_system(messages: list[Any]) -> bool:
    """Tell whether *messages* bring instructions of their own, under either name of the role."""
    roles = [message.get("role") for message in messages if isinstance(message, dict)]
    return "system" in roles or "developer" in roles


def _read_prompt(row: JSON) -> Any:
    prompt, system = row["prompt"], row.get("system")
    if not isinstance(system, (str, type(None))):
        raise RecordError("invalid_row", "'system' must be a string")
    if isinstance(prompt, list) and all(isinstance(part, dict) for part in prompt) and prompt:
        if all("role" in message for message in prompt):
            return _add_system(prompt, system)
        if all("type" in part for part in prompt):
            return _add_system([_user(Prompt(tuple(prompt)))], system)
    if not isinstance(prompt, str):
        raise RecordError("invalid_row", "'prompt' must be a string, messages or content parts")
    return [*([{"role": "system", "content": system}] if system else []), _user(Prompt(prompt))]


def _user(prompt: Prompt) -> JSON:
    if prompt.is_empty:
        raise RecordError("empty_prompt", "the prompt is empty")
    return {"role": "user", "content": prompt.to_content()}


def _complete(body: JSON, shape: Shape) -> JSON:
    """Fill in what the row leaves out; the row itself has the last word."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RecordError("invalid_row", "'messages' must be an array that is not empty")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RecordError("invalid_row", "each message must be an object with a role")
    if shape.system is not None and not _has_system(messages):
        messages = [{"role": "system", "content": shape.system}, *messages]
    whole = {**override(shape.defaults, body), "messages": messages}
    whole.pop("stream", None)
    whole.pop("stream_options", None)
    return whole
