"""Options that several commands share, each in one place, and the client that they describe."""

from __future__ import annotations

import codecs
import functools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kimi_cli.config import SETTINGS, ConfigFile, find_config_path, find_folder, read_config
from kimi_cli.errors import ConfigError, KimiError
from kimi_cli.prompt import decode_argument
from kimi_cli.settings import Settings, resolve
from kimi_cli.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.api.client import Client, Retry
    from kimi_cli.api.messages import Request
    from kimi_cli.credentials import BearerToken, Stores

Command = TypeVar("Command", bound=Callable[..., Any])

_PATIENCE = 120.0
"""Seconds without data: reasoning trickles, but a dead connection must end (api.md, 4.4)."""
_LONG_PATIENCE = 600.0
"""Seconds for a whole answer in one piece, and for an engine that reads the prompt here."""

pass_terminal = click.make_pass_decorator(Terminal)


class FiniteNumber(click.ParamType[Any]):
    """A number that JSON can hold: neither infinite nor NaN."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | int:
        """Return an int where the text is one, so that it is sent as it was typed."""
        try:
            number = float(value)
        except ValueError:
            self.fail(f"'{value}' is not a number", param, ctx)
        if not math.isfinite(number):
            self.fail(f"'{value}' is not a finite number", param, ctx)
        return int(value) if str(value).lstrip("+-").isdigit() else number


class Seconds(FiniteNumber):
    """A positive number of seconds."""

    name = "seconds"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float | int:
        """Return a number greater than 0."""
        number = super().convert(value, param, ctx)
        if number <= 0:
            self.fail("must be greater than 0", param, ctx)
        return number


class BodyField(click.ParamType[Any]):
    """``KEY=JSON``: any field of the request body; a value that is not JSON is a string."""

    name = "key=json"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Any]:
        """Return the key and the parsed value."""
        key, equals, text = decode_argument(value).partition("=")
        if not key or not equals:
            self.fail(f"'{value}' is not KEY=JSON", param, ctx)
        try:
            return key, json.loads(text, parse_constant=_refuse_constant)
        except ValueError:
            return key, text
        except RecursionError:
            self.fail(f"the value of '{key}' is nested too deeply", param, ctx)


class Text(click.ParamType[Any]):
    """Text that is read as UTF-8 whatever the locale."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the text; raises BadInput when it is not UTF-8."""
        return decode_argument(value)


class Encoding(click.ParamType[Any]):
    """The name of a text encoding that Python knows."""

    name = "encoding"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the encoding's usual name."""
        try:
            b"text".decode(value, "replace")  # some codecs turn bytes into bytes, or only raise
        except (LookupError, ValueError):
            self.fail(f"'{value}' is not a text encoding", param, ctx)
        return codecs.lookup(value).name


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the documented models; a shell completion must not wait for a network."""
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415

    return [model.id for model in DOCUMENTED if model.id.startswith(incomplete)]


def complete_profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the built-in profiles and those of the configuration file."""
    from kimi_cli.settings import list_profiles  # noqa: PLC0415

    path = find_config_path(os.environ)
    try:
        config = read_config(path)
    except ConfigError:
        # The next command tells what is wrong; here it would only mess up the command line.
        config = ConfigFile(path)
    profiles = list_profiles(config)
    return [name for name in profiles if name.startswith(incomplete)]


@dataclass(frozen=True, kw_only=True)
class HostOptions:
    """Where the request goes; None means not given."""

    profile: str | None
    base_url: str | None


@dataclass(frozen=True, kw_only=True)
class ConnectionOptions:
    """Who pays, and how long it may take; None means not given."""

    token_file: str | None
    no_auth: bool
    connect_timeout: float | None
    timeout: float | None
    max_time: float | None
    retries: int | None


@dataclass(frozen=True, kw_only=True)
class RequestOptions:
    """What is asked, besides the prompt; None means not given, and then it is not sent."""

    model: str | None
    system: str | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    stop: tuple[str, ...]
    seed: int | None
    reasoning_effort: str | None
    json_mode: bool
    option: tuple[tuple[str, Any], ...]

    def list_parameters(self) -> dict[str, Any]:
        """Return the body fields that were given, by their API names; -O has the last word."""
        plain = {
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_tokens": self.max_tokens,
            "stop": list(self.stop) or None,
            "seed": self.seed,
            "reasoning_effort": self.reasoning_effort,
            "response_format": {"type": "json_object"} if self.json_mode else None,
        }
        given = {name: value for name, value in plain.items() if value is not None}
        return given | dict(self.option)


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """What becomes part of the prompt besides its words."""

    file: tuple[str, ...]
    no_stdin: bool
    encoding: str
    replace_invalid: bool
    max_input: int


