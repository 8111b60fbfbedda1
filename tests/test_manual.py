"""Man pages, help texts and the README say what the program does: all of it, and no more."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from program import Kimi

from kimi_cli.chat.slash import COMMANDS as SLASH_COMMANDS
from kimi_cli.cli import COMMANDS, cli
from kimi_cli.errors import ExitStatus
from kimi_cli.settings import configfile
from kimi_cli.settings.prices import LISTED
from kimi_cli.settings.profiles import BUILT_IN

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "man").glob("*.[157]"))
README = (ROOT / "README.md").read_text()

WIDTH = 80

SECTIONS = (
    "NAME",
    "SYNOPSIS",
    "DESCRIPTION",
    "COMMANDS",
    "SETTINGS",
    "PROFILES",
    "PRICES",
    "OPTIONS",
    "ENVIRONMENT",
    "FILES",
    "EXIT STATUS",
    "EXAMPLES",
    "DIAGNOSTICS",
    "SEE ALSO",
    "STANDARDS",
    "CAVEATS",
    "SECURITY CONSIDERATIONS",
)

OUTSIDE_VARIABLES = {
    "_KIMI_COMPLETE",  # click
    "TMPDIR",  # tempfile
}
"""Variables that libraries read for us."""


# The commands, as click has them


def walk(command: click.Command = cli, path: str = "kimi") -> Iterator[tuple[str, click.Command]]:
    """Every command under its full name, groups included."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, f"{path} {name}")


TREE = dict(walk())
LEAVES = {name: command for name, command in TREE.items() if not isinstance(command, click.Group)}
DOCUMENTED = {name: command for name, command in LEAVES.items() if name != "kimi help"}


def list_options(command: click.Command) -> dict[frozenset[str], str]:
    """The spellings of every option, with what it takes, in lower case."""
    context = click.Context(command, **command.context_settings)
    context.help_option_names = ["-h", "--help"]
    return {
        frozenset([*option.opts, *option.secondary_opts]): _metavar(option, context)
        for option in command.get_params(context)
        if isinstance(option, click.Option)
    }


def _metavar(option: click.Option, context: click.Context) -> str:
    if option.is_flag or option.count:
        return ""
    return option.make_metavar(context).strip("[]").lower()


# The pages, as mdoc has them


def find_page(command: str) -> str:
    """The source of the page on a command."""
    name = "-".join(command.split()[:2])
    return (ROOT / "man" / f"{name}.1").read_text()


def read_section(page: str, name: str) -> str:
    """One section of a page's source."""
    found = re.search(rf'^\.Sh "?{name}"?\n(.*?)(?=^\.Sh |\Z)', page, re.DOTALL | re.MULTILINE)
    assert found, f"there is no section {name}"
    return found[1]


def plain(text: str) -> str:
    """Text without the escapes of mdoc."""
    for escape, character in ((r"\-", "-"), (r"\(dq", '"'), (r"\(aq", "'"), (r"\(ti", "~")):
        text = text.replace(escape, character)
    return text.replace(r"\e", "\\").replace(r"\&", "")


def read_options(section: str) -> dict[frozenset[str], str]:
    """The options that a section's lists describe, in the form of `list_options`."""
    options = {}
    for item in re.findall(r"^\.It (Fl .*)$", plain(section), re.MULTILINE):
        spellings = [spelling.split() for spelling in re.split(r" , ", item)]
        names = frozenset(f"-{words[1]}" for words in spellings)
        metavars = {" ".join(words[2:]) for words in spellings}
        if len(metavars) > 1:
            pytest.fail(f"{item}: every spelling takes the same")
        options[names] = re.sub(r"\b(Ar|Cm|Ns) ", "", metavars.pop()).replace(" ", "")
    return options


def read_synopsis(page: str, command: str) -> set[str]:
    """The options in the synopsis of one command."""
    synopsis = plain(read_section(page, "SYNOPSIS"))
    lines = re.search(rf"^\.Nm {command}\n(.*?)(?=^\.Nm|\Z)", synopsis, re.DOTALL | re.MULTILINE)
    assert lines, f"there is no synopsis of {command}"
    names = re.findall(r"Fl (\S+)", lines[1])
    long = {f"-{name}" for name in names if name.startswith("-")}
    return long | {f"-{letter}" for name in names if not name.startswith("-") for letter in name}


