"""The recipes of databases and data frames, run as printed: every id comes back as it went.

SQLite is everywhere; the others are heavy to install, and ``make recipes`` does it.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import pytest
from conftest import CANARY
from program import Kimi, Result
from rows import echo
from server import ReplayServer
from test_recipes import PAGE, find_block, require

IDS = ["0071", "2026-11-01", "1e5", "00", "a,b", 'say "é"']
TEXTS = ["It broke", "two\nlines", "a, b", 'a "quote"', "漢字", "-1"]
PAIRS = {name: f"re: {text}" for name, text in zip(IDS, TEXTS, strict=True)}


@pytest.fixture
def variables(kimi: Kimi, server: ReplayServer) -> dict[str, str]:
    """What tells the program of the server, which echoes."""
    server.answer(echo)
    path = f"{Path(sys.executable).parent}:{kimi.environment['PATH']}"
    return {"KIMI_BASE_URL": server.url, "KIMI_TOKEN": CANARY, "PATH": path}


def write_csv(home: Path) -> None:
    """The rows as a table."""
    import csv

    with open(home / "reviews.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "text"), *zip(IDS, TEXTS, strict=True)])


def run_python(kimi: Kimi, variables: dict[str, str], block: str, home: Path) -> Result:
    """Run a block of Python, and print the pairs that it ends with."""
    ending = "print(json.dumps({r['id']: r['content'] for r in both.%s}))" % (
        "to_dict('records')" if "pandas" in block else "to_dicts()"
    )
    (home / "recipe.py").write_text(f"import json\n{block}\n{ending}\n")
    return kimi.shell("python recipe.py", env=variables).wait(50)


def test_sqlite(kimi: Kimi, variables: dict[str, str], home: Path) -> None:
    """Out by json_object, back by .import."""
    for tool in ("sqlite3", "jq"):
        require(tool)
    with closing(sqlite3.connect(home / "reviews.db")) as database, database:
        database.execute("create table reviews (id text, text text)")
        rows = list(zip(IDS, TEXTS, strict=True))
        database.executemany("insert into reviews values (?, ?)", rows)
    ran = kimi.shell(find_block(PAGE, "sqlite3"), env=variables).wait(50)
    assert ran.status == 0, ran.error
    with closing(sqlite3.connect(home / "reviews.db")) as database:
        assert dict(database.execute("select id, content from answers")) == PAIRS


def test_duckdb(kimi: Kimi, variables: dict[str, str], home: Path) -> None:
    """Out by COPY to /dev/stdout, back by read_json with the types of its columns."""
    if shutil.which("duckdb", path=variables["PATH"]) is None:
        pytest.skip("needs duckdb: make recipes")
    write_csv(home)
    made = "CREATE TABLE reviews AS FROM read_csv('reviews.csv', all_varchar = true, header = true)"
    assert kimi.shell(f'duckdb reviews.duckdb -c "{made}"', env=variables).wait(50).status == 0
    ran = kimi.shell(find_block(PAGE, "duckdb"), env=variables).wait(50)
    assert ran.status == 0, ran.error
    shown = kimi.shell(
        'duckdb reviews.duckdb -json -c "SELECT id, content FROM answers"', env=variables
    ).wait(50)
    assert {row["id"]: row["content"] for row in json.loads(shown.stdout)} == PAIRS


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_data_frames(kimi: Kimi, variables: dict[str, str], home: Path, library: str) -> None:
    """Out as JSON Lines of text, back by a join."""
    if find_spec(library) is None:
        pytest.skip(f"needs {library}: make recipes")
    write_csv(home)
    ran = run_python(kimi, variables, find_block(PAGE, f"import {library}"), home)
    assert ran.status == 0, ran.error
    assert json.loads(ran.stdout) == PAIRS
