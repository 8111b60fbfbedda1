"""Input that is merely wrong: too deep, too large, too long. Each has its status and one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import CANARY
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi, Result
from rows import read_rows, write_rows
from server import ReplayServer, Reply, completion, event

from kimi_cli.api.codec import DEEPEST, bound_depth

DEEP = "[" * 100_000


def assert_told(result: Result, status: int, *words: str) -> None:
    """One line, the status that is documented, and no bug."""
    assert result.status == status, result.error
    assert result.error.count("\n") == 1
    assert "a bug in kimi" not in result.error
    assert all(word in result.error for word in words), result.error


# Depth


def find_depth(value: object) -> int:
    """How deep a value is nested."""
    if isinstance(value, dict):
        return 1 + max(map(find_depth, value.values()), default=0)
    return 1 + max(map(find_depth, value), default=0) if isinstance(value, list) else 0


VALUES = st.recursive(
    st.text(alphabet='[]{}"\\a', max_size=6),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=2), inner, max_size=2)
    ),
    max_leaves=12,
)


@given(VALUES, st.integers(0, DEEPEST + 40))
def test_what_is_deep_is_known_before_it_is_parsed(value: object, more: int) -> None:
    """Whatever brackets its strings hold."""
    text = "[" * more + json.dumps(value) + "]" * more
    is_deep = more + find_depth(value) > DEEPEST
    for data in (text, text.encode()):
        if is_deep:
            with pytest.raises(ValueError, match="nested too deeply"):
                bound_depth(data)
        else:
            bound_depth(data)


@pytest.mark.parametrize("depth", [290, 980, 3000, 100_000])
def test_a_deep_reply_is_no_answer(ask: Kimi, server: ReplayServer, depth: int) -> None:
    """Whole, in a stream, and in a last event without its end."""
    body = '{"choices":' + "[" * depth + "]" * depth + "}"
    kinds = {"Content-Type": "application/json"}, {"Content-Type": "text/event-stream"}
    server.script(
        Reply([body.encode()], headers=kinds[0]),
        Reply([event(body)], headers=kinds[1]),
        Reply([b"data: " + body.encode()], headers=kinds[1]),
        repeat=True,
    )
    for options in (("--no-stream",), (), ()):
        result = ask(*options, "--retries", "0", "hi")
        assert_told(result, 75 if options == () and result.status == 75 else 76)
        assert result.stdout == b""


@pytest.mark.parametrize("depth", [980, 3000, 100_000])
def test_a_deep_reply_is_one_rows_affair(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, depth: int
) -> None:
    """In the small stack of a thread; the others are answered."""
    write_rows(source, [{"custom_id": str(n), "prompt": f"p{n}"} for n in range(4)])
    deep = '{"choices":' + "[" * depth + "]" * depth + "}"
    bad = Reply([deep.encode()], headers={"Content-Type": "application/json"})
    server.answer(lambda request: bad if b"p2" in request.body else completion("yes"))
    result = batch(str(source), "-o", str(out), "-q", "--retries", "0")
    assert result.status == 75
    assert {row["custom_id"] for row in read_rows(out)} == {"0", "1", "3"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 1200 + "]" * 1200, "nested too deeply"),
        ("retries = " + "9" * 5000, "digits"),
        (f"retries = {DEEP}", "config.toml"),
    ],
    ids=["nested", "long number", "torn"],
)
def test_a_configuration_beyond_measure(kimi: Kimi, home: Path, text: str, words: str) -> None:
    """78, and the file's name."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert_told(kimi("ask", "--dry-run", "hi"), 78, "config.toml", words)


def test_a_configuration_with_a_byte_order_mark(kimi: Kimi, home: Path) -> None:
    """As some editors write it."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'\xef\xbb\xbfmodel = "kimi-k9"\n')
    result = kimi("ask", "--dry-run", "hi")
    assert json.loads(result.stdout)["model"] == "kimi-k9"


def test_thousands_of_unknown_keys_are_told(kimi: Kimi, home: Path) -> None:
    """Each with its line, and none of them looked for in all the others."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(parents=True)
    path.write_text("".join(f"key{number} = 1\n" for number in range(8000)))
    result = kimi("ask", "--dry-run", "hi", timeout=10)
    assert result.status == 0
    assert f"{path}:8000: unknown key 'key7999' is ignored" in result.error


def test_a_deep_file_of_tokens(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """It is damaged, and left alone."""
    path = home / ".config/kimi/tokens.json"
    path.parent.mkdir(parents=True)
    path.write_text(DEEP)
    path.chmod(0o600)
    assert_told(kimi("ask", "--base-url", server.url, "hi"), 78, "tokens.json is damaged")
    assert path.read_text() == DEEP


def test_a_deep_line_of_an_earlier_output(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It tells of no row, and that is said."""
    write_rows(source, [{"prompt": "hi"}])
    earlier = source.with_name("earlier.jsonl")
    earlier.write_text(DEEP + "\n")
    server.answer(lambda request: completion("yes"))
    result = batch(str(source), "-o", str(out), "--done-from", str(earlier))
    assert result.status == 0
    assert "a bug in kimi" not in result.error
    assert "earlier.jsonl" in result.error


# Sizes and times


@pytest.mark.parametrize(
    "options",
    [
        ("--connect-timeout", "1e10"),
        ("--timeout", "1e300"),
        ("--max-time", "9" * 30),
        ("--max-input", "9" * 24),
    ],
)
def test_an_option_beyond_measure(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...]
) -> None:
    """A usage error; nothing is sent."""
    assert_told(ask(*options, "hi"), 2, options[0])
    assert not server.requests


def test_a_line_of_a_batch_beyond_measure(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A usage error, and not an error a row."""
    write_rows(source, [{"prompt": "hi"}])
    assert_told(batch(str(source), "-o", str(out), "--max-line", "9" * 24), 2, "--max-line")
    assert_told(batch(str(source), "-o", str(out), "--connect-timeout", "1e10"), 2)
    assert not out.exists()


def test_a_setting_beyond_measure(kimi: Kimi, server: ReplayServer) -> None:
    """78, by variable as by file."""
    env = {"KIMI_CONNECT_TIMEOUT": "1e10", "KIMI_TOKEN": CANARY}
    assert_told(kimi("ask", "--base-url", server.url, "hi", env=env), 78, "KIMI_CONNECT_TIMEOUT")
