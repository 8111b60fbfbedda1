"""A campaign without a run: every row is looked at, and nothing is sent."""

from __future__ import annotations

from collections.abc import Callable

from kimi_cli.api.fields import FIELDS
from kimi_cli.api.text import quantify
from kimi_cli.batch.budget import Budget
from kimi_cli.batch.campaign import Campaign
from kimi_cli.batch.done import HashSet
from kimi_cli.batch.forecast import Forecast, read_experience
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import NOT_ASKED, BadRecord, Record
from kimi_cli.errors import BadInput
from kimi_cli.system.terminal import Terminal

_SHOWN = 10
"""How many bad rows are told one by one."""


def rehearse(
    terminal: Terminal,
    campaign: Campaign,
    plan: Plan,
    show: Callable[[bytes], bytes] = lambda body: body,
) -> None:
    """Check the whole input, print the first request and the counts; raise what a run would.

    Tell what the rows that are left would take. *show* says what is sent for what a row asks.
    """
    good, bad, first = 0, 0, None
    budget = Budget(plan)
    forecast = Forecast(plan.prices, read_experience(campaign.output))
    asks = HashSet(16)
    sent: set[str] = set()
    carried: set[str] = set()
    told: list[str] = []
    for record in campaign.rehearse(terminal.warn):
        if (fault := _find_fault(record, budget)) is not None:
            bad += 1
            told = [*told, fault][:_SHOWN]
        elif isinstance(record, Record):
            good += 1
            is_new = asks.add(bytes.fromhex(record.asks))
            first = first or record
            carried |= record.carried.keys()
            sent |= record.row.keys() - record.carried.keys()
            if is_new or not campaign.rules.dedupe:
                forecast.note(record, show(record.payload))
    if first is not None:
        terminal.show(show(first.payload).decode() + "\n")
    if campaign.shape.template is None:
        _tell_columns(terminal, sent, carried)
    for line in told:
        terminal.complain(line)
    same = good - len(asks) if campaign.rules.dedupe else 0
    terminal.warn(_count(campaign, good, bad, same))
    for line in forecast.describe() if good else ():
        terminal.warn(line)
    _judge(campaign, good, bad)


def _find_fault(record: Record | BadRecord, budget: Budget) -> str | None:
    """Say why a row cannot be sent; a blank line is none, and has no fault."""
    if isinstance(record, BadRecord):
        return None if record.kind == NOT_ASKED else f"row {record.number}: {record.message}"
    return budget.find_fault(record)


def _judge(campaign: Campaign, good: int, bad: int) -> None:
    """Raise what a run would come to."""
    if bad:
        raise BadInput(f"{bad} of {quantify(good + bad, 'row')} cannot be sent")
    if campaign.tally.changed or campaign.tally.duplicates:
        raise BadInput(campaign.tally.explain())


def _tell_columns(terminal: Terminal, sent: set[str], carried: set[str]) -> None:
    """Say which columns change the requests: one of data may only be named like a field."""
    if fields := sorted(sent & {"model", *FIELDS}):
        kept = f"; kept beside the answers: {', '.join(sorted(carried))}" if carried else ""
        terminal.warn(f"columns that are sent as fields of the request: {', '.join(fields)}{kept}")


def _count(campaign: Campaign, good: int, bad: int, same: int) -> str:
    """Say how many rows there are of each fate, as the run would find them."""
    tally = campaign.tally
    parts = [f"{quantify(good, 'row')} can be sent, {bad} cannot"]
    parts += [f"{same} the same as others"] if same else []
    parts += [f"{tally.skipped} done before"] if campaign.looks_back else []
    parts += [tally.tell_strays()] if tally.strays else []
    parts += [tally.tell_odd_ids()] if tally.odd_ids else []
    return "; ".join(parts)
