"""Answers and errors become output lines."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from kimi_cli.api import codec
from kimi_cli.api.messages import find_message
from kimi_cli.api.parts import gather_text, read_content, read_reasoning
from kimi_cli.api.text import mend_surrogates
from kimi_cli.batch.records import JSON, BadRecord, Record

_RESERVED = frozenset(("custom_id", "kimi", "id", "response", "error"))
_EXTENDED_LINE_ENDS = str.maketrans({"\u2028": "\\u2028", "\u2029": "\\u2029", "\u0085": "\\u0085"})


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
    replaces: tuple[str, ...] = ()
    """The keys of earlier lines, in the same output, whose place this one takes."""

    @property
    def choice(self) -> JSON:
        """The first choice of the answer, empty where there is none."""
        choices = (self.document or {}).get("choices")
        first = choices[0] if isinstance(choices, list) and choices else None
        return first if isinstance(first, dict) else {}

    @property
    def message(self) -> JSON:
        """The message of the first choice."""
        try:
            return find_message(self.choice)
        except TypeError:
            return {}

    @property
    def content(self) -> str | None:
        """The text of that message, or of its refusal; None where it has none."""
        content = self.message.get("content")
        text = None
        with contextlib.suppress(TypeError):
            text = read_content(content)[0] or gather_text(self.message.get("refusal"))
        return text or (content if isinstance(content, str) else None)

    @property
    def reasoning(self) -> str | None:
        """What the model reasoned; None where it did not."""
        with contextlib.suppress(TypeError):
            thoughts = read_content(self.message.get("content"))[1]
            return read_reasoning(self.message) + thoughts or None
        return None


def _head(result: Result) -> JSON:
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
    carried = result.record.carried
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
    return _head(result) | {
        "content": result.content,
        "reasoning": result.reasoning,
        "finish_reason": result.choice.get("finish_reason"),
        "usage": (result.document or {}).get("usage"),
        "error": result.error,
    }


def _write_merge(result: Result) -> JSON:
    row = result.record.row
    head, answer = _head(result), _write_flat(result)
    if str(row.get("custom_id", result.record.id)) != result.record.id:
        head["kimi"]["carried"] = {"custom_id": row["custom_id"]}
    beside = {key: value for key, value in row.items() if key not in ("custom_id", "kimi")}
    return head | beside | {"kimi_response": {k: answer[k] for k in list(answer)[2:]}}


def _write_text(result: Result) -> Any:
    return result.content if result.error is None else None


FORMATS: dict[str, Callable[[Result], Any]] = {
    "batch": _write_batch,
    "flat": _write_flat,
    "merge": _write_merge,
    "text": _write_text,
}
"""The output formats by name; options, help and completion read this table."""


def name_format(line: bytes) -> str | None:
    """Return the format that an output *line* of ours was written in, None if it was changed."""
    try:
        keys = list(codec.loads(line))[2:]  # behind those of _head
    except ValueError:
        return None
    if keys[:3] == ["id", "response", "error"]:
        return "batch"
    if keys[-1:] == ["kimi_response"]:
        return "merge"
    return "flat" if keys[:1] == ["content"] else None


def encode_results(results: Iterable[Result], format: str) -> bytes:
    """Return one output line a result, line feeds included: UTF-8, safe for naive readers."""
    lines = (codec.dumps(FORMATS[format](result)) for result in results)
    text = "".join(f"{line}\n" for line in lines).translate(_EXTENDED_LINE_ENDS)
    return mend_surrogates(text).encode()
