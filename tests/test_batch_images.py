"""Images of rows: by paths beside the input, known by their bytes, each part of its row's key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pictures import IMAGES, OTHERS, make_png, picture, words
from program import Kimi
from server import ReplayServer, completion

Row = dict[str, Any]


@pytest.fixture
def pictures(batch: Kimi, server: ReplayServer) -> Kimi:
    """The command that sends the images of the field ``image``."""
    server.answer(lambda request: completion("x"))
    return batch.but("-q", "--image-field", "image", "-c", "1")


def write(path: Path, *rows: Any) -> Path:
    """Write *rows* as JSON Lines."""
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def list_contents(server: ReplayServer) -> list[Any]:
    """The content of the last message of each request."""
    return [request.json["messages"][-1]["content"] for request in server.requests]


def test_paths_are_beside_the_input(
    pictures: Kimi, server: ReplayServer, tmp_path: Path, out: Path
) -> None:
    """One, several in an array, or none in an empty one; the field is kept beside the answer."""
    source = write(
        tmp_path / "in" / "rows.jsonl",
        {"id": "a", "prompt": "one", "image": "1.png"},
        {"id": "b", "prompt": "two", "image": ["1.png", "2.jpg"]},
        {"id": "c", "prompt": "none", "image": []},
    )
    (source.parent / "1.png").write_bytes(make_png(1))
    (source.parent / "2.jpg").write_bytes(IMAGES["image/jpeg"])
    result = pictures(str(source), "-o", str(out))
    assert result.status == 0, result.error
    one, two = picture(make_png(1)), picture(IMAGES["image/jpeg"], "image/jpeg")
    assert list_contents(server) == [[one, words("one")], [one, two, words("two")], "none"]
    assert json.loads(out.read_text().splitlines()[0])["image"] == "1.png"


@pytest.mark.parametrize(
    ("row", "content"),
    [
        ({"messages": [{"role": "user", "content": "hi"}]}, [words("hi")]),
        ({"body": {"messages": [{"role": "user", "content": [words("hi")]}]}}, [words("hi")]),
        ({"prompt": "hi", "model": "other"}, [words("hi")]),
    ],
)
def test_every_form_of_a_row(
    pictures: Kimi, server: ReplayServer, tmp_path: Path, row: Row, content: list[Row]
) -> None:
    """The images stand before the text of its last question."""
    (tmp_path / "1.png").write_bytes(make_png(1))
    source = write(tmp_path / "in.jsonl", {**row, "image": "1.png"})
    assert pictures(str(source)).status == 0
    assert list_contents(server) == [[picture(make_png(1)), *content]]


def test_a_table_a_template_and_a_pipe(
    pictures: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Paths of rows in a pipe begin where the command runs."""
    (tmp_path / "1.png").write_bytes(make_png(1))
    table = b"image,what\n1.png,colour\n"
    result = pictures("--csv", "-p", "Which {what}?", stdin=table, cwd=tmp_path)
    assert result.status == 0, result.error
    assert list_contents(server) == [[picture(make_png(1)), words("Which colour?")]]


def test_a_field_that_is_named_like_one_of_the_api_is_not_sent(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """It names an image and nothing else."""
    server.answer(lambda request: completion("x"))
    (tmp_path / "1.png").write_bytes(make_png(1))
    source = write(tmp_path / "in.jsonl", {"prompt": "hi", "user": "1.png"})
    assert batch("-q", "--image-field", "user", str(source)).status == 0
    assert "user" not in server.requests[0].json


def test_parts_in_the_row_are_sent_as_they_are(batch: Kimi, server: ReplayServer) -> None:
    """No option is needed for them."""
    server.answer(lambda request: completion("x"))
    parts = [words("before"), picture(make_png()), words("after")]
    row = {"messages": [{"role": "user", "content": parts}]}
    assert batch("-q", stdin=json.dumps(row).encode()).status == 0
    assert list_contents(server) == [parts]


def test_a_changed_image_is_a_changed_row(
    pictures: Kimi, server: ReplayServer, tmp_path: Path, out: Path
) -> None:
    """The same bytes under another path are not."""
    (tmp_path / "1.png").write_bytes(make_png(1))
    (tmp_path / "same.png").write_bytes(make_png(1))
    source = write(tmp_path / "in.jsonl", {"id": "a", "prompt": "hi", "image": "1.png"})
    run = pictures.but(str(source), "-o", str(out))
    assert run().status == 0
    write(source, {"id": "a", "prompt": "hi", "image": "same.png"})
    assert run().status == 0
    assert len(server.requests) == 1
    (tmp_path / "same.png").write_bytes(make_png(2))
    changed = run()
    assert (changed.status, "a" in changed.error) == (65, True)
    assert len(server.requests) == 1
    assert run("--on-change", "redo").status == 0
    assert list_contents(server)[1] == [picture(make_png(2)), words("hi")]
    assert len(out.read_text().splitlines()) == 1


BAD: dict[str, tuple[Row, str]] = {
    "missing": ({"image": "no.png"}, "cannot read"),
    "a folder": ({"image": "."}, "is no file"),
    "text": ({"image": "in.jsonl"}, "is text"),
    "no field": ({"picture": "1.png"}, "it has: id, prompt, picture"),
    "null": ({"image": None}, "must name a file"),
    "nothing": ({"image": ""}, "must name a file"),
    "a number": ({"image": [1]}, "must name a file"),
    "film": ({"image": "film.mp4"}, "ffmpeg"),
}


@pytest.mark.parametrize("case", BAD)
def test_an_image_that_cannot_be_sent_is_its_rows_error(
    pictures: Kimi, server: ReplayServer, tmp_path: Path, out: Path, case: str
) -> None:
    """The others are asked; a row that is mended is asked, too."""
    (tmp_path / "1.png").write_bytes(make_png(1))
    (tmp_path / "film.mp4").write_bytes(OTHERS["a film"])
    row, said = BAD[case]
    good = {"id": "g", "prompt": "hi", "image": "1.png"}
    source = write(tmp_path / "in.jsonl", good, {"id": "b", "prompt": "hi", **row})
    run = pictures.but(str(source), "-o", str(out))
    result = run()
    assert result.status == 4, result.error
    lines = {line["custom_id"]: line for line in map(json.loads, out.read_text().splitlines())}
    assert said in lines["b"]["error"]["message"]
    assert lines["b"]["error"]["code"] == "bad_image"
    assert len(server.requests) == 1
    write(source, good, {"id": "b", "prompt": "hi", "image": "1.png"})
    assert run().status == 0
    assert len(server.requests) == 2


def test_an_input_that_is_an_image_names_the_option(batch: Kimi, tmp_path: Path) -> None:
    """Rows name images; an image is no row."""
    (tmp_path / "a.png").write_bytes(make_png())
    result = batch(str(tmp_path / "a.png"))
    assert result.status == 65
    assert "an image (PNG)" in result.error
    assert "--image-field" in result.error


def test_a_model_that_sees_nothing(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """One warning for all rows."""
    server.answer(lambda request: completion("x"))
    (tmp_path / "1.png").write_bytes(make_png(1))
    source = write(tmp_path / "in.jsonl", *[{"prompt": "hi", "image": "1.png"}] * 3)
    run = batch.but("--image-field", "image", str(source), "-m", "kimi-k2-thinking")
    assert run("--dry-run").error.count("is known to see no images") == 1
    assert not server.requests
