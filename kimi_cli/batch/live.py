"""The live run of a campaign: how fast it may go at this host and on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from kimi_cli.api.allowance import Allowance
from kimi_cli.api.client import Client
from kimi_cli.api.text import quantify
from kimi_cli.batch.pace import START, Pace
from kimi_cli.batch.plan import Plan
from kimi_cli.batch.records import BadRecord, Record
from kimi_cli.batch.run import Front, Launch, Run
from kimi_cli.batch.runner import Means, Runner
from kimi_cli.batch.sinks import Sink
from kimi_cli.batch.tally import Tally
from kimi_cli.settings.precedence import Settings
from kimi_cli.settings.profiles import Profile

if TYPE_CHECKING:
    from kimi_cli.batch.inspection import Inspector

_SPARE_DESCRIPTORS = 64


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Speed:
    """What the user said of the pace; None where nothing was said."""

    concurrency: int | None = None
    rpm: float | None = None
    """Requests a minute."""
    tpm: float | None = None
    """Tokens a minute."""
    share: int = 1
    """How many equal processes share the account."""


def make_pace(settings: Settings, speed: Speed, warn: Callable[[str], None]) -> Pace:
    """Begin with what is documented of the host; an option has the last word."""
    known = settings.profile if settings.at_home else Profile("")
    pace = Pace(
        cap=speed.concurrency,
        start=speed.concurrency or START,
        rpm=speed.rpm,
        tpm=speed.tpm,
        rate=known.rate,
        documented=known.concurrency,
        share=speed.share,
    )
    allowed = _raise_descriptor_limit(pace.most)
    if allowed < pace.most:
        warn(f"at most {quantify(allowed, 'request')} at once: 'ulimit -n' allows no more files")
        pace.confine(allowed)
    return pace


def _raise_descriptor_limit(connections: int) -> int:
    """Allow so many connections, or return how many are allowed at most."""
    import resource  # noqa: PLC0415 - not on every system

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _SPARE_DESCRIPTORS
    if resource.RLIM_INFINITY != soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, min(connections, soft - _SPARE_DESCRIPTORS))
    return connections


def prepare_launch(
    client: Client,
    front: Front,
    *,
    pace: Pace,
    plan: Plan,
    tally: Tally,
    inspector: Inspector | None = None,
) -> Launch:
    """Return what makes the live run of records, whose answers an *inspector* may look at."""
    means = Means(partial(client.open_channel, Allowance()), front)
    if inspector is not None:
        means = replace(means, prepare=inspector.prepare, inspect=inspector.inspect)

    def launch(
        records: Iterator[Record | BadRecord], sink: Sink, tell_read: Callable[[], int]
    ) -> Run:
        return Runner(
            records, sink, means=means, pace=pace, plan=plan, tally=tally, tell_read=tell_read
        )

    return launch
