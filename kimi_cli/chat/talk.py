"""A chat in progress: its conversation, what the next question carries, and how it is answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from kimi_cli.api.catalogue import find_model
from kimi_cli.api.client import Client
from kimi_cli.api.messages import count_tokens
from kimi_cli.chat.status import StatusLine, hush_keyboard
from kimi_cli.conversation.archive import LATEST, Archive
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Conversation
from kimi_cli.errors import BadInput, MissingInput, Terminated
from kimi_cli.prompt.reading import Reading
from kimi_cli.session import build_request, compose_messages, make_manner
from kimi_cli.settings.precedence import Settings
from kimi_cli.show.answer import Answer, Style, print_answer
from kimi_cli.system.terminal import Terminal

_NEARLY_FULL = 0.9
_LETTERS_PER_TOKEN, _SIGNS_PER_TOKEN = 3, 1.5
"""Roughly, of ASCII and of all other characters."""


@dataclass(kw_only=True)
class Talk:
    """The state that a chat's commands change. Between two questions nothing is unsaved."""

    terminal: Terminal
    client: Client
    settings: Settings
    archive: Archive
    dialogue: Dialogue
    style: Style
    environment: Mapping[str, str]
    parameters: dict[str, Any]
    system: str | None = None
    """A system prompt that is in force from the next question on."""
    stream: bool = True
    saves: bool = True
    window: int | None = None
    """Tokens that the model reads, where the catalogue does not know."""
    reading: Reading = field(default_factory=Reading)
    """How files become text."""
    attachments: list[str] = field(default_factory=list)
    draft: str = ""
    """What the editor begins with."""
    unasked: str | None = None
    """A question that did not even get on record."""
    is_over: bool = False
    _answers: int = 0
    _may_stop: bool = False

    @property
    def conversation(self) -> Conversation:
        """What was said so far."""
        return self.dialogue.conversation

    def count_turns(self) -> str:
        """Return how long the conversation is, in words."""
        turns = len(self.conversation.list_turns())
        return "1 turn" if turns == 1 else f"{turns} turns"

    def ask(self, text: str, *, attended: bool = True) -> Answer:
        """Take one turn: *text*, with what was attached, and its answer.

        *attended* is for a person at a terminal. Raises what the client raises, Terminated when
        the answer was stopped, and what ``Dialogue.record`` raises.
        """
        question = "\n\n".join([*([text] if text.strip() else []), *self.attachments])
        self.unasked, self.attachments = question, []
        messages = compose_messages(
            self.dialogue, self.settings, self.parameters, question, system=self.system
        )
        request = build_request(self.settings, messages, self.parameters, stream=self.stream)
        self._warn_when_full(question)
        manner = make_manner(self.settings, self.parameters)
        with ExitStack() as stack:
            exchange = stack.enter_context(
                self.dialogue.record(question, manner, system=self.system)
            )
            self.unasked, self.system = None, None
            style = replace(self.style, gap=self._needs_gap(attended=attended))
            listeners = [exchange.note]
            if attended:
                status = StatusLine(
                    self.terminal,
                    reasoning_is_shown=style.reasoning,
                    comes_in_blocks=style.markdown and self.terminal.out_is_terminal,
                )
                stack.enter_context(hush_keyboard(self.terminal))
                listeners.append(stack.enter_context(status).note)
            with self.stoppable():
                answer = print_answer(self.client, request, self.terminal, style, *listeners)
            self._answers += answer.has_text or bool(answer.ending.tool_calls)
            exchange.end(answer.ending)
        self._warn_when_full("")
        return answer

    def _needs_gap(self, *, attended: bool) -> bool:
        """Tell whether a blank line parts the answer from the one before: a screen has one."""
        on_screen = attended and self.terminal.out_is_terminal
        return self._answers > 0 and not on_screen and not self.style.as_json

    def stop(self, signum: int) -> None:
        """Stop the answer that is coming; between two answers there is nothing to stop."""
        if self._may_stop:
            self._may_stop = False
            raise Terminated(signum)

    def begin_anew(self) -> None:
        """Begin another conversation; the model, its options and the system prompt stay."""
        if self.system is None:
            self.system = self.conversation.system
        self.unasked = None
        file = self.archive.find(LATEST) if self.saves else None
        self.dialogue = Dialogue(None, file, warn=self.terminal.warn, is_new=True, must_save=False)

    def load(self, name: str) -> None:
        """Go on with another conversation; raises BadInput when it belongs to another host."""
        file = self.archive.find(name)
        conversation = file.read()
        if conversation is None:
            raise MissingInput(f"there is no conversation '{name}'; see 'kimi log'")
        manner = conversation.manner
        if manner is not None:
            here = make_manner(self.settings, {})
            if (manner.profile, manner.base_url) != (here.profile, here.base_url):
                raise BadInput(
                    f"conversation {name} was held with {manner.base_url or manner.profile}; "
                    f"leave, and run: kimi chat -S {name}"
                )
            self.settings = replace(self.settings, model=manner.model)
            self.parameters = dict(manner.options)
        self.system = self.unasked = None
        self.dialogue = Dialogue(
            conversation, file if self.saves else None, warn=self.terminal.warn
        )

    def save(self, name: str) -> None:
        """Keep the conversation under a name of its own; raises BadInput when that is taken."""
        file = self.archive.find(name)
        if not self.conversation.entries:
            raise BadInput("nothing has been said yet")
        self.dialogue.move(file)

    def find_window(self) -> int | None:
        """Return how many tokens the model reads, where that is known."""
        known = find_model(self.settings.model)
        return known.context if known is not None else self.window

    @contextmanager
    def stoppable(self) -> Iterator[None]:
        """Let ^C stop what is done here."""
        self._may_stop = True
        try:
            yield
        finally:
            self._may_stop = False

    def _warn_when_full(self, question: str) -> None:
        """Say that the model's window is nearly full, before the host refuses."""
        window = self.find_window()
        if window is None:
            return
        used: float | None = count_tokens(self.conversation.usage or {}, "total_tokens")
        if used is None:
            used = sum(_guess_tokens(entry.message.text) for entry in self.conversation.entries)
        share = (used + _guess_tokens(question)) / window
        if share >= _NEARLY_FULL:
            self.terminal.warn(
                f"this conversation fills {share:.0%} of the {window:,} tokens that "
                f"{self.settings.model} reads; /new begins another"
            )


def _guess_tokens(text: str) -> float:
    """Return about how many tokens *text* is."""
    signs = (len(text.encode(errors="replace")) - len(text)) / 2  # most have three bytes
    return (len(text) - signs) / _LETTERS_PER_TOKEN + signs / _SIGNS_PER_TOKEN
