"""The way to an origin through a proxy, which requests and urllib3 know.

A session of requests is not used: it would follow redirects, read netrc, and keep cookies.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPException
from typing import Any

from requests import PreparedRequest
from requests.adapters import HTTPAdapter
from requests.exceptions import RequestException
from requests.utils import select_proxy
from urllib3.connection import HTTPConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    NameResolutionError,
    NewConnectionError,
    SSLError,
)

from kimi_cli.api.dialling import dial
from kimi_cli.api.direct import make_context
from kimi_cli.api.failures import describe, find_root
from kimi_cli.api.route import Route
from kimi_cli.errors import ConfigError

_BEFORE = r"\A\w+\([^()]*\): (?:Failed to establish a new connection: )?(?:\[Errno -?\d+\] )?"
"""What urllib3 says before a reason that it has as text alone: that of a SOCKS proxy."""


class ProxiedWay(HTTPAdapter):
    """Opens connections to the origin of a route by way of its proxy."""

    via = " through the proxy"

    def __init__(self, route: Route) -> None:
        """Prepare; nothing is sent yet.

        Raises ConfigError when a proxy or CA path of the route cannot be used.
        """
        super().__init__(pool_connections=1, pool_maxsize=1, max_retries=0)
        self._route = route
        self._proxies = dict(route.proxies)
        try:
            request = self._prepare("")
            pool: Any = self.get_connection_with_tls_context(request, True, self._proxies)
            self.cert_verify(pool, request.url or "", True, None)
        except (RequestException, HTTPError, OSError, ValueError) as error:
            reason = re.sub(r"//[^/@\s]*@", "//…@", str(error))  # a proxy may have a password
            raise ConfigError(f"cannot use the proxy or CA settings: {reason}") from error
        self._pool = pool
        if route.authorities:
            files = [path for path in route.authorities if not os.path.isdir(path)]
            folders = [path for path in route.authorities if os.path.isdir(path)]
            pool.ca_certs = files[0] if files else None
            pool.ca_cert_dir = os.pathsep.join(folders) or None
        proxy = select_proxy(request.url or "", self._proxies)
        self._fields = self.proxy_headers(proxy) if proxy and pool.scheme == "http" else {}

    def locate(self, path: str) -> str:
        """Return the request target of an endpoint; an HTTP proxy wants the whole URL."""
        return self.request_url(self._prepare(path), self._proxies)

    def list_fields(self) -> dict[str, str]:
        """Return the header fields that the proxy asks for."""
        return dict(self._fields)

    def open(self, seconds: float) -> socket.socket:
        """Return a connected socket; all of opening it may take *seconds*.

        Raises OSError (socket.gaierror, ssl.SSLError and TimeoutError among them), HTTPException
        or ConfigError.
        """
        connection = self._pool._new_conn()
        connection.timeout = seconds
        if type(connection)._new_conn is HTTPConnection._new_conn:  # and not by way of SOCKS
            connection._new_conn = partial(_dial, connection, seconds)
        try:
            with _cut_after(connection, seconds):
                if self._pool.proxy is not None and self._pool.scheme == "https":
                    # urllib3 keeps the CONNECT through a proxy in this one place.
                    self._pool._prepare_proxy(connection)
                else:
                    connection.connect()
        except SSLError as error:
            make_context(self._route.authorities)  # says which file cannot be read
            raise _translate(error) from None
        except HTTPError as error:
            raise _translate(error) from None
        connected: socket.socket = connection.sock
        connected.settimeout(None)
        return connected

    def _prepare(self, path: str) -> PreparedRequest:
        request = PreparedRequest()
        query = f"?{self._route.query}" if self._route.query else ""
        request.prepare_url(f"{self._route.base_url}{path}{query}", None)
        return request


def choose_proxy(route: Route) -> ProxiedWay | None:
    """Return the way through the proxy that is meant for this origin; None where none is."""
    if select_proxy(route.base_url, dict(route.proxies)) is None:
        return None
    return ProxiedWay(route)


def _translate(error: HTTPError) -> OSError:
    """Return what the standard library would have raised."""
    if type(error) is ConnectTimeoutError:  # a refused connection is of a kind of it
        return TimeoutError(str(error.args[-1]))
    root = find_root(error)
    return root if isinstance(root, OSError) else OSError(re.sub(_BEFORE, "", describe(error)))


def _dial(connection: Any, seconds: float) -> socket.socket:
    """Open the socket of urllib3's *connection*, in its place and with its errors."""
    host = connection._dns_host
    try:
        return dial(host, connection.port, seconds, connection.socket_options or ())
    except socket.gaierror as error:
        raise NameResolutionError(connection.host, connection, error) from error
    except TimeoutError as error:
        raise ConnectTimeoutError(connection, f"no answer within {seconds:g} s") from error
    except OSError as error:
        raise NewConnectionError(connection, str(error)) from error


@contextmanager
def _cut_after(connection: Any, seconds: float) -> Iterator[None]:
    """Cut *connection* when opening it takes longer: its own limit begins anew with every byte.

    Raises ConnectTimeoutError then.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        if (connected := connection.sock) is not None:
            with contextlib.suppress(OSError, AttributeError):
                connected.shutdown(socket.SHUT_RDWR)

    watchdog = threading.Timer(seconds, cut)
    watchdog.daemon = True
    with contextlib.suppress(RuntimeError):  # no thread to be had: each step has its own limit
        watchdog.start()
    try:
        yield
    except (HTTPError, HTTPException, OSError) as error:
        if late.is_set():
            raise ConnectTimeoutError(connection, f"not open within {seconds:g} s") from error
        raise
    finally:
        watchdog.cancel()
