"""``kimi chat``: questions and answers in turn."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import click

from kimi_cli.chat.talk import Talk
from kimi_cli.errors import BadInput, KimiError, Terminated
from kimi_cli.options import (
    ConnectionOptions,
    HostOptions,
    RequestOptions,
    connection_options,
    host_options,
    request_options,
    verbosity_options,
)
from kimi_cli.prompt.reading import STDIN, Reading, decode_argument, read_attachment, read_prompts
from kimi_cli.service import load_settings, open_client
from kimi_cli.session import (
    AnswerOptions,
    ConversationOptions,
    InputOptions,
    answer_options,
    conversation_options,
    find_window,
    input_options,
    is_saved,
    list_parameters,
    open_archive,
    open_dialogue,
    recall,
    settle_model,
)
from kimi_cli.show.answer import Style, judge
from kimi_cli.system.signals import handle_signals
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.chat.editor import Editor
    from kimi_cli.chat.plain import PlainEditor

EPILOG = """\b
Examples:
  kimi chat
  kimi chat -S planning "Where were we?"
  printf 'Name a colour\\nAnd its opposite\\n' | kimi chat
"""


@click.command(epilog=EPILOG)
@click.argument("prompt", nargs=-1)
@input_options
@conversation_options
@request_options
@answer_options
@host_options
@connection_options
@verbosity_options
def chat(
    terminal: Terminal,
    *,
    prompt: tuple[str, ...],
    given: InputOptions,
    kept: ConversationOptions,
    asked: RequestOptions,
    style: AnswerOptions,
    host: HostOptions,
    connection: ConnectionOptions,
) -> None:
    """Talk: ask, read the answer, ask on.

    On a terminal a line editor takes the questions, and /help lists the commands between them.
    Otherwise each line of standard input is a question, and the answers are printed in turn,
    apart by a blank line. PROMPT, with each --file, is the first question.
    """
    if STDIN in given.file:
        raise click.UsageError("the questions come from standard input; it cannot be a file, too")
    attended = _is_attended(terminal, given, token_on_stdin=connection.token_file == "-")
    recalled = recall(terminal, kept)
    conversation = recalled[1] if recalled else None
    settings = load_settings(
        terminal, host, connection, asked, style, kept, conversation=conversation
    )
    reading = Reading(given.encoding, given.replace_invalid, given.max_input, terminal.hint)
    first = " ".join(decode_argument(word) for word in prompt if word != STDIN)
    attachments = [read_attachment(path, reading) for path in given.file]
    parameters = list_parameters(asked, settings, conversation)
    settings = settle_model(settings, parameters)
    saves = is_saved(terminal, settings, kept)
    dialogue = open_dialogue(terminal, kept, recalled, saves=saves)
    with open_client(terminal, settings, connection, stream=not style.no_stream) as client:
        talk = Talk(
            terminal=terminal,
            client=client,
            settings=settings,
            archive=open_archive(terminal),
            dialogue=dialogue,
            style=Style(
                as_json=style.as_json,
                reasoning=settings.reasoning == "show",
                markdown=settings.markdown,
            ),
            environment=os.environ,
            parameters=parameters,
            system=asked.system,
            stream=not style.no_stream,
            saves=saves,
            window=find_window(settings),
            reading=reading,
            attachments=attachments,
        )
        if attended:
            _converse(talk, first)
        else:
            use_stdin = not (given.no_stdin or connection.token_file == "-")
            lines = read_prompts(reading) if use_stdin else ()
            _answer_lines(talk, first, lines, allow_incomplete=style.allow_incomplete)


def _is_attended(terminal: Terminal, given: InputOptions, *, token_on_stdin: bool) -> bool:
    """Tell whether a person is there to talk with."""
    if sys.stdin is None or not sys.stdin.isatty() or given.no_stdin or token_on_stdin:
        return False
    if not (terminal.out_is_terminal or terminal.err_is_terminal):
        raise click.UsageError("there is no screen to talk on; pipe the questions in, one a line")
    return True


def _converse(talk: Talk, first: str) -> None:
    """Talk with a person until they leave."""
    editor = _make_editor(talk)
    before = f", {talk.count_turns()} so far" if talk.conversation.entries else ""
    talk.terminal.hint(f"model {talk.settings.model}{before}; /help lists commands, Ctrl-D leaves")
    if first:
        with handle_signals({signal.SIGINT: talk.stop}):
            _ask(talk, first)
    while not talk.is_over and (line := editor.read(talk.draft)) is not None:
        talk.draft = ""
        with handle_signals({signal.SIGINT: talk.stop}):
            _take_line(talk, line)


def _take_line(talk: Talk, line: str) -> None:
    """Carry out a command, or ask a question; a failure leaves the chat as it was."""
    from kimi_cli.chat import slash  # noqa: PLC0415 - for a person only

    question: str | None = line
    try:
        _check_text(line)
        if line.startswith("//"):
            question = line[1:]
        elif line.startswith("/"):
            question = slash.run(talk, line)
        if question is not None and (question.strip() or talk.attachments):
            _ask(talk, question)
    except click.UsageError as error:
        talk.terminal.complain(_tell_usage(error))
    except KimiError as error:
        talk.terminal.complain(str(error))
    except Terminated as ending:
        if ending.signum != signal.SIGINT:
            raise
        talk.terminal.warn("stopped")


def _tell_usage(error: click.UsageError) -> str:
    message = error.format_message()
    return message[:1].lower() + message[1:]


def _check_text(line: str) -> None:
    if "\0" in line:
        raise BadInput("what was typed holds NUL bytes: it looks binary")
    try:
        line.encode()
    except UnicodeEncodeError as error:
        raise BadInput(
            f"what was typed is not UTF-8 at letter {error.start + 1}; set the terminal to UTF-8"
        ) from error


def _ask(talk: Talk, question: str) -> None:
    """Take one turn, whatever becomes of it; a blank line parts it from the next."""
    try:
        answer = talk.ask(question)
        if answer.flaw is not None:
            talk.terminal.warn(answer.flaw)
    except click.UsageError as error:
        talk.terminal.complain(f"{_tell_usage(error)}; /retry asks again")
    except Terminated as ending:
        if ending.signum != signal.SIGINT:
            raise
        talk.terminal.warn("stopped; /retry asks again")
    except KimiError as error:
        talk.terminal.complain(f"{error}; /retry asks again")
    talk.terminal.write_err("\n")


def _make_editor(talk: Talk) -> Editor | PlainEditor:
    if talk.terminal.is_dumb:
        from kimi_cli.chat.plain import PlainEditor  # noqa: PLC0415

        return PlainEditor(talk.terminal)
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415
    from kimi_cli.chat.editor import Editor, SlashCompleter  # noqa: PLC0415 - slow to load
    from kimi_cli.chat.slash import COMMANDS  # noqa: PLC0415

    def list_words(command: str) -> Iterable[str] | None:
        if command == "file":
            return None
        if command in ("load", "save"):
            return talk.archive.list_names()
        if command == "model":
            return [model.id for model in DOCUMENTED]
        return ("show", "hide") if command == "reasoning" else ()

    history = talk.archive.folder.parent / "history" if talk.saves else None
    return Editor(talk.terminal, SlashCompleter(list_words, COMMANDS), history)


def _answer_lines(talk: Talk, first: str, lines: Iterable[str], *, allow_incomplete: bool) -> None:
    """Answer question after question; the first failure ends it."""
    asked = 0
    for line in chain([first], lines):
        if not line.strip():
            continue
        asked += 1
        answer = talk.ask(line, attended=False)
        judge(talk.terminal, answer, allow_incomplete=allow_incomplete)
    if not asked:
        raise BadInput("there is no question; give it as an argument, or one a line on stdin")
