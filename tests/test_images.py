"""Images of ask, chat and log: sent before the text, known by their bytes, kept and asked again."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from conversations import CONVERSATIONS, read_lines
from hypothesis import given
from hypothesis import strategies as st
from pictures import IMAGES, OTHERS, make_png, picture, words
from program import Kimi
from screen import Start, say
from server import ReplayServer, completion, stream

from kimi_cli.errors import BadInput
from kimi_cli.prompt.content import Prompt, join_prompts
from kimi_cli.prompt.images import make_image


def get_content(server: ReplayServer, number: int = -1) -> object:
    """The content of the last message of a request."""
    return server.requests[number].json["messages"][-1]["content"]


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_has_the_type_of_its_bytes(
    ask: Kimi, server: ReplayServer, tmp_path: Path, kind: str
) -> None:
    """Whatever its name says."""
    server.answer(lambda request: completion("x"))
    (tmp_path / "a.tiff").write_bytes(IMAGES[kind])
    assert ask("--no-stream", "-i", "a.tiff", "What is it?", cwd=tmp_path).status == 0
    assert get_content(server) == [picture(IMAGES[kind], kind), words("What is it?")]


@pytest.mark.parametrize("word", OTHERS)
def test_what_is_no_image_is_named(
    ask: Kimi, server: ReplayServer, tmp_path: Path, word: str
) -> None:
    """With what would help, before anything is sent; a pipe is judged alike."""
    path = tmp_path / "a.png"
    path.write_bytes(OTHERS[word])
    for result in (ask("-i", str(path), "What?"), ask("-i", "-", "What?", stdin=path)):
        assert (result.status, result.stdout) == (65, b"")
        assert word.strip() in result.error
        assert result.error.count("\n") == 1
    assert not server.requests


@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_that_is_attached_as_text_is_named(
    ask: Kimi, server: ReplayServer, tmp_path: Path, kind: str
) -> None:
    """The option that takes it is named."""
    (tmp_path / "a.png").write_bytes(IMAGES[kind])
    result = ask("-f", "a.png", "What is it?", cwd=tmp_path)
    assert result.status == 65
    assert "a.png is an image (" in result.error
    assert "use --image" in result.error
    assert not server.requests


def test_several_images_a_file_and_a_pipe(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Images first, in their order; then one text of words, files and pipe."""
    server.answer(lambda request: completion("x"))
    for colour in (1, 2):
        (tmp_path / f"{colour}.png").write_bytes(make_png(colour))
    (tmp_path / "a.txt").write_text("in a file\n")
    options = ("-i", "1.png", "-f", "a.txt", "--image", "2.png")
    assert ask("--no-stream", *options, "What?", stdin=b"piped", cwd=tmp_path).status == 0
    text = words("What?\n\na.txt:\nin a file\n\npiped")
    assert get_content(server) == [picture(make_png(1)), picture(make_png(2)), text]


def test_an_image_in_a_pipe_and_no_words(ask: Kimi, server: ReplayServer) -> None:
    """An image alone is a question, too."""
    server.answer(lambda request: completion("x"))
    assert ask("--no-stream", "-i", "-", stdin=make_png(3)).status == 0
    assert get_content(server) == [picture(make_png(3))]
    shown = ask("--dry-run", "-i", "-", stdin=make_png(3))
    assert json.loads(shown.stdout)["messages"][0]["content"] == [picture(make_png(3))]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-i", "-", "-i", "-", "What?"),
        ("-i", "-", "-f", "-", "What?"),
        ("-i", "-", "-", "What?"),
        ("-i", "-", "-n", "What?"),
        ("-i", "-", "--token-file", "-", "What?"),
    ],
)
def test_standard_input_is_one_thing(
    ask: Kimi, server: ReplayServer, arguments: tuple[str, ...]
) -> None:
    """An image, or text, or the token."""
    result = ask(*arguments, stdin=make_png())
    assert (result.status, result.error.count("\n")) == (2, 1)
    assert not server.requests


