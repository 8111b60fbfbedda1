"""An answer that had to have a form: judged first, and then printed, or not."""

from __future__ import annotations

import time
from typing import Any

from kimi_cli.answer.asking import Follow, Listener, ask
from kimi_cli.answer.checking import Check, ask_in_form
from kimi_cli.answer.judgement import Answer
from kimi_cli.api.messages import Completion, Delta, Ending, Request
from kimi_cli.show.printing import Look, dump_figures, show, tell_ending
from kimi_cli.show.transcript import Transcript
from kimi_cli.system.terminal import Terminal


def print_checked(
    follow: Follow,
    request: Request,
    terminal: Terminal,
    look: Look,
    check: Check,
    *listeners: Listener,
) -> Answer:
    """Ask until the answer fits, and print what it is: nothing, where it never does.

    *listeners* are told of the last answer alone. Raises as ``print_answer`` does.
    """
    began = time.monotonic()
    with _Thinking(terminal, look) as thinking:
        checked = ask_in_form(lambda asked: ask(follow, asked, thinking), request, check)
    completion = checked.completion
    for listener in listeners:
        listener.note(completion.delta)
        listener.end(completion.ending)
    tell_ending(terminal, look, request, completion.ending, began)
    answer = Answer(
        completion.ending, bool(completion.content.strip()), checked.fit, checked.problem
    )
    text = _choose_text(answer, completion, look)
    if look.events is not None:
        look.events.note(Delta(text or "", ""))
        look.events.end(completion.ending)
        look.events.sum_up(answer, dump_figures(look, request, completion.ending))
        if look.copy is not None and text is not None:
            look.copy.show(_end_line(text))
    elif look.as_json and not look.silent:
        more = dump_figures(look, request, completion.ending) | _dump_judgement(answer)
        show(terminal, look, completion.dump(**more) + "\n")
    elif text is not None:
        show(terminal, look, "\n" * look.gap + _end_line(text))
    return answer


def _choose_text(answer: Answer, completion: Completion, look: Look) -> str | None:
    """Return what is printed; None where nothing is."""
    if look.silent:
        return None
    if answer.fit is not None:
        return answer.fit.text
    return completion.content.strip() if look.allow_invalid else None


class _Thinking(Transcript):
    """Shows the reasoning of an answer that is still to be judged, and nothing else of it."""

    def __init__(self, terminal: Terminal, look: Look) -> None:
        as_text = not (look.as_json or look.events)
        super().__init__(terminal, show_reasoning=look.reasoning and not terminal.quiet and as_text)
        self._events = look.events

    def __enter__(self) -> _Thinking:
        return self

    def note(self, delta: Delta) -> None:
        thought = Delta("", delta.reasoning)
        super().note(thought)
        if self._events is not None:
            self._events.note(thought)

    def end(self, ending: Ending) -> None:
        self.finish()


def _dump_judgement(answer: Answer) -> dict[str, Any]:
    """Return what ``--json`` says of an answer that had to have a form."""
    problem = answer.problem or answer.flaw
    return {"valid": answer.fit is not None} | ({"problem": problem} if problem else {})


def _end_line(text: str) -> str:
    return text if text.endswith("\n") or not text else f"{text}\n"
