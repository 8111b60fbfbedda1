"""``kimi batch``: a file of prompts, none lost, none paid for twice."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from kimi_cli.batch.campaign import Campaign
from kimi_cli.batch.live import Speed, make_pace, prepare_launch
from kimi_cli.batch.outlook import make_outlook
from kimi_cli.batch.plan import POLICY, Plan
from kimi_cli.batch.progress import open_progress
from kimi_cli.batch.records import Shape
from kimi_cli.batch.rehearsal import rehearse
from kimi_cli.batch.results import FORMATS
from kimi_cli.batch.selection import Rules, Shard, parse_shard
from kimi_cli.batch.source import KINDS, STDIN, Source
from kimi_cli.batch.summary import summed_up
from kimi_cli.batch.tally import Tally
from kimi_cli.batch.watch import watch_signals
from kimi_cli.errors import BatchEnded, CannotCreate, ExitStatus, Terminated
from kimi_cli.host import load_settings, open_client
from kimi_cli.options.bundles import (
    ConnectionOptions,
    HostOptions,
    RequestOptions,
    bundle,
    connection_options,
    encoding_option,
    host_options,
    request_options,
    verbosity_options,
)
from kimi_cli.options.types import LARGEST_INPUT, Duration
from kimi_cli.prompt.reading import Reading, read_text
from kimi_cli.prompt.templates import TemplateError, check_template
from kimi_cli.settings.configfile import LONG_PATIENCE
from kimi_cli.settings.precedence import Settings, settle_model
from kimi_cli.system.terminal import Terminal

EPILOG = """\b
Examples:
  kimi batch prompts.jsonl -o answers.jsonl
  kimi batch --csv reviews.csv -p 'Is this review kind? {text}' -o kind.jsonl
  head -5 prompts.jsonl | kimi batch --format flat

The same command again goes on where the last one ended.
"""


class ErrorLimit(click.ParamType[tuple[int | None, float | None]]):
    """A number of rows, or a share of them in per cent."""

    name = "n|p%"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int | None, float | None]:
        """Return the number or the share, the other being None."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)%|(\d+)", value)
        if found is None:
            self.fail(f"'{value}' is neither a number nor a percentage", param, ctx)
        return (None, float(found[1]) / 100) if found[1] else (int(found[2]), None)


# Here and in the modules of batch: comparing and printing what nobody compares or prints would be
# written anew, method by method, at every start.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchOptions:
    """The options of ``batch`` alone."""

    prompt: str | None
    kind: str | None
    lines: bool
    csv: bool
    tsv: bool
    id_field: str | None
    encoding: str
    max_line: int
    output: Path | None
    format: str
    on_error: str | None
    ordered: bool
    retry_failed: str
    done_from: tuple[str, ...]
    on_change: str
    allow_duplicate_ids: bool
    fsync: str | None
    concurrency: int | None
    rpm: float | None
    tpm: float | None
    share: int
    max_wait: float
    max_rows: int | None
    max_errors: tuple[int | None, float | None] | None
    max_total_tokens: int | None
    deadline: float | None
    shard: str | None
    progress: str
    summary: Path | None
    allow_incomplete: bool
    dry_run: bool


