"""The prompt: how words, files and standard input become one message, and when each is read."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from program import Kimi, Result, Running, Source
from rows import pause
from server import ReplayServer, Stall, completion, stream

Compose = Callable[..., str]


def read_message(body: bytes) -> str:
    """The user message of a request body."""
    [message] = json.loads(body)["messages"]
    assert message["role"] == "user"
    content: str = message["content"]
    return content


@pytest.fixture
def plan(kimi: Kimi) -> Kimi:
    """`kimi ask --dry-run`, which prints the bytes that a real run sends."""
    return kimi.but("ask", "--dry-run")


@pytest.fixture
def compose(plan: Kimi) -> Compose:
    """The message that arguments and standard input give, with nothing said on stderr."""

    def run(*arguments: str | bytes, **streams: Any) -> str:
        result = plan(*arguments, **streams)
        assert (result.stderr, result.status) == (b"", 0)
        return read_message(result.stdout)

    return run


def assert_refused(result: Result, status: int, *words: str) -> None:
    """Nothing on stdout, and one line on stderr that holds these words."""
    assert (result.stdout, result.status) == (b"", status)
    assert result.error.startswith("kimi: ")
    assert result.error.count("\n") == 1
    for word in words:
        assert word in result.error


# Composition


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        (["hi"], None, "hi"),
        (["What", "is", "a  pipe?"], None, "What is a  pipe?"),
        ([" a ", "b\n"], None, " a  b\n"),
        ([], b"from a pipe\n", "from a pipe"),
        ([], b"two\n\n", "two\n"),
        (["Sum"], b"1\n2\n", "Sum\n\n1\n2"),
        (["-"], b"x\n", "x"),
        (["Sum", "-"], b"1", "Sum\n\n1"),
        (["-", "Sum"], b"1", "Sum\n\n1"),
        (["a", "-", "b"], b"1", "a b\n\n1"),
        (["-f", "a.txt"], None, "a.txt:\none"),
        (["-f", "a.txt", "-f", "dir/b.txt"], None, "a.txt:\none\n\ndir/b.txt:\ntwo\n"),
        (["-f", "dir/b.txt", "--file", "a.txt"], None, "dir/b.txt:\ntwo\n\n\na.txt:\none"),
        (["Sum", "-f", "a.txt"], b"1\n", "Sum\n\na.txt:\none\n\n1"),
        (["-f", "a.txt", "Sum"], b"1\n", "Sum\n\na.txt:\none\n\n1"),
        (["-f", "a.txt", "-f", "-", "Sum"], b"1\n", "Sum\n\na.txt:\none\n\nstdin:\n1"),
        (["-f", "-", "-f", "a.txt"], b"1\n", "stdin:\n1\n\na.txt:\none"),
        (["-f", "empty.txt", "Sum"], None, "Sum\n\nempty.txt:\n"),
        (["Sum"], b"", "Sum"),
        (["Sum"], b" \n", "Sum"),
        (["", "  "], b"1", "1"),
        (["-n", "hi"], b"not read", "hi"),
        (["--no-stdin", "-f", "a.txt"], b"not read", "a.txt:\none"),
        (["--", "-5 degrees?"], None, "-5 degrees?"),
        (["--", "--help"], None, "--help"),
        (["is", "--", "-", "5"], b"x", "is 5\n\nx"),
        (["hi", "-n"], None, "hi"),
    ],
)
def test_composition(
    compose: Compose, tmp_path: Path, arguments: list[str], stdin: bytes | None, message: str
) -> None:
    """Words, then files under their names, then stdin, each after a blank line."""
    (tmp_path / "dir").mkdir()
    (tmp_path / "a.txt").write_bytes(b"one\n")
    (tmp_path / "dir/b.txt").write_bytes(b"two\n\n")
    (tmp_path / "empty.txt").write_bytes(b"")
    assert compose(*arguments, stdin=stdin, cwd=tmp_path) == message


def test_the_message_is_what_the_server_receives(
    ask: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """`git diff | kimi ask "…"` sends the words and the pipe, as one user message."""
    server.script(stream("Done"))
    notes = tmp_path / "notes"
    notes.write_text("ü\n")
    ask("Write", "a message", "-f", str(notes), stdin="+ 日本\r\n".encode())
    assert read_message(server.requests[0].body) == f"Write a message\n\n{notes}:\nü\n\n+ 日本"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"a\r\nb\r\n", "a\r\nb"),
        (b"a\rb", "a\rb"),
        (b"\xef\xbb\xbfa", "a"),
        (b"a\xef\xbb\xbfb", "a\ufeffb"),
        (b"\xe6\x97\xa5\xf0\x9f\x98\x80", "日😀"),
        (b"\x1b[31m\t\x7f", "\x1b[31m\t\x7f"),
    ],
)
def test_text_is_kept_as_it_is(compose: Compose, data: bytes, message: str) -> None:
    """CR LF and control characters stay; only a byte order mark at the start is removed."""
    assert compose(stdin=data) == message


# When stdin is read


@pytest.mark.parametrize("stdin", ["null", "closed"])
def test_no_input_is_no_part_of_the_prompt(compose: Compose, stdin: Source) -> None:
    """/dev/null and a closed stdin are no input when there is a prompt."""
    assert compose("hi", stdin=stdin) == "hi"
    assert compose("hi", "-", stdin=stdin) == "hi"


@pytest.mark.parametrize("stdin", ["null", "closed", b"", b" \n\t\n"])
@pytest.mark.parametrize("arguments", [[], ["-"], ["", " "]])
def test_an_empty_prompt_is_bad_input(
    ask: Kimi, server: ReplayServer, stdin: Source, arguments: list[str]
) -> None:
    """An empty prompt from a pipe that failed is exit 65, and nobody pays for it."""
    assert_refused(ask(*arguments, stdin=stdin), 65, "the prompt is empty")
    assert server.connections == 0


def test_no_prompt_with_stdin_off(ask: Kimi, server: ReplayServer) -> None:
    """-n without a prompt does not wait for a pipe either."""
    assert_refused(ask("-n", stdin="pipe"), 65, "the prompt is empty")
    assert server.connections == 0


def test_stdin_off_leaves_a_silent_pipe_alone(compose: Compose) -> None:
    """-n returns though the pipe is never closed."""
    assert compose("-n", "hi", stdin="pipe") == "hi"


@pytest.mark.parametrize("arguments", [["-n", "-"], ["-n", "hi", "-f", "-"]])
def test_stdin_asked_for_and_forbidden(plan: Kimi, arguments: list[str]) -> None:
    """`-` with --no-stdin is a contradiction: exit 2."""
    assert_refused(plan(*arguments), 2, "--no-stdin")


def test_a_regular_file_is_read_from_its_beginning(compose: Compose, tmp_path: Path) -> None:
    """`kimi ask "…" < file` reads the file."""
    path = tmp_path / "file"
    path.write_text("first\nsecond\n")
    assert compose("Sum", stdin=path) == "Sum\n\nfirst\nsecond"
    assert compose(stdin=path) == "first\nsecond"


def test_a_file_that_somebody_reads_is_left_alone(compose: Compose, tmp_path: Path) -> None:
    """A file at an offset is a loop's, unless there is no other prompt or - names it."""
    path = tmp_path / "file"
    path.write_text("first\nsecond\n")
    with path.open("rb") as file:
        for arguments, message, offset in [
            (["Sum"], "Sum", 6),
            (["Sum", "-"], "Sum\n\nsecond", 13),
            ([], "second", 13),
        ]:
            os.lseek(file.fileno(), 6, os.SEEK_SET)
            assert compose(*arguments, stdin=file) == message
            assert os.lseek(file.fileno(), 0, os.SEEK_CUR) == offset


