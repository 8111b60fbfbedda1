"""CONTRIBUTING.md is true: its map is that of the code, and every file that it names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()


# The map


def read_rooms() -> list[set[str]]:
    """The modules of each room, top floor first; a folder is named with a slash."""
    table = TEXT.partition("| room |")[2].partition("\n\n")[0]
    rows = [line.split(" | ")[1] for line in table.splitlines()[2:]]
    return [set(re.findall(r"`(\w+/?)`", row)) for row in rows]


def name_module(path: str) -> str:
    """The name in the table of `kimi_cli.PATH`: a folder is one entry."""
    first = path.partition(".")[0]
    return f"{first}/" if (ROOT / "kimi_cli" / first).is_dir() else first


def list_modules() -> dict[Path, str]:
    """Every source, with its name in the table."""
    package = ROOT / "kimi_cli"
    return {
        source: name_module(".".join(source.relative_to(package).with_suffix("").parts))
        for source in package.rglob("*.py")
        if source != package / "__init__.py"
    }


def list_imports(source: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("kimi_cli"):
            module = node.module.partition(".")[2]
            names = [module] if module else [alias.name for alias in node.names]
            yield from (name_module(name) for name in names if not name.startswith("__"))


def test_every_module_has_one_room() -> None:
    named = [module for room in read_rooms() for module in room]
    assert sorted(named) == sorted(set(list_modules().values()))


def test_no_module_imports_from_a_room_above() -> None:
    floors = {module: floor for floor, room in enumerate(read_rooms()) for module in room}
    for source, module in list_modules().items():
        for imported in list_imports(source):
            assert floors[module] <= floors[imported], f"{source} imports {imported}"


# What else it names


def test_the_files_exist() -> None:
    """A file is named as it stands in the package, or from the top."""
    names = set(re.findall(r"`([\w./]*(?:\.py|\w/))`", TEXT)) - {"kimi_cli/"}
    below = [ROOT, ROOT / "kimi_cli", ROOT / "kimi_cli/batch"]
    assert {name for name in names if not any((root / name).exists() for root in below)} == set()


def test_the_names_in_the_code_exist() -> None:
    """What is named together with its file is defined there."""
    named = re.findall(r"`(\w+)` of `([\w/]+\.py)`", TEXT)
    assert named
    gone = [
        (name, file) for name, file in named if name not in list_names(ROOT / "kimi_cli" / file)
    ]
    assert gone == []


def list_names(source: Path) -> set[str]:
    """Return what a module defines at its top."""
    body = ast.parse(source.read_text()).body
    targets = [node.targets[0] for node in body if isinstance(node, ast.Assign)]
    targets += [node.target for node in body if isinstance(node, ast.AnnAssign)]
    defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return defined | {target.id for target in targets if isinstance(target, ast.Name)}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"`make ([a-z-]+)`", TEXT))))
def test_the_targets_of_make_exist(target: str) -> None:
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_helper_of_the_tests_is_named() -> None:
    """Whoever writes a test finds what others have made for it."""
    helpers = {path.name for path in (ROOT / "tests").glob("*.py")}
    named = set(re.findall(r"`tests/(\w+\.py)`", TEXT))
    assert {name for name in helpers - named if not name.startswith("test_")} == set()
