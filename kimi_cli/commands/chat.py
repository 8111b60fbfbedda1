"""``kimi chat``: questions and answers in turn."""

from __future__ import annotations

import sys

import click

from kimi_cli.chat.loop import answer_lines, converse
from kimi_cli.chat.talk import Coming, Talk
from kimi_cli.host import open_client
from kimi_cli.options.bundles import InputOptions, TurnOptions, turn_options, verbosity_options
from kimi_cli.prompt.content import Prompt
from kimi_cli.prompt.reading import (
    STDIN,
    Reading,
    decode_argument,
    read_attachment,
    read_image,
    read_prompts,
)
from kimi_cli.show.printing import Look
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.opening import open_turn

EPILOG = """\b
Examples:
  kimi chat
  kimi chat -S planning "Where were we?"
  printf 'Name a colour\\nAnd its opposite\\n' | kimi chat
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@turn_options
@verbosity_options
def chat(terminal: Terminal, *, prompt: tuple[str, ...], options: TurnOptions) -> None:
    """Talk: ask, read the answer, ask on.

    On a terminal a line editor takes the questions, and /help lists the commands between them.
    Otherwise each line of standard input is a question, and the answers are printed in turn,
    apart by a blank line. PROMPT, with each --file and --image, is the first question.
    """
    inputs = options.inputs
    if STDIN in (*inputs.file, *inputs.image):
        raise click.UsageError("the questions come from standard input; it cannot be a file, too")
    token_on_stdin = options.connection.token_file == "-"
    attended = _is_attended(terminal, inputs, token_on_stdin=token_on_stdin)
    opening = open_turn(terminal, options)
    terms = opening.terms
    reading = Reading(inputs.encoding, inputs.replace_invalid, inputs.max_input, terminal.hint)
    first = " ".join(decode_argument(word) for word in prompt if word != STDIN)
    attachments = [Prompt(read_attachment(path, reading)) for path in inputs.file]
    attachments += [read_image(path, reading) for path in inputs.image]
    shelf = opening.open_shelf(terminal)
    with open_client(terminal, terms.settings, options.connection, stream=terms.stream) as client:
        talk = Talk(
            terminal=terminal,
            client=client,
            terms=terms,
            shelf=shelf,
            dialogue=opening.open_dialogue(shelf),
            look=Look.of(
                terms.settings,
                terminal,
                as_json=options.answer.as_json,
                allow_invalid=options.form.allow_invalid,
            ),
            reading=reading,
            coming=Coming(attachments=attachments),
        )
        if attended:
            converse(talk, first)
        else:
            use_stdin = not (inputs.no_stdin or token_on_stdin)
            lines = read_prompts(reading) if use_stdin else ()
            allow_incomplete = options.answer.allow_incomplete
            answer_lines(talk, first, lines, allow_incomplete=allow_incomplete)


def _is_attended(terminal: Terminal, inputs: InputOptions, *, token_on_stdin: bool) -> bool:
    """Tell whether a person is there to talk with."""
    if sys.stdin is None or not sys.stdin.isatty() or inputs.no_stdin or token_on_stdin:
        return False
    if not (terminal.out_is_terminal or terminal.err_is_terminal):
        raise click.UsageError("there is no screen to talk on; pipe the questions in, one a line")
    return True
