"""The loop of a chat: lines become questions or commands, and a failure ends neither of them."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

import click

from kimi_cli.answer.judgement import judge
from kimi_cli.chat.talk import Talk
from kimi_cli.errors import BadInput, KimiError, NotKept, Terminated
from kimi_cli.prompt.content import Prompt
from kimi_cli.system.signals import handle_signals

if TYPE_CHECKING:
    from kimi_cli.chat.editor import Editor
    from kimi_cli.chat.plain import PlainEditor


def converse(talk: Talk, first: str) -> None:
    """Talk with a person until they leave."""
    editor = _make_editor(talk)
    before = f", {talk.count_turns()} so far" if talk.conversation.entries else ""
    talk.terminal.hint(f"model {talk.terms.model}{before}; /help lists commands, Ctrl-D leaves")
    if first:
        with handle_signals({signal.SIGINT: talk.stopper.stop}):
            _ask(talk, Prompt(first))
    while not talk.is_over and (line := editor.read(talk.coming.draft)) is not None:
        talk.coming.draft = ""
        with handle_signals({signal.SIGINT: talk.stopper.stop}):
            _take_line(talk, line)
    talk.dialogue.check_kept()


def _take_line(talk: Talk, line: str) -> None:
    """Carry out a command, or ask a question; a failure leaves the chat as it was."""
    from kimi_cli.chat import slash  # noqa: PLC0415 - for a person only

    question: Prompt | None = Prompt(line)
    try:
        _check_text(line)
        line = slash.read_bare(line)
        if line.startswith("//"):
            question = Prompt(line[1:])
        elif line.startswith("/"):
            question = slash.run(talk, line)
        if question is not None and (not question.is_empty or talk.coming.attachments):
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


def _ask(talk: Talk, question: Prompt) -> None:
    """Take one turn, whatever becomes of it; a blank line parts it from the next."""
    try:
        answer = talk.ask(question)
        judge(answer, allow_incomplete=True, allow_invalid=True, warn=talk.terminal.warn)
    except click.UsageError as error:
        talk.terminal.complain(f"{_tell_usage(error)}; /retry asks again")
    except Terminated as ending:
        if ending.signum != signal.SIGINT:
            raise
        talk.terminal.warn("stopped; /retry asks again")
    except NotKept as error:
        talk.terminal.complain(f"{error}; /save NAME keeps it")
    except KimiError as error:
        said = str(error).removesuffix("; try again later")  # here it is asked by /retry
        talk.terminal.complain(f"{said}; /retry asks again")
    talk.terminal.write_err("\n")


def _make_editor(talk: Talk) -> Editor | PlainEditor:
    if talk.terminal.is_dumb:
        from kimi_cli.chat.plain import PlainEditor  # noqa: PLC0415 - for a dumb screen only

        return PlainEditor(talk.terminal)
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415 - for a person only
    from kimi_cli.chat.editor import Editor, SlashCompleter  # noqa: PLC0415 - slow to load
    from kimi_cli.chat.slash import COMMANDS  # noqa: PLC0415 - for a person only

    def list_words(command: str) -> Iterable[str] | None:
        if command in ("file", "image"):
            return None
        if command in ("load", "save"):
            return talk.shelf.archive.list_names()
        if command == "model":
            return [model.id for model in DOCUMENTED]
        return ("show", "hide") if command == "reasoning" else ()

    history = talk.shelf.archive.folder.parent / "history" if talk.shelf.saves else None
    return Editor(talk.terminal, SlashCompleter(list_words, COMMANDS), history)


def answer_lines(talk: Talk, first: str, lines: Iterable[str], *, allow_incomplete: bool) -> None:
    """Answer question after question; the first failure ends it.

    Raises BadInput where there is no question, and what ``Talk.ask`` raises.
    """
    asked = 0
    for line in chain([first], lines):
        if not line.strip():
            continue
        asked += 1
        answer = talk.ask(Prompt(line), attended=False)
        judge(
            answer,
            allow_incomplete=allow_incomplete,
            allow_invalid=talk.look.allow_invalid,
            warn=talk.terminal.warn,
        )
    if not asked:
        raise BadInput("there is no question; give it as an argument, or one a line on stdin")
