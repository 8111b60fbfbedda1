"""The one turn of ``ask``: asked, printed, put on record, judged."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING

from kimi_cli.answer.judgement import Answer, judge
from kimi_cli.host import open_client
from kimi_cli.options.bundles import TurnOptions
from kimi_cli.show.printing import Look
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.planning import Turn

if TYPE_CHECKING:
    from kimi_cli.show.report import Report


def deliver(
    turn: Turn,
    terminal: Terminal,
    options: TurnOptions,
    report: Report | None = None,
    *,
    test: bool = False,
) -> Answer:
    """Ask *turn*, and print its answer, or write it to *report*; that of a *test* is not printed.

    Raises what the client, the record and the outputs raise, IncompleteAnswer and InvalidAnswer.
    """
    with report or nullcontext():
        main = report.main if report else terminal
        look = Look.of(
            turn.terms.settings,
            main,
            as_json=options.answer.as_json,
            allow_invalid=options.form.allow_invalid,
            silent=test,
        )
        look = replace(look, copy=report.copy if report else None)
        answer = _ask(turn, main, options, look)
        judge(
            answer,
            allow_incomplete=options.answer.allow_incomplete and not test,
            allow_invalid=options.form.allow_invalid and not test,
            warn=terminal.warn,
        )
    return answer


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
        ) as client,
        turn.record() as listeners,
    ):
        return turn.ask(client, terminal, look, *listeners)
