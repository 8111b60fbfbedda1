"""What a reply means: a JSON document, a refusal, or something that is not the API at all."""

from __future__ import annotations

import contextlib
import re
import time
from typing import Any, Protocol

from kimi_cli.api import codec
from kimi_cli.api.pages import is_page, read_words
from kimi_cli.api.refusals import Refusal, Refused, Teller, holds_error, read_refusal
from kimi_cli.api.waits import find_reset, find_wish
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated

DOCUMENT_LIMIT = 64 * 2**20
"""Bytes of one JSON document."""
ERROR_LIMIT = 2**20
"""Bytes of what comes with a status that is no success."""
_LOGIN = r"(?i)log-?in|sign-?in|sso|oauth|saml|cdn-cgi/access|/auth"
"""What stands in the URL of a page that a person is to log in at."""
_LONGEST_TARGET = 2000
_LONGEST_ID = 200
"""Characters of a header field that are kept."""

JSON = dict[str, Any]


class Readable(Protocol):
    """A reply whose body can be read whole."""

    @property
    def status(self) -> int:
        """The HTTP status."""

    @property
    def ends_by_closing(self) -> bool:
        """Whether only the end of the connection ends the body, so that it may be cut unseen."""

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

    Raises NotTheApi for anything else, Refused for an error object, StreamTruncated for one that
    was cut.
    """
    body = reply.read(DOCUMENT_LIMIT)
    try:
        document = parse(body)
    except NotTheApi as error:
        if reply.ends_by_closing and body.lstrip()[:1] in (b"", b"{"):
            raise StreamTruncated("the connection ended within the reply") from error
        raise explain_foreign(reply, body) from error
    if holds_error(document):
        raise refuse(reply, document)
    return document


def read_listing(reply: Readable) -> list[Any]:
    """Return the entries of a list: ``{"data": [...]}``, or the bare array (Together).

    Raises NotTheApi for anything else, Refused for an error object.
    """
    body = reply.read(DOCUMENT_LIMIT)
    try:
        document = _load(body)
    except NotTheApi as error:
        raise explain_foreign(reply, body) from error
    if holds_error(document):
        raise refuse(reply, document)
    entries = document.get("data") if isinstance(document, dict) else document
    if not isinstance(entries, list):
        raise NotTheApi(f"the host sent no list (HTTP {reply.status}); check --base-url")
    return entries


def read_answer(reply: Readable) -> JSON:
    """Return the completion object of *reply*; raises as ``read_document`` does."""
    document = read_document(reply)
    if "choices" not in document:
        raise NotTheApi(f"the host sent JSON without an answer (HTTP {reply.status})")
    return document


def parse(data: bytes) -> JSON:
    """Parse what should be a JSON object; raises NotTheApi with its first words when it is not."""
    document = _load(data)
    if not isinstance(document, dict):
        raise NotTheApi(f"the host sent no JSON object: {read_words(data)}")
    return document


def _load(data: bytes) -> Any:
    try:
        document = codec.loads(data)
    except ValueError as error:
        raise NotTheApi(f"the host sent what is not JSON: {read_words(data)}") from error
    is_error = isinstance(document, list) and len(document) == 1 and holds_error(document[0])
    return document[0] if is_error else document  # Gemini sends its errors in an array


def refuse(reply: Readable, document: Any) -> Refused:
    """Return the refusal that *document*, in a reply that began well, holds."""
    return Refused(_read_refusal(reply, document, Teller.ANSWER))


def explain_foreign(reply: Readable, start: bytes) -> NotTheApi:
    """Say that *reply*, which begins with *start*, is not an answer."""
    kind = (reply.header("content-type") or "no content type")[:_LONGEST_ID]
    words = read_words(start)
    sent = f"{kind} instead of an answer (HTTP {reply.status}): {words}"
    if not words:
        sent = f"nothing instead of an answer (HTTP {reply.status})"
    return NotTheApi(f"the host sent {sent}; check --base-url")


def _explain_status(reply: Readable) -> KimiError:
    if 300 <= reply.status < 400:
        target = reply.header("location") or "nowhere"
        is_login = re.search(_LOGIN, target[:_LONGEST_TARGET]) is not None
        advice = "whoever stands before it may want 'headers' of the profile, kimi-config(5)"
        return NotTheApi(
            f"the host redirects (HTTP {reply.status}) to {target[:200]}; redirects are not "
            "followed, for the prompt and token would go with them; "
            f"{advice if is_login else 'check --base-url'}"
        )
    body = b""
    with contextlib.suppress(KimiError):
        body = reply.read(ERROR_LIMIT)
    teller = Teller.API
    try:
        document: Any = codec.loads(body)
    except ValueError:
        teller = Teller.PAGE if is_page(body) else Teller.API
        document = {"message": read_words(body)}
    return Refused(_read_refusal(reply, document, teller))


def _read_refusal(reply: Readable, document: Any, teller: Teller) -> Refusal:
    now = time.time()
    return read_refusal(
        reply.status,
        document,
        trace_id=find_request_id(reply),
        retry_after=find_wish(reply.header, now),
        reset=find_reset(reply.header, now),
        teller=teller,
    )


def find_request_id(reply: Readable) -> str | None:
    """Return the name that the host gave the request: what a vendor's support asks for."""
    name = reply.header("x-request-id") or reply.header("x-trace-id")
    return name and name[:_LONGEST_ID]
