"""Input lines become records, records and answers become output lines. No network, no clock.

A line is recognised in this order: an OpenAI or Moonshot Batch line, an object with ``messages``,
one with ``prompt``, an array of messages, a string; with a template any object. What is wrong
with one line is that record's error, never the end of the run.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import jsonlines

from kimi_cli.api import codec
from kimi_cli.api.text import mend_surrogates
from kimi_cli.errors import BadInput

JSON = dict[str, Any]

# What the API takes besides model and messages (design note api.md, sections 1.3 and 1.4); any
# other key of an input object is carried through to the output and never sent.
BODY_FIELDS = frozenset(
    [
        "model",
        "messages",
        "stream",
        "temperature",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "response_format",
        "tools",
        "tool_choice",
        "top_p",
        "frequency_penalty",
        "presence_penalty",
        "seed",
        "stop",
        "stream_options",
        "user",
        "reasoning_effort",
        "service_tier",
        "logit_bias",
        "logprobs",
        "top_logprobs",
        "parallel_tool_calls",
        "store",
        "modalities",
        "audio",
        "prediction",
        "web_search_options",
        "thinking",
        "prompt_cache_key",
        "safety_identifier",
    ]
)
_RESERVED = frozenset(("custom_id", "kimi", "id", "response", "error"))
_FIELD = r"\{\{|\}\}|\{([^{}]*)\}|[{}]"
_LONG_NUMBER = r"[0-9]{19}"
_EXTENDED_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\u0085": "\\u0085"})


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
    most_tokens: int | None = None
    """The tokens that the answer may have, where the request says."""


@dataclass(frozen=True, slots=True)
class BadRecord:
    """One input row that cannot be sent."""

    number: int
    id: str
    code: str
    message: str
    key: str
    row: JSON = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """How rows become requests: the template, and what fills in where a row says nothing."""

    defaults: Mapping[str, Any]
    """Body fields; ``model`` is always among them."""
    system: str | None = None
    template: str | None = None
    id_field: str | None = None


def read_records(rows: Iterable[Any], shape: Shape) -> Iterator[Record | BadRecord]:
    """Make a record of every row; an exception among *rows* becomes a BadRecord."""
    for number, row in enumerate(rows, 1):
        yield make_record(number, row, shape)


def make_record(number: int, row: Any, shape: Shape) -> Record | BadRecord:
    """Make a record of one parsed *row*."""
    source = row if isinstance(row, dict) else {}
    name, identifier = None, f"row-{number}"
    try:
        if isinstance(row, RecordError):
            raise row
        name = _find_id(source, shape)
        identifier = name or identifier
        body, carried = _recognise(row, shape)
        body = _complete(body, shape)
        payload = _encode(body)
    except RecordError as error:
        key = _hash(f"{number}\0{error}".encode(errors="surrogatepass"))
        return BadRecord(number, identifier, error.code, str(error), key, source)
    key = make_key(payload, name)
    most = body.get("max_completion_tokens", body.get("max_tokens"))
    return Record(
        number,
        identifier,
        payload,
        source,
        carried,
        key,
        name is not None,
        most if isinstance(most, int) else None,
    )


def make_key(payload: bytes, name: str | None) -> str:
    """Return 128 bits over *payload*, and over *name* where the row has one of its own."""
    return _hash(payload if name is None else payload + b"\0" + name.encode(errors="replace"))


def _encode(body: JSON) -> bytes:
    try:
        return codec.dumps(body, sort_keys=True).encode()
    except (ValueError, RecursionError) as error:
        raise RecordError("invalid_text", f"the row cannot be sent as JSON: {error}") from None


def repeat_key(key: str, occurrence: int) -> str:
    """Return the key of the *occurrence*-th row (from 2) that asks the same."""
    return _hash(f"{key}#{occurrence}".encode())


def _hash(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _find_id(row: JSON, shape: Shape) -> str | None:
    names = (shape.id_field,) if shape.id_field else ("custom_id", "id")
    for name in names:
        value = row.get(name)
        if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
            return str(value)
    if shape.id_field in row:
        raise RecordError("bad_id", f"the field '{shape.id_field}' is no text or whole number")
    if shape.id_field:
        raise RecordError("missing_id", f"the row has no field '{shape.id_field}'")
    return None


def _recognise(row: Any, shape: Shape) -> tuple[JSON, JSON]:
    """Return the body that *row* asks for, and the keys that are carried through."""
    if shape.template is not None:
        return _apply_template(shape.template, row)
    if isinstance(row, str):
        return {"messages": [_user(row)]}, {}
    if isinstance(row, list):
        return {"messages": row}, {}
    if not isinstance(row, dict):
        raise RecordError("invalid_row", "a row must be an object, an array or a string")
    if "body" in row:
        return _read_batch_line(row)
    if "messages" in row:
        body = {key: value for key, value in row.items() if key in BODY_FIELDS}
        body["messages"] = _add_system(row["messages"], row.get("system"))
    elif "prompt" in row:
        body = {key: value for key, value in row.items() if key in BODY_FIELDS}
        body["messages"] = _read_prompt(row)
    else:
        raise RecordError(
            "invalid_row", "a row needs 'body', 'messages' or 'prompt', or a template (--prompt)"
        )
    used = BODY_FIELDS | {"prompt", "system"}
    return body, {key: value for key, value in row.items() if key not in used}


def _apply_template(template: str, row: Any) -> tuple[JSON, JSON]:
    """All of an object is data, also what is named like a field of the API."""
    if isinstance(row, str):
        return {"messages": [_user(fill_template(template, {"prompt": row}))]}, {}
    if isinstance(row, dict):
        return {"messages": [_user(fill_template(template, row))]}, row
    raise RecordError("invalid_row", "with a template a row must be an object or a string")


def _read_batch_line(row: JSON) -> tuple[JSON, JSON]:
    body, method, url = row["body"], row.get("method", "POST"), row.get("url")
    if not isinstance(body, dict):
        raise RecordError("invalid_row", "'body' must be an object")
    if method != "POST" or not (url is None or str(url).endswith("/chat/completions")):
        raise RecordError("invalid_row", f"only POST to …/chat/completions, not {method} {url}")
    used = {"body", "method", "url"}
    return dict(body), {key: value for key, value in row.items() if key not in used}


def _add_system(messages: Any, system: Any) -> Any:
    """Put a row's own system prompt before its *messages*; ``_complete`` judges those."""
    if system is None:
        return messages
    if not isinstance(system, str):
        raise RecordError("invalid_row", "'system' must be a string")
    if not isinstance(messages, list) or not system or _begins_with_system(messages):
        return messages
    return [{"role": "system", "content": system}, *messages]


