"""``kimi batch``: a file of prompts, none lost, none paid for twice."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kimi_cli.api.catalogue import is_blind, tell_blindness
from kimi_cli.api.cost import show_amount
from kimi_cli.api.fields import override
from kimi_cli.batch.campaign import Campaign
from kimi_cli.batch.folders import IMAGE, LEDGER, TEXT, FileSource, find_paths
from kimi_cli.batch.live import make_pace, prepare_launch
from kimi_cli.batch.outlook import make_outlook
from kimi_cli.batch.pictures import Pictures
from kimi_cli.batch.plan import POLICY, Plan
from kimi_cli.batch.progress import open_progress
from kimi_cli.batch.records import Shape
from kimi_cli.batch.selection import Rules, Shard
from kimi_cli.batch.source import STDIN, TABLES, Source
from kimi_cli.batch.summary import summed_up
from kimi_cli.batch.tally import Tally
from kimi_cli.batch.watch import watch_signals
from kimi_cli.errors import BadInput, BatchEnded, CannotCreate, ExitStatus, Terminated
from kimi_cli.host import load_settings, open_client
from kimi_cli.options.batch import BatchOptions, batch_options
from kimi_cli.options.bundles import (
    ConnectionOptions,
    FormOptions,
    HostOptions,
    RequestOptions,
    connection_options,
    form_options,
    host_options,
    request_options,
    verbosity_options,
)
from kimi_cli.options.templating import dress
from kimi_cli.prompt.content import LARGEST
from kimi_cli.prompt.reading import Reading
from kimi_cli.settings.configfile import LONG_PATIENCE
from kimi_cli.settings.precedence import Settings, settle_model
from kimi_cli.settings.prices import explain_lack, make_price_list
from kimi_cli.system.terminal import Terminal
from kimi_cli.turn.forms import plan_check

if TYPE_CHECKING:
    from kimi_cli.answer.checking import Check
    from kimi_cli.batch.inspection import Inspector
    from kimi_cli.prompt.templatefile import Template

EPILOG = """\b
Examples:
  kimi batch prompts.jsonl -o answers.jsonl
  kimi batch --csv reviews.csv -p 'Is this review kind? {text}' -o kind.jsonl
  head -5 prompts.jsonl | kimi batch --format flat

