"""The text of a PDF, page by page. Reading it is PDFium's; it is an optional extra."""

from __future__ import annotations

import importlib
from importlib.util import find_spec
from typing import Any

from kimi_cli.errors import BadInput

PAGE_BREAK = "\f"
_HYPHENS = {0xFFFE: "-", 0x02: "-", 0x00: None}
"""How PDFium writes a hyphen at the end of a line, and letters that have no meaning."""


def can_read_pdf() -> bool:
    """Tell whether the extra is installed."""
    return find_spec("pypdfium2") is not None


def extract_text(data: bytes, name: str) -> str:
    """Return the text of the PDF that is called *name*, a form feed between two pages.

    Raises BadInput for one that is damaged, locked, or has no text.
    """
    pypdfium2: Any = importlib.import_module("pypdfium2")
    try:
        with pypdfium2.PdfDocument(data) as document:
            pages = [_read_page(document, number) for number in range(len(document))]
    except pypdfium2.PdfiumError as error:
        if "password" in str(error).lower():
            raise BadInput(
                f"{name} is a PDF with a password; take that away first: qpdf --decrypt"
            ) from error
        raise BadInput(f"{name} is a PDF that cannot be read: it is damaged") from error
    if not any(page.strip() for page in pages):
        raise BadInput(f"{name} is a PDF without text; read its pictures first: ocrmypdf")
    return PAGE_BREAK.join(pages)


def _read_page(document: Any, number: int) -> str:
    page = document[number]
    try:
        text: str = page.get_textpage().get_text_bounded()
    finally:
        page.close()
    return text.replace("\r\n", "\n").translate(_HYPHENS)
