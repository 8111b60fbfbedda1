"""Answers that go on where they were cut short, and answers whose beginning is given."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from program import Kimi
from server import USAGE, Cut, ReplayServer, completion, refusal, stream

from kimi_cli.answer.asking import Collector, Listener
from kimi_cli.answer.extending import Extension, extend
from kimi_cli.api.messages import Delta, Ending, Request


def list_last(server: ReplayServer) -> list[Any]:
    """The last message of each request."""
    return [request.json["messages"][-1] for request in server.requests]


def partial(text: str, **more: str) -> dict[str, Any]:
    """The message that asks to go on."""
    return {"role": "assistant", "content": text, **more, "partial": True}


# --extend


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_a_cut_answer_goes_on_without_a_seam(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...]
) -> None:
    """The text so far is sent as the assistant's, as often as needed; the rest is joined to it."""
    make = completion if options else stream
    server.script(
        make("One, ", finish="length"),
        make("two,\n\n", finish="max_tokens"),
        make("three"),
    )
    result = ask("--extend", "5", *options, "Count")
    assert (result.stdout, result.error, result.status) == (b"One, two,\n\nthree\n", "", 0)
    question = {"role": "user", "content": "Count"}
    assert list_last(server) == [question, partial("One, "), partial("One, two,\n\n")]
    assert [len(request.json["messages"]) for request in server.requests] == [1, 2, 2]


@pytest.mark.parametrize("times", [0, 2])
def test_it_goes_on_as_often_as_is_said(ask: Kimi, server: ReplayServer, times: int) -> None:
    """The end did not come: what there is, and status 3."""
    server.script(stream("ab", finish="length"), stream("cd", finish="length"), repeat=True)
    result = ask("--extend", str(times), "hi")
    assert (result.stdout.decode(), result.status) == (f"{('ab' + 'cd' * times)}\n", 3)
    assert len(server.requests) == 1 + times


@pytest.mark.parametrize("make", [stream, completion])
def test_what_a_host_repeats_is_not_printed_twice(
    ask: Kimi, server: ReplayServer, make: Any
) -> None:
    """llama.cpp does that when it does not stream (its pieces may end anywhere)."""
    whole = make("The cat sat.") if make is completion else stream("The", " c", "at sat", ".")
    server.script(make("The cat", finish="length"), whole)
    result = ask("--extend", "1", *(["--no-stream"] if make is completion else []), "hi")
    assert (result.stdout, result.status) == (b"The cat sat.\n", 0)


def test_what_only_looks_like_a_repetition_is_kept(ask: Kimi, server: ReplayServer) -> None:
    """The answer may say a part of it again, and may end with that."""
    server.script(
        stream("The cat", finish="length"),
        stream("The", " dog. The c", finish="length"),
        stream("The", " cat"),
    )
    result = ask("--extend", "2", "hi")
    assert result.stdout == b"The catThe dog. The cThe cat\n"


def test_nothing_but_reasoning_is_not_gone_on_with(ask: Kimi, server: ReplayServer) -> None:
    """The limit was too low for the model to begin; nor is an answer that does not grow."""
    server.script(stream(reasoning=["Hm."], finish="length"))
    result = ask("--extend", "3", "hi")
    assert (result.stdout, result.status) == (b"", 3)
    assert len(server.requests) == 1
    server.script(stream("Hel", finish="length"), stream(reasoning=["So."], finish="length"))
    result = ask("--extend", "3", "hi")
    assert (result.stdout, result.status) == (b"Hel\n", 3)
    assert len(server.requests) == 3


@pytest.mark.parametrize("finish", ["content_filter", "stop"])
def test_another_ending_is_not_gone_on_with(ask: Kimi, server: ReplayServer, finish: str) -> None:
    """Only a limit of length is."""
    server.script(stream("Hel", finish=finish))
    assert ask("--extend", "3", "hi").stdout == b"Hel\n"
    assert len(server.requests) == 1


def test_calls_of_tools_are_not_gone_on_with(ask: Kimi, server: ReplayServer) -> None:
    """They are no text that could be sent as the beginning of one."""
    call = {"index": 0, "id": "c1", "function": {"name": "add", "arguments": "{"}}
    server.script(stream("Well, ", {"tool_calls": [call]}, finish="length"))
    assert ask("--extend", "3", "hi").status == 3
    assert len(server.requests) == 1


