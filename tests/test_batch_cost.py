"""kimi batch and money: what a run costs, what it cost before, and where it ends."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import rows
from program import Kimi
from rows import Row, charge, get_prompt, hold, make_rows, read_rows, write_input, write_rows
from screen import Screen
from server import ReceivedRequest, ReplayServer, Reply, completion, document

batch = rows.echoing

PRICES = """
[prices."kimi-k2.5"]
input = 1
cached = 0.1
output = 10

[prices.kimi-k3]
input = 3
output = 15
currency = "CNY"
"""

Configure = Callable[[str], None]


@pytest.fixture
def configure(home: Path) -> Configure:
    """Writes the configuration file."""

    def write(text: str) -> None:
        path = home / ".config/kimi/config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)

    return write


@pytest.fixture(autouse=True)
def prices(configure: Configure) -> None:
    """Two models have prices, in two currencies."""
    configure(PRICES)


USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "prompt_tokens_details": {"cached_tokens": 400},
    "completion_tokens_details": {"reasoning_tokens": 60},
}
"""0.00164 USD at the price of kimi-k2.5."""


def answer_as(model: str, usage: Any = USAGE) -> Reply:
    """Answer under that name."""
    body = json.loads(completion("x", usage=usage).body[0])  # type: ignore[arg-type]
    return document({**body, "model": model})


def echo_model(request: ReceivedRequest) -> Reply:
    """Answer as the model that is asked."""
    return answer_as(request.json["model"])


def sum_up(batch: Kimi, summary: Path, *arguments: str, status: int = 0) -> tuple[Row, str]:
    """Run, and return the final figures and what was told."""
    result = batch(*arguments, "--summary", str(summary))
    assert result.status == status, result.error
    return json.loads(summary.read_text()), result.error


# What a run costs


def test_a_run_tells_its_cost(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """In its last line, in its figures, and in each line of its output."""
    write_input(source, 3)
    server.answer(echo_model)
    figures, told = sum_up(batch, summary, str(source), "-o", str(out))
    assert "3000 (1200 cached) + 300 (180 of reasoning) tokens; 0.00492 USD;" in told
    tokens = {"prompt": 3000, "cached": 1200, "completion": 300, "reasoning": 180}
    assert figures["tokens"] == tokens
    assert (figures["cost"], figures["currency"]) == (0.00492, "USD")
    assert figures["so_far"] == {"cost": 0.00492, "currency": "USD"}
    assert [(row["kimi"]["cost"], row["kimi"]["currency"]) for row in read_rows(out)] == [
        (0.00164, "USD")
    ] * 3


def test_a_run_that_goes_on_tells_both_costs(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Its own, and that of all that the output holds; a run without work costs nothing."""
    write_input(source, 2)
    server.answer(echo_model)
    sum_up(batch, summary, str(source), "-o", str(out))
    write_input(source, 3)
    figures, told = sum_up(batch, summary, str(source), "-o", str(out))
    assert "0.00164 USD (0.00492 USD with earlier runs)" in told
    assert (figures["cost"], figures["so_far"]["cost"]) == (0.00164, 0.00492)
    figures, told = sum_up(batch, summary, str(source), "-o", str(out))
    assert "USD;" not in told
    assert (figures["cost"], figures["so_far"]["cost"]) == (None, 0.00492)


def test_two_currencies_are_not_added_up(
    batch: Kimi, server: ReplayServer, source: Path, summary: Path
) -> None:
    """Rows may name their own models: each is paid in its own money, or has no price at all."""
    models = ["kimi-k2.5", "kimi-k3", "unpriced", "kimi-k3"]
    write_rows(source, [{"prompt": model, "model": model} for model in models])
    server.answer(echo_model)
    figures, told = sum_up(batch, summary, str(source))
    assert "0.00900 CNY and 0.00164 USD without 1 answer of unknown cost" in told
    assert (figures["cost"], figures["currency"]) == (None, None)
    assert figures["costs"] == {"CNY": 0.009, "USD": 0.00164}
    assert figures["answers_of_unknown_cost"] == 1


