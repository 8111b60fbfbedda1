"""One HTTP/1.1 message each way: a request's head, a reply that is read as it comes.

The standard library reads replies, but takes a head or a body that was cut for a whole one.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from http.client import HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import Any

from kimi_cli.errors import NotTheApi

_PIECE = 65536
_VERSION, _LONG_LINE = b"HTTP/", 65536
"""How a status line begins, and from which length on it is none."""
_CUT_HEAD = "the connection ended within the head of the reply"
_PACKINGS = ("gzip", "x-gzip", "deflate")
_ANY_HEADER = zlib.MAX_WBITS | 32
_ZLIB = 8
"""The compression method in the first byte of what has a zlib header (RFC 1950, section 2.2)."""


def compose_head(method: str, target: str, fields: Mapping[str, str]) -> bytes:
    """Return a request line and header fields, without the empty line that ends them."""
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {fields[name]}" for name in fields)]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n"


class CutHead(HTTPException):
    """The connection ended within the status line or the headers of a reply."""


class _LineKeeper:
    """Hands lines on, and keeps the last one: http.client takes a cut head for a whole one."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.last = b""

    def readline(self, *limit: int) -> bytes:
        self.last = self._file.readline(*limit)
        return self.last

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class FinalResponse(HTTPResponse):
    """The reply that counts: interim ones before it are passed over (RFC 9110, section 15.2)."""

    def begin(self) -> None:
        """Read the status and the headers; raises HTTPException, CutHead where they are cut."""
        self._begin_whole()
        while 101 < self.status < 200:
            self.headers = None  # type: ignore[assignment] # or begin() would have nothing to do
            self._begin_whole()

    def _begin_whole(self) -> None:
        file = self.fp
        keeper: Any = _LineKeeper(file)
        self.fp = keeper
        try:
            super().begin()
        except RemoteDisconnected:
            raise
        except HTTPException:
            begun = keeper.last and (
                _VERSION.startswith(keeper.last) or keeper.last[:5] == _VERSION
            )
            if begun and not keeper.last.endswith(b"\n") and len(keeper.last) < _LONG_LINE:
                raise CutHead(_CUT_HEAD) from None
            raise
        finally:
            if self.fp is keeper:
                self.fp = file
        if keeper.last not in (b"\r\n", b"\n"):
            raise CutHead(_CUT_HEAD)


def read_promptly(response: HTTPResponse) -> Iterator[bytes]:
    """Yield the body as it comes, never waiting for a full buffer, and unpacked.

    Raises HTTPException where it is cut, NotTheApi where it cannot be unpacked, OSError.
    """
    return unpack(_read_framed(response), response.headers.get("content-encoding"))


def _read_framed(response: HTTPResponse) -> Iterator[bytes]:
    while piece := response.read1(_PIECE):
        yield piece
    if response.length:
        raise IncompleteRead(b"", response.length)


def unpack(pieces: Iterator[bytes], encoding: str | None) -> Iterator[bytes]:
    """Yield what *pieces* are once their content encoding is undone, bounded piece by piece.

    We ask for none; some hosts pack all the same. Raises NotTheApi for what cannot be unpacked,
    IncompleteRead for what is cut.
    """
    packing = (encoding or "identity").strip().lower()
    if packing == "identity":
        return pieces
    if packing not in _PACKINGS:
        raise NotTheApi(f"the host sent a body packed as {packing}, which was not asked for")
    return _inflate(pieces, packing)


def _inflate(pieces: Iterator[bytes], packing: str) -> Iterator[bytes]:
    opened: Any = None
    for piece in pieces:
        left, is_full = piece, False
        while left or is_full:
            if opened is None or opened.eof:
                opened = zlib.decompressobj(_find_window(left, packing))
            try:
                data = opened.decompress(left, _PIECE)
            except zlib.error as error:
                raise NotTheApi(f"the host sent what cannot be decompressed: {error}") from error
            if data:
                yield data
            left = opened.unconsumed_tail or opened.unused_data
            is_full = len(data) == _PIECE and not opened.eof
    if opened is not None and not opened.eof:
        raise IncompleteRead(b"")


def _find_window(data: bytes, packing: str) -> int:
    """Return zlib's window bits: what is called deflate comes with a header, and without."""
    is_bare = packing == "deflate" and data[0] & 15 != _ZLIB
    return -zlib.MAX_WBITS if is_bare else _ANY_HEADER
