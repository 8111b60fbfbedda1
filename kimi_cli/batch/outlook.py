"""What to do about rows that are left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kimi_cli.batch.sinks import name_errors


@dataclass(frozen=True, eq=False, repr=False)
class Outlook:
    """What is said of rows that are left when a run stops, and when their attempts ran out."""

    after_stop: str = "the same command goes on from here"
    after_attempts: str = "the same command asks for them again"


def make_outlook(output: Path | None, format: str, on_error: str) -> Outlook:
    """Say what to do about rows that are left: it depends on where the others went."""
    if output is None:
        return Outlook(
            "with -o FILE the same command would go on", "their lines say why; ask for them again"
        )
    if format == "text":
        new = "lines of --format text have no ids to go on by: ask for the rest in another file"
        return Outlook(new, new)
    if on_error == "write":
        return Outlook(after_attempts="--retry-failed transient asks for them again")
    return Outlook(
        after_attempts=f"see {name_errors(output)}; the same command asks for them again"
    )
