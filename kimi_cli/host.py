"""The host that options describe: what is in force, the bearer token, the client."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING

import click

from kimi_cli.errors import ConfigError, KimiError
from kimi_cli.options.bundles import ConnectionOptions
from kimi_cli.settings.configfile import (
    LONG_PATIENCE,
    PATIENCE,
    SETTINGS,
    find_config_path,
    find_folder,
    read_config,
)
from kimi_cli.settings.precedence import Settings, resolve
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from kimi_cli.api.ahead import Ahead
    from kimi_cli.api.client import Client, Retry
    from kimi_cli.conversation.record import Manner
    from kimi_cli.credentials.bearer import BearerToken, Stores
    from kimi_cli.settings.additions import Additions

_Advise = Callable[["Client", str], "str | None"]

_NAMED = 6
"""How many models of a host an error names."""
_NEAR = 3
"""How many of them that look like the one that was asked."""


def load_settings(
    terminal: Terminal, *bundles: DataclassInstance, manner: Manner | None = None
) -> Settings:
    """Settle what is in force, by the options in *bundles*.

    *manner* is how the conversation that goes on was held.

    Warns of unknown keys. Raises ConfigError, also where the conversation was held with another
    host: what was said there goes nowhere else unless this run's own options say so.
    """
    options = {
        item.name: getattr(bundle, item.name)
        for bundle in bundles
        for item in fields(bundle)
        if item.name in SETTINGS
    }
    config = read_config(find_config_path(os.environ))
    for warning in config.warnings:
        terminal.warn(warning)
    if manner is None:
        return resolve(options, os.environ, config)
    kept = {"profile": manner.profile, "model": manner.model}
    settings = resolve(options, os.environ, config, kept)
    if not settings.is_chosen_now and (settings.base_url or None) != manner.base_url:
        raise ConfigError(
            f"this conversation was held with {manner.base_url or manner.profile}, not "
            f"{settings.base_url or settings.profile.name}; say with --base-url or --profile "
            "where it goes on"
        )
    return settings


def open_stores(terminal: Terminal, environment: Mapping[str, str]) -> Stores:
    """Return where tokens are kept between runs."""
    from kimi_cli.credentials.bearer import Stores  # noqa: PLC0415 - many hosts want no token
    from kimi_cli.credentials.keychain import Keychain  # noqa: PLC0415 - many hosts want no token
    from kimi_cli.credentials.tokenfile import TokenFile  # noqa: PLC0415 - many hosts want no token

    folder = find_folder(environment, "XDG_CONFIG_HOME", ".config")
    return Stores(
        Keychain(environment, attended=terminal.err_is_terminal, notify=terminal.complain),
        TokenFile(folder / "tokens.json", terminal.warn),
        is_attended=terminal.err_is_terminal,
    )


@contextmanager
def open_client(
    terminal: Terminal,
    settings: Settings,
    connection: ConnectionOptions,
    *,
    stream: bool = True,
    since: float | None = None,
    at_once: bool = False,
    on_retry: Callable[[Retry], None] = lambda retry: None,
) -> Iterator[Client]:
    """Yield a client for what *settings* and *connection* describe.

    A connection is opened already where a request follows *at_once*.
    ``--max-time`` counts from *since* (monotonic), or from the beginning of each call. Who waits
    is told of each retry, and then *on_retry*.

    Starts the profile's engine where it has one. Raises ConfigError.
    """
    if connection.no_auth and connection.token_file is not None:
        raise click.UsageError("--no-auth and --token-file exclude each other")
    ahead, additions = None, add_to_requests(terminal, settings)
    with ExitStack() as stack:
        if settings.needs_engine:
            base_url, value = stack.enter_context(_start_engine(terminal, settings))
        else:
            token = None
            if not connection.no_auth and wants_token(settings, connection.token_file):
                token = find_token(terminal, settings, connection.token_file)
            base_url, value = settings.base_url, token.value if token else None
            ahead = _set_out(stack, settings, additions) if at_once else None
        model = f"model {settings.model} ({settings.sources['model']})"
        terminal.tell(f"{model} at {base_url}{additions.describe()}")
        yield _make_client(
            terminal,
            settings,
            base_url,
            value,
            additions,
            stream=stream,
            since=since,
            ahead=ahead,
            on_retry=on_retry,
        )


def _set_out(stack: ExitStack, settings: Settings, additions: Additions) -> Ahead | None:
    """Open a connection while the rest is loaded.

    A way that must be asked for, or that cannot be gone, is left to who sends the request.
    """
    from kimi_cli.api.ahead import Ahead  # noqa: PLC0415 - for a request only
    from kimi_cli.api.direct import DirectWay  # noqa: PLC0415 - the same
    from kimi_cli.system.network import find_route  # noqa: PLC0415 - the same

    route = find_route(settings.base_url, os.environ, additions.query_text)
    if route.proxies:
        return None
    try:
        way = DirectWay(route, route.locate())
    except ValueError:
        return None
    ahead = Ahead(way, settings.connect_timeout)
    stack.callback(ahead.close)
    return ahead


def _make_client(
    terminal: Terminal,
    settings: Settings,
    base_url: str,
    token: str | None,
    additions: Additions,
    *,
    stream: bool,
    since: float | None = None,
    ahead: Ahead | None = None,
    on_retry: Callable[[Retry], None] = lambda retry: None,
) -> Client:
    from kimi_cli.api.client import Client  # noqa: PLC0415 - requests is loaded only to send
    from kimi_cli.api.limits import Limits  # noqa: PLC0415 - for requests only
    from kimi_cli.api.retry import RetryPolicy  # noqa: PLC0415 - for requests only
    from kimi_cli.api.transport import Transport  # noqa: PLC0415 - for requests only
    from kimi_cli.system.network import find_route  # noqa: PLC0415 - for requests only

    in_one_piece = not stream or settings.needs_engine
    limits = Limits(
        connect=settings.connect_timeout,
        idle=settings.timeout or (LONG_PATIENCE if in_one_piece else PATIENCE),
        total=settings.max_time,
        since=since,
    )

    def notify(retry: Retry) -> None:
        terminal.warn(_describe_retry(retry))
        on_retry(retry)

    return Client(
        Transport(find_route(base_url, os.environ, additions.query_text), ahead),
        bearer_token=token,
        headers=dict(additions.headers),
        secrets=additions.secrets,
        limits=limits,
        policy=RetryPolicy(retries=settings.retries),
        notify=notify,
        advise=_find_once(lambda client, model: _advise_on_model(settings, client, model)),
    )


def _find_once(find: _Advise) -> _Advise:
    """Return who finds advice, once for all threads: the host is asked one time."""
    from threading import Lock  # noqa: PLC0415 - for requests only

    lock, find_or_recall = Lock(), cache(find)

    def find_in_turn(client: Client, model: str) -> str | None:
        with lock:
            return find_or_recall(client, model)

    return find_in_turn


def _advise_on_model(settings: Settings, client: Client, model: str) -> str | None:
    """Say which models come near to one that there is not; of a built-in default, how to choose.

    A host that only a base URL names is not asked for its list of a default that it never had.
    """
    if model != settings.model or not settings.is_built_in("model"):
        near = _find_near(model, _list_models(settings, client))
        return f"the nearest are {', '.join(near)}" if near else None
    advice = (
        f"{model} is the built-in default: choose another with -m, KIMI_MODEL, or model in "
        "config.toml"
    )
    known = _list_models(settings, client) if settings.at_home else []
    names = [name for name in known if name != model][:_NAMED]
    return f"{advice}; there are {', '.join(names)}" if names else advice


def _find_near(model: str, known: list[str]) -> list[str]:
    """Return the ids that look most like *model*, whatever folder and case they are written in."""
    from difflib import get_close_matches  # noqa: PLC0415 - for this failure only

    bare = {name.rpartition("/")[2].lower(): name for name in known if name != model}
    near = get_close_matches(model.rpartition("/")[2].lower(), bare, n=_NEAR, cutoff=0.5)
    return [bare[name] for name in near]


def _list_models(settings: Settings, client: Client) -> list[str]:
    """Return the ids that ``kimi models`` lists; none where the host does not tell soon."""
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415 - for this failure only

    if settings.is_documented:
        return [model.id for model in DOCUMENTED]
    try:
        return [model.id for model in client.hurry().list_models()]
    except KimiError:
        return []


def add_to_requests(terminal: Terminal, settings: Settings) -> Additions:
    """Return the headers and the query of *settings*, hidden where they are secret.

    Raises ConfigError for a variable that is not set.
    """
    from kimi_cli.settings.additions import find_additions  # noqa: PLC0415 - for requests only

    additions = find_additions(settings, os.environ)
    for secret, shown in additions.secrets.items():
        terminal.secrets.hide(secret, shown)
    return additions


def wants_token(settings: Settings, token_file: str | None) -> bool:
    """Tell whether a bearer token is sent: unless the host wants none, or where one was named."""
    return token_file is not None or not settings.is_open


def verify_token(terminal: Terminal, settings: Settings, token: str) -> None:
    """Ask the host about *token*, at no cost; raises Refused when it says no.

    A host that cannot be asked now is no reason to keep the token from being stored.
    """
    from kimi_cli.api.refusals import Refused, Verdict  # noqa: PLC0415 - for login only

    patience = replace(settings, retries=0, timeout=10.0)
    additions = add_to_requests(terminal, settings)
    client = _make_client(terminal, patience, settings.base_url, token, additions, stream=True)
    try:
        client.probe(has_models=not settings.is_documented)
    except Refused as error:
        verdict = error.refusal.verdict
        if verdict is Verdict.TOKEN_REFUSED:
            raise
        if verdict is not Verdict.REQUEST_REFUSED:  # that is asked for, and behind the token
            terminal.warn(f"the token is not verified: {error}")
    except KimiError as error:
        terminal.warn(f"the token is not verified: {error}")


def find_token(terminal: Terminal, settings: Settings, token_file: str | None) -> BearerToken:
    """Return the bearer token of the origin; raises ConfigError when there is none."""
    from kimi_cli.credentials.bearer import find_bearer_token  # noqa: PLC0415 - many hosts want no token

    stores = open_stores(terminal, os.environ)
    token = find_bearer_token(settings, os.environ, stores, token_file=token_file)
    terminal.secrets.hide(token.value)
    terminal.tell(f"bearer token from {token.source}")
    return token


@contextmanager
def _start_engine(terminal: Terminal, settings: Settings) -> Iterator[tuple[str, str | None]]:
    """Start the engine in this process; yield its base URL and its bearer token."""
    from kimi_cli.system import engine  # noqa: PLC0415 - an optional extra

    model = engine.find_weights(settings.local_model)
    with engine.serve(model, alias=settings.model) as endpoint:
        terminal.secrets.hide(endpoint.bearer_token)
        yield endpoint.base_url, endpoint.bearer_token


def _describe_retry(retry: Retry) -> str:
    said = str(retry.error).removesuffix("; try again later")  # that is what is done
    return f"{said}; trying again in {retry.delay:.1f} s ({retry.attempt} of {retry.attempts})"
