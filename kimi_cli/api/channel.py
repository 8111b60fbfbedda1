"""A kept connection for many requests: one per thread, and cheap.

A row of a batch costs one round trip and little else, so the request goes out in one piece.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage, HTTPResponse

from kimi_cli.api.allowance import SMALL, Allowance, Reader, Share
from kimi_cli.api.http1 import FinalResponse, unpack
from kimi_cli.api.replies import DOCUMENT_LIMIT, ERROR_LIMIT
from kimi_cli.api.secrecy import Veil
from kimi_cli.api.transport import Call, Transport
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated, TimedOut

_PIECE = 2**20
_NO_VEIL = Veil(None)


@dataclass(frozen=True, slots=True)
class WholeReply:
    """One HTTP reply, read to its end."""

    status: int
    body: bytes
    fields: HTTPMessage
    veil: Veil = _NO_VEIL
    """Hides the token that the request brought."""
    share: Share | None = None
    """What a large body takes of the memory for all; who holds the document holds it."""

    @property
    def ends_by_closing(self) -> bool:
        """Whether only the end of the connection ended the body."""
        is_chunked = "chunked" in (self.header("transfer-encoding") or "").lower()
        return self.header("content-length") is None and not is_chunked

    def header(self, name: str) -> str | None:
        """Return the value of a header field, looked up without regard to case."""
        return self.fields.get(name)

    def read(self, limit: int) -> bytes:
        """Return the body; raises NotTheApi beyond *limit* bytes, StreamTruncated."""
        pieces, size = [], 0
        try:
            for piece in unpack(iter((self.body,)), self.header("content-encoding")):
                pieces.append(piece)
                size += len(piece)
                if size > limit:
                    raise NotTheApi(f"the host sent more than {limit} bytes in one document")
        except HTTPException as error:
            raise StreamTruncated(f"the packed body was cut off: {error}") from error
        return b"".join(pieces)  # of a body that is not packed this is no copy


class Channel:
    """Posts to one path, over one connection that is kept as long as the host keeps it."""

    def __init__(
        self,
        transport: Transport,
        path: str,
        headers: Mapping[str, str],
        *,
        connect: float,
        explain: Callable[[KimiError, str], None] = lambda error, model: None,
        veil: Veil = _NO_VEIL,
        allowance: Allowance | None = None,
    ) -> None:
        """Prepare; the connection (within *connect* seconds) is made with the first post.

        *explain* is the client's, for whoever reads the replies; *veil* hides its token in them.
        Large replies are read while the *allowance* of all channels has room for them.
        """
        self.explain = explain
        self.reader = Reader(allowance or Allowance())
        """Who waits for that room."""
        self._veil = veil
        self._transport = transport
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: socket.socket | None = None
        self._poll = select.poll()
        self._posting: bytes | None = None
        self._aborted = False
        self._head = transport.compose_head(Call("POST", path, headers)) + b"Content-Length: "

    def post(self, body: bytes) -> WholeReply:
        """Send *body*; return the reply, read to its end.

        Raises Unreachable, TimedOut when it was aborted, StreamTruncated or NotTheApi.
        """
        with self._lock:
            self._posting, self._aborted = body, False
        self.reader.begin()
        try:
            reply = self._receive(self._send(body))
            if self._aborted:
                # The end that we made looks like the host's own where no length was told.
                raise ConnectionAbortedError("given up")
            return reply
        except (HTTPException, OSError) as error:
            connecting = self._connection is None
            self.close()
            if self._aborted:
                raise TimedOut(
                    "no answer within the time limit (limits: timeout, max-time)"
                ) from error
            raise self._transport.explain(error, connecting=connecting) from error
        finally:
            with self._lock:
                self._posting = None

    def abort(self, body: bytes) -> None:
        """End the call in which another thread posts this very *body*, if it still does."""
        with self._lock:
            if self._posting is not body:
                return
            self._aborted = True
            if self._connection is not None:
                with contextlib.suppress(OSError):
                    self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection; the next post makes a new one."""
        with self._lock:
            connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _send(self, body: bytes) -> HTTPResponse:
        """Send the request; return the response, its body unread."""
        connected = self._open()
        request = b"%s%d\r\n\r\n%s" % (self._head, len(body), body)
        # A host may answer, and hang up, before it has read a long request.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            connected.sendall(request)
        response = FinalResponse(connected, method="POST")
        try:
            response.begin()
        except BaseException:
            response.close()
            raise
        return response

    def _receive(self, response: HTTPResponse) -> WholeReply:
        """Read the reply to its end, or a little more than a document may have."""
        with contextlib.closing(response):
            limit = DOCUMENT_LIMIT if 200 <= response.status < 300 else ERROR_LIMIT
            data, share = self._read(response, limit)
            must_close = response.will_close or len(data) > limit
        if must_close:
            self.close()
        return WholeReply(response.status, data, response.msg, self._veil, share)

    def _read(self, response: HTTPResponse, limit: int) -> tuple[bytes, Share | None]:
        """Return the body, or of a larger one than *limit* a little more; and what it takes."""
        length, start = response.length, b""
        if length is None or length > limit:
            start = _read_bounded(response, min(limit, SMALL))
            if len(start) <= SMALL:
                return start, None
            length = limit
        elif length <= SMALL:
            return response.read(), None
        share = self.reader.take(length, lambda: self._aborted)
        data = _read_bounded(response, limit, start) if start else response.read()
        share.shrink(len(data))
        return data, share

    def _open(self) -> socket.socket:
        """Return the socket of the connection, opening it when there is none.

        On one that was kept nothing can have come but its end: it is replaced, before anything is
        sent. What breaks later may have been taken by the host, and must not be sent again unasked.
        """
        if self._connection is not None and self._poll.poll(0):
            self.close()
        if self._connection is not None:
            return self._connection
        connected = self._transport.connect(self._connect)
        with self._lock:
            self._connection = connected
        self._poll = select.poll()
        self._poll.register(connected, select.POLLIN)
        if self._aborted:
            raise ConnectionAbortedError("given up while connecting")
        return connected


def _read_bounded(response: HTTPResponse, limit: int, start: bytes = b"") -> bytes:
    """Return *start* and the rest of the body, or of a larger one a little more than *limit*."""
    # Only read1 is bounded whatever the sizes of chunks are: very small, or below nothing.
    data = bytearray(start)
    while len(data) <= limit and (piece := response.read1(_PIECE)):
        data += piece
    return bytes(data)
