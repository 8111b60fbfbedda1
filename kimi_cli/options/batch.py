"""Options of ``batch`` alone, by what they are about."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kimi_cli.api.cost import UNITS
from kimi_cli.batch.live import Speed
from kimi_cli.batch.results import FORMATS, TABLES
from kimi_cli.batch.schedulers import PARTITIONS, find_partition
from kimi_cli.batch.selection import Shard, parse_shard
from kimi_cli.batch.source import STDIN
from kimi_cli.errors import CannotCreate
from kimi_cli.options.bundles import bundle
from kimi_cli.options.tables import FolderOptions, TableOptions, folder_options, table_options
from kimi_cli.options.templating import load_template, template_option
from kimi_cli.options.types import Duration
from kimi_cli.prompt.reading import Reading, read_text
from kimi_cli.prompt.templates import TemplateError, check_template

if TYPE_CHECKING:
    from kimi_cli.prompt.templatefile import Template

PARTITION = "{partition}"
"""Stands for the partition's number."""


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


class Money(click.ParamType[int]):
    """An amount of money, in ``UNITS``."""

    name = "amount"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the amount; as small as it is, it must be something."""
        found = re.fullmatch(r"(\d{0,15})(?:\.(\d{0,12}))?", value)
        amount = int(found[1] or 0) * UNITS + int((found[2] or "").ljust(12, "0")) if found else 0
        if not amount:
            self.fail(f"'{value}' is no amount of money, such as 5 or 0.25", param, ctx)
        return amount


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class RowOptions:
    """What the rows are, and which of them are this run's; None means not given."""

    prompt: str | None
    template: str | None
    id_field: str | None
    id_prefix: str | None
    image_field: str | None
    allow_duplicate_ids: bool
    dedupe: bool
    shard: str | None
    max_rows: int | None

    def find_shard(self) -> Shard | None:
        """Return this run's part of the rows; None for all. Raises UsageError."""
        if self.shard is None:
            return None
        try:
            return parse_shard(self.shard, os.environ)
        except ValueError as error:
            raise click.UsageError(f"--shard {self.shard}: {error}") from error

    def find_prefix(self, *, is_filter: bool) -> str:
        """Return what the names of rows without an id begin with. Raises UsageError.

        A filter is given a part of the rows: where its engine says which, ids tell it, too.
        """
        partition = find_partition(os.environ)
        if self.id_prefix is None:
            is_part = is_filter and self.shard is None and partition is not None
            return f"{partition}-" if is_part else ""
        if PARTITION not in self.id_prefix:
            return self.id_prefix
        if partition is None:
            names = ", ".join(PARTITIONS)
            raise click.UsageError(
                f"'{PARTITION}' in --id-prefix needs an engine that numbers its workers: "
                f"neither {names} nor a scheduler's variables are set"
            )
        return self.id_prefix.replace(PARTITION, partition)

    def load_template(self) -> Template | None:
        """Return the template that was named; raises as ``templating.load_template`` does."""
        if self.template is None:
            return None
        if self.prompt is not None:
            raise click.UsageError("--prompt and --template exclude each other")
        return load_template(self.template)

    def read_template(self) -> str | None:
        """Return the template of ``--prompt``; raises UsageError for one no row could fill in."""
        if self.prompt is None:
            return None
        is_named = self.prompt.startswith("@")
        template = read_text(self.prompt[1:], Reading()) if is_named else self.prompt
        try:
            check_template(template)
        except TemplateError as error:
            raise click.UsageError(f"--prompt: {error}") from error
        return template


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OutputOptions:
    """Where answers go, and what is done about those that are there; None means not given."""

    output: Path | None
    format: str
    on_error: str | None
    ordered: bool
    retry_failed: str
    done_from: tuple[str, ...]
    on_change: str
    fsync: str | None
    allow_incomplete: bool
    progress: str
    summary: Path | None
    dry_run: bool

    def name_file(self, shard: Shard | None) -> Path | None:
        """Return the file of answers; None for standard output.

        Raises CannotCreate for a folder, UsageError for a name that lacks its shard.
        """
        path = self.output
        if path is None or str(path) == STDIN:
            return None
        if not path.name:
            raise CannotCreate(f"cannot create {path}: it is a folder; name a file with -o")
        if "{shard}" not in str(path):
            return path
        if shard is None:
            raise click.UsageError("'{shard}' in -o needs --shard")
        return Path(str(path).replace("{shard}", str(shard.index)))

    def refuse_without_file(self) -> None:
        """Raise UsageError for what only means something for a file that goes on."""
        needy = {
            "--retry-failed": self.retry_failed != "none",
            "--on-change": self.on_change == "redo",
            "--on-error defer": self.on_error == "defer",
            "--fsync": self.fsync is not None,
        }
        for name in [name for name, is_given in needy.items() if is_given]:
            raise click.UsageError(f"{name} needs an output file; see -o")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LimitOptions:
    """What ends a run; None means not given."""

    max_wait: float
    max_errors: tuple[int | None, float | None] | None
    max_total_tokens: int | None
    max_cost: int | None
    deadline: float | None


