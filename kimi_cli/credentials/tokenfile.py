"""Bearer tokens in a file that only its owner can read: for who chose ``--insecure-storage``."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from kimi_cli.api import codec
from kimi_cli.errors import ConfigError
from kimi_cli.system.files import locked, make_private_folder, replacing


class TokenFile:
    """A JSON object of tokens by origin. A file that cannot be read is never written over."""

    def __init__(self, path: Path, notify: Callable[[str], None] = lambda message: None) -> None:
        """Name the file; it need not exist. *notify* is told what a person should know."""
        self.path = path
        self._notify = notify

    def load(self, origin: str) -> str | None:
        """Return the token of *origin*, or None; raises ConfigError for an unsafe or bad file."""
        return self._read().get(origin)

    def store(self, origin: str, token: str) -> None:
        """Keep *token* for *origin*, beside all that others keep; raises ConfigError."""
        with self._changing() as tokens:
            tokens[origin] = token

    def delete(self, origin: str) -> bool:
        """Forget *origin*; tell whether it was there. Raises ConfigError."""
        if origin not in self._read():
            return False
        with self._changing() as tokens:
            return tokens.pop(origin, None) is not None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, str]]:
        """Yield the tokens to be changed; the file is replaced whole, by one process at a time."""
        try:
            make_private_folder(self.path.parent)
            folder = os.path.dirname(os.path.realpath(self.path))
            # Not the file itself: whoever waits for one that is replaced gets the old one.
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                with locked(descriptor, self.path, notify=self._notify):
                    tokens = self._read()
                    yield tokens
                    with replacing(self.path, mode=0o600) as new:
                        new.write(json.dumps(tokens, indent=1).encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error

    def _read(self) -> dict[str, str]:
        try:
            with open(self.path, encoding="ascii") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(
                        f"{self.path} can be read by others; run 'chmod 600 {self.path}'"
                    )
                self._check_folder()
                tokens = codec.loads_exactly(file.read())
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise ConfigError(f"cannot read {self.path}: {error.strerror}") from error
        except ValueError:
            # The decoder's error would quote the file.
            raise ConfigError(f"{self.path} is damaged; remove it and log in again") from None
        if not isinstance(tokens, dict) or not all(isinstance(v, str) for v in tokens.values()):
            raise ConfigError(f"{self.path} is damaged; remove it and log in again")
        return tokens

    def _check_folder(self) -> None:
        """Refuse a folder in which anybody could put another file in the place of ours."""
        mode = os.stat(self.path.parent).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise ConfigError(
                f"all may write to {self.path.parent}; run 'chmod o-w {self.path.parent}'"
            )
