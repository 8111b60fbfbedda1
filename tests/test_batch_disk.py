"""kimi batch: full disks, locks, links, modes, and when a line is on the disk."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import rows
from faults import fail_calls
from outputs import read_answers, write_output
from program import Kimi
from rows import echo, hold, list_ids, list_prompts, make_request, make_rows, read_rows, write_rows
from server import Barrier, ReceivedRequest, ReplayServer, Reply

from kimi_cli.batch.ledger import Ledger
from kimi_cli.batch.results import Result, encode_results

batch = rows.echoing


# Full disks and other places that take nothing


def test_a_full_disk_ends_the_buying(batch: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """Exit 74 with the first row that has no room; the same command buys the rest, and that."""
    source, out = write_rows(tmp_path / "in.jsonl", make_rows(30)), tmp_path / "out.jsonl"
    command = f"kimi batch --base-url {server.url} -c 1 {source} -o {out}"
    result = batch.shell(f"ulimit -f 8; exec {command}").wait()
    assert result.status == 74
    assert str(out) in result.error
    kept = out.read_bytes()
    assert kept.endswith(b"\n")
    count = len(list_ids(out))
    assert 1 < count < 30
    assert len(server.requests) == count + 1
    assert batch.shell(f"exec {command}").wait().status == 0
    assert out.read_bytes().startswith(kept)
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))
    assert len(server.requests) == 31


def test_a_disk_too_full_to_rewrite_keeps_the_output(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Where the copy without the failed lines has no room, the old file stays: exit 74."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(30))
    out = write_output(tmp_path / "out.jsonl", make_rows(30), failed={"r7": "transient"})
    before = out.read_bytes()
    command = f"kimi batch --base-url {server.url} {source} -o {out} --retry-failed all"
    assert batch.shell(f"ulimit -f 8; exec {command}").wait().status == 74
    assert out.read_bytes() == before
    assert not server.requests
    assert batch.shell(f"exec {command}").wait().status == 0
    assert list_prompts(server) == ["p7"]
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))


def test_a_copy_that_has_no_room_is_taken_away(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Least of all on a full disk may a part of it stay behind."""
    source, folder = write_rows(tmp_path / "in.jsonl", make_rows(30)), tmp_path / "folder"
    folder.mkdir()
    out = write_output(folder / "out.jsonl", make_rows(30), failed={"r7": "transient"})
    command = f"kimi batch --base-url {server.url} {source} -o {out} --retry-failed all"
    assert batch.shell(f"ulimit -f 8; exec {command}").wait().status == 74
    assert list(folder.iterdir()) == [out]


def test_an_output_that_cannot_be_made_costs_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """A folder that is missing, a device: exit 73, no request."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    outs = (tmp_path / "no" / "out.jsonl", Path("/dev/full"))
    runs = [batch.start(str(source), "-o", str(out)) for out in outs]
    for out, run in zip(outs, runs, strict=True):
        result = run.wait()
        assert result.status == 73
        assert str(out) in result.error
    assert not server.requests
    assert not (tmp_path / "no").exists()


def test_a_read_only_folder_costs_nothing(
    batch: Kimi, server: ReplayServer, tmp_path: Path
) -> None:
    """Exit 73 before any request; root is bound by modes once its privilege is taken away."""
    source, folder = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "folder"
    folder.mkdir()
    folder.chmod(0o555)
    prefix = ""
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere")
        prefix = "setpriv --bounding-set=-dac_override,-dac_read_search "
    out = folder / "out.jsonl"
    command = f"{prefix}kimi batch --base-url {server.url} {source} -o {out}"
    result = batch.shell(f"exec {command}").wait()
    assert result.status == 73
    assert f"cannot open {out}" in result.error
    assert not list(folder.iterdir())
    assert not server.requests


def test_a_full_disk_keeps_what_had_room(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Of rows that finish at once whole lines are kept; the others are told of, and asked again."""
    write_rows(source, make_rows(30))
    gate = threading.Event()

    def answer(request: ReceivedRequest) -> Reply:
        whole = echo(request)
        return whole.but(body=[Barrier(gate), *whole.body])

    server.answer(answer)
    command = f"kimi batch --base-url {server.url} -c 30 {source} -o {out} --summary {summary}"
    run = batch.shell(f"ulimit -f 8; exec {command}")
    server.await_requests(30)
    # While it is stopped all answers come, so that many are written together.
    run.signal(signal.SIGSTOP)
    gate.set()
    threading.Event().wait(0.3)
    run.signal(signal.SIGCONT)
    result = run.wait()
    assert result.status == 74
    assert json.loads(summary.read_text())["sends"] == 30
    kept = out.read_bytes()
    count = len(list_ids(out))
    assert 3 < count < 30
    assert kept.endswith(b"\n")
    told = re.findall(r"every finished row is kept but (\d+) that found no room", result.error)
    assert [1 <= int(lost) <= 30 - count for lost in told] == [True], result.error
    assert batch.shell(f"exec {command}").wait().status == 0
    assert out.read_bytes().startswith(kept)
    assert sorted(list_ids(out)) == sorted(row["custom_id"] for row in make_rows(30))
    assert len(server.requests) == 30 + 30 - count


