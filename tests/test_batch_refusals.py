"""kimi batch: what is wrong with one row, and what is wrong with every row."""

from __future__ import annotations

from pathlib import Path

import pytest
import rows
from conftest import CANARY
from outputs import list_errors
from program import Kimi
from rows import (
    DOWN,
    FORBIDDEN,
    JSON,
    NO_MODEL,
    PAGE,
    REFUSED,
    answer_but,
    echo,
    finish,
    get_prompt,
    list_ids,
    list_prompts,
    make_rows,
    read_ids,
    read_rows,
    write_input,
    write_rows,
)
from server import ReplayServer, Reply, completion, refusal

batch = rows.echoing


# What is wrong with every row


REDIRECT = Reply(status=302, headers={"Location": "https://elsewhere.example/login"})
NO_API = refusal(404, "no_api", "no such API")


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
    answer_but(server, **{place: reply})
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


# What a host says, and what becomes of a run


def test_a_token_that_a_host_quotes_is_written_nowhere(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Not into lines, the list of errors, or the figures."""
    write_rows(source, make_rows(3))
    said = f"Incorrect API key provided: Bearer {CANARY}"
    server.script(refusal(400, "bad_request", said), refusal(401, "invalid_token", said))
    options = ("-o", str(out), "-c", "1", "--summary", str(summary))
    result = batch(str(source), *options)
    assert result.status == 77
    files = [path for path in out.parent.glob("*") if path.is_file()]
    assert len(files) == 4
    for text in [result.error, *(path.read_text() for path in files)]:
        assert CANARY not in text
    assert "[bearer token]" in out.read_text()
    assert "[bearer token]" in Path(f"{out}.errors").read_text()
    assert "[bearer token]" in summary.read_text()


def test_a_firewall_speaks_of_one_prompt(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its page is no word about the token, which was good a moment ago; the others go on."""
    write_rows(source, make_rows(6))
    answer_but(server, p2=Reply([b"<html>Blocked"], 403, headers={"Content-Type": "text/html"}))
    assert batch(str(source), "-o", str(out), "-c", "1").status == 75
    assert sorted(list_ids(out)) == ["r0", "r1", "r3", "r4", "r5"]


def test_words_of_a_prompt_are_no_verdict(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A refusal of one row that quotes them concerns that row."""
    write_rows(source, make_rows(3))
    words = 'cannot take: "please check your account balance"'
    answer_but(server, p0=refusal(400, "bad_request", words))
    assert batch(str(source), "-o", str(out), "-c", "1").status == 4
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]


def test_the_last_word_is_of_a_row_that_is_left(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Not of one that failed for good after it."""
    write_rows(source, make_rows(3))
    answer_but(server, p0=DOWN, p2=REFUSED)
    result = batch(str(source), "-o", str(out), "-c", "1", "--retries", "0")
    assert result.status == 75
    assert "1 row got no answer (the API refused the request: HTTP 500 " in result.error


def test_a_token_that_is_refused_later_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Whatever the body says of it: 401 speaks of every row, and 77 comes at once."""
    write_rows(source, make_rows(9))
    server.script(completion("good"), *[Reply([b"Unauthorized"], 401)] * 9)
    assert batch(str(source), "-o", str(out), "-c", "1").status == 77
    assert len(server.requests) == 2


def test_a_token_that_expires_keeps_what_was_bought(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """401 after some answers: exit 77, they are kept, and a good token goes on from there."""
    ids = write_input(source, 9)
    server.script(*[completion("good")] * 3, refusal(401, "token_expired", "expired"), repeat=True)
    assert batch(str(source), "-o", str(out), "-c", "1").status == 77
    assert len(server.requests) == 4
    assert read_ids(out) == ids[:3]
    finish(batch, server, source, out, ids)


def test_a_forbidden_row_is_alone(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The gateway's 403 forbidden speaks of one prompt: the others go on, exit 4."""
    ids = write_input(source, 30)
    bad = {"p0", "p7", "p29"}
    server.answer(lambda request: FORBIDDEN if get_prompt(request) in bad else echo(request))
    assert batch(str(source), "-o", str(out)).status == 4
    assert read_ids(out) == ids
    errors = {row["custom_id"]: row["error"] for row in read_rows(out) if row["error"]}
    assert set(errors) == {"r0", "r7", "r29"}
    assert {(error["code"], error["class"]) for error in errors.values()} == {
        ("forbidden", "permanent")
    }
    assert len(server.requests) == 30
