"""The operating system's keyring, asked with a time limit.

The ``keyring`` library has none: a locked collection with nobody to answer its prompt blocks for
ever (SecretStorage 3.5). It also falls back to plain text or to nothing at all in silence, so
weak back ends are refused and everything stored is read back.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from kimi_cli.api.threads import start_thread

_T = TypeVar("_T")

SERVICE = "kimi"
_STRONG = 1
"""``keyring`` itself recommends back ends from this priority up."""
_WITHOUT_PERSON = 3.0
_WITH_PERSON = 60.0
_HINT_AFTER = 1.0
_STEP = 0.125


class KeychainError(Exception):
    """The keyring cannot be used; the text says why."""


class Keychain:
    """One entry per origin under the service ``kimi``. Every call ends within its limit."""

    def __init__(
        self, environment: Mapping[str, str], *, attended: bool, notify: Callable[[str], None]
    ) -> None:
        """Prepare; nothing is imported or asked yet.

        *attended*: a person at a terminal may unlock the keyring (60 s instead of 3 s), and is
        told so through *notify*.
        """
        self._environment = environment
        self._limit = _WITH_PERSON if attended else _WITHOUT_PERSON
        self._notify: Callable[[str], None] | None = notify if attended else None
        self._name = "none"

    @property
    def name(self) -> str:
        """The back end that the last call used."""
        return self._name

    def load(self, origin: str) -> str | None:
        """Return the token stored for *origin*, or None; raises KeychainError."""

        def load(backend: Any) -> str | None:
            found: str | None = backend.get_password(SERVICE, origin)
            return found

        return self._ask(load)

    def store(self, origin: str, token: str) -> None:
        """Store *token* for *origin* and read it back; raises KeychainError."""

        def store_and_compare(backend: Any) -> bool:
            backend.set_password(SERVICE, origin, token)
            return bool(backend.get_password(SERVICE, origin) == token)

        if not self._ask(store_and_compare):
            raise KeychainError(f"{self._name} did not keep the token")

    def delete(self, origin: str) -> bool:
        """Remove what is stored for *origin*; tell whether there was something."""

        def delete(backend: Any) -> bool:
            if backend.get_password(SERVICE, origin) is None:
                return False
            backend.delete_password(SERVICE, origin)
            return True

        return self._ask(delete)

    def _ask(self, question: Callable[[Any], _T]) -> _T:
        """Put *question* to the back end in a thread that may be left behind."""
        if reason := self._find_obstacle():
            raise KeychainError(reason)
        answers: list[_T] = []
        errors: list[Exception] = []

        def ask() -> None:
            try:
                import keyring  # noqa: PLC0415 - 60 to 100 ms that only this path needs

                backend = keyring.get_keyring()
                self._name = _name(backend)
                if backend.priority < _STRONG:
                    raise KeychainError(f"there is only {self._name}, which keeps no secrets")
                answers.append(question(backend))
            except Exception as error:  # noqa: BLE001 - back ends raise anything
                errors.append(error)

        self._wait(start_thread(ask))
        if errors:
            raise KeychainError(_explain(errors[0])) from errors[0]
        if not answers:
            raise KeychainError(f"no answer within {self._limit:g} s; it may be locked")
        return answers[0]

    def _wait(self, thread: threading.Thread) -> None:
        """Wait in steps, not by the clock: a machine that stood still gave no time to answer."""
        waited = 0.0
        while thread.is_alive() and waited < self._limit:
            thread.join(_STEP)
            waited += _STEP
            if waited == _HINT_AFTER and self._notify is not None and thread.is_alive():
                self._notify("waiting for the keyring to be unlocked")

    def _find_obstacle(self) -> str | None:
        """Without a session bus every Linux back end fails, some of them slowly."""
        if (
            sys.platform == "linux"
            and not self._environment.get("DBUS_SESSION_BUS_ADDRESS")
            and not self._environment.get("PYTHON_KEYRING_BACKEND")
        ):
            return "there is no D-Bus session here"
        return None


def _name(backend: Any) -> str:
    kind = type(backend)
    return f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}"


def _explain(error: Exception) -> str:
    if isinstance(error, KeychainError):
        return str(error)
    reason = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {reason}" if reason else type(error).__name__