The same command again goes on where the last one ended.
"""


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path())
@batch_options
@request_options
@form_options
@host_options
@connection_options
@verbosity_options
def batch(
    terminal: Terminal,
    *,
    files: tuple[str, ...],
    options: BatchOptions,
    request: RequestOptions,
    form: FormOptions,
    host: HostOptions,
    connection: ConnectionOptions,
) -> None:
    """Answer every prompt of FILE (JSON Lines), or of standard input.

    Each line is a prompt: a string, an object with 'prompt' or 'messages', an array of messages, or
    a line of the hosted Batch APIs. With -o, what is in the file is final: the same command again
    asks only for what is missing.
    """
    _check_input(files, options)
    if (template := options.rows.load_template()) is not None:
        request, form = dress(request, form, template)
    settings = load_settings(terminal, host, connection, request)
    parameters = request.list_parameters(settings.profile)
    parameters = override(template.options if template else {}, parameters)
    settings = settle_model(settings, parameters)
    check = plan_check(terminal, form, settings, json_mode=request.json_mode, test=False)
    campaign = _plan_campaign(terminal, files, options, settings, parameters, request.system)
    if template is not None:
        campaign = replace(campaign, shape=_shape_by(template, campaign.shape))
    inspector = None
    if check is not None:
        campaign, inspector = _have_checked(campaign, check, allow_invalid=form.allow_invalid)
    plan = _make_plan(options, settings, campaign, allow_invalid=form.allow_invalid)
    if options.outcome.dry_run:
        from kimi_cli.batch.rehearsal import rehearse  # noqa: PLC0415 - not for a run

        rehearse(terminal, campaign, plan, inspector.show if inspector else bytes)
        return
    tally = campaign.tally
    with open_client(terminal, settings, connection, stream=False) as client:
        progress = open_progress(
            terminal, options.outcome.progress, campaign.source, writes_out=campaign.output is None
        )
        pace = make_pace(settings, options.speed, terminal.warn)
        with (
            summed_up(campaign.summary, tally, terminal.secrets.redact),
            watch_signals(terminal, progress, writes_out=campaign.output is None) as watch,
        ):
            if check is not None:
                check.ways.notify = watch.tell
            launch = prepare_launch(
                client, watch, pace=pace, plan=plan, tally=tally, inspector=inspector
            )
            campaign.run(launch, watch)
            watch.finish()
    _judge(terminal, tally, options, form, signum=watch.signum)


def _check_input(files: tuple[str, ...], options: BatchOptions) -> None:
    """Raise UsageError where there is no input, or more than one kind of it."""
    rows = options.rows
    has_template = rows.prompt is not None or rows.template is not None
    options.folders.check(files, options.table, has_template=has_template)
    if options.folders.globs and rows.image_field is not None:
        raise click.UsageError("--files knows images itself; leave --image-field out")
    named = files or options.folders.globs
    if not named and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("there is no input; name a FILE, or pipe prompts in")


def _judge(
    terminal: Terminal,
    tally: Tally,
    options: BatchOptions,
    form: FormOptions,
    *,
    signum: int | None,
) -> None:
    """Tell the figures of a run; raise Terminated, or BatchEnded where rows are not answered."""
    terminal.warn(tally.compose())
    if signum is not None:
        raise Terminated(signum)
    status = tally.find_status(
        allow_incomplete=options.outcome.allow_incomplete, allow_invalid=form.allow_invalid
    )
    if status is not ExitStatus.OK:
        raise BatchEnded(tally.explain(), status)


def _have_checked(
    campaign: Campaign, check: Check, *, allow_invalid: bool
) -> tuple[Campaign, Inspector]:
    """Have the rows of *campaign* ask for a form, and return who looks at their answers."""
    from kimi_cli.batch.inspection import Inspector, describe_form  # noqa: PLC0415 - for a form only

    shape = replace(
        campaign.shape,
        form=describe_form(check.form),
        read=check.form.read,
        properties=tuple((check.form.schema or {}).get("properties", ())),
    )
    return replace(campaign, shape=shape), Inspector(check, allow_invalid=allow_invalid)


def _plan_campaign(
    terminal: Terminal,
    files: tuple[str, ...],
    options: BatchOptions,
    settings: Settings,
    parameters: Mapping[str, Any],
    system: str | None,
) -> Campaign:
    rows, outcome = options.rows, options.outcome
    kind = options.table.choose_kind()
    shard = rows.find_shard()
    output = _choose_output(options, shard)
    if output is None:
        outcome.refuse_without_file()
    is_filter = output is None and set(files) <= {STDIN} and not options.folders.globs
    prefix = rows.find_prefix(is_filter=is_filter)
    on_error = outcome.on_error or ("defer" if output else "write")
    source = _open_source(terminal, files, kind, options, keeps_blank=output is None)
    return Campaign(
        source=source,
        shape=Shape(
            defaults={"model": settings.model, **parameters},
            system=system,
            template=rows.read_template(),
            id_field=rows.id_field,
            is_table=kind in TABLES,
            pictures=_plan_pictures(terminal, options, source, settings),
            id_prefix=prefix,
            unkept=TEXT if options.folders.globs else None,
        ),
        rules=Rules(
            outcome.on_change,
            rows.allow_duplicate_ids,
            shard,
            id_prefix=prefix,
            is_whole=output is None,
            dedupe=rows.dedupe,
        ),
        format=outcome.format,
        output=output,
        on_error=on_error,
        ordered=outcome.ordered,
        retry_failed=outcome.retry_failed,
        done_from=outcome.done_from,
        fsync=outcome.fsync or "interval",
        summary=outcome.summary,
        tally=Tally(outlook=make_outlook(output, outcome.format, on_error)),
    )


def _shape_by(template: Template, shape: Shape) -> Shape:
    """Let *template* make the prompts; a system prompt of the command line is stronger."""
    system = template.system if shape.system is None else None
    return replace(
        shape, template=template.text, template_system=system, template_name="--template"
    )


def _open_source(
    terminal: Terminal,
    files: tuple[str, ...],
    kind: str,
    options: BatchOptions,
    *,
    keeps_blank: bool,
) -> Source:
    """Return the input."""
    table, folders = options.table, options.folders
    if not folders.globs:
        return Source(
            files,
            kind,
            longest=table.max_line,
            encoding=table.encoding,
            delimiter=table.delimiter,
            notify=terminal.warn,
            keeps_blank=keeps_blank,
        )
    paths = find_paths(folders.globs)
    reading = Reading(table.encoding, limit=table.max_line)
    return FileSource(paths, reading, folders.output_dir)


def _choose_output(options: BatchOptions, shard: Shard | None) -> Path | None:
    """Return the file of answers; None for standard output. Raises CannotCreate.

    A folder of answers is made, and has one of its own where none is named.
    """
    output, folder = options.outcome.name_file(shard), options.folders.output_dir
    if folder is None:
        return output
    if not options.outcome.dry_run:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CannotCreate(f"cannot create {folder}: {error.strerror}") from error
    is_named = options.outcome.output is not None
    return output if is_named or not folder.is_dir() else folder / LEDGER


def _plan_pictures(
    terminal: Terminal, options: BatchOptions, source: Source, settings: Settings
) -> Pictures | None:
    """Return how the images of rows are read, None where no field names any."""
    if options.folders.globs:
        return Pictures(IMAGE, source.locate, Reading(limit=LARGEST), is_optional=True)
    field = options.rows.image_field
    if field is None:
        return None
    if is_blind(settings.model) or settings.needs_engine:
        terminal.warn(tell_blindness(settings.model))
    return Pictures(field, source.locate, Reading(limit=LARGEST))


def _make_plan(
    options: BatchOptions, settings: Settings, campaign: Campaign, *, allow_invalid: bool
) -> Plan:
    limits = options.limits
    number, share = limits.max_errors or (None, None)
    is_usual = settings.is_built_in("retries")
    prices = make_price_list(settings)
    if limits.max_cost is not None and prices.is_empty:
        raise BadInput(f"--max-cost {show_amount(limits.max_cost)}: {explain_lack(settings.model)}")
    return Plan(
        policy=POLICY if is_usual else replace(POLICY, retries=settings.retries),
        timeout=min(settings.timeout or LONG_PATIENCE, settings.max_time or math.inf),
        max_wait=limits.max_wait,
        max_rows=options.rows.max_rows,
        max_errors=number,
        max_error_share=share,
        max_tokens=limits.max_total_tokens,
        max_cost=limits.max_cost,
        prices=prices,
        deadline=limits.deadline,
        allow_invalid=allow_invalid,
        fills_up=campaign.output is None,
    )
