"""``kimi template``: prompts that are asked again and again, each under a name."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from kimi_cli.errors import BadInput, CannotCreate, KimiError, MissingInput
from kimi_cli.host import load_settings
from kimi_cli.options.bundles import RequestOptions, request_options, verbosity_options
from kimi_cli.options.completion import complete_templates
from kimi_cli.options.types import Utf8
from kimi_cli.prompt import templatefile
from kimi_cli.prompt.reading import (
    STDIN,
    Reading,
    decode_argument,
    drop_last_line_end,
    read_stdin,
    read_text,
    stdin_is_ours,
)
from kimi_cli.prompt.templates import TemplateError
from kimi_cli.settings.profiles import Profile
from kimi_cli.show.listing import format_table
from kimi_cli.system.sanitizer import sanitize
from kimi_cli.system.terminal import Terminal

EPILOG = """\b
Examples:
  kimi template save commit 'Write a commit message for this: {stdin}'
  git diff | kimi ask -t commit
  kimi template
"""

LIST_EPILOG = """\b
Examples:
  kimi template list --json | jq -r .name
"""

SHOW_EPILOG = """\b
Examples:
  kimi template show commit
"""

EDIT_EPILOG = """\b
Examples:
  EDITOR=nano kimi template edit commit
"""

SAVE_EPILOG = """\b
Examples:
  kimi template save mood --choice good,bad 'How does this feel? {stdin}'
  kimi template save tell -s 'Answer in {language}.' -m kimi-k3 '{prompt}'
"""


@click.group(epilog=EPILOG, invoke_without_command=True)
@click.pass_context
def template(context: click.Context) -> None:
    """List, show, edit and save templates of prompts.

    'kimi ask -t NAME' asks with one, 'kimi batch -t NAME' for each row. Without a command it lists
    them.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_)


name_argument = click.argument("name", type=Utf8(), shell_complete=complete_templates)


@template.command("list", epilog=LIST_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@verbosity_options
def list_(terminal: Terminal, *, as_json: bool = False) -> None:
    """List templates: name, fields, and how each begins."""
    folder = templatefile.find_templates(os.environ)
    rows = [("NAME", "FIELDS", "BEGINS")]
    for name in templatefile.list_names(folder):
        found, problem = None, None
        try:
            found = templatefile.read_template(name, folder)
        except (KimiError, TemplateError) as error:
            problem = str(error)
        if as_json:
            shown = {
                "name": name,
                "fields": found.fields if found else [],
                "model": found.model if found else None,
                "problem": problem,
            }
            terminal.show(json.dumps(shown, ensure_ascii=False) + "\n")
            continue
        if problem:
            terminal.warn(problem)
        text = " ".join(found.text.split()) if found else "(cannot be read)"
        rows.append((name, " ".join(found.fields) if found else "", text))
    if as_json:
        return
    if len(rows) == 1:
        terminal.warn(f"no template is kept in {folder}")
    elif terminal.out_is_terminal:
        harmless = [[sanitize(cell) for cell in row] for row in rows]
        terminal.show(format_table(harmless, width=terminal.find_columns()))
    else:
        terminal.show(format_table(rows))


@template.command(epilog=SHOW_EPILOG)
@name_argument
@verbosity_options
def show(terminal: Terminal, *, name: str) -> None:
    """Print a template as it is kept."""
    terminal.show(read_text(str(_find(name)), Reading()) + "\n")


@template.command(epilog=EDIT_EPILOG)
@name_argument
@verbosity_options
def edit(terminal: Terminal, *, name: str) -> None:
    """Open a template in $VISUAL or $EDITOR, or begin one."""
    from kimi_cli.credentials.bearer import remove_secrets  # noqa: PLC0415 - for this command only
    from kimi_cli.system.editing import run_editor  # noqa: PLC0415 - the same

    folder = templatefile.find_templates(os.environ)
    path = templatefile.locate_template(name, folder)
    _make_folder(folder)
    run_editor(path, os.environ, remove_secrets(os.environ, load_settings(terminal)))
    if not path.exists():
        terminal.warn(f"nothing was saved as template {name}")
        return
    try:
        templatefile.read_template(name, folder)
    except TemplateError as error:
        raise BadInput(f"template {name} is saved, and cannot be used: {error}") from error


@template.command(epilog=SAVE_EPILOG)
@name_argument
@click.argument("text", nargs=-1)
@click.option("--force", is_flag=True, help="Write over a template of that name.")
@click.option("--schema", type=Utf8(), metavar="SCHEMA", help="Take JSON that fits SCHEMA.")
@click.option(
    "--choice", type=Utf8(), multiple=True, metavar="LABELS", help="Take one of these labels."
)
@click.option("-x", "--extract", is_flag=True, help="Take the first fenced code block.")
@request_options
@verbosity_options
def save(
    terminal: Terminal,
    *,
    name: str,
    text: tuple[str, ...],
    force: bool,
    schema: str | None,
    choice: tuple[str, ...],
    extract: bool,
    request: RequestOptions,
) -> None:
    """Keep TEXT, or standard input, and what options say, under NAME."""
    if request.thinking is not None:
        raise click.UsageError("--thinking is spelled for a host; give it when you ask")
    labels = [label.strip() for labels in choice for label in labels.split(",")]
    kept = templatefile.Template(
        name=name,
        text=_read_words(text),
        model=request.model,
        system=request.system,
        schema=None if schema is None else _spell(schema),
        choice=tuple(labels),
        extract=extract,
        options=request.list_parameters(Profile("")),
    )
    folder = templatefile.find_templates(os.environ)
    path = templatefile.locate_template(name, folder)
    data = kept.encode()
    try:
        templatefile.parse_template(data, name)
    except TemplateError as error:
        raise click.UsageError(str(error)) from error
    if path.exists() and not force:
        raise CannotCreate(f"there is a template '{name}' already; --force writes over it")
    _write(folder, path, data)
    terminal.hint(f"saved; 'kimi ask -t {name}' asks with it")


def _read_words(words: tuple[str, ...]) -> str:
    """Return the words, or what standard input holds where there are none."""
    text = " ".join(decode_argument(word) for word in words if word != STDIN)
    if not text.strip() and (STDIN in words or stdin_is_ours(has_text=False)):
        text = drop_last_line_end(read_stdin(Reading()))
    if not text.strip():
        raise BadInput("the template is empty; give its text as an argument, or pipe it in")
    return text


def _spell(schema: str) -> str:
    """Return the JSON of a schema: a template names no file."""
    from kimi_cli.turn.forms import read_schema  # noqa: PLC0415 - for a schema only

    return json.dumps(read_schema(schema), ensure_ascii=False)


def _find(name: str) -> Path:
    folder = templatefile.find_templates(os.environ)
    path = templatefile.locate_template(name, folder)
    if not path.exists():
        names = ", ".join(templatefile.list_names(folder)) or "none"
        raise MissingInput(f"there is no template '{name}' in {folder}; there are: {names}")
    return path


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotCreate(f"cannot create {folder}: {error.strerror}") from error


def _write(folder: Path, path: Path, data: str) -> None:
    from kimi_cli.system.files import replace_whole  # noqa: PLC0415 - for this command only

    _make_folder(folder)
    try:
        replace_whole(path, data.encode())
    except OSError as error:
        raise CannotCreate(f"cannot write {path}: {error.strerror}") from error
