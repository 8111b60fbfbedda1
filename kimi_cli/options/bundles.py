"""Options that several commands share, each in one place."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import click

from kimi_cli.api.fields import FIELDS, override
from kimi_cli.options.completion import complete_models, complete_profiles, complete_sessions
from kimi_cli.options.types import LARGEST_INPUT, BodyField, Encoding, FiniteNumber, Seconds, Utf8
from kimi_cli.settings.configfile import BATCH_RETRIES, LONG_PATIENCE, PATIENCE, SETTINGS
from kimi_cli.settings.profiles import BUILT_IN, DEFAULT_PROFILE, THINKING, Profile
from kimi_cli.system.terminal import Terminal

_CONNECT = SETTINGS["connect_timeout"].default

Command = TypeVar("Command", bound=Callable[..., Any])

pass_terminal = click.make_pass_decorator(Terminal)


# Comparing and printing what nobody compares or prints would be written anew at every start.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class HostOptions:
    """Where the request goes; None means not given."""

    profile: str | None
    base_url: str | None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ConnectionOptions:
    """Who pays, and how long it may take; None means not given."""

    token_file: str | None
    no_auth: bool
    connect_timeout: float | None
    timeout: float | None
    max_time: float | None
    retries: int | None


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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
    thinking: str | None
    json_mode: bool
    option: tuple[tuple[str, Any], ...]

    def list_parameters(self, profile: Profile) -> dict[str, Any]:
        """Return the body fields that were given, by their API names; -O has the last word.

        *profile* spells those that its host calls otherwise than others do. Raises UsageError for
        two that contradict each other.
        """
        if self.thinking == "off" and self.reasoning_effort not in (None, "none"):
            raise click.UsageError("--thinking off and --reasoning-effort exclude each other")
        switch = {} if self.thinking is None else THINKING[profile.thinking][self.thinking]
        given = {name: getattr(self, name) for name in FIELDS if hasattr(self, name)}
        given |= {
            "stop": list(self.stop) or None,
            "response_format": {"type": "json_object"} if self.json_mode else None,
            "thinking": None,
        }
        chosen = {name: value for name, value in given.items() if value is not None}
        return override({**switch, **chosen}, dict(self.option))


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class InputOptions:
    """What becomes part of the prompt besides its words."""

    file: tuple[str, ...]
    image: tuple[str, ...]
    no_stdin: bool
    encoding: str
    replace_invalid: bool
    max_input: int


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AnswerOptions:
    """How an answer is asked for and shown; None means not given."""

    no_stream: bool
    as_json: bool
    reasoning: str | None
    markdown: bool | None
    extend: int | None
    fallback: tuple[str, ...]
    allow_incomplete: bool


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FormOptions:
    """What form the answer must have; None means not given."""

    schema: str | None
    choice: tuple[str, ...]
    extract: bool
    extract_last: bool
    reask: int
    allow_invalid: bool


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
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


def _list_profiles() -> str:
    """Return the names of the built-in profiles, the default marked."""
    names = [profile.name for profile in BUILT_IN]
    return ", ".join(f"{n} (default)" if n == DEFAULT_PROFILE else n for n in names)


host_options = bundle(
    HostOptions,
    "host",
    click.option(
        "--profile",
        metavar="NAME",
        shell_complete=complete_profiles,
        help=f"Use this profile: {_list_profiles()}, or your own.",
    ),
    click.option("--base-url", metavar="URL", help="Use the host whose endpoints begin with URL."),
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
        "--connect-timeout",
        type=Seconds(),
        help=f"Give up connecting after this long ({_CONNECT:g}).",
    ),
    click.option(
        "--timeout",
        type=Seconds(),
        help=f"Give up when no data came for this long ({PATIENCE:g}; {LONG_PATIENCE:g} for an "
        "answer in one piece).",
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
        help="Try again up to N times while no part of an answer has come "
        f"({SETTINGS['retries'].default}; batch {BATCH_RETRIES}).",
    ),
)


request_options = bundle(
    RequestOptions,
    "request",
    click.option(
        "-m",
        "--model",
        type=Utf8(),
        metavar="NAME",
        shell_complete=complete_models,
        help="Ask this model; any name passes.",
    ),
    click.option(
        "-s",
        "--system",
        type=Utf8(),
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
        type=Utf8(),
        multiple=True,
        metavar="TEXT",
        help="End the answer before TEXT; repeatable.",
    ),
    click.option("--seed", type=int, metavar="N", help="Set the sampling seed."),
    click.option(
        "--reasoning-effort",
        type=Utf8(),
        metavar="LEVEL",
        help="Set how much the model thinks (kimi-k3).",
    ),
    click.option(
        "--thinking",
        type=click.Choice(["on", "off"]),
        help="Let the model think before it answers, or not; some always think.",
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


encoding_option = click.option(
    "--encoding",
    type=Encoding(),
    default="utf-8",
    metavar="NAME",
    help="Decode files and stdin as NAME (utf-8).",
)


input_options = bundle(
    InputOptions,
    "inputs",
    click.option(
        "-f",
        "--file",
        multiple=True,
        metavar="PATH",
        type=click.Path(),
        help="Attach a text file, headed by its name; repeatable.",
    ),
    click.option(
        "-i",
        "--image",
        multiple=True,
        metavar="PATH",
        type=click.Path(),
        help="Attach an image, from PATH or stdin for -; repeatable.",
    ),
    click.option("-n", "--no-stdin", is_flag=True, help="Leave standard input alone."),
    encoding_option,
    click.option(
        "--replace-invalid", is_flag=True, help="Replace bytes that cannot be decoded by U+FFFD."
    ),
    click.option(
        "--max-input",
        type=click.IntRange(1, LARGEST_INPUT),
        default=64 * 2**20,
        metavar="BYTES",
        help="Refuse larger files and stdin (67108864).",
    ),
)


answer_options = bundle(
    AnswerOptions,
    "answer",
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
        "--markdown/--no-markdown",
        default=None,
        help="Render the answer's Markdown on a terminal, or do not.",
    ),
    click.option(
        "--extend",
        type=click.IntRange(0),
        metavar="N",
        help="Go on up to N times with an answer that a limit of length cut short.",
    ),
    click.option(
        "--fallback",
        type=Utf8(),
        multiple=True,
        metavar="NAME",
        shell_complete=complete_models,
        help="Ask this model where the one before is not to be had; repeatable.",
    ),
    click.option(
        "--allow-incomplete",
        is_flag=True,
        help="Exit 0 even if the answer ended early or is empty.",
    ),
)


form_options = bundle(
    FormOptions,
    "form",
    click.option(
        "--schema",
        type=Utf8(),
        metavar="SCHEMA",
        help="Take JSON that fits SCHEMA: a file, JSON, or 'name, age int, tags [str]'.",
    ),
    click.option(
        "--choice",
        type=Utf8(),
        multiple=True,
        metavar="LABELS",
        help="Take one of these labels, parted by commas, as the answer; repeatable.",
    ),
    click.option(
        "-x", "--extract", is_flag=True, help="Take the first fenced code block as the answer."
    ),
    click.option("--extract-last", is_flag=True, help="Take the last fenced code block."),
    click.option(
        "--reask",
        type=click.IntRange(0),
        default=1,
        metavar="N",
        help="Ask again up to N times for an answer that does not fit (1).",
    ),
    click.option(
        "--allow-invalid", is_flag=True, help="Print an answer that does not fit, and exit 0."
    ),
)


conversation_options = bundle(
    ConversationOptions,
    "conversation",
    click.option(
        "-c", "--continue", "go_on", is_flag=True, help="Go on with the latest conversation."
    ),
    click.option(
        "-S",
        "--session",
        type=Utf8(),
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


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TurnOptions:
    """All that a question and its answer may be told, but for the words."""

    inputs: InputOptions
    conversation: ConversationOptions
    request: RequestOptions
    answer: AnswerOptions
    form: FormOptions
    host: HostOptions
    connection: ConnectionOptions


turn_options = bundle(
    TurnOptions,
    "options",
    input_options,
    conversation_options,
    request_options,
    answer_options,
    form_options,
    host_options,
    connection_options,
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
