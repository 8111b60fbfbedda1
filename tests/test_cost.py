"""What answers cost: prices that are set or listed, the model that is paid for, what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from screen import Start, say
from server import USAGE, ReplayServer, Reply, completion, document, stream

from kimi_cli.api.cost import UNITS, Price, show_amount
from kimi_cli.api.usage import Tokens, read_tokens

K26 = '[prices."kimi-k2.6"]\ninput = 0.95\ncached = 0.16\noutput = 4.0\n'
YUAN = '[prices."kimi-k2.5"]\ninput = 4\noutput = 21\ncurrency = "CNY"\n'

Configure = Callable[[str], Path]


@pytest.fixture
def configure(home: Path) -> Configure:
    """Writes the configuration file."""

    def write(text: str) -> Path:
        path = home / ".config/kimi/config.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return write


def name_model(reply: Reply, model: str | None) -> Reply:
    """Return a whole completion in which another model, or none, says that it answered."""
    body = json.loads(reply.body[0])  # type: ignore[arg-type]
    return document({**body, "model": model})


def read_cost(ask: Kimi, *arguments: str) -> tuple[float | None, str | None]:
    """Ask for JSON and return what it says of money."""
    result = ask("--json", "--no-stream", *arguments, "hi")
    assert result.status == 0, result.error
    shown = json.loads(result.stdout)
    return shown["cost"], shown["currency"]


# What counts


@pytest.mark.parametrize(
    ("model", "answered", "cost"),
    [
        ("kimi-k2.6", "kimi-k2.6", (0.00054855, "USD")),
        ("kimi-k2.6", "kimi-k2.6-2026-04-21", (0.00054855, "USD")),
        ("kimi-k2.6-20260421", None, (0.00054855, "USD")),
        ("kimi-k2.6", "/models/unheard-of", (0.00054855, "USD")),
        ("latest", "kimi-k2.6", (0.00054855, "USD")),
        ("kimi-k2.6", "kimi-k2.5", (0.002871, "CNY")),
        ("kimi-k2", "kimi-k2.6-preview", (None, None)),
        ("kimi-k3", None, (None, None)),
    ],
)
def test_the_model_that_answered_is_paid(
    ask: Kimi, server: ReplayServer, configure: Configure,
    model: str, answered: str | None, cost: tuple[float | None, str | None],
) -> None:  # fmt: skip
    """By its own name, without a date at its end; by what was asked where that has no price."""
    configure(K26 + YUAN)
    server.script(name_model(completion("yes"), answered))
    assert read_cost(ask, "-m", model) == cost


@pytest.mark.parametrize(
    ("usage", "tokens", "cost"),
    [
        (USAGE, (9, None, 135, None), 0.00054855),
        ({"prompt_tokens": 1000, "completion_tokens": 0, "cached_tokens": 400},
         (1000, 400, 0, None), 0.000634),
        ({"prompt_tokens": 1000, "completion_tokens": 10,
          "prompt_tokens_details": {"cached_tokens": 1000},
          "completion_tokens_details": {"reasoning_tokens": 7}},
         (1000, 1000, 10, 7), 0.0002),
        ({"prompt_tokens": 10, "completion_tokens": 1, "cached_tokens": 999},
         (10, 10, 1, None), 0.0000056),
        ({"prompt_tokens": 10}, (10, None, None, None), None),
        ({"prompt_tokens": "10", "completion_tokens": -1, "prompt_tokens_details": 7},
         (None, None, None, None), None),
        (None, (None, None, None, None), None),
    ],
    ids=["plain", "cached", "details", "more cached than there is", "half", "nonsense", "none"],
)  # fmt: skip
def test_tokens_are_read_wherever_a_host_puts_them(
    ask: Kimi, server: ReplayServer, configure: Configure,
    usage: Any, tokens: tuple[int | None, ...], cost: float | None,
) -> None:  # fmt: skip
    """Cached ones are cheaper; reasoning is a part of the answer; what is not told costs null."""
    configure(K26)
    server.script(name_model(completion("yes", usage=usage), "kimi-k2.6"))
    shown = json.loads(ask("--json", "--no-stream", "hi").stdout)
    assert tuple(shown["tokens"].values()) == tokens
    assert shown["cost"] == cost


def test_list_prices_count_at_moonshots_host_alone(
    ask: Kimi, server: ReplayServer, configure: Configure
) -> None:
    """Whoever sends the same model's name elsewhere pays what that host takes, which may differ."""
    server.script(name_model(completion("yes"), "kimi-k3"), repeat=True)
    elsewhere = ("--profile", "moonshot", "-m", "kimi-k3")
    assert read_cost(ask, *elsewhere) == (None, None)
    configure(f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n')
    assert read_cost(ask, *elsewhere) == (0.002052, "USD")
    configure(f'[profiles.mine]\nbase_url = "{server.url}"\nlist_prices = true\n')
    assert read_cost(ask, "--profile", "mine", "-m", "kimi-k3") == (0.002052, "USD")
    configure(
        f'[profiles.moonshot]\nbase_url = "{server.url}"\nauth = "none"\n'
        '[prices.kimi-k3]\ninput = 0\noutput = 0\ncurrency = "EUR"\n'
    )
    assert read_cost(ask, *elsewhere) == (0, "EUR")


def test_verbose_tells_what_an_answer_took(
    ask: Kimi, server: ReplayServer, configure: Configure
) -> None:
    """Tokens with their parts, and money; and of a model without a price just the tokens."""
    configure(YUAN)
    usage = {
        "prompt_tokens": 1200,
        "completion_tokens": 80,
        "cached_tokens": 1000,
        "completion_tokens_details": {"reasoning_tokens": 70},
    }
    server.script(stream("yes", usage=usage), name_model(completion("yes"), "kimi-k3"))
    told = ask("-v", "hi").error
    assert "1200 (1000 cached) + 80 (70 of reasoning) tokens, 0.00648 CNY, " in told
    told = ask("-v", "--no-stream", "-m", "kimi-k3", "hi").error
    assert "9 + 135 tokens, 0." in told


def test_an_answer_that_was_asked_again_costs_both(
    ask: Kimi, server: ReplayServer, configure: Configure
) -> None:
    """What did not fit was paid as well."""
    configure(YUAN)
    server.script(completion("perhaps"), completion("yes"))
    assert read_cost(ask, "--choice", "yes,no") == (0.005742, "CNY")


def test_a_chat_tells_what_its_answers_cost(
    chat: Start, server: ReplayServer, configure: Configure
) -> None:
    """The last one and all, each at the price of the model that answered."""
    configure(K26 + YUAN)
    server.script(stream("fine"), stream("good"), document({"data": []}))
    with chat() as screen:
        say(screen, "one", "fine")
        say(screen, "two", "good")
        say(screen, "/usage", "last turn 9 + 135 tokens, 0.00287 CNY")
        screen.see("all turns 18 + 270 tokens, 0.00574 CNY")


# What is set


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[prices.k]\ninput = -1\noutput = 1", ":2: 'input' must be a number not below 0, and"),
        ("[prices.k]\ninput = nan\noutput = 1", ":2: 'input' must be a number not below 0, and"),
        ("[prices.k]\ninput = 1\noutput = inf", ":3: 'output' must be a number not below 0, and"),
        ("[prices.k]\ninput = true\noutput = 1", ":2: 'input' must be a whole number or a number"),
        ('[prices.k]\ninput = "1"\noutput = 1', ":2: 'input' must be a whole number or a number"),
        ("[prices.k]\ninput = 1", ":1: the price of 'k' has no output"),
        ('[prices."k.1"]', ":1: the price of 'k.1' has no input and no output"),
        ("[prices.kimi-k2.6]\ninput = 1\noutput = 1",
         ':1: a model with a dot needs quotes: [prices."kimi-k2.6"]'),
        ('[prices.k]\ninput = 1\noutput = 1\ncurrency = ""', ":4: 'currency' must be a word"),
        ('[prices.k]\ninput = 1\noutput = 1\ncurrency = "US$ "', ":4: 'currency' must be a word"),
        ('[prices.k]\ninput = 1\noutput = 1\ncurrency = "руб"', ":4: 'currency' must be a word"),
        ("[prices]\nk = 0.6", ":2: 'k' must be a table"),
        ("prices = 0.6", ":1: 'prices' must be tables named [prices.\"MODEL\"]"),
    ],
)  # fmt: skip
def test_a_bad_price_is_named_with_its_line(
    ask: Kimi, server: ReplayServer, configure: Configure, text: str, complaint: str
) -> None:
    """Nothing is asked at a price that cannot be meant: one line, exit 78."""
    path = configure(text)
    result = ask("hi")
    assert (result.status, result.stdout) == (78, b"")
    assert result.error.startswith(f"kimi: {path}{complaint}")
    assert result.error.count("\n") == 1
    assert not server.requests


