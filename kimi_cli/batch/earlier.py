"""Outputs of elsewhere: what other runs, other programs and hosted batches have answered.

A line of ours may have come through another program since, with other spaces and another order of
keys. The lines of others are known by their documents: OpenAI's batches, and all that follow it
(``response.status_code``), Anthropic's (``result.type``), Gemini's (``response.candidates``) and
Bedrock's (``modelOutput``).
"""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from kimi_cli.api import codec
from kimi_cli.api.messages import find_lack
from kimi_cli.batch.done import Done, Mark, hash_id, parse_mark, read_mark
from kimi_cli.errors import BadInput, KimiError, MissingInput
from kimi_cli.prompt.kinds import find_kind

_BLOCK = 2**16
_GZIP = b"\x1f\x8b"
_IDS = ("custom_id", "key", "recordId")
_WHOLE = frozenset(("end_turn", "stop_sequence", "tool_use", "STOP", "stop"))


@dataclass(frozen=True, eq=False, repr=False)
class _Told:
    """What a line of somebody else tells of a row."""

    name: str
    is_answered: bool
    is_incomplete: bool = False


def read_done(paths: Iterable[Path], notify: Callable[[str], None] = lambda message: None) -> Done:
    """Return what the outputs *paths* tell of as done; *notify* is told how many lines do not.

    Raises MissingInput for a file that cannot be read, BadInput for one that is no text.
    """
    done = Done()
    for path in paths:
        try:
            with _opening(path) as file:
                _collect(path, file, done, notify)
        except (OSError, EOFError, zlib.error) as error:
            why = getattr(error, "strerror", None) or "its gzip is cut short or damaged"
            raise MissingInput(f"cannot read {path}: {why}") from error
    return done


def _unpacked(raw: io.BufferedReader) -> Any:
    """Return *raw*, or what it holds where that is gzip."""
    if raw.peek(2)[:2] != _GZIP:
        return raw
    import gzip  # noqa: PLC0415 - takes long to load, and few outputs are packed

    return gzip.open(raw)


@contextmanager
def _opening(path: Path) -> Iterator[BinaryIO]:
    """Yield the lines of a file, unpacked where it is gzip; raises BadInput for what is no text."""
    with open(path, "rb") as raw, _unpacked(raw) as opened:
        file = io.BufferedReader(opened, _BLOCK) if opened is not raw else raw
        beginning = file.peek(_BLOCK)
        if (kind := _name_binary(beginning)) is not None:
            raise BadInput(f"--done-from: {path} is {kind}, not lines of JSON")
        yield file


def _name_binary(beginning: bytes) -> str | None:
    if (kind := find_kind(beginning)) is not None:
        return kind.name
    if beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "UTF-16"
    if beginning.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return None  # it may have holes, as a power cut leaves them
    try:
        beginning.decode()
    except UnicodeDecodeError as error:
        if error.start < len(beginning) - 4:  # else it is a letter that the block cut
            return "a binary file"
    return "a binary file" if b"\0" in beginning else None


def _collect(path: Path, file: BinaryIO, done: Done, notify: Callable[[str], None]) -> None:
    """Add the rows that the lines of a file have answers of."""
    lines = unknown = 0
    for raw in file:
        line = raw.removeprefix(b"\xef\xbb\xbf") if not lines else raw
        if not line.strip():
            continue
        lines += 1
        told = _read_line(line)
        if told is None:
            unknown += 1
        elif isinstance(told, Mark):
            if told.failed is None:
                done.note(told)
        elif told.is_answered:
            name = hash_id(told.name)
            done.elsewhere.add(name)
            if told.is_incomplete:
                done.incomplete.add(None, told.name)
    if not lines:
        notify(f"--done-from: {path} is empty, and nothing is left out for it")
    elif unknown:
        tell = "line tells" if lines == 1 else "lines tell"
        notify(
            f"--done-from: {unknown} of {lines} {tell} of no row in {path}; "
            "nothing is left out for them"
        )


def _read_line(line: bytes) -> Mark | _Told | None:
    if (mark := read_mark(line)) is not None and (line.endswith(b"\n") or codec.is_json(line)):
        return None if b"\0" in line else mark
    try:
        document = codec.loads(line)
    except ValueError:
        return None
    if not isinstance(document, dict):
        return None
    return _read_ours(document) or _read_others(document)


def _read_ours(document: dict[str, Any]) -> Mark | None:
    """Read a line of ours that another program wrote again."""
    name, mark = document.get("custom_id"), document.get("kimi")
    if isinstance(name, str) and isinstance(mark, str):
        return parse_mark(name, mark)
    if not isinstance(name, str) or not isinstance(mark, dict):
        return None
    key, failed = mark.get("key"), mark.get("failed")
    try:
        found = bytes.fromhex(key) if isinstance(key, str) else b""
    except ValueError:
        return None
    if len(found) != 16:
        return None
    is_incomplete = bool(mark.get("incomplete"))
    return Mark(name, found, None if failed is None else str(failed), is_incomplete)


def _read_others(document: dict[str, Any]) -> _Told | None:
    name = next((document[key] for key in _IDS if isinstance(document.get(key), str)), None)
    if name is None:
        return None
    response, result = document.get("response"), document.get("result")
    if isinstance(result, dict) and isinstance(result.get("type"), str):
        if result["type"] != "succeeded":
            return _Told(name, is_answered=False)
        return _Told(name, True, _is_cut(result.get("message"), "stop_reason"))
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        good = not document.get("error") and 200 <= response["status_code"] < 300
        return _Told(name, good, good and _has_lack(response.get("body")))
    if isinstance(response, dict) and isinstance(candidates := response.get("candidates"), list):
        return _Told(name, bool(candidates), any(_is_cut(c, "finishReason") for c in candidates))
    if isinstance(output := document.get("modelOutput"), dict):
        return _Told(name, True, _is_cut(output, "stop_reason"))
    if document.get("error"):
        return _Told(name, is_answered=False)
    return None


def _is_cut(answer: Any, key: str) -> bool:
    """Tell whether an *answer* says under *key* that it ended early."""
    reason = answer.get(key) if isinstance(answer, dict) else None
    return isinstance(reason, str) and reason not in _WHOLE


def _has_lack(body: Any) -> bool:
    """Tell whether a completion is not whole; some hosts write it as a text of JSON."""
    try:
        body = codec.loads(body) if isinstance(body, str) else body
        choices = body.get("choices") if isinstance(body, dict) else None
        return bool(choices) and find_lack(body) is not None
    except (ValueError, KimiError):
        return False
