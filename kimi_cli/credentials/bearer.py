"""The bearer token: where it may come from, in which order, and for which origin.

The order is that of kimi-auth(1). A source that was named and fails is an error: falling through
to the next one would silently be another identity. Nothing here ever shows a token's value.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kimi_cli.credentials.keychain import Keychain, KeychainError
from kimi_cli.credentials.tokenfile import TokenFile
from kimi_cli.errors import ConfigError
from kimi_cli.settings.addresses import is_loopback
from kimi_cli.settings.precedence import Settings
from kimi_cli.settings.profiles import BUILT_IN
from kimi_cli.system.stdin import open_stdin

SECRET_VARIABLES = {"KIMI_TOKEN"}.union(*(profile.vendor_variables for profile in BUILT_IN))
"""Variables that no child process inherits."""

_LONGEST = 4096
_COMMAND_SECONDS, _COMMAND_SECONDS_ATTENDED = 10, 120
"""What a token_command may take: alone, and where a person may unlock something for it."""
_COMMAND_BYTES = 65536


@dataclass(frozen=True)
class BearerToken:
    """A checked bearer token, and the name of the source that it came from."""

    value: str = field(repr=False)
    source: str

    @property
    def tail(self) -> str:
        """Return the last characters, enough to tell two tokens apart and no more."""
        return "…" + (self.value[-4:] if len(self.value) >= 16 else "")


@dataclass(frozen=True)
class Stores:
    """Where tokens are kept between runs: the OS keyring, and a file for who chose that."""

    keychain: Keychain
    file: TokenFile
    is_attended: bool = False
    """Whether a person is there, who may have to unlock one."""


def find_bearer_token(
    settings: Settings,
    environment: Mapping[str, str],
    stores: Stores,
    *,
    token_file: str | None = None,
) -> BearerToken:
    """Return the first token found for the origin of *settings*.

    Raises ConfigError when a named source fails, or when there is no token at all.
    """
    # What says nothing of a host is for the host that this run names, not for one that only an
    # old conversation names.
    said = environment if settings.is_named else {}
    return (
        _read_named_file(token_file, "--token-file")
        or _read_variables(("KIMI_TOKEN",), said)
        or _read_variables(settings.vendor_variables, environment)
        or _read_own_variable(settings, environment)
        or _read_named_file(said.get("KIMI_TOKEN_FILE"), "KIMI_TOKEN_FILE")
        or _read_systemd_credential(said)
        or _run_own_command(settings, environment, is_attended=stores.is_attended)
        or _search_stores(settings, stores)
    )


def check_token(text: str, source: str) -> BearerToken:
    """Return *text* as a token; raises ConfigError, without quoting it, when it cannot be one.

    A token that reached an HTTP library with a line feed in it would come back in its error text.
    """
    value = text.removesuffix("\n").removesuffix("\r")
    if not value.strip():
        raise ConfigError(f"the bearer token from {source} is empty")
    if len(value) > _LONGEST:
        raise ConfigError(f"the bearer token from {source} is longer than {_LONGEST} characters")
    if not all("!" <= character <= "~" for character in value):
        raise ConfigError(
            f"the bearer token from {source} holds a space, a line break or a character that "
            "is not ASCII; it must be the bare token on one line"
        )
    return BearerToken(value, source)


def _read_variables(names: tuple[str, ...], environment: Mapping[str, str]) -> BearerToken | None:
    for name in names:
        if name in environment:
            return check_token(environment[name], name)
    return None


def _read_own_variable(settings: Settings, environment: Mapping[str, str]) -> BearerToken | None:
    name = settings.profile.token_variable
    if name is None or not settings.at_home:
        return None
    return _read_variables((name,), environment)


def _read_named_file(path: str | None, source: str) -> BearerToken | None:
    if path is None:
        return None
    if path == "-":
        line = b"" if sys.stdin is None else open_stdin().readline(_LONGEST + 2)
        return check_token(_decode(line, source), source)
    path = os.path.expanduser(path)  # cron and systemd expand no tilde
    try:
        return check_token(_decode(_read_private(path, source), source), f"{source} {path}")
    except OSError as error:
        raise ConfigError(f"cannot read {path} ({source}): {error.strerror}") from error


def _read_private(path: str, source: str) -> bytes:
    """Return what a file of a token holds; raises OSError, and ConfigError for one that is exposed.

    One that is ours to close must be closed. What a platform hands to a process is root's, or lies
    on a file system that cannot be written: Kubernetes gives it to a group (0440), Docker to all in
    its container (0444), systemd by an access list.
    """
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            is_ours = status.st_uid == os.geteuid()
            is_fixed = bool(os.fstatvfs(file.fileno()).f_flag & os.ST_RDONLY)
            if is_ours and not is_fixed and status.st_mode & 0o077:
                raise ConfigError(
                    f"{path} ({source}) can be read by others; run 'chmod 600 {path}'"
                )
            if not is_ours and not is_fixed and status.st_mode & 0o022:
                raise ConfigError(
                    f"{path} ({source}) can be written by others than its owner; have its owner "
                    f"run 'chmod go-w {path}'"
                )
            if not is_ours and status.st_uid != 0:
                raise ConfigError(
                    f"{path} ({source}) belongs to another user (uid {status.st_uid}); name a file "
                    "of your own"
                )
        return file.read(_LONGEST + 2)


def _read_systemd_credential(environment: Mapping[str, str]) -> BearerToken | None:
    """Read what ``LoadCredential=kimi-token:…`` provides; see systemd.exec(5)."""
    folder = environment.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder) / "kimi-token"
    try:
        data = _read_private(str(path), "CREDENTIALS_DIRECTORY")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the credential {path}: {error.strerror}") from error
    return check_token(_decode(data, str(path)), "systemd credential kimi-token")


def _run_own_command(
    settings: Settings, environment: Mapping[str, str], *, is_attended: bool
) -> BearerToken | None:
    """Run the profile's token_command: no shell, no stdin, none of our secrets."""
    command = settings.profile.token_command
    if not command or not settings.at_home:
        return None
    import subprocess  # noqa: PLC0415 - most runs start no other program

    limit = _COMMAND_SECONDS_ATTENDED if is_attended else _COMMAND_SECONDS
    source = f"token_command of profile {settings.profile.name}"
    try:
        done = subprocess.run(  # noqa: S603 - the user's own configuration names it
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            env=remove_secrets(environment, settings),
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{source} took longer than {limit} s") from None
    except OSError as error:
        raise ConfigError(f"{source} cannot run '{command[0]}': {error.strerror}") from error
    if done.returncode != 0:
        raise ConfigError(f"{source} failed with exit status {done.returncode}")
    if len(done.stdout) > _COMMAND_BYTES:
        raise ConfigError(f"{source} printed more than {_COMMAND_BYTES} bytes")
    return check_token(_decode(done.stdout, source), source)


def remove_secrets(environment: Mapping[str, str], settings: Settings) -> dict[str, str]:
    """Return *environment* as a child process may see it."""
    secret = SECRET_VARIABLES.union(settings.token_variables)
    return {name: value for name, value in environment.items() if name not in secret}


def _search_stores(settings: Settings, stores: Stores) -> BearerToken:
    origin = settings.origin
    try:
        value = stores.keychain.load(origin)
        trouble = ""
    except KeychainError as error:
        value, trouble = None, f" (keyring: {error})"
    if value is not None:
        return check_token(value, f"keyring ({stores.keychain.name})")
    if (value := stores.file.load(origin)) is not None:
        return check_token(value, str(stores.file.path))
    advice = advise(origin)
    if not settings.is_named:
        name = settings.profile.name
        advice = f"name the host with --profile {name}, as only the conversation does; or {advice}"
    raise ConfigError(f"no bearer token for {origin}{trouble}; {advice}")


def advise(origin: str) -> str:
    """Return the ways to give a token for *origin*."""
    ways = "run 'kimi auth login', set KIMI_TOKEN, or name a file with --token-file"
    if is_loopback(origin):
        return f'{ways}; or --no-auth (auth = "none" in its profile) if this host needs none'
    return ways


def _decode(data: bytes, source: str) -> str:
    try:
        return data.decode("ascii")
    except UnicodeDecodeError:
        raise ConfigError(f"the bearer token from {source} is not ASCII text") from None
