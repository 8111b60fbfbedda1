"""Options of ``batch`` that say how its input is read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from kimi_cli.batch.source import KINDS
from kimi_cli.options.bundles import bundle, encoding_option
from kimi_cli.options.types import LARGEST_INPUT
from kimi_cli.prompt.reading import decode_argument


class Delimiter(click.ParamType[str]):
    """One character between two cells."""

    name = "char"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the character; a tab may be spelled, as few can type it."""
        text = decode_argument(value)
        text = "\t" if text in ("\\t", "tab") else text
        if len(text) != 1 or text in '"\r\n\0':
            self.fail(f"'{value}' is not one character that can part cells", param, ctx)
        return text


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TableOptions:
    """How rows are written in the input; None means not given."""

    kind: str | None
    lines: bool
    csv: bool
    tsv: bool
    delimiter: str | None
    encoding: str
    max_line: int

    def names_kind(self) -> bool:
        """Tell whether an option says what the input is."""
        named = (self.kind is not None, self.delimiter is not None, self.lines, self.csv, self.tsv)
        return any(named)

    def choose_kind(self) -> str:
        """Return the kind of input that an option names; raises UsageError for two."""
        chosen = [f"--{name}" for name in KINDS if getattr(self, name, False)]
        chosen += [f"--from {self.kind}"] if self.kind is not None else []
        if len(chosen) > 1:
            raise click.UsageError(f"{chosen[0]} and {chosen[1]} exclude each other")
        usual = "csv" if self.delimiter is not None else next(iter(KINDS))
        kind = chosen[0].split()[-1].removeprefix("--") if chosen else usual
        if self.delimiter is not None and kind != "csv":
            raise click.UsageError(
                f"--delimiter and --from {kind} exclude each other; it is of CSV"
            )
        return kind


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FolderOptions:
    """Which files are rows, and where the answer to each goes; None means not given."""

    globs: tuple[str, ...]
    output_dir: Path | None

    def check(self, files: tuple[str, ...], table: TableOptions, *, has_template: bool) -> None:
        """Raise UsageError for options that make no sense together."""
        if not self.globs:
            if self.output_dir is not None:
                raise click.UsageError("--output-dir has a file for each of --files; name those")
            return
        if files:
            raise click.UsageError("--files and FILE exclude each other; put a pattern in quotes")
        if table.names_kind():
            raise click.UsageError("--files takes each file whole, and no --from or --delimiter")
        if not has_template:
            raise click.UsageError("--files needs a prompt, such as -p 'Summarise: {text}'")


folder_options = bundle(
    FolderOptions,
    "folders",
    click.option(
        "--files",
        "globs",
        multiple=True,
        metavar="GLOB",
        help="Make a row of each file that GLOB names: path, name, stem, text or image; "
        "repeatable.",
    ),
    click.option(
        "--output-dir",
        type=click.Path(file_okay=False, path_type=Path),
        metavar="DIR",
        help="Write the answer to each of --files to a file in DIR, named after it.",
    ),
)


table_options = bundle(
    TableOptions,
    "table",
    click.option(
        "--from",
        "kind",
        type=click.Choice(list(KINDS)),
        help="Set what the input is: objects, prompts a line, a table or an array (jsonl).",
    ),
    click.option("--lines", is_flag=True, help="Short for --from lines."),
    click.option("--csv", is_flag=True, help="Short for --from csv."),
    click.option("--tsv", is_flag=True, help="Short for --from tsv."),
    click.option(
        "--delimiter",
        type=Delimiter(),
        metavar="CHAR",
        help="Part the cells of CSV at CHAR, such as ';', instead of a comma.",
    ),
    encoding_option,
    click.option(
        "--max-line",
        type=click.IntRange(1, LARGEST_INPUT),
        default=64 * 2**20,
        metavar="BYTES",
        help="Refuse longer lines or rows (67108864).",
    ),
)
