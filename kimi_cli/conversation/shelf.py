"""Where conversations go: each to its file, or nowhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kimi_cli.conversation.archive import LATEST, Archive, ConversationFile
from kimi_cli.conversation.dialogue import Dialogue
from kimi_cli.conversation.record import Conversation


@dataclass(frozen=True)
class Shelf:
    """All conversations of a user, and whether what is said now is kept among them."""

    archive: Archive
    saves: bool
    warn: Callable[[str], None]

    def begin(self) -> Dialogue:
        """Return a new conversation, which takes the place of the latest without a name."""
        file = self.archive.find(LATEST) if self.saves else None
        return Dialogue(None, file, warn=self.warn, is_new=True, must_save=False)

    def go_on(
        self, file: ConversationFile, conversation: Conversation | None, *, must_save: bool = True
    ) -> Dialogue:
        """Return the conversation of *file*; None begins it.

        One that *must_save* stops where its file cannot be written.
        """
        kept = file if self.saves else None
        return Dialogue(conversation, kept, warn=self.warn, must_save=must_save)
