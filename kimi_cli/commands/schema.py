"""``kimi schema``: the short notation of a schema, spelled out."""

from __future__ import annotations

import json

import click

from kimi_cli.options.bundles import verbosity_options
from kimi_cli.options.types import Utf8
from kimi_cli.system.terminal import Terminal

EPILOG = """\b
Examples:
  kimi schema 'name, age int, tags [str]'
  kimi schema 'mood: happy or sad, place {x float, y float}' > mood.json
"""


@click.command(epilog=EPILOG)
@click.argument("notation", nargs=-1, required=True, type=Utf8())
@verbosity_options
def schema(terminal: Terminal, *, notation: tuple[str, ...]) -> None:
    """Print the JSON Schema that NOTATION stands for.

    NOTATION is what --schema takes: properties parted by commas, each a name, a type (str, int,
    float, bool, [T] for an array, {a, b} for an object) and, behind a colon, a description.
    """
    from kimi_cli.answer.forms import make_schema  # noqa: PLC0415 - not for --help
    from kimi_cli.turn.forms import read_schema  # noqa: PLC0415 - the same

    spelled = read_schema(" ".join(notation))
    make_schema(spelled)
    terminal.show(json.dumps(spelled, ensure_ascii=False, indent=2) + "\n")
