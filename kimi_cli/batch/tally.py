"""What a run has done so far, in numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kimi_cli.errors import ExitStatus

_SAMPLES = 10_000


@dataclass
class Tally:
    """Counts of one run; tokens as the service reports them."""

    read: int = 0
    skipped: int = 0
    """Rows that an earlier run had finished."""
    answered: int = 0
    incomplete: int = 0
    """Answers among them that ended by length or content filter."""
    failed: int = 0
    """Rows with an error of their own, recorded in the output."""
    deferred: int = 0
    """Rows whose attempts ran out: the same command tries them again."""
    changed: int = 0
    duplicates: int = 0
    attempts: int = 0
    retries: int = 0
    """Attempts among them that were not their row's first."""
    unknown: int = 0
    """Attempts whose outcome is unknown: they may have been billed."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    stop_reason: str | None = None
    stop_status: ExitStatus | None = None
    advice: str = "the same command asks for them again"
    """What to do about rows that got no answer."""
    first_changed: list[str] = field(default_factory=list)
    first_duplicates: list[str] = field(default_factory=list)
    _latencies: list[int] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Rows of this run that need nothing more."""
        return self.answered + self.failed

    @property
    def tokens(self) -> int:
        """All text tokens of this run."""
        return self.prompt_tokens + self.completion_tokens

    def note_usage(self, usage: Any) -> None:
        """Add what one answer cost; hosts leave it out, or send nonsense."""
        if isinstance(usage, dict):
            for name in ("prompt_tokens", "completion_tokens"):
                value = usage.get(name)
                if isinstance(value, int):
                    setattr(self, name, getattr(self, name) + value)

    def note_latency(self, milliseconds: int) -> None:
        """Keep an even sample of the latencies: every second one once there are too many."""
        if self.answered % (1 + self.answered // _SAMPLES) == 0:
            self._latencies.append(milliseconds)

    def find_percentiles(self) -> dict[str, int]:
        """Return p50, p95 and p99 of the latencies in milliseconds."""
        ordered = sorted(self._latencies)
        if not ordered:
            return {}
        return {
            f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)]
            for share in (50, 95, 99)
        }

    def find_status(self, *, allow_incomplete: bool) -> ExitStatus:
        """Return the exit status of the run: what stopped it, what is left, what is wrong."""
        if self.stop_status is not None:
            return self.stop_status
        if self.deferred:
            return ExitStatus.TEMPORARY
        if self.changed or self.duplicates:
            return ExitStatus.DATA
        if self.failed or (self.incomplete and not allow_incomplete):
            return ExitStatus.PARTIAL
        return ExitStatus.OK

    def compose(self) -> str:
        """Return one line for people: what was done, and at what price."""
        parts = [
            f"{self.answered} answered",
            f"{self.failed} failed",
            f"{self.skipped} done before",
        ]
        parts += [f"{self.deferred} to try again"] if self.deferred else []
        parts += [f"{self.incomplete} incomplete"] if self.incomplete else []
        parts.append(f"{self.attempts} attempts")
        parts.append(f"{self.prompt_tokens} + {self.completion_tokens} tokens")
        if percentiles := self.find_percentiles():
            shown = ", ".join(f"{name} {value} ms" for name, value in percentiles.items())
            parts.append(shown)
        if self.refusals:
            shown = ", ".join(f"{number} for {kind}" for kind, number in self.refusals.items())
            parts.append(f"refused {shown}")
        return "; ".join(parts)

    def explain(self) -> str:
        """Return why the exit status is not 0, and what to do."""
        again = "the same command goes on from here"
        if self.stop_reason is not None:
            own_fault = self.stop_status is ExitStatus.DATA
            return self.stop_reason if own_fault else f"stopped: {self.stop_reason}; {again}"
        if self.deferred:
            return f"{self.deferred} rows got no answer; {self.advice}"
        if self.changed:
            names = ", ".join(self.first_changed)
            return (
                f"{self.changed} finished rows ask something else now ({names}); keep their "
                "answers with --on-change keep, buy new ones with --on-change redo"
            )
        if self.duplicates:
            names = ", ".join(self.first_duplicates)
            return f"{self.duplicates} rows have an id that came before ({names}) and were not sent"
        if self.failed:
            return f"{self.failed} rows failed for good; their lines say why"
        return f"{self.incomplete} answers ended early; see finish_reason, or raise --max-tokens"

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``--summary``."""
        return {
            "rows": {
                "read": self.read,
                "skipped": self.skipped,
                "answered": self.answered,
                "incomplete": self.incomplete,
                "failed": self.failed,
                "deferred": self.deferred,
                "changed": self.changed,
                "duplicates": self.duplicates,
            },
            "attempts": self.attempts,
            "retries": self.retries,
            "attempts_with_unknown_outcome": self.unknown,
            "tokens": {"prompt": self.prompt_tokens, "completion": self.completion_tokens},
            "latency_ms": self.find_percentiles(),
            "refusals": dict(self.refusals),
            "stopped": self.stop_reason,
        }
