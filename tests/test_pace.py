"""The pace learns what a service permits, and how much at once is of use: in virtual time."""

from __future__ import annotations

import random
import statistics
from itertools import pairwise

import pytest
import virtual_host as virtual
from virtual_host import DIALECTS, RETRY_AFTERS, Account, Host, Rule, compete, score, simulate

from kimi_cli.api.refusals import Refusal
from kimi_cli.batch.notices import Kind, Notice, read_notice
from kimi_cli.batch.pace import Pace

SLACK, WORST = 1.25, 1.6
"""How many times as long as the best a run may take: in the median, and ever."""
REFUSED = 0.1
"""The share of the rows that may be refused."""
RUNS = 4
"""Runs of each account here; benchmarks/pace.py has as many as are wanted."""
OFTEN_REFUSED = {
    "2 a second, burst 2": 0.03,
    "3 a minute": 0.05,
    "60 a minute, 0.2 s": 0.02,
    "100,000 tokens a minute": 0.03,
    "20 at once, 100,000 tokens": 0.06,
    "1 at once, at times another's": 0.05,
}
"""Where more may be refused, and by how much: these are few rows to learn from."""


@pytest.mark.parametrize("account", virtual.ACCOUNTS, ids=lambda account: account.name)
def test_a_run_is_never_far_from_the_best(account: Account) -> None:
    """Whatever a host counts, and however it words a refusal: no row lost, and few refused."""
    dice = random.Random(account.name)
    scores = [
        score(account, dice.choice(list(DIALECTS)), dice.choice(list(RETRY_AFTERS)), seed)
        for seed in range(RUNS if account.rows < 10_000 else 1)
    ]
    more = max(
        (add for name, add in OFTEN_REFUSED.items() if account.name.startswith(name)), default=0.0
    )
    assert not any(one.lost for one in scores)
    assert statistics.median(one.ratio for one in scores) <= (SLACK if scores[1:] else WORST)
    assert max(one.ratio for one in scores) <= WORST
    assert statistics.median(one.refused for one in scores) <= REFUSED + more
    assert max(one.blind for one in scores) <= 2


@pytest.mark.parametrize("share", [0.01, 0.05, 0.15])
@pytest.mark.parametrize("words", ["gateway", "empty", "503"])
def test_refusals_at_any_pace_are_no_limit(words: str, share: float) -> None:
    """A service that refuses some whatever is sent is not asked ever more slowly."""
    usual = simulate(Host(latency=1.0), 3000, Pace()).seconds
    runs = [
        simulate(
            Host(latency=1.0, fickle=share, mood=DIALECTS[words], seed=seed),
            3000,
            Pace(),
            seed=seed,
        )
        for seed in range(3)
    ]
    assert sum(run.seconds for run in runs) <= 3.5 * 3 * usual
    assert sum(run.refused for run in runs) <= 1.3 * share * 9000


@pytest.mark.parametrize("words", ["gateway", "503"])
def test_a_limit_is_found_among_refusals_at_any_pace(words: str) -> None:
    """It is kept: what is refused beside the usual is little, and so is the time that is lost."""
    runs = [
        simulate(
            Host(Rule(Kind.CONCURRENCY, 20), fickle=0.02, mood=DIALECTS[words], seed=seed),
            3000,
            Pace(),
            dialect=DIALECTS[words],
            seed=seed,
        )
        for seed in range(3)
    ]
    assert sum(run.seconds for run in runs) <= 1.5 * 3 * 30
    assert sum(run.refused for run in runs) <= 3 * (0.02 * 3000 + 0.05 * 3000)


@pytest.mark.parametrize("spread", [0.1, 0.8])
@pytest.mark.parametrize("slots", [16, 32, 64])
def test_more_at_once_only_while_it_helps(slots: int, spread: float) -> None:
    """A service that refuses nothing is kept busy, and not buried under requests that queue."""
    for seed in range(2):
        host = Host(latency=5.0, slots=slots, spread=spread, seed=seed)
        run = simulate(host, 3000, Pace(), seed=seed)
        assert run.seconds <= 1.1 * 5 * 3000 / slots + 5 * 5
        assert 0.9 * slots <= run.find_limit(60, run.seconds) <= max(80, 2.5 * slots)


