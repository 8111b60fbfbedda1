"""What is in force for one run: option > environment > conversation > configuration > built-in.

The environment variable of a setting is ``KIMI_`` and its name in capitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from kimi_cli.errors import ConfigError
from kimi_cli.settings.addresses import check_base_url, find_origin
from kimi_cli.settings.configfile import SETTINGS, ConfigFile
from kimi_cli.settings.profiles import BUILT_IN, DEFAULT_MODEL, Profile


class Rank(IntEnum):
    """How strong the source of a value is; the smallest wins."""

    OPTION = 0
    ENVIRONMENT = 1
    CONVERSATION = 2
    CONFIG = 3
    BUILT_IN = 4


@dataclass(frozen=True)
class Source:
    """Where a value came from: how strong that is, and its name for messages."""

    rank: Rank
    name: str
    by_profile: bool = False
    """Whether the value is the profile's own; the source is then whoever chose the profile."""

    def __str__(self) -> str:
        """Return the name."""
        return self.name


class Sourced(NamedTuple):
    """A value, and where it came from."""

    value: Any
    source: Source


@dataclass(frozen=True, eq=False, repr=False)
class Settings:
    """What is in force for one run of the program; None means that nothing was said."""

    profile: Profile
    base_url: str
    """Where requests go; empty when the profile's engine is still to be started."""
    model: str
    reasoning: str
    connect_timeout: float
    timeout: float | None
    max_time: float | None
    retries: int
    local_model: str | None
    save: bool
    markdown: bool
    profiles: tuple[str, ...]
    token_variables: tuple[str, ...] = ()
    """Variables that profiles of the configuration take tokens, headers and queries from."""
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """What the configuration says of the price of models; see ``settings.prices``."""
    query: tuple[tuple[str, str], ...] = ()
    """What stood behind the base URL, where the whole of an endpoint was pasted."""
    sources: Mapping[str, Source] = field(default_factory=dict)
    """Where each value came from."""

    @property
    def origin(self) -> str:
        """Scheme, host and port of the base URL: what a stored bearer token belongs to."""
        return find_origin(self.base_url)

    @property
    def at_home(self) -> bool:
        """Whether requests go to the profile's own origin, so that its secrets may go along."""
        return find_origin(self.profile.base_url) == self.origin

    @property
    def is_named(self) -> bool:
        """Whether this run's own words chose the host, and not a conversation that goes on."""
        profile, base_url = self.sources["profile"], self.sources["base_url"]
        return profile.rank is not Rank.CONVERSATION or not base_url.by_profile

    @property
    def is_chosen_now(self) -> bool:
        """Whether an option of this run names the host."""
        return Rank.OPTION in (self.sources["profile"].rank, self.sources["base_url"].rank)

    @property
    def is_open(self) -> bool:
        """Whether the host is known to want no bearer token."""
        return self.profile.auth == "none" and self.at_home

    @property
    def vendor_variables(self) -> tuple[str, ...]:
        """Variables of the vendor's own tools that hold a token of this very origin."""
        known = [p for p in BUILT_IN if find_origin(p.base_url) == self.origin]
        return tuple(dict.fromkeys(name for p in known for name in p.vendor_variables))

    @property
    def is_documented(self) -> bool:
        """Whether the host has no models endpoint, only documents."""
        return self.profile.models == "documented" and self.at_home

    @property
    def needs_engine(self) -> bool:
        """Whether the profile's engine answers, and not a host."""
        return self.profile.engine is not None and not self.base_url

    def is_built_in(self, name: str) -> bool:
        """Tell whether nobody has said anything about the setting of that *name*."""
        return self.sources[name].rank is Rank.BUILT_IN

    def name_model(self, model: str, source: Source) -> Settings:
        """Return settings with another model."""
        return replace(self, model=model, sources={**self.sources, "model": source})


def resolve(
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    config: ConfigFile,
    kept: Mapping[str, Any] = MappingProxyType({}),
) -> Settings:
    """Settle every setting by precedence; None in *options* means not given.

    *kept* is the profile and the model of the conversation that goes on; its model belongs to
    its profile. Raises ConfigError for a bad value in the environment, an unknown profile or a
    bad base URL.
    """
    settled = {name: _settle(name, options, environment, config, kept) for name in SETTINGS}
    profiles = list_profiles(config)
    profile = _find_profile(settled["profile"], profiles)
    if kept and profile.name != kept["profile"]:
        settled["model"] = _settle("model", options, environment, config, {})
    chosen = _choose_base_url(settled["base_url"], settled["profile"].source.rank, profile)
    settled["base_url"] = chosen._replace(value=_check(chosen, profile))
    settled["model"] = _choose_model(settled["model"], profile, config)
    values = {name: entry.value for name, entry in settled.items()}
    return Settings(
        **{**values, "profile": profile},
        profiles=tuple(profiles),
        prices=config.prices,
        token_variables=_list_variables(profiles),
        query=tuple(parse_qsl(chosen.value.partition("?")[2], keep_blank_values=True)),
        sources={name: entry.source for name, entry in settled.items()},
    )


