"""``kimi auth``: keep, show and forget bearer tokens."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import click

from kimi_cli.errors import ConfigError, MissingInput
from kimi_cli.host import (
    add_to_requests,
    find_token,
    load_settings,
    open_stores,
    verify_token,
    wants_token,
)
from kimi_cli.options.bundles import HostOptions, host_options, token_file_option, verbosity_options
from kimi_cli.system.stdin import open_stdin
from kimi_cli.system.terminal import Terminal

if TYPE_CHECKING:
    from kimi_cli.credentials.bearer import BearerToken
    from kimi_cli.settings.additions import Additions
    from kimi_cli.settings.precedence import Settings

_LONGEST = 8192

EPILOG = """\b
Examples:
  kimi auth login
  kimi auth login < token.txt
  kimi auth status --profile moonshot
"""

LOGIN_EPILOG = """\b
Examples:
  kimi auth login
  kimi auth login --profile moonshot < token.txt
  pass show kimi | kimi auth login --insecure-storage
"""

LOGOUT_EPILOG = """\b
Examples:
  kimi auth logout
  kimi auth logout --profile moonshot
"""

STATUS_EPILOG = """\b
Examples:
  kimi auth status
  kimi auth status --json | jq -r .source
"""

TOKEN_EPILOG = """\b
Examples:
  MOONSHOT_API_KEY=$(kimi auth token --profile moonshot) other-program
"""


@click.group(epilog=EPILOG)
def auth() -> None:
    """Keep, show and forget bearer tokens."""


@auth.command(epilog=LOGIN_EPILOG)
@click.option(
    "--insecure-storage",
    is_flag=True,
    help="Store in a file of mode 0600 instead of the OS keyring.",
)
@click.option("--no-verify", is_flag=True, help="Store without asking the host about the token.")
@host_options
@verbosity_options
def login(
    terminal: Terminal,
    *,
    host: HostOptions,
    insecure_storage: bool,
    no_verify: bool,
) -> None:
    """Store the bearer token of a host in the OS keyring.

    The token is asked for at the terminal without being shown, or read from standard input. It
    belongs to the host it was stored for, and goes nowhere else.
    """
    from kimi_cli.credentials.bearer import check_token  # noqa: PLC0415 - for login only
    from kimi_cli.credentials.keychain import KeychainError  # noqa: PLC0415 - only where tokens are kept

    settings = _load_settings(terminal, host)
    token = check_token(_read_token(terminal, settings.origin), "the input")
    terminal.secrets.hide(token.value)
    if not no_verify:
        verify_token(terminal, settings, token.value)
    stores = open_stores(terminal, os.environ)
    if insecure_storage:
        stores.file.store(settings.origin, token.value)
        terminal.warn(f"stored in {stores.file.path}, readable by you alone, not encrypted")
        return
    try:
        stores.keychain.store(settings.origin, token.value)
    except KeychainError as error:
        raise ConfigError(
            f"cannot use the keyring: {error}; set KIMI_TOKEN or KIMI_TOKEN_FILE instead, or "
            "store in a file of your own with --insecure-storage"
        ) from error
    terminal.warn(f"stored for {settings.origin} in the keyring ({stores.keychain.name})")


@auth.command(epilog=LOGOUT_EPILOG)
@host_options
@verbosity_options
def logout(terminal: Terminal, *, host: HostOptions) -> None:
    """Remove the bearer token of a host from every store."""
    from kimi_cli.credentials.keychain import KeychainError  # noqa: PLC0415 - only where tokens are kept

    settings = _load_settings(terminal, host)
    stores = open_stores(terminal, os.environ)
    removed = ["the token file"] if stores.file.delete(settings.origin) else []
    try:
        removed += ["the keyring"] if stores.keychain.delete(settings.origin) else []
    except KeychainError as error:
        terminal.warn(f"the keyring was not asked: {error}")
    if not removed:
        raise ConfigError(f"no bearer token is stored for {settings.origin}")
    terminal.warn(f"removed the bearer token of {settings.origin} from {' and '.join(removed)}")


@auth.command(epilog=STATUS_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@token_file_option
@host_options
@verbosity_options
def status(terminal: Terminal, *, host: HostOptions, token_file: str | None, as_json: bool) -> None:
    """Show where the bearer token of a host comes from.

    Exits with 78 when there is none.
    """
    settings = _load_settings(terminal, host)
    found, additions = None, None
    try:
        additions = add_to_requests(terminal, settings)
        if wants_token(settings, token_file):
            found = find_token(terminal, settings, token_file)
    except ConfigError as error:
        if as_json:
            terminal.write(_dump_status(settings, found, additions, problem=str(error)))
        raise
    write = _dump_status if as_json else _format_status
    terminal.write(write(settings, found, additions))


@auth.command(epilog=TOKEN_EPILOG)
@token_file_option
@host_options
@verbosity_options
def token(terminal: Terminal, *, host: HostOptions, token_file: str | None) -> None:
    """Print the bearer token of a host, for scripts."""
    settings = _load_settings(terminal, host)
    terminal.write(find_token(terminal, settings, token_file).value + "\n")


def _load_settings(terminal: Terminal, host: HostOptions) -> Settings:
    settings = load_settings(terminal, host)
    if settings.needs_engine:
        raise ConfigError(f"profile {settings.profile.name} runs on this machine: it has no token")
    return settings


def _read_token(terminal: Terminal, origin: str) -> str:
    """Read from stdin when something is piped in; else ask at the terminal device.

    Never through a helper that falls back to stdin: that returns the user's data as the token.
    """
    if sys.stdin is not None and not os.isatty(0):
        return open_stdin().read(_LONGEST).decode("utf-8", "replace")
    return _ask_at_terminal(f"Bearer token for {origin}: ")


def _ask_at_terminal(question: str) -> str:
    import getpass  # noqa: PLC0415 - for a person only
    import warnings  # noqa: PLC0415 - for a person only

    with warnings.catch_warnings():
        # getpass warns, and reads stdin in plain sight, where the terminal cannot be silenced.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            return getpass.getpass(question)
        except (getpass.GetPassWarning, OSError) as error:
            raise MissingInput(
                "there is no terminal to ask at; pipe the token in: kimi auth login < FILE"
            ) from error
        except EOFError as error:
            raise ConfigError("no bearer token was typed") from error


def _format_status(settings: Settings, found: BearerToken | None, additions: Additions) -> str:
    lines = [f"origin   {settings.origin}", f"source   {found.source if found else 'none needed'}"]
    if found is not None:
        lines.append(f"token    {found.tail}")
    lines += [f"header   {name}" for name, _ in additions.headers]
    lines += [f"query    {name}" for name, _ in additions.query]
    if backend := os.environ.get("PYTHON_KEYRING_BACKEND"):
        lines.append(f"back end {backend} (PYTHON_KEYRING_BACKEND)")
    return "\n".join(lines) + "\n"


def _dump_status(
    settings: Settings,
    found: BearerToken | None,
    additions: Additions | None,
    *,
    problem: str | None = None,
) -> str:
    shown = {
        "origin": settings.origin,
        "source": found.source if found else None,
        "token": found.tail if found else None,
        "needed": not settings.is_open,
        "headers": [name for name, _ in additions.headers] if additions else [],
        "query": [name for name, _ in additions.query] if additions else [],
        "error": problem,
    }
    return json.dumps(shown, ensure_ascii=False) + "\n"
