"""Answers and errors become output lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from kimi_cli.api import codec
from kimi_cli.api.allowance import Share
from kimi_cli.api.cost import Cost
from kimi_cli.api.messages import find_message
from kimi_cli.api.parts import gather_text, read_content, read_reasoning
from kimi_cli.api.text import mend_surrogates
from kimi_cli.api.usage import read_tokens
from kimi_cli.batch.columns import OURS
from kimi_cli.batch.done import INVALID
from kimi_cli.batch.records import JSON, NOT_ASKED, BadRecord, Record

if TYPE_CHECKING:
    from kimi_cli.answer.forms import Fit

_ANSWER = ["content", "reasoning", "finish_reason", "usage", "error"]
_EXTENDED_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\u0085": "\\u0085"})


@dataclass(frozen=True, eq=False, repr=False, slots=True)
class Result:
    """What became of one record: a reply of the API, or an error.

    Both for a refusal in the API's words, and for an answer that has not the form it had to have.
    """

    record: Record | BadRecord
    status: int | None = None
    request_id: str | None = None
    document: JSON | None = None
    error: JSON | None = None
    lack: str | None = None
    """What keeps an answer from being whole; see ``find_lack``."""
    cost: Cost | None = None
    """What it cost, where that is known."""
    attempts: int = 0
    milliseconds: int = 0
    replaces: tuple[str, ...] = ()
    """The keys of earlier lines, in the same output, whose place this one takes."""
    fits: tuple[Fit, ...] = ()
    """What each choice is, where it had to have a form."""
    more: JSON | None = None
    """What else the line says of its row, behind what every line says."""
    is_allowed: bool = False
    """Whether its text will do though it has an error, and not the form it had to have."""
    shard: str | None = None
    """The shard of the run, where it has one."""
    share: Share | None = None
    """What a large document takes of the memory for all; it is free when the line is written."""

    @property
    def is_invalid(self) -> bool:
        """Whether it is an answer that has not the form it had to have."""
        return self.error is not None and self.error["class"] == INVALID

    @property
    def choices(self) -> list[JSON]:
        """The choices of the answer; a row that asks for several (``n``) has as many."""
        choices = (self.document or {}).get("choices")
        if not isinstance(choices, list):
            return []
        return [choice if isinstance(choice, dict) else {} for choice in choices]

    @property
    def choice(self) -> JSON:
        """The first choice of the answer, empty where there is none."""
        return next(iter(self.choices), {})

    @property
    def message(self) -> JSON:
        """The message of the first choice."""
        return _find_message(self.choice)

    @property
    def contents(self) -> list[str | None]:
        """The text of each choice, or of its refusal; None for one that has none."""
        return list(map(read_text, self.choices))

    @property
    def content(self) -> str | None:
        """The text of the first choice."""
        return next(iter(self.contents), None)

    @property
    def reasoning(self) -> str | None:
        """What the model reasoned; None where it did not."""
        with contextlib.suppress(TypeError):
            thoughts = read_content(self.message.get("content"))[1]
            return read_reasoning(self.message) + thoughts or None
        return None


def _find_message(choice: JSON) -> JSON:
    try:
        return find_message(choice)
    except TypeError:
        return {}


def read_text(choice: JSON) -> str | None:
    """Return the text of a *choice*, or of its refusal; None for one that has none."""
    message = _find_message(choice)
    content = message.get("content")
    text = None
    with contextlib.suppress(TypeError):
        text = read_content(content)[0] or gather_text(message.get("refusal"))
    return text or (content if isinstance(content, str) else None)


def make_head(result: Result) -> JSON:
    """The fields that a later run looks for stand first, so that a scan needs no JSON parser."""
    flaw = {}
    if result.error is not None:
        flaw = {"failed": result.error["class"]}
    elif result.lack is not None:
        flaw = {"incomplete": re.sub("[^a-z_]", "_", result.lack.lower())}
    mark = {
        "key": result.record.key,
        **flaw,
        **({"replaces": list(result.replaces)} if result.replaces else {}),
        **({"shard": result.shard} if result.shard else {}),
        "row": result.record.number,
        "attempts": result.attempts,
        "ms": result.milliseconds,
    }
    if (cost := result.cost) is not None:
        mark |= {"cost": cost.to_json(), "currency": cost.currency}
    return {"custom_id": result.record.id, "kimi": mark | (result.more or {})}


def _write_batch(result: Result) -> JSON:
    """The hosted Batch APIs' line, with ours first and the row's own keys last."""
    line = make_head(result)
    line["id"] = (result.document or {}).get("id") or f"kimi-{result.record.key}"
    line["response"] = None
    if result.status is not None:
        line["response"] = {
            "status_code": result.status,
            "request_id": result.request_id or "",
            "body": result.document,
        }
    line["error"] = result.error
    return _carry_on(line | _show_values(result), result.record)


def _carry_on(line: JSON, record: Record | BadRecord) -> JSON:
    """Put the row's own keys behind *line*; those whose places are taken go into its head."""
    own = dict(record.carried)
    for name in ("custom_id", "id"):
        if name in own and str(own[name]) == record.id:
            del own[name]  # it is the line's custom_id
    if hidden := {key: value for key, value in own.items() if key in line}:
        line["kimi"]["carried"] = hidden
    return line | {key: value for key, value in own.items() if key not in line}