def test_an_answer_may_have_been_whole(ask: Kimi, server: ReplayServer) -> None:
    """The limit fell upon its end: nothing is added, and it is complete."""
    server.script(stream("Hello", finish="length"), stream(""))
    result = ask("--extend", "3", "hi")
    assert (result.stdout, result.status) == (b"Hello\n", 0)


def test_the_object_is_of_the_whole(ask: Kimi, server: ReplayServer) -> None:
    """One text, the reasoning of all, the sum of the tokens, the last finish_reason."""
    server.script(
        stream("Hel", reasoning=["Hm. "], finish="length"), stream("lo", reasoning=["So."])
    )
    shown = json.loads(ask("--extend", "1", "--json", "hi").stdout)
    assert (shown["content"], shown["reasoning"]) == ("Hello", "Hm. So.")
    assert shown["finish_reason"] == "stop"
    assert shown["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]


@pytest.mark.parametrize(
    ("model", "more"), [("kimi-k2.6", {}), ("kimi-k3", {"reasoning_content": "Hm."})]
)
def test_reasoning_goes_with_it_where_the_model_wants_it(
    ask: Kimi, server: ReplayServer, model: str, more: dict[str, str]
) -> None:
    """K3 asks for its complete message."""
    server.script(stream("Hel", reasoning=["Hm."], finish="length"), stream("lo"))
    assert ask("--extend", "1", "-m", model, "hi").status == 0
    assert list_last(server)[-1] == partial("Hel", **more)


def test_a_schema_is_checked_at_the_end(ask: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """It is gone on with first; what does not fit is asked for again, and gone on with, too."""
    server.script(
        stream('{"n":', finish="length"),
        stream('"x"}'),
        stream('{"n"', finish="length"),
        stream(":1}"),
    )
    path = tmp_path / "n.json"
    result = ask("--extend", "1", "--schema", "n int", "-o", str(path), "hi")
    assert (result.stdout, result.error, result.status) == (b"", "", 0)
    assert path.read_bytes() == b'{"n":1}\n'
    assert '/n: "x" is not of type' in list_last(server)[2]["content"]
    assert server.requests[-1].json["messages"][1]["content"] == '{"n":"x"}'


def test_the_whole_is_kept_in_the_conversation(mine: Kimi, server: ReplayServer) -> None:
    """As one answer."""
    server.script(stream("Hel", finish="length"), stream("lo"), stream("yes"))
    assert mine("--extend", "1", "hi").stdout == b"Hello\n"
    assert mine("on").status == 0
    assert [m["content"] for m in server.requests[-1].json["messages"]] == ["hi", "Hello", "on"]


def test_going_on_that_fails_says_so(once: Kimi, server: ReplayServer) -> None:
    """What came stays; the status is that of the failure, and the line tells of both."""
    server.script(
        stream("Hel", finish="length"), refusal(400, "bad_request", "roles must alternate")
    )
    result = once("--extend", "1", "hi")
    assert (result.stdout, result.status) == (b"Hel\n", 65)
    assert "cut short after 3 characters, and going on failed: the API refused" in result.error
    assert "continues = false" in result.error
    server.script(stream("Hel", finish="length"), stream("lo", Cut()))
    result = once("--extend", "1", "hi")
    assert (result.stdout, result.status) == (b"Hello\n", 75)


def test_a_chat_goes_on_as_well(kimi: Kimi, server: ReplayServer) -> None:
    """Each of its answers."""
    server.script(*[stream("Hel", finish="length"), stream("lo")] * 2)
    chat = kimi.but("chat", "--no-auth", "--base-url", server.url, "--extend", "1")
    result = chat(stdin=b"one\ntwo\n")
    assert (result.stdout, result.status) == (b"Hello\n\nHello\n", 0)


# --prefix


@pytest.mark.parametrize("options", [(), ("--no-stream",), ("--json",)])
def test_an_answer_begins_with_its_prefix(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...]
) -> None:
    """It is sent as the beginning of the answer, and printed with it."""
    make = completion if "--no-stream" in options else stream
    server.script(make(" is a pipe."))
    result = ask("--prefix", "This", *options, "What?")
    shown = json.loads(result.stdout)["content"] if "--json" in options else result.stdout.decode()
    assert (shown.strip(), result.status) == ("This is a pipe.", 0)
    assert list_last(server) == [partial("This")]


def test_a_prefix_that_is_repeated_is_printed_once(ask: Kimi, server: ReplayServer) -> None:
    """As by --extend, whose text begins with it."""
    server.script(stream("This is", finish="length"), stream(" a pipe."))
    result = ask("--prefix", "This", "--extend", "1", "What?")
    assert result.stdout == b"This is a pipe.\n"
    assert list_last(server) == [partial("This"), partial("This is")]


def test_a_short_prefix_may_come_again(ask: Kimi, server: ReplayServer) -> None:
    """A list may begin with a list: a stream is no repetition then."""
    server.script(stream("[1],[2]]"))
    result = ask("--prefix", "[", "--json-mode", "Lists")
    assert (result.stdout, result.status) == (b"[[1],[2]]\n", 0)


@pytest.mark.parametrize("reply", [stream(""), stream(reasoning=["Hm."], finish="length")])
def test_a_prefix_alone_is_no_answer(ask: Kimi, server: ReplayServer, reply: Any) -> None:
    """Nothing came: status 3, and nothing is printed."""
    server.script(reply)
    result = ask("--prefix", "This", "--extend", "2", "What?")
    assert (result.stdout, result.status) == (b"", 3)


def test_a_dry_run_shows_the_prefix(ask: Kimi) -> None:
    """As the last message."""
    shown = json.loads(ask("--prefix", "{", "--dry-run", "hi").stdout)
    assert shown["messages"] == [{"role": "user", "content": "hi"}, partial("{")]


# What makes no sense


@pytest.mark.parametrize("option", [("--extend", "1"), ("--prefix", "x")])
def test_a_host_that_does_not_go_on(
    kimi: Kimi, server: ReplayServer, home: Path, option: tuple[str, str]
) -> None:
    """The profile says so: status 78, and no request; --extend 0 asks for nothing of it."""
    folder = home / ".config" / "kimi"
    folder.mkdir()
    (folder / "config.toml").write_text(
        f'[profiles.mine]\nbase_url = "{server.url}"\nauth = "none"\ncontinues = false\n'
    )
    result = kimi("ask", "--profile", "mine", *option, "hi")
    assert result.status == 78
    assert f"leave {option[0]} out" in result.error
    assert server.requests == []
    server.script(stream("Hello"))
    assert kimi("ask", "--profile", "mine", "--extend", "0", "hi").stdout == b"Hello\n"


@pytest.mark.parametrize(
    "options",
    [
        ("--prefix", ""),
        ("--extend", "-1"),
        ("--extend", "1", "-O", "messages=[]"),
        ("--prefix", "x", "-O", "messages=[]"),
    ],
)
def test_options_that_make_no_sense(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...]
) -> None:
    """Status 2, and no request."""
    assert ask(*options, "hi").status == 2
    assert server.requests == []


