"""``kimi ask``: one question, one answer."""

from __future__ import annotations

import click

from kimi_cli.errors import ExitStatus
from kimi_cli.host import open_client
from kimi_cli.options.bundles import TurnOptions, turn_options, verbosity_options
from kimi_cli.prompt.content import Prompt
from kimi_cli.prompt.reading import Reading, compose_prompt
from kimi_cli.settings.precedence import Settings
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.forms import NO
from kimi_cli.turn.opening import open_turn
from kimi_cli.turn.planning import plan_turn

EPILOG = """\b
Examples:
  kimi ask "What is a pipe?"
  kimi ask -c "And a named one?"
  git diff | kimi ask "Write a commit message"
  kimi ask -f notes.txt "Summarise this in three points" > summary.txt
  kimi ask --json "Name a colour" | jq -r .content
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@turn_options
@click.option(
    "--dry-run", is_flag=True, help="Print the request body that would be sent, and exit."
)
@click.option(
    "--test", is_flag=True, help="Print nothing; exit 0 if the answer is yes, 1 if it is no."
)
@verbosity_options
@click.pass_context
def ask(
    context: click.Context,
    terminal: Terminal,
    *,
    prompt: tuple[str, ...],
    options: TurnOptions,
    dry_run: bool,
    test: bool,
) -> None:
    """Ask one question and print the answer.

    The prompt is made of the words of PROMPT, then each --file, then standard input when it is a
    pipe or a file; '-' names standard input explicitly. The answer goes to standard output as it
    comes, the model's reasoning to standard error.
    """
    opening = open_turn(terminal, options, test=test)
    terms = opening.terms
    question = _read_prompt(terminal, prompt, options, terms.settings)
    dialogue = None
    if not opening.is_alone:
        dialogue = opening.open_dialogue(opening.open_shelf(terminal))
    turn = plan_turn(question, terms, dialogue)
    if terms.settings.needs_engine:
        _warn_of_reach(terminal, terms.settings, question)
    if dry_run:
        terminal.show(turn.show() + "\n")
        return
    from kimi_cli.answer.judgement import judge  # noqa: PLC0415 - not for --dry-run
    from kimi_cli.show.printing import Look  # noqa: PLC0415 - the same

    look = Look.of(
        terms.settings,
        terminal,
        as_json=options.answer.as_json,
        allow_invalid=options.form.allow_invalid,
        silent=test,
    )
    with (
        open_client(
            terminal,
            terms.settings,
            options.connection,
            stream=terms.stream,
            since=terminal.began,
        ) as client,
        turn.record() as listeners,
    ):
        answer = turn.ask(client, terminal, look, *listeners)
    judge(
        answer,
        allow_incomplete=options.answer.allow_incomplete and not test,
        allow_invalid=options.form.allow_invalid and not test,
        warn=terminal.warn,
    )
    if test and answer.fit is not None and answer.fit.value == NO:
        context.exit(ExitStatus.NO)


def _read_prompt(
    terminal: Terminal, words: tuple[str, ...], options: TurnOptions, settings: Settings
) -> Prompt:
    """Return what is asked; a person at a terminal who gave nothing sees the usage."""
    inputs, token_on_stdin = options.inputs, options.connection.token_file == "-"
    if inputs.no_stdin and "-" in (*words, *inputs.file):
        raise click.UsageError("'-' asks for standard input, and --no-stdin forbids it")
    if token_on_stdin and "-" in (*words, *inputs.file):
        raise click.UsageError("standard input cannot be both the bearer token and the prompt")
    reading = Reading(
        inputs.encoding,
        inputs.replace_invalid,
        inputs.max_input,
        terminal.warn,
        max_time=settings.max_time,
        began=terminal.began,
    )
    use_stdin = not (inputs.no_stdin or token_on_stdin)
    prompt = compose_prompt(words, inputs.file, use_stdin=use_stdin, reading=reading)
    if prompt is None:
        raise click.UsageError("there is no prompt; give it as an argument, or pipe it in")
    return prompt


def _warn_of_reach(terminal: Terminal, settings: Settings, prompt: Prompt) -> None:
    """Say that the small model behind the profile does not read all of a long text."""
    from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

    reach = engine.find_reach(engine.find_weights(settings.local_model))
    if reach is not None and len(prompt.text) > reach:
        terminal.warn(f"this demonstration model reads the first {reach} characters of a text")