def _write_flat(result: Result) -> JSON:
    return _carry_on(make_head(result) | _show_answer(result), result.record)


def _show_answer(result: Result) -> JSON:
    """Return the answer in few words; where there are several, all of their texts."""
    several = {"contents": result.contents} if len(result.choices) > 1 else {}
    return {
        "content": result.content,
        "reasoning": result.reasoning,
        "finish_reason": result.choice.get("finish_reason"),
        "usage": (result.document or {}).get("usage"),
        "error": result.error,
        **several,
        **_show_values(result),
    }


def _show_values(result: Result) -> JSON:
    """Return what the answer is; where there are several, all of them.

    JSON that a model wrote stands in the line as it stood in the answer, digit for digit: until
    then something else is in its place.
    """
    if not result.fits:
        return {}
    places = [f"{_draw_mark()}{number}." for number in range(len(result.fits))]
    return {"value": places[0]} | ({"values": places} if len(places) > 1 else {})


@cache
def _draw_mark() -> str:
    """Return what no answer has in it."""
    import secrets  # noqa: PLC0415 - for answers in a form only

    return secrets.token_hex(16)


def _fill_in(line: str, fits: tuple[Fit, ...]) -> str:
    """Put values into the places that ``_show_values`` has left for them."""
    for number, fit in enumerate(fits):
        line = line.replace(f'"{_draw_mark()}{number}."', fit.json)
    return line


def _write_merge(result: Result) -> JSON:
    row = result.record.row
    head = make_head(result)
    if str(row.get("custom_id", result.record.id)) != result.record.id:
        head["kimi"]["carried"] = {"custom_id": row["custom_id"]}
    beside = {key: value for key, value in row.items() if key not in ("custom_id", "kimi")}
    return head | beside | {"kimi_response": _show_answer(result)}


def find_text(result: Result) -> str | None:
    """Return the text of an answer, the first where there are several; None for an error."""
    texts = _write_text(result)
    text = next(iter(texts), None) if isinstance(texts, list) else texts
    return text if isinstance(text, str) else None


def _write_text(result: Result) -> Any:
    if result.error is not None and not result.is_allowed:
        return None
    texts = [fit.text for fit in result.fits] or result.contents
    return texts if len(result.choices) > 1 else next(iter(texts), None)


def _write_table(result: Result) -> dict[str, Any]:
    """Return the object of one line."""
    error = result.error or {}
    usage = read_tokens((result.document or {}).get("usage"))
    several = result.contents if len(result.choices) > 1 else None
    return {
        "custom_id": result.record.id,
        "row": result.record.number,
        "status": _name_status(result),
        "content": codec.dumps(several) if several is not None else result.content or "",
        "reasoning": result.reasoning or "",
        "finish_reason": str(result.choice.get("finish_reason") or ""),
        "prompt_tokens": usage.prompt or 0,
        "completion_tokens": usage.completion or 0,
        "cached_tokens": usage.cached or 0,
        "reasoning_tokens": usage.reasoning or 0,
        "cost": 0.0 if result.cost is None else float(result.cost.to_json()),
        "error_code": str(error.get("code") or ""),
        "error": str(error.get("message") or ""),
        "attempts": result.attempts,
        "ms": result.milliseconds,
        "kimi": " ".join(_tell_mark(result)),
        "carried": "",
        **result.record.carried,
    }


