"""``kimi ask``: one question, one answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kimi_cli.options import (
    ConnectionOptions,
    HostOptions,
    RequestOptions,
    connection_options,
    host_options,
    request_options,
    verbosity_options,
)
from kimi_cli.prompt.reading import Reading, compose_prompt
from kimi_cli.service import load_settings, open_client
from kimi_cli.session import (
    AnswerOptions,
    ConversationOptions,
    InputOptions,
    answer_options,
    build_request,
    compose_messages,
    conversation_options,
    input_options,
    is_saved,
    list_parameters,
    make_manner,
    open_dialogue,
    recall,
    settle_model,
)
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.settings.precedence import Settings

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
@input_options
@conversation_options
@request_options
@answer_options
@click.option(
    "--dry-run", is_flag=True, help="Print the request body that would be sent, and exit."
)
@host_options
@connection_options
@verbosity_options
def ask(
    terminal: Terminal,
    *,
    prompt: tuple[str, ...],
    given: InputOptions,
    kept: ConversationOptions,
    asked: RequestOptions,
    style: AnswerOptions,
    host: HostOptions,
    connection: ConnectionOptions,
    dry_run: bool,
) -> None:
    """Ask one question and print the answer.

    The prompt is made of the words of PROMPT, then each --file, then standard input when it is a
    pipe or a file; '-' names standard input explicitly. The answer goes to standard output as it
    comes, the model's reasoning to standard error.
    """
    recalled = recall(terminal, kept)
    conversation = recalled[1] if recalled else None
    settings = load_settings(
        terminal, host, connection, asked, style, kept, conversation=conversation
    )
    text = _read_prompt(terminal, prompt, given, token_on_stdin=connection.token_file == "-")
    parameters = list_parameters(asked, settings, conversation)
    settings = settle_model(settings, parameters)
    saves = is_saved(terminal, settings, kept)
    is_single = recalled is None and not saves
    dialogue = None if is_single else open_dialogue(terminal, kept, recalled, saves=saves)
    messages = compose_messages(dialogue, settings, parameters, text, system=asked.system)
    request = build_request(settings, messages, parameters, stream=not style.no_stream)
    if settings.needs_engine:
        _warn_of_reach(terminal, settings, text)
    if dry_run:
        terminal.show(request.encode().decode() + "\n")
        return
    from kimi_cli.show.answer import Style, judge, print_answer  # noqa: PLC0415 - not for --dry-run

    shown = Style(
        as_json=style.as_json,
        reasoning=settings.reasoning == "show",
        markdown=settings.markdown,
    )
    with open_client(terminal, settings, connection, stream=request.stream) as client:
        if dialogue is None:
            answer = print_answer(client, request, terminal, shown)
        else:
            manner = make_manner(settings, parameters)
            with dialogue.record(text, manner, system=asked.system) as exchange:
                answer = print_answer(client, request, terminal, shown, exchange.note)
                exchange.end(answer.ending)
    judge(terminal, answer, allow_incomplete=style.allow_incomplete)


def _read_prompt(
    terminal: Terminal, words: tuple[str, ...], given: InputOptions, *, token_on_stdin: bool
) -> str:
    """Return the user message; a person at a terminal who gave none sees the usage."""
    if given.no_stdin and "-" in (*words, *given.file):
        raise click.UsageError("'-' asks for standard input, and --no-stdin forbids it")
    if token_on_stdin and "-" in (*words, *given.file):
        raise click.UsageError("standard input cannot be both the bearer token and the prompt")
    reading = Reading(given.encoding, given.replace_invalid, given.max_input, terminal.hint)
    use_stdin = not (given.no_stdin or token_on_stdin)
    text = compose_prompt(words, given.file, use_stdin=use_stdin, reading=reading)
    if text is None:
        raise click.UsageError("there is no prompt; give it as an argument, or pipe it in")
    return text


def _warn_of_reach(terminal: Terminal, settings: Settings, prompt: str) -> None:
    """Say that the small model behind the profile does not read all of a long text."""
    from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

    reach = engine.find_reach(engine.find_model(settings.local_model))
    if reach is not None and len(prompt) > reach:
        terminal.warn(f"this demonstration model reads the first {reach} characters of a text")
