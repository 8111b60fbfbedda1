"""The straight way to an origin: a socket, and TLS on it."""

from __future__ import annotations

import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kimi_cli.api.dialling import dial, dial_socket
from kimi_cli.api.route import Place, Route
from kimi_cli.errors import ConfigError

_OPTIONS = ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),)


class DirectWay:
    """Opens connections to the origin of a route, with nobody between."""

    via = ""

    def __init__(self, route: Route, place: Place) -> None:
        """Prepare; nothing is opened, and no certificate read, before it is needed."""
        self._authorities = route.authorities
        self._socket = route.socket
        self._place = place
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def locate(self, path: str) -> str:
        """Return the request target of an endpoint."""
        return self._place.path + path + self._place.query

    def list_fields(self) -> dict[str, str]:
        """Return the header fields that the way itself asks for."""
        return {}

    def open(self, seconds: float) -> socket.socket:
        """Return a connected socket; all of opening it may take *seconds*.

        Raises OSError (socket.gaierror, ssl.SSLError and TimeoutError among them), ConfigError.
        """
        place, ends = self._place, time.monotonic() + seconds
        try:
            if self._socket is not None:
                return dial_socket(self._socket, seconds)
            connected = dial(place.host, place.port, seconds, _OPTIONS)
        except TimeoutError:
            raise TimeoutError(f"no answer within {seconds:g} s") from None
        if not place.is_secure:
            return connected
        try:
            connected.settimeout(max(ends - time.monotonic(), 0.001))
            name = place.host.rstrip(".")
            secured = self._trust().wrap_socket(connected, server_hostname=name)
        except TimeoutError:
            connected.close()
            raise TimeoutError(f"not open within {seconds:g} s") from None
        except BaseException:
            connected.close()
            raise
        secured.settimeout(None)
        return secured

    def _trust(self) -> ssl.SSLContext:
        """Return what knows whom to trust, made once for all connections."""
        with self._lock:
            if self._context is None:
                self._context = make_context(self._authorities)
            return self._context


def make_context(authorities: tuple[str, ...]) -> ssl.SSLContext:
    """Return a context that trusts these files and folders of certificates; raises ConfigError."""
    first, *others = authorities or (_find_bundle(),)
    with _naming(first):
        cafile, capath = _sort(first)
        context = ssl.create_default_context(cafile=cafile, capath=capath)
    for path in others:
        with _naming(path):
            context.load_verify_locations(*_sort(path))
    context.set_alpn_protocols(["http/1.1"])
    return context


def _sort(path: str) -> tuple[str | None, str | None]:
    """Return *path* as a file, or as a folder, of certificates."""
    return (None, path) if os.path.isdir(path) else (path, None)


@contextmanager
def _naming(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"cannot read certificates from {path}: {reason}") from error


def _find_bundle() -> str:
    """Return the file of certificates that comes with requests."""
    import certifi  # noqa: PLC0415 - only where the system has no certificates

    return certifi.where()
