"""What the options of ``ask`` and ``chat`` describe before anything is asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from kimi_cli.api.fields import override
from kimi_cli.errors import ConfigError, MissingInput
from kimi_cli.host import load_settings
from kimi_cli.options.bundles import ConversationOptions, TurnOptions
from kimi_cli.settings.precedence import Settings, settle_model
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.forms import plan_check
from kimi_cli.turn.terms import Terms

if TYPE_CHECKING:
    from kimi_cli.answer.fallback import Fallbacks
    from kimi_cli.conversation.archive import Archive, ConversationFile
    from kimi_cli.conversation.dialogue import Dialogue
    from kimi_cli.conversation.record import Conversation, Manner
    from kimi_cli.conversation.shelf import Shelf


@dataclass(frozen=True)
class Recalled:
    """A conversation that was named, with its file; None where it is still to begin."""

    file: ConversationFile
    conversation: Conversation | None
    must_save: bool
    """Whether it was named so that it is kept."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """The terms of the first question, and the conversation that it belongs to."""

    terms: Terms
    recalled: Recalled | None
    saves: bool
    """Whether what is said now is kept."""

    @property
    def is_alone(self) -> bool:
        """Whether the question has no conversation, neither before nor after it."""
        return self.recalled is None and not self.saves

    def open_shelf(self, terminal: Terminal) -> Shelf:
        """Return where conversations of this run go."""
        from kimi_cli.conversation.shelf import Shelf  # noqa: PLC0415 - most runs keep nothing

        return Shelf(open_archive(terminal), self.saves, terminal.warn)

    def open_dialogue(self, shelf: Shelf) -> Dialogue:
        """Return the conversation that the first turn belongs to."""
        if (recalled := self.recalled) is None:
            return shelf.begin()
        return shelf.go_on(recalled.file, recalled.conversation, must_save=recalled.must_save)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Wishes:
    """What may be wanted of one question, and of no chat."""

    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of its body, weaker than those of ``-O``."""
    prefix: str = ""
    """What its answer begins with."""
    test: bool = False
    """Whether the answer is yes or no."""
    resumes: bool = False
    """Whether it brings the results of tools, and asks nothing."""


def open_turn(terminal: Terminal, options: TurnOptions, wishes: Wishes | None = None) -> Opening:
    """Settle what *options* and *wishes* say of the first question.

    Raises MissingInput when there is nothing to go on with, BadInput for a damaged conversation,
    ConfigError, UsageError.
    """
    wishes = wishes or Wishes()
    recalled = _recall(terminal, options.conversation)
    conversation = recalled.conversation if recalled else None
    manner = conversation.manner if conversation else None
    settings = load_settings(
        terminal,
        options.host,
        options.connection,
        options.request,
        options.answer,
        options.conversation,
        manner=manner,
    )
    parameters = _list_parameters(options, wishes, settings, manner)
    settings = settle_model(settings, parameters)
    extend = options.answer.extend or 0
    if extend or wishes.prefix:
        _check_extension("--prefix" if wishes.prefix else "--extend", settings, parameters)
    check = plan_check(
        terminal,
        options.form,
        settings,
        json_mode=options.request.json_mode,
        test=wishes.test,
    )
    _check_tools(wishes, parameters, has_form=check is not None)
    return Opening(
        terms=Terms(
            settings=settings,
            parameters=parameters,
            system=options.request.system,
            stream=not options.answer.no_stream,
            fallbacks=_make_fallbacks(terminal, options.answer.fallback),
            extend=extend,
            prefix=wishes.prefix,
            check=check,
        ),
        recalled=recalled,
        saves=_is_saved(terminal, settings, options.conversation),
    )


def _make_fallbacks(terminal: Terminal, models: tuple[str, ...]) -> Fallbacks | None:
    """Return who stands in for a model that is not to be had; None where nobody does."""
    if not models:
        return None
    from kimi_cli.answer.fallback import Fallbacks  # noqa: PLC0415 - for them only

    return Fallbacks(models=models, warn=terminal.warn)


def _check_extension(option: str, settings: Settings, parameters: Mapping[str, Any]) -> None:
    """Refuse what cannot be gone on with."""
    if "messages" in parameters:
        raise click.UsageError(f"{option} and -O messages exclude each other")
    if not settings.profile.continues:
        raise ConfigError(
            f"the host of profile {settings.profile.name} does not go on with an answer "
            f"(continues = false); leave {option} out"
        )


def _check_tools(wishes: Wishes, parameters: Mapping[str, Any], *, has_form: bool) -> None:
    """Refuse what tools cannot go together with."""
    if has_form and "tools" in wishes.fields:
        raise click.UsageError(
            "--tools and an answer of a form exclude each other: a call has none"
        )
    if wishes.resumes and "messages" in parameters:
        raise click.UsageError("--tool-result and -O messages exclude each other")
    if "tool_choice" in wishes.fields and "tools" not in parameters:
        raise click.UsageError("--tool-choice needs tools to choose from; see --tools")


def open_archive(terminal: Terminal) -> Archive:
    """Return where conversations are kept."""
    from kimi_cli.conversation import archive  # noqa: PLC0415 - most runs keep nothing

    return archive.open_archive(os.environ, terminal.warn)


def _recall(terminal: Terminal, kept: ConversationOptions) -> Recalled | None:
    """Return the conversation that *kept* names; None when it names none."""
    if not kept.go_on and kept.session is None:
        return None
    from kimi_cli.conversation.archive import LATEST  # noqa: PLC0415 - most runs keep nothing

    is_named = kept.session is not None
    file = open_archive(terminal).find(kept.session if kept.session is not None else LATEST)
    conversation = file.read()
    if conversation is None and not is_named:
        raise MissingInput("there is no conversation to go on with; ask something without -c first")
    return Recalled(file, conversation, must_save=is_named)


def _is_saved(terminal: Terminal, settings: Settings, kept: ConversationOptions) -> bool:
    """Tell whether what is said now is kept: by a person at a terminal, or under a name."""
    saves = settings.save and (kept.session is not None or terminal.out_is_terminal)
    if kept.session is not None and not saves:
        why = "--no-save" if kept.save is False else settings.sources["save"]
        terminal.warn(f"conversation {kept.session} is not saved ({why})")
    return saves


def _list_parameters(
    options: TurnOptions, wishes: Wishes, settings: Settings, manner: Manner | None
) -> dict[str, Any]:
    """Return the body fields that were given, now or earlier in the conversation.

    A choice of tools that was made for the question would have them called for ever.
    """
    given = override(wishes.fields, options.request.list_parameters(settings.profile))
    if manner is None or not manner.is_of(settings.profile.name):
        return given
    named = {"model"} if options.request.model is not None else set()
    named |= {"tool_choice"} if wishes.resumes else set()
    earlier = {key: value for key, value in manner.options.items() if key not in named}
    return override(earlier, given)