def bundle(kind: type, name: str, *options: Callable[..., Any]) -> Callable[[Command], Command]:
    """Make a decorator that adds *options* and hands their values on as one *kind*."""
    names = [field.name for field in fields(kind)]

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(*arguments: Any, **values: Any) -> Any:
            values[name] = kind(**{key: values.pop(key) for key in names})
            return command(*arguments, **values)

        for option in reversed(options):
            wrapper = option(wrapper)
        return wrapper  # type: ignore[return-value]

    return decorate


host_options = bundle(
    HostOptions,
    "host",
    click.option(
        "--profile",
        metavar="NAME",
        shell_complete=complete_profiles,
        help="Use this profile: acedata (default), moonshot, moonshot-cn, local, or your own.",
    ),
    click.option("--base-url", metavar="URL", help="Send to URL/chat/completions."),
)

token_file_option = click.option(
    "--token-file",
    metavar="PATH",
    help="Read the bearer token from PATH (mode 0600), or from stdin for -.",
)

connection_options = bundle(
    ConnectionOptions,
    "connection",
    token_file_option,
    click.option("--no-auth", is_flag=True, help="Send no bearer token; the host needs none."),
    click.option(
        "--connect-timeout", type=Seconds(), help="Give up connecting after this long (10)."
    ),
    click.option(
        "--timeout",
        type=Seconds(),
        help="Give up when no data came for this long (120; 600 for an answer in one piece).",
    ),
    click.option(
        "--max-time", type=Seconds(), help="Give up when the whole call (in batch, one attempt) takes longer."
    ),
    click.option(
        "--retries",
        type=click.IntRange(0),
        metavar="N",
        help="Try again up to N times while no part of an answer has come (2; batch 4).",
    ),
)

request_options = bundle(
    RequestOptions,
    "asked",
    click.option(
        "-m",
        "--model",
        type=Text(),
        metavar="NAME",
        shell_complete=complete_models,
        help="Ask this model; any name passes.",
    ),
    click.option(
        "-s",
        "--system",
        type=Text(),
        metavar="TEXT",
        help="Put TEXT first, as the system prompt.",
    ),
    click.option("--temperature", type=FiniteNumber(), help="Set the sampling temperature."),
    click.option("--top-p", type=FiniteNumber(), help="Set the nucleus sampling share."),
    click.option(
        "--max-tokens", type=click.IntRange(1), metavar="N", help="End the answer after N tokens."
    ),
    click.option(
        "--stop",
        type=Text(),
        multiple=True,
        metavar="TEXT",
        help="End the answer before TEXT; repeatable.",
    ),
    click.option("--seed", type=int, metavar="N", help="Set the sampling seed."),
    click.option(
        "--reasoning-effort",
        type=Text(),
        metavar="LEVEL",
        help="Set how much the model thinks (kimi-k3).",
    ),
    click.option("--json-mode", is_flag=True, help="Ask for an answer that is a JSON object."),
    click.option(
        "-O",
        "--option",
        type=BodyField(),
        multiple=True,
        metavar="KEY=JSON",
        help="Set any other field of the request body; repeatable.",
    ),
)

input_options = bundle(
    InputOptions,
    "given",
    click.option(
        "-f",
        "--file",
        multiple=True,
        metavar="PATH",
        type=click.Path(),
        help="Attach a text file, headed by its name; repeatable.",
    ),
    click.option("-n", "--no-stdin", is_flag=True, help="Leave standard input alone."),
    click.option(
        "--encoding",
        type=Encoding(),
        default="utf-8",
        metavar="NAME",
        help="Decode files and stdin as NAME (utf-8).",
    ),
    click.option(
        "--replace-invalid", is_flag=True, help="Replace bytes that cannot be decoded by U+FFFD."
    ),
    click.option(
        "--max-input",
        type=click.IntRange(1),
        default=64 * 2**20,
        metavar="BYTES",
        help="Refuse larger files and stdin (67108864).",
    ),
)


def verbosity_options(command: Command) -> Command:
    """Add -q and -v, which set up the terminal."""

    @functools.wraps(command)
    def wrapper(terminal: Terminal, **values: Any) -> Any:
        terminal.quiet = values.pop("quiet")
        terminal.verbose = values.pop("verbose") and not terminal.quiet
        return command(terminal, **values)

    quiet = click.option("-q", "--quiet", is_flag=True, help="Write nothing to stderr but errors.")
    verbose = click.option("-v", "--verbose", is_flag=True, help="Tell on stderr what goes on.")
    return quiet(verbose(pass_terminal(wrapper)))  # type: ignore[arg-type,return-value]


def load_settings(terminal: Terminal, *bundles: object, **given: Any) -> Settings:
    """Settle what is in force, by the options in *bundles* and *given*. Warns of unknown keys.

    Raises ConfigError.
    """
    options = given | {
        name: getattr(bundle, name)
        for bundle in bundles
        for name in SETTINGS
        if hasattr(bundle, name)
    }
    config = read_config(find_config_path(os.environ))
    for warning in config.warnings:
        terminal.warn(warning)
    return resolve(options, os.environ, config)


