"""Options that several commands share, each in one place, and the client that they describe."""

from __future__ import annotations

import codecs
import functools
import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kimi_cli.config import SETTINGS, ConfigFile, find_config_path, find_folder, read_config
from kimi_cli.errors import ConfigError, KimiError, MissingInput
from kimi_cli.prompt import decode_argument
from kimi_cli.settings import Settings, resolve
from kimi_cli.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.api.client import Client, Retry
    from kimi_cli.api.messages import Message, Request
    from kimi_cli.archive import Archive, ConversationFile
    from kimi_cli.conversation import Conversation, Manner
    from kimi_cli.credentials import BearerToken, Stores
    from kimi_cli.dialogue import Dialogue

Command = TypeVar("Command", bound=Callable[..., Any])

_PATIENCE = 120.0
"""Seconds without data: reasoning trickles, but a dead connection must end (api.md, 4.4)."""
_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
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


class Duration(click.ParamType[float]):
    """Seconds, or a number with s, m, h or d."""

    name = "duration"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", value)
        if found is None:
            self.fail(f"'{value}' is not a duration such as 90, 30s, 10m or 2h", param, ctx)
        return float(found[1]) * _UNITS[found[2]]


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


def complete_sessions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the conversations that there are."""
    from kimi_cli.archive import LATEST  # noqa: PLC0415

    try:
        names = open_archive(Terminal(os.environ)).list_names()
    except KimiError:
        return []
    return [name for name in names if name.startswith(incomplete) and name != LATEST]


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


@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How an answer is asked for and shown; None means not given."""

    no_stream: bool
    as_json: bool
    reasoning: str | None
    markdown: bool | None
    allow_incomplete: bool


@dataclass(frozen=True, kw_only=True)
class ConversationOptions:
    """Which conversation goes on, and whether it is kept; None means not given."""

    go_on: bool
    session: str | None
    save: bool | None


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
        "--max-time",
        type=Seconds(),
        help="Give up when the whole call (in batch, one attempt) takes longer.",
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


answer_options = bundle(
    AnswerOptions,
    "style",
    click.option("--no-stream", is_flag=True, help="Ask for one JSON reply instead of a stream."),
    click.option(
        "--json", "as_json", is_flag=True, help="Print the whole answer as one JSON object."
    ),
    click.option(
        "--reasoning",
        type=click.Choice(["show", "hide"]),
        help="Show the model's reasoning on stderr (default), or hide it.",
    ),
    click.option(
        "--markdown",
        is_flag=True,
        default=None,
        help="Render the answer's Markdown on a terminal.",
    ),
    click.option(
        "--allow-incomplete",
        is_flag=True,
        help="Exit 0 even if the answer ended early or is empty.",
    ),
)

