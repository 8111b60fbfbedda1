"""What a run has done so far, in numbers."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from kimi_cli.api.spending import Spending
from kimi_cli.api.text import quantify
from kimi_cli.batch.done import INVALID
from kimi_cli.batch.outlook import Outlook
from kimi_cli.errors import ExitStatus

_SAMPLES = 10_000


@dataclass(eq=False, repr=False)
class Tally:
    """Counts of one run; tokens as the service reports them."""

    read: int = 0
    skipped: int = 0
    """Rows that an earlier run had finished."""
    failed_before: int = 0
    transient_before: int = 0
    invalid_before: int = 0
    incomplete_before: int = 0
    """Rows among them whose line holds an error (one that may pass; an answer that has not the
    form it had to have), or a part of an answer."""
    answered: int = 0
    same: int = 0
    """Rows that were not asked for, because another row asks the same."""
    incomplete: int = 0
    """Answers among them that ended early, by length or content filter say, or are empty."""
    failed: int = 0
    """Rows with an error of their own, recorded in the output."""
    invalid: int = 0
    """Rows among them that were answered, and not in the form that was asked for."""
    deferred: int = 0
    """Rows whose attempts ran out: the same command tries them again."""
    not_asked: int = 0
    """Rows whose line says that nobody was asked for them."""
    is_whole: bool = False
    """Whether every row of the input has a line, whatever ended the run."""
    strays: int = 0
    """Lines of the output that belong to no row of the input."""
    odd_ids: int = 0
    """Rows whose id is null, empty, or neither text nor a number; they are named by their place."""
    changed: int = 0
    duplicates: int = 0
    held: int = 0
    """Rows that were not sent because others had changed, or came twice."""
    sends: int = 0
    """Requests that were sent; the attempts of a line are those that count against --retries."""
    retries: int = 0
    """Requests among them that were not their row's first."""
    unknown: int = 0
    """Requests whose outcome is unknown: they may have been billed."""
    spending: Spending = field(default_factory=Spending)
    """What the answers of this run took."""
    earlier: Spending = field(default_factory=Spending)
    """What the lines cost that the output had before."""
    refusals: Counter[str] = field(default_factory=Counter)
    limits: list[dict[str, Any]] = field(default_factory=list)
    """What held the run back, as the pace found it: kind, value, seconds, how it is known."""
    stop_reason: str | None = None
    stop_status: ExitStatus | None = None
    trouble: str = ""
    """What the last attempt that failed said."""
    last_failure: str = ""
    """What the last attempt of a row said that got no answer."""
    outlook: Outlook = field(default_factory=lambda: Outlook())
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
        return self.spending.total

    def note_latency(self, milliseconds: int) -> None:
        """Keep an even sample of the latencies (Vitter's algorithm R)."""
        if len(self._latencies) < _SAMPLES:
            self._latencies.append(milliseconds)
        elif (place := random.randrange(self.answered)) < _SAMPLES:
            self._latencies[place] = milliseconds

    def find_percentiles(self) -> dict[str, int]:
        """Return p50, p95 and p99 of the latencies in milliseconds."""
        ordered = sorted(self._latencies)
        if not ordered:
            return {}
        return {
            f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)]
            for share in (50, 95, 99)
        }

    def find_status(self, *, allow_incomplete: bool, allow_invalid: bool = False) -> ExitStatus:
        """Return the exit status of the run: what stopped it, what is left, what is wrong."""
        status = self.stop_status or (ExitStatus.TEMPORARY if self.deferred else None)
        if status is ExitStatus.TEMPORARY and self.is_whole:
            status = None  # no line is missing, and the same call would buy all anew
        if status is not None:
            return status
        if self.changed or self.duplicates:
            return ExitStatus.DATA
        incomplete = self.incomplete + self.incomplete_before
        failed = self.failed + self.failed_before + self.deferred + self.not_asked
        failed -= self.invalid + self.invalid_before if allow_invalid else 0
        if failed or (incomplete and not allow_incomplete):
            return ExitStatus.PARTIAL
        return ExitStatus.OK

    def compose(self) -> str:
        """Return one line for people: what was done, and at what price."""
        parts = [
            f"{self.answered} answered",
            f"{self.failed} failed" + (f" ({self.invalid} invalid)" if self.invalid else ""),
            f"{self.skipped} done before" + self._tell_flaws_before(),
        ]
        parts += [f"{self.same} the same as others"] if self.same else []
        parts += [f"{self.deferred} to try again"] if self.deferred else []
        parts += [f"{self.not_asked} not asked"] if self.not_asked else []
        parts += [f"{self.incomplete} incomplete"] if self.incomplete else []
        parts += [self.tell_odd_ids()] if self.odd_ids else []
        parts += [self.tell_strays()] if self.strays else []
        parts.append(quantify(self.sends, "request"))
        parts.append(self.spending.describe_tokens())
        parts += [self._tell_cost()] if self.spending.amounts else []
        if percentiles := self.find_percentiles():
            shown = ", ".join(f"{name} {value} ms" for name, value in percentiles.items())
            parts.append(shown)
        if self.refusals:
            shown = ", ".join(f"{number} for {kind}" for kind, number in self.refusals.items())
            parts.append(f"refused {shown}")
        return "; ".join(parts)

    def _tell_cost(self) -> str:
        cost = self.spending.describe_cost()
        if not self.earlier.amounts:
            return cost
        return f"{cost} ({self.spending.join(self.earlier).show_cost()} with earlier runs)"

    def tell_strays(self) -> str:
        """Say how many lines of the output belong to no row."""
        lines = quantify(self.strays, "output line", "belong")
        return f"{lines} to no row of the input"

    def tell_odd_ids(self) -> str:
        """Say how many rows brought an id that is none."""
        odd = quantify(self.odd_ids, "row")
        return f"{odd} named by place, for an id must be text or a number, and not empty"

    def _tell_flaws_before(self) -> str:
        flaws = [
            f"{number} {word}"
            for number, word in (
                (self.failed_before, "failed"),
                (self.invalid_before, "of them invalid"),
                (self.incomplete_before, "incomplete"),
            )
            if number
        ]
        return f" ({', '.join(flaws)})" if flaws else ""

    def explain(self) -> str:
        """Return why the exit status is not 0, and what to do."""
        if self.stop_reason is not None:
            own_fault = self.stop_status is ExitStatus.DATA
            reason = self.stop_reason
            return reason if own_fault else f"stopped: {reason}; {self.outlook.after_stop}"
        if self.deferred:
            why = f" ({self.last_failure})" if self.last_failure else ""
            rows = quantify(self.deferred, "row")
            return f"{rows} got no answer{why}; {self.outlook.after_attempts}"
        if self.changed:
            names = ", ".join(self.first_changed)
            return (
                f"{quantify(self.changed, 'finished row', 'ask')} something else now ({names})"
                f"{self._tell_held()}; keep their answers with --on-change keep, or pay for "
                f"{quantify(self.changed, 'new one')} with --on-change redo"
            )
        if self.duplicates:
            names = ", ".join(self.first_duplicates)
            return (
                f"the ids of {quantify(self.duplicates, 'row')} came before ({names})"
                f"{self._tell_held()}; see --allow-duplicate-ids"
            )
        if failed := self.failed + self.failed_before:
            return self._explain_failed(failed)
        if self.not_asked:
            return f"{quantify(self.not_asked, 'line')} of the input held no row"
        incomplete = self.incomplete + self.incomplete_before
        answers = quantify(incomplete, "answer")
        return f"{answers} ended early or empty; see finish_reason, or raise --max-tokens"

    def _explain_failed(self, failed: int) -> str:
        """Say how many rows failed, and which of them may be asked for again."""
        invalid = self.invalid + self.invalid_before
        again = [
            f"; --retry-failed {kind} asks for {number} again"
            for kind, number in (("transient", self.transient_before), (INVALID, invalid))
            if number
        ]
        if failed == invalid:
            what = f"{quantify(failed, 'answer', 'lack')} the form that was asked for"
        else:
            for_good = "" if self.transient_before == failed else " for good"
            what = f"{quantify(failed, 'row')} failed{for_good}"
        return f"{what}; the output says why{''.join(again)}"

    def _tell_held(self) -> str:
        return f"; {quantify(self.held, 'row')} not sent" if self.held else ""

    def dump(self) -> str:
        """Return the text of ``--summary``."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    def to_json(self) -> dict[str, Any]:
        """Return the object of ``--summary``."""
        return {
            "rows": {
                "read": self.read,
                "skipped": self.skipped,
                "failed_before": self.failed_before,
                "invalid_before": self.invalid_before,
                "incomplete_before": self.incomplete_before,
                "answered": self.answered,
                "incomplete": self.incomplete,
                "failed": self.failed,
                "invalid": self.invalid,
                "same": self.same,
                "deferred": self.deferred,
                "not_asked": self.not_asked,
                "changed": self.changed,
                "duplicates": self.duplicates,
                "held": self.held,
            },
            "strays": self.strays,
            "sends": self.sends,
            "retries": self.retries,
            "sends_with_unknown_outcome": self.unknown,
            "tokens": self.spending.dump_tokens(),
            **self.spending.dump_cost(),
            "answers_of_unknown_cost": self.spending.unpriced,
            "answers_of_estimated_cost": self.spending.estimated,
            "so_far": self.spending.join(self.earlier).dump_cost(),
            "latency_ms": self.find_percentiles(),
            "refusals": dict(self.refusals),
            "limits": self.limits,
            "stopped": self.stop_reason,
        }