@pytest.mark.parametrize(
    "loop",
    [
        'while read -r line; do kimi ask --no-auth "$line"; done < lines',
        'cat lines | while read -r line; do kimi ask --no-auth -n "$line"; done',
        'while read -r line; do kimi ask --no-auth "$line" < /dev/null; done < lines',
        'while read -r line; do kimi ask --no-auth "$line" <&-; done < lines',
    ],
)
def test_loops_run_once_per_line(kimi: Kimi, server: ReplayServer, home: Path, loop: str) -> None:
    """A shell loop asks every line's question, from a file, and with -n from a pipe."""
    (home / "lines").write_text("one\ntwo\nthree\n")
    server.script(stream("ok"), repeat=True)
    result = kimi.shell(loop, env={"KIMI_BASE_URL": server.url}).wait()
    assert (result.stdout, result.stderr, result.status) == (b"ok\n" * 3, b"", 0)
    messages = [read_message(request.body) for request in server.requests]
    assert messages == ["one", "two", "three"]


def test_a_fifo_and_a_socket_are_pipes(compose: Compose, tmp_path: Path) -> None:
    """Whatever can be piped is read: a named pipe, a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(b"from a socket")
        ours.shutdown(socket.SHUT_WR)
        with theirs.makefile("rb") as stdin:
            assert compose("a", stdin=stdin) == "a\n\nfrom a socket"


def test_a_slow_pipe_is_read_to_its_end(kimi: Kimi) -> None:
    """The prompt is complete only when the pipe is closed."""
    run = kimi.start("ask", "--dry-run", "a", stdin="pipe")
    run.write(b"one ")
    run.write(b"two \xe6\x97")
    run.write(b"\xa5")
    assert run.received["stdout"] == b""
    run.end_input()
    assert read_message(run.wait().stdout) == "a\n\none two 日"


def test_hint_when_a_pipe_stays_silent(kimi: Kimi) -> None:
    """A person at a terminal is told after 2 s what is waited for; the answer then comes."""
    run = kimi.pty("ask", "--dry-run", "hi", stdin="pipe", stdout="pipe")
    run.expect(b"kimi: waiting for standard input; use -n to leave it alone\n", "stderr")
    run.write(b"late")
    run.end_input()
    result = run.wait()
    assert read_message(result.stdout) == "hi\n\nlate"
    assert result.stderr.count(b"\n") == 1
    assert result.seconds > 2


def test_a_log_gets_the_hint_too(kimi: Kimi) -> None:
    """Or a job that nobody feeds would be silent for ever; -q leaves it out."""
    runs = [
        kimi.start("ask", "--dry-run", "-q", "hi", stdin="pipe"),
        kimi.start("ask", "--dry-run", "hi", stdin="pipe"),
    ]
    runs[1].expect(b"waiting for standard input; use -n to leave it alone", "stderr")
    runs[0].end_input()
    assert runs[0].wait().stderr == b""


def test_the_limit_of_the_call_counts_the_wait(ask: Kimi, server: ReplayServer) -> None:
    """--max-time begins with the program: 75 when standard input does not end, nothing is sent."""
    run = ask.start("--max-time", "0.5", "hi", stdin="pipe")
    run.write(b"half")
    result = run.wait()
    assert (result.status, result.stdout) == (75, b"")
    assert "standard input did not end within 0.5 s (limit: max-time)" in result.error
    assert not server.requests


def test_what_the_wait_took_is_gone(ask: Kimi, server: ReplayServer) -> None:
    """Of the limit: the host has only what is left."""
    server.script(stream("late", Stall()))
    run = ask.start("--max-time", "2", "hi", stdin="pipe")
    pause(1.5)
    run.end_input()
    server.await_requests(1)
    result = run.wait()
    assert result.status == 75
    assert "not done within 2 s" in result.error
    assert result.seconds < 3.4


@pytest.mark.parametrize("content", [b"", b"\n", b" \r\n\t"])
def test_an_empty_file_alone_is_no_prompt(plan: Kimi, home: Path, content: bytes) -> None:
    """As an empty pipe is none; beside words it may be what they are about."""
    (home / "e.txt").write_bytes(content)
    assert_refused(plan("-f", "e.txt"), 65, "the prompt is empty")
    assert_refused(plan("-f", "e.txt", "-f", "e.txt"), 65, "the prompt is empty")
    assert plan("-f", "e.txt", "Is this file empty?").status == 0
    (home / "f.txt").write_text("text")
    assert plan("-f", "e.txt", "-f", "f.txt").status == 0


# Input that is not there yet


NON_BLOCKING = "import os, sys; os.set_blocking(0, False); os.execv(sys.argv[1], sys.argv[1:])"
"""Leaves standard input as a program before on the same pipe may have left it."""


def start_non_blocking(kimi: Kimi, *arguments: str) -> Running:
    """The program, with a standard input that says at once when there is nothing yet."""
    python = Kimi(Path(sys.executable), kimi.environment, kimi.folder)
    program = str(kimi.program)
    return python.start("-c", NON_BLOCKING, program, *kimi.arguments, *arguments, stdin="pipe")


def test_nothing_yet_is_not_the_end_of_a_batch(kimi: Kimi, server: ReplayServer) -> None:
    """Every row is read, however long it takes."""
    server.answer(lambda request: completion(read_message(request.body)))
    batch = kimi.but("batch", "--base-url", server.url, "--no-auth", "--format", "text")
    run = start_non_blocking(batch, "--lines")
    for number in range(20):
        run.write(f"row {number}\n".encode())
        pause(0.02)
    run.end_input()
    result = run.wait()
    assert (result.status, result.error.count("20 answered")) == (0, 1)


def test_nothing_yet_is_not_the_end_of_a_chat(kimi: Kimi, server: ReplayServer) -> None:
    """The second question comes late."""
    server.answer(lambda request: stream("yes"))
    run = start_non_blocking(kimi.but("chat", "--base-url", server.url, "--no-auth"))
    run.write(b"one\n")
    server.await_requests(1)
    pause(0.1)
    run.write(b"two\n")
    server.await_requests(2)
    run.end_input()
    assert run.wait().status == 0


@pytest.mark.parametrize(
    "arguments", [("ask", "--token-file", "-", "hi"), ("auth", "login", "--no-verify")]
)
def test_nothing_yet_is_not_the_end_of_a_token(
    kimi: Kimi, server: ReplayServer, arguments: tuple[str, ...]
) -> None:
    """It is taken whole, when it comes."""
    server.script(stream("yes"))
    extra = ("--insecure-storage",) if arguments[0] == "auth" else ()
    run = start_non_blocking(kimi.but(*arguments, "--base-url", server.url, *extra))
    pause(0.3)
    run.write(b"secret-")
    pause(0.1)
    run.write(b"token\n")
    run.end_input()
    assert run.wait().status == 0
    if arguments[0] == "ask":
        assert server.requests[-1].headers["Authorization"] == "Bearer secret-token"
    else:
        shown = kimi("auth", "token", "--base-url", server.url)
        assert shown.stdout == b"secret-token\n"


# Terminals and odd arguments


def test_no_prompt_on_a_terminal_is_a_usage_error(ask: Kimi, server: ReplayServer) -> None:
    """Nobody waits silently for a prompt that nobody types: usage on stderr, exit 2 at once."""
    result = ask.pty().wait(10)
    assert (result.stdout, result.status) == (b"", 2)
    assert result.error.startswith("kimi: there is no prompt")
    assert "usage: kimi ask [OPTIONS] [PROMPT]..." in result.error
    assert result.error.count("\n") == 1
    assert server.connections == 0


def test_a_prompt_on_a_terminal_reads_no_terminal(ask: Kimi, server: ReplayServer) -> None:
    """With a prompt the keyboard is left alone."""
    server.script(stream("Yes"))
    result = ask.pty("hi").wait(10)
    assert result.stdout == b"Yes\n"
    assert read_message(server.requests[0].body) == "hi"


def test_a_terminal_named_is_read(ask: Kimi, server: ReplayServer) -> None:
    """`kimi ask -` lets a person type the prompt, up to ^D."""
    server.script(stream("Yes"))
    run = ask.pty("-")
    run.type(b"typed\n")
    run.expect(b"typed", "terminal")
    run.type(b"\x04")
    assert run.wait().stdout == b"Yes\n"
    assert read_message(server.requests[0].body) == "typed"


@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_arguments_are_utf_8_whatever_the_locale(plan: Kimi, environment: dict[str, str]) -> None:
    """argv is read as UTF-8; bytes that are not are exit 65 with their place."""
    result = plan("naïve 日本", env=environment)
    assert read_message(result.stdout) == "naïve 日本"
    refused = plan(b"a\xffb", env=environment)
    assert_refused(refused, 65, "not UTF-8 at byte 1")


def test_a_prompt_that_looks_like_an_option(plan: Kimi) -> None:
    """A prompt that starts with a dash needs --; without it the usage error says so."""
    assert_refused(plan("-5 degrees?"), 2, "usage: kimi ask")


def test_a_long_argument(compose: Compose) -> None:
    """As long an argument as the system passes is sent whole."""
    text = "x" * 100_000
    assert compose(text, text) == f"{text} {text}"


# Encodings


@pytest.mark.parametrize(
    ("data", "offset"),
    [(b"abc\xff", 3), (b"\xe6\x97", 0), (b"ok \xed\xa0\x80", 3), (b"x" * 70_000 + b"\x80", 70_000)],
)
@pytest.mark.parametrize("environment", [{}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_invalid_utf_8_is_named_by_its_offset(
    ask: Kimi, server: ReplayServer, data: bytes, offset: int, environment: dict[str, str]
) -> None:
    """Input is decoded strictly whatever the locale; the line names the first wrong byte."""
    result = ask("hi", stdin=data, env=environment)
    place = f"standard input is not UTF-8 at byte {offset};"
    assert_refused(result, 65, place, "--encoding", "--replace-invalid")
    assert server.connections == 0


def test_invalid_bytes_of_a_file_name_the_file(plan: Kimi, tmp_path: Path) -> None:
    """The line says which of the inputs is bad."""
    (tmp_path / "bad").write_bytes(b"\xff")
    assert_refused(plan("-f", "bad", cwd=tmp_path), 65, "bad is not UTF-8 at byte 0")


@pytest.mark.parametrize(
    ("arguments", "data", "message"),
    [
        (["--replace-invalid"], b"a\xffb", "a\ufffdb"),
        (["--encoding", "latin-1"], b"na\xefve\xff", "naïveÿ"),
        (["--encoding", "utf-16"], "日本".encode("utf-16"), "日本"),
        (["--encoding", "utf-16-le"], "\ufeff日".encode("utf-16-le"), "日"),
        (["--encoding", "gb18030"], "北京".encode("gb18030"), "北京"),
        (["--encoding", "utf-8-sig"], b"\xef\xbb\xbfa", "a"),
        (["--encoding", "shift_jis", "--replace-invalid"], b"a\xa0", "a\ufffd"),
    ],
)
def test_other_encodings(compose: Compose, arguments: list[str], data: bytes, message: str) -> None:
    """--encoding and --replace-invalid take what is not UTF-8."""
    assert compose(*arguments, stdin=data) == message


@pytest.mark.parametrize("name", ["no-such-encoding", "hex", "rot13", "idna", "undefined", ""])
@pytest.mark.parametrize("stdin", [b"a", "null"])
def test_what_is_no_text_encoding(plan: Kimi, name: str, stdin: Source) -> None:
    """An unknown encoding is a usage error, whatever there is to decode."""
    assert_refused(plan("--encoding", name, "hi", stdin=stdin), 2, "is not a text encoding")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("arguments", [[], ["--encoding", "UTF8"]])
def test_utf_16_is_recognised(plan: Kimi, encoding: str, arguments: list[str]) -> None:
    """UTF-16 with its mark is refused by name, with the way out."""
    result = plan(*arguments, stdin="\ufeffhi".encode(encoding))
    assert_refused(result, 65, "standard input is UTF-16", "--encoding utf-16")


@pytest.mark.parametrize("data", [b"a\0b", b"\x7fELF\0\0", "hi".encode("utf-16-le")])
def test_binary_input_is_refused(plan: Kimi, data: bytes) -> None:
    """NUL bytes are no text."""
    assert_refused(plan("hi", stdin=data), 65, "NUL", "binary")


# Size, and files that cannot be read


def test_the_size_is_bounded(plan: Kimi, compose: Compose, tmp_path: Path) -> None:
    """--max-input is the largest size of each input; one byte more is refused."""
    (tmp_path / "ten").write_bytes(b"0123456789")
    assert compose("--max-input", "10", stdin=b"x" * 10) == "x" * 10
    assert_refused(plan("--max-input", "9", stdin=b"x" * 10), 65, "larger than 9 bytes")
    result = plan("--max-input", "9", "-f", "ten", cwd=tmp_path)
    assert_refused(result, 65, "ten is larger than 9 bytes", "--max-input")


@pytest.mark.parametrize("arguments", [["-"], ["hi", "-"], ["-f", "-"], ["-f", "/dev/zero"]])
def test_endless_input_ends(plan: Kimi, arguments: list[str]) -> None:
    """`kimi ask - < /dev/zero` fails in bounded memory."""
    result = plan(*arguments, stdin=Path("/dev/zero"))
    assert_refused(result, 65, "is larger than 67108864 bytes")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("missing", "No such file or directory"),
        (".", "Is a directory"),
        ("locked", "Permission denied"),
        ("/proc/self/mem", "Input/output error"),
        ("a.txt/b", "Not a directory"),
        ("", "No such file or directory"),
    ],
)
def test_files_that_cannot_be_read(
    ask: Kimi, server: ReplayServer, tmp_path: Path, path: str, why: str
) -> None:
    """A missing, unreadable or odd file is exit 66 with its name, and no request."""
    (tmp_path / "a.txt").write_bytes(b"one\n")
    (tmp_path / "locked").write_bytes(b"secret")
    (tmp_path / "locked").chmod(0)
    if path == "locked" and os.access(tmp_path / "locked", os.R_OK):
        pytest.skip("a superuser reads every file")
    result = ask("hi", "-f", "a.txt", "-f", path, cwd=tmp_path)
    assert_refused(result, 66, f"cannot read {path}", why)
    assert server.connections == 0


def test_write_only_stdin(kimi: Kimi, home: Path) -> None:
    """A standard input that cannot be read is exit 66."""
    result = kimi.shell("kimi ask --dry-run 0> out").wait()
    assert_refused(result, 66, "cannot read standard input")


def test_file_names_are_shown_as_text(compose: Compose, tmp_path: Path) -> None:
    """The heading of a file is its name as given, in UTF-8."""
    (tmp_path / "日本.txt").write_bytes(b"x")
    assert compose("-f", "日本.txt", cwd=tmp_path) == "日本.txt:\nx"


def test_token_and_prompt_cannot_share_stdin(kimi: Kimi, server: ReplayServer) -> None:
    """--token-file - takes stdin, so that - as a prompt is a contradiction."""
    ask = kimi.but("ask", "--base-url", server.url, "--token-file", "-")
    assert_refused(ask("-", stdin=b"token"), 2, "standard input")
    server.script(stream("x"))
    assert ask("hi", stdin=b"secret-token\n").status == 0
    request = server.requests[-1]
    assert (read_message(request.body), request.headers["Authorization"]) == (
        "hi",
        "Bearer secret-token",
    )
