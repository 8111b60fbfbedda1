"""Files that are no text, known by their first bytes: and what makes text of them.

The bytes are those of the formats' own specifications: RFC 1952, RFC 8878, .xz, .bz2,
PKWARE's APPNOTE, Parquet, Avro, SQLite's file format and ISO 32000.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 16
"""Bytes of a beginning that tell all kinds."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that is no text."""

    name: str
    advice: str


_TABLE = "write it out as CSV or JSON Lines first"
_KINDS = (
    (b"\x1f\x8b", b"", Kind("gzip", "unpack it first: gzip -dc")),
    (b"\x28\xb5\x2f\xfd", b"", Kind("zstd", "unpack it first: zstd -dc")),
    (b"\xfd7zXZ\0", b"", Kind("xz", "unpack it first: xz -dc")),
    (b"BZh", rb"[1-9](?:1AY&SY|\x17rE8P)", Kind("bzip2", "unpack it first: bzip2 -dc")),
    (b"PK", rb"(?:\x03\x04|\x05\x06)", Kind("zip", "take the text out of it first")),
    (b"PAR1", rb"[\0-\x1f]", Kind("Parquet", _TABLE)),
    (b"Obj\x01", b"", Kind("Avro", _TABLE)),
    (b"ARROW1\0", b"", Kind("Arrow", _TABLE)),
    (b"SQLite format 3\0", b"", Kind("SQLite", _TABLE)),
    (b"%PDF-", rb"\d", Kind("PDF", "take the text out of it first: pdftotext FILE -")),
)  # fmt: skip


def find_kind(beginning: bytes) -> Kind | None:
    """Return what begins so; None for what may be text."""
    for start, pattern, kind in _KINDS:
        # A pattern is compiled only for what begins like its kind: text costs a start nothing.
        if beginning.startswith(start) and re.match(pattern, beginning[len(start) :], re.DOTALL):
            return kind
    return None
