"""kimi batch where answers are odd, empty, wrong for every row, broken off or without an end."""

from __future__ import annotations

import itertools
import json
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import test_network
from program import Kimi, Running
from rows import SILENT, echo, get_prompt, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import (
    Barrier,
    Cut,
    ReceivedRequest,
    ReplayServer,
    Reply,
    Reset,
    Step,
    Wait,
    completion,
    document,
    refusal,
)

JSON = {"Content-Type": "application/json"}
PAGE = Reply([b"<html>Welcome to the hotel</html>"], headers={"Content-Type": "text/html"})
REDIRECT = Reply(status=302, headers={"Location": "https://elsewhere.example/login"})
NO_MODEL = refusal(404, "resource_not_found_error", "no such model", dialect="moonshot")
NO_API = refusal(404, "no_api", "no such API")
MEGABYTE = b"x" * 2**20


def nest(depth: int) -> str:
    """Return that many arrays, one in the other."""
    return "[" * depth + "]" * depth


def write_names(path: Path, names: list[str]) -> Path:
    """Write a row for each name, which is its id and its prompt."""
    return write_rows(path, [{"custom_id": name, "prompt": name} for name in names])


def answer_with(server: ReplayServer, special: dict[str, Reply]) -> None:
    """Answer some prompts in a special way, and the others with themselves."""
    server.answer(lambda request: special.get(get_prompt(request)) or echo(request))


def list_errors(out: Path) -> dict[str, dict[str, Any]]:
    """Return the errors that are listed beside an output, by id."""
    return {row["custom_id"]: row["error"] for row in read_rows(Path(f"{out}.errors"))}


# Odd answers


ODD = {
    "choices that are an object": document({"choices": {"message": {"content": "x"}}}),
    "choices that are a number": document({"choices": 5}),
    "a choice that is null": document({"choices": [None]}),
    "a message that is text": document({"choices": [{"message": "hi"}]}),
    "content that is a number": document({"choices": [{"message": {"content": 5}}]}),
    "deep choices": Reply([f'{{"choices":{nest(3000)}}}'.encode()], headers=JSON),
    "no gzip": Reply([b"rubbish"], headers={**JSON, "Content-Encoding": "gzip"}),
}