def read_examples(page: str) -> list[str]:
    """The literal blocks of a page."""
    return re.findall(r"^\.Bd -literal.*?\n(.*?)^\.Ed", plain(page), re.DOTALL | re.MULTILINE)


def require(tool: str) -> None:
    """Skip where the tool is not installed, but not in CI."""
    if shutil.which(tool) is None:
        assert "CI" not in os.environ, f"CI must have {tool}"
        pytest.skip(f"needs {tool}")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


# Form


@page
def test_mandoc_finds_nothing_wrong(page: Path) -> None:
    require("mandoc")
    linted = run("mandoc", "-Tlint", "-Wwarning", page)
    assert (linted.returncode, linted.stdout) == (0, "")


@page
def test_groff_warns_of_nothing(page: Path) -> None:
    require("groff")
    made = run("groff", "-ww", "-mandoc", "-Tutf8", page)
    assert (made.returncode, made.stderr) == (0, "")


@page
@pytest.mark.parametrize(
    "formatter",
    [("mandoc", "-Tutf8", f"-Owidth={WIDTH}"), ("groff", "-mandoc", "-Tutf8", "-P-c")],
    ids=["mandoc", "groff"],
)
def test_a_page_fits_a_terminal(page: Path, formatter: tuple[str, ...]) -> None:
    require(formatter[0])
    text = re.sub(".\b", "", run(*formatter, page).stdout)
    assert text
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


@page
def test_examples_leave_room_for_a_wider_indent(page: Path) -> None:
    """groff indents by 11 columns until 1.22, and by 13 since."""
    lines = [line for block in read_examples(page.read_text()) for line in block.splitlines()]
    assert [line for line in lines if len(line) > WIDTH - 13] == []


@page
def test_pages_refer_to_pages_that_exist(page: Path) -> None:
    ours = {tuple(other.name.rsplit(".", 1)) for other in PAGES}
    named = set(re.findall(r"^\.Xr (kimi\S*) (\d)", plain(page.read_text()), re.MULTILINE))
    assert named <= ours


@page
def test_a_page_has_its_sections_in_order(page: Path) -> None:
    found = re.findall(r"^\.Sh (.*)$", page.read_text(), re.MULTILINE)
    assert found == [section for section in SECTIONS if section in found]
    needed = {"NAME", "DESCRIPTION", "EXAMPLES", "SEE ALSO"}
    if page.suffix == ".1":
        needed |= {"SYNOPSIS", "OPTIONS", "ENVIRONMENT", "EXIT STATUS"}
    assert needed <= set(found)


# Options


@pytest.mark.parametrize("name", sorted({" ".join(name.split()[:2]) for name in DOCUMENTED}))
def test_a_page_describes_the_options_of_its_command(name: str) -> None:
    wanted: dict[frozenset[str], str] = {}
    for path, command in DOCUMENTED.items():
        if f"{path} ".startswith(f"{name} "):
            wanted |= list_options(command)
    assert read_options(read_section(find_page(name), "OPTIONS")) == wanted


def test_the_first_page_describes_the_options_of_the_program() -> None:
    assert read_options(read_section(find_page("kimi"), "OPTIONS")) == list_options(cli)


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_synopsis_has_each_option_once(name: str) -> None:
    shown = read_synopsis(find_page(name), name)
    options = list_options(DOCUMENTED[name])
    times = {" ".join(sorted(spellings)): len(spellings & shown) for spellings in options}
    assert times == dict.fromkeys(times, 1)
    assert shown <= set().union(*options)


def test_the_first_page_lists_the_commands() -> None:
    section = plain(read_section(find_page("kimi"), "COMMANDS"))
    assert re.findall(r"^\.It Cm (\S+)", section, re.MULTILINE) == list(COMMANDS)
    with_page = [name for name in COMMANDS if f"kimi-{name} 1" in section]
    assert with_page == [name for name in COMMANDS if name != "help"]
    text = list_words(section.replace(".Ql", ""))
    assert [line for line in COMMANDS.values() if list_words(line) not in text] == []