# Files that are rewritten


def test_an_output_is_locked_while_it_is_rewritten(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--retry-failed: a second run in the middle of it is refused with 75, and one after it."""
    rows = make_rows(4)
    write_output(out, rows, failed={"r0": "transient"})
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    command = (str(write_rows(source, rows)), "-o", str(out), "--retry-failed", "all")
    slow = fail_calls(batch, "fsync", "delay_enter=1500000")
    first = slow.start(*command)
    while not list(out.parent.glob(".kimi-*.tmp")):
        time.sleep(0.01)
    in_the_middle = batch(*command)
    server.await_requests(1)
    afterwards = batch(*command)
    gate.set()
    assert first.wait().status == 0
    for refused in (in_the_middle, afterwards):
        assert refused.status == 75
        assert "being written by another run (process " in refused.error
    assert len(server.requests) == 1
    assert list_ids(out) == ["r1", "r2", "r3", "r0"]


@pytest.mark.parametrize("option", ["--ordered", "--retry-failed=all"])
def test_a_rewritten_output_stays_as_private(batch: Kimi, tmp_path: Path, option: str) -> None:
    """Taking lines out, or sorting, does not open the file to others."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(2))
    out = write_output(tmp_path / "out.jsonl", make_rows(2), failed={"r1": "permanent"})
    out.chmod(0o600)
    assert batch(str(source), "-o", str(out), option).status == (4 if option == "--ordered" else 0)
    assert list_ids(out) == ["r0", "r1"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_rewritten_output_may_be_a_link(batch: Kimi, tmp_path: Path) -> None:
    """The file that a symbolic link leads to is the output, also when lines are taken out."""
    source, real = write_rows(tmp_path / "in.jsonl", make_rows(2)), tmp_path / "real.jsonl"
    write_output(real, make_rows(2), failed={"r1": "permanent"})
    link = tmp_path / "link.jsonl"
    link.symlink_to(real)
    assert batch(str(source), "-o", str(link), "--retry-failed", "all").status == 0
    assert link.is_symlink()
    assert read_answers(real) == {"r0": "bought before", "r1": "re: p1"}


# On the disk


@pytest.mark.parametrize(
    ("sync", "forced", "at_end"), [("never", 0, 0), ("interval", 2, 1), ("always", 6, 1)]
)
def test_lines_are_forced_to_disk(
    monkeypatch: pytest.MonkeyPatch, out: Path, sync: str, forced: int, at_end: int
) -> None:
    """Never, once a second, or each time; and at the end but for never."""
    now, calls = [100.0], {"fdatasync": 0, "fsync": 0}

    def count(name: str) -> Any:
        return lambda descriptor: calls.update({name: calls[name] + 1})

    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("os.fdatasync", count("fdatasync"))
    monkeypatch.setattr("os.fsync", count("fsync"))
    with Ledger(out, sync=sync) as ledger:
        for number in range(6):
            now[0] += 0.4
            ledger.append(encode_results([Result(make_request(number))], "flat"))
    assert calls == {"fdatasync": forced, "fsync": at_end}


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


def test_fsync_changes_no_byte(batch: Kimi, tmp_path: Path) -> None:
    """Never, each second or each time: the same lines, but for how long they took."""
    source = write_rows(tmp_path / "in.jsonl", make_rows(5))
    outs = {when: tmp_path / f"{when}.jsonl" for when in ("never", "interval", "always")}
    runs = [
        batch.start(str(source), "-o", str(out), "-c", "1", "--fsync", when)
        for when, out in outs.items()
    ]
    assert [run.wait().status for run in runs] == [0, 0, 0]
    seen = set()
    for out in outs.values():
        rows = read_rows(out)
        assert [row["kimi"].pop("ms") >= 0 for row in rows] == [True] * 5
        seen.add(json.dumps(rows))
    assert len(seen) == 1