def list_profiles(config: ConfigFile) -> dict[str, Profile]:
    """Return every profile by name; the file's tables change built-in ones or add new ones."""
    profiles = {profile.name: profile for profile in BUILT_IN}
    for name, table in config.profiles.items():
        profiles[name] = replace(profiles.get(name, Profile(name)), **table)
    return profiles


def _list_variables(profiles: Mapping[str, Profile]) -> tuple[str, ...]:
    names = [p.token_variable for p in profiles.values() if p.token_variable]
    tables = [table for p in profiles.values() for table in (p.headers, p.query)]
    if any(tables):
        from kimi_cli.settings.variables import list_variables  # noqa: PLC0415 - few profiles have any

        names += sorted(list_variables(value for table in tables for value in table.values()))
    return tuple(names)


def _settle(
    name: str,
    options: Mapping[str, Any],
    environment: Mapping[str, str],
    config: ConfigFile,
    kept: Mapping[str, Any],
) -> Sourced:
    """Return the strongest value of one setting."""
    if (value := options.get(name)) is not None:
        return Sourced(value, Source(Rank.OPTION, "--" + name.replace("_", "-")))
    variable = f"KIMI_{name.upper()}"
    if text := environment.get(variable):
        return Sourced(_read_variable(name, variable, text), Source(Rank.ENVIRONMENT, variable))
    if name in config.values:
        usual = Sourced(config.values[name], Source(Rank.CONFIG, str(config.path)))
    else:
        usual = Sourced(SETTINGS[name].default, Source(Rank.BUILT_IN, "built-in"))
    if kept.get(name) is None or (name == "profile" and kept[name] == usual.value):
        return usual
    return Sourced(kept[name], Source(Rank.CONVERSATION, "the conversation"))


def _read_variable(name: str, variable: str, text: str) -> Any:
    row = SETTINGS[name]
    try:
        value = row.parse(text)
    except (ValueError, KeyError):
        raise ConfigError(f"{variable} must be {row.wanted}, not '{text}'") from None
    if wanted := row.check(value):
        raise ConfigError(f"{variable} must be {wanted}, not '{text}'")
    return value


def _find_profile(chosen: Sourced, profiles: Mapping[str, Profile]) -> Profile:
    try:
        return profiles[chosen.value]
    except KeyError:
        raise ConfigError(
            f"there is no profile '{chosen.value}' ({chosen.source}); "
            f"known are {', '.join(profiles)}"
        ) from None


def _choose_base_url(named: Sourced, profile_rank: Rank, profile: Profile) -> Sourced:
    """Take the base URL that was named, unless the profile was named by something stronger.

    It is returned as it was written.
    """
    if named.value is not None and named.source.rank <= profile_rank:
        return named
    source = Source(profile_rank, f"profile {profile.name}", by_profile=True)
    return Sourced(profile.base_url, source)


def _check(base_url: Sourced, profile: Profile) -> str:
    """Return the base URL without what may not be sent along; empty for the profile's engine."""
    if base_url.source.by_profile and profile.engine is not None and not profile.base_url:
        return ""
    trusted = profile.base_url if profile.insecure_http else None
    return check_base_url(base_url.value, base_url.source.name, trusted=trusted)


def _choose_model(named: Sourced, profile: Profile, config: ConfigFile) -> Sourced:
    """Take the model that was named; a profile's own table is closer than the file's top."""
    name = f"profile {profile.name}"
    if named.source.rank >= Rank.CONFIG and "model" in config.profiles.get(profile.name, {}):
        return Sourced(profile.model, Source(Rank.CONFIG, name, by_profile=True))
    if named.value is not None:
        return named
    return Sourced(profile.model or DEFAULT_MODEL, Source(Rank.BUILT_IN, name, by_profile=True))


def settle_model(settings: Settings, parameters: dict[str, Any]) -> Settings:
    """Take the model out of *parameters*, where it was named as a field of the body.

    So it is one and the same for the request, the record, and all that depends on the model.
    """
    if not isinstance(parameters.get("model"), str):
        return settings
    return settings.name_model(parameters.pop("model"), Source(Rank.OPTION, "--option"))
