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
    (rb"\x1f\x8b", Kind("gzip", "unpack it first: gzip -dc")),
    (rb"\x28\xb5\x2f\xfd", Kind("zstd", "unpack it first: zstd -dc")),
    (rb"\xfd7zXZ\0", Kind("xz", "unpack it first: xz -dc")),
    (rb"BZh[1-9](?:1AY&SY|\x17rE8P)", Kind("bzip2", "unpack it first: bzip2 -dc")),
    (rb"PK(?:\x03\x04|\x05\x06)", Kind("zip", "take the text out of it first")),
    (rb"PAR1[\0-\x1f]", Kind("Parquet", _TABLE)),
    (rb"Obj\x01", Kind("Avro", _TABLE)),
    (rb"ARROW1\0", Kind("Arrow", _TABLE)),
    (rb"SQLite format 3\0", Kind("SQLite", _TABLE)),
    (rb"%PDF-\d", Kind("PDF", "take the text out of it first: pdftotext FILE -")),
)  # fmt: skip


def find_kind(beginning: bytes) -> Kind | None:
    """Return what begins so; None for what may be text."""
    for pattern, kind in _KINDS:
        if re.match(pattern, beginning, re.DOTALL):
            return kind
    return None
