"""One row a file, and a file for each answer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import rows
from pictures import make_png, picture, words
from program import Kimi
from rows import read_rows
from server import ReplayServer, completion

batch = rows.echoing
SUMMARISE = ("-p", "Sum: {text}", "-q")


@pytest.fixture
def docs(home: Path) -> Path:
    """A folder with files in folders."""
    folder = home / "docs"
    for name in ("b.md", "a.md", "deep/er/c.md", "deep/d.txt"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"in {name}\n")
    return folder


def list_prompts(server: ReplayServer) -> list[str]:
    """What was asked, sorted."""
    return sorted(request.json["messages"][-1]["content"] for request in server.requests)


def test_a_row_of_each_file(batch: Kimi, server: ReplayServer, docs: Path, out: Path) -> None:
    """In the order of their paths, whose names are fields; their text is not in the output."""
    run = batch.but("--files", "docs/**/*.md", "--format", "flat", "-q", "--ordered")
    run = run.but("-o", str(out))
    template = "{path} {name} {stem}: {text}"
    assert run("-p", template).status == 0
    names = ["docs/a.md", "docs/b.md", "docs/deep/er/c.md"]
    lines = read_rows(out)
    assert [line["custom_id"] for line in lines] == names
    assert [line["path"] for line in lines] == names
    assert not any("text" in line for line in lines)
    assert list_prompts(server)[2] == "docs/deep/er/c.md c.md c: in deep/er/c.md"
    assert run("-p", template).status == 0
    assert len(server.requests) == 3


def test_images_are_sent_and_binaries_are_errors(
    batch: Kimi, server: ReplayServer, docs: Path, out: Path
) -> None:
    """An image before the prompt; what is neither is told as the row's error."""
    server.answer(lambda request: completion("x"))
    (docs / "i.md").write_bytes(make_png())
    (docs / "z.md").write_bytes(b"\0\1")
    result = batch("-q", "--files", f"{docs}/[iz].md", "-p", "What is {name}?", "-o", str(out))
    assert result.status == 4, result.error
    content = server.requests[0].json["messages"][-1]["content"]
    assert content == [picture(make_png()), words("What is i.md?")]
    assert len(server.requests) == 1
    (error,) = [line["error"]["message"] for line in read_rows(out) if line["error"]]
    assert "z.md" in error


def test_an_answer_is_a_file(batch: Kimi, server: ReplayServer, docs: Path) -> None:
    """Named after its own; the same command goes on, and a changed file is told of."""
    run = batch.but(*SUMMARISE, "--files", "docs/*.md", "--output-dir", "new/out")
    assert run().status == 0
    made = docs.parent / "new/out"
    assert sorted(p.name for p in made.glob("*")) == [".kimi-batch.jsonl", "a.txt", "b.txt"]
    assert (made / "a.txt").read_text() == "re: Sum: in a.md\n"
    (docs / "c.md").write_text("more")
    assert run().status == 0
    assert len(server.requests) == 3
    assert (made / "c.txt").read_text() == "re: Sum: more\n"
    (docs / "a.md").write_text("other")
    assert run().status == 65
    assert run("--on-change", "redo").status == 0
    assert (made / "a.txt").read_text() == "re: Sum: other\n"


def test_an_output_of_ones_own(batch: Kimi, docs: Path, out: Path) -> None:
    """Beside the files; - is standard output."""
    run = batch.but(*SUMMARISE, "--files", "docs/*.md", "--output-dir", "out")
    assert run("-o", str(out)).status == 0
    assert len(read_rows(out)) == 2
    shown = run("-o", "-", "--format", "text", "--ordered")
    assert [json.loads(line) for line in shown.stdout.splitlines()] == [
        "re: Sum: in a.md",
        "re: Sum: in b.md",
    ]
    assert not (docs.parent / "out/.kimi-batch.jsonl").exists()


def test_names_that_are_taken(batch: Kimi, server: ReplayServer, docs: Path) -> None:
    """By another row, or by the input, are errors before anything is asked or written."""
    (docs / "deep/a.md").write_text("x")
    run = batch.but(*SUMMARISE)
    twice = run("--files", "docs/**/a.md", "--output-dir", "out")
    assert twice.status == 65
    assert "docs/a.md" in twice.error
    assert "docs/deep/a.md" in twice.error
    ours = run("--files", "docs/deep/*.txt", "--output-dir", "docs/deep")
    assert (ours.status, "is a file of the input" in ours.error) == (65, True)
    assert not server.requests
    assert (docs / "deep/d.txt").read_text() == "in deep/d.txt\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("--files", "none/*.md", "-p", "{text}"), 66),
        (("--files", "docs/*.md"), 2),
        (("--files", "docs/a.md", "docs/b.md", "-p", "{text}"), 2),
        (("--files", "docs/*.md", "--csv", "-p", "{text}"), 2),
        (("--files", "docs/*.md", "--image-field", "x", "-p", "{text}"), 2),
        (("--output-dir", "out"), 2),
        (("--files", "docs/*.md", "-p", "{text}", "--output-dir", "docs/a.md/x"), 73),
    ],
)
def test_options_that_make_no_sense(
    batch: Kimi, server: ReplayServer, docs: Path, arguments: tuple[str, ...], status: int
) -> None:
    """Are one line, and nothing is asked."""
    result = batch("-q", *arguments, stdin=b"")
    assert (result.status, result.error.count("\n")) == (status, 1), result.error
    assert not server.requests


def test_a_rehearsal_makes_nothing(batch: Kimi, server: ReplayServer, docs: Path) -> None:
    """It tells how many rows there are."""
    run = batch.but("-p", "{text}", "--files", "docs/*.md", "--output-dir", "out")
    result = run("--dry-run")
    assert result.status == 0, result.error
    assert "2 rows can be sent" in result.error
    assert not (docs.parent / "out").exists()
    assert not server.requests
