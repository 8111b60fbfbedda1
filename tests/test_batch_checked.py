"""kimi batch with answers that must have a form: checked, asked again, written as what they are."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from rows import get_prompt, hold, list_ids, make_rows, pause, read_rows, write_rows
from server import (
    USAGE,
    ReceivedRequest,
    ReplayServer,
    Reply,
    completion,
    document,
    refusal,
)

from kimi_cli.answer.notation import read_notation

PERSON = "name, age int, size float"
GOOD = '{"name": "Ada",\n "age": 36, "size": 1.70}'
LINE = '{"name":"Ada","age":36,"size":1.70}'
BAD = '{"name":"Ada","age":"old","size":1}'
NOT_TAKEN = refusal(400, "invalid_request_error", "response_format is not supported")


def get_format(request: ReceivedRequest) -> str | None:
    """Return the type of the response_format that was sent."""
    found: str | None = request.json.get("response_format", {}).get("type")
    return found


def answer_first(request: ReceivedRequest, first: str, then: str) -> Reply:
    """Answer a question in one way, and a complaint about it in another."""
    return completion(then if len(request.json["messages"]) > 2 else first)


@pytest.mark.parametrize(
    ("style", "find"),
    [
        ("batch", lambda line: line["value"]),
        ("flat", lambda line: line["value"]),
        ("merge", lambda line: line["kimi_response"]["value"]),
    ],
)
def test_the_value_is_in_the_line_digit_for_digit(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, style: str, find: Any
) -> None:
    """In every format of objects; a column of that name is carried elsewhere, and not lost."""
    write_rows(source, [{"id": "a", "prompt": "Who?", "value": 7}])
    server.script(completion(f"```json\n{GOOD}\n```"))
    result = batch(str(source), "-o", str(out), "--format", style, "--schema", PERSON)
    assert result.status == 0, result.error
    assert find(json.loads(out.read_text())) == json.loads(GOOD)
    assert '"size": 1.70' in out.read_text().replace('\\"', "")
    (request,) = server.requests
    assert request.json["response_format"]["json_schema"]["schema"] == read_notation(PERSON)
    assert request.json["messages"] == [{"role": "user", "content": "Who?"}]
    assert batch(str(source), "-o", str(out), "--format", style, "--schema", PERSON).status == 0
    assert len(server.requests) == 1
    if style != "merge":
        assert json.loads(out.read_text())["kimi"]["carried"] == {"value": 7}


@pytest.mark.parametrize(
    ("options", "said", "printed"),
    [
        (("--schema", PERSON), f"```\n{GOOD}\n```", LINE),
        (("--json-mode",), " [1, 2.50] ", "[1,2.50]"),
        (("--choice", "Spam,ham"), "**spam**.", "Spam"),
        (("-x",), "So:\n```sh\nls\n```\nor\n```\nrm\n```\n", "ls\n"),
        (("--extract-last",), "So:\n```sh\nls\n```\nor\n```\nrm\n```\n", "rm\n"),
    ],
)
def test_text_is_what_was_checked(
    batch: Kimi, server: ReplayServer, options: tuple[str, ...], said: str, printed: str
) -> None:
    """JSON on one line, the label, or the block."""
    server.script(completion(said))
    result = batch(*options, "--format", "text", stdin=b'"What?"\n')
    assert (result.status, json.loads(result.stdout)) == (0, printed)


def test_what_does_not_fit_is_asked_for_again(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Once, with the place and the reason; usage is the sum, in the line and in the figures."""
    write_rows(source, [{"id": "a", "prompt": "Who?"}])
    server.script(completion(BAD), completion(GOOD))
    command = (str(source), "-o", str(out), "--format", "flat", "--schema", PERSON)
    assert batch(*command, "--summary", str(summary)).status == 0
    line = json.loads(out.read_text())
    assert (line["content"], line["error"], line["kimi"]["attempts"]) == (GOOD, None, 1)
    assert line["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]
    asked, answered, again = server.requests[1].json["messages"]
    assert (asked["content"], answered) == ("Who?", {"role": "assistant", "content": BAD})
    assert '/age: "old" is not of type "integer"' in again["content"]
    figures = json.loads(summary.read_text())
    assert figures["tokens"]["completion"] == 2 * USAGE["completion_tokens"]
    assert (figures["sends"], figures["rows"]["answered"]) == (2, 1)


def test_what_never_fits_is_written_with_its_problem(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Status 4, also in the next run, which asks nothing unless it is told to."""
    write_rows(source, make_rows(3))
    server.answer(lambda request: completion("prose" if request.json["messages"][0]["content"]
                                             == "p1" else GOOD))  # fmt: skip
    command = (str(source), "-o", str(out), "--format", "flat", "--schema", PERSON)
    result = batch(*command, "--reask", "2")
    assert result.status == 4
    assert "2 answered; 1 failed (1 invalid)" in result.error
    assert "1 answer lacks the form that was asked for; the output says why" in result.error
    (line,) = [line for line in read_rows(out) if line["error"]]
    assert (line["custom_id"], line["content"], "value" in line) == ("r1", "prose", False)
    assert (line["error"]["code"], line["error"]["class"]) == ("invalid_answer", "invalid")
    assert line["error"]["message"].startswith("it is not JSON")
    assert line["kimi"]["failed"] == "invalid"
    assert line["usage"]["total_tokens"] == 3 * USAGE["total_tokens"]
    assert len(server.requests) == 5
    result = batch(*command)
    assert (result.status, len(server.requests)) == (4, 5)
    assert "--retry-failed invalid asks for 1 again" in result.error
    assert batch(*command, "--retry-failed", "transient").status == 4
    assert len(server.requests) == 5
    server.answer(lambda request: completion(GOOD))
    assert batch(*command, "--retry-failed", "invalid").status == 0
    assert len(server.requests) == 6
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]
    assert all(line["value"] == json.loads(GOOD) for line in read_rows(out))


def test_a_text_that_was_paid_for_stays_until_another_comes(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A run that is to ask again and gets nothing loses nothing."""
    write_rows(source, make_rows(1))
    server.script(completion("prose"))
    command = (str(source), "-o", str(out), "--schema", PERSON, "--reask", "0")
    assert batch(*command).status == 4
    before = out.read_bytes()
    server.answer(lambda request: refusal(500, "api_error", "down"))
    again = (*command, "--retry-failed", "invalid", "--retries", "0")
    assert batch(*again).status == 75
    assert out.read_bytes() == before
    server.answer(lambda request: completion("verse"))
    assert batch(*again).status == 4
    (line,) = read_rows(out)
    assert line["response"]["body"]["choices"][0]["message"]["content"] == "verse"


def test_what_does_not_fit_may_be_allowed(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Then it is no reason to fail, or to stop; the line says what is wrong all the same."""
    write_rows(source, make_rows(3))
    server.answer(lambda request: completion("prose"))
    command = (str(source), "--choice", "a,b", "--reask", "0", "--allow-invalid")
    assert batch(*command, "-o", str(out), "--max-errors", "1").status == 0
    assert {line["error"]["code"] for line in read_rows(out)} == {"invalid_answer"}
    assert batch(*command, "-o", str(out)).status == 0
    assert len(server.requests) == 3
    shown = batch(*command, "--format", "text")
    assert (shown.stdout, shown.status) == (b'"prose"\n' * 3, 0)
    shown = batch(*command[:-1], "--format", "text")
    assert (shown.stdout, shown.status) == (b"null\n" * 3, 4)


def test_invalid_answers_count_as_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A schema that no answer fits stops where --max-errors says so."""
    write_rows(source, make_rows(50))
    server.answer(lambda request: completion("prose"))
    options = ("--schema", PERSON, "--reask", "0", "--max-errors", "2", "-c", "1")
    result = batch(str(source), "-o", str(out), *options)
    assert (result.status, len(server.requests)) == (75, 3)


def test_a_cut_answer_is_incomplete_not_invalid(batch: Kimi, server: ReplayServer) -> None:
    """It is not bought again, and has no value."""
    server.script(completion('{"name":', finish="length"))
    result = batch("--schema", PERSON, "--format", "flat", stdin=b'"Who?"\n')
    line = json.loads(result.stdout)
    assert (result.status, line["error"], "value" in line) == (4, None, False)
    assert line["kimi"]["incomplete"] == "length"


def test_a_row_keeps_a_format_of_its_own(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """And is checked all the same; its request is what it was, and so is its key."""
    own = {"type": "json_object"}
    write_rows(source, [{"id": "a", "prompt": "Who?", "response_format": own}])
    server.script(completion(BAD), completion(GOOD))
    assert batch(str(source), "-o", str(out), "--schema", PERSON).status == 0
    assert [request.json["response_format"] for request in server.requests] == [own, own]
    assert batch(str(source), "-o", str(out)).status == 0
    assert len(server.requests) == 2


def test_each_of_several_answers_must_fit(batch: Kimi, server: ReplayServer) -> None:
    """One that does not is the row's; of those that do there are several values."""

    def choose(*texts: str) -> Reply:
        choices = [
            {"index": i, "message": {"role": "assistant", "content": t}, "finish_reason": "stop"}
            for i, t in enumerate(texts)
        ]
        return document({"id": "c", "object": "chat.completion", "choices": choices})

    server.script(choose("yes", "perhaps"), choose("Yes.", "no"))
    result = batch("--choice", "yes,no", "-O", "n=2", "--format", "flat", stdin=b'"Is it?"\n')
    line = json.loads(result.stdout)
    assert (line["value"], line["values"]) == ("yes", ["yes", "no"])
    assert server.requests[1].json["messages"][-2]["content"] == "perhaps"


# The way in which the host is asked


@pytest.mark.parametrize("taken", ["json_object", None])
def test_the_way_is_learned_once_and_costs_no_row_anything(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, taken: str | None
) -> None:
    """Rows that met the refusal are asked again; later ones know."""
    write_rows(source, [{**row, "system": "Be brief."} for row in make_rows(60)])

    def answer(request: ReceivedRequest) -> Reply:
        return completion(GOOD) if get_format(request) == taken else NOT_TAKEN

    server.answer(answer)
    command = (str(source), "-o", str(out), "--schema", PERSON, "-c", "4", "--retries", "0")
    result = batch(*command, "-v")
    assert result.status == 0, result.error
    assert {line["kimi"]["attempts"] for line in read_rows(out)} == {1}
    assert len(read_rows(out)) == 60
    sent = [get_format(request) for request in server.requests]
    assert sent.count(taken) == 60
    assert len(sent) <= 60 + 2 * 8  # those that were in flight while it was learned
    assert result.error.count("does not take json_schema") == 1
    said = server.requests[-1].json["messages"][0]["content"]
    assert said.startswith("Be brief.\n\nAnswer with nothing but JSON")
    assert batch(*command).status == 0
    assert len(server.requests) == len(sent)


def test_a_question_of_bad_form_teaches_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A row that is refused in every way is refused for itself, and in the first words."""
    write_rows(source, make_rows(12))

    def answer(request: ReceivedRequest) -> Reply:
        if get_prompt(request) == "p0":
            return refusal(400, "invalid_request_error", f"no {get_format(request)}")
        return completion(GOOD)

    server.answer(answer)
    result = batch(str(source), "-o", str(out), "--schema", PERSON, "-c", "1")
    assert result.status == 4
    (line,) = [line for line in read_rows(out) if line["error"]]
    assert (line["custom_id"], line["error"]["class"]) == ("r0", "permanent")
    assert "no json_schema" in line["error"]["message"]
    others = [request for request in server.requests if get_prompt(request) != "p0"]
    assert {get_format(request) for request in others} == {"json_schema"}
    assert len(server.requests) == 3 + 11


def test_a_way_that_was_taken_is_not_doubted(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """After an answer, a refusal is the row's own, and costs one request."""
    write_rows(source, make_rows(3))

    def answer(request: ReceivedRequest) -> Reply:
        return NOT_TAKEN if get_prompt(request) == "p1" else completion(GOOD)

    server.answer(answer)
    assert batch(str(source), "-o", str(out), "--schema", PERSON, "-c", "1").status == 4
    assert len(server.requests) == 3


@pytest.mark.parametrize("way", ["json_schema", "json_object", "prompt"])
def test_a_profile_may_know_the_way(
    kimi: Kimi, server: ReplayServer, home: Path, out: Path, way: str
) -> None:
    """Then nothing else is tried; it does not count for what is done."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir()
    path.write_text(
        f'[profiles.desk]\nbase_url = "{server.url}"\nauth = "none"\nstructured = "{way}"\n'
    )
    server.answer(lambda request: completion(GOOD))
    desk = ("batch", "--profile", "desk", "-o", str(out), "--schema", PERSON)
    assert kimi(*desk, stdin=b'"Who?"\n').status == 0
    assert (get_format(server.requests[-1]) or "prompt") == way
    path.write_text(path.read_text().replace(way, "auto"))
    assert kimi(*desk, stdin=b'"Who?"\n').status == 0
    assert len(server.requests) == 1


# What is done


def test_a_form_changes_what_is_asked(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """As far as the request changes: another schema does, how often it is asked again does not."""
    write_rows(source, make_rows(2))
    server.answer(lambda request: completion(GOOD))
    command = (str(source), "-o", str(out))
    assert batch(*command).status == 0
    result = batch(*command, "--schema", PERSON)
    assert (result.status, len(server.requests)) == (65, 2)
    assert "2 finished rows ask something else now (r0, r1)" in result.error
    assert batch(*command, "--schema", PERSON, "--on-change", "keep").status == 0
    assert len(server.requests) == 2
    assert batch(*command, "--schema", PERSON, "--on-change", "redo").status == 0
    assert (len(server.requests), len(read_rows(out))) == (4, 2)
    again = (*command, "--reask", "3", "--allow-invalid", "--schema")
    assert batch(*again, PERSON).status == 0
    assert batch(*again, json.dumps(read_notation(PERSON))).status == 0
    assert batch(*again, "name").status == 65
    assert len(server.requests) == 4


def test_both_blocks_are_asked_for_alike(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The first and the last block are the same request; --json-mode asks what it always did."""
    write_rows(source, make_rows(1))
    server.answer(lambda request: completion("```\n[]\n```"))
    assert batch(str(source), "-o", str(out), "-x").status == 0
    assert batch(str(source), "-o", str(out), "--extract-last").status == 0
    asks_json = ("-O", 'response_format={"type":"json_object"}')
    assert batch(str(source), "-o", f"{out}.2", *asks_json).status == 0
    assert batch(str(source), "-o", f"{out}.2", "--json-mode").status == 0
    assert len(server.requests) == 2


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_row_that_is_stopped_in_between_is_unanswered(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, signum: int
) -> None:
    """It has no line, neither good nor bad, and the same command asks for it."""
    write_rows(source, make_rows(1))
    gate = threading.Event()
    server.script(hold(gate, completion(BAD)))
    run = batch.start(str(source), "-o", str(out), "--schema", PERSON)
    server.await_requests(1)
    run.signal(signum)
    run.expect(b"in flight", "stderr")
    gate.set()
    assert run.wait().status == -signum
    assert (out.read_bytes(), len(server.requests)) == (b"", 1)
    assert not Path(f"{out}.errors").exists()
    server.script(completion(GOOD))
    assert batch(str(source), "-o", str(out), "--schema", PERSON).status == 0
    assert len(read_rows(out)) == 1


def test_a_deadline_in_between_leaves_the_row(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """As a signal does, with status 75."""
    write_rows(source, make_rows(1))
    gate = threading.Event()
    server.script(hold(gate, completion(BAD)))
    run = batch.start(str(source), "-o", str(out), "--schema", PERSON, "--deadline", "0.2")
    server.await_requests(1)
    pause(1.0)
    gate.set()
    assert run.wait().status == 75
    assert (out.read_bytes(), len(server.requests)) == (b"", 1)


def test_a_second_request_needs_a_budget_as_well(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """What is not allowed is not spent on an answer that does not fit."""
    write_rows(source, make_rows(1))
    server.answer(lambda request: completion(BAD))
    limit = ("--max-total-tokens", "500", "--max-tokens", "300", "--reask", "9")
    result = batch(str(source), "-o", str(out), "--schema", PERSON, *limit)
    assert (result.status, out.read_bytes()) == (75, b"")
    assert "--max-total-tokens 500" in result.error
    assert 0 < len(server.requests) < 4


def test_kill_9_between_two_answers_loses_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The row is asked again from the start, and has one line."""
    write_rows(source, make_rows(4))
    server.answer(
        lambda request: (
            answer_first(request, BAD, GOOD)
            if len(server.requests) != 3
            else hold(threading.Event(), completion(GOOD))
        )
    )
    command = (str(source), "-o", str(out), "--schema", PERSON, "-c", "1")
    run = batch.start(*command)
    server.await_requests(3)
    run.signal(signal.SIGKILL)
    run.wait()
    kept = len(read_rows(out))
    server.answer(lambda request: completion(GOOD))
    assert batch(*command).status == 0
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]
    assert kept <= 1


# Beforehand


def test_a_dry_run_shows_the_form(batch: Kimi, server: ReplayServer) -> None:
    """The first request as it would leave."""
    result = batch("--schema", PERSON, "--dry-run", stdin=b'"Who?"\n')
    wanted = json.loads(result.stdout)["response_format"]["json_schema"]["schema"]
    assert (result.status, wanted) == (0, read_notation(PERSON))
    result = batch("--choice", "a,b", "--dry-run", stdin=b'"Who?"\n')
    assert "a, b" in json.loads(result.stdout)["messages"][0]["content"]
    assert not server.requests


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (("--schema", "{"), 65),
        (("--schema", "none.json"), 66),
        (("--choice", "a,A"), 65),
        (("-x", "--json-mode"), 2),
    ],
)
def test_a_bad_form_costs_nothing(
    batch: Kimi, server: ReplayServer, out: Path, options: tuple[str, ...], status: int
) -> None:
    """No request, and no output."""
    assert batch(*options, "-o", str(out), stdin=b'"Who?"\n').status == status
    assert not server.requests
    assert not out.exists()
