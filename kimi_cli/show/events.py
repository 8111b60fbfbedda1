"""An answer as JSON Lines, event by event while it comes; kimi-ask(1) documents them as stable."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kimi_cli.api import codec
from kimi_cli.api.messages import Delta, Ending
from kimi_cli.api.text import part_pair
from kimi_cli.errors import ExitStatus, KimiError, OutputClosed, OutputFailed, Terminated
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.answer.judgement import Answer
    from kimi_cli.api.client import Retry


class EventLines:
    """Writes one line for each thing that happens; the last one tells how it ended.

    ``with`` it, and that line comes, whatever the end is.
    """

    def __init__(self, terminal: Terminal) -> None:
        """Write to the standard output of *terminal*."""
        self._terminal = terminal
        self._halves = {"reasoning": "", "content": ""}
        self._answer: Answer | None = None

    def __enter__(self) -> EventLines:
        """Begin; nothing has happened yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: object
    ) -> None:
        """Tell how it ended, unless there is nobody left to tell."""
        if isinstance(error, OutputClosed):
            return
        status = _find_status(error)
        if isinstance(error, Terminated) and not self._terminal.takes_output():
            return
        with contextlib.suppress(*((OutputClosed, OutputFailed) if error else ())):
            self._tell("end", **_describe_end(self._answer, error), exit_status=status)

    def note(self, delta: Delta) -> None:
        """Tell what has come of the two texts."""
        self._tell_text("reasoning", delta.reasoning)
        self._tell_text("content", delta.content)

    def end(self, ending: Ending) -> None:
        """Tell of the calls of tools, which are whole now."""
        for text in self._halves:
            self._tell_text(text, "", is_last=True)
        for call in ending.tool_calls:
            self._tell("tool_call", tool_call=call)

    def sum_up(self, answer: Answer, figures: Mapping[str, Any]) -> None:
        """Tell what the *answer* took: the host's own count, and *figures* made of it."""
        self._answer = answer
        if answer.ending.usage is not None:
            self._tell("usage", usage=answer.ending.usage, **figures)

    def retry(self, retry: Retry) -> None:
        """Tell that another attempt will be made."""
        self._tell(
            "retry",
            attempt=retry.attempt,
            attempts=retry.attempts,
            delay=round(retry.delay, 3),
            error=str(retry.error),
        )

    def fall_back(self, error: KimiError, model: str) -> None:
        """Tell that another *model* is asked instead."""
        self._tell("retry", attempt=1, attempts=1, delay=0, error=str(error), model=model)

    def _tell_text(self, kind: str, text: str, *, is_last: bool = False) -> None:
        whole, half = part_pair(self._halves[kind] + text)
        self._halves[kind] = "" if is_last else half
        if is_last:
            whole += half
        if whole:
            self._tell(kind, text=whole)

    def _tell(self, kind: str, **more: Any) -> None:
        self._terminal.show(codec.dumps({"type": kind, **more}) + "\n")


def _find_status(error: BaseException | None) -> int:
    """Return the exit status that follows from *error*."""
    if error is None:
        return ExitStatus.OK
    if isinstance(error, Terminated):
        return 128 + error.signum
    return error.status if isinstance(error, KimiError) else ExitStatus.SOFTWARE


def _describe_end(answer: Answer | None, error: BaseException | None) -> dict[str, Any]:
    """Return what the last line says of the *answer*, and of what went wrong."""
    ending = answer.ending if answer else Ending()
    shown: dict[str, Any] = {
        "complete": answer is not None and answer.flaw is None,
        "finish_reason": ending.finish_reason,
        "model": ending.model,
        "id": ending.id,
    }
    if answer is not None and (answer.fit is not None or answer.problem is not None):
        shown["valid"] = answer.fit is not None
    if isinstance(error, KimiError):
        shown["error"] = str(error)
    elif isinstance(error, Terminated):
        shown["error"] = "interrupted"
    return shown