_OPTIONS = (
    click.option(
        "-p",
        "--prompt",
        metavar="TEMPLATE",
        help="Make each prompt from TEMPLATE and the row's {fields}; @FILE reads it.",
    ),
    click.option(
        "--from",
        "kind",
        type=click.Choice(list(KINDS)),
        help="Set what the input is: objects, prompts a line, or a table with a header (jsonl).",
    ),
    click.option("--lines", is_flag=True, help="Short for --from lines."),
    click.option("--csv", is_flag=True, help="Short for --from csv."),
    click.option("--tsv", is_flag=True, help="Short for --from tsv."),
    encoding_option,
    click.option("--id-field", metavar="NAME", help="Take each row's id from this field."),
    click.option(
        "--max-line",
        type=click.IntRange(1, LARGEST_INPUT),
        default=64 * 2**20,
        metavar="BYTES",
        help="Refuse longer lines or rows (67108864).",
    ),
    click.option(
        "-o",
        "--output",
        type=click.Path(allow_dash=True, path_type=Path),
        metavar="FILE",
        help="Write to FILE, and go on with what it holds; {shard} is replaced.",
    ),
    click.option(
        "--format",
        type=click.Choice(list(FORMATS)),
        default="batch",
        help="Set what a line of output holds (batch).",
    ),
    click.option(
        "--on-error",
        type=click.Choice(["write", "defer"]),
        help="Write rows whose attempts ran out, or defer them to the next run (default with -o).",
    ),
    click.option("--ordered", is_flag=True, help="Keep the order of the input."),
    click.option(
        "--retry-failed",
        type=click.Choice(["none", "transient", "all"]),
        default="none",
        help="Ask again for rows that FILE holds errors of.",
    ),
    click.option(
        "--done-from",
        multiple=True,
        metavar="GLOB",
        help="Leave out rows that these outputs hold; repeatable.",
    ),
    click.option(
        "--on-change",
        type=click.Choice(["fail", "keep", "redo"]),
        default="fail",
        help="What to do with a finished row that asks something else now (fail).",
    ),
    click.option("--allow-duplicate-ids", is_flag=True, help="Run rows whose id came before."),
    click.option(
        "--fsync",
        type=click.Choice(["never", "interval", "always"]),
        help="Force lines to disk never, each second, or each time.",
    ),
    click.option(
        "-c",
        "--concurrency",
        type=click.IntRange(1, 1024),
        metavar="N",
        help="Begin with, and never exceed, N requests at once.",
    ),
    click.option(
        "--rpm",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="Send at most N requests a minute.",
    ),
    click.option(
        "--tpm",
        type=click.FloatRange(0, min_open=True),
        metavar="N",
        help="Use at most N tokens a minute.",
    ),
    click.option(
        "--share",
        type=click.IntRange(1),
        default=1,
        metavar="K",
        help="Take one of K equal shares of the account's speed.",
    ),
    click.option(
        "--max-wait",
        type=Duration(),
        default=600.0,
        metavar="TIME",
        help="Give up after so long without progress (10m).",
    ),
    click.option("--max-rows", type=click.IntRange(1), metavar="N", help="Stop after N rows."),
    click.option(
        "--max-errors",
        type=ErrorLimit(),
        metavar="N|P%",
        help="Stop after more than N errors, or P per cent.",
    ),
    click.option(
        "--max-total-tokens",
        type=click.IntRange(1),
        metavar="N",
        help="Stop before more than N tokens are used.",
    ),
    click.option(
        "--deadline", type=Duration(), metavar="TIME", help="Send nothing more after so long."
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Run every N-th row from row I (0 to N-1); auto asks the scheduler's variables.",
    ),
    click.option(
        "--progress",
        type=click.Choice(["auto", "bar", "log", "json", "none"]),
        default="auto",
        help="Show progress on stderr: a bar on a terminal, else a line each 30 s.",
    ),
    click.option(
        "--summary",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the final figures to FILE as JSON.",
    ),
    click.option("--allow-incomplete", is_flag=True, help="Exit 0 even if answers ended early."),
    click.option(
        "--dry-run", is_flag=True, help="Check every row, print the first request, and exit."
    ),
)


@click.command(epilog=EPILOG)
@click.argument("files", nargs=-1, metavar="[FILE]...", type=click.Path())
@bundle(BatchOptions, "options", *_OPTIONS)
@request_options
@host_options
@connection_options
@verbosity_options
def batch(
    terminal: Terminal,
    *,
    files: tuple[str, ...],
    options: BatchOptions,
    request: RequestOptions,
    host: HostOptions,
    connection: ConnectionOptions,
) -> None:
    """Answer every prompt of FILE (JSON Lines), or of standard input.

    Each line is a prompt: a string, an object with 'prompt' or 'messages', an array of messages, or
    a line of the hosted Batch APIs. With -o, what is in the file is final: the same command again
    asks only for what is missing.
    """
    if not files and sys.stdin is not None and sys.stdin.isatty():
        raise click.UsageError("there is no input; name a FILE, or pipe prompts in")
    settings = load_settings(terminal, host, connection, request)
    parameters = request.list_parameters(settings.profile)
    settings = settle_model(settings, parameters)
    campaign = _plan_campaign(terminal, files, options, settings, parameters, request.system)
    if options.dry_run:
        rehearse(terminal, campaign)
        return
    tally = campaign.tally
    with open_client(terminal, settings, connection, stream=False) as client:
        progress = open_progress(
            terminal, options.progress, campaign.source, writes_out=campaign.output is None
        )
        speed = Speed(
            concurrency=options.concurrency, rpm=options.rpm, tpm=options.tpm, share=options.share
        )
        pace = make_pace(settings, speed, terminal.warn)
        with (
            summed_up(campaign.summary, tally, terminal.secrets.redact),
            watch_signals(terminal, progress, writes_out=campaign.output is None) as watch,
        ):
            plan = _make_plan(options, settings)
            campaign.run(prepare_launch(client, watch, pace=pace, plan=plan, tally=tally), watch)
            watch.finish()
    terminal.warn(tally.compose())
    if watch.signum is not None:
        raise Terminated(watch.signum)
    status = tally.find_status(allow_incomplete=options.allow_incomplete)
    if status is not ExitStatus.OK:
        raise BatchEnded(tally.explain(), status)


