"""Options of ``ask`` and ``chat``, and the conversation that they describe."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

from kimi_cli.errors import KimiError, MissingInput
from kimi_cli.options import Encoding, RequestOptions, Text, bundle
from kimi_cli.settings.configfile import find_folder
from kimi_cli.settings.precedence import Settings
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.api.messages import Message, Request
    from kimi_cli.conversation.archive import Archive, ConversationFile
    from kimi_cli.conversation.dialogue import Dialogue
    from kimi_cli.conversation.record import Conversation, Manner


def complete_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the conversations that there are."""
    from kimi_cli.conversation.archive import LATEST  # noqa: PLC0415

    try:
        names = open_archive(Terminal(os.environ)).list_names()
    except KimiError:
        return []
    return [name for name in names if name.startswith(incomplete) and name != LATEST]


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What becomes part of the prompt besides its words."""

    file: tuple[str, ...]
    no_stdin: bool
    encoding: str
    replace_invalid: bool
    max_input: int


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How an answer is asked for and shown; None means not given."""

    no_stream: bool
    as_json: bool
    reasoning: str | None
    markdown: bool | None
    allow_incomplete: bool


@dataclass(frozen=True, kw_only=True)
class ConversationOptions:
    """Which conversation goes on, and whether it is kept; None means not given."""

    go_on: bool
    session: str | None
    save: bool | None


input_options = bundle(
    InputOptions,
    "given",
    click.option(
        "-f",
        "--file",
        multiple=True,
        metavar="PATH",
        type=click.Path(),
        help="Attach a text file, headed by its name; repeatable.",
    ),
    click.option("-n", "--no-stdin", is_flag=True, help="Leave standard input alone."),
    click.option(
        "--encoding",
        type=Encoding(),
        default="utf-8",
        metavar="NAME",
        help="Decode files and stdin as NAME (utf-8).",
    ),
    click.option(
        "--replace-invalid", is_flag=True, help="Replace bytes that cannot be decoded by U+FFFD."
    ),
    click.option(
        "--max-input",
        type=click.IntRange(1),
        default=64 * 2**20,
        metavar="BYTES",
        help="Refuse larger files and stdin (67108864).",
    ),
)


answer_options = bundle(
    AnswerOptions,
    "style",
    click.option("--no-stream", is_flag=True, help="Ask for one JSON reply instead of a stream."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the whole answer as one JSON object."
    ),
    click.option(
        "--reasoning",
        type=click.Choice(["show", "hide"]),
        help="Show the model's reasoning on stderr (default), or hide it.",
    ),
    click.option(
        "--markdown/--no-markdown",
        default=None,
        help="Render the answer's Markdown on a terminal, or do not.",
    ),
    click.option(
        "--allow-incomplete",
        is_flag=True,
        help="Exit 0 even if the answer ended early or is empty.",
    ),
)


conversation_options = bundle(
    ConversationOptions,
    "kept",
    click.option(
        "-c", "--continue", "go_on", is_flag=True, help="Go on with the latest conversation."
    ),
    click.option(
        "-S",
        "--session",
        type=Text(),
        metavar="NAME",
        shell_complete=complete_sessions,
        help="Go on with the conversation NAME, or begin it.",
    ),
    click.option(
        "--no-save",
        "save",
        flag_value=False,
        type=bool,
        default=None,
        help="Keep nothing of this conversation.",
    ),
)


def open_archive(terminal: Terminal) -> Archive:
    """Return where conversations are kept."""
    from kimi_cli.conversation.archive import Archive  # noqa: PLC0415 - most runs keep nothing

    state = find_folder(os.environ, "XDG_STATE_HOME", ".local/state")
    return Archive(state / "conversations", terminal.warn)


def recall(
    terminal: Terminal, kept: ConversationOptions
) -> tuple[ConversationFile, Conversation | None] | None:
    """Return the conversation that *kept* names, and its file; None when it names none.

    Raises MissingInput when there is nothing to go on with, BadInput for a damaged file.
    """
    if not kept.go_on and kept.session is None:
        return None
    from kimi_cli.conversation.archive import LATEST  # noqa: PLC0415

    name = LATEST if kept.session is None else kept.session
    file = open_archive(terminal).find(name)
    conversation = file.read()
    if conversation is None and kept.session is None:
        raise MissingInput("there is no conversation to go on with; ask something without -c first")
    return file, conversation