def test_a_host_that_counts_nothing_is_estimated(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """And what is estimated is marked; the lines have no cost, for nobody knows it."""
    write_input(source, 2)
    server.answer(lambda request: completion("word " * 300, usage=None))
    figures, told = sum_up(batch, summary, str(source), "-o", str(out))
    assert "0 + 0 tokens; about 0.01" in told
    assert figures["answers_of_estimated_cost"] == 2
    assert 0.005 < figures["cost"] < 0.02
    assert not any("cost" in row["kimi"] for row in read_rows(out))


def test_a_run_without_prices_has_no_cost(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path,
    configure: Configure,
) -> None:  # fmt: skip
    """Null, and not nought."""
    configure("")
    write_input(source, 2)
    server.answer(echo_model)
    figures, told = sum_up(batch, summary, str(source), "-o", str(out))
    assert "200 (120 of reasoning) tokens; p50" in told
    assert (figures["cost"], figures["currency"]) == (None, None)
    assert figures["so_far"] == {"cost": None, "currency": None}
    assert not any("cost" in row["kimi"] for row in read_rows(out))


def test_progress_tells_the_cost(batch: Kimi, server: ReplayServer, source: Path) -> None:
    """The last line of JSON has the figures of the whole run."""
    write_input(source, 3)
    server.answer(echo_model)
    result = batch(str(source), "--progress", "json", "-q")
    last = json.loads(result.error.splitlines()[-1])
    assert (last["cost"], last["currency"]) == (0.00492, "USD")
    assert last["tokens"]["cached"] == 1200


def test_the_bar_tells_the_cost(
    batch: Kimi, server: ReplayServer, home: Path, source: Path, out: Path
) -> None:
    """Among the first figures, where a screen is wide enough."""
    gate = threading.Event()
    write_input(source, 3)

    def answer(request: ReceivedRequest) -> Reply:
        reply = echo_model(request)
        return hold(gate, reply) if get_prompt(request) == "p2" else reply

    server.answer(answer)
    command = [str(batch.program), *batch.arguments, str(source), "-o", str(out), "-c", "2"]
    environment = {key: value for key, value in batch.environment.items() if value is not None}
    with Screen(command, environment, home, columns=100) as screen:
        screen.see("0.00328 USD")
        gate.set()
        assert screen.end() == 0


# Where a run ends


def test_the_budget_of_money_is_kept(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Stopped before it is exceeded, exit 75; a larger one finishes, and pays nothing twice."""
    ids = write_input(source, 30)
    server.answer(lambda request: charge(400, 60))  # 0.001 each
    result = batch(str(source), "-o", str(out), "--max-cost", "0.01")
    assert result.status == 75
    assert "stopped: --max-cost 0.0100 USD; the same command goes on" in result.error
    assert 3 <= len(server.requests) == len(read_rows(out)) <= 10
    result = batch(str(source), "-o", str(out), "--max-cost", "1")
    assert result.status == 0, result.error
    assert rows.read_ids(out) == ids
    assert len(server.requests) == 30


@pytest.mark.parametrize(
    ("prompt", "price", "options", "budget"),
    [
        ("x" * 32_000 + "{}", (9400, 10), (), "0.02"),
        ("p{}", (10, 990), ("--max-tokens", "990"), "0.05"),
        ("p{}", (10, 990), ("-c", "1"), "0.046"),
        ("word " * 4000 + "{}", (4000, 300), ("-c", "1"), "0.05"),
    ],
    ids=["long prompts", "known maximum", "known by experience", "prompts of short words"],
)
def test_the_budget_of_money_is_kept_where_rows_are_dear(
    batch: Kimi, server: ReplayServer, source: Path, out: Path,
    prompt: str, price: tuple[int, int], options: tuple[str, ...], budget: str,
) -> None:  # fmt: skip
    """Prompt and answer have prices of their own, and each is learned."""
    write_input(source, 20, prompt=prompt)
    server.answer(lambda request: charge(*price))
    result = batch(str(source), "-o", str(out), "--max-cost", budget, *options)
    assert result.status == 75, result.error
    paid = len(server.requests) * (price[0] + 10 * price[1]) / 10**6
    assert 0 < paid <= float(budget)


def test_money_that_is_less_than_one_row_may_cost_is_bad_input(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """Nothing is sent."""
    write_input(source, 3)
    result = batch(str(source), "--max-cost", "0.000001")
    assert result.status == 65
    assert "--max-cost 0.00000100 USD is less than one row may use" in result.error
    assert not server.requests


def test_a_budget_ends_where_the_host_counts_nothing(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """What is not reported is estimated, so that there is an end; with tokens as with money."""
    write_input(source, 40)
    server.answer(lambda request: completion("word " * 300, usage=None))
    for limit in (("--max-cost", "0.02"), ("--max-total-tokens", "3000")):
        before = len(server.requests)
        result = batch(str(source), "-o", str(out), *limit, "-c", "1")
        assert result.status == 75, result.error
        assert 1 <= len(server.requests) - before <= 8


@pytest.mark.parametrize("tokens", [(), ("--token-file", "none-such")])
def test_a_run_that_cannot_be_priced_does_not_start(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, configure: Configure,
    tokens: tuple[str, ...],
) -> None:  # fmt: skip
    """Exit 65, and how a price is set; no token is read, no file is made, nothing is sent."""
    configure("")
    write_input(source, 3)
    result = batch(str(source), "-o", str(out), "--max-cost", "5", *tokens)
    assert result.status == 65
    assert "kimi-k2.5 has no price; set input and output" in result.error
    assert '[prices."kimi-k2.5"] in config.toml' in result.error
    assert result.error.count("\n") == 1
    assert not out.exists()
    assert not server.requests


def test_a_model_without_a_price_is_not_asked_where_others_have_one(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """The first row says which model it is: nothing is sent."""
    write_input(source, 3)
    result = batch(str(source), "-m", "unpriced", "--max-cost", "5")
    assert result.status == 65
    assert "row 1: unpriced has no price" in result.error
    assert not server.requests


def test_a_row_without_a_price_ends_the_run(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, configure: Configure
) -> None:
    """What was sent is finished and kept; with a price the same command goes on."""
    given: list[Row] = make_rows(6)
    given[3]["model"] = "unpriced"
    write_rows(source, given)
    server.answer(echo_model)
    command = (str(source), "-o", str(out), "--max-cost", "5")
    result = batch(*command)
    assert result.status == 65
    assert "row 4: unpriced has no price" in result.error
    assert rows.read_ids(out) == ["r0", "r1", "r2"]
    configure(PRICES + "[prices.unpriced]\ninput = 0\noutput = 0\n")
    assert batch(*command).status == 0
    assert rows.read_ids(out) == [f"r{number}" for number in range(6)]
    assert len(server.requests) == 6


def test_a_limit_has_one_currency(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """That of the first row: a row that is paid in another ends the run."""
    given: list[Row] = make_rows(3)
    given[2]["model"] = "kimi-k3"
    write_rows(source, given)
    server.answer(echo_model)
    result = batch(str(source), "-o", str(out), "--max-cost", "5")
    assert result.status == 65
    assert "row 3 is paid in CNY, and the first in USD: --max-cost bounds one" in result.error
    assert rows.read_ids(out) == ["r0", "r1"]


def test_rows_that_name_priced_models_need_no_price_of_the_default(
    batch: Kimi, server: ReplayServer, source: Path
) -> None:
    """The default is not asked."""
    write_rows(source, [{"prompt": "p", "model": "kimi-k3"}] * 2)
    server.answer(echo_model)
    result = batch(str(source), "-m", "unpriced", "--max-cost", "5")
    assert result.status == 0, result.error


@pytest.mark.parametrize("amount", ["0", "-1", "five", "", "1e3", "nan", "0.0", "5 USD", "."])
def test_an_amount_is_a_number_above_nought(
    batch: Kimi, server: ReplayServer, source: Path, amount: str
) -> None:
    """Anything else is wrong usage."""
    write_input(source, 1)
    result = batch(str(source), "--max-cost", amount)
    assert result.status == 2
    assert "is no amount of money, such as 5 or 0.25" in result.error
    assert not server.requests


# What a run would take


def rehearse(batch: Kimi, *arguments: str, status: int = 0) -> str:
    """Look at what a run would do."""
    result = batch("--dry-run", *arguments)
    assert result.status == status, result.error
    return result.error


def test_a_rehearsal_tells_what_is_left(
    batch: Kimi, server: ReplayServer, source: Path, out: Path
) -> None:
    """Prompts, answers at most and so far, and the cost between; of the rows of this output."""
    write_input(source, 2, prompt="Hello")
    write_rows(source, [{**row, "custom_id": f"r{n}"} for n, row in enumerate(read_rows(source))])
    told = rehearse(batch, str(source), "-o", str(out))
    assert "2 rows can be sent, 0 cannot; 0 done before" in told
    assert "prompts: 18 tokens\n" in told
    assert "answers: 2 rows without a limit (see --max-tokens)\n" in told
    assert "cost: 0.0000180 USD (prompts alone)\n" in told
    told = rehearse(batch, str(source), "-o", str(out), "--max-tokens", "500")
    assert "answers: at most 1000 tokens\n" in told
    assert "cost: between 0.0000180 USD (prompts alone) and 0.0100 USD\n" in told
    assert not out.exists()
    server.answer(lambda request: charge(9, 100))
    assert batch(str(source), "-o", str(out)).status == 0
    write_rows(source, [{"custom_id": f"r{n}", "prompt": "Hello"} for n in range(5)])
    told = rehearse(batch, str(source), "-o", str(out), "--on-change", "keep")
    assert "3 rows can be sent, 0 cannot; 2 done before" in told
    assert "prompts: 27 tokens\n" in told
    assert "; 100 on average so far, in 2 answers\n" in told
    assert "cost: about 0.00303 USD (answers as so far)\n" in told
    command = (str(source), "-o", str(out), "--on-change", "keep", "--max-tokens", "60")
    told = rehearse(batch, *command)
    assert "answers: at most 180 tokens; 100 on average so far" in told
    assert "cost: between 0.00183 USD (answers as so far) and 0.00183 USD\n" in told


@pytest.mark.parametrize("style", ["batch", "flat", "merge"])
def test_a_rehearsal_reads_every_format(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, style: str
) -> None:
    """The average is that of the lines, in whatever form they are."""
    write_input(source, 2)
    server.answer(lambda request: charge(9, 50))
    command = (str(source), "-o", str(out), "--format", style)
    assert batch(*command).status == 0
    write_input(source, 3)
    assert "; 50 on average so far, in 2 answers" in rehearse(batch, *command)


def test_a_rehearsal_marks_what_it_does_not_know(
    batch: Kimi, source: Path, configure: Configure
) -> None:
    """A vocabulary that is not known, a model without a price, several currencies."""
    models = ["kimi-k2.5", "kimi-k3", "unpriced", "unpriced"]
    write_rows(source, [{"prompt": "Hello", "model": model} for model in models])
    told = rehearse(batch, str(source), "--max-tokens", "100")
    assert "prompts: about " in told
    assert "this is an estimate: the vocabulary of unpriced is not known here" in told
    assert "cost: between 0.000258 CNY and 0.00000900 USD (prompts alone) and 0.00176 CNY" in told
    assert "and 0.00101 USD, without 2 rows of unpriced\n" in told
    configure("")
    told = rehearse(batch, str(source))
    assert "cost: unknown; kimi-k2.5 has no price; set input and output" in told


def test_a_rehearsal_refuses_what_a_run_would(
    batch: Kimi, source: Path, configure: Configure
) -> None:
    """Each row without a price, where money is limited."""
    given: list[Row] = make_rows(3)
    given[1]["model"] = "unpriced"
    write_rows(source, given)
    told = rehearse(batch, str(source), "--max-cost", "5", status=65)
    assert "row 2: unpriced has no price" in told
    assert "2 rows can be sent, 1 cannot" in told
    configure("")
    assert "kimi-k2.5 has no price" in rehearse(batch, str(source), "--max-cost", "5", status=65)


@pytest.mark.parametrize("held", ["", "no json\n", '{"custom_id": "r0", "kimi": {"ke'])
def test_a_rehearsal_of_an_output_that_tells_nothing(
    batch: Kimi, source: Path, out: Path, held: str
) -> None:
    """Empty, torn, or not ours: there is no average, and what a run would say is said."""
    write_input(source, 1)
    out.write_text(held)
    told = rehearse(batch, str(source), "-o", str(out), status=65 if "no json" in held else 0)
    assert "on average so far" not in told
    assert ("not this tool's" in told) == ("no json" in held)


def test_a_rehearsal_of_an_output_that_cannot_be(batch: Kimi, source: Path) -> None:
    """A name that no file can have is that error, and no other."""
    write_input(source, 1)
    told = rehearse(batch, str(source), "-o", "o" * 300, status=73)
    assert told.count("\n") == 1


def test_a_rehearsal_of_nothing_has_no_forecast(batch: Kimi, source: Path) -> None:
    """There is nothing to tell."""
    source.write_text("")
    result = batch("--dry-run", str(source))
    assert "prompts" not in result.error


def test_a_rehearsal_of_much_goes_by_length_in_the_end(batch: Kimi, source: Path) -> None:
    """The first millions of tokens are counted; what follows is an estimate by these."""
    write_input(source, 500, prompt="word " * 5000 + "{}")
    told = rehearse(batch, str(source))
    assert "this is an estimate: rows behind the first millions go by their length" in told
    [shown] = [line for line in told.splitlines() if "prompts: about " in line]
    tokens = int(shown.split()[3])
    assert 500 * 5008 <= tokens <= 500 * 5012


def test_a_row_that_is_asked_again_pays_for_both(
    batch: Kimi, server: ReplayServer, source: Path, out: Path, summary: Path
) -> None:
    """Its line has what all of its answers cost, whether the last one fits or not."""
    write_rows(source, [{"custom_id": "good", "prompt": "a"}, {"custom_id": "bad", "prompt": "b"}])

    def answer(request: ReceivedRequest) -> Reply:
        prompts = [message["content"] for message in request.json["messages"]]
        fits = "a" in prompts and len(prompts) > 2
        return completion("yes" if fits else "perhaps", usage=USAGE)

    server.answer(answer)
    command = (str(source), "-o", str(out), "--choice", "yes,no")
    figures, _ = sum_up(batch, summary, *command, status=4)
    assert len(server.requests) == 4
    assert {row["custom_id"]: row["kimi"]["cost"] for row in read_rows(out)} == {
        "good": 0.00328,
        "bad": 0.00328,
    }
    assert (figures["cost"], figures["so_far"]["cost"]) == (0.00656, 0.00656)
    assert sum_up(batch, summary, *command, status=4)[0]["so_far"]["cost"] == 0.00656
