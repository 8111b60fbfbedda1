"""kimi batch going on: what earlier lines, moved rows and odd names make of the next run."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from http.client import HTTPMessage
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import CANARY
from program import Kimi
from rows import echo, get_prompt, hold, list_ids, list_prompts, make_rows, read_rows, write_rows
from server import ReplayServer, Reply, completion, refusal

from kimi_cli.api.channel import WholeReply
from kimi_cli.batch.ledger import Ledger
from kimi_cli.batch.pace import Pace
from kimi_cli.batch.records import Shape, make_record
from kimi_cli.batch.runner import Plan, Runner
from kimi_cli.batch.sinks import StdoutSink
from kimi_cli.batch.tally import Tally

FAILED = refusal(500, "api_error", "down")
REFUSED = refusal(400, "bad_request", "too long")


@pytest.fixture
def batch(batch: Kimi, server: ReplayServer) -> Kimi:
    """The command, pointed at a server that answers with the prompt."""
    server.answer(echo)
    return batch


def answer_but(server: ReplayServer, **special: Reply) -> None:
    """Answer some prompts in another way."""
    server.answer(lambda request: special.get(get_prompt(request)) or echo(request))


# Rows that cannot be sent


def test_bad_rows_count_and_have_their_lines(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows takes them as they come, and each run gets further."""
    source.write_text('{"x":\n{"y":\n"one"\n"two"\n')
    command = (str(source), "-o", str(out), "--max-rows", "2")
    assert batch(*command).status == 75
    assert list_ids(out) == ["row-1", "row-2"]
    assert not server.requests
    assert batch(*command).status == 4
    assert sorted(list_ids(out)) == ["row-1", "row-2", "row-3", "row-4"]
    piped = batch("--max-rows", "3", stdin=b'"one"\n{bad\n{bad2\n"two"\n')
    assert (piped.status, piped.stdout.count(b"\n")) == (75, 3)


@pytest.mark.parametrize("options", [(), ("--csv", "-p", "{text}")], ids=["jsonl", "csv"])
def test_a_bad_row_is_known_by_any_path(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, options: tuple[str, ...]
) -> None:
    """Its line stands, however the file is named, and be it a pipe."""
    source.write_bytes(b"text\none\n\xff\ntwo\n" if options else b'"one"\n{"x":\n"two"\n')
    assert batch(*options, str(source), "-o", str(out)).status == 4
    before, asked = out.read_bytes(), len(server.requests)
    other = source.parent / "." / ".." / source.parent.name / source.name
    for arguments, stdin in (((str(other),), b""), ((), source.read_bytes())):
        result = batch(*options, *arguments, "-o", str(out), stdin=stdin)
        assert result.status == 4, result.error
    assert batch(*options, str(other), "-o", str(out), "--on-change", "redo").status == 4
    assert out.read_bytes() == before
    assert len(server.requests) == asked == 2


def test_a_bad_first_row_is_answered_at_once(batch: Kimi) -> None:
    """On a pipe, where who writes may wait for its line; ten of them are a wrong input."""
    run = batch.start("--format", "flat", stdin="pipe")
    for number in range(1, 10):
        run.write(b"{torn\n")
        assert json.loads(run.expect(b"\n", "stdout"))["custom_id"] == f"row-{number}"
    run.write(b"{torn\n")
    result = run.wait()
    assert result.status == 65
    assert "the first 10 rows are all bad (row 1: " in result.error


# Other outputs