def test_an_odd_answer_concerns_its_row_alone(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It is tried three times and left to the next run; the rows around it are answered."""
    good = [f"good {number}" for number in range(30)]
    write_names(source, [*good[:15], *ODD, *good[15:]])
    answer_with(server, ODD)
    result = batch(str(source), "-o", str(out))
    assert result.status == 75, result.error
    assert f"{len(ODD)} rows got no answer" in result.error
    assert sorted(list_ids(out)) == sorted(good)
    listed = list_errors(out)
    assert set(listed) == set(ODD)
    assert {(error["code"], error["class"]) for error in listed.values()} == {
        ("NotTheApi", "transient")
    }
    asked = Counter(list_prompts(server))
    assert asked == {**dict.fromkeys(good, 1), **dict.fromkeys(ODD, 3)}


@pytest.mark.parametrize("depth", [400, 1000, 3000])
def test_a_refusal_in_odd_words_is_the_rows(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, depth: int
) -> None:
    """However deep the words of a 400 are nested, it is an error of one row."""
    write_names(source, ["good", "odd", "late"])
    body = f'{{"error":{{"code":"bad_request","message":{nest(depth)}}}}}'.encode()
    answer_with(server, {"odd": Reply([body], status=400, headers=JSON)})
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 4, result.error
    assert list_ids(out) == ["good", "odd", "late"]
    assert read_rows(out)[1]["error"]["class"] == "permanent"


@pytest.mark.parametrize("name", ["X-Request-Id", "X-Trace-Id"])
def test_the_name_that_the_host_gave_is_kept(
    batch: Kimi, server: ReplayServer, source: Path, name: str
) -> None:
    """A line has it as response.request_id, for those who ask the host about it."""
    write_rows(source, make_rows(1))
    whole = completion("x")
    server.script(whole.but(headers={**whole.headers, name: "req-7"}))
    (line,) = batch(str(source)).stdout.splitlines()
    assert json.loads(line)["response"]["request_id"] == "req-7"


# Empty and incomplete answers


def make_choice(index: int, finish: str) -> dict[str, Any]:
    """Return one choice of an answer."""
    return {"index": index, "message": {"content": "text"}, "finish_reason": finish}


EMPTY = {
    "no choices": document({"choices": []}),
    "choices null": document({"choices": None}),
    "content null": completion(None),
    "no content": completion(""),
    "white space": completion(" \n\t"),
    "reasoning only": completion(None, reasoning="hm"),
}
ENDED = {
    "length": completion("half", finish="length"),
    "content_filter": completion("half", finish="content_filter"),
    "an_unknown_reason": completion("half", finish="an unknown reason"),
}
TWO = document({"choices": [make_choice(0, "stop"), make_choice(1, "length")]})
WORDS = {**dict.fromkeys(EMPTY, "empty"), **{name: name for name in ENDED}, "two": "length"}


def test_answers_that_are_not_whole_are_marked(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Kept with the word for what they lack, one of several choices being enough; exit 4."""
    write_names(source, [*WORDS, "whole"])
    answer_with(server, {**EMPTY, **ENDED, "two": TWO})
    command = (str(source), "-o", str(out))
    result = batch(*command, "--summary", str(summary))
    assert result.status == 4, result.error
    assert f"{len(WORDS)} answers ended early or empty" in result.error
    marks = {row["custom_id"]: row["kimi"].get("incomplete") for row in read_rows(out)}
    assert marks == {**WORDS, "whole": None}
    assert all(row["error"] is None for row in read_rows(out))
    rows = json.loads(summary.read_text())["rows"]
    assert (rows["answered"], rows["incomplete"]) == (len(WORDS) + 1, len(WORDS))
    assert len(server.requests) == len(WORDS) + 1


def test_a_later_run_tells_of_them_too(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """What was incomplete before is exit 4 again, unless it is permitted; nothing is asked."""
    write_names(source, ["whole", "length", "no content"])
    answer_with(server, {**EMPTY, **ENDED})
    command = (str(source), "-o", str(out), "--summary", str(summary))
    assert batch(*command, "--allow-incomplete").status == 0
    again = batch(*command)
    assert again.status == 4
    assert "2 answers ended early or empty" in again.error
    assert json.loads(summary.read_text())["rows"]["incomplete_before"] == 2
    assert batch(*command, "--allow-incomplete").status == 0
    assert len(server.requests) == 3


def test_a_later_run_tells_of_errors_too(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A row that failed for good is exit 4 in each run that finds it."""
    write_names(source, ["good", "bad"])
    answer_with(server, {"bad": refusal(400, "bad_request", "too long")})
    command = (str(source), "-o", str(out), "--allow-incomplete")
    results = [batch(*command), batch(*command)]
    assert [result.status for result in results] == [4, 4]
    assert all("1 row failed for good" in result.error for result in results)
    assert len(server.requests) == 2


def test_calls_of_tools_are_a_whole_answer(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """They need no text beside them."""
    write_names(source, ["call"])
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    server.script(completion(None, finish="tool_calls", tool_calls=[call]))
    result = batch(str(source), "-o", str(out))
    assert result.status == 0, result.error
    assert "incomplete" not in read_rows(out)[0]["kimi"]


# What is wrong with every row


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize(
    ("wrong", "status"),
    [(NO_MODEL, 69), (NO_API, 69), (PAGE, 76), (REDIRECT, 76)],
    ids=["model", "API", "page", "redirect"],
)
def test_a_wrong_option_stops_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    wrong: Reply, status: int, count: int,
) -> None:  # fmt: skip
    """Ten rows, or all of fewer, are enough; none has a line, so the right option answers all."""
    write_rows(source, make_rows(count))
    server.answer(lambda request: echo(request) if "/right/" in request.path else wrong)
    command = (str(source), "-o", str(out), "-c", "1", "--retries", "0", "--base-url")
    result = batch(*command, f"{server.origin}/wrong")
    assert result.status == status, result.error
    asked = min(10, count)
    assert len(server.requests) == asked
    assert out.read_bytes() == b""
    assert list(list_errors(out)) == [f"r{number}" for number in range(asked)]
    assert batch(*command, f"{server.origin}/right").status == 0
    assert len(list_ids(out)) == count
    assert not Path(f"{out}.errors").exists()


@pytest.mark.parametrize("place", ["p0", "p2"])
@pytest.mark.parametrize(
    ("reply", "status"),
    [(NO_MODEL, 4), (PAGE, 75), (REDIRECT, 75)],
    ids=["model", "page", "redirect"],
)
def test_one_such_row_among_answers_is_alone(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    place: str, reply: Reply, status: int,
) -> None:  # fmt: skip
    """An unknown model is a line of its own, a proxy's page costs its row a run; others go on."""
    write_rows(source, make_rows(4))
    answer_with(server, {place: reply})
    assert batch(str(source), "-o", str(out), "-c", "1", "--retries", "0").status == status
    name = place.replace("p", "r")
    failed = {row["custom_id"]: row["error"]["class"] for row in read_rows(out) if row["error"]}
    assert failed == ({name: "permanent"} if reply is NO_MODEL else {})
    if reply is not NO_MODEL:
        assert list(list_errors(out)) == [name]
        assert name not in list_ids(out)
    assert len(server.requests) == 4


def test_a_row_that_is_refused_for_its_model_is_a_row(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows counts it like any other, also before one is answered."""
    write_rows(source, make_rows(12))
    server.answer(lambda request: NO_MODEL)
    assert batch(str(source), "-o", str(out), "-c", "1", "--max-rows", "3").status in (69, 75)
    assert list_prompts(server) == ["p0", "p1", "p2"]


def test_who_waits_for_a_line_gets_it(batch: Kimi, server: ReplayServer) -> None:
    """A program that writes a row when it has read the line before it is not kept waiting."""
    server.answer(lambda request: NO_MODEL)
    run = batch.start("--format", "flat", stdin="pipe")
    for number in (1, 2):
        run.write(b'"question"\n')
        line = json.loads(run.expect(b"\n", "stdout"))
        assert line["custom_id"] == f"row-{number}"
        assert "no such model" in line["error"]["message"]
    run.end_input()
    assert run.wait().status == 4


def test_a_limit_for_the_day_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It resets by itself, but not soon: 75 at once, with that word."""
    write_rows(source, make_rows(5))
    words = "Your account reached organization TPD rate limit, current: 9, limit: 8"
    server.script(refusal(429, "rate_limit_reached_error", words, dialect="moonshot"))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 75
    assert "this limit resets by itself, but not soon" in result.error
    assert len(server.requests) == 1


LIMITED = {
    "words of its own": refusal(429, "invalid_request_error", "slow down", dialect="moonshot"),
    "an error of the server": refusal(429, "api_error", "slow down"),
    "nothing": Reply(status=429),
    "busy, with a vague word": refusal(503, "invalid_request_error", "busy", dialect="moonshot"),
    "broken, with a vague word": refusal(502, "bad_request", "upstream"),
}


@pytest.mark.parametrize("how", LIMITED)
def test_a_limit_may_be_worded_in_any_way(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, how: str
) -> None:
    """What is refused for load, or by a server that fails, is asked again: no row has failed."""
    write_rows(source, make_rows(3))
    server.script(*[LIMITED[how]] * 3)
    server.answer(echo)
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 0, result.error
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]


PAGES = {
    "html": Reply([b"<html>404 default backend"], 404, headers={"Content-Type": "text/html"}),
    "text": Reply([b"404 page not found"], 404, headers={"Content-Type": "text/plain"}),
    "a gateway's JSON": Reply([b'{"message":"no Route matched"}'], 404, headers=JSON),
    "method": Reply([b"405 Not Allowed"], 405, headers={"Content-Type": "text/html"}),
    "gone": Reply([b""], 410),
}


@pytest.mark.parametrize("kind", PAGES)
def test_a_page_in_the_middle_fails_no_row(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """A proxy that does not find the API for a moment speaks of no row: they are asked again."""
    write_rows(source, make_rows(20))
    server.script(*map(completion, "abcd"), *[PAGES[kind]] * 8)
    server.answer(echo)
    result = batch(str(source), "-o", str(out), "-c", "4")
    assert result.status == 0, result.error
    assert len(set(list_ids(out))) == 20


@pytest.mark.parametrize("status", [102, 103])
@pytest.mark.parametrize("command", ["ask", "batch"])
def test_interim_replies_are_passed_over(
    batch: Kimi, ask: Kimi, server: ReplayServer, command: str, status: int
) -> None:
    """They are not the answer, however many come before it (RFC 9110, section 15.2)."""
    interim = b"HTTP/1.1 %d Soon\r\nLink: </x>\r\n\r\n" % status
    final = completion("whole")
    body = b"".join(step for step in final.body if isinstance(step, bytes))
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    server.script(Reply([interim * 2, head % len(body), body], framing="raw"))
    if command == "ask":
        result = ask("--no-stream", "hi")
    else:
        result = batch("--format", "text", stdin=b'"hi"\n')
    assert (result.status, result.stdout.strip(b'"\n')) == (0, b"whole"), result.error


# Buying once


CUT = completion("a whole answer").cut_after(40)


@pytest.mark.parametrize(
    ("reply", "status"),
    [(SILENT, 75), (CUT, 75), (PAGE, 76), (Reply([Reset()], framing="raw"), 75)],
    ids=["silence", "cut", "page", "reset"],
)
def test_without_retries_nothing_is_bought_twice(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, reply: Reply, status: int
) -> None:
    """--retries 0: each row is one request, whatever became of it."""
    write_rows(source, make_rows(3))
    server.answer(lambda request: reply)
    options = ("--retries", "0", "--timeout", "0.5", "-c", "3")
    assert batch(str(source), "-o", str(out), *options).status == status
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert sorted(list_errors(out)) == ["r0", "r1", "r2"]


def test_a_row_that_timed_out_is_asked_once_more(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """It was probably billed: two attempts are all, and both are told of as unknown."""
    write_rows(source, make_rows(2))
    server.answer(lambda request: SILENT)
    options = ("--timeout", "0.4", "--summary", str(summary))
    assert batch(str(source), "-o", str(out), *options).status == 75
    assert list_prompts(server) == ["p0", "p0", "p1", "p1"]
    assert json.loads(summary.read_text())["attempts_with_unknown_outcome"] == 4


def test_what_was_never_sent_costs_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """A connection that does not come has the usual attempts, and was not billed."""
    write_rows(source, make_rows(1))
    with test_network.deaf_port() as port:
        options = ("--connect-timeout", "0.2", "--retries", "3", "--summary", str(summary))
        url = f"http://127.0.0.1:{port}"
        assert batch(str(source), "-o", str(out), "--base-url", url, *options).status == 75
    figures = json.loads(summary.read_text())
    assert (figures["attempts"], figures["attempts_with_unknown_outcome"]) == (4, 0)


BROKEN = {
    "closed": b"",
    "plain HTTP": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n",
    "an alert": b"\x15\x03\x03\x00\x02\x02\x50",
}


@contextmanager
def break_handshake(server: ReplayServer, number: int, reply: bytes) -> Iterator[str]:
    """Yield the address of a way to *server* that spoils the connection of that *number*."""
    target = urlsplit(server.url)
    threads: list[threading.Thread] = []
    stack = ExitStack()

    def carry(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with suppress(OSError):
            for count in itertools.count(1):
                near = stack.enter_context(listener.accept()[0])
                if count == number:
                    near.recv(65536)
                    near.sendall(reply)
                    near.close()
                    continue
                far = socket.create_connection((target.hostname, target.port))
                stack.enter_context(far)
                for pair in ((near, far), (far, near)):
                    start(carry, *pair)

    def start(work: Callable[..., None], *arguments: socket.socket) -> None:
        threads.append(threading.Thread(target=work, args=arguments, daemon=True))
        threads[-1].start()

    with stack, socket.create_server(("127.0.0.1", 0)) as listener:
        start(serve)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}{target.path}"
        listener.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join(20)


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_handshake_is_a_broken_connection(
    batch: Kimi,
    tls_server: ReplayServer,
    certificate: Callable[..., Path],
    source: Path,
    out: Path,
    how: str,
) -> None:
    """Once the host has answered, it costs its row an attempt at most, and not the run."""
    write_rows(source, make_rows(4))
    tls_server.answer(lambda request: echo(request).but(keep_alive=False))
    environment = {"SSL_CERT_FILE": str(certificate())}
    with break_handshake(tls_server, 3, BROKEN[how]) as url:
        command = (str(source), "-o", str(out), "--base-url", url, "-c", "1")
        first = batch(*command, env=environment)
        assert first.status == (75 if how == "plain HTTP" else 0), first.error
        assert {"r0", "r1", "r3"} <= set(list_ids(out))
        assert batch(*command, env=environment).status == 0
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]


# Kept connections


def test_a_connection_closed_while_idle_is_replaced(
    batch: Kimi, server: ReplayServer, summary: Path
) -> None:
    """A host that hangs up between two rows costs no attempt, and no row is asked twice."""
    server.answer(lambda request: echo(request).but(keep_alive=False))
    options = ("--format", "text", "-c", "1", "--retries", "0", "--summary", str(summary))
    run = batch.start(*options, stdin="pipe")
    for number in range(4):
        run.write(b'"p%d"\n' % number)
        run.expect(b'"re: p%d"\n' % number, "stdout")
        time.sleep(0.2)  # it hangs up
    run.end_input()
    result = run.wait()
    assert result.status == 0, result.error
    assert list_prompts(server) == ["p0", "p1", "p2", "p3"]
    assert server.connections == 4
    figures = json.loads(summary.read_text())
    assert (figures["attempts"], figures["attempts_with_unknown_outcome"]) == (4, 0)


@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
def test_a_request_that_was_taken_is_not_sent_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, end: Step
) -> None:
    """A host that dies over a row may have billed it, on a kept connection as on a new one."""
    write_rows(source, make_rows(3))
    server.script(completion("first"), Reply([Wait(0.1), end], framing="raw"))
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "-c", "1", "--retries", "0").status == 75
    assert list_prompts(server) == ["p0", "p1", "p2"]
    assert list(list_errors(out)) == ["r1"]


def break_off(reply: Reply, end: Step) -> Reply:
    """Return *reply* with an *end* in the middle of its body."""
    cut = reply.cut_after(40)
    # A moment, so that what came before the end has been read.
    return cut.but(body=[*cut.body[:-1], Wait(0.1), end])


@pytest.mark.parametrize("retries", ["0", "1"])
@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize("end", [Cut(), Reset()], ids=["cut", "reset"])
def test_an_answer_that_breaks_off_counts(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path,
    retries: str, framing: str, end: Step,
) -> None:  # fmt: skip
    """On a kept connection, too, it is an attempt with an unknown outcome, and never resent."""
    write_rows(source, make_rows(3))
    broken = break_off(completion("a long answer").but(framing=framing), end)
    server.script(completion("first"), broken)
    server.answer(echo)
    command = (str(source), "-o", str(out), "-c", "1", "--retries", retries)
    status = batch(*command, "--summary", str(summary)).status
    figures = json.loads(summary.read_text())
    assert figures["attempts_with_unknown_outcome"] == 1
    assert figures["attempts"] == len(server.requests)
    if retries == "0":
        assert status == 75
        assert list_prompts(server) == ["p0", "p1", "p2"]
        assert {name: error["class"] for name, error in list_errors(out).items()} == {
            "r1": "transient"
        }
    else:
        assert status == 0
        assert list_prompts(server) == ["p0", "p1", "p1", "p2"]
        assert {row["custom_id"]: row["kimi"]["attempts"] for row in read_rows(out)} == {
            "r0": 1, "r1": 2, "r2": 1,
        }  # fmt: skip


# Replies without an end


def read_peak(run: Running) -> int:
    """Return the most memory that a program has had, in MB."""
    status = Path(f"/proc/{run.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) // 1024


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ENDLESS = {
    "chunked": Reply([MEGABYTE] * 300, headers=JSON, framing="chunked"),
    "close": Reply([MEGABYTE] * 300, headers=JSON, framing="close"),
    "announced": Reply([MEGABYTE] * 300, headers={**JSON, "Content-Length": str(10**12)}),
    "negative chunk": Reply([CHUNKED, b"-1\r\n", *[MEGABYTE] * 300], framing="raw"),
    "tiny chunks": Reply([CHUNKED, *[b"2\r\nxx\r\n" * 100_000] * 18, Cut()], framing="raw"),
}
MOST = {"error": 100, "tiny chunks": 200}
"""MB that a run may have had, where it is less than for the largest answer."""


@pytest.mark.parametrize("kind", [*ENDLESS, "error"])
def test_a_reply_without_an_end_is_let_go(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """It fails its own row, and takes no more memory than the largest answer would."""
    write_names(source, ["endless", "late"])
    error = Reply([MEGABYTE] * 300, status=400, framing="close")
    reply, gate = ENDLESS.get(kind, error), threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        held = whole.but(body=[Barrier(gate), *whole.body])
        return reply if get_prompt(request) == "endless" else held

    server.answer(answer)
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--retries", "0")
    server.await_requests(2, timeout=30)
    peak = read_peak(run)
    gate.set()
    assert run.wait().status == (4 if kind == "error" else 75)
    assert peak < MOST.get(kind, 400)
    assert list_prompts(server) == ["endless", "late"]
    if kind != "error":
        assert list(list_errors(out)) == ["endless"]
        assert list_ids(out) == ["late"]