def _begins_with_system(messages: list[Any]) -> bool:
    first = messages[0] if messages else None
    return isinstance(first, dict) and first.get("role") == "system"


def _read_prompt(row: JSON) -> list[JSON]:
    prompt, system = row["prompt"], row.get("system")
    if not isinstance(prompt, str) or not isinstance(system, (str, type(None))):
        raise RecordError("invalid_row", "'prompt' and 'system' must be strings")
    return [*([{"role": "system", "content": system}] if system else []), _user(prompt)]


def _user(text: str) -> JSON:
    if not text.strip():
        raise RecordError("empty_prompt", "the prompt is empty")
    return {"role": "user", "content": text}


def _complete(body: JSON, shape: Shape) -> JSON:
    """Fill in what the row leaves out; the row itself has the last word."""
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RecordError("invalid_row", "'messages' must be an array that is not empty")
    for message in messages:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise RecordError("invalid_row", "each message must be an object with a role")
    if shape.system is not None and not _begins_with_system(messages):
        messages = [{"role": "system", "content": shape.system}, *messages]
    whole = {**shape.defaults, **body, "messages": messages}
    whole.pop("stream", None)
    whole.pop("stream_options", None)
    return whole


def fill_template(template: str, row: Mapping[str, Any]) -> str:
    """Put the fields of *row* into ``{name}`` and ``{dotted.path}``; braces double to stay.

    One pass: a value is never read as a template, whatever is in it.
    """

    def replace(match: re.Match[str]) -> str:
        if match[0] in ("{{", "}}"):
            return match[0][0]
        if match[1] is None:
            raise RecordError("bad_template", f"a single '{match[0]}' in the template; double it")
        return _show(_look_up(row, match[1]))

    return re.sub(_FIELD, replace, template)


def _look_up(row: Any, path: str) -> Any:
    if isinstance(row, Mapping) and path in row:
        return row[path]
    value = row
    for name in path.split("."):
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and _is_index(name, value):
            value = value[int(name)]
        else:
            raise RecordError("missing_field", f"the row has no field '{path}'")
    return value


def _is_index(name: str, array: list[Any]) -> bool:
    return name.isdecimal() and len(name) <= len(str(len(array))) and int(name) < len(array)


