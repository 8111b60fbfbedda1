"""kimi batch: budgets, deadlines and shares of errors end a run in good order."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import rows
from program import Kimi
from rows import (
    FAILED,
    FORBIDDEN,
    charge,
    echo,
    finish,
    get_prompt,
    hold,
    list_ids,
    list_prompts,
    make_rows,
    pause,
    read_ids,
    read_rows,
    write_input,
    write_rows,
)
from server import ReceivedRequest, ReplayServer, Reply, completion, refusal

batch = rows.echoing


# Limits of the run


def test_the_budget_of_tokens_is_kept(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Stopped before it is exceeded, exit 75; a larger one finishes, and pays nothing twice."""
    ids = write_input(source, 30)
    server.answer(lambda request: charge(40, 60))
    result = batch(str(source), "-o", str(out), "--max-total-tokens", "1000")
    assert result.status == 75
    assert "--max-total-tokens 1000" in result.error
    assert 3 <= len(server.requests) == len(read_rows(out))
    assert 100 * len(server.requests) <= 1000
    result = batch(str(source), "-o", str(out), "--max-total-tokens", "100000")
    assert result.status == 0, result.error
    assert read_ids(out) == ids
    assert len(server.requests) == 30


@pytest.mark.parametrize(
    ("prompt", "price", "options", "budget"),
    [
        ("x" * 32_000 + "{}", (9400, 10), (), 12_000),
        ("p{}", (10, 990), ("--max-tokens", "990"), 5000),
        ("p{}", (10, 990), ("-c", "1"), 4600),
    ],
    ids=["long prompts", "known maximum", "known by experience"],
)
def test_the_budget_of_tokens_is_kept_where_rows_are_large(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    prompt: str, price: tuple[int, int], options: tuple[str, ...], budget: int,
) -> None:  # fmt: skip
    """What the next row will cost is known: by its length, its --max-tokens, or those before."""
    write_input(source, 20, prompt=prompt)
    server.answer(lambda request: charge(*price))
    result = batch(str(source), "-o", str(out), "--max-total-tokens", str(budget), *options)
    assert result.status == 75
    assert 1 <= len(server.requests) <= budget // sum(price)


def follow_prompts(server: ReplayServer) -> list[str]:
    """Return what was asked, in the order of arrival."""
    return [get_prompt(request) for request in server.requests]


def test_a_run_ends_after_some_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-errors 2: the third ends it, exit 75; the same command goes on behind them."""
    ids = write_input(source, 12)
    server.answer(lambda request: FORBIDDEN)
    command = (str(source), "-o", str(out), "-c", "1", "--max-errors", "2")
    for run in (1, 2):
        result = batch(*command)
        assert result.status == 75
        assert "stopped: --max-errors" in result.error
        assert follow_prompts(server) == [f"p{n}" for n in range(3 * run)]
        assert read_ids(out) == ids[: 3 * run]
    finish(batch, server, source, out, ids)


def test_a_run_ends_after_a_share_of_errors(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-errors P%: judged from the 50th row on, and resumable."""
    ids = write_input(source, 60)

    def answer(request: ReceivedRequest) -> Reply:
        return FORBIDDEN if int(get_prompt(request)[1:]) % 5 == 4 else echo(request)

    server.answer(answer)
    command = (str(source), "-o", str(out), "-c", "1")
    assert batch(*command, "--max-errors", "19.9%").status == 75
    assert read_ids(out) == ids[:50]
    finish(batch, server, source, out, ids)
    out.unlink()
    server.answer(answer)
    assert batch(*command, "--max-errors", "20%").status == 4
    assert read_ids(out) == ids