row_options = bundle(
    RowOptions,
    "rows",
    click.option(
        "-p",
        "--prompt",
        metavar="TEMPLATE",
        help="Make each prompt from TEMPLATE and the row's {fields}; @FILE reads it.",
    ),
    template_option,
    click.option("--id-field", metavar="NAME", help="Take each row's id from this field."),
    click.option(
        "--id-prefix",
        metavar="TEXT",
        help="Begin the ids of rows without one with TEXT; {partition} is replaced.",
    ),
    click.option(
        "--image-field",
        metavar="NAME",
        help="Send the images that this field names, by their paths beside the input.",
    ),
    click.option("--allow-duplicate-ids", is_flag=True, help="Run rows whose id came before."),
    click.option("--dedupe", is_flag=True, help="Ask once for rows that ask the same."),
    click.option(
        "--shard",
        metavar="I/N",
        help="Run every N-th row from row I (0 to N-1); auto or auto/N asks the scheduler for I.",
    ),
    click.option("--max-rows", type=click.IntRange(1), metavar="N", help="Stop after N rows."),
)


output_options = bundle(
    OutputOptions,
    "outcome",
    click.option(
        "-o",
        "--output",
        type=click.Path(allow_dash=True, path_type=Path),
        metavar="FILE",
        help="Write to FILE, and go on with what it holds; {shard} is replaced.",
    ),
    click.option(
        "--format",
        type=click.Choice([*FORMATS, *TABLES]),
        default="batch",
        help="Set what a line of output holds, or write a table (batch).",
    ),
    click.option(
        "--on-error",
        type=click.Choice(["write", "defer"]),
        help="Write rows whose attempts ran out, or defer them to the next run (default with -o).",
    ),
    click.option("--ordered", is_flag=True, help="Keep the order of the input."),
    click.option(
        "--retry-failed",
        type=click.Choice(["none", "transient", "invalid", "all"]),
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
    click.option(
        "--fsync",
        type=click.Choice(["never", "interval", "always"]),
        help="Force lines to disk never, each second, or each time.",
    ),
    click.option("--allow-incomplete", is_flag=True, help="Exit 0 even if answers ended early."),
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
    click.option(
        "--dry-run", is_flag=True, help="Check every row, print the first request, and exit."
    ),
)


speed_options = bundle(
    Speed,
    "speed",
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
)


limit_options = bundle(
    LimitOptions,
    "limits",
    click.option(
        "--max-wait",
        type=Duration(),
        default=600.0,
        metavar="TIME",
        help="Give up after so long without progress (10m).",
    ),
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
        "--max-cost",
        type=Money(),
        metavar="AMOUNT",
        help="Stop before more than AMOUNT is paid; models need prices.",
    ),
    click.option(
        "--deadline", type=Duration(), metavar="TIME", help="Send nothing more after so long."
    ),
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class BatchOptions:
    """All that ``batch`` alone may be told."""

    table: TableOptions
    folders: FolderOptions
    rows: RowOptions
    outcome: OutputOptions
    speed: Speed
    limits: LimitOptions


batch_options = bundle(
    BatchOptions,
    "options",
    table_options,
    folder_options,
    row_options,
    output_options,
    speed_options,
    limit_options,
)
