"""Models as a table for people and as JSON lines for programs."""

from __future__ import annotations

from collections.abc import Sequence

from kimi_cli.api import codec
from kimi_cli.api.catalogue import Model

_HEADER = ("", "MODEL", "CONTEXT", "THINKS", "IMAGES", "NOTE")


def dump_models(models: Sequence[Model], *, default: str, as_of: str | None) -> str:
    """Return one JSON object a line; *as_of* dates a documented list, None a live one."""
    lines = []
    for model in models:
        shown = {**model.to_json(), "default": model.id == default, "as_of": as_of}
        lines.append(codec.dumps(shown) + "\n")
    return "".join(lines)


def format_models(models: Sequence[Model], *, default: str) -> str:
    """Return aligned columns under a header; what is not known is ``-``."""
    rows = [_HEADER, *(_make_row(model, default) for model in models)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADER))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        + "\n"
        for row in rows
    )


def _make_row(model: Model, default: str) -> tuple[str, ...]:
    images = {True: "yes", False: "no", None: "-"}[model.images]
    context = f"{model.context:,}" if model.context else "-"
    mark = "*" if model.id == default else ""
    return mark, model.id, context, model.thinks or "-", images, model.note
