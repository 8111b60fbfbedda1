"""PDFs: their text is attached, and one without says so."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from program import Kimi
from server import ReplayServer, completion


def make_pdf(pages: Sequence[str], *, trailer: str = "") -> bytes:
    """A PDF of ASCII alone, with a line of text on each page."""
    texts = [f"BT /F1 12 Tf 20 100 Td ({text}) Tj ET" if text else "" for text in pages]
    first = 4
    kids = " ".join(f"{first + 2 * number} 0 R" for number in range(len(pages)))
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Count {len(pages)} /Kids [{kids}] >>",
        "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    for number, text in enumerate(texts):
        objects += [
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 300 200] "
            f"/Resources << /Font << /F1 3 0 R >> >> /Contents {first + 2 * number + 1} 0 R >>",
            f"<< /Length {len(text)} >>\nstream\n{text}\nendstream",
        ]
    body, places = "%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        places.append(len(body))
        body += f"{number} 0 obj\n{content}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    size = len(objects) + 1
    return (
        f"{body}xref\n0 {size}\n0000000000 65535 f \n{table}"
        f"trailer\n<< /Size {size} /Root 1 0 R {trailer}>>\nstartxref\n{len(body)}\n%%EOF\n"
    ).encode("ascii")


LOCKED = "/Encrypt << /Filter /Standard /V 1 /R 2 /P -4 /O <{0}> /U <{0}> >> /ID [<00> <00>] "


@pytest.fixture
def paper(tmp_path: Path) -> Path:
    """A file of two pages."""
    path = tmp_path / "a.pdf"
    path.write_bytes(make_pdf(["Hello page one", "And page two"]))
    return path


def test_a_pdf_is_its_text(ask: Kimi, server: ReplayServer, paper: Path) -> None:
    """Attached or piped; pages are parted by a form feed."""
    server.answer(lambda request: completion("x"))
    text = "Hello page one\fAnd page two"
    assert ask("--no-stream", "-f", "a.pdf", "Sum", cwd=paper.parent).status == 0
    assert ask("--no-stream", "Sum", stdin=paper).status == 0
    contents = [request.json["messages"][0]["content"] for request in server.requests]
    assert contents == [f"Sum\n\na.pdf:\n{text}", f"Sum\n\n{text}"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (make_pdf(["", ""]), "without text"),
        (make_pdf(["secret"], trailer=LOCKED.format("0" * 64)), "password"),
        (b"%PDF-1.7\n1 0 obj\n<< >>\nendobj\n", "damaged"),
    ],
)
def test_a_pdf_that_has_no_text_to_give(
    ask: Kimi, server: ReplayServer, tmp_path: Path, data: bytes, said: str
) -> None:
    """What is wrong with it is said before anything is sent."""
    (tmp_path / "a.pdf").write_bytes(data)
    result = ask("-f", "a.pdf", "Sum", cwd=tmp_path)
    assert (result.status, result.stdout) == (65, b"")
    assert said in result.error
    assert result.error.count("\n") == 1
    assert not server.requests


def test_without_the_extra_it_is_named(
    ask: Kimi, server: ReplayServer, paper: Path, tmp_path: Path
) -> None:
    """Also where all of its bytes are ASCII: a program that helps, and how to add the extra."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text("import sys; sys.modules['pypdfium2'] = None\n")
    bare = ask.but(env={"PYTHONPATH": str(hidden)})
    assert paper.read_bytes().isascii()
    for result in (bare("-f", "a.pdf", "Sum", cwd=tmp_path), bare("Sum", stdin=paper)):
        assert (result.status, result.stdout) == (65, b"")
        assert "is a PDF, not text; pdftotext" in result.error
        assert "- | kimi ask" in result.error
        assert "pypdfium2" in result.error
        assert result.error.count("\n") == 1
    assert not server.requests


def test_a_batch_names_it(batch: Kimi, server: ReplayServer, paper: Path) -> None:
    """A PDF has no rows."""
    result = batch(str(paper))
    assert result.status == 65
    assert "this is a PDF, not lines of text; pdftotext FILE - | kimi batch" in result.error
    assert not server.requests
