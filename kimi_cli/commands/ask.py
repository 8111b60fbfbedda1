"""``kimi ask``: one question, one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from kimi_cli.api.fields import override
from kimi_cli.errors import ExitStatus
from kimi_cli.options.asking import OutputOptions, ToolOptions, output_options, tool_options
from kimi_cli.options.bundles import TurnOptions, turn_options, verbosity_options
from kimi_cli.options.templating import TemplateOptions, dress, template_options
from kimi_cli.prompt.content import Prompt
from kimi_cli.prompt.reading import Reading, compose_prompt
from kimi_cli.settings.precedence import Settings
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.forms import NO
from kimi_cli.turn.opening import Opening, Wishes, open_turn
from kimi_cli.turn.planning import plan_turn, warn_of_blindness

if TYPE_CHECKING:
    from kimi_cli.api.messages import Message
    from kimi_cli.prompt.templatefile import Template
    from kimi_cli.show.report import Report

EPILOG = """\b
Examples:
  kimi ask "What is a pipe?"
  kimi ask -c "And a named one?"
  git diff | kimi ask "Write a commit message"
  kimi ask -f notes.txt -o summary.txt "Summarise this in three points"
  kimi ask --json "Name a colour" | jq -r .content
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@turn_options
@template_options
@tool_options
@output_options
@verbosity_options
@click.pass_context
def ask(
    context: click.Context,
    terminal: Terminal,
    *,
    prompt: tuple[str, ...],
    options: TurnOptions,
    drafts: TemplateOptions,
    tools: ToolOptions,
    output: OutputOptions,
) -> None:
    """Ask one question and print the answer.

    The prompt is made of the words of PROMPT, then each --file, then standard input when it is a
    pipe or a file; '-' names standard input explicitly. The answer goes to standard output as it
    comes, the model's reasoning to standard error.
    """
    output.check(as_json=options.answer.as_json)
    template = drafts.load()
    if template is not None and tools.tool_result:
        raise click.UsageError("--tool-result and --template exclude each other")
    if template is not None:
        request, form = dress(options.request, options.form, template, test=output.test)
        options = replace(options, request=request, form=form)
    opening = open_turn(terminal, options, _list_wishes(tools, output, template))
    terms = opening.terms
    report = _open_report(terminal, output)
    results: tuple[Message, ...] = ()
    system = None
    if tools.tool_result:
        question = Prompt("")
        results = _read_results(terminal, prompt, options, tools, opening)
    else:
        given = dict(drafts.define)
        question, system = _read_prompt(terminal, prompt, options, terms.settings, template, given)
    if terms.system is None:
        terms = replace(terms, system=system)
    dialogue = None
    if not opening.is_alone:
        dialogue = opening.open_dialogue(opening.open_shelf(terminal))
    turn = plan_turn(question, terms, dialogue, results)
    warn_of_blindness(terminal, terms, question)
    if terms.settings.needs_engine:
        _warn_of_reach(terminal, terms.settings, question)
    if output.dry_run:
        terminal.show(turn.show() + "\n")
        return
    if output.count:
        from kimi_cli.turn.counting import show_count  # noqa: PLC0415 - only where it is wanted

        show_count(turn, terminal, as_json=options.answer.as_json)
        return
    from kimi_cli.turn.delivery import deliver  # noqa: PLC0415 - not for --dry-run

    answer = deliver(turn, terminal, options, output, report)
    if output.test and answer.fit is not None and answer.fit.value == NO:
        context.exit(ExitStatus.NO)


def _list_wishes(tools: ToolOptions, output: OutputOptions, template: Template | None) -> Wishes:
    """Return what is wanted of this one question; raises BadInput or MissingInput."""
    fields = {}
    if tools.tools is not None or tools.tool_choice is not None:
        from kimi_cli.turn.tools import list_fields  # noqa: PLC0415 - few questions have any

        fields = list_fields(tools)
    return Wishes(
        fields=override(template.options, fields) if template is not None else fields,
        prefix=output.prefix or "",
        test=output.test,
        resumes=bool(tools.tool_result),
    )


def _read_results(
    terminal: Terminal,
    words: tuple[str, ...],
    options: TurnOptions,
    tools: ToolOptions,
    opening: Opening,
) -> tuple[Message, ...]:
    """Return what came of the tools that the conversation waits for."""
    from kimi_cli.turn.tools import check_results, read_results  # noqa: PLC0415 - few bring any

    recalled, paths = opening.recalled, [path for _, path in tools.tool_result]
    check_results(
        tools.tool_result,
        has_prompt=bool(words or options.inputs.file or options.inputs.image),
        is_alone=recalled is None,
    )
    _check_stdin(options, paths)
    reading = _make_reading(terminal, options, opening.terms.settings)
    conversation = recalled.conversation if recalled else None
    return read_results(tools.tool_result, conversation, reading)


def _open_report(terminal: Terminal, output: OutputOptions) -> Report | None:
    """Return the file that gets the answer; None for standard output alone."""
    if output.output is None or output.dry_run:
        return None
    from kimi_cli.show.report import Report  # noqa: PLC0415 - for a file only

    return Report(output.output, terminal, is_copy=output.tee or output.events)


def _read_prompt(
    terminal: Terminal,
    words: tuple[str, ...],
    options: TurnOptions,
    settings: Settings,
    template: Template | None,
    given: Mapping[str, str],
) -> tuple[Prompt, str | None]:
    """Return what is asked, and the system prompt of a *template*.

    A person at a terminal who gave nothing sees the usage.
    """
    inputs = options.inputs
    named = [*words, *inputs.file, *inputs.image]
    _check_stdin(options, named)
    if "-" in inputs.image and named.count("-") > 1:
        raise click.UsageError("standard input is one image, and nothing else besides")
    reading = _make_reading(terminal, options, settings)
    use_stdin = not (inputs.no_stdin or options.connection.token_file == "-")
    if template is not None:
        from kimi_cli.prompt.filling import fill_prompt  # noqa: PLC0415 - for a template only

        files, images = inputs.file, inputs.image
        return fill_prompt(
            template, words, files, images, given, use_stdin=use_stdin, reading=reading
        )
    prompt = compose_prompt(words, inputs.file, inputs.image, use_stdin=use_stdin, reading=reading)
    if prompt is None:
        raise click.UsageError("there is no prompt; give it as an argument, or pipe it in")
    return prompt, None


def _check_stdin(options: TurnOptions, names: Sequence[str]) -> None:
    """Refuse to read standard input where it is forbidden, or something else."""
    if "-" in names and options.inputs.no_stdin:
        raise click.UsageError("'-' asks for standard input, and --no-stdin forbids it")
    if "-" in names and options.connection.token_file == "-":
        raise click.UsageError("standard input cannot be both the bearer token and the prompt")


def _make_reading(terminal: Terminal, options: TurnOptions, settings: Settings) -> Reading:
    """Return how files and standard input become text."""
    inputs = options.inputs
    return Reading(
        inputs.encoding,
        inputs.replace_invalid,
        inputs.max_input,
        terminal.warn,
        max_time=settings.max_time,
        began=terminal.began,
    )


def _warn_of_reach(terminal: Terminal, settings: Settings, prompt: Prompt) -> None:
    """Say that the small model behind the profile does not read all of a long text."""
    from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

    reach = engine.find_reach(engine.find_weights(settings.local_model))
    if reach is not None and len(prompt.text) > reach:
        terminal.warn(f"this demonstration model reads the first {reach} characters of a text")
