"""Files that are no text, known by their first bytes: and what makes text of them.

The bytes are those of the formats' own specifications: RFC 1952, RFC 8878, .xz, .bz2,
PKWARE's APPNOTE, ECMA-376, OpenDocument, Parquet, Avro, SQLite's file format and ISO 32000.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONGEST = 4096
"""Bytes of a beginning that tell all kinds: an archive lists what it holds behind its start."""


@dataclass(frozen=True)
class Kind:
    """A kind of file that is no text."""

    name: str
    """With its article: what the file is said to be."""
    advice: str
    """What to do about it; ``{file}`` and ``{command}`` stand in it."""
    is_pdf: bool = False

    def advise(self, file: str, command: str = "ask") -> str:
        """Return what to do about the *file* of that name, which ``kimi`` *command* was given."""
        import shlex  # noqa: PLC0415 - for this failure only

        return self.advice.replace("{file}", shlex.quote(file)).replace("{command}", command)


_TABLE = "write it out as CSV or JSON Lines first, as kimi-batch(1) shows"
_PANDOC = "pandoc -t plain {file} | kimi {command} …"


def _packed(name: str, program: str) -> Kind:
    return Kind(name, f"{program} -dc {{file}} | kimi {{command}} …")


_KINDS = (
    (b"\x1f\x8b", b"", _packed("gzip", "gzip")),
    (b"\x28\xb5\x2f\xfd", b"", _packed("zstd", "zstd")),
    (b"\xfd7zXZ\0", b"", _packed("xz", "xz")),
    (b"BZh", rb"[1-9](?:1AY&SY|\x17rE8P)", _packed("bzip2", "bzip2")),
    (b"PK\x03\x04", rb"(?:.*?PK\x03\x04)?.{26}word/", Kind("a Word document (docx)", _PANDOC)),
    (b"PK\x03\x04", rb"(?:.*?PK\x03\x04)?.{26}xl/", Kind("an Excel sheet (xlsx)", _TABLE)),
    (
        b"PK\x03\x04",
        rb"(?:.*?PK\x03\x04)?.{26}ppt/",
        Kind("a PowerPoint file (pptx)", "save it as text, or print it to a PDF, first"),
    ),
    (
        b"PK\x03\x04",
        rb".{26}mimetypeapplication/vnd\.oasis\.opendocument\.spreadsheet",
        Kind("a spreadsheet (ods)", _TABLE),
    ),
    (
        b"PK\x03\x04",
        rb".{26}mimetypeapplication/vnd\.oasis",
        Kind("an OpenDocument file", _PANDOC),
    ),
    (b"PK\x03\x04", rb".{26}mimetypeapplication/epub", Kind("an EPUB book", _PANDOC)),
    (
        b"PK",
        rb"(?:\x03\x04|\x05\x06)",
        Kind("a zip archive", "unzip -p {file} NAME | kimi {command} …"),
    ),
    (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
        b"",
        Kind("an old Office file (doc, xls, ppt)", "save it as text or CSV first"),
    ),
    (b"PAR1", rb"[\0-\x1f]", Kind("Parquet", _TABLE)),
    (b"Obj\x01", b"", Kind("Avro", _TABLE)),
    (b"ARROW1\0", b"", Kind("Arrow", _TABLE)),
    (b"SQLite format 3\0", b"", Kind("an SQLite database", _TABLE)),
    (b"%PDF-", rb"\d", Kind("a PDF", "pdftotext {file} - | kimi {command} …", is_pdf=True)),
)  # fmt: skip


def find_kind(beginning: bytes) -> Kind | None:
    """Return what begins so; None for what may be text."""
    for start, pattern, kind in _KINDS:
        # A pattern is compiled only for what begins like its kind: text costs a start nothing.
        if beginning.startswith(start) and re.match(pattern, beginning[len(start) :], re.DOTALL):
            return kind
    return None