def is_saved(terminal: Terminal, settings: Settings, kept: ConversationOptions) -> bool:
    """Tell whether what is said now is kept: by a person at a terminal, or under a name."""
    saves = settings.save and (kept.session is not None or terminal.out_is_terminal)
    if kept.session is not None and not saves:
        why = "--no-save" if kept.save is False else settings.sources["save"]
        terminal.warn(f"conversation {kept.session} is not saved ({why})")
    return saves


def open_dialogue(
    terminal: Terminal,
    kept: ConversationOptions,
    recalled: tuple[ConversationFile, Conversation | None] | None,
    *,
    saves: bool,
) -> Dialogue:
    """Return the conversation that the next turn belongs to."""
    from kimi_cli.conversation.archive import LATEST  # noqa: PLC0415
    from kimi_cli.conversation.dialogue import Dialogue  # noqa: PLC0415

    if recalled is not None:
        file, conversation = recalled
        must_save = kept.session is not None
        return Dialogue(
            conversation, file if saves else None, warn=terminal.warn, must_save=must_save
        )
    latest = open_archive(terminal).find(LATEST) if saves else None
    return Dialogue(None, latest, warn=terminal.warn, is_new=True, must_save=False)


def list_parameters(
    asked: RequestOptions, settings: Settings, conversation: Conversation | None
) -> dict[str, Any]:
    """Return the body fields that were given, now or earlier in the conversation."""
    manner = conversation.manner if conversation is not None else None
    if manner is None or not manner.is_of(settings.profile.name):
        return asked.list_parameters()
    named = {"model"} if asked.model is not None else set()
    earlier = {key: value for key, value in manner.options.items() if key not in named}
    return {**earlier, **asked.list_parameters()}


def find_window(settings: Settings) -> int | None:
    """Return the tokens that the profile's engine reads; None for a host, which may not tell."""
    if not settings.needs_engine:
        return None
    from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

    return engine.CONTEXT_TOKENS


def make_manner(settings: Settings, parameters: Mapping[str, Any]) -> Manner:
    """Return what a conversation remembers of how a question was asked."""
    from kimi_cli.conversation.record import Manner  # noqa: PLC0415 - most runs keep nothing

    return Manner(
        model=settings.model,
        profile=settings.profile.name,
        base_url=settings.base_url or None,
        options=parameters,
    )


def settle_model(settings: Settings, parameters: dict[str, Any]) -> Settings:
    """Take the model out of *parameters*, where it was named as a field of the body.

    So it is one and the same for the request, the record, and all that depends on the model.
    """
    if not isinstance(parameters.get("model"), str):
        return settings
    sources = {**settings.sources, "model": "--option"}
    return replace(settings, model=parameters.pop("model"), sources=sources)


def compose_messages(
    dialogue: Dialogue | None,
    settings: Settings,
    parameters: Mapping[str, Any],
    prompt: str,
    *,
    system: str | None,
) -> list[Message]:
    """Return the messages up to the question *prompt*, with those of the *dialogue* before."""
    from kimi_cli.api.messages import Message  # noqa: PLC0415

    if dialogue is not None:
        thinking = parameters.get("thinking")
        keeps = isinstance(thinking, dict) and thinking.get("keep") == "all"
        return dialogue.compose(prompt, settings.model, system=system, keeps_reasoning=keeps)
    before = [] if system is None else [Message("system", system)]
    return [*before, Message("user", prompt)]


def build_request(
    settings: Settings, messages: Sequence[Message], parameters: Mapping[str, Any], **how: Any
) -> Request:
    """Return the request for the next answer; *how* goes to Request. Raises UsageError."""
    if parameters.get("n", 1) != 1:
        raise click.UsageError("an answer has one text here; run the command again instead of n=…")
    from kimi_cli.api.messages import Request  # noqa: PLC0415

    return Request(
        model=settings.model,
        messages=tuple(messages),
        ask_usage=settings.profile.ask_usage,
        parameters=parameters,
        **how,
    )
