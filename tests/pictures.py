"""Small images of every type, and large ones: what tests attach."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any


def make_png(colour: int = 0, *, padding: int = 0) -> bytes:
    """A real PNG of one grey pixel, with *padding* bytes in a text of its own."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(bytes((0, colour)))),
            chunk(b"tEXt", b"Comment\0" + b"x" * padding) if padding else b"",
            chunk(b"IEND", b""),
        )
    )


def _box(brand: bytes, *others: bytes) -> bytes:
    names = brand + b"\0\0\0\0" + b"".join((brand, *others))
    return struct.pack(">I", 8 + len(names)) + b"ftyp" + names


IMAGES = {
    "image/jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF\0" + bytes(20),
    "image/png": make_png(),
    "image/gif": b"GIF89a\1\0\1\0" + bytes(20),
    "image/webp": b"RIFF\x1a\0\0\0WEBPVP8L" + bytes(14),
    "image/bmp": b"BM\x3a\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0" + bytes(40),
    "image/heic": _box(b"heic", b"mif1") + bytes(20),
    "image/heif": _box(b"mif1", b"heic") + bytes(20),
}
"""The beginning of an image of each type that models read."""
OTHERS = {
    "AVIF": _box(b"avif", b"mif1", b"miaf") + bytes(20),
    "AVIF ": _box(b"mif1", b"avif") + bytes(20),
    "TIFF": b"II*\0" + bytes(20),
    "JPEG XL": b"\xff\x0a" + bytes(20),
    "a film": _box(b"isom", b"mp41") + bytes(20),
    "a PDF": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "text": b"What a beautiful picture of two letters: \xc3\xa9\n",
    "gzip": b"\x1f\x8b\x08" + bytes(20),
    "empty": b"",
    "begins like no image": b"\0\1\2\3" * 20,
}
"""What is no such image, by the word for it."""


def picture(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    """The part of a message with that image."""
    url = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def words(text: str) -> dict[str, Any]:
    """The part of a message with that text."""
    return {"type": "text", "text": text}
