"""Templates as options name them, and what they say where the command line says nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from kimi_cli.api import codec
from kimi_cli.errors import BadInput
from kimi_cli.options.bundles import FormOptions, RequestOptions, bundle
from kimi_cli.options.completion import complete_templates
from kimi_cli.options.types import Utf8
from kimi_cli.prompt.reading import decode_argument

if TYPE_CHECKING:
    from kimi_cli.prompt.templatefile import Template


class Definition(click.ParamType[tuple[str, str]]):
    """``NAME=VALUE``: what goes into a field."""

    name = "name=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return the name and the value."""
        name, equals, text = decode_argument(value).partition("=")
        if not name or not equals:
            self.fail(f"'{value}' is not NAME=VALUE", param, ctx)
        return name, text


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TemplateOptions:
    """The template of a prompt, and what goes into its fields; None means not given."""

    template: str | None
    define: tuple[tuple[str, str], ...]

    def load(self) -> Template | None:
        """Return the template that was named; raises as ``load_template`` does."""
        if self.template is None:
            if self.define:
                raise click.UsageError("-D gives a field of a template; name that with -t")
            return None
        return load_template(self.template)


template_option = click.option(
    "-t",
    "--template",
    type=Utf8(),
    metavar="NAME",
    shell_complete=complete_templates,
    help="Make the prompt from the template NAME, or from one at a path; see kimi template.",
)


template_options = bundle(
    TemplateOptions,
    "drafts",
    template_option,
    click.option(
        "-D",
        "--define",
        type=Definition(),
        multiple=True,
        metavar="NAME=VALUE",
        help="Put VALUE into the template's field {NAME}; repeatable.",
    ),
)


def load_template(name: str) -> Template:
    """Return the template *name*.

    Raises MissingInput, BadInput for a head that is none, UsageError for fields that are none.
    """
    from kimi_cli.prompt import templatefile  # noqa: PLC0415 - for a template only
    from kimi_cli.prompt.templates import TemplateError  # noqa: PLC0415 - the same

    try:
        found = templatefile.read_template(name, templatefile.find_templates(os.environ))
    except TemplateError as error:
        raise click.UsageError(f"--template {name}: {error}") from error
    if found.schema is None or found.schema.lstrip().startswith("{"):
        return found
    from kimi_cli.answer.notation import read_notation  # noqa: PLC0415 - for a schema only

    try:
        # As JSON it is never taken for the name of a file.
        return replace(found, schema=codec.dumps(read_notation(found.schema)))
    except ValueError as error:
        raise BadInput(
            f"template {name}: 'schema' is neither JSON nor the short notation: {error}"
        ) from error


def dress(
    request: RequestOptions, form: FormOptions, template: Template, *, test: bool = False
) -> tuple[RequestOptions, FormOptions]:
    """Return the options with what *template* says where the command line says nothing.

    A *test* is a form that the command line asks for. The system prompt is not among them, nor
    are body fields: the one has fields of its own, the others are weaker than any option. Raises
    BadInput for a label that is empty.
    """
    if request.model is None and template.model is not None:
        request = replace(request, model=template.model)
    asked = form.schema is not None or form.choice or form.extract or form.extract_last
    if template.has_form and not (asked or request.json_mode or test):
        form = replace(
            form, schema=template.schema, choice=template.choice, extract=template.extract
        )
    if form.choice and not all(form.choice):
        raise BadInput(f"template {template.name}: a label of 'choice' is empty")
    return request, form
