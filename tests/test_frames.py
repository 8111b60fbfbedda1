"""kimi_cli.frames: the partitions of an engine, as the engines hand them, with real processes."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from rows import FAILED, REFUSED, answer_but, echo, list_prompts
from server import ReplayServer, refusal

from kimi_cli.frames import Answers, AnswersFailed, answers

ROWS = [
    {"id": "x", "text": "one\ntwo", "n": 1},
    {"id": "x", "text": "three\u2028four", "n": None},
    {"id": None, "text": "five", "n": float("nan")},
]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's environment: a home of its own, and a token."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KIMI_TOKEN", CANARY)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def make(server: ReplayServer, **more: Any) -> Answers:
    """Return what answers by the server."""
    return answers(prompt="{text}", base_url=server.url, **more)


def test_rows_keep_their_places_and_cells(home: Path, server: ReplayServer) -> None:
    """Ids that come twice, line feeds and U+2028 in cells, and missing values change nothing."""
    server.answer(echo)
    found = make(server)(ROWS)
    assert [row["answer"] for row in found] == [f"re: {row['text']}" for row in ROWS]
    assert [row["text"] for row in found] == [row["text"] for row in ROWS]
    assert {row["answer_status"] for row in found} == {"ok"}
    assert list(found[0])[:4] == ["id", "text", "n", "answer"]
    assert isinstance(found[0]["answer_completion_tokens"], int)


def test_every_shape_of_a_partition_comes_back_as_it_was(home: Path, server: ReplayServer) -> None:
    """A list, an iterator, and a dict of columns; an empty one starts no process."""
    server.answer(echo)
    ask = make(server, column="kind", max_tokens=9)
    assert [row["kind"] for row in ask(iter(ROWS))] == [row["kind"] for row in ask(ROWS)]
    columns = ask({"text": ["a", "b"]})
    assert columns["kind"] == ["re: a", "re: b"]
    assert columns["kind_error"] == ["", ""]
    broken = answers(prompt="{text}", program=("/nowhere",))
    assert broken([]) == []
    assert list(broken(iter([]))) == []
    assert broken({"text": []})["answer"] == []
    assert server.requests[-1].json["max_tokens"] == 9


def test_errors_are_columns(home: Path, server: ReplayServer, tmp_path: Path) -> None:
    """A refused row, and one whose attempts ran out, say so beside the others."""
    answer_but(server, bad=REFUSED, late=FAILED)
    table = [{"text": text} for text in ("good", "bad", "late", "fine")]
    for more in ({}, {"ledger": tmp_path / "ledger"}):
        found = make(server, retries=0, concurrency=1, **more)(table)
        assert [row["answer_status"] for row in found] == ["ok", "failed", "failed", "ok"]
        assert "too long" in found[1]["answer_error"]
        assert found[1]["answer"] == ""


@pytest.mark.parametrize("has_ledger", [False, True])
def test_what_concerns_every_row_fails_the_task(
    home: Path, server: ReplayServer, tmp_path: Path, has_ledger: bool
) -> None:
    """With the program's words and its status."""
    server.answer(lambda request: refusal(401, "invalid_authentication_error", "no such token"))
    more = {"ledger": tmp_path / "ledger"} if has_ledger else {}
    with pytest.raises(AnswersFailed, match="no such token") as raised:
        make(server, **more)(ROWS)
    assert raised.value.status == 77
    assert CANARY not in str(raised.value)
    assert pickle.loads(pickle.dumps(raised.value)).status == 77


def test_a_wrong_template_fails_the_task(home: Path, server: ReplayServer) -> None:
    """Rows that all lack a field are a mistake in the call."""
    with pytest.raises(AnswersFailed, match="nothing"):
        answers(prompt="{nothing}", base_url=server.url)(ROWS)
    assert not server.requests


def test_options_that_are_decided_here_are_refused() -> None:
    """Before anything runs, by their names."""
    with pytest.raises(TypeError, match="format, output"):
        answers(output="x", format="text")


def test_a_partition_that_is_run_again_buys_nothing(
    home: Path, server: ReplayServer, tmp_path: Path
) -> None:
    """By a retry, by a second action, or by another pace; other rows or another prompt do."""
    server.answer(echo)
    ledger = tmp_path / "shared" / "ledger"
    first = make(server, ledger=ledger)(ROWS)
    again = make(server, ledger=ledger, share=4, concurrency=2)(iter(ROWS))
    assert [row["answer"] for row in again] == [row["answer"] for row in first]
    assert len(server.requests) == 3
    make(server, ledger=ledger, max_tokens=5)(ROWS)
    make(server, ledger=ledger)(ROWS[:1])
    assert len(server.requests) == 7


def test_two_attempts_at_once_buy_once(home: Path, server: ReplayServer, tmp_path: Path) -> None:
    """As an engine speculates: the second waits for the first, and has its answers."""
    gate, found = threading.Event(), []
    server.answer(lambda request: (gate.wait(20), echo(request))[1])
    ask = make(server, ledger=tmp_path)
    threads = [threading.Thread(target=lambda: found.append(ask(ROWS))) for _ in range(2)]
    for thread in threads:
        thread.start()
    server.await_requests(3)
    gate.set()
    for thread in threads:
        thread.join(60)
    assert [len(rows) for rows in found] == [3, 3]
    assert len(list_prompts(server)) == 3


def test_what_answers_can_be_sent_to_a_worker(home: Path, server: ReplayServer) -> None:
    """It is pickled with its options."""
    server.answer(echo)
    ask = pickle.loads(pickle.dumps(make(server, env={"KIMI_MODEL": "kimi-k2.6"})))
    assert ask(ROWS)[0]["answer"] == "re: one\ntwo"
    assert server.requests[0].json["model"] == "kimi-k2.6"


def test_a_schema_of_spark_names_the_columns() -> None:
    """With their types, behind the row's own."""
    described = answers().describe("text string")
    assert described.startswith("text string, `answer` string, `answer_status` string")
    assert "`answer_cost` double" in described


def test_a_frame_keeps_its_index_and_types(home: Path, server: ReplayServer) -> None:
    """Frames come back as frames, in an iterator or alone, and an empty one with all columns."""
    pd = pytest.importorskip("pandas")
    server.answer(echo)
    ask = make(server)
    frame = pd.DataFrame({"text": ["a", "b", "c"], "n": [1, 2, None]}, index=[5, 7, 9])
    answered = ask(frame)
    assert list(answered.index) == [5, 7, 9]
    assert list(answered["answer"]) == ["re: a", "re: b", "re: c"]
    assert answered["answer_prompt_tokens"].dtype == "int64"
    parts = list(ask(iter([frame.iloc[:1], frame.iloc[:0], frame.iloc[1:]])))
    assert [list(part["answer"]) for part in parts] == [["re: a"], [], ["re: b", "re: c"]]
    empty = ask.extend(frame)
    assert len(empty) == 0
    assert dict(empty.dtypes) == dict(answered.dtypes)


def test_it_is_loaded_without_any_engine() -> None:
    """Neither pandas nor the program is imported with it."""
    code = "import sys, kimi_cli.frames; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", f"import json; {code}"], capture_output=True, check=True
    )
    assert not {"pandas", "click", "kimi_cli.cli"} & set(json.loads(done.stdout))