def _name_status(result: Result) -> str:
    if result.error is not None:
        return NOT_ASKED if result.error["class"] == NOT_ASKED else "failed"
    return "ok" if result.lack is None else "incomplete"


def _tell_mark(result: Result) -> Iterator[str]:
    """Yield what a later run knows the row by."""
    yield result.record.key
    if result.error is not None:
        yield f"failed={result.error['class']}"
    elif result.lack is not None:
        yield "incomplete"
    if result.replaces:
        yield f"replaces={','.join(result.replaces)}"
    if result.shard is not None:
        yield f"shard={result.shard}"


FORMATS: dict[str, Callable[[Result], Any]] = {
    "batch": _write_batch,
    "flat": _write_flat,
    "merge": _write_merge,
    "text": _write_text,
    "table": _write_table,
}
"""The output formats by name; options, help and completion read this table."""


TABLES = {"csv": ",", "tsv": "\t"}
"""The formats that are tables, and what parts their cells."""


def name_format(line: bytes) -> str | None:
    """Return the format that an output *line* of ours was written in, None if it was changed."""
    try:
        return _name_format(codec.loads(line))
    except ValueError:
        return None


def _name_format(line: JSON) -> str | None:
    keys = list(line)
    if tuple(keys[: len(OURS)]) == OURS:
        return "table"
    keys = keys[2:]  # behind those of make_head
    if keys[:3] == ["id", "response", "error"]:
        return "batch"
    if keys[: len(_ANSWER)] == _ANSWER:
        return "flat"
    return "merge" if keys[-1:] == ["kimi_response"] else None


def read_result(line: bytes, style: str, record: Record) -> tuple[Result, str] | None:
    """Return what a *line* of ours says as if it were of *record*, and the id it is of.

    None for a line that is in another style, or was changed.
    """
    try:
        told = codec.loads_exactly(line)
    except ValueError:
        return None
    if _name_format(told) != style:
        return None
    mark = told["kimi"]
    status = name = None
    if style == "batch":
        response = told["response"] or {}
        status, name, document = (response.get(k) for k in ("status_code", "request_id", "body"))
        error = told["error"]
    else:
        shown = told["kimi_response"] if style == "merge" else told
        document, error = _rebuild(shown, record), shown["error"]
    lack = mark.get("incomplete")
    result = Result(record, status, name, document, error, lack=lack)
    return result, mark.get("same_as") or told["custom_id"]


def _rebuild(shown: JSON, record: Record) -> JSON:
    """Return a document of which ``_show_answer`` says what is *shown*."""
    several = b'"n":' in record.payload and codec.loads(record.payload).get("n", 1) != 1
    contents = shown["contents"] if several and "contents" in shown else [shown["content"]]
    messages = [{"content": text, "reasoning_content": shown["reasoning"]} for text in contents]
    choices = [{"message": m, "finish_reason": shown["finish_reason"]} for m in messages]
    return {"choices": choices, "usage": shown["usage"]}


class Encoder(Protocol):
    """Another way to write results than one line of JSON for each."""

    @property
    def header(self) -> bytes:
        """What stands before the first."""

    def begin(self) -> bytes:
        """Return the header the first time, and then nothing."""

    def encode(self, results: Iterable[Result]) -> bytes:
        """Return what is written of *results*."""


def encode_results(results: Iterable[Result], format: str | Encoder) -> bytes:
    """Return one output line a result, line feeds included: UTF-8, safe for naive readers."""
    if not isinstance(format, str):
        return format.encode(results)
    lines = (_fill_in(codec.dumps(FORMATS[format](result)), result.fits) for result in results)
    text = "".join(f"{line}\n" for line in lines).translate(_EXTENDED_LINE_ENDS)
    return mend_surrogates(text).encode()
