"""Answers for the partitions of an engine: one function for Spark, Dask and Ray.

    ask = answers(prompt="Is this kind? {text}", ledger="/shared/answers", share=8)
    spark_frame.mapInPandas(ask, ask.describe("text string"))
    dask_frame.map_partitions(ask, meta=ask.extend(dask_frame._meta))
    ray_dataset.map_batches(ask, batch_format="pandas")

Each partition is given to one process of the real program, and each row comes back with its answer
in columns behind its own, in its place. What is wrong with a row is in those columns; what concerns
every row raises ``AnswersFailed`` with the program's words, and the task fails.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

COLUMNS: Mapping[str, tuple[str, str, Any]] = {
    "": ("content", "string", ""),
    "_status": ("status", "string", ""),
    "_error_code": ("error_code", "string", ""),
    "_error": ("error", "string", ""),
    "_reasoning": ("reasoning", "string", ""),
    "_finish_reason": ("finish_reason", "string", ""),
    "_prompt_tokens": ("prompt_tokens", "bigint", 0),
    "_completion_tokens": ("completion_tokens", "bigint", 0),
    "_cost": ("cost", "double", 0.0),
}
"""What follows the column's name, the cell of ``--format table``, its SQL type, and its empty."""
_KINDS = {"string": "object", "bigint": "int64", "double": "float64"}
_PACE = frozenset(
    ("concurrency", "rpm", "tpm", "retries", "timeout", "connect_timeout", "max_wait", "deadline")
)
"""Options that change no answer: a partition is known again whatever they say."""
_OURS = frozenset(
    ("output", "o", "format", "ordered", "id_field", "id_prefix", "shard", "csv", "lines")
)
_WHOLE, _LEFT = (0, 4), 75
_HELD = "by another run"
_WAIT = 1.0

Row = Mapping[str, Any]


class AnswersFailed(RuntimeError):
    """What concerns every row: the text is the program's last line."""

    def __init__(self, message: str, status: int) -> None:
        """Keep the exit *status* of the program, or minus the signal that ended it."""
        super().__init__(message, status)
        self.status = status

    def __str__(self) -> str:
        """Return the message alone."""
        return str(self.args[0])


