"""``kimi ask``: one question, one answer."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from kimi_cli.errors import IncompleteAnswer
from kimi_cli.options import (
    ConnectionOptions,
    HostOptions,
    InputOptions,
    RequestOptions,
    build_request,
    connection_options,
    host_options,
    input_options,
    load_settings,
    open_client,
    request_options,
    verbosity_options,
)
from kimi_cli.prompt import Reading, compose_prompt
from kimi_cli.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.api.client import Client
    from kimi_cli.api.messages import Ending, Request
    from kimi_cli.settings import Settings

EPILOG = """\b
Examples:
  kimi ask "What is a pipe?"
  git diff | kimi ask "Write a commit message"
  kimi ask -f notes.txt "Summarise this in three points" > summary.txt
  kimi ask --json "Name a colour" | jq -r .content
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@input_options
@request_options
@click.option("--no-stream", is_flag=True, help="Ask for one JSON reply instead of a stream.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole answer as one JSON object.")
@click.option(
    "--reasoning",
    type=click.Choice(["show", "hide"]),
    help="Show the model's reasoning on stderr (default), or hide it.",
)
@click.option(
    "--allow-incomplete", is_flag=True, help="Exit 0 even if the answer ended early or is empty."
)
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
    asked: RequestOptions,
    host: HostOptions,
    connection: ConnectionOptions,
    no_stream: bool,
    as_json: bool,
    reasoning: str | None,
    allow_incomplete: bool,
    dry_run: bool,
) -> None:
    """Ask one question and print the answer.

    The prompt is made of the words of PROMPT, then each --file, then standard input when it is a
    pipe or a file; '-' names standard input explicitly. The answer goes to standard output as it
    comes, the model's reasoning to standard error.
    """
    settings = load_settings(terminal, host, connection, asked, reasoning=reasoning)
    text = _read_prompt(terminal, prompt, given, token_on_stdin=connection.token_file == "-")
    request = build_request(asked, settings, text, stream=not no_stream)
    _refuse_several_choices(request)
    if settings.needs_engine:
        _warn_of_reach(terminal, settings, text)
    if dry_run:
        terminal.show(request.encode().decode() + "\n")
        return
    began = time.monotonic()
    with open_client(terminal, settings, connection, stream=not no_stream) as client:
        if as_json:
            ending, has_text = _print_json(client, request, terminal)
        else:
            show_reasoning = settings.reasoning == "show" and not terminal.quiet
            ending, has_text = _print_text(client, request, terminal, show_reasoning)
    terminal.tell(f"{_describe(ending)}, {time.monotonic() - began:.1f} s")
    _judge(terminal, ending, has_text=has_text, allow_incomplete=allow_incomplete)


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


def _refuse_several_choices(request: Request) -> None:
    if request.parameters.get("n", 1) != 1:
        raise click.UsageError("an answer has one text here; run the command again instead of n=…")


def _warn_of_reach(terminal: Terminal, settings: Settings, prompt: str) -> None:
    """Say that the small model behind the profile does not read all of a long text."""
    from kimi_cli import local  # noqa: PLC0415 - an optional extra

    reach = local.find_reach(local.find_model(settings.local_model))
    if reach is not None and len(prompt) > reach:
        terminal.warn(f"this demonstration model reads the first {reach} characters of a text")


def _print_text(
    client: Client, request: Request, terminal: Terminal, show_reasoning: bool
) -> tuple[Ending, bool]:
    """Print the answer as it comes; return its ending, and whether it has any text."""
    from kimi_cli.transcript import Transcript  # noqa: PLC0415 - not needed for --dry-run

    transcript = Transcript(terminal, show_reasoning=show_reasoning)
    if not request.stream:
        completion = client.complete(request)
        with transcript:
            transcript.write(completion.delta)
        ending = completion.ending
    else:
        with client.stream(request) as stream, transcript:
            for delta in stream:
                transcript.write(delta)
        ending = stream.ending
    if ending.tool_calls and not transcript.has_content:
        terminal.show(ending.dump_tool_calls() + "\n")
    return ending, transcript.has_content


def _print_json(client: Client, request: Request, terminal: Terminal) -> tuple[Ending, bool]:
    """Print the whole answer as one line of JSON; return as ``_print_text`` does."""
    if request.stream:
        with client.stream(request) as stream:
            completion = stream.collect()
    else:
        completion = client.complete(request)
    terminal.show(completion.dump() + "\n")
    return completion.ending, bool(completion.content.strip())


def _describe(ending: Ending) -> str:
    usage = ending.usage or {}
    tokens = f"{usage.get('prompt_tokens', '?')} + {usage.get('completion_tokens', '?')} tokens"
    return f"answer {ending.id} by {ending.model}, finish_reason {ending.finish_reason}, {tokens}"


def _judge(terminal: Terminal, ending: Ending, *, has_text: bool, allow_incomplete: bool) -> None:
    """Raise IncompleteAnswer, or only warn of it, unless the model came to its own full stop."""
    flaw = ending.find_flaw(has_text=has_text)
    if flaw is None:
        return
    if not allow_incomplete:
        raise IncompleteAnswer(flaw)
    terminal.warn(flaw)
