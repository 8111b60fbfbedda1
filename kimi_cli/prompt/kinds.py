"""Files that are no text, known by their first bytes: and what makes text of them.

The bytes are those of the formats' own specifications: RFC 1952, RFC 8878, .xz, .bz2,
PKWARE's APPNOTE, ECMA-376, OpenDocument, Parquet, Avro, SQLite's file format, ISO 32000, and those
of images; the brands of ISO 14496-12 part HEIC, HEIF, AVIF and films.
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
    media_type: str | None = None
    """Of an image that models read."""

    def advise(self, file: str, command: str = "ask") -> str:
        """Return what to do about the *file* of that name, which ``kimi`` *command* was given."""
        import shlex  # noqa: PLC0415 - for this failure only

        return self.advice.replace("{file}", shlex.quote(file)).replace("{command}", command)


_TABLE = "write it out as CSV or JSON Lines first, as kimi-batch(1) shows"
_PANDOC = "pandoc -t plain {file} | kimi {command} …"


def _packed(name: str, program: str) -> Kind:
    return Kind(name, f"{program} -dc {{file}} | kimi {{command}} …")


def _image(name: str, start: bytes, pattern: bytes = b"") -> tuple[bytes, bytes, Kind]:
    kind = Kind(f"an image ({name})", "use --image", media_type=f"image/{name.lower()}")
    return start, pattern, kind


def _other_image(name: str, start: bytes, pattern: bytes = b"") -> tuple[bytes, bytes, Kind]:
    advice = "make a PNG of it for --image: magick {file} new.png"
    return start, pattern, Kind(f"an image that models do not read ({name})", advice)


_IMAGES = (
    _image("JPEG", b"\xff\xd8\xff"),
    _image("PNG", b"\x89PNG\r\n\x1a\n"),
    _image("GIF", b"GIF8", b"[79]a"),
    _image("WebP", b"RIFF", b".{4}WEBP"),
    _image("BMP", b"BM", rb".{4}\0{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
    _other_image("AVIF", b"\0\0\0", rb".ftyp(?:avi[fs]|mi[af]1.{4}(?:.{4}){0,8}?avi[fs])"),
    _image("HEIC", b"\0\0\0", rb".ftyphe(?:i[cxms]|v[cxms])"),
    _image("HEIF", b"\0\0\0", rb".ftyp(?:mif1|msf1|heif)"),
    _other_image("TIFF", b"II*\0"),
    _other_image("TIFF", b"MM\0*"),
    _other_image("JPEG XL", b"\xff\x0a"),
    _other_image("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
    _other_image("ICO", b"\0\0\1\0", rb"[^\0]\0"),
    _other_image("PSD", b"8BPS\0\1"),
)
_FILM = Kind("a film", "take a picture of it for --image: ffmpeg -i {file} -frames:v 1 new.png")
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
    *_IMAGES,
    (b"\0\0\0", rb".ftyp", _FILM),
    (b"\x1a\x45\xdf\xa3", b"", _FILM),
)  # fmt: skip


def find_kind(beginning: bytes) -> Kind | None:
    """Return what begins so; None for what may be text."""
    for start, pattern, kind in _KINDS:
        # A pattern is compiled only for what begins like its kind: text costs a start nothing.
        if beginning.startswith(start) and re.match(pattern, beginning[len(start) :], re.DOTALL):
            return kind
    return None