def test_the_input_has_answered_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--done-from with a pattern that matches it, too, and lines without an answer."""
    write_rows(source, make_rows(4))
    hosted = {"custom_id": "r0", "response": {"status_code": 200, "body": {}}, "error": None}
    lines: list[Any] = [
        hosted,
        {"custom_id": "r1", "response": None, "error": None},
        {"custom_id": "r2", "response": {"status_code": 429}, "error": None},
        {"custom_id": "r3", "prompt": "x"},
    ]
    write_rows(source.with_name("hosted.jsonl"), lines)
    pattern = str(source.with_name("*.jsonl"))
    result = batch(str(source), "-o", str(out), "--done-from", pattern)
    assert result.status == 0
    assert f"--done-from: {source} is the input, and is left out" in result.error
    assert list_prompts(server) == ["p1", "p2", "p3"]


# --on-change


@pytest.mark.parametrize("kind", ["cut", "refused"])
def test_what_is_kept_keeps_its_flaw(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """An old line that is no whole answer is status 4 with --on-change keep as well."""
    rows = make_rows(2)
    answer_but(server, p0=completion("half", finish="length") if kind == "cut" else REFUSED)
    write_rows(source, rows)
    assert batch(str(source), "-o", str(out)).status == 4
    rows[0]["prompt"] = "changed"
    data = write_rows(source, rows).read_bytes()
    result = batch("-o", str(out), "--on-change", "keep", stdin=data)
    assert result.status == 4
    assert len(server.requests) == 2


def test_kept_rows_keep_their_places(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--ordered sorts them by where their rows are now."""
    rows = make_rows(3)
    write_rows(source, rows)
    assert batch(str(source), "-o", str(out), "--ordered").status == 0
    rows[0]["prompt"] = "changed"
    write_rows(source, [rows[1], rows[0], rows[2]])
    assert batch(str(source), "-o", str(out), "--ordered", "--on-change", "keep").status == 0
    assert list_ids(out) == ["r1", "r0", "r2"]
    assert len(server.requests) == 3


REDONE: dict[str, tuple[list[Any], list[Any], tuple[str, ...], list[str]]] = {
    "moved": (["x", "x", "y"], ["x", "w", "x", "y"], (), ["w"]),
    "in front": (["a", "b", "c"], ["z", "a", "b", "c"], (), ["z"]),
    "same id": (
        [{"id": "a", "prompt": prompt} for prompt in ("1", "1", "2")],
        [{"id": "a", "prompt": prompt} for prompt in ("1", "1", "3")],
        ("--allow-duplicate-ids",),
        ["3"],
    ),
}


@pytest.mark.parametrize("kind", REDONE)
def test_redo_buys_only_what_is_not_there(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, kind: str
) -> None:
    """Equal rows have their answers; a row without an id takes no other's name."""
    before, after, options, bought = REDONE[kind]
    command = (str(source), "-o", str(out), *options)
    write_rows(source, before)
    assert batch(*command).status == 0
    write_rows(source, after)
    assert batch(*command, "--on-change", "redo").status == 0
    assert list_prompts(server, len(before)) == bought
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in read_rows(out)]
    asked = [row if isinstance(row, str) else row["prompt"] for row in after]
    assert sorted(said) == sorted(f"re: {prompt}" for prompt in asked)
    if not options:
        assert len(set(list_ids(out))) == len(after)
    assert batch(*command).status == 0
    assert len(server.requests) == len(before) + len(bought)


# Errors in the output


