"""``kimi log``: the conversations that were kept."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import click

from kimi_cli.errors import KimiError, MissingInput
from kimi_cli.options.bundles import verbosity_options
from kimi_cli.options.completion import complete_sessions
from kimi_cli.options.types import Duration, Utf8
from kimi_cli.show.listing import format_table
from kimi_cli.system.sanitizer import sanitize
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.opening import open_archive

EPILOG = """\b
Examples:
  kimi log
  kimi log show planning
  kimi log search pipe
"""

LIST_EPILOG = """\b
Examples:
  kimi log list --json | jq -r .name
"""

SHOW_EPILOG = """\b
Examples:
  kimi log show
  kimi log show planning > planning.md
  kimi log show planning --json | jq 'select(.usage)'
"""

SEARCH_EPILOG = """\b
Examples:
  kimi log search named pipe
"""

RM_EPILOG = """\b
Examples:
  kimi log rm planning
  kimi log rm --older-than 30d
"""

PATH_EPILOG = """\b
Examples:
  tail -f "$(kimi log path planning)"
"""

_UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_AROUND = 40
_WIDE_NAME = 40


@click.group(epilog=EPILOG, invoke_without_command=True)
@click.pass_context
def log(context: click.Context) -> None:
    """List, show, search and remove conversations.

    Without a command it lists them, the latest first. The one that was not given a name is called
    latest.
    """
    if context.invoked_subcommand is None:
        context.invoke(list_)


name_argument = click.argument(
    "name", required=False, type=Utf8(), metavar="[NAME]", shell_complete=complete_sessions
)


@log.command("list", epilog=LIST_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@verbosity_options
def list_(terminal: Terminal, *, as_json: bool = False) -> None:
    """List conversations: name, turns, age, and how each begins."""
    archive = open_archive(terminal)
    found = list(archive.summarise())
    if as_json:
        for summary in found:
            changed = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(summary.changed))
            shown = {
                "name": summary.name,
                "turns": summary.turns,
                "changed": changed,
                "title": summary.title,
                "problem": summary.problem,
            }
            terminal.show(json.dumps(shown, ensure_ascii=False) + "\n")
        return
    if not found:
        terminal.warn(f"no conversation is kept in {archive.folder}")
        return
    rows = [("NAME", "TURNS", "AGE", "BEGINS")]
    now = time.time()
    for summary in found:
        title = "(cannot be read)" if summary.problem else summary.title
        name = _put_in_line(summary.name)
        rows.append((name, str(summary.turns), _tell_age(now - summary.changed), title))
    if terminal.out_is_terminal:
        width = terminal.find_columns()
        harmless = [
            [_shorten(sanitize(cell), max(_WIDE_NAME, width // 2)) for cell in row[:1]]
            + [sanitize(cell) for cell in row[1:]]
            for row in rows
        ]
        terminal.show(format_table(harmless, width=width))
    else:
        terminal.show(format_table(rows))
    for summary in found:
        if summary.problem:
            terminal.warn(summary.problem)


@log.command(epilog=SHOW_EPILOG)
@name_argument
@click.option("--json", "as_json", is_flag=True, help="Print the messages as they are kept.")
@verbosity_options
def show(terminal: Terminal, *, name: str | None, as_json: bool) -> None:
    """Print a conversation (the latest) as Markdown."""
    from kimi_cli.conversation.archive import LATEST  # noqa: PLC0415 - completion and help open nothing

    name = LATEST if name is None else name
    archive = open_archive(terminal)
    if as_json:
        terminal.show(archive.dump(name))
        return
    conversation = archive.load(name)
    parts = [f"# {name}"]
    for entry in conversation.entries:
        parts += [f"## {entry.headline}", entry.show()]
    terminal.show("\n\n".join(parts) + "\n")


@log.command(epilog=SEARCH_EPILOG)
@click.argument("words", nargs=-1, required=True, type=Utf8())
@verbosity_options
def search(terminal: Terminal, *, words: Sequence[str]) -> None:
    """Print the places where all WORDS are in one message.

    Upper and lower case are the same. Each line is a name, the turn's number, who speaks, and the
    words around the first place.
    """
    archive = open_archive(terminal)
    wanted = [" ".join(word.split()).casefold() for word in words]
    found = 0
    for name in archive.list_names():
        try:
            conversation = archive.load(name)
        except KimiError as error:
            terminal.warn(str(error))
            continue
        for number, turn in enumerate(conversation.list_turns(), 1):
            for entry in turn.entries:
                text = " ".join(entry.message.text.split())
                if all(word in text.casefold() for word in wanted):
                    found += 1
                    excerpt = _cut_out(text, wanted[0])
                    terminal.show(
                        f"{_put_in_line(name)}\t{number}\t{entry.message.role}\t{excerpt}\n"
                    )
    if not found:
        terminal.warn("no message holds all of these words")


@log.command(epilog=RM_EPILOG)
@click.argument(
    "names", nargs=-1, type=Utf8(), metavar="[NAME]...", shell_complete=complete_sessions
)
@click.option(
    "--older-than",
    type=Duration(),
    metavar="TIME",
    help="Remove all that were not changed for so long, such as 30d.",
)
@verbosity_options
def rm(terminal: Terminal, *, names: tuple[str, ...], older_than: float | None) -> None:
    """Remove conversations."""
    if bool(names) == (older_than is not None):
        raise click.UsageError("name the conversations to remove, or give --older-than")
    archive = open_archive(terminal)
    chosen = names if older_than is None else archive.find_older(older_than)
    errors = []
    for name in chosen:
        try:
            archive.remove(name)
        except KimiError as error:
            # One that went meanwhile is what was wanted.
            if older_than is None or not isinstance(error, MissingInput):
                errors.append(error)
    if older_than is not None:
        terminal.warn(f"{len(chosen) - len(errors)} removed")
    for further in errors[1:]:
        terminal.complain(str(further))
    if errors:
        raise errors[0]


@log.command(epilog=PATH_EPILOG)
@name_argument
@verbosity_options
def path(terminal: Terminal, *, name: str | None) -> None:
    """Print the file of a conversation, or the folder of all."""
    archive = open_archive(terminal)
    found = archive.folder if name is None else archive.find(name).path
    terminal.show(f"{found}\n")


def _put_in_line(name: str) -> str:
    """Return a name that other programs chose as one cell of one line."""
    return name if name.isprintable() else sanitize(name.replace("\t", " ").replace("\n", " "))


def _shorten(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


def _tell_age(seconds: float) -> str:
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return "now"


def _cut_out(text: str, word: str) -> str:
    """Return the words around the first place of *word*."""
    # A letter may fold to several: find the letter that the word begins in.
    letters = [place for place, letter in enumerate(text) for _ in letter.casefold()]
    place = letters[text.casefold().find(word)] if letters else 0
    start, end = max(0, place - _AROUND), place + len(word) + _AROUND
    before, after = "…" if start else "", "…" if end < len(text) else ""
    return f"{before}{text[start:end]}{after}"
