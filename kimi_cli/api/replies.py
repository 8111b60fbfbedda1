"""What a reply means: a JSON document, a refusal, or something that is not the API at all."""

from __future__ import annotations

import contextlib
import re
from typing import Any, Protocol

from kimi_cli.api import codec
from kimi_cli.api.refusals import Refusal, Refused, holds_error, read_refusal
from kimi_cli.api.retry import parse_retry_after
from kimi_cli.errors import KimiError, NotTheApi

DOCUMENT_LIMIT = 64 * 2**20
"""Bytes of one JSON document."""
ERROR_LIMIT = 2**20
"""Bytes of what comes with a status that is no success."""
_MARKUP = rb"(?s)<(style|script).*?</\1>|<[^>]*>"

JSON = dict[str, Any]


class Readable(Protocol):
    """A reply whose body can be read whole."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    def header(self, name: str) -> str | None:
        """Return the value of a header field, looked up without regard to case."""

    def read(self, limit: int) -> bytes:
        """Return the body of at most *limit* bytes."""


def check_status(reply: Readable) -> None:
    """Raise what a status outside 2xx means: Refused, or NotTheApi for a redirect."""
    if not 200 <= reply.status < 300:
        raise _explain_status(reply)


def read_document(reply: Readable) -> JSON:
    """Return the JSON object of *reply*, whose status is good.

    Raises NotTheApi for anything else, Refused for an error object.
    """
    body = reply.read(DOCUMENT_LIMIT)
    try:
        document = parse(body)
    except NotTheApi as error:
        raise explain_foreign(reply, body) from error
    if holds_error(document):
        raise refuse(reply, document)
    return document


def read_answer(reply: Readable) -> JSON:
    """Return the completion object of *reply*; raises as ``read_document`` does."""
    document = read_document(reply)
    if "choices" not in document:
        raise NotTheApi(f"the host sent JSON without an answer (HTTP {reply.status})")
    return document


def parse(data: bytes) -> JSON:
    """Parse what should be a JSON object; raises NotTheApi with its first words when it is not."""
    try:
        document = codec.loads(data)
        codec.refuse_depth(document, data)
    except ValueError as error:
        raise NotTheApi(f"the host sent what is not JSON: {_quote(data)}") from error
    if not isinstance(document, dict):
        raise NotTheApi(f"the host sent no JSON object: {_quote(data)}")
    return document


def refuse(reply: Readable, document: Any) -> Refused:
    """Return the refusal that *document* holds, with what the headers add to it."""
    return Refused(_read_refusal(reply, document))


def explain_foreign(reply: Readable, start: bytes) -> NotTheApi:
    """Say that *reply*, which begins with *start*, is not an answer."""
    kind = reply.header("content-type") or "no content type"
    return NotTheApi(
        f"the host sent {kind} instead of an answer (HTTP {reply.status}): {_quote(start)}; "
        "check --base-url"
    )


def _explain_status(reply: Readable) -> KimiError:
    if 300 <= reply.status < 400:
        target = reply.header("location") or "nowhere"
        return NotTheApi(
            f"the host redirects (HTTP {reply.status}) to {target[:200]}; redirects are not "
            "followed, for the prompt and token would go with them; check --base-url"
        )
    body = b""
    with contextlib.suppress(KimiError):
        body = reply.read(ERROR_LIMIT)
    try:
        document: Any = codec.loads(body)
        codec.refuse_depth(document, body)
    except ValueError:
        document = {"message": _quote(re.sub(_MARKUP, b" ", body))}
    return refuse(reply, document)


def _read_refusal(reply: Readable, document: Any) -> Refusal:
    return read_refusal(
        reply.status,
        document,
        trace_id=reply.header("x-trace-id") or reply.header("x-request-id"),
        retry_after=parse_retry_after(reply.header("retry-after"), reply.header("date")),
    )


def _quote(data: bytes) -> str:
    """Return the first words of a foreign reply, in one line."""
    return " ".join(data[:400].decode(errors="replace").split())[:120]