def test_all_that_is_allowed_is_used_where_it_helps() -> None:
    """A large service is asked 256 at once after a few answers' time."""
    for spread in (0.1, 0.8):
        run = simulate(Host(latency=5.0, slots=1000, spread=spread), 4000, Pace())
        assert run.find_limit(30, run.seconds - 10) == 256


def test_a_service_that_grows_is_followed() -> None:
    """What did not help once is tried again."""
    host = Host(latency=5.0, slots=32, spread=0.5, grows=(300.0, 200))
    run = simulate(host, 20_000, Pace())
    assert run.find_limit(60, 300) <= 80
    assert run.find_limit(600, run.seconds) >= 150


@pytest.mark.parametrize("rule", [Rule(Kind.CONCURRENCY, 20), Rule(Kind.RATE, 10, 1.0)])
def test_a_limit_that_is_kept_is_hardly_tried(rule: Rule) -> None:
    """Twenty minutes at a learned limit cost a few refusals a minute at most."""
    rows = 12_000
    run = simulate(Host(rule, latency=2.0), rows, Pace())
    assert run.seconds <= 1.05 * 1200
    assert run.refused <= 120


@pytest.mark.parametrize("workers", [2, 8, 64])
def test_equal_shares_are_equal(workers: int) -> None:
    """Workers that are told of each other neither hammer their account nor starve each other."""
    spans = []
    for seed in range(3):
        host = Host(Rule(Kind.CONCURRENCY, 64), latency=1.0, spread=0.3, seed=seed)
        paces = [Pace(share=workers) for _ in range(workers)]
        runs = compete(host, 1280 * 4 // workers, paces, DIALECTS["Moonshot"], seed=seed)
        spans.append(max(run.seconds for run in runs) / min(run.seconds for run in runs))
        assert sum(run.refused for run in runs) <= REFUSED * 1280 * 4
        assert sum(len([at for at in run.sent if at == 0]) for run in runs) <= max(16, workers)
    # One place each is the least there is of 64: who is never refused may have two for a while.
    assert statistics.median(spans) <= 1.2


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_that_do_not_know_of_each_other_get_along(workers: int) -> None:
    """They find their shares by being refused, and leave the account busy."""
    host = Host(Rule(Kind.CONCURRENCY, 40), latency=1.0, spread=0.3)
    runs = compete(host, 4000 // workers, [Pace() for _ in range(workers)], DIALECTS["empty"])
    assert max(run.seconds for run in runs) <= 1.3 * 4000 / 40
    assert sum(run.refused for run in runs) <= 0.15 * 4000


def test_a_share_divides_all_that_a_run_does_by_itself() -> None:
    """The start, the cap, and what is documented; what the user chose for one run is not."""
    pace = Pace(share=8)
    assert pace.limit == 2
    assert max(limit for _, limit in simulate(Host(latency=0.1), 3000, pace).limits) == 32
    run = simulate(Host(latency=0.1), 300, Pace(documented=20, rate=60, share=4))
    assert max(limit for _, limit in run.limits) == 5
    assert 300 / 15 * 0.9 <= run.seconds <= 300 / 15 * 1.1
    assert Pace(cap=20, start=20, share=4).list_limits()[0]["value"] == 20


def test_a_documented_limit_is_kept_without_a_refusal() -> None:
    """The gateway's 20 at once and 60 a second."""
    host = Host(Rule(Kind.CONCURRENCY, 20), Rule(Kind.RATE, 60, 1.0), latency=0.1)
    run = simulate(host, 300, Pace(documented=20, rate=60))
    assert run.refused == 0
    assert run.seconds <= 1.1 * 300 / 60


@pytest.mark.parametrize("after", RETRY_AFTERS)
def test_a_retry_after_stops_no_row_that_has_a_place(after: str) -> None:
    """Where places are scarce, not requests, only the refused row waits."""
    run = simulate(
        Host(Rule(Kind.CONCURRENCY, 20)),
        600,
        Pace(),
        dialect=DIALECTS["page"],
        after=RETRY_AFTERS[after],
    )
    assert run.seconds <= 1.25 * 6
    gaps = [later - earlier for earlier, later in pairwise(run.sent) if later < 5]
    assert max(gaps) <= 0.3


def test_a_number_that_is_announced_is_believed_until_it_proves_wrong() -> None:
    """At once, with hardly a refusal; and a lie costs some seconds."""
    right = Host(Rule(Kind.CONCURRENCY, 50), Rule(Kind.RATE, 200, 60.0), latency=2.0)
    run = simulate(right, 1000, Pace(), dialect=DIALECTS["Moonshot"])
    assert run.seconds <= 1.1 * 242
    assert run.refused <= 60

    def lie(rule: Rule, value: float, after: float | None) -> Refusal:
        return Refusal(429, None, "max organization concurrency: 3, please try again")

    run = simulate(Host(Rule(Kind.CONCURRENCY, 30)), 3000, Pace(), dialect=lie)
    assert run.seconds <= 1.6 * 3000 / 30 * 0.2


def test_what_was_found_is_told() -> None:
    """Kind, value and how, so that the next run's options can be set from it."""
    pace = Pace()
    simulate(Host(Rule(Kind.CONCURRENCY, 20)), 600, pace, dialect=DIALECTS["empty"])
    (found,) = pace.list_limits()
    assert (found["kind"], found["how"]) == ("concurrency", "learned")
    assert 18 <= found["value"] <= 22
    assert "learned" in pace.reason

    pace = Pace(rpm=120)
    simulate(Host(), 130, pace)
    assert pace.list_limits() == [
        {"kind": "requests", "value": 120, "seconds": 60, "how": "chosen"}
    ]


def test_a_limit_of_the_users_own_is_never_exceeded() -> None:
    """And it is told from one of the service, for a run may wait for it as long as it takes."""
    pace = Pace(rpm=120)
    run = simulate(Host(), 300, pace, longest=100)
    for start in run.sent:
        assert sum(start <= moment < start + 60 for moment in run.sent) <= 120
    pace = Pace(rpm=3)
    for _ in range(3):
        pace.admit(0.0)
    assert (pace.find_wait(1.0) or 0) > 1
    assert pace.is_held_by_choice
    assert "chosen" in pace.reason


def test_a_queue_that_times_out_is_shortened() -> None:
    """An attempt that ran out of time takes a part of the limit, once a round trip."""
    pace = Pace(start=16)
    for _ in range(10):
        pace.admit(0.0)
    pace.fail(600.0, in_time=False)
    pace.fail(600.0, in_time=False)
    assert 10 <= pace.limit < 12
    pace.fail(700.0, in_time=False)
    assert pace.limit < 9


@pytest.mark.parametrize(("tpm", "tokens"), [(1000, 100), (1000, 400)])
def test_tokens_a_minute_are_kept(tpm: float, tokens: float) -> None:
    """No minute holds more than the limit."""
    pace = Pace(tpm=tpm)
    now, sent = 0.0, []
    for _ in range(30):
        while (wait := pace.find_wait(now, tokens)) != 0:
            now += wait or 0.1
        pace.succeed(pace.admit(now, tokens), now, int(tokens))
        sent.append(now)
    for start in sent:
        assert sum(tokens for moment in sent if start <= moment < start + 60) <= tpm


def _say(limit: str, value: int) -> Refusal:
    words = f"Your account reached organization max {limit}: {value}, please try again after 1 s"
    return Refusal(429, "rate_limit_reached_error", words)


@pytest.mark.parametrize(
    ("refusal", "notice"),
    [
        (_say("concurrency", 3), Notice(Kind.CONCURRENCY, 3)),
        (
            Refusal(429, None, "max organization concurrency: 50, please"),
            Notice(Kind.CONCURRENCY, 50),
        ),
        (_say("RPM", 200), Notice(Kind.RATE, 200, 60.0)),
        (
            Refusal(429, None, "reached organization TPM rate limit, current:10, limit:500,000"),
            Notice(Kind.TOKENS, 500_000, 60.0),
        ),
        (Refusal(429, "engine_overloaded_error", "busy"), Notice(Kind.OVERLOAD)),
        (Refusal(503), Notice(Kind.OVERLOAD)),
        (Refusal(429, "rate_limited", "too many"), Notice(Kind.CONCURRENCY)),
        (Refusal(429, "too_many_requests", "slow down"), Notice(Kind.RATE)),
        (Refusal(429, None, "Too Many Requests"), Notice(Kind.UNKNOWN)),
    ],
)
def test_refusals_are_read(refusal: Refusal, notice: Notice) -> None:
    """Both dialects, with and without numbers."""
    assert read_notice(refusal) == notice