def build_request(asked: RequestOptions, settings: Settings, prompt: str, **how: Any) -> Request:
    """Return the request for one *prompt*; *how* goes to Request."""
    from kimi_cli.api.messages import Message, Request  # noqa: PLC0415

    system = (Message("system", asked.system),) if asked.system is not None else ()
    return Request(
        model=settings.model,
        messages=(*system, Message("user", prompt)),
        ask_usage=settings.profile.ask_usage,
        parameters=asked.list_parameters(),
        **how,
    )


def open_stores(terminal: Terminal, environment: Mapping[str, str]) -> Stores:
    """Return where tokens are kept between runs."""
    from kimi_cli.credentials import Stores  # noqa: PLC0415
    from kimi_cli.keychain import Keychain  # noqa: PLC0415
    from kimi_cli.tokenfile import TokenFile  # noqa: PLC0415

    folder = find_folder(environment, "XDG_CONFIG_HOME", ".config")
    return Stores(
        Keychain(environment, attended=terminal.err_is_terminal, notify=terminal.complain),
        TokenFile(folder / "tokens.json"),
    )


@contextmanager
def open_client(
    terminal: Terminal, settings: Settings, connection: ConnectionOptions, *, stream: bool = True
) -> Iterator[Client]:
    """Yield a client for what *settings* and *connection* describe.

    Starts the profile's engine where it has one. Raises ConfigError.
    """
    if connection.no_auth and connection.token_file is not None:
        raise click.UsageError("--no-auth and --token-file exclude each other")
    with ExitStack() as stack:
        if settings.needs_engine:
            base_url, value = stack.enter_context(_start_engine(settings))
        else:
            base_url = settings.base_url
            token = None
            if connection.token_file is not None or not (connection.no_auth or settings.is_open):
                token = find_token(terminal, settings, connection.token_file)
            base_url, value = settings.base_url, token.value if token else None
        terminal.tell(f"model {settings.model} ({settings.sources['model']}) at {base_url}")
        yield _make_client(terminal, settings, base_url, value, stream=stream)


def _make_client(
    terminal: Terminal, settings: Settings, base_url: str, token: str | None, *, stream: bool
) -> Client:
    from kimi_cli.api.client import Client  # noqa: PLC0415 - requests is loaded only to send
    from kimi_cli.api.limits import Limits  # noqa: PLC0415
    from kimi_cli.api.retry import RetryPolicy  # noqa: PLC0415
    from kimi_cli.api.transport import Transport  # noqa: PLC0415
    from kimi_cli.network import find_route  # noqa: PLC0415

    if token is not None:
        terminal.hide(token)
    in_one_piece = not stream or settings.needs_engine
    limits = Limits(
        connect=settings.connect_timeout,
        idle=settings.timeout or (_LONG_PATIENCE if in_one_piece else _PATIENCE),
        total=settings.max_time,
    )
    return Client(
        Transport(find_route(base_url, os.environ)),
        bearer_token=token,
        limits=limits,
        policy=RetryPolicy(retries=settings.retries),
        notify=lambda retry: terminal.warn(_describe_retry(retry)),
    )


def verify_token(terminal: Terminal, settings: Settings, token: str) -> None:
    """Ask the host about *token*, at no cost; raises Refused when it says no.

    A host that cannot be asked now is no reason to keep the token from being stored.
    """
    from kimi_cli.api.refusals import Refused, Verdict  # noqa: PLC0415

    client = _make_client(
        terminal, replace(settings, retries=0, timeout=10.0), settings.base_url, token, stream=True
    )
    try:
        client.probe(has_models=not settings.is_documented)
    except Refused as error:
        if error.refusal.verdict is Verdict.TOKEN_REFUSED:
            raise
    except KimiError as error:
        terminal.warn(f"the token is not verified: {error}")


def find_token(terminal: Terminal, settings: Settings, token_file: str | None) -> BearerToken:
    """Return the bearer token of the origin; raises ConfigError when there is none."""
    from kimi_cli.credentials import find_bearer_token  # noqa: PLC0415

    stores = open_stores(terminal, os.environ)
    token = find_bearer_token(settings, os.environ, stores, token_file=token_file)
    terminal.hide(token.value)
    terminal.tell(f"bearer token from {token.source}")
    return token


@contextmanager
def _start_engine(settings: Settings) -> Iterator[tuple[str, str | None]]:
    """Start the engine in this process; yield its base URL and its bearer token."""
    from kimi_cli import local  # noqa: PLC0415 - an optional extra

    model = local.find_model(settings.local_model)
    with local.serve(model, alias=settings.model) as endpoint:
        yield endpoint.base_url, endpoint.bearer_token


def _describe_retry(retry: Retry) -> str:
    return (
        f"{retry.error}; trying again in {retry.delay:.1f} s ({retry.attempt} of {retry.attempts})"
    )
