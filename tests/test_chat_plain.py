"""kimi chat in a pipe: lines in, answers out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from conftest import CANARY
from conversations import CONVERSATIONS, assistant, echo, keep, list_contents, read_record, user
from program import Kimi
from screen import Start, say
from server import Cut, ReplayServer, Reply, Wait, chunk, completion, event, refusal, stream


@pytest.fixture
def piped(kimi: Kimi, server: ReplayServer) -> Kimi:
    """``kimi chat`` with pipes."""
    server.answer(echo)
    return kimi.but("chat", "--base-url", server.url, env={"KIMI_TOKEN": CANARY})


def test_each_line_is_a_question(piped: Kimi, server: ReplayServer, home: Path) -> None:
    """Blank ones are none; answers are apart by a blank line; nothing is kept."""
    result = piped("--system", "s", stdin=b"one\r\n\n  \n/help\ntwo\xe2\x80\xa8three")
    assert (result.status, result.stderr) == (0, b"")
    assert result.stdout.decode() == "re: one\n\nre: /help\n\nre: two\u2028three\n"
    assert list_contents(server.requests[-1]) == [
        "s",
        "one",
        "re: one",
        "/help",
        "re: /help",
        "two\u2028three",
    ]
    assert not (home / CONVERSATIONS).exists()


def test_max_time_is_for_one_question(piped: Kimi, server: ReplayServer) -> None:
    """It counts from the question, for all answers to it; the next question has it anew."""
    slow = [Wait(2.5), event(chunk({"content": "no"}, "stop")), event("[DONE]")]
    reply = Reply(slow, headers={"Content-Type": "text/event-stream"}, framing="chunked")
    server.answer(lambda request: reply)
    limited = piped.but("--max-time", "4", "--retries", "0")
    result = limited(stdin=b"one\ntwo\n")
    assert (result.stdout, result.status) == (b"no\n\nno\n", 0), result.error
    result = limited("--choice", "a,b", "--reask", "3", stdin=b"one\n")
    assert (result.stdout, result.status) == (b"", 75)
    assert "not done within 4 s (limit: max-time)" in result.error
    assert len(server.requests) == 4


def test_a_pipe_gets_plain_text(piped: Kimi, server: ReplayServer) -> None:
    """With --markdown as well."""
    server.script(stream("# Head\n\n**bold**"))
    assert piped("--markdown", stdin=b"one\n").stdout == b"# Head\n\n**bold**\n"


def test_json_is_one_object_a_line(piped: Kimi) -> None:
    """As in ask, without blank lines."""
    result = piped("--json", "zero", stdin=b"one\n")
    assert [json.loads(line)["content"] for line in result.stdout.splitlines()] == [
        "re: zero",
        "re: one",
    ]


def test_a_line_is_answered_at_once(piped: Kimi) -> None:
    """Whoever writes the lines may read the answers between them."""
    run = piped.start(stdin="pipe")
    for question in (b"one", b"two"):
        run.write(question + b"\n")
        run.expect(b"re: " + question + b"\n")
    run.end_input()
    assert run.wait().status == 0


@pytest.mark.parametrize(
    ("reply", "options", "status", "asked"),
    [
        (refusal(400, "bad_request", "no"), (), 65, 2),
        (stream("half", Cut()), ("--retries", "0"), 75, 2),
        (stream("half", finish="length"), (), 3, 2),
        (stream("half", finish="length"), ("--allow-incomplete",), 0, 3),
    ],
)
def test_the_first_failure_ends_it(
    piped: Kimi,
    server: ReplayServer,
    reply: Reply,
    options: tuple[str, ...],
    status: int,
    asked: int,
) -> None:
    """With its exit status; what was answered stays."""
    server.script(stream("fine"), reply)
    result = piped(*options, stdin=b"one\ntwo\nthree\n")
    assert result.status == status
    assert result.stdout.startswith(b"fine\n")
    assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("stdin", "options", "status", "told"),
    [
        (b"", (), 65, "there is no question"),
        (b"\n \n", (), 65, "there is no question"),
        (b"ok\n\xff\n", (), 65, "line 2 of standard input is not UTF-8"),
        (b"a\0b\n", (), 65, "line 1 of standard input holds NUL bytes"),
        (b"x" * 50, ("--max-input", "40"), 65, "line 1 of standard input is too long"),
        (b"x", ("-f", "-"), 2, "it cannot be a file, too"),
    ],
)
def test_bad_lines_are_named(
    piped: Kimi, stdin: bytes, options: tuple[str, ...], status: int, told: str
) -> None:
    """By their number, and what to do."""
    result = piped(*options, stdin=stdin)
    assert result.status == status
    assert told in result.error
    assert result.error.count("\n") == 1


def test_a_named_chat_in_a_pipe_is_kept(piped: Kimi, server: ReplayServer, home: Path) -> None:
    """And goes on in ask."""
    assert piped("-S", "mine", stdin=b"one\n").status == 0
    ask = Kimi(piped.program, piped.environment, piped.folder)
    again = ask("ask", "--base-url", server.url, "-S", "mine", "two")
    assert again.stdout == b"re: two\n"
    assert list_contents(server.requests[-1]) == ["one", "re: one", "two"]
    assert len(read_record(home, "mine")) == 4


def test_without_a_screen_there_is_no_chat(piped: Kimi) -> None:
    """A keyboard alone is wrong usage, and nothing waits for it."""
    result = piped.pty(stdout="pipe", stderr="pipe").wait()
    assert result.status == 2
    assert "there is no screen to talk on" in result.error


def test_answers_can_be_redirected(piped: Kimi, home: Path) -> None:
    """The screen has the prompt, the file the answers."""
    answers = home / "answers.txt"
    run = piped.pty(stdout=answers, stderr="tty", env={"PROMPT_TOOLKIT_NO_CPR": "1"})
    for question in (b"one", b"two"):
        run.expect(b"\x1b[?2004h", "stderr")
        run.type(question + b"\r")
    run.expect(b"\x1b[?2004h", "stderr")
    run.type(b"\x04")
    assert run.wait().status == 0
    assert answers.read_bytes() == b"re: one\n\nre: two\n"


def test_an_empty_answer_leaves_no_gap(piped: Kimi, server: ReplayServer) -> None:
    """Blank lines stand between answers, not before the first or in place of one."""
    server.script(stream("", finish="length"), stream("A"), stream(" \n"), stream("B"))
    result = piped("--allow-incomplete", stdin=b"1\n2\n3\n4\n")
    assert (result.stdout, result.status) == (b"A\n\nB\n", 0)


def test_lines_are_measured_in_bytes(piped: Kimi, server: ReplayServer) -> None:
    """With their ends, as files are."""
    result = piped("--max-input", "40", stdin=f"{'é' * 19}e\n{'é' * 20}\n".encode())
    assert (result.status, result.stdout.decode()) == (65, f"re: {'é' * 19}e\n")
    assert result.error.startswith("kimi: line 2 of standard input is too long; see --max-input")
    assert len(server.requests) == 1


def test_lines_without_a_byte_order_mark(piped: Kimi, server: ReplayServer) -> None:
    """Where the encoding wants one it is told; with it, lines are lines."""
    result = piped("--encoding", "utf-16", stdin="one\ntwo\n".encode("utf-16-le"))
    assert (result.status, result.stdout) == (65, b"")
    assert result.error.startswith("kimi: line 1 of standard input is not UTF-16; ")
    assert result.error.count("\n") == 1
    assert not server.requests
    result = piped("--encoding", "utf-16", stdin="one\ntwo\n".encode("utf-16"))
    assert (result.status, result.stdout) == (0, b"re: one\n\nre: two\n")


CALL = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def test_calls_of_tools_are_answers_apart(piped: Kimi, server: ReplayServer) -> None:
    """A blank line parts them from the others as well."""
    calls = completion(None, finish="tool_calls", tool_calls=[CALL])
    server.script(completion("one"), calls, completion("three"))
    result = piped("--no-stream", stdin=b"1\n2\n3\n")
    first, second, third = result.stdout.decode().split("\n\n")
    assert (first, third, result.status) == ("one", "three\n", 0), result.error
    assert json.loads(second)[0]["id"] == "c1"


@pytest.mark.parametrize(
    ("text", "end"),
    [
        ("See:\n```python\nx = 1", "\n```"),
        ("~~~~\n```\n~~~\nx", "\n~~~~"),
        ("```\nx\n```", ""),
        ("```\nx\n````  ", ""),
        ("``` not a fence ```", ""),
        ("````\n```\n````\n  ```js\ny", "\n```"),
    ],
)
def test_a_cut_block_of_code_ends_with_its_answer(
    log: Kimi, folder: Path, text: str, end: str
) -> None:
    """The next heading is not a part of it."""
    keep(folder, "mine", user("q"), assistant(text), user("next"))
    assert f"\n\n{text}{end}\n\n## Question" in log("show", "mine").stdout.decode()


def test_a_pipe_that_says_nothing_is_left(chat: Start, server: ReplayServer, home: Path) -> None:
    """^C ends the wait for what /file names, and the chat goes on."""
    os.mkfifo(home / "pipe")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/file pipe")
        time.sleep(0.3)
        screen.press("\x03")
        screen.see("kimi: stopped")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == ["one"]
