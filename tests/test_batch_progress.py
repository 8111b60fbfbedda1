"""kimi batch: bars, lines and JSON that tell how a run goes."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import rows
from program import Kimi
from rows import FAILED, FORBIDDEN, echo, hold, make_rows, write_input, write_rows
from server import ReplayServer, Reply, Wait, completion

from kimi_cli.batch.progress import LogProgress
from kimi_cli.batch.tally import Tally

batch = rows.echoing


def test_a_bar_is_drawn_and_removed(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """On a terminal, on stderr alone; what is left there is the line of figures."""
    ids = write_input(source, 3)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), "--progress", "bar", stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == 0
    assert sorted(json.loads(line)["custom_id"] for line in result.stdout.splitlines()) == ids
    *_, drawn, last = (part for part in result.stderr.split(b"\r") if part)
    assert len(drawn) >= 78
    assert drawn.isspace()
    assert last.startswith(b"kimi: 3 answered; 0 failed; ")
    assert result.stderr.count(b"\n") == 1


def test_a_bar_has_all_its_figures(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """As many as 80 columns hold beside a bar, and none in part."""
    write_input(source, 1)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), "--progress", "bar", stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    gate.set()
    shown = run.wait().stderr.rpartition(b"\r")[0]
    assert b" rows/s, 1/16, the last answers\r" in shown


def test_a_line_among_bars_is_a_line(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """A status line, or the words of a signal, begin at the left."""
    write_input(source, 1)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.pty(str(source), "--progress", "bar", stdout="pipe")
    run.expect(b"0 done, 0 errors", "stderr")
    run.signal(signal.SIGUSR1)
    before = run.expect(b"kimi: 0 done", "stderr").removesuffix(b"kimi: 0 done")
    gate.set()
    assert run.wait().status == 0
    assert before.endswith((b"\r", b"\n"))


KEYS = [
    "done", "errors", "retries", "in_flight", "limit", "rows_per_second", "tokens_per_second",
    "tokens", "cost", "currency", "eta_seconds", "limited_by",
]  # fmt: skip
"""What the manual says of --progress json."""


def test_progress_for_machines(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """An object a second of the documented keys, whose figures are right."""
    write_input(source, 5)
    gate = threading.Event()
    server.script(completion("first"), FORBIDDEN, FAILED)
    server.answer(lambda request: hold(gate, echo(request)))
    options = ("-c", "2", "--retries", "0", "--progress", "json")
    run = batch.start(str(source), "-o", str(out), *options)
    line = run.expect(b"\n", "stderr")
    gate.set()
    result = run.wait()
    assert result.status == 75
    figures = json.loads(line)
    assert list(figures) == KEYS
    assert figures["done"] == 2
    assert figures["errors"] == 2
    assert figures["in_flight"] == figures["limit"] == 2
    assert figures["rows_per_second"] > 0
    assert figures["tokens_per_second"] > 0
    assert isinstance(figures["limited_by"], str)
    *reports, _tally, _reason = result.error.splitlines()
    assert all(list(json.loads(report)) == KEYS for report in reports)


def test_progress_is_not_what_was_read(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """While no row is answered, the end is not near; a row that is not sent is no retry."""
    write_input(source, 3)
    source.write_bytes(b"{torn\n" * 3 + source.read_bytes())
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    run = batch.start(str(source), "-o", str(out), "--progress", "json")
    figures = json.loads(run.expect(b"\n", "stderr"))
    gate.set()
    assert run.wait().status == 4
    assert figures["eta_seconds"] != 0
    assert figures["retries"] == 0


def slow(reply: Reply) -> Reply:
    """Keep the body of *reply* back for a moment."""
    return reply.but(body=[Wait(0.2), *reply.body])


def test_rows_done_before_hasten_no_end(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """A run that goes on is as fast as its own rows, not as those that it skipped."""
    write_input(source, 200)
    server.answer(echo)
    assert batch(str(source), "-o", str(out), "-q").status == 0
    write_input(source, 240)
    server.answer(lambda request: slow(echo(request)))
    run = batch.start(str(source), "-o", str(out), "-c", "1", "--progress", "json")
    figures = json.loads(run.expect(b"\n", "stderr"))
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    assert figures["done"] > 200
    assert figures["eta_seconds"] > 0


def test_json_progress_has_a_last_line(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """Of the shortest run, too; the summary follows."""
    write_input(source, 2)
    server.answer(echo)
    result = batch(str(source), "--progress", "json")
    line, summary = result.error.splitlines()
    figures = json.loads(line)
    assert list(figures) == KEYS
    assert (figures["done"], figures["errors"], figures["in_flight"]) == (2, 0, 0)
    assert summary.startswith("kimi: 2 answered")


def test_the_limit_that_was_set_is_told(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """What holds the rows back is named: here --rpm."""
    write_input(source, 3)
    server.answer(echo)
    run = batch.start(str(source), "--rpm", "1", "--format", "text")
    run.expect(b'"re: p0"\n')
    run.signal(signal.SIGUSR1)
    line = run.expect(b"\n", "stderr")
    run.signal(signal.SIGTERM)
    assert run.wait().status == -signal.SIGTERM
    assert b"limited by start" not in line


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_short_run_says_one_line(
    batch: Kimi, server: ReplayServer, source: Path, kind: str
) -> None:
    """Where nobody looks on, only the figures at the end are told; -q silences them."""
    write_input(source, 2)
    server.answer(echo)
    result = batch(str(source), "--progress", kind)
    assert result.status == 0
    assert result.error.startswith("kimi: 2 answered; 0 failed; 0 done before; 2 requests; ")
    assert result.error.count("\n") == 1
    quiet = batch(str(source), "--progress", kind, "-q")
    assert (quiet.status, quiet.stderr) == (0, b"")
    assert quiet.stdout.count(b"\n") == 2


def test_a_bar_is_silenced(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """-q leaves a terminal empty, too; so does --progress none but for the figures."""
    write_input(source, 2)
    server.answer(echo)
    assert batch.pty(str(source), "-q", stdout="pipe").wait().stderr == b""
    shown = batch.pty(str(source), "--progress", "none", stdout="pipe").wait().stderr
    assert shown.startswith(b"kimi: 2 answered; ")
    assert shown.count(b"\n") == 1


def test_a_log_has_a_line_each_half_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """In virtual time."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    lines: list[str] = []
    terminal: Any = SimpleNamespace(warn=lines.append)
    source: Any = SimpleNamespace(read_bytes=50, total_bytes=200)
    tally = Tally(read=103, answered=60, failed=1, deferred=2, skipped=40, sends=75)
    runner: Any = SimpleNamespace(
        tally=tally, in_flight=5, limit=8, explain_limit=lambda: "concurrency 8"
    )
    log = LogProgress(terminal, source)
    counts = []
    for now in (1010.0, 1029.9, 1030.0, 1059.0, 1061.0, 1090.0):  # noqa: B007 - the clock
        log.tick(runner)
        counts.append(len(lines))
    assert counts == [0, 0, 1, 1, 2, 2]
    assert lines[0].startswith("101 done, 3 errors, ")
    assert ", 5 in flight (limit 8), 2.0 rows/s, 0.0 tokens/s, 147 s to go; " in lines[0]
    assert lines[0].endswith("limited by concurrency 8")


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
