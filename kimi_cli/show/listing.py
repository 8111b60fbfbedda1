"""Models as a table for people and as JSON lines for programs."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap

from kimi_cli.api import codec
from kimi_cli.api.catalogue import Model

_INDENT = 5 * " "
_HEADER = ("", "MODEL", "CONTEXT", "THINKS", "IMAGES", "NOTE")


def dump_models(models: Sequence[Model], *, default: str, as_of: str | None) -> str:
    """Return one JSON object a line; *as_of* dates a documented list, None a live one."""
    lines = []
    for model in models:
        shown = {**model.to_json(), "default": model.id == default, "as_of": as_of}
        lines.append(codec.dumps(shown) + "\n")
    return "".join(lines)


def format_models(models: Sequence[Model], *, default: str, width: int | None = None) -> str:
    """Return aligned columns under a header; what is not known is ``-``.

    With *width* no line is longer: notes are folded below their models where that must be.
    """
    rows = [_HEADER, *(_make_row(model, default) for model in models)]
    table = format_table(rows)
    if width is None or max(map(len, table.splitlines())) <= width:
        return table
    lines = format_table([row[:-1] for row in rows]).splitlines()
    notes = ["", *(row[-1] for row in rows[1:])]
    return "".join(
        f"{line}\n" + "".join(f"{_INDENT}{part}\n" for part in wrap(note, width - len(_INDENT)))
        for line, note in zip(lines, notes, strict=True)
    )


def format_table(rows: Sequence[Sequence[str]], *, width: int | None = None) -> str:
    """Return aligned columns, one row a line; with *width* the last column is cut to fit."""
    from wcwidth import wcswidth, wcwidth  # noqa: PLC0415 - takes long to load

    def measure(cell: str) -> int:
        return max(0, wcswidth(cell))

    def cut(text: str, columns: int) -> str:
        room = columns
        for place, letter in enumerate(text):
            room -= max(0, wcwidth(letter))
            if room < 0:
                return text[:place]
        return text

    widths = [max(measure(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = []
    for *cells, last in rows:
        pairs = zip(cells, widths, strict=True)
        start = "".join(cell + " " * (size - measure(cell) + 2) for cell, size in pairs)
        if width is not None and cut(last, width - measure(start)) != last:
            last = cut(last, width - measure(start) - 1) + "…"
        lines.append((start + last).rstrip() + "\n")
    return "".join(lines)


def _make_row(model: Model, default: str) -> tuple[str, ...]:
    images = {True: "yes", False: "no", None: "-"}[model.images]
    context = f"{model.context:,}" if model.context else "-"
    mark = "*" if model.id == default else ""
    return mark, model.id, context, model.thinks or "-", images, model.note