def list_words(text: str) -> str:
    """The words of a text, without what stands between them."""
    return " ".join(re.findall(r"\w+", text))


# Help


def test_the_list_of_commands_is_what_the_commands_say() -> None:
    said = {name: TREE[f"kimi {name}"].get_short_help_str(WIDTH) for name in COMMANDS}
    assert said == COMMANDS


@pytest.mark.parametrize("name", TREE)
def test_help_has_examples_and_whole_sentences(name: str, kimi: Kimi) -> None:
    shown = kimi(*name.split()[1:], "--help", env={"COLUMNS": str(WIDTH)})
    assert (shown.status, shown.stderr) == (0, b"")
    text = shown.stdout.decode()
    assert re.search(r"^  Examples:\n    .*\bkimi ", text, re.MULTILINE)
    assert "..." not in re.sub(r"^Usage:.*", "", text)
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []
    assert kimi(*name.split()[1:], "-h").stdout == shown.stdout
    if name != "kimi":
        assert kimi("help", *name.split()[1:]).stdout == shown.stdout


@pytest.mark.parametrize("name", TREE)
def test_help_on_an_option_is_a_sentence(name: str) -> None:
    options = [option for option in TREE[name].params if isinstance(option, click.Option)]
    odd = [option for option in options if not re.fullmatch(r"[A-Z].*\.", option.help or "")]
    assert {option.opts[-1]: option.help for option in odd} == {}


@pytest.mark.parametrize("name", TREE)
def test_examples_of_the_help_use_options_that_exist(name: str) -> None:
    check_commands((TREE[name].epilog or "").splitlines())


@page
def test_examples_of_a_page_use_options_that_exist(page: Path) -> None:
    for block in read_examples(page.read_text()):
        check_commands(block.replace("\\\n", " ").splitlines())


def check_commands(lines: list[str]) -> None:
    """Every call of `kimi` in these lines names a command and options that there are."""
    for line in lines:
        for call in re.findall(
            r"\bkimi ((?:help|(?:auth|log) \w+|ask|batch|chat|models)\b[^|;>)]*)", line
        ):
            words = call.split(" -- ")[0]
            words = re.sub(r"\"[^\"]*\"|'[^']*'", "", words).split()
            path = " ".join(words[:2] if words[0] in ("auth", "log") else words[:1])
            known = set().union(*list_options(TREE[f"kimi {path}"]))
            used = {word for word in words if word.startswith("-") and word != "-"}
            assert (line, used - known) == (line, set())


# The commands of the chat


def test_the_page_on_chat_has_its_commands() -> None:
    section = plain(read_section(find_page("kimi chat"), "DESCRIPTION"))
    listed = re.findall(r"^\.It Ic /(\S+)(?: Ar (.*)| Op Ar (.*))?$", section, re.MULTILINE)
    wanted = {name: command.argument.strip("[]") for name, command in SLASH_COMMANDS.items()}
    assert {name: (needed or optional).lower() for name, needed, optional in listed} == {
        name: argument.lower() for name, argument in wanted.items()
    }


# Exit statuses


STATUSES = {str(status.value): status.meaning for status in ExitStatus}


def test_the_first_page_lists_the_exit_statuses() -> None:
    section = plain(read_section(find_page("kimi"), "EXIT STATUS"))
    items = re.findall(r"^\.It (\S+)\n(.*?)(?=^\.It|^\.El)", section, re.DOTALL | re.MULTILINE)
    rows = {name: " ".join(text.split()) for name, text in items}
    assert rows.pop("128+n").startswith("ended by signal n")
    assert rows == STATUSES


def test_the_readme_lists_the_exit_statuses() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", README, re.MULTILINE)
    assert dict(rows) == STATUSES


