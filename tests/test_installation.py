"""The command that a message prints to add something is the one of this very installation."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from program import Kimi

ROOT = Path(__file__).parents[1]


def install(folder: Path) -> None:
    """Put the package, and what is known of it, into *folder*, as pip --target does."""
    shutil.copytree(ROOT / "kimi_cli", folder / "kimi_cli")
    known = importlib.metadata.distribution("kimi-pipe")
    record = folder / "kimi_pipe-0.dist-info"
    record.mkdir()
    (record / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: kimi-pipe\nVersion: 0\n"
        + "".join(f"Requires-Dist: {line}\n" for line in known.requires or [])
    )


def ask_advice(python: Path | str, folder: Path, extra: str, **variables: str) -> str:
    """What the package in *folder* says when *python* runs it."""
    code = f"from kimi_cli.system.installation import advise_extra as a; print(a({extra!r}))"
    return subprocess.run(
        [python, "-c", code],
        env={"PYTHONPATH": str(folder), "PATH": os.environ["PATH"], **variables},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


@pytest.fixture
def environment_of_its_own(tmp_path: Path) -> Path:
    """A virtual environment without pip, and the package in it."""
    folder = tmp_path / "kimi-env"
    venv.create(folder, with_pip=False, symlinks=True)
    [packages] = folder.glob("lib/python*/site-packages")
    install(packages)
    return folder


def test_make_install_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """pip is told of it: what it adds elsewhere the program would not find."""
    folder = tmp_path / "prefix with a space/lib/kimi"
    folder.mkdir(parents=True)
    install(folder)
    advice = shlex.split(ask_advice(sys.executable, folder, "markdown"))
    assert advice == [
        sys.executable,
        *["-m", "pip", "install", "--target"],
        str(folder),
        "rich>=14",
    ]


def test_pipx_manages_its_own(environment_of_its_own: Path) -> None:
    """Its environments may lack pip, and it keeps books of them."""
    (environment_of_its_own / "pipx_metadata.json").write_text("{}")
    python = environment_of_its_own / "bin/python"
    [packages] = environment_of_its_own.glob("lib/python*/site-packages")
    advice = ask_advice(python, packages, "markdown")
    assert advice == "pipx runpip kimi-env install 'rich>=14'"


def test_uv_installs_where_pip_is_not(environment_of_its_own: Path, tmp_path: Path) -> None:
    """uv's environments have no pip; uv is told which of them."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "uv").write_text("#!/bin/sh\n")
    (tools / "uv").chmod(0o755)
    python = environment_of_its_own / "bin/python"
    [packages] = environment_of_its_own.glob("lib/python*/site-packages")
    advice = ask_advice(python, packages, "markdown", PATH=f"{tools}:/usr/bin:/bin")
    assert advice == f"uv pip install --python {python} 'rich>=14'"


def test_the_command_can_be_run(kimi: Kimi) -> None:
    """It is what a shell takes, and pip of this environment finds all of it there already."""
    advice = ask_advice(sys.executable, ROOT, "markdown")
    done = kimi.shell(f"{advice} --quiet --no-index --disable-pip-version-check").wait(60)
    assert done.status == 0, done.error


def test_a_source_that_is_not_installed_names_itself(tmp_path: Path) -> None:
    """Without books of what was installed, the folder is what pip can take."""
    shutil.copytree(ROOT / "kimi_cli", tmp_path / "kimi_cli")
    python = Path(sys.base_prefix) / "bin/python3"
    if not python.exists():
        python = Path(os.path.realpath(sys.executable))
    advice = ask_advice(python, tmp_path, "markdown")
    assert f"-m pip install '{tmp_path}[markdown]'" in advice


def test_books_that_are_older_than_the_source(tmp_path: Path) -> None:
    """An extra that came later is not in them: the folder has it."""
    shutil.copytree(ROOT / "kimi_cli", tmp_path / "kimi_cli")
    books = tmp_path / "kimi_pipe-0.0.1.dist-info"
    books.mkdir()
    (books / "METADATA").write_text("Metadata-Version: 2.1\nName: kimi-pipe\nVersion: 0.0.1\n")
    advice = ask_advice(sys.executable, tmp_path, "markdown")
    assert advice.endswith(f"-m pip install '{tmp_path}[markdown]'")
