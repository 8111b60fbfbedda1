"""A chat in progress: its conversation, what the next question carries, and how it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from kimi_cli.answer.asking import Listener
from kimi_cli.answer.judgement import Answer
from kimi_cli.api.client import Client
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.messages import count_tokens
from kimi_cli.api.text import quantify
from kimi_cli.chat.status import StatusLine, hush_keyboard
from kimi_cli.chat.stopper import Stopper
from kimi_cli.chat.window import Window
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Conversation
from kimi_cli.conversation.shelf import Shelf
from kimi_cli.errors import BadInput, MissingInput
from kimi_cli.prompt.content import Prompt, join_prompts
from kimi_cli.prompt.reading import Reading
from kimi_cli.show.printing import Look
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.planning import plan_turn, warn_of_blindness
from kimi_cli.turn.terms import Terms

_NEARLY_FULL = 0.9


@dataclass(kw_only=True)
class Coming:
    """What there is of the next question."""

    attachments: list[Prompt] = field(default_factory=list)
    draft: str = ""
    """What the editor begins with."""
    unasked: Prompt | None = None
    """A question that did not even get on record."""


@dataclass(kw_only=True)
class Talk:
    """The state that a chat's commands change. Between two questions nothing is unsaved."""

    terminal: Terminal
    client: Client
    terms: Terms
    shelf: Shelf
    dialogue: Dialogue
    look: Look
    reading: Reading = field(default_factory=Reading)
    """How files become text."""
    coming: Coming = field(default_factory=Coming)
    stopper: Stopper = field(default_factory=Stopper)
    window: Window = field(init=False)
    """How many tokens the model reads."""
    is_over: bool = False
    _answers: int = 0

    def __post_init__(self) -> None:
        """Let the host of this chat tell of its models."""
        self.window = Window(self.client)

    @property
    def conversation(self) -> Conversation:
        """What was said so far."""
        return self.dialogue.conversation

    def count_turns(self) -> str:
        """Return how long the conversation is, in words."""
        return quantify(len(self.conversation.list_turns()), "turn")

    def ask(self, prompt: Prompt, *, attended: bool = True) -> Answer:
        """Take one turn: *prompt*, with what was attached, and its answer.

        *attended* is for a person at a terminal. Raises what the client raises, Terminated when
        the answer was stopped, and what ``Dialogue.record`` raises.
        """
        question = join_prompts([prompt, *self.coming.attachments])
        self.coming = Coming(unasked=question)
        turn = plan_turn(question, self.terms, self.dialogue)
        warn_of_blindness(self.terminal, self.terms, question)
        self._warn_when_full(question.text)
        look = replace(self.look, gap=self._needs_gap(attended=attended))
        with turn.record() as listeners:
            self.coming, self.terms = Coming(), replace(self.terms, system=None)
            watched = self._attend(look) if attended else nullcontext(())
            with watched as watching, self.stopper.allow():
                answer = turn.ask(self.client.begin(), self.terminal, look, *listeners, *watching)
            self._answers += answer.has_text or bool(answer.ending.tool_calls)
        self._warn_when_full("")
        return answer

    @contextmanager
    def _attend(self, look: Look) -> Iterator[tuple[Listener, ...]]:
        """Show a person that something goes on; yields who must be told what comes."""
        status = StatusLine(
            self.terminal,
            reasoning_is_shown=look.reasoning,
            comes_in_blocks=look.markdown and self.terminal.out_is_terminal,
        )
        with hush_keyboard(self.terminal), status:
            yield (status,)

    def _needs_gap(self, *, attended: bool) -> bool:
        """Tell whether a blank line parts the answer from the one before: a screen has one."""
        on_screen = attended and self.terminal.out_is_terminal
        return self._answers > 0 and not on_screen and not self.look.as_json

    def begin_anew(self) -> None:
        """Begin another conversation; the model, its options and the system prompt stay."""
        if self.terms.system is None:
            self.terms = replace(self.terms, system=self.conversation.system)
        self.coming.unasked = None
        self.dialogue = self.shelf.begin()

    def load(self, name: str) -> None:
        """Go on with another conversation; raises BadInput when it belongs to another host."""
        file = self.shelf.archive.find(name)
        conversation = file.read()
        if conversation is None:
            raise MissingInput(f"there is no conversation '{name}'; see 'kimi log'")
        manner = conversation.manner
        if manner is not None:
            here = self.terms.make_manner()
            if (manner.profile, manner.base_url) != (here.profile, here.base_url):
                raise BadInput(
                    f"conversation {name} was held with {manner.base_url or manner.profile}; "
                    f"leave, and run: kimi chat -S {name}"
                )
            self.terms = self.terms.go_on_as(manner)
        self.terms, self.coming.unasked = replace(self.terms, system=None), None
        self.dialogue = self.shelf.go_on(file, conversation)

    def save(self, name: str) -> None:
        """Keep the conversation under a name of its own; raises BadInput when that is taken."""
        file = self.shelf.archive.find(name)
        if not self.conversation.entries:
            raise BadInput("nothing has been said yet")
        self.dialogue.move(file)

    def _warn_when_full(self, question: str) -> None:
        """Say that the model's window is nearly full, before the host refuses."""
        window = self.window.find(self.terms)
        if window is None:
            return
        used: float | None = count_tokens(self.conversation.usage or {}, "total_tokens")
        if used is None:
            used = sum(estimate_tokens(entry.message.text) for entry in self.conversation.entries)
        share = (used + estimate_tokens(question)) / window
        if share >= _NEARLY_FULL:
            self.terminal.warn(
                f"this conversation fills {share:.0%} of the {window:,} tokens that "
                f"{self.terms.model} reads; /new begins another"
            )
