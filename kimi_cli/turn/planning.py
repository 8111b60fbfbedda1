"""A turn and its life: planned, shown, put on record, asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import click

from kimi_cli.api.messages import Message, Request
from kimi_cli.errors import BadInput
from kimi_cli.prompt.content import Prompt, find_excess, measure
from kimi_cli.turn.terms import Terms

if TYPE_CHECKING:
    from kimi_cli.answer.asking import Follow, Listener
    from kimi_cli.answer.judgement import Answer
    from kimi_cli.api.client import Client
    from kimi_cli.conversation.dialogue import Dialogue
    from kimi_cli.show.printing import Look
    from kimi_cli.system.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One question and its answer."""

    prompt: Prompt
    terms: Terms
    request: Request
    dialogue: Dialogue | None
    """The conversation that it belongs to; None for a question that stands alone."""
    results: tuple[Message, ...] = ()
    """What came of the tools that were called, in place of the question."""

    def show(self) -> str:
        """Return the body that would be sent first, for ``--dry-run``."""
        return self.shape().encode().decode()

    def shape(self) -> Request:
        """Return the request that would be sent first."""
        request, check = self.request, self.terms.check
        if self.terms.prefix:
            from kimi_cli.answer.extending import begin  # noqa: PLC0415 - for a prefix only

            request = begin(request, self.terms.prefix)
        if check is not None:
            from kimi_cli.answer.checking import shape_request  # noqa: PLC0415 - for a form only

            way = check.ways.choose(check.form)
            assert way is not None  # noqa: S101 - nothing was refused yet
            request = shape_request(request, check.form, way)
        return request

    @contextmanager
    def record(self) -> Iterator[tuple[Listener, ...]]:
        """Put the question on record, and what comes of the answer, however it ends.

        Yields who is to be told of the answer. Raises what ``Dialogue.record`` raises.
        """
        if self.dialogue is None:
            yield ()
            return
        manner = self.terms.make_manner()
        with self.dialogue.record(
            self.prompt, manner, system=self.terms.system, results=self.results
        ) as recording:
            yield (recording,)

    def ask(self, client: Client, terminal: Terminal, look: Look, *listeners: Listener) -> Answer:
        """Ask and print the answer; *listeners* are handed each piece of it first.

        Raises what the client raises, OutputClosed and OutputFailed.
        """
        follow = self._choose_follow(client, terminal)
        if (check := self.terms.check) is None:
            from kimi_cli.show.printing import print_answer  # noqa: PLC0415 - not for --dry-run

            return print_answer(follow, self.request, terminal, look, *listeners)
        from kimi_cli.show.checked import print_checked  # noqa: PLC0415 - for a form only

        return print_checked(follow, self.request, terminal, look, check, *listeners)

    def _choose_follow(self, client: Client, terminal: Terminal) -> Follow:
        """Return how the answer is asked for."""
        follow = self._choose_asker(client)
        if not (self.terms.extend or self.terms.prefix):
            return follow
        from kimi_cli.answer.extending import Extension, extend  # noqa: PLC0415 - for them only

        extension = Extension(
            times=self.terms.extend,
            prefix=self.terms.prefix,
            keeps_reasoning=self.terms.sends_reasoning,
            tell=terminal.tell,
        )
        return extend(follow, extension)

    def _choose_asker(self, client: Client) -> Follow:
        """Return how one request is put to the host."""
        if self.terms.fallbacks is not None:
            from kimi_cli.answer.fallback import fall_back  # noqa: PLC0415 - for them only

            return fall_back(client, self.terms.fallbacks)
        from kimi_cli.answer.asking import follow  # noqa: PLC0415 - not for --dry-run

        return partial(follow, client)


def plan_turn(
    prompt: Prompt,
    terms: Terms,
    dialogue: Dialogue | None = None,
    results: tuple[Message, ...] = (),
) -> Turn:
    """Plan the turn that asks *prompt* next in *dialogue*, or alone.

    *results* of tools go in its place. Raises UsageError where more than one answer is asked for,
    BadInput for too many images.
    """
    if terms.parameters.get("n", 1) != 1:
        raise click.UsageError("an answer has one text here; run the command again instead of n=…")
    request = Request(
        model=terms.settings.model,
        messages=tuple(_compose_messages(prompt, terms, dialogue, results)),
        stream=terms.stream,
        ask_usage=terms.settings.profile.ask_usage or not terms.settings.at_home,
        parameters=terms.parameters,
    )
    if excess := find_excess(sum(measure(message.content) for message in request.messages)):
        more = "" if dialogue is None else ", or in a new conversation"
        raise BadInput(f"{excess}{more}")
    return Turn(prompt=prompt, terms=terms, request=request, dialogue=dialogue, results=results)


def warn_of_blindness(terminal: Terminal, terms: Terms, prompt: Prompt) -> None:
    """Say that *prompt* has images, and the model is known to see none."""
    if not prompt.others:
        return
    from kimi_cli.api.catalogue import is_blind, tell_blindness  # noqa: PLC0415 - for images only

    if terms.settings.needs_engine or is_blind(terms.model):
        terminal.warn(tell_blindness(terms.model))


def _compose_messages(
    prompt: Prompt, terms: Terms, dialogue: Dialogue | None, results: tuple[Message, ...]
) -> list[Message]:
    """Return the messages up to the question, with those of the *dialogue* before."""
    if dialogue is not None:
        return dialogue.compose(
            prompt,
            terms.settings.model,
            system=terms.system,
            keeps_reasoning=terms.sends_reasoning,
            results=results,
        )
    before = [] if terms.system is None else [Message("system", terms.system)]
    return [*before, Message("user", prompt.to_content())]
