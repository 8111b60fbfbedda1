"""An answer that had to have a form: judged first, and then printed, or not."""

from __future__ import annotations

import time
from typing import Any

from kimi_cli.answer.asking import Follow, Listener, ask
from kimi_cli.answer.checking import Check, ask_in_form
from kimi_cli.answer.judgement import Answer
from kimi_cli.api.messages import Delta, Ending, Request
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
    if look.silent:
        return answer
    if look.as_json:
        more = dump_figures(look, request, completion.ending) | _dump_judgement(answer)
        show(terminal, look, completion.dump(**more) + "\n")
    elif checked.fit is not None:
        show(terminal, look, "\n" * look.gap + _end_line(checked.fit.text))
    elif look.allow_invalid:
        show(terminal, look, "\n" * look.gap + _end_line(completion.content.strip()))
    return answer


class _Thinking(Transcript):
    """Shows the reasoning of an answer that is still to be judged, and nothing else of it."""

    def __init__(self, terminal: Terminal, look: Look) -> None:
        shows = look.reasoning and not terminal.quiet and not look.as_json
        super().__init__(terminal, show_reasoning=shows)

    def __enter__(self) -> _Thinking:
        return self

    def note(self, delta: Delta) -> None:
        super().note(Delta("", delta.reasoning))

    def end(self, ending: Ending) -> None:
        self.finish()


def _dump_judgement(answer: Answer) -> dict[str, Any]:
    """Return what ``--json`` says of an answer that had to have a form."""
    problem = answer.problem or answer.flaw
    return {"valid": answer.fit is not None} | ({"problem": problem} if problem else {})


def _end_line(text: str) -> str:
    return text if text.endswith("\n") or not text else f"{text}\n"
