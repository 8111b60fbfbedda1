"""What is known of the way to an origin, before anything is opened."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

_PORTS = {"https": 443, "http": 80}
_KEPT = "!#$%&'()*+,/:;=?@[]~"
"""What a path may hold besides letters (RFC 3986, section 2.2)."""


@dataclass(frozen=True, eq=False, repr=False)
class Route:
    """How to reach an origin: its base URL, proxies by scheme, and whom to trust.

    *authorities* are files and folders of certificates, *are_named* whether somebody chose them;
    where there are none, those count that come with requests. *socket* is the path of a socket of
    this machine that is connected to in the place of the URL's host. *query* stands behind the
    paths of all endpoints.
    """

    base_url: str
    proxies: Mapping[str, str] = field(default_factory=dict)
    authorities: tuple[str, ...] = ()
    are_named: bool = True
    socket: str | None = None
    query: str = ""

    @property
    def host(self) -> str:
        """What is spoken to, for messages: the host (and port) of the base URL, or the socket."""
        return self.base_url.split("/")[2] if self.socket is None else f"unix:{self.socket}"

    def locate(self) -> Place:
        """Return where the base URL points."""
        parts = urlsplit(self.base_url)
        host = _spell(parts.hostname or "")
        port = parts.port or _PORTS[parts.scheme]
        shown = f"[{host}]" if ":" in host else host
        return Place(
            host,
            port,
            is_secure=parts.scheme == "https",
            authority=shown if port == _PORTS[parts.scheme] else f"{shown}:{port}",
            path=quote(parts.path, safe=_KEPT),
            query=f"?{self.query}" if self.query else "",
        )


@dataclass(frozen=True, eq=False, repr=False)
class Place:
    """An origin in the letters of the wire."""

    host: str
    port: int
    is_secure: bool
    authority: str
    """What the Host field says."""
    path: str
    """What the paths of its endpoints begin with."""
    query: str = ""
    """What they end with, its question mark included."""


def _spell(host: str) -> str:
    """Return *host* as name servers and certificates spell it; raises ValueError."""
    if host.isascii():
        return host
    import idna  # noqa: PLC0415 - few names need it

    return idna.encode(host, uts46=True).decode("ascii")
