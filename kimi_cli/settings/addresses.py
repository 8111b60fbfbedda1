"""Base URLs: which may be used, what is cut off them, and to which origin they lead.

A ``unix:`` socket is one, with the path of the URL behind a colon: ``unix:/run/llm.sock:/v1``.
"""

from __future__ import annotations

import os
import re
from urllib.parse import SplitResult, urlsplit

from kimi_cli.errors import ConfigError

_LOOPBACK = r"localhost|127(\.\d{1,3}){3}|::1"
_PRIVATE = (
    *("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "100.64.0.0/10"),
    *("fc00::/7", "fe80::/10"),
)
"""Networks that are nobody's in public: RFC 1918, 3927, 6598, 4193 and 4291."""
_PRIVATE_NAMES = r"(?i)[a-z0-9._-]+\.(?:internal|local|lan|home\.arpa)"
"""Names that no public name server knows, Docker's host.docker.internal among them."""
_ENDPOINT = "/chat/completions"
"""What is cut off a URL that was pasted whole."""
_SOCKET = "unix:"
_LONGEST_SOCKET = 107
"""Bytes of a socket's path, unix(7)."""
_NOT_PLAIN = "plain http would show the token to the network; use https"


def find_origin(base_url: str) -> str:
    """Return ``scheme://host[:port]`` in lower case, without the scheme's own port.

    That of a socket is ``unix:`` and its path.
    """
    if (path := split_socket(base_url)) is not None:
        return f"{_SOCKET}{path[0]}"
    parts = urlsplit(base_url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    if parts.port in (None, {"https": 443, "http": 80}.get(parts.scheme)):
        return f"{parts.scheme}://{host}"
    return f"{parts.scheme}://{host}:{parts.port}"


def split_socket(base_url: str) -> tuple[str, str] | None:
    """Return the path of a ``unix:`` socket, and that of the URL behind it; None for a host."""
    if not base_url.startswith(_SOCKET):
        return None
    path = re.sub(r"\A//(?=/)", "", base_url.partition("?")[0].removeprefix(_SOCKET))
    socket, _, prefix = path.partition(":/")
    return os.path.expanduser(socket.removesuffix(":")), f"/{prefix}".rstrip("/") if prefix else ""


def is_loopback(base_url: str) -> bool:
    """Tell whether *base_url* names this machine."""
    if base_url.startswith(_SOCKET):
        return True
    return re.fullmatch(_LOOPBACK, urlsplit(base_url).hostname or "") is not None


def check_base_url(base_url: str, source: str, *, trusted: str | None = None) -> str:
    """Return *base_url* as endpoints are joined to it; raises ConfigError where it is bad.

    User information would replace the bearer token, a query or fragment would end up in the
    middle of the endpoint, and plain http would show the token to the network: it is spoken only
    with the origin of *trusted*, a base URL in a private network. The endpoint itself may have been
    pasted whole, and then with a query; both are cut off.
    """
    try:
        if base_url.startswith(_SOCKET):
            problem = _find_socket_problem(base_url)
        else:
            problem = _find_problem(urlsplit(base_url), base_url, trusted)
    except ValueError as error:
        problem = str(error).lower()
    if problem is not None:
        shown = re.sub(r"//[^/@]*@", "//…@", base_url)
        shown = re.sub(r"\?.*", "?…", shown, flags=re.DOTALL)  # a query may hold a key
        raise ConfigError(f"bad base URL '{shown}' ({source}): {problem}")
    path = base_url.partition("?")[0].rstrip("/")
    return path.removesuffix(_ENDPOINT).rstrip("/")


def _find_socket_problem(base_url: str) -> str | None:
    path, _ = split_socket(base_url) or ("", "")
    if not path.startswith("/") or path.startswith("//"):
        return "it must be unix: and an absolute path, such as unix:/run/llm.sock:/v1"
    if len(os.fsencode(path)) > _LONGEST_SOCKET:
        return f"the path of a socket has at most {_LONGEST_SOCKET} bytes"
    return _find_misplaced(base_url)


def _find_misplaced(base_url: str) -> str | None:
    """Say what stands in *base_url* that belongs into no URL, or not into this one."""
    before, mark, query = base_url.partition("?")
    if "#" in base_url or (mark and not before.rstrip("/").endswith(_ENDPOINT)):
        return (
            "it must not have a query or fragment; a query goes into 'query' of its profile, or "
            f"behind {_ENDPOINT}"
        )
    if re.search(r"[\s\x00-\x1f\x7f\\]", base_url):
        return "it must not hold spaces, control characters or backslashes"
    if re.search("[\ud800-\udfff]", query):
        return "its query is not UTF-8"
    return None


def _find_problem(parts: SplitResult, base_url: str, trusted: str | None) -> str | None:
    _ = parts.port  # raises ValueError when it is no port
    if parts.scheme not in ("https", "http") or not parts.hostname:
        return "it must begin with https:// and a host"
    if not all(0 < len(label) < 64 for label in parts.hostname.removesuffix(".").split(".")):
        return "a part of its host name is empty or too long"
    if "@" in parts.netloc:
        return "it must not hold a user name or password; store a token with 'kimi auth login'"
    if problem := _find_misplaced(base_url):
        return problem
    if parts.scheme == "http" and not is_loopback(base_url):
        is_trusted = trusted is not None and find_origin(base_url) == find_origin(trusted)
        return _find_exposure(parts.hostname, is_trusted=is_trusted)
    return None


def _find_exposure(host: str, *, is_trusted: bool) -> str | None:
    """Say why plain http is not spoken with *host*; None where its network is trusted."""
    if not _is_private(host):
        why = "; insecure_http is for private addresses and names without a dot"
        return f"{_NOT_PLAIN}{why if is_trusted else ''}"
    if is_trusted:
        return None
    return f"{_NOT_PLAIN}, or, in a network of your own, insecure_http = true in its profile"


def _is_private(host: str) -> bool:
    """Tell whether *host* is an address of a private network, or a name that is not public."""
    import ipaddress  # noqa: PLC0415 - only for plain http
    import socket  # noqa: PLC0415 - the same

    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in ipaddress.ip_network(network) for network in _PRIVATE)
    if re.fullmatch(_PRIVATE_NAMES, host):
        return True
    try:
        socket.inet_aton(host)  # 134744072 is the public address 8.8.8.8
    except OSError:
        return re.fullmatch(r"(?i)[a-z0-9_-]+", host) is not None
    return False