def _show(value: Any) -> str:
    return value if isinstance(value, str) else codec.dumps(value)


OVERSIZE = b"\0 too long \0"
"""Stands for a line that is too long; no line of JSON or text is that."""
_TOO_LONG = ("too_long", "the line is too long; see --max-line")
_BOM = b"\xef\xbb\xbf"
_BLOCK = 2**20


# Reading ------------------------------------------------------------------------------------


def read_jsonl(lines: Iterable[bytes]) -> Iterator[Any]:
    """Parse JSON Lines; a bad line is yielded as its RecordError, and reading goes on.

    jsonlines' own iterator is dead after the first bad line, so each line is asked for.
    """
    reader = jsonlines.Reader(lines, loads=_load)
    while True:
        try:
            yield reader.read(allow_none=True)
        except EOFError:
            return
        except jsonlines.InvalidLineError as error:
            if error.line == OVERSIZE.decode():
                yield RecordError(*_TOO_LONG)
                continue
            reason = str(error.__cause__ or error).partition(" (line ")[0]
            yield RecordError("invalid_json", f"the line is not JSON: {reason}")


def _load(text: str | bytes) -> Any:
    """Parse one line; what is nested too deeply to be written again raises ValueError."""
    line = text if isinstance(text, str) else text.decode()
    # orjson makes a float of a whole number beyond 64 bits: an id would lose its last digits.
    value = codec.loads_exactly(line) if re.search(_LONG_NUMBER, line) else codec.loads(line)
    codec.refuse_depth(value, line)
    return value


def read_lines(lines: Iterable[bytes]) -> Iterator[Any]:
    """Take each line as a prompt."""
    for line in lines:
        try:
            yield RecordError(*_TOO_LONG) if line == OVERSIZE else line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield RecordError("invalid_text", f"the line is not UTF-8 at byte {error.start}")


def read_table(lines: TableLines, delimiter: str) -> Iterator[Any]:
    """Read CSV rows by header; what is wrong with one row is that row's error.

    Raises BadInput for a header that is none.
    """
    import csv  # noqa: PLC0415 - most inputs are JSON Lines

    csv.field_size_limit(2**31 - 1)
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        names = _check_header(next(filter(None, rows), []))
    except (csv.Error, RecordError) as error:
        raise BadInput(f"line {lines.number}: the header is not CSV: {error}") from error
    while True:
        lines.begin_row()
        try:
            if cells := next(rows):
                yield _name_cells(cells, names)
        except StopIteration:
            return
        except RecordError as error:
            yield error
        except csv.Error as error:
            yield RecordError("bad_row", f"the row is not CSV: {error}")


