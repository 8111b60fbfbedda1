"""A text in the editor of whoever is there."""

from __future__ import annotations

import contextlib
import shlex
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from kimi_cli.errors import CannotCreate, Terminated

_EDITORS = ("VISUAL", "EDITOR")
_USUAL_EDITOR = "vi"
_FAREWELL = 2.0
"""Seconds for an editor to save and leave."""


def run_editor(path: Path, environment: Mapping[str, str], seen: Mapping[str, str]) -> None:
    """Open the editor that *environment* names on *path*; it sees the variables *seen*.

    Raises CannotCreate where it cannot be run or fails, and Terminated.
    """
    found = (environment.get(name) for name in _EDITORS)
    editor = next(filter(None, found), _USUAL_EDITOR)
    try:
        process = subprocess.Popen([*shlex.split(editor), path], env=seen)  # noqa: S603 - the user's own editor
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error).lower()
        raise CannotCreate(
            f"cannot run the editor '{editor}': {why}; set VISUAL or EDITOR to one that is here"
        ) from error
    status = _wait(process)
    if status < 0:
        ending = signal.Signals(-status).name
        raise CannotCreate(f"the editor '{editor}' was ended by {ending}")
    if status != 0:
        raise CannotCreate(f"the editor '{editor}' ended with status {status}")


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Return how *process* ended; a signal that ends us lets it save its file first."""
    try:
        return process.wait()
    except Terminated as ending:
        process.send_signal(ending.signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_FAREWELL)
        process.kill()
        raise
