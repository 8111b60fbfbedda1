"""The house keeps its order: who imports whom, who knows what, and how large things are."""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
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
    {"cli", "__main__", "frames"},
)
ENVIRONMENT_READERS = {
    "chat.slash",
    "cli",
    "commands.auth",
    "commands.template",
    "frames",
    "host",
    "options.batch",
    "options.completion",
    "options.templating",
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


# Docstrings


def find_public(tree: ast.Module) -> Iterator[ast.FunctionDef]:
    """Yield the public functions of a module, and the public methods of its public classes."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from (m for m in node.body if isinstance(m, ast.FunctionDef))
        elif isinstance(node, ast.FunctionDef):
            yield node


def raises_itself(node: ast.FunctionDef) -> bool:
    """Whether a function has a ``raise`` of its own, not one of a function inside it."""
    inner = [part for part in ast.walk(node) if isinstance(part, ast.FunctionDef) and part != node]
    theirs = {id(part) for function in inner for part in ast.walk(function)}
    return any(
        isinstance(part, ast.Raise) and part.exc is not None and id(part) not in theirs
        for part in ast.walk(node)
    )


NAMED_BY_A_LIBRARY = ("convert", "resolve_command")
"""Methods whose errors are click's to define."""


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("commands")])
def test_a_public_function_says_what_it_raises(name: str) -> None:
    """Whoever calls it need not read it."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    silent = [
        node.name
        for node in find_public(tree)
        if not node.name.startswith("_") and node.name not in NAMED_BY_A_LIBRARY
        if raises_itself(node) and "aise" not in (ast.get_docstring(node) or "")
    ]
    assert silent == []


# Sizes

LINES, METHODS, ATTRIBUTES = 60, 15, 12
"""What a function, and what a class, may have at most; fields count as attributes."""

LARGE: dict[str, tuple[int, int, str]] = {
    "batch.gauges.Limit": (12, 14, "its value, its bound and its trial, one fact each"),
    "batch.jobs.Job": (3, 14, "a table: what is known of one row on its way"),
    "batch.ramp.Ramp": (9, 13, "what was measured, and what was concluded from it"),
    "batch.records.Shape": (0, 13, "a table: one field for each thing that rows are told"),
    "batch.results.Result": (7, 15, "a table: one field for each thing told of a row"),
    "batch.tally.Tally": (15, 34, "a table of figures, one field for each that is told"),
    "settings.profiles.Profile": (0, 21, "a table: one field for each thing known of a host"),
    "settings.precedence.Settings": (10, 16, "a table: one field for each setting"),
}
"""Larger classes: how many methods and attributes at most, and why. Only tables may grow."""


def find_nodes(*kinds: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    """Yield every node of these kinds, with the dotted name of its module."""
    for name, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                yield name, node


def count_members(node: ast.ClassDef) -> tuple[int, int]:
    """Return how many methods a class has, and how many names it assigns to ``self``."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    methods = [member for member in node.body if isinstance(member, functions)]
    fields = {
        member.target.id
        for member in node.body
        if isinstance(member, ast.AnnAssign) and isinstance(member.target, ast.Name)
    }
    assigned = {
        part.attr
        for method in methods
        for part in ast.walk(method)
        if isinstance(part, ast.Attribute)
        and isinstance(part.ctx, ast.Store)
        and isinstance(part.value, ast.Name)
        and part.value.id == "self"
    }
    return len(methods), len(fields | assigned)


CLASSES = {
    f"{name}.{node.name}": count_members(node)
    for name, node in find_nodes(ast.ClassDef)
    if isinstance(node, ast.ClassDef)
}


def test_functions_are_short() -> None:
    """No function is longer than a screen."""
    lengths = {
        f"{name}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for name, node in find_nodes(ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in lengths.items() if length > LINES} == {}


def test_classes_are_small() -> None:
    """A class has few methods and few attributes, or a reason in the table."""
    most = {name: row[:2] for name, row in LARGE.items()}
    limits = {name: most.get(name, (METHODS, ATTRIBUTES)) for name in CLASSES}
    assert {
        name: f"{methods} methods, {attributes} attributes"
        for name, (methods, attributes) in CLASSES.items()
        if methods > limits[name][0] or attributes > limits[name][1]
    } == {}


def test_no_reason_outlives_its_class() -> None:
    """A class that is small has no row: take it out of the table."""
    small = [
        name
        for name in LARGE
        if name not in CLASSES or (CLASSES[name][0] <= METHODS and CLASSES[name][1] <= ATTRIBUTES)
    ]
    assert small == []


# Imports in functions


def test_a_hidden_import_says_why() -> None:
    """What is imported inside a function has its reason at the end of that line."""
    silent = []
    for name, function in find_nodes(ast.FunctionDef, ast.AsyncFunctionDef):
        lines = MODULES[name].read_text(encoding="utf-8").splitlines()
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom):
                line = lines[node.lineno - 1]
                if not re.search(r"# noqa: PLC0415 - \w", line):
                    silent.append(f"{name}:{node.lineno}: {line.strip()}")
    assert sorted(set(silent)) == []


# Documents


def read_prose(path: Path) -> Iterator[str]:
    """Yield the comments and the docstrings of a source, those of constants too."""
    text = path.read_text(encoding="utf-8")
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield str(node.value.value)


def test_only_documents_that_ship_are_cited() -> None:
    """Who reads a source has every document that it speaks of."""
    root = PACKAGE.parent
    cited = {
        f"{source.relative_to(root)}: {name}"
        for folder in ("kimi_cli", "tests", "examples", "benchmarks")
        for source in (root / folder).rglob("*.py")
        for text in read_prose(source)
        for name in re.findall(r"design\s+notes?|[\w-]+\.md\b", text)
        if not (root / name).is_file()
    }
    assert cited == set()


# What is loaded

FOR_A_PERSON = {"prompt_toolkit", "rich", "kimi_cli.chat.editor", "kimi_cli.chat.slash"}
FOR_A_FEW = {
    "kimi_cli.answer.extending",
    "kimi_cli.answer.fallback",
    "kimi_cli.answer.forms",
    "kimi_cli.show.events",
    "kimi_cli.show.report",
    "kimi_cli.turn.tools",
}
FOR_A_CHAT = {*FOR_A_PERSON, "kimi_cli.conversation.archive", "kimi_cli.conversation.record"}


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--version"], {"requests", "keyring", "json", "urllib3", "shutil"}),
        (["--help"], {"requests", "keyring", "json", "urllib3", "shutil"}),
        (["ask", "--dry-run", "hi"], {"requests", "keyring", "urllib3", *FOR_A_CHAT}),
        (["ask", "--dry-run", "-S", "x", "hi"], {"requests", "prompt_toolkit", "rich"}),
        (
            ["ask", "--no-auth", "--retries", "0", "--base-url", "http://127.0.0.1:1", "hi"],
            FOR_A_FEW,
        ),
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