def test_help_lists_the_exit_statuses(kimi: Kimi) -> None:
    shown = kimi("help", "exit-status").stdout.decode()
    assert dict(re.findall(r"^ +(\d+)  (.*)$", shown, re.MULTILINE)) == STATUSES
    assert "128+n" in shown
    assert "75)" in shown


@page
def test_exit_statuses_in_the_text_exist(page: Path) -> None:
    named = re.findall(r"(?i)exit\s+status(?:\s+is)?\s+(\d+)", page.read_text())
    assert set(named) <= set(STATUSES)


# Environment


def find_variables() -> set[str]:
    """Every environment variable that is named in the sources, and those of the settings."""
    names = {f"KIMI_{name.upper()}" for name in configfile.SETTINGS}
    for path in (ROOT / "kimi_cli").rglob("*.py"):
        source = path.read_text()
        names |= set(re.findall(r'environ(?:ment)?\.get\("(\w+)"', source))
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names |= set(re.findall(r"\A[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\Z", node.value))
    return names


def test_the_first_page_lists_the_variables_that_are_read() -> None:
    section = plain(read_section(find_page("kimi"), "ENVIRONMENT"))
    items = re.findall(r"^\.It (Ev .*)$", section, re.MULTILINE)
    listed = [name for item in items for name in re.findall(r"Ev (\w+)", item)]
    assert set(listed) == find_variables() | OUTSIDE_VARIABLES
    assert [name for name, times in Counter(listed).items() if times > 1] == []


# Configuration


def read_keys(section: str) -> dict[str, str]:
    items = re.findall(r"^\.It Ic (\w+) No = Ar (.*)$", plain(section), re.MULTILINE)
    return dict(items)


TYPES = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    list: "array of strings",
    dict: "table of strings",
}


@pytest.mark.parametrize(
    ("section", "rows"),
    [
        ("SETTINGS", configfile.SETTINGS),
        ("PROFILES", configfile.PROFILE_KEYS),
        ("PRICES", configfile.PRICE_KEYS),
    ],
)
def test_the_page_on_configuration_has_every_key(
    section: str, rows: dict[str, configfile.Setting]
) -> None:
    page = (ROOT / "man/kimi-config.5").read_text()
    wanted = {name: TYPES[row.types[-1]] for name, row in rows.items()}
    assert read_keys(read_section(page, section)) == wanted


def test_the_page_on_configuration_has_the_choices() -> None:
    page = plain((ROOT / "man/kimi-config.5").read_text())
    rows = {**configfile.SETTINGS, **configfile.PROFILE_KEYS}
    choices = [(name, choice) for name, row in rows.items() for choice in row.choices]
    assert [pair for pair in choices if f'"{pair[1]}"' not in page] == []


def test_the_page_on_configuration_has_the_built_in_profiles() -> None:
    page = plain((ROOT / "man/kimi-config.5").read_text())
    rows = re.findall(r"^\.It Cm (\S+) Ta (.*) Ta (.*)$", page, re.MULTILINE)
    assert rows == [
        (profile.name, profile.base_url or "this machine", profile.model) for profile in BUILT_IN
    ]


def test_the_page_on_configuration_has_the_list_prices() -> None:
    page = plain(read_section((ROOT / "man/kimi-config.5").read_text(), "PRICES"))
    rows = re.findall(r"^\.It Li (\S+) Ta (\S+) Ta (\S+) Ta (\S+) Ta (\S+)$", page, re.MULTILINE)
    wanted = [
        (model, *(f"{price:.2f}" for price in prices), day)
        for model, (*prices, day) in LISTED.items()
    ]
    assert rows == wanted


def list_configurations() -> list[str]:
    page = (ROOT / "man/kimi-config.5").read_text()
    auth = [block for block in read_examples(find_page("kimi auth")) if "[profiles" in block]
    return [*read_examples(page), *auth, *re.findall(r"```toml\n(.*?)```", README, re.DOTALL)]


@pytest.mark.parametrize("text", list_configurations())
def test_examples_of_configuration_are_good(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(text)
    read = configfile.read_config(path)
    assert read.warnings == ()
    assert read.values or read.profiles or read.prices
