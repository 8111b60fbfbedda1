"""Read the tables of table.py with every reader and its defaults; exit 1 where one errs.

    python tools/read.py FOLDER

Each has to find all rows and ids, the late error, the cut answer, the reasoning and the tokens.
What a reader makes of ids that all look like numbers, or like dates, is told, and whether the
option that kimi-batch(1) names for it helps.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from table import COUNT, CUT, LATE, ODD, REFUSED

Row = dict[str, Any]
Reader = Callable[[Path], list[Row]]


def read_with_pandas(path: Path, **options: Any) -> list[Row]:
    """Read with pandas."""
    import pandas as pd

    return pd.read_json(path, lines=True, **options).to_dict("records")


def read_with_polars(path: Path) -> list[Row]:
    """Read with polars."""
    import polars as pl

    return pl.read_ndjson(path).to_dicts()


def read_with_pyarrow(path: Path, schema: str | None = None) -> list[Row]:
    """Read with pyarrow; *schema* names a column of text."""
    import pyarrow as pa
    import pyarrow.json as pj

    told = None if schema is None else pa.schema([(schema, pa.string())])
    return pj.read_json(path, parse_options=pj.ParseOptions(explicit_schema=told)).to_pylist()


def read_with_duckdb(path: Path, **options: Any) -> list[Row]:
    """Read with DuckDB."""
    import duckdb

    table = duckdb.read_json(str(path), **options)
    return [dict(zip(table.columns, row, strict=True)) for row in table.fetchall()]


def read_with_datasets(path: Path) -> list[Row]:
    """Read with Hugging Face's datasets."""
    import datasets

    cache = path.parent / f"cache-{path.stem}"
    shutil.rmtree(cache, ignore_errors=True)
    files = {"data_files": str(path), "split": "train", "cache_dir": str(cache)}
    return list(datasets.load_dataset("json", **files))


def read_with_sqlite_utils(path: Path) -> list[Row]:
    """Read with sqlite-utils, through a database."""
    import sqlite3

    database = path.with_suffix(".db")
    database.unlink(missing_ok=True)
    command = [sys.executable, "-m", "sqlite_utils", "insert", str(database), "answers"]
    subprocess.run([*command, str(path), "--nl"], check=True, stdout=subprocess.DEVNULL)
    connection = sqlite3.connect(database)
    connection.row_factory = sqlite3.Row
    return [dict(row) for row in connection.execute("select * from answers")]


def read_with_miller(path: Path) -> list[Row]:
    """Read with Miller, through CSV: a second header would be a row."""
    import csv
    import io

    command = ["mlr", "--ijsonl", "--ocsv", "cat", str(path)]
    done = subprocess.run(command, capture_output=True, check=True, text=True)
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    numbers = ("row", "prompt_tokens", "completion_tokens", "cached_tokens")
    return [{k: int(v) if k in numbers else v for k, v in row.items()} for row in rows]


def read_with_jq(path: Path) -> list[Row]:
    """Read with jq."""
    done = subprocess.run(["jq", "-c", ".", str(path)], capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


READERS: dict[str, Reader] = {
    "pandas": read_with_pandas,
    "polars": read_with_polars,
    "pyarrow": read_with_pyarrow,
    "duckdb": read_with_duckdb,
    "datasets": read_with_datasets,
    "sqlite-utils": read_with_sqlite_utils,
    "miller": read_with_miller,
    "jq": read_with_jq,
}
TEXT: dict[str, Reader] = {
    "pandas": lambda path: read_with_pandas(path, dtype={"custom_id": str}),
    "pyarrow": lambda path: read_with_pyarrow(path, "custom_id"),
    "duckdb": lambda path: read_with_duckdb(path, columns=name_types(path)),
}
"""The option that keeps ids as they are, where a reader has another idea by itself, and one."""


def name_types(path: Path) -> dict[str, str]:
    """Return the type of each column as DuckDB names it."""
    first = json.loads(path.open().readline())
    kinds = {str: "VARCHAR", int: "BIGINT", float: "DOUBLE"}
    return {name: kinds[type(cell)] for name, cell in first.items()}


def find_faults(rows: list[Row]) -> list[str]:
    """Return what is not as it was written."""
    wanted = {
        "rows": (len(rows), COUNT),
        "ids": ([str(row["custom_id"]) for row in rows[-len(ODD) :]], list(ODD)),
        "order": ([row["row"] for row in rows[:3]], [1, 2, 3]),
        "errors": (find(rows, "error", ""), [REFUSED]),
        "codes": (find(rows, "error_code", ""), [REFUSED]),
        "statuses": (find(rows, "status", "ok"), [CUT, REFUSED]),
        "reasoning": (find(rows, "reasoning", ""), [LATE]),
        "cached": (find(rows, "cached_tokens", 0), [LATE]),
        "carried": (find(rows, "carried", ""), [LATE]),
        "tokens": (sum(row["completion_tokens"] for row in rows), 5 * (COUNT - 1)),
        "content": (rows[1]["content"], '2, "quoted"\n'),
        "separators": (rows[LATE - 1]["reasoning"], "hm\u2028hm"),
    }
    return [f"{what}: {found!r}" for what, (found, right) in wanted.items() if found != right]


def find(rows: list[Row], name: str, usual: Any) -> list[int]:
    """Return the numbers of rows in which a cell is not as usual."""
    return [row["row"] for row in rows if row[name] != usual]


def main() -> int:
    """Read; tell what each reader made of it."""
    folder, status = Path(sys.argv[1]), 0
    for name, read in READERS.items():
        program = {"miller": "mlr", "jq": "jq"}.get(name)
        if program is not None and shutil.which(program) is None:
            print(f"{name}: passed over, it is not installed")
            continue
        try:
            faults = find_faults(read(folder / "table.jsonl"))
        except Exception as error:
            faults = [f"{type(error).__name__}: {str(error)[:200]}"]
        status |= bool(faults)
        print(f"{name}: {'; '.join(faults) or 'right'}")
        for kind, first in (("numbers", "0000"), ("dates", "2026-11-01")):
            path = folder / f"{kind}.jsonl"
            found = read(path)[0]["custom_id"]
            if found == first:
                continue
            if name not in TEXT:
                print(f"{name}: {kind}: {first} is {found!r}, and there is no option")
                continue
            mended = TEXT[name](path)[0]["custom_id"]
            print(f"{name}: {kind}: {first} is {found!r}, with its option {mended!r}")
            status |= mended != first
    return status


if __name__ == "__main__":
    sys.exit(main())
