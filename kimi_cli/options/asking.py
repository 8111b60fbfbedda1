"""Options of ``ask`` alone, by what they are about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from kimi_cli.options.bundles import bundle
from kimi_cli.options.types import Utf8
from kimi_cli.prompt.reading import decode_argument


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class OutputOptions:
    """What is printed where, besides the answer on standard output."""

    output: str | None
    tee: bool
    events: bool
    prefix: str | None
    dry_run: bool
    count: bool
    test: bool

    def check(self, *, as_json: bool) -> None:
        """Raise UsageError for options that make no sense together."""
        if self.tee and self.output is None:
            raise click.UsageError("--tee needs a file; see -o")
        if self.prefix == "":
            raise click.UsageError("--prefix is empty")
        if self.events and as_json:
            raise click.UsageError("--events and --json exclude each other")
        if self.test and self.events:
            raise click.UsageError("--test prints nothing; it and --events exclude each other")
        if self.test and self.output is not None:
            raise click.UsageError("--test prints nothing; it and --output exclude each other")
        others = {
            "--dry-run": self.dry_run,
            "--output": self.output is not None,
            "--events": self.events,
            "--test": self.test,
        }
        if self.count and (other := next((name for name in others if others[name]), None)):
            raise click.UsageError(f"--count and {other} exclude each other")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ToolOptions:
    """Which tools the model may call, and what came of its calls; None means not given."""

    tools: str | None
    tool_choice: str | None
    tool_result: tuple[tuple[str, str], ...]


class ToolResult(click.ParamType[Any]):
    """``ID=FILE``: a call, and the file with its result."""

    name = "id=file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Return both parts."""
        call, _, path = value.partition("=")
        if not call or not path:
            self.fail(f"'{value}' is not ID=FILE", param, ctx)
        return decode_argument(call), path


tool_options = bundle(
    ToolOptions,
    "tools",
    click.option(
        "--tools",
        metavar="FILE",
        type=click.Path(),
        help="Let the model call the tools of FILE, a JSON array as the API takes it.",
    ),
    click.option(
        "--tool-choice",
        type=Utf8(),
        metavar="CHOICE",
        help="Say whether it calls one: auto, none, required, or a JSON object.",
    ),
    click.option(
        "--tool-result",
        type=ToolResult(),
        multiple=True,
        metavar="ID=FILE",
        help="Answer the call ID of a conversation with the text of FILE; repeatable.",
    ),
)


output_options = bundle(
    OutputOptions,
    "output",
    click.option(
        "-o",
        "--output",
        metavar="FILE",
        type=click.Path(),
        help="Write the answer to FILE, once it is whole; until then FILE stays as it is.",
    ),
    click.option("--tee", is_flag=True, help="Print the answer as well as writing it with -o."),
    click.option(
        "--events", is_flag=True, help="Print what happens as JSON Lines, while it happens."
    ),
    click.option(
        "--prefix",
        type=Utf8(),
        metavar="TEXT",
        help="Let the answer begin with TEXT, which is printed as well.",
    ),
    click.option(
        "--dry-run", is_flag=True, help="Print the request body that would be sent, and exit."
    ),
    click.option(
        "--count", is_flag=True, help="Print how many tokens the prompt has, and send nothing."
    ),
    click.option(
        "--test", is_flag=True, help="Print nothing; exit 0 if the answer is yes, 1 if it is no."
    ),
)