def _check_header(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise BadInput(f"the header names a column twice: {', '.join(names)}")
    if any(map(_has_stray_bytes, names)):
        raise BadInput("the header is not UTF-8")
    return names


def _name_cells(cells: list[str], names: list[str]) -> JSON:
    if len(cells) != len(names):
        raise RecordError("bad_row", "the row has not the header's columns")
    if any(map(_has_stray_bytes, cells)):
        raise RecordError("invalid_text", "the row is not UTF-8")
    return dict(zip(names, cells, strict=True))


def _has_stray_bytes(text: str) -> bool:
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


class TableLines:
    """The lines of a table as csv wants them: text with its ends, and with bytes that are none."""

    def __init__(self, file: BinaryIO, longest: int, note: Callable[[int, int], None]) -> None:
        """Read *file*, whose rows may have *longest* bytes; *note* is told of each line."""
        self._file = file
        self._longest = longest
        self._note = note
        self.number = 0
        """Of the line that was read last, from 1."""
        self._has_ended = True
        self.begin_row()

    def begin_row(self) -> None:
        """Take the next line as the first of a row."""
        self._size = self._quotes = 0

    def __iter__(self) -> TableLines:
        """Return itself: after an error it goes on, which a generator would not."""
        return self

    def __next__(self) -> str:
        """Return the next line; a row that is too long is passed over, and raises RecordError."""
        line = self._read(self._longest - self._size + 1)
        if not line:
            raise StopIteration
        if self._size > self._longest:
            while line and (self._quotes % 2 or not self._has_ended):
                line = self._read(_BLOCK)
            raise RecordError(*_TOO_LONG)
        if self.number == 1:
            line = line.removeprefix(_BOM)
        return line.decode("utf-8", "surrogateescape")

    def _read(self, most: int) -> bytes:
        line = self._file.readline(most)
        if line:
            self.number += self._has_ended
            self._has_ended = line.endswith(b"\n")
            self._size += len(line)
            self._quotes += line.count(b'"')
            self._note(self.number, len(line))
        return line


def split_lines(file: BinaryIO, longest: int) -> Iterator[tuple[int, bytes]]:
    """Yield number and content of the lines of *file*, blank ones left out, without their ends.

    Bytes are split at LF only: U+2028 and its like are legal inside a JSON string. OVERSIZE
    stands for a line longer than *longest* bytes, whose rest is never held.
    """
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            while line and not line.endswith(b"\n"):
                line = file.readline(_BLOCK)
            yield number, OVERSIZE
            continue
        if number == 1:
            line = line.removeprefix(_BOM)
        line = line.rstrip(b"\r\n")
        if line and not line.isspace():
            yield number, line


# Writing ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Result:
    """What became of one record: a reply of the API, or an error of ours; never both."""

    record: Record | BadRecord
    status: int | None = None
    request_id: str | None = None
    document: JSON | None = None
    error: JSON | None = None
    lack: str | None = None
    """What keeps an answer from being whole; see ``find_lack``."""
    attempts: int = 0
    milliseconds: int = 0

    @property
    def choice(self) -> JSON:
        """The first choice of the answer, empty where there is none."""
        choices = (self.document or {}).get("choices") or [{}]
        return choices[0] if isinstance(choices[0], dict) else {}

    @property
    def message(self) -> JSON:
        """The message of the first choice."""
        return self.choice.get("message") or {}


def _head(result: Result) -> JSON:
    """The fields that a later run looks for stand first, so that a scan needs no JSON parser."""
    flaw = {}
    if result.error is not None:
        flaw = {"failed": result.error["class"]}
    elif result.lack is not None:
        flaw = {"incomplete": re.sub("[^a-z_]", "_", result.lack)}
    mark = {
        "key": result.record.key,
        **flaw,
        "row": result.record.number,
        "attempts": result.attempts,
        "ms": result.milliseconds,
    }
    return {"custom_id": result.record.id, "kimi": mark}


def _write_batch(result: Result) -> JSON:
    """The hosted Batch APIs' line, with ours first and the row's own keys last."""
    line = _head(result)
    line["id"] = (result.document or {}).get("id") or f"kimi-{result.record.key}"
    line["response"] = None
    if result.status is not None:
        line["response"] = {
            "status_code": result.status,
            "request_id": result.request_id or "",
            "body": result.document,
        }
    line["error"] = result.error
    carried = result.record.carried if isinstance(result.record, Record) else {}
    beside = {key: value for key, value in carried.items() if key not in _RESERVED}
    if inside := _find_hidden(result.record.id, carried):
        line["kimi"]["carried"] = inside
    return line | beside


def _find_hidden(name: str, carried: JSON) -> JSON:
    """Return the row's own keys whose places in the line are taken."""
    return {
        key: value
        for key, value in carried.items()
        if key in _RESERVED and not (key in ("custom_id", "id") and str(value) == name)
    }


def _write_flat(result: Result) -> JSON:
    message = result.message
    return _head(result) | {
        "content": message.get("content"),
        "reasoning": message.get("reasoning_content") or message.get("reasoning"),
        "finish_reason": result.choice.get("finish_reason"),
        "usage": (result.document or {}).get("usage"),
        "error": result.error,
    }


def _write_merge(result: Result) -> JSON:
    row = {
        key: value for key, value in result.record.row.items() if key not in ("custom_id", "kimi")
    }
    answer = _write_flat(result)
    return _head(result) | row | {"kimi_response": {k: answer[k] for k in list(answer)[2:]}}


def _write_text(result: Result) -> Any:
    return result.message.get("content") if result.error is None else None


FORMATS: dict[str, Callable[[Result], Any]] = {
    "batch": _write_batch,
    "flat": _write_flat,
    "merge": _write_merge,
    "text": _write_text,
}
"""The output formats by name; options, help and completion read this table."""


def encode_results(results: Iterable[Result], style: str) -> bytes:
    """Return one output line a result, line feeds included: UTF-8, safe for naive readers."""
    lines = (codec.dumps(FORMATS[style](result)) for result in results)
    text = "".join(f"{line}\n" for line in lines).translate(_EXTENDED_LINE_ENDS)
    return mend_surrogates(text).encode()