def test_an_unknown_key_of_a_price_is_a_warning(
    ask: Kimi, server: ReplayServer, configure: Configure
) -> None:
    """As everywhere in the file."""
    path = configure(YUAN + "discount = 3\n")
    server.script(stream("yes"))
    result = ask("hi")
    assert result.stdout == b"yes\n"
    assert result.error == f"kimi: {path}:5: unknown key 'discount' is ignored\n"


# Arithmetic

amounts = st.integers(0, 10**9)
prices = st.decimals(0, 1000, places=4).map(float)


@given(prompt=amounts, cached=amounts, completion=amounts, price=st.tuples(prices, prices, prices))
def test_costs_are_exact(
    prompt: int, cached: int, completion: int, price: tuple[float, float, float]
) -> None:
    """As decimal arithmetic has them, to the last place; and the number shown has no noise."""
    fresh, kept, output = price
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "cached_tokens": cached}
    cost = Price.per_million(fresh, output, kept).charge(read_tokens(usage))
    assert cost is not None
    cached = min(cached, prompt)
    wanted = sum(
        tokens * Decimal(str(each)) / 10**6
        for tokens, each in ((prompt - cached, fresh), (cached, kept), (completion, output))
    )
    assert Decimal(cost.amount) / UNITS == wanted
    assert cost.to_json() == float(wanted)


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("0", "0.00"),
        ("12345.678", "12345.68"),
        ("0.1234", "0.123"),
        ("0.0005574", "0.000557"),
        ("0.00000095", "0.000000950"),
        ("0.000000000001", "0.000000000001"),
    ],
)
def test_small_amounts_keep_three_digits(amount: str, shown: str) -> None:
    """A person sees that something costs something."""
    assert show_amount(int(Decimal(amount) * UNITS)) == shown


@given(st.integers(0, 10**30))
def test_an_amount_is_shown_as_it_is(amount: int) -> None:
    """Within half of what its last place or its third digit says."""
    shown = Decimal(show_amount(amount)) * UNITS
    assert abs(shown - amount) <= max(UNITS // 200, 0) if amount >= UNITS else amount / 200 + 1


def test_tokens_in_words() -> None:
    """What is not known is not a zero."""
    assert str(Tokens(1, 2)) == "1 + 2 tokens"
    assert str(Tokens()) == "? + ? tokens"
