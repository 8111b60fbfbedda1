"""Turns of a conversation, each put on record as it happens, however it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType

from kimi_cli.answer.asking import Collector
from kimi_cli.api.messages import Completion, Delta, Ending, Message
from kimi_cli.conversation.archive import ConversationFile
from kimi_cli.conversation.record import (
    Conversation,
    Entry,
    Manner,
    make_answer,
    make_question,
    make_results,
    make_turn_id,
)
from kimi_cli.errors import KimiError, NotKept, TemporaryFailure, Terminated
from kimi_cli.prompt.content import Prompt


class Recording:
    """One turn while it lasts: ``with`` it, and what came of the answer is kept.

    Raises NotKept at its end where that cannot be; another failure says so besides.
    """

    def __init__(
        self, keep: Callable[[Completion, str | None], str | None], warn: Callable[[str], None]
    ) -> None:
        """Hand the answer, and what it lacks, to *keep*, which returns why it is not kept."""
        self._keep = keep
        self._warn = warn
        self._answer = Collector()

    def __enter__(self) -> Recording:
        """Begin; the question is on record already."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep what came, however it ended."""
        completion, ending = self._answer.join(), self._answer.ending
        flaw = None
        if ending is None:
            flaw = "interrupted" if isinstance(error, Terminated) else "failed"
        elif ending.find_flaw(has_text=bool(completion.content.strip())) is not None:
            flaw = ending.finish_reason
        if (problem := self._keep(completion, flaw)) is None:
            return
        if error is None:
            lack = f"; it is incomplete: {flaw}" if flaw else ""
            raise NotKept(f"{problem}{lack}; it is on standard output alone")
        if isinstance(error, KimiError):
            error.args = (f"{error}; {problem}",)
        else:
            self._warn(problem)

    def note(self, delta: Delta) -> None:
        """Take what came of the answer."""
        self._answer.note(delta)

    def end(self, ending: Ending) -> None:
        """Take what is known of the answer once it is over."""
        self._answer.end(ending)


class Dialogue:
    """A conversation that goes on, and its file where it has one."""

    def __init__(
        self,
        conversation: Conversation | None = None,
        file: ConversationFile | None = None,
        *,
        warn: Callable[[str], None],
        is_new: bool = False,
        must_save: bool = True,
    ) -> None:
        """Go on with *conversation*.

        A file that *is_new* is begun with the first question, over what has its name. Unless the
        user asked for it, a file that cannot be written is only warned of.
        """
        self.conversation = conversation or Conversation()
        self.file = file
        self._warn = warn
        self._is_new = is_new
        self._must_save = must_save
        self._told = False
        """Whether the loser of this turn was told."""
        self._unsaved: list[Entry] = []
        """Answers that found no place in the file yet; they go there with what is said next."""
        self._problem = ""
        """Why the last of them found none."""

    def compose(
        self,
        prompt: Prompt,
        model: str,
        *,
        system: str | None = None,
        keeps_reasoning: bool = False,
        results: Sequence[Message] = (),
    ) -> list[Message]:
        """Return the messages that *model* is sent; *system* replaces the prompt in force.

        *results* of the tools that it called go in place of the *prompt*.
        """
        messages = self.conversation.make_messages(
            model, keeps_reasoning=keeps_reasoning, results=results
        )
        if system is not None:
            messages = [message for message in messages if message.role != "system"]
            messages[:0] = [Message("system", system)] if system else []
        return messages if results else [*messages, Message("user", prompt.to_content())]

    def record(
        self,
        prompt: Prompt,
        manner: Manner,
        *,
        system: str | None = None,
        results: Sequence[Message] = (),
    ) -> Recording:
        """Put *prompt* on record, and *system* where it is new; return the turn to be kept.

        *results* of tools go in its place, into the turn that called them. Raises CannotCreate,
        OutputFailed or TemporaryFailure when it cannot be written.
        """
        self._told = False
        is_news = system is not None and system != (self.conversation.system or "")
        news = system if is_news else None
        if results:
            turn = self.conversation.list_turns()[-1].entries[-1].turn
            entries = make_results(turn, results, system=news)
        else:
            turn = make_turn_id()
            entries = make_question(turn, prompt, manner, system=news)
        try:
            self._add(entries)
        except KimiError as error:
            if self._must_save:
                raise
            self._warn(f"the conversation is not saved: {error}")
            self.file = None
            self._add(entries)
        return Recording(
            lambda completion, flaw: self._keep(turn, completion, flaw), warn=self._warn
        )

    def check_kept(self) -> None:
        """Raise NotKept where an answer is not in the file that the user named."""
        if self._unsaved and self._must_save:
            raise NotKept(self._problem)

    def take_back(self) -> str | None:
        """Remove the last turn and return its title; None when there is none.

        Raises TemporaryFailure when the conversation has gone on elsewhere; it is read anew then.
        """
        turns = self.conversation.list_turns()
        if not turns:
            return None
        gone = {id(entry) for entry in turns[-1].entries}
        entries = self.conversation.entries
        if self.file is not None and not self._is_new:
            unsaved = {id(entry) for entry in self._unsaved}
            saved = [entry for entry in entries if id(entry) not in unsaved]
            try:
                self.file.remove({n for n, entry in enumerate(saved) if id(entry) in gone})
            except TemporaryFailure:
                self._read_anew(self.file)
                raise
        self._unsaved = [entry for entry in self._unsaved if id(entry) not in gone]
        self.conversation.entries = [entry for entry in entries if id(entry) not in gone]
        return turns[-1].title

    def move(self, file: ConversationFile) -> None:
        """Keep a copy of what was said in *file*, which must not exist, and go on there.

        Raises BadInput when it does.
        """
        file.create(self.conversation.entries)
        self.file, self._is_new, self._must_save, self._unsaved = file, False, True, []

    def _add(self, entries: list[Entry]) -> None:
        """Add to the conversation and to its file, where somebody else may have spoken."""
        if self.file is None:
            self.conversation.entries += entries
        elif self._is_new:
            self.file.replace([*self.conversation.entries, *entries])
            self.conversation.entries += entries
            self._is_new = False
        else:
            is_alone = self.file.append([*self._unsaved, *entries])
            self._unsaved = []
            if is_alone:
                self.conversation.entries += entries
            else:
                self._read_anew(self.file)
                self._tell_loser(self.file.name)

    def _tell_loser(self, name: str) -> None:
        """Say, once a turn, that others spoke meanwhile."""
        if not self._told:
            self._told = True
            self._warn(
                f"conversation {name} went on in another process; both are kept, but this turn "
                "did not know of what was said there"
            )

    def _keep(self, turn: str, completion: Completion, flaw: str | None) -> str | None:
        """Record an answer; return why that cannot be, where the user named the record."""
        entry = make_answer(turn, completion, incomplete=flaw)
        if entry is None:
            return None
        try:
            self._add([entry])
        except KimiError as error:
            self._problem = f"the answer is not saved: {error}"
            self.conversation.entries.append(entry)
            self._unsaved.append(entry)
            if self._must_save:
                return self._problem
            self.file = None
            self._warn(self._problem)
        return None

    def _read_anew(self, file: ConversationFile) -> None:
        conversation = file.read()
        if conversation is not None:
            conversation.entries += self._unsaved
            self.conversation = conversation
