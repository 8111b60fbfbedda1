"""Files as rows, and a file for each answer."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kimi_cli.batch.records import Record, RecordError
from kimi_cli.batch.results import Result, find_text
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.source import Source
from kimi_cli.errors import BadInput, KimiError, MissingInput, OutputFailed
from kimi_cli.prompt.kinds import LONGEST, find_kind
from kimi_cli.prompt.reading import Reading, read_text, show_path
from kimi_cli.system.files import replace_whole

LEDGER = ".kimi-batch.jsonl"
"""The output, in the folder of the answers, of a run that names none."""
TEXT, IMAGE = "text", "image"
"""The fields of a row that hold what is in its file, or name it."""
_SUFFIX = ".txt"


def find_paths(patterns: Sequence[str]) -> list[str]:
    """Return the files that *patterns* name, each once; raises MissingInput for none."""
    found: dict[str, None] = {}
    for pattern in patterns:
        names = [pattern] if os.path.isfile(pattern) else glob.glob(pattern, recursive=True)
        paths = sorted(path for path in names if os.path.isfile(path))
        if not paths:
            raise MissingInput(f"there is no file {pattern}")
        found.update(dict.fromkeys(paths))
    return list(found)


class FileSource(Source):
    """One row a file: its names, and its text or its image."""

    def __init__(self, paths: Sequence[str], reading: Reading, folder: Path | None) -> None:
        """Name the files; *reading* says how each becomes text, answers go to *folder*.

        Raises MissingInput, BadInput where two answers would be one file.
        """
        super().__init__(paths, "lines", longest=reading.limit)
        self._reading = reading
        self._targets = {} if folder is None else name_targets(paths, folder)

    @property
    def targets(self) -> dict[str, Path]:
        """The file that the answer to each row goes to, by its path."""
        return self._targets

    @property
    def total_bytes(self) -> int | None:
        """The size of all files."""
        return sum(stat.st_size for stat in self.stats)

    def locate(self, name: str) -> str:
        """Return *name*: rows have whole paths."""
        return name

    def iterate(self) -> Iterator[Any]:
        """Yield the row of each file, or its RecordError."""
        self.read_bytes = 0
        for path, stat in zip(self._paths, self.stats, strict=True):
            self.read_bytes += stat.st_size
            yield self._read_row(path)

    def _read_row(self, path: str) -> Any:
        shown = show_path(path)
        row = {"id": shown, "path": shown, "name": os.path.basename(shown), "stem": _stem(shown)}
        try:
            with open(path, "rb") as file:
                kind = find_kind(file.read(LONGEST))
            if kind is not None and kind.media_type is not None:
                return {**row, IMAGE: path}
            return {**row, TEXT: read_text(path, self._reading)}
        except OSError as error:
            return RecordError("bad_file", f"cannot read {shown}: {error.strerror}")
        except KimiError as error:
            return RecordError("bad_file", str(error))


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def name_targets(paths: Sequence[str], folder: Path) -> dict[str, Path]:
    """Return the file in *folder* that the answer to each path's row goes to.

    Raises BadInput where two are one, and where one is a file of the input.
    """
    targets: dict[str, Path] = {}
    owners: dict[Path, str] = {}
    inputs = {os.path.realpath(path) for path in paths}
    for path in paths:
        shown = show_path(path)
        target = folder / f"{_stem(shown)}{_SUFFIX}"
        if target in owners:
            raise BadInput(
                f"the answers to {owners[target]} and {shown} would both be {target}; run them "
                "apart, each with an --output-dir of its own"
            )
        if os.path.realpath(target) in inputs:
            raise BadInput(f"{target} is a file of the input; name another --output-dir")
        owners[target] = shown
        targets[shown] = target
    return targets


class FolderSink:
    """Writes each answer to a file of its own as well, before its line."""

    def __init__(self, sink: Sink, targets: Mapping[str, Path]) -> None:
        """Give results on to *sink*; *targets* are files by the paths of their rows."""
        self._sink = sink
        self._targets = targets
        self.defers = sink.defers

    def expect(self, number: int) -> None:
        """Let the sink below do so."""
        self._sink.expect(number)

    @property
    def waiting(self) -> int:
        """Those of the sink below."""
        return self._sink.waiting

    def answer(self, record: Record) -> bool:
        """Let the sink below do so."""
        return self._sink.answer(record)

    def write(self, results: list[Result]) -> None:
        """Write the files of *results*, and their lines; raises OutputFailed."""
        for result in results:
            target = self._targets.get(str(result.record.row.get("path")))
            text = find_text(result)
            if target is not None and text is not None:
                _write(target, text)
        self._sink.write(results)

    def emit(self, lines: bytes) -> None:
        """Let the sink below do so."""
        self._sink.emit(lines)

    def defer(self, result: Result) -> None:
        """Let the sink below do so: an error has no file."""
        self._sink.defer(result)

    def spare(self, result: Result) -> None:
        """Let the sink below do so."""
        self._sink.spare(result)

    def find_block(self) -> str | None:
        """Let the sink below do so."""
        return self._sink.find_block()

    def settle(self) -> str | None:
        """Let the sink below do so."""
        return self._sink.settle()

    def close(self) -> None:
        """Let the sink below do so."""
        self._sink.close()


def _write(target: Path, text: str) -> None:
    try:
        replace_whole(target, text.encode(errors="replace") + b"\n" * (not text.endswith("\n")))
    except OSError as error:
        raise OutputFailed(f"cannot write {target}: {error.strerror}") from error
