"""A turn: its prompt, its terms, and where each value of them came from."""

from __future__ import annotations

from dataclasses import fields
from typing import get_type_hints

from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.options.bundles import TurnOptions
from kimi_cli.prompt.content import Prompt, join_prompts
from kimi_cli.settings.configfile import SETTINGS, ConfigFile, find_config_path
from kimi_cli.settings.precedence import Rank, resolve
from kimi_cli.turn.planning import plan_turn
from kimi_cli.turn.terms import Terms

TEXTS = st.text(max_size=12)
PARTS = st.lists(
    st.one_of(
        TEXTS.map(lambda text: {"type": "text", "text": text}),
        st.just({"type": "image_url", "image_url": {"url": "data:,"}}),
    ),
    min_size=1,
    max_size=3,
).map(tuple)
PROMPTS = st.one_of(TEXTS, PARTS).map(Prompt)


@given(st.lists(PROMPTS, max_size=5))
def test_joined_prompts_lose_nothing(prompts: list[Prompt]) -> None:
    """Text stays text with blank lines between; where there are parts, none is lost."""
    joined = join_prompts(prompts)
    asked = [prompt for prompt in prompts if not prompt.is_empty]
    if all(isinstance(prompt.content, str) for prompt in asked):
        assert joined == Prompt("\n\n".join(prompt.text for prompt in asked))
    else:
        parts = [part for prompt in asked for part in prompt.others]
        assert sorted(map(repr, joined.others)) == sorted(map(repr, parts))


@given(PROMPTS)
def test_a_prompt_is_sent_as_it_is(prompt: Prompt) -> None:
    """Parts in their order, text as text."""
    turn = plan_turn(prompt, make_terms())
    content = turn.request.to_json()["messages"][0]["content"]
    assert content == (prompt.content if isinstance(prompt.content, str) else [*prompt.content])


def make_terms(**options: object) -> Terms:
    """Terms of a run with these options and an empty environment."""
    config = ConfigFile(find_config_path({"HOME": "/nowhere"}))
    return Terms(settings=resolve(options, {}, config))


def test_a_field_that_names_the_model_is_the_model() -> None:
    """It is no field of the body any more, and its source is the option."""
    terms = make_terms().set_field("model", "other").set_field("seed", 7)
    assert (terms.model, terms.parameters) == ("other", {"seed": 7})
    assert terms.settings.sources["model"].rank is Rank.OPTION
    assert terms.drop_field("seed").parameters == {}
    assert terms.drop_field("model").model == "other"


def test_the_source_of_a_value_is_a_value() -> None:
    """What it is called for people decides nothing."""
    settings = make_terms(retries=2).settings
    assert not settings.is_built_in("retries")
    assert settings.is_built_in("timeout")
    assert settings.sources["base_url"].by_profile
    assert str(settings.sources["retries"]) == "--retries"


def test_each_setting_has_one_option() -> None:
    """Or none: a field of a bundle that is misspelt would be silence."""
    kinds = get_type_hints(TurnOptions).values()
    named = [item.name for kind in kinds for item in fields(kind) if item.name in SETTINGS]
    assert sorted([*named, "local_model"]) == sorted(SETTINGS)
