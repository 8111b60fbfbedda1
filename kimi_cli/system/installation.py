"""How this program was installed, and so how something is added to it.

It may have come from a folder and be in no index, so the packages that an extra stands for are
named, and whatever manages the place where the program lives adds them there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

import kimi_cli

_NAME = "kimi-pipe"
_HOME = Path(kimi_cli.__file__).parents[1]
"""The folder that holds the package."""


def advise_extra(extra: str) -> str:
    """Return the command, for a shell, that adds the packages of *extra* to this installation."""
    try:
        listed = metadata.requires(_NAME) or []
    except metadata.PackageNotFoundError:  # run from its source
        listed = []
    wanted = re.compile(rf"""\s*([^;]+?)\s*;.*\bextra\s*==\s*["']{re.escape(extra)}["']""")
    named = [found[1] for line in listed if (found := wanted.match(line))]
    # What was noted when it was installed may be older than a source that is used in place.
    return advise_packages(*(named or [f"{_HOME}[{extra}]"]))


def advise_packages(*words: str) -> str:
    """Return the command that adds packages; *words* may hold options of pip's."""
    return shlex.join([*_find_installer(), *words])


def _find_installer() -> list[str]:
    """Return the beginning of a command that installs to where this program finds it."""
    if (Path(sys.prefix) / "pipx_metadata.json").exists():
        return ["pipx", "runpip", Path(sys.prefix).name, "install"]
    if find_spec("pip") is None and shutil.which("uv"):
        return ["uv", "pip", "install", "--python", sys.executable]
    install = [sys.executable, "-m", "pip", "install"]
    if _HOME.parts[-2:] == ("lib", "kimi"):  # of make install, which has a folder of its own
        install += ["--target", str(_HOME)]
    return install if os.access(_HOME, os.W_OK) else ["sudo", *install]
