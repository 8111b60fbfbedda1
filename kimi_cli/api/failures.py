"""What went wrong on the way to a host, in terms that a person can act on."""

from __future__ import annotations

import re
import socket
import ssl
from http.client import HTTPException, IncompleteRead, RemoteDisconnected

from kimi_cli.api.http1 import CutHead
from kimi_cli.api.route import Route
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated, TimedOut, Unreachable

_NO_TLS = ("wrong_version_number", "http_request", "unsupported_protocol")
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)
_LATER = "; check the network and the address; try again later"
_REFUSED = r"Tunnel connection failed|SOCKS\d authentication|\A0x0[278]: "
"""How an HTTP proxy says no, and how a SOCKS proxy (RFC 1928) does."""
_CUTS = (RemoteDisconnected, IncompleteRead)


def explain_failure(
    error: Exception, route: Route, via: str = "", *, connecting: bool = False
) -> KimiError:
    """Say in our terms why no reply came; raises *error* where it is a bug of ours.

    *via* names who stands between, as in " through the proxy".
    """
    if isinstance(error, KimiError):
        return error
    host, root, reason = route.host, find_root(error), describe(error)
    if isinstance(root, socket.gaierror):
        return _explain_resolution(root, f"cannot resolve {host}{via}: {reason}", via)
    if isinstance(root, ssl.SSLError):
        return _explain_tls(root, f"{host}{via}: {reason}", route)
    if connecting and isinstance(root, TimeoutError):
        what = f"no connection to {host}{via}: {reason} (limit: connect-timeout)"
        return TimedOut(what, sent=False)
    if via and re.search(_REFUSED, reason):
        what = f"the proxy refuses the way to {host}: {reason}"
        return Unreachable(f"{what}; ask who runs it, or name the host in NO_PROXY")
    if connecting and isinstance(error, (HTTPException, OSError)):
        return _explain_unreached(root, f"cannot reach {host}{via}: {reason}", route)
    if isinstance(root, HTTPException) and not isinstance(root, (*_CUTS, CutHead)):
        return NotTheApi(f"{host} does not speak HTTP: {reason}; check its port, and the base URL")
    if isinstance(error, (HTTPException, OSError)):
        where = "within its" if isinstance(root, (IncompleteRead, CutHead)) else "without a"
        what = f"{host} closed the connection {where} reply: {reason}"
        return StreamTruncated(f"{what}; try again later")
    raise error


def _explain_unreached(error: BaseException, what: str, route: Route) -> Unreachable:
    """Tell what is not served now from a socket that never will be."""
    if route.socket is None:
        return Unreachable(f"{what}{_LATER}", transient=True)
    if isinstance(error, NotADirectoryError):
        return Unreachable(f"{what}; a path of the URL stands behind a colon: unix:/a.sock:/v1")
    if isinstance(error, PermissionError):
        return Unreachable(f"{what}; ask who runs its server to let you in")
    return Unreachable(f"{what}; start its server, or try again later", transient=True)


def _explain_resolution(error: BaseException, what: str, via: str) -> Unreachable:
    """Tell a name that does not exist from a resolver that nobody can ask now."""
    if isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME:
        return Unreachable(f"{what}; check {'the proxy' if via else '--base-url or the profile'}")
    return Unreachable(f"{what}{_LATER}", transient=True)


def _explain_tls(error: ssl.SSLError, what: str, route: Route) -> Unreachable:
    """Tell a host that cannot be trusted from one whose handshake broke off."""
    if isinstance(error, ssl.SSLCertVerificationError):
        hint = "SSL_CERT_FILE can name its CA"
        searched = " or ".join(route.authorities)
        known = f"its CA is not in {searched}" if route.are_named and searched else hint
        return Unreachable(f"cannot trust {what}; {known}")
    # A host without TLS stays one; another may be behind a proxy that restarts.
    if (error.reason or "").lower() in _NO_TLS:
        return Unreachable(f"no TLS with {what}; check scheme and port of the base URL")
    return Unreachable(f"no TLS with {what}; try again later", transient=True)


def find_root(error: BaseException) -> BaseException:
    """Return the innermost exception that *error* wraps or comes from."""
    wrapped = [argument for argument in error.args if isinstance(argument, BaseException)]
    inner = wrapped[0] if wrapped else error.__cause__
    return error if inner is None else find_root(inner)


def describe(error: BaseException) -> str:
    """Return the innermost reason in one line, without the names of objects."""
    root = find_root(error)
    if isinstance(root, IncompleteRead):
        return "the reply ended too early"
    text = getattr(root, "strerror", None) or str(root) or type(root).__name__
    return " ".join(text.split())[:200]
