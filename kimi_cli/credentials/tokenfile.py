"""Bearer tokens in a file that only its owner can read: for who chose ``--insecure-storage``."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kimi_cli.errors import ConfigError


class TokenFile:
    """A JSON object of tokens by origin. A file that cannot be read is never written over."""

    def __init__(self, path: Path) -> None:
        """Name the file; it need not exist."""
        self.path = path

    def load(self, origin: str) -> str | None:
        """Return the token of *origin*, or None; raises ConfigError for an unsafe or bad file."""
        return self._read().get(origin)

    def store(self, origin: str, token: str) -> None:
        """Keep *token* for *origin*; the file is replaced whole."""
        self._write(self._read() | {origin: token})

    def delete(self, origin: str) -> bool:
        """Forget *origin*; tell whether it was there."""
        tokens = self._read()
        if tokens.pop(origin, None) is None:
            return False
        self._write(tokens)
        return True

    def _read(self) -> dict[str, str]:
        try:
            with open(self.path, encoding="ascii") as file:
                if os.fstat(file.fileno()).st_mode & 0o077:
                    raise ConfigError(
                        f"{self.path} can be read by others; run 'chmod 600 {self.path}'"
                    )
                tokens = json.load(file)
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

    def _write(self, tokens: dict[str, str]) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with _replace(self.path) as descriptor:
                os.write(descriptor, json.dumps(tokens, indent=1).encode())
        except OSError as error:
            raise ConfigError(f"cannot write {self.path}: {error.strerror}") from error


@contextlib.contextmanager
def _replace(path: Path) -> Iterator[int]:
    """Yield a descriptor (mode 0600 whatever the umask) whose content becomes *path*'s."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        yield descriptor
        os.fsync(descriptor)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    finally:
        os.close(descriptor)