def answers(
    prompt: str | None = None,
    *,
    column: str = "answer",
    ledger: str | os.PathLike[str] | None = None,
    share: int = 1,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "kimi_cli"),
    **options: Any,
) -> Answers:
    """Return what answers the rows of a partition, whatever an engine hands it as.

    *prompt* is a template; without one, rows have a ``prompt`` or ``messages``. *column* is the
    name of the answer's column, which the others begin with. With *ledger*, a folder that all
    workers see, a partition that is run again buys nothing twice. *share* is the number of
    processes that run at once. *env* has variables besides the worker's own. Any other option of
    ``kimi batch`` goes by its name, as in ``max_tokens=9`` or ``schema={...}``; raises TypeError
    for those that are decided here.
    """
    if wrong := sorted(_OURS & options.keys()):
        raise TypeError(f"answers() decides {', '.join(wrong)} itself")
    if prompt is not None:
        options["prompt"] = prompt
    place = None if ledger is None else os.fspath(ledger)
    return Answers(column, place, share, dict(env or {}), tuple(program), options)


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers partitions; it can be pickled, and called with any of their shapes."""

    column: str
    ledger: str | None
    share: int
    env: Mapping[str, str]
    program: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, part: Any) -> Any:
        """Answer one partition: a frame, a dict of columns, a list of rows, or an iterator.

        An iterator gives frames or rows, and so does what is returned for it.
        """
        if _is_frame(part):
            return next(self._answer_frames([part]))
        if isinstance(part, Mapping):
            return self._answer_columns(part)
        if isinstance(part, Sequence):
            return list(self._answer_rows(part))
        return self._answer_stream(iter(part))

    @property
    def names(self) -> dict[str, str]:
        """The names of the columns that are added, with their types in SQL."""
        return {self.column + end: kind for end, (_, kind, _) in COLUMNS.items()}

    def describe(self, own: str = "") -> str:
        """Return the schema of Spark for rows of the schema *own*."""
        added = [f"`{name}` {kind}" for name, kind in self.names.items()]
        return ", ".join(filter(None, [own, *added]))

    def extend(self, frame: Any) -> Any:
        """Return an empty *frame* with the columns that are added: what Dask calls meta."""
        return self._attach(frame.iloc[:0], [])

    def _answer_stream(self, parts: Iterator[Any]) -> Iterator[Any]:
        given = list(parts)
        if given and _is_frame(given[0]):
            yield from self._answer_frames(given)
        else:
            yield from self._answer_rows(given)

    def _answer_frames(self, frames: Sequence[Any]) -> Iterator[Any]:
        rows = (row for frame in frames for row in frame.to_dict("records"))
        cells = self._ask(rows)
        for frame in frames:
            yield self._attach(frame, [next(cells) for _ in range(len(frame))])

    def _answer_rows(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        for row, cells in zip(rows, self._ask(rows), strict=True):
            yield {**row, **cells}

    def _answer_columns(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        rows = [
            dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)
        ]
        cells = list(self._ask(rows))
        return {**columns, **{name: [cell[name] for cell in cells] for name in self.names}}

    def _attach(self, frame: Any, cells: list[dict[str, Any]]) -> Any:
        """Put *cells* beside the rows of a *frame*; each column has its type, also without rows."""
        pd: Any = import_module("pandas")  # whoever has a frame has it

        added = {
            name: pd.Series([cell[name] for cell in cells], index=frame.index, dtype=_KINDS[kind])
            for name, kind in self.names.items()
        }
        return frame.assign(**added)

    def _ask(self, rows: Iterable[Row]) -> Iterator[dict[str, Any]]:
        """Yield the cells of each row, in order."""
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kimi-")))
            source = folder / "rows.jsonl"
            count, digest = _write_rows(source, rows)
            if not count:
                return
            lines = (
                self._run_filter(source, folder / "answers.jsonl")
                if self.ledger is None
                else self._run_ledger(source, Path(self.ledger) / f"{self._name(digest)}.jsonl")
            )
            found = [False] * count
            table: list[dict[str, Any]] = [{}] * count
            for line in lines:
                number = int(line["custom_id"])
                found[number] = True
                table[number] = self._pick(line)
            if not all(found):
                missing = found.count(False)
                raise AnswersFailed(f"{missing} of {count} rows have no line of output", _LEFT)
            yield from table

    def _pick(self, line: Row) -> dict[str, Any]:
        return {self.column + end: line[name] for end, (name, _, _) in COLUMNS.items()}

    def _name(self, digest: str) -> str:
        """Name a partition by its rows and by what changes their answers."""
        told = {name: value for name, value in self.options.items() if name not in _PACE}
        text = json.dumps(told, sort_keys=True, default=str)
        return hashlib.blake2b(f"{digest}{text}".encode(), digest_size=16).hexdigest()

    def _run_filter(self, source: Path, output: Path) -> Iterator[dict[str, Any]]:
        with open(output, "wb") as file:
            status, words = self._run([str(source)], stdout=file)
        if status not in _WHOLE:
            raise AnswersFailed(words, status)
        yield from _read_lines(output)

    def _run_ledger(self, source: Path, output: Path) -> Iterator[dict[str, Any]]:
        """Run to a file, or wait for who does; rows that are left are errors until the next run."""
        output.parent.mkdir(parents=True, exist_ok=True)
        status, words = self._run([str(source), "-o", str(output)])
        while status == _LEFT and _HELD in words:
            time.sleep(_WAIT)
            status, words = self._run([str(source), "-o", str(output)])
        left = output.with_name(f"{output.name}.errors")
        if status not in _WHOLE and not (status == _LEFT and left.exists()):
            raise AnswersFailed(words, status)
        if status == _LEFT:
            yield from _read_lines(left)
        yield from _read_lines(output)

    def _run(self, arguments: Sequence[str], stdout: Any = subprocess.DEVNULL) -> tuple[int, str]:
        """Run the program; return its exit status and its last words."""
        command = [*self.program, "batch", "--progress", "none", "--format", "table"]
        command += ["--share", str(self.share), *_name_options(self.options), *arguments]
        environment = {**os.environ, **self.env}
        done = subprocess.run(  # noqa: S603 - the program is ours, or was named
            command,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            env=environment,
        )
        words = done.stderr.decode(errors="replace").strip().splitlines()
        last = re.sub(r"\Akimi: ", "", words[-1]) if words else "the program said nothing"
        return done.returncode, last


def _is_frame(part: Any) -> bool:
    return hasattr(part, "to_dict") and hasattr(part, "assign")


def _write_rows(source: Path, rows: Iterable[Row]) -> tuple[int, str]:
    """Write *rows* as JSON Lines, named by their places; return their number and hash."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    with open(source, "wb") as file:
        for count, row in enumerate(rows, 1):
            own = {str(key): _clean(value) for key, value in row.items()}
            line = json.dumps({**own, "custom_id": str(count - 1)}, ensure_ascii=False)
            data = line.encode("utf-8", "surrogatepass") + b"\n"
            digest.update(data)
            file.write(data)
    return count, digest.hexdigest()


def _clean(value: Any) -> Any:
    """Return a cell of a frame as JSON has it: no NaN, no type of NumPy's."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if isinstance(value, Mapping):
        return {str(key): _clean(cell) for key, cell in value.items()}
    if isinstance(value, (list, tuple)):
        return [_clean(cell) for cell in value]
    if hasattr(value, "tolist"):  # a scalar or an array of NumPy
        return _clean(value.tolist())
    if isinstance(value, bytes):
        return value.decode()
    return None if str(value) in ("NaT", "<NA>") else str(value)


def _name_options(options: Mapping[str, Any]) -> Iterator[str]:
    """Yield options of the program for those of Python."""
    for name, value in options.items():
        if value is None or value is False:
            continue
        option = f"--{name.replace('_', '-')}"
        for one in value if isinstance(value, (list, tuple)) else [value]:
            text = json.dumps(one) if isinstance(one, Mapping) else one
            yield option if one is True else f"{option}={text}"


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)