def test_a_missing_image(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """It is told as any file is; so is one beyond --max-input."""
    assert ask("-i", "no.png", "What?", cwd=tmp_path).status == 66
    (tmp_path / "a.png").write_bytes(make_png(padding=2000))
    result = ask("-i", "a.png", "--max-input", "1000", "What?", cwd=tmp_path)
    assert (result.status, "--max-input" in result.error) == (65, True)
    assert not server.requests


def test_too_many_bytes_for_one_request(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """More than 100 MB are refused here, and earlier images of a conversation count."""
    server.answer(lambda request: completion("x"))
    (tmp_path / "a.png").write_bytes(make_png(padding=40 * 10**6))
    alone = ask("-i", "a.png", "-i", "a.png", "What?", cwd=tmp_path)
    assert alone.status == 65
    assert "107 MB" in alone.error
    assert not server.requests
    talk = ask.but("--no-stream", "-S", "big")
    assert talk("-i", "a.png", "What?", cwd=tmp_path).status == 0
    again = talk("-i", "a.png", "And?", cwd=tmp_path)
    assert again.status == 65
    assert "new conversation" in again.error
    assert len(server.requests) == 1


def test_a_model_that_sees_nothing(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """It is asked all the same, with a warning, which -q takes away."""
    server.answer(lambda request: completion("x"))
    (tmp_path / "a.png").write_bytes(make_png())
    run = ask.but("--no-stream", "-i", "a.png")
    blind = run("-m", "kimi-k2-thinking", "What?", cwd=tmp_path)
    assert blind.status == 0
    assert "kimi-k2-thinking is known to see no images" in blind.error
    assert run("-m", "moonshotai/kimi-k2-thinking", "What?", cwd=tmp_path).stderr
    assert not run("-q", "-m", "kimi-k2-thinking", "What?", cwd=tmp_path).stderr
    for model in ("kimi-k3", "somebody/elses"):
        assert not run("-m", model, "What?", cwd=tmp_path).stderr
    assert len(server.requests) == 5


# Conversations


def test_a_conversation_keeps_its_images(
    mine: Kimi, log: Kimi, server: ReplayServer, home: Path, tmp_path: Path
) -> None:
    """The next question goes with them, and the log names them."""
    (tmp_path / "a.png").write_bytes(make_png(7))
    assert mine("-i", "a.png", "What is it?", cwd=tmp_path).status == 0
    assert mine("And now?").status == 0
    first = [picture(make_png(7)), words("What is it?")]
    assert server.requests[1].json["messages"][0]["content"] == first
    assert read_lines(home / CONVERSATIONS / "mine.jsonl")[0]["content"] == first
    shown = log("show", "mine").stdout.decode()
    assert "What is it?" in shown
    assert f"[image: image/png, {len(make_png(7))} bytes]" in shown
    assert "base64" not in shown.partition("## Answer")[0]
    assert b"What is it?" in log("list").stdout


def test_a_chat_asks_again_with_its_image(chat: Start, server: ReplayServer, home: Path) -> None:
    """/image goes with the next question, /retry asks with it, /undo names what it takes back."""
    server.script(stream("first"), stream("second"))
    for colour in (1, 2):
        (home / f"{colour}.png").write_bytes(make_png(colour))
    with chat("-i", "1.png", "-m", "kimi-k2-thinking") as screen:
        say(screen, "/image 2.png", "goes with the next question")
        say(screen, "What are these?", "first")
        screen.see("is known to see no images")
        say(screen, "/retry", "second")
        say(screen, "/undo", "taken back: What are these?")
        say(screen, "/image /dev/null", "is empty")
        say(screen, "/image -", "standard input is the keyboard")
        screen.see_prompt()
    asked = [picture(make_png(1)), picture(make_png(2)), words("What are these?")]
    assert [get_content(server, number) for number in (0, 1)] == [asked, asked]


# Values


@given(st.lists(st.sampled_from(["a", "", " ", 1, 2, (3, "b")]), max_size=5))
def test_prompts_are_joined(kinds: list[object]) -> None:
    """Nothing is lost or moved but images alone, which stand first; one alone stays as it is."""
    prompts = []
    for kind in kinds:
        match kind:
            case str():
                prompts.append(Prompt(kind))
            case int():
                prompts.append(Prompt(({"type": "image_url", "n": kind},)))
            case _:
                prompts.append(Prompt(({"type": "image_url", "n": 3}, words("b"))))
    joined = join_prompts(prompts)
    asked = [prompt for prompt in prompts if not prompt.is_empty]
    if len(asked) == 1:
        assert joined is asked[0]
        return
    alone = [part for prompt in asked if not prompt.text for part in prompt.others]
    beside = [part for prompt in asked if prompt.text for part in prompt.others]
    assert list(joined.others) == alone + beside
    said = [prompt.text for prompt in asked if prompt.text]
    assert "".join(joined.text.split()) == "".join("".join(said).split())
    if not joined.others:
        assert joined.content == "\n\n".join(said)


@given(st.binary(max_size=60))
def test_any_bytes_are_an_image_or_an_error(data: bytes) -> None:
    """Nothing else comes of them."""
    with contextlib.suppress(BadInput):
        part = make_image(data, "a.png")
        assert part["image_url"]["url"].startswith("data:image/")