# The joint


class Host:
    """Answers with parts of a text, each of which may repeat what was sent."""

    def __init__(self, parts: Sequence[Sequence[str]], *, repeats: bool) -> None:
        self.parts = list(parts)
        self.repeats = repeats

    def __call__(self, request: Request, *listeners: Listener) -> Ending:
        """Send the next part in its pieces."""
        pieces = list(self.parts.pop(0))
        last = request.messages[-1] if request.messages else None
        if self.repeats and last is not None:
            pieces.insert(0, last.text)
        for piece in pieces:
            for listener in listeners:
                listener.note(Delta(piece, ""))
        return Ending(finish_reason="length" if self.parts else "stop")


@given(
    st.lists(st.lists(st.text("ab ", min_size=1), min_size=1, max_size=4), min_size=1, max_size=4),
    st.booleans(),
    st.booleans(),
)
def test_however_it_comes_the_text_is_the_same(
    parts: list[list[str]], repeats: bool, streamed: bool
) -> None:
    """In however many pieces, repeated or not, as far as the two can be told apart."""
    whole = ""
    for part in parts:
        text = "".join(part)
        assume(text.strip())
        assume(repeats or not whole or not text.startswith(whole))
        assume(not (repeats and streamed) or not whole or len(whole) >= 3)
        whole += text
    collector = Collector()
    ask = extend(Host(parts, repeats=repeats), Extension(times=len(parts)))
    ending = ask(Request("m", (), stream=streamed), collector)
    assert collector.join().content == whole
    assert ending.finish_reason == "stop"