def test_rows_with_errors_count_as_rows(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """--max-rows counts a line that cannot be read, one that is refused, one that failed."""
    source.write_text('{torn\n"refused"\n"failed"\n"good"\n"next"\n')
    special = {"refused": FORBIDDEN, "failed": FAILED}
    server.answer(lambda request: special.get(get_prompt(request)) or echo(request))
    command = (str(source), "-o", str(out), "-c", "1", "--retries", "0", "--max-rows")
    assert batch(*command, "4").status == 75
    assert follow_prompts(server) == ["refused", "failed", "good"]
    assert [row["custom_id"] for row in read_rows(out)] == ["row-1", "row-2", "row-4"]
    special.clear()
    assert batch(*command, "2").status == 4
    assert follow_prompts(server)[3:] == ["failed", "next"]


def test_a_deadline_ends_a_run(batch: Kimi, server: ReplayServer, source: Path, out: Path) -> None:
    """No more rows leave, what is in flight is kept, exit 75, and the same command goes on."""
    ids = write_input(source, 8)
    gate = threading.Event()
    server.answer(lambda request: hold(gate, echo(request)))
    options = ("-c", "2", "--deadline", "0.5s", "--progress", "json")
    run = batch.start(str(source), "-o", str(out), *options)
    run.expect(b'"in_flight": 2', "stderr")  # a second has passed
    gate.set()
    result = run.wait()
    assert result.status == 75
    assert "stopped: --deadline" in result.error
    assert read_ids(out) == ids[:2]
    finish(batch, server, source, out, ids)


def test_a_deadline_ends_a_run_whose_input_is_silent(batch: Kimi, server: ReplayServer) -> None:
    """A pipe that stays open and gives nothing holds nobody."""
    server.answer(echo)
    run = batch.start("--deadline", "0.5s", "--format", "text", stdin="pipe")
    run.write(b'"one"\n')
    run.expect(b'"re: one"\n')
    assert run.wait(timeout=10).status == 75


def test_a_budget_below_one_row_is_told(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It would never go on: 65, and nothing is asked; several answers are reserved for."""
    write_rows(source, [{"prompt": "x", "max_tokens": 400, "n": 4}])
    command = (str(source), "-o", str(out), "--max-total-tokens")
    result = batch(*command, "1000")
    assert result.status == 65
    assert "--max-total-tokens 1000 is less than one row may use" in result.error
    assert not server.requests
    assert batch(*command, "2000").status == 0


# Accounts and budgets


@pytest.mark.parametrize(
    "spent",
    [
        refusal(429, "exceeded_current_quota_error", "suspended", dialect="moonshot"),
        refusal(429, "rate_limit_reached_error", "You exceeded your current quota, please check"),
    ],
    ids=["code", "text"],
)
def test_an_account_without_quota_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, spent: Reply
) -> None:
    """Whatever the status says, it is not asked again: exit 77 at once."""
    write_input(source, 50)
    server.script(spent, repeat=True)
    result = batch(str(source), "-o", str(out), "-c", "1", "-q")
    assert result.status == 77
    assert len(server.requests) == 1
    assert result.error.count("\n") == 1
    assert "recharge the account" in result.error
    assert out.read_bytes() == b""


def test_answers_in_flight_outlive_the_account(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """When the money ends, nothing more is sent, and what is under way is kept: exit 77."""
    write_rows(source, make_rows(12))
    gate = threading.Event()
    spent = refusal(429, "exceeded_current_quota_error", "suspended", dialect="moonshot")

    def answer(request: ReceivedRequest) -> Reply:
        return spent if get_prompt(request) == "p3" else hold(gate, echo(request))

    server.answer(answer)
    run = batch.start(str(source), "-o", str(out), "-c", "4")
    server.await_requests(4)
    pause(0.3)
    gate.set()
    assert run.wait().status == 77
    assert sorted(list_ids(out)) == ["r0", "r1", "r2"]
    assert list_prompts(server) == ["p0", "p1", "p2", "p3"]


def cost(tokens: int) -> Reply:
    """Answer at that price."""
    return completion("x", usage={"prompt_tokens": 10, "completion_tokens": tokens - 10})


def test_the_first_row_tells_what_rows_cost(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It goes alone, so that a budget is exceeded by one answer at most."""
    write_rows(source, make_rows(30))
    gate = threading.Event()
    server.answer(lambda request: hold(gate, cost(5000)))
    run = batch.start(str(source), "-o", str(out), "--max-total-tokens", "20000")
    server.await_requests(1)
    pause(0.3)
    assert len(server.requests) == 1
    gate.set()
    assert run.wait().status == 75
    assert 3 <= len(server.requests) == len(list_ids(out)) <= 5


def test_rows_with_a_limit_of_their_own_are_reserved_by_it(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """As many go at once as the budget holds; what they left over is given to the next."""
    write_rows(source, [{**row, "max_tokens": 6000} for row in make_rows(9)])
    gate = threading.Event()
    server.answer(lambda request: hold(gate, cost(20)))
    run = batch.start(str(source), "-o", str(out), "--max-total-tokens", "20000")
    server.await_requests(3)
    pause(0.3)
    assert len(server.requests) == 3
    gate.set()
    assert run.wait().status == 0
    assert len(list_ids(out)) == len(server.requests) == 9


def test_a_limit_for_the_day_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """It resets by itself, but not soon: 75 at once, with that word."""
    write_rows(source, make_rows(5))
    words = "Your account reached organization TPD rate limit, current: 9, limit: 8"
    server.script(refusal(429, "rate_limit_reached_error", words, dialect="moonshot"))
    result = batch(str(source), "-o", str(out), "-c", "1")
    assert result.status == 75
    assert "this limit resets by itself, but not soon" in result.error
    assert len(server.requests) == 1
