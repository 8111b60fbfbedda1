"""The form of an answer, as options describe it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from kimi_cli.errors import BadInput
from kimi_cli.options.bundles import FormOptions
from kimi_cli.settings.precedence import Settings
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.answer.checking import Check
    from kimi_cli.answer.forms import Form

YES, NO = "yes", "no"
"""The answers to a test: exit status 0 and 1."""


def plan_check(
    terminal: Terminal, options: FormOptions, settings: Settings, *, json_mode: bool, test: bool
) -> Check | None:
    """Return what the answer must be; None where any will do.

    Raises UsageError for two forms at once, BadInput or MissingInput for a schema that is none,
    ConfigError where the validator is not installed.
    """
    form = _make_form(options, json_mode=json_mode, test=test)
    if form is None:
        return None
    from kimi_cli.answer.checking import Check  # noqa: PLC0415 - for a form only
    from kimi_cli.answer.ways import Ways  # noqa: PLC0415 - the same

    ways = Ways(settings.profile.structured, terminal.tell)
    return Check(form=form, ways=ways, reasks=options.reask)


def _make_form(options: FormOptions, *, json_mode: bool, test: bool) -> Form | None:
    wanted = {
        "--schema": options.schema is not None,
        "--choice": bool(options.choice),
        "--extract": options.extract,
        "--extract-last": options.extract_last,
        "--json-mode": json_mode,
        "--test": test,
    }
    chosen = [name for name, is_wanted in wanted.items() if is_wanted]
    if len(chosen) > 1:
        raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
    if not chosen:
        return None
    from kimi_cli.answer import forms  # noqa: PLC0415 - for a form only

    if options.schema is not None:
        return forms.make_schema(read_schema(options.schema))
    if test:
        return forms.make_choice((YES, NO))
    if options.choice:
        return forms.make_choice([label for text in options.choice for label in text.split(",")])
    return forms.JsonForm() if json_mode else forms.BlockForm(last=options.extract_last)


def read_schema(text: str) -> object:
    """Return the schema that *text* is, or that the file of that name holds.

    What begins with ``{`` is JSON; a name that ends in ``.json``, or of a file that there is, is
    that file; anything else is the short notation. Raises BadInput or MissingInput.
    """
    from kimi_cli.answer.notation import read_notation  # noqa: PLC0415 - for a schema only
    from kimi_cli.api import codec  # noqa: PLC0415 - the same
    from kimi_cli.prompt.reading import Reading, read_text  # noqa: PLC0415 - the same

    where, written = "--schema", text
    if not text.lstrip().startswith("{"):
        if not text.endswith(".json") and not os.path.isfile(text):
            try:
                return read_notation(text)
            except ValueError as error:
                raise BadInput(f"--schema '{text}': {error}") from error
        where, written = text, read_text(text, Reading())
    try:
        return codec.loads_exactly(written)
    except ValueError as error:
        raise BadInput(f"{where} is not JSON: {error}") from error