def _plan_campaign(
    terminal: Terminal,
    files: tuple[str, ...],
    options: BatchOptions,
    settings: Settings,
    parameters: Mapping[str, Any],
    system: str | None,
) -> Campaign:
    shard = _read_shard(options.shard)
    output = _name_output(options.output, shard)
    if output is None:
        _refuse_without_output(options)
    on_error = options.on_error or ("defer" if output else "write")
    return Campaign(
        source=Source(
            files,
            _choose_kind(options),
            longest=options.max_line,
            encoding=options.encoding,
            notify=terminal.warn,
        ),
        shape=Shape(
            defaults={"model": settings.model, **parameters},
            system=system,
            template=_read_template(options.prompt),
            id_field=options.id_field,
        ),
        rules=Rules(
            options.on_change,
            options.allow_duplicate_ids,
            shard,
            show_duplicates=output is None,
        ),
        format=options.format,
        output=output,
        on_error=on_error,
        ordered=options.ordered,
        retry_failed=options.retry_failed,
        done_from=options.done_from,
        fsync=options.fsync or "interval",
        summary=options.summary,
        tally=Tally(outlook=make_outlook(output, options.format, on_error)),
    )


def _make_plan(options: BatchOptions, settings: Settings) -> Plan:
    number, share = options.max_errors or (None, None)
    is_usual = settings.is_built_in("retries")
    return Plan(
        policy=POLICY if is_usual else replace(POLICY, retries=settings.retries),
        timeout=min(settings.timeout or LONG_PATIENCE, settings.max_time or math.inf),
        max_wait=options.max_wait,
        max_rows=options.max_rows,
        max_errors=number,
        max_error_share=share,
        max_tokens=options.max_total_tokens,
        deadline=options.deadline,
    )


def _refuse_without_output(options: BatchOptions) -> None:
    """Refuse what only means something for a file that goes on."""
    needy = {
        "--retry-failed": options.retry_failed != "none",
        "--on-change": options.on_change == "redo",
        "--on-error defer": options.on_error == "defer",
        "--fsync": options.fsync is not None,
    }
    for name in [name for name, is_given in needy.items() if is_given]:
        raise click.UsageError(f"{name} needs an output file; see -o")


def _choose_kind(options: BatchOptions) -> str:
    """Return the kind of input that one of the options names; two are one too many."""
    chosen = [f"--{name}" for name in KINDS if getattr(options, name, False)]
    chosen += [f"--from {options.kind}"] if options.kind is not None else []
    if len(chosen) > 1:
        raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
    return chosen[0].split()[-1].removeprefix("--") if chosen else next(iter(KINDS))


def _read_shard(text: str | None) -> Shard | None:
    if text is None:
        return None
    try:
        return parse_shard(text, os.environ)
    except ValueError as error:
        raise click.UsageError(f"--shard {text}: {error}") from error


def _name_output(path: Path | None, shard: Shard | None) -> Path | None:
    if path is None or str(path) == STDIN:
        return None
    if not path.name:
        raise CannotCreate(f"cannot create {path}: it is a folder; name a file with -o")
    if "{shard}" not in str(path):
        return path
    if shard is None:
        raise click.UsageError("'{shard}' in -o needs --shard")
    return Path(str(path).replace("{shard}", str(shard.index)))


def _read_template(text: str | None) -> str | None:
    """Return the template of ``--prompt``, which no row could fill in if it is bad."""
    if text is None:
        return None
    template = read_text(text[1:], Reading()) if text.startswith("@") else text
    try:
        check_template(template)
    except TemplateError as error:
        raise click.UsageError(f"--prompt: {error}") from error
    return template
