"""One answer on its way from the client to standard output and standard error."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kimi_cli.answer.asking import Follow, Listener, ask
from kimi_cli.answer.judgement import Answer
from kimi_cli.api.messages import Ending, Request
from kimi_cli.settings.precedence import Settings
from kimi_cli.show.transcript import Transcript
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.show.events import EventLines


@dataclass(frozen=True, kw_only=True)
class Look:
    """How an answer is shown."""

    settings: Settings
    """What is in force; its prices say what the answer costs."""
    as_json: bool = False
    reasoning: bool = True
    markdown: bool = False
    allow_invalid: bool = False
    """An answer is shown even where it does not fit."""
    silent: bool = False
    """The answer itself is not shown at all."""
    gap: bool = False
    """A blank line first, once there is anything to print."""
    copy: Terminal | None = None
    """Where it is printed as well, but for the reasoning."""
    events: EventLines | None = None
    """Who tells of it event by event, in place of its text."""

    @classmethod
    def of(
        cls,
        settings: Settings,
        terminal: Terminal,
        *,
        as_json: bool,
        allow_invalid: bool = False,
        silent: bool = False,
    ) -> Look:
        """Return the look that *settings* ask for.

        Raises ConfigError where *terminal* is to show what nothing here can render.
        """
        if settings.markdown and terminal.out_is_terminal and not as_json:
            from kimi_cli.show.markdown import require_renderer  # noqa: PLC0415 - few want it

            require_renderer()
        return cls(
            settings=settings,
            as_json=as_json,
            reasoning=settings.reasoning == "show",
            markdown=settings.markdown,
            allow_invalid=allow_invalid,
            silent=silent,
        )


def print_answer(
    follow: Follow, request: Request, terminal: Terminal, look: Look, *listeners: Listener
) -> Answer:
    """Ask by *follow*, and print the answer as it comes.

    *listeners* are handed each piece of it first. Raises what *follow* raises, OutputClosed and
    OutputFailed.
    """
    began = time.monotonic()
    if look.events is not None:
        answer = _print_events(follow, request, look, look.events, *listeners)
    else:
        print_it = _print_json if look.as_json else _print_text
        answer = print_it(follow, request, terminal, look, *listeners)
    tell_ending(terminal, look, request, answer.ending, began)
    return answer


def _print_text(
    follow: Follow, request: Request, terminal: Terminal, look: Look, *listeners: Listener
) -> Answer:
    transcript = Transcript(
        terminal,
        show_reasoning=look.reasoning and not terminal.quiet,
        markdown=look.markdown,
        gap=look.gap,
    )
    with transcript, _copy_text(look) as copies:
        ending = follow(request, *listeners, *copies, transcript)
    return Answer(ending, transcript.has_content)


@contextmanager
def _copy_text(look: Look) -> Iterator[tuple[Listener, ...]]:
    """Yield who writes the answer where it is printed as well."""
    if look.copy is None:
        yield ()
        return
    with Transcript(look.copy, show_reasoning=False) as copy:
        yield (copy,)


def _print_json(
    follow: Follow, request: Request, terminal: Terminal, look: Look, *listeners: Listener
) -> Answer:
    completion = ask(follow, request, *listeners)
    show(terminal, look, completion.dump(**dump_figures(look, request, completion.ending)) + "\n")
    return Answer(completion.ending, bool(completion.content.strip()))


def _print_events(
    follow: Follow, request: Request, look: Look, events: EventLines, *listeners: Listener
) -> Answer:
    with _copy_text(look) as copies:
        completion = ask(follow, request, *listeners, *copies, events)
    answer = Answer(completion.ending, bool(completion.content.strip()))
    events.sum_up(answer, dump_figures(look, request, answer.ending))
    return answer


def show(terminal: Terminal, look: Look, text: str) -> None:
    """Print whole lines, wherever they are to be printed."""
    for sheet in filter(None, (look.copy, terminal)):
        sheet.show(text)


def dump_figures(look: Look, request: Request, ending: Ending) -> dict[str, Any]:
    """Return what ``--json`` says of what an answer took."""
    from kimi_cli.show import figures  # noqa: PLC0415 - a plain answer is shown without them

    return figures.dump_figures(ending, ending.asked or request.model, look.settings)


def tell_ending(
    terminal: Terminal, look: Look, request: Request, ending: Ending, began: float
) -> None:
    """Write what ``--verbose`` tells of an answer that was asked for at *began* (monotonic)."""
    if not terminal.verbose:
        return
    from kimi_cli.show import figures  # noqa: PLC0415 - a plain answer is shown without them

    shown = figures.describe_figures(ending, ending.asked or request.model, look.settings)
    terminal.tell(f"{shown}, {time.monotonic() - began:.1f} s")