def test_written_errors_say_how_to_go_on(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A line of an error that may pass is not called final."""
    write_rows(source, make_rows(3))
    answer_but(server, p0=FAILED, p1=REFUSED)
    command = (str(source), "-o", str(out), "--on-error", "write", "--retries", "0")
    assert batch(*command).status == 75
    result = batch(*command)
    assert result.status == 4
    told = "2 rows failed for good; the output says why; --retry-failed transient asks for 1 again"
    assert told in result.error


@pytest.mark.parametrize("scope", ["other rows", "shard"])
def test_errors_of_other_rows_stay(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, scope: str
) -> None:
    """--retry-failed takes out only what this run asks again."""
    write_rows(source, make_rows(4))
    answer_but(server, p1=REFUSED, p2=REFUSED)
    assert batch(str(source), "-o", str(out)).status == 4
    server.answer(echo)
    options = ("--shard", "0/2") if scope == "shard" else ()
    if not options:
        write_rows(source, make_rows(4)[2:3])
    result = batch(str(source), "-o", str(out), "--retry-failed", "all", *options)
    assert result.status == 0
    assert list_prompts(server, 4) == ["p2"]
    assert sorted(list_ids(out)) == ["r0", "r1", "r2", "r3"]
    assert [row["custom_id"] for row in read_rows(out) if row["error"]] == ["r1"]


# Names


@pytest.mark.parametrize("name", [".", "", "/", "..", "x" * 250, "x" * 300])
def test_an_output_without_a_usable_name(
    batch: Kimi, server: ReplayServer, source: Path, name: str
) -> None:
    """Or whose list of errors has none: 73 in one line, before anything is asked."""
    write_rows(source, make_rows(1))
    result = batch(str(source), "-o", name)
    assert (result.status, result.error.count("\n")) == (73, 1), result.error
    assert result.error.startswith("kimi: cannot ")
    assert not server.requests


def test_a_folder_in_place_of_the_list_of_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Is told before anything is asked."""
    write_rows(source, make_rows(1))
    Path(f"{out}.errors").mkdir()
    result = batch(str(source), "-o", str(out))
    assert result.status == 73
    assert f"{out}.errors" in result.error
    assert not server.requests


# What lines keep of rows


KEPT: dict[str, tuple[tuple[str, ...], bytes, Callable[[dict[str, Any]], Any], Any]] = {
    "a row whose id came before": (
        ("--format", "merge"),
        b'{"id":"a","prompt":"x","note":1}\n' * 2,
        lambda row: row["note"],
        1,
    ),
    "a row that fits no template": (
        ("-p", "{text}"), b'{"note":1}\n', lambda row: row["note"], 1,
    ),
    "a row without a prompt": (
        (), b'{"note":1,"model":"m"}\n', lambda row: (row["note"], "model" in row), (1, False),
    ),
    "an id of its own": (
        ("--format", "merge", "--id-field", "name"),
        b'{"name":"n","custom_id":"mine","prompt":"x"}\n',
        lambda row: (row["custom_id"], row["kimi"]["carried"]),
        ("n", {"custom_id": "mine"}),
    ),
    "a string": (
        ("--format", "merge", "-p", "Say {prompt}"), b'"x"\n', lambda row: row["prompt"], "x",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEPT)
def test_a_line_keeps_what_is_the_rows(batch: Kimi, kind: str) -> None:
    """Whatever became of it."""
    options, data, find, kept = KEPT[kind]
    lines = batch(*options, stdin=data).stdout.splitlines()
    assert len(lines) == data.count(b"\n")
    assert [find(json.loads(line)) for line in lines] == [kept] * len(lines)


def test_a_merged_output_as_input(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Its answers are carried, and its lines are not taken for those of another format."""
    merged = batch("--format", "merge", stdin=b'{"prompt":"x"}\n').stdout
    source.write_bytes(merged)
    command = (str(source), "-o", str(out), "-p", "Again: {prompt}")
    assert batch(*command).status == 0
    assert "--format" not in batch(*command).error
    assert len(server.requests) == 2


def test_shouted_reasons_are_readable(batch: Kimi, server: ReplayServer) -> None:
    """In the mark of an answer that is not whole."""
    server.answer(lambda request: completion("half", finish="LENGTH"))
    line = json.loads(batch(stdin=b'"x"\n').stdout)
    assert line["kimi"]["incomplete"] == "length"


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
    answer_but(server, p0=FAILED, p2=REFUSED)
    result = batch(str(source), "-o", str(out), "-c", "1", "--retries", "0")
    assert result.status == 75
    assert "1 row got no answer (the API refused the request: HTTP 500 " in result.error


def test_a_budget_below_one_row_is_told(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It would never go on: 65, and nothing is asked; several answers are reserved for."""
    write_rows(source, [{"prompt": "x", "max_tokens": 400, "n": 4}])
    command = (str(source), "-o", str(out), "--max-total-tokens")
    result = batch(*command, "1000")
    assert result.status == 65
    assert "--max-total-tokens 1000 is less than one row may use" in result.error
    assert not server.requests
    assert batch(*command, "2000").status == 0


def test_a_name_with_brackets_is_a_name(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--done-from takes a file that is there as it is called."""
    write_rows(source, make_rows(2))
    earlier = out.with_name("earlier[1].jsonl")
    assert batch(str(source), "-o", str(earlier)).status == 0
    result = batch(str(source), "-o", str(out), "--done-from", str(earlier))
    assert (result.status, out.read_bytes(), len(server.requests)) == (0, b"", 2)


def test_a_stuck_reader_holds_no_signal_up(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Where nobody reads the pipe there is nothing to drain into: SIGTERM ends the run."""
    write_rows(source, make_rows(3000, prompt="x" * 500 + " {}"))
    for options in ((), ("--ordered",)):
        reader, writer = os.pipe()
        with open(writer, "wb") as theirs:
            run = batch.start(str(source), *options, stdout=theirs)
        before = 0
        while before != (before := len(server.requests)) or not before:
            time.sleep(0.5)
        run.signal(signal.SIGTERM)
        assert run.wait().status == -signal.SIGTERM
        os.set_blocking(reader, False)
        with open(reader, "rb") as left:
            lines = (left.read() or b"").split(b"\n")
        for line in lines[:-1]:
            json.loads(line)


def test_a_reader_of_progress_costs_nothing(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """The last report comes after the last line, and may find no reader of either."""
    write_rows(source, make_rows(2))
    command = f"kimi batch --base-url {server.url} {source} --progress json"
    for _ in range(5):
        run = batch.shell(f"bash -o pipefail -c '{command} | head -n 2'").wait()
        assert run.status == 0
        assert run.stdout.count(b"\n") == 2


def test_lines_reach_the_disk_while_others_are_awaited(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once a second, and only where something was written."""
    now, forced = 100.0, []
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr("os.fdatasync", forced.append)
    with Ledger(out) as ledger:
        ledger.append(b"line\n")
        for now, count in ((100.5, 0), (101.0, 1), (101.5, 1), (103.0, 1)):  # noqa: B007
            ledger.settle()
            assert len(forced) == count


def test_few_threads_are_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system allows no more, the run goes on with those it has."""
    start, allowed = threading.Thread.start, [1, 1, 1]

    def start_some(thread: threading.Thread) -> None:
        if not allowed:
            raise RuntimeError("can't start new thread")
        allowed.pop()
        start(thread)

    class Echo:
        def post(self, body: bytes) -> WholeReply:
            time.sleep(0.01)
            text = b'{"choices":[{"message":{"content":"x"},"finish_reason":"stop"}]}'
            headers = HTTPMessage()
            headers["Content-Type"] = "application/json"
            return WholeReply(200, text, headers)

        def abort(self, body: bytes) -> None: ...

        def close(self) -> None: ...

    records = [make_record(n, row, Shape({"model": "m"})) for n, row in enumerate(make_rows(40), 1)]
    lines: list[str] = []
    pace, tally = Pace(cap=16), Tally()
    runner = Runner(
        iter(records), open_channel=cast(Any, Echo), pace=pace, plan=Plan(), tally=tally,
        sink=StdoutSink(lines.append, "flat"),
    )  # fmt: skip
    monkeypatch.setattr("threading.Thread.start", start_some)
    runner.run()
    assert (tally.answered, pace.limit) == (40, 3.0)


def test_a_token_that_is_refused_later_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Whatever the body says of it: 401 speaks of every row, and 77 comes at once."""
    write_rows(source, make_rows(9))
    server.script(completion("good"), *[Reply([b"Unauthorized"], 401)] * 9)
    assert batch(str(source), "-o", str(out), "-c", "1").status == 77
    assert len(server.requests) == 2


def test_a_closed_window_is_one_signal(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """The shell and the system send a SIGHUP each: what is in flight is waited for all the same."""
    write_rows(source, make_rows(2))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "1")
    server.await_requests(1)
    run.signal(signal.SIGHUP)
    run.expect(b"again to leave", "stderr")
    run.signal(signal.SIGHUP)
    time.sleep(0.3)
    gate.set()
    assert run.wait().status == -signal.SIGHUP
    assert list_ids(out) == ["r0"]
