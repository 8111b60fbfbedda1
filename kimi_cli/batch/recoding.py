"""Input in another encoding, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

_BLOCK = 2**16


class Recoder(io.RawIOBase):
    """A file of another encoding as a raw stream of UTF-8.

    Bytes that are none of its encoding stay as they are, so that they are an error of their row.
    """

    def __init__(self, file: io.BufferedReader, encoding: str) -> None:
        """Read *file*, which stays open."""
        self._file = file
        self._decoder = codecs.getincrementaldecoder(encoding)("surrogateescape")
        self._rest = b""
        self._has_ended = False

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Buffer) -> int:
        """Fill *buffer* with what comes; 0 is the end.

        Raises OSError, and UnicodeError for what cannot be left to a row.
        """
        while not self._rest and not self._has_ended:
            data = self._file.read1(_BLOCK)
            self._has_ended = not data
            text = self._decoder.decode(data, final=self._has_ended)
            self._rest = text.encode("utf-8", "surrogateescape")
        view = memoryview(buffer)
        part, self._rest = self._rest[: len(view)], self._rest[len(view) :]
        view[: len(part)] = part
        return len(part)
