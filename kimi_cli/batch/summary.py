"""The final figures of a run as a file: whole, or as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kimi_cli.batch.tally import Tally
from kimi_cli.errors import CannotCreate
from kimi_cli.system.files import check_place, replace_whole


@contextmanager
def summed_up(path: Path | None, tally: Tally, redact: Callable[[str], str]) -> Iterator[None]:
    """Write the figures however the run ends, but for a run that did not begin.

    A wrong name is told before it costs: raises CannotCreate.
    """
    if path is None:
        yield
        return
    with _creating(path):
        check_place(path)
    try:
        yield
    except BaseException:
        if tally.read:
            with contextlib.suppress(CannotCreate):
                _write(path, redact(tally.dump()))
        raise
    _write(path, redact(tally.dump()))


def _write(path: Path, text: str) -> None:
    with _creating(path):
        replace_whole(path, text.encode())


@contextmanager
def _creating(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}") from error
