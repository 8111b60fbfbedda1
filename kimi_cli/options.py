"""Options that several commands share, each in one place."""

from __future__ import annotations

import codecs
import functools
import json
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from kimi_cli.errors import BadInput, ConfigError
from kimi_cli.prompt.reading import decode_argument
from kimi_cli.settings.configfile import ConfigFile, find_config_path, read_config
from kimi_cli.system.terminal import Terminal

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}

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
            self.fail(f"'{value}' is not a duration such as 90, 30s, 10m, 2h or 30d", param, ctx)
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
        from kimi_cli.api import codec  # noqa: PLC0415 - few calls need it

        try:
            return key, codec.loads_exactly(text)
        except json.JSONDecodeError:
            return key, text
        except ValueError as error:
            raise BadInput(f"the value of '{key}' cannot be sent: {error}") from error


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


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the documented models; a shell completion must not wait for a network."""
    from kimi_cli.api.catalogue import DOCUMENTED  # noqa: PLC0415

    return [model.id for model in DOCUMENTED if model.id.startswith(incomplete)]


def complete_profiles(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Offer the built-in profiles and those of the configuration file."""
    from kimi_cli.settings.precedence import list_profiles  # noqa: PLC0415

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