conversation_options = bundle(
    ConversationOptions,
    "kept",
    click.option(
        "-c", "--continue", "go_on", is_flag=True, help="Go on with the latest conversation."
    ),
    click.option(
        "-S",
        "--session",
        type=Text(),
        metavar="NAME",
        shell_complete=complete_sessions,
        help="Go on with the conversation NAME, or begin it.",
    ),
    click.option(
        "--no-save",
        "save",
        flag_value=False,
        type=bool,
        default=None,
        help="Keep nothing of this conversation.",
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


def load_settings(
    terminal: Terminal, *bundles: object, conversation: Conversation | None = None
) -> Settings:
    """Settle what is in force, by the options in *bundles* and the *conversation* that goes on.

    Warns of unknown keys. Raises ConfigError, also where the conversation was held with another
    host: what was said there goes nowhere else unless this run's own options say so.
    """
    options = {
        name: getattr(bundle, name)
        for bundle in bundles
        for name in SETTINGS
        if hasattr(bundle, name)
    }
    config = read_config(find_config_path(os.environ))
    for warning in config.warnings:
        terminal.warn(warning)
    manner = conversation.manner if conversation is not None else None
    if manner is None:
        return resolve(options, os.environ, config)
    kept = {"profile": manner.profile, "model": manner.model}
    settings = resolve(options, os.environ, config, kept)
    named = {"--profile", "--base-url"} & {
        settings.sources["profile"],
        settings.sources["base_url"],
    }
    if not named and (settings.base_url or None) != manner.base_url:
        raise ConfigError(
            f"this conversation was held with {manner.base_url or manner.profile}, not "
            f"{settings.base_url or settings.profile.name}; say with --base-url or --profile "
            "where it goes on"
        )
    return settings


def open_archive(terminal: Terminal) -> Archive:
    """Return where conversations are kept."""
    from kimi_cli.archive import Archive  # noqa: PLC0415 - most runs keep nothing

    state = find_folder(os.environ, "XDG_STATE_HOME", ".local/state")
    return Archive(state / "conversations", terminal.warn)


def recall(
    terminal: Terminal, kept: ConversationOptions
) -> tuple[ConversationFile, Conversation | None] | None:
    """Return the conversation that *kept* names, and its file; None when it names none.

    Raises MissingInput when there is nothing to go on with, BadInput for a damaged file.
    """
    if not kept.go_on and kept.session is None:
        return None
    from kimi_cli.archive import LATEST  # noqa: PLC0415

    name = LATEST if kept.session is None else kept.session
    file = open_archive(terminal).find(name)
    conversation = file.read()
    if conversation is None and kept.session is None:
        raise MissingInput("there is no conversation to go on with; ask something without -c first")
    return file, conversation


def is_saved(terminal: Terminal, settings: Settings, kept: ConversationOptions) -> bool:
    """Tell whether what is said now is kept: by a person at a terminal, or under a name."""
    saves = settings.save and (kept.session is not None or terminal.out_is_terminal)
    if kept.session is not None and not saves:
        why = "--no-save" if kept.save is False else settings.sources["save"]
        terminal.warn(f"conversation {kept.session} is not saved ({why})")
    return saves


def open_dialogue(
    terminal: Terminal,
    kept: ConversationOptions,
    recalled: tuple[ConversationFile, Conversation | None] | None,
    *,
    saves: bool,
) -> Dialogue:
    """Return the conversation that the next turn belongs to."""
    from kimi_cli.archive import LATEST  # noqa: PLC0415
    from kimi_cli.dialogue import Dialogue  # noqa: PLC0415

    if recalled is not None:
        file, conversation = recalled
        must_save = kept.session is not None
        return Dialogue(
            conversation, file if saves else None, warn=terminal.warn, must_save=must_save
        )
    latest = open_archive(terminal).find(LATEST) if saves else None
    return Dialogue(None, latest, warn=terminal.warn, is_new=True, must_save=False)


def list_parameters(
    asked: RequestOptions, settings: Settings, conversation: Conversation | None
) -> dict[str, Any]:
    """Return the body fields that were given, now or earlier in the conversation."""
    manner = conversation.manner if conversation is not None else None
    if manner is None or not manner.is_of(settings.profile.name):
        return asked.list_parameters()
    return {**manner.options, **asked.list_parameters()}


def find_window(settings: Settings) -> int | None:
    """Return the tokens that the profile's engine reads; None for a host, which may not tell."""
    if not settings.needs_engine:
        return None
    from kimi_cli import local  # noqa: PLC0415 - an optional extra

    return local.CONTEXT_TOKENS


def make_manner(settings: Settings, parameters: Mapping[str, Any]) -> Manner:
    """Return what a conversation remembers of how a question was asked."""
    from kimi_cli.conversation import Manner  # noqa: PLC0415 - most runs keep nothing

    return Manner(
        model=settings.model,
        profile=settings.profile.name,
        base_url=settings.base_url or None,
        options=parameters,
    )


def compose_messages(
    dialogue: Dialogue | None, settings: Settings, prompt: str, *, system: str | None
) -> list[Message]:
    """Return the messages up to the question *prompt*, with those of the *dialogue* before."""
    from kimi_cli.api.messages import Message  # noqa: PLC0415

    if dialogue is not None:
        return dialogue.compose(prompt, settings.model, system=system)
    before = [] if system is None else [Message("system", system)]
    return [*before, Message("user", prompt)]


def build_request(
    settings: Settings, messages: Sequence[Message], parameters: Mapping[str, Any], **how: Any
) -> Request:
    """Return the request for the next answer; *how* goes to Request. Raises UsageError."""
    if parameters.get("n", 1) != 1:
        raise click.UsageError("an answer has one text here; run the command again instead of n=…")
    from kimi_cli.api.messages import Request  # noqa: PLC0415

    return Request(
        model=settings.model,
        messages=tuple(messages),
        ask_usage=settings.profile.ask_usage,
        parameters=parameters,
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
