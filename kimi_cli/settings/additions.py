"""What a profile adds to every request: headers, and a query behind the URL.

It belongs to the origin of the profile, as its bearer token does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from kimi_cli.settings.precedence import Settings
from kimi_cli.settings.variables import fill_in, is_secret

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Additions:
    """Headers and a query, with every variable filled in."""

    headers: Pairs = ()
    query: Pairs = ()
    secrets: Mapping[str, str] = field(default_factory=dict)
    """What must not be seen, with what is shown in its place."""

    @property
    def query_text(self) -> str:
        """The query as it stands in a URL, without its question mark."""
        return urlencode(self.query, quote_via=quote)

    def describe(self) -> str:
        """Return the names of all that is added, without their values, to end a message with."""
        kinds = (("headers", self.headers), ("query", self.query))
        told = [f"{kind} {' '.join(dict(pairs))}" for kind, pairs in kinds if pairs]
        return f", with {', '.join(told)}" if told else ""


def find_additions(settings: Settings, environment: Mapping[str, str]) -> Additions:
    """Return what goes along with the requests of *settings*.

    Nothing of the profile goes to another origin than its own. A query that stands in the base URL
    is the URL's; it wins over the profile's. Raises ConfigError for a variable that is not set, or
    that holds what cannot be sent.
    """
    profile, named = settings.profile, settings.query
    if settings.needs_engine or not (named or profile.headers or profile.query):
        return Additions()
    secrets = {value: f"[{name}]" for name, value in named if is_secret(name, value)}
    headers: list[tuple[str, str]] = []
    query: list[tuple[str, str]] = []
    if settings.at_home:
        for kind, table, filled in (
            ("headers", profile.headers, headers),
            ("query", profile.query, query),
        ):
            for name, template in table.items():
                place = f"{kind} of profile {profile.name}"
                value, hidden = fill_in(template, name, environment, place)
                filled.append((name, value))
                secrets = dict.fromkeys(hidden, f"[{name}]") | secrets
    query = [pair for pair in query if pair[0] not in dict(named)]
    secrets = {quote(value, safe=""): shown for value, shown in secrets.items()} | secrets
    return Additions(headers=tuple(headers), query=(*query, *named), secrets=secrets)
