"""The house keeps its order: who imports whom, and who knows what."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kimi_cli

PACKAGE = Path(kimi_cli.__file__).parent

# From the ground up; a module imports from its own floor and from those below.
FLOORS = (
    {"kimi_cli", "errors"},
    {"api"},
    {"settings"},
    {"system"},
    {"credentials"},
    {"prompt", "answer"},
    {"show", "conversation", "batch"},
    {"options"},
    {"host"},
    {"turn"},
    {"chat"},
    {"commands"},
    {"cli", "__main__"},
)
ENVIRONMENT_READERS = {
    "cli",
    "commands.auth",
    "commands.batch",
    "commands.chat",
    "host",
    "options.completion",
    "prompt.reading",
    "settings.configfile",
    "turn.opening",
}


def name_module(path: Path) -> str:
    """Return the dotted name of a module inside the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "kimi_cli"


MODULES = {name_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def find_imports(path: Path) -> Iterator[str]:
    """Yield every import of a module, those hidden in functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def find_own_imports(name: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    found = {
        target.removeprefix("kimi_cli").removeprefix(".")
        for target in find_imports(MODULES[name])
        if target.split(".")[0] == "kimi_cli"
    }
    return {target for target in found if target in MODULES} - {name}


def find_floor(name: str) -> int:
    """Return the floor of a module."""
    room = name.split(".")[0]
    floors = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert floors, f"{name} has no floor: give it one"
    return floors[0]


@pytest.mark.parametrize("name", MODULES)
def test_nobody_imports_upwards(name: str) -> None:
    """A module imports only from its own floor and from those below it."""
    above = {target for target in find_own_imports(name) if find_floor(target) > find_floor(name)}
    assert not above


def test_there_is_no_cycle() -> None:
    """No two modules need each other, not even through an import in a function."""
    imports = {name: find_own_imports(name) for name in MODULES}
    while ready := [name for name, targets in imports.items() if not targets & imports.keys()]:
        for name in ready:
            del imports[name]
    assert imports == {}


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("api")])
def test_the_api_knows_no_terminal_and_no_environment(name: str) -> None:
    """The wire can be used as a library."""
    assert not {"sys", "click", "jsonlines", "keyring"} & set(find_imports(MODULES[name]))
    assert not re.search(r"print\(|environ\b|getenv", MODULES[name].read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("commands")])
def test_commands_do_no_http(name: str) -> None:
    """A command calls the client, never a library below it."""
    roots = {target.split(".")[0] for target in find_imports(MODULES[name])}
    assert not {"requests", "urllib3", "http", "socket"} & roots


@pytest.mark.parametrize("name", MODULES)
def test_the_environment_is_read_in_few_places(name: str) -> None:
    """Who reads variables is known, so that all of them can be documented."""
    text = MODULES[name].read_text(encoding="utf-8")
    if name not in ENVIRONMENT_READERS:
        assert "os.environ" not in text
        assert "getenv" not in text


@pytest.mark.parametrize("name", MODULES)
def test_no_code_asks_for_a_profile_by_name(name: str) -> None:
    """What differs between hosts is data in a profile."""
    text = MODULES[name].read_text(encoding="utf-8")
    assert "profile ==" not in text
    assert "profile.name ==" not in text


FOR_A_PERSON = {"prompt_toolkit", "rich", "kimi_cli.chat.editor", "kimi_cli.chat.slash"}
FOR_A_CHAT = {*FOR_A_PERSON, "kimi_cli.conversation.archive", "kimi_cli.conversation.record"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], {"requests", "keyring", "json", "urllib3", "shutil"}),
        (["--help"], {"requests", "keyring", "json", "urllib3", "shutil"}),
        (["ask", "--dry-run", "hi"], {"requests", "keyring", "urllib3", *FOR_A_CHAT}),
        (["ask", "--dry-run", "-S", "x", "hi"], {"requests", "prompt_toolkit", "rich"}),
        (["models"], {"requests", "keyring", "urllib3", *FOR_A_CHAT}),
        (["log"], {"requests", "keyring", "urllib3", "prompt_toolkit"}),
        (["chat", "--no-auth", "--base-url", "http://127.0.0.1:1", "hi"], FOR_A_PERSON),
    ],
)
def test_little_is_loaded(arguments: list[str], unwanted: set[str]) -> None:
    """What a call does not need is not imported: starting costs nothing."""
    code = (
        "import sys, os\n"
        "from kimi_cli import cli\n"
        "cli._leave = lambda status: None\n"
        f"cli.main({arguments!r})\n"
        "sys.stderr.write('\\n'.join(sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert not unwanted & set(done.stderr.split("\n"))
