"""One answer on its way from the client to standard output and standard error."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from kimi_cli.api.client import Client
from kimi_cli.api.messages import Delta, Ending, Request, join_deltas
from kimi_cli.errors import IncompleteAnswer
from kimi_cli.show.transcript import Transcript
from kimi_cli.system.terminal import Terminal


@dataclass(frozen=True, kw_only=True)
class Style:
    """How an answer is shown."""

    as_json: bool = False
    reasoning: bool = True
    markdown: bool = False
    gap: bool = False
    """A blank line first, once there is anything to print."""


@dataclass(frozen=True)
class Answer:
    """How an answer ended, and whether it has any text."""

    ending: Ending
    has_text: bool

    @property
    def flaw(self) -> str | None:
        """Why it is not whole; None when the model came to its own full stop."""
        return self.ending.find_flaw(has_text=self.has_text)


def print_answer(
    client: Client,
    request: Request,
    terminal: Terminal,
    style: Style,
    *listeners: Callable[[Delta], None],
) -> Answer:
    """Ask, and print the answer as it comes; *listeners* are handed each piece of it first.

    Raises what the client raises, OutputClosed and OutputFailed.
    """

    def note(delta: Delta) -> None:
        for listener in listeners:
            listener(delta)

    began = time.monotonic()
    answer = (_print_json if style.as_json else _print_text)(client, request, terminal, style, note)
    terminal.tell(f"{_describe(answer.ending)}, {time.monotonic() - began:.1f} s")
    return answer


def judge(terminal: Terminal, answer: Answer, *, allow_incomplete: bool) -> None:
    """Raise IncompleteAnswer, or only warn of it, unless the answer is whole."""
    flaw = answer.flaw
    if flaw is None:
        return
    if not allow_incomplete:
        raise IncompleteAnswer(flaw)
    terminal.warn(flaw)


def _print_text(
    client: Client,
    request: Request,
    terminal: Terminal,
    style: Style,
    note: Callable[[Delta], None],
) -> Answer:
    transcript = Transcript(
        terminal,
        show_reasoning=style.reasoning and not terminal.quiet,
        markdown=style.markdown,
        gap=style.gap,
    )
    if not request.stream:
        completion = client.complete(request)
        note(completion.delta)
        with transcript:
            transcript.write(completion.delta)
        ending = completion.ending
    else:
        with client.stream(request) as stream, transcript:
            for delta in stream:
                note(delta)
                transcript.write(delta)
        ending = stream.ending
    if ending.tool_calls and not transcript.has_content:
        terminal.show("\n" * style.gap + ending.dump_tool_calls() + "\n")
    return Answer(ending, transcript.has_content)


def _print_json(
    client: Client,
    request: Request,
    terminal: Terminal,
    style: Style,
    note: Callable[[Delta], None],
) -> Answer:
    if request.stream:
        with client.stream(request) as stream:
            deltas = []
            for delta in stream:
                note(delta)
                deltas.append(delta)
        completion = join_deltas(deltas, stream.ending)
    else:
        completion = client.complete(request)
        note(completion.delta)
    terminal.show(completion.dump() + "\n")
    return Answer(completion.ending, bool(completion.content.strip()))


def _describe(ending: Ending) -> str:
    usage = ending.usage or {}
    tokens = f"{usage.get('prompt_tokens', '?')} + {usage.get('completion_tokens', '?')} tokens"
    return f"answer {ending.id} by {ending.model}, finish_reason {ending.finish_reason}, {tokens}"
