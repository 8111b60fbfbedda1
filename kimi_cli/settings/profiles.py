"""Profiles: the hosts that ``kimi`` knows by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULT_PROFILE = "acedata"
DEFAULT_MODEL = "kimi-k2.5"
MOONSHOT_MODEL = "kimi-k3.1-pro"
"""One that every account may use: those registered since November 2026 have no K2 model any more.

It costs a third less than kimi-k3, whose rules it shares.
"""

THINKING: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "thinking": {
        "on": {"thinking": {"type": "enabled"}},
        "off": {"thinking": {"type": "disabled"}},
    },
    # The one level above none that OpenAI's models, Kimi's and LiteLLM all know.
    "reasoning_effort": {
        "on": {"reasoning_effort": "high"},
        "off": {"reasoning_effort": "none"},
    },
    "chat_template": {
        "on": {"chat_template_kwargs": {"enable_thinking": True}},
        "off": {"chat_template_kwargs": {"enable_thinking": False}},
    },
}
"""The body fields by which hosts switch a model's thinking, by the spelling of a profile."""


STRUCTURED = ("json_schema", "json_object", "prompt")
"""How hosts are asked for JSON of a schema: the strictest first, the last with every host."""


@dataclass(frozen=True)
class Profile:
    """A base URL under a name, with what is known of its host."""

    name: str
    base_url: str = ""
    model: str | None = None
    auth: str = "token"
    """``token``, or ``none`` for a host that wants no bearer token."""
    token_variable: str | None = None
    """An environment variable that holds the bearer token of this profile's origin."""
    vendor_variables: tuple[str, ...] = ()
    """Variables in which the vendor's own tools keep a token of this profile's origin."""
    token_command: tuple[str, ...] = ()
    """A command, run without a shell, that prints it."""
    models: str = "live"
    """``live`` when the host has a models endpoint, ``documented`` when it has none."""
    ask_usage: bool = True
    """Whether a stream must be asked for its usage chunk."""
    concurrency: int | None = None
    """How many requests at once the host documents for one token."""
    rate: float | None = None
    """How many requests a second it documents."""
    thinking: str = "thinking"
    """How ``--thinking`` is spelled for the host, one of ``THINKING``."""
    structured: str = "auto"
    """How the host is asked for JSON, one of ``STRUCTURED``, or ``auto``, which learns it."""
    continues: bool = True
    """Whether the host goes on with an answer whose beginning it is sent."""
    list_prices: bool = False
    """Whether the host takes what Moonshot's price list says, in dollars."""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Headers that go along to its origin; values may name environment variables."""
    query: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What is added behind its URLs, in the same way."""
    insecure_http: bool = False
    """Whether a private network may be trusted with what plain http shows to it."""
    engine: str | None = None
    """The engine that is started in process to answer at this profile's base URL."""


BUILT_IN = (
    Profile(
        "acedata",
        "https://api.acedata.cloud/kimi",
        DEFAULT_MODEL,
        vendor_variables=("ACEDATACLOUD_API_TOKEN", "ACEDATACLOUD_API_KEY"),
        models="documented",
        ask_usage=False,
        concurrency=20,
        rate=60.0,
    ),
    Profile(
        "moonshot",
        "https://api.moonshot.ai/v1",
        MOONSHOT_MODEL,
        vendor_variables=("MOONSHOT_API_KEY",),
        list_prices=True,
    ),
    Profile(
        "moonshot-cn",
        "https://api.moonshot.cn/v1",
        MOONSHOT_MODEL,
        vendor_variables=("MOONSHOT_API_KEY",),
    ),
    Profile(
        "local", model="smollm2-135m", auth="none", thinking="chat_template", engine="llama.cpp"
    ),
)
