"""The one turn of ``ask``: asked, printed, put on record, judged."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_cli.answer.judgement import Answer, judge
from kimi_cli.host import open_client
from kimi_cli.options.asking import OutputOptions
from kimi_cli.options.bundles import TurnOptions
from kimi_cli.show.printing import Look
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.planning import Turn

if TYPE_CHECKING:
    from kimi_cli.show.events import EventLines
    from kimi_cli.show.report import Report


def deliver(
    turn: Turn,
    terminal: Terminal,
    options: TurnOptions,
    output: OutputOptions,
    report: Report | None = None,
) -> Answer:
    """Ask *turn*, and print its answer, or write it to *report*, as *output* says.

    Raises what the client, the record and the outputs raise, IncompleteAnswer and InvalidAnswer.
    """
    main = report.main if report else terminal
    look = Look.of(
        turn.terms.settings,
        main,
        as_json=options.answer.as_json,
        allow_invalid=options.form.allow_invalid,
        silent=output.test,
    )
    look = replace(look, copy=report.copy if report else None)
    with ExitStack() as stack:
        if output.events:
            look = replace(look, events=stack.enter_context(_open_events(turn, main)))
        if report is not None:
            stack.enter_context(report)
        answer = _ask(turn, main, options, look)
        judge(
            answer,
            allow_incomplete=options.answer.allow_incomplete and not output.test,
            allow_invalid=options.form.allow_invalid and not output.test,
            warn=terminal.warn,
        )
    return answer


def _open_events(turn: Turn, terminal: Terminal) -> EventLines:
    """Return who tells of what happens in this turn."""
    from kimi_cli.show.events import EventLines  # noqa: PLC0415 - for programs only

    events = EventLines(terminal)
    if turn.terms.fallbacks is not None:
        turn.terms.fallbacks.notify = events.fall_back
    return events


def _ask(turn: Turn, terminal: Terminal, options: TurnOptions, look: Look) -> Answer:
    terms = turn.terms
    with (
        open_client(
            terminal,
            terms.settings,
            options.connection,
            stream=terms.stream,
            since=terminal.began,
            at_once=True,
            on_retry=look.events.retry if look.events else lambda retry: None,
        ) as client,
        turn.record() as listeners,
    ):
        return turn.ask(client, terminal, look, *listeners)
