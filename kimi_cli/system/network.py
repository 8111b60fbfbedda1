"""Proxies and certificate authorities, as the environment names them.

The HTTP layer reads no environment of its own, because that would bring ``~/.netrc`` along,
whose passwords replace a bearer token (psf/requests#3929). These variables are read on purpose.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from importlib.util import find_spec

from kimi_cli.api.route import Route
from kimi_cli.errors import ConfigError
from kimi_cli.settings.addresses import is_loopback, split_socket

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
CA_FOLDERS = "SSL_CERT_DIR"
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


def find_route(base_url: str, environment: Mapping[str, str], query: str = "") -> Route:
    """Return the way to *base_url*, and with what *query*; raises ConfigError.

    This machine, and what is spoken to in plain http, is never reached through a proxy: a proxy
    would see the token in plain text.
    """
    if (place := split_socket(base_url)) is not None:
        path, prefix = place
        return Route(f"http://localhost{prefix}", socket=path, query=query)
    is_plain = is_loopback(base_url) or _speaks(base_url, "http")
    named = _find_authorities(environment)
    return Route(
        base_url,
        {} if is_plain else _find_proxies(base_url, environment),
        named or _find_store(base_url),
        are_named=bool(named),
        query=query,
    )


def _speaks(base_url: str, scheme: str) -> bool:
    return base_url.partition(":")[0].lower() == scheme


def _find_proxies(base_url: str, environment: Mapping[str, str]) -> Mapping[str, str]:
    """Return the proxies by scheme; only macOS has any that no variable names.

    ``socks://`` is what desktops write: the proxy then looks the name up, for a network that is
    left by a proxy alone may know no names of the world. Raises ConfigError where what a proxy
    speaks is not installed.
    """
    names = {name.lower() for name in environment if environment[name]}
    if sys.platform != "darwin" and not any(
        name.endswith("_proxy") for name in names - {"no_proxy"}
    ):
        return {}
    from requests.utils import get_environ_proxies, select_proxy  # noqa: PLC0415 - for proxies only

    found = get_environ_proxies(base_url).items()
    proxies = {scheme: re.sub(r"(?i)\Asocks:", "socks5h:", proxy) for scheme, proxy in found}
    used = select_proxy(base_url, proxies) or ""
    if used.lower().startswith("socks") and find_spec("socks") is None:
        from kimi_cli.system.installation import advise_extra  # noqa: PLC0415 - for who lacks it

        raise ConfigError(
            "the proxy speaks SOCKS, which needs PySocks, which is not installed; run: "
            f"{advise_extra('socks')}"
        )
    return proxies


def _find_store(base_url: str) -> tuple[str, ...]:
    """Return the files and folders of those whom this system trusts, as its OpenSSL has them."""
    if not _speaks(base_url, "https"):
        return ()
    import ssl  # noqa: PLC0415 - for TLS only

    paths = ssl.get_default_verify_paths()
    places = (paths.openssl_cafile, paths.openssl_capath)
    return tuple(path for path in places if _holds_something(path))


def _holds_something(path: str) -> bool:
    try:
        return bool(os.listdir(path) if os.path.isdir(path) else os.path.getsize(path))
    except OSError:
        return False


def _find_authorities(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the files and folders of those to trust.

    SSL_CERT_DIR is a list, of which some may be missing, and counts beside SSL_CERT_FILE, as it
    is with OpenSSL (SSL_CTX_load_verify_locations(3)). The other variables count alone.
    """
    named: tuple[str, ...] = ()
    for variable in CA_VARIABLES:
        if path := environment.get(variable):
            if not os.path.exists(path):
                raise ConfigError(f"{variable} names {path}, which does not exist")
            if variable != "SSL_CERT_FILE":
                return (path,)
            named = (path,)
    folders = environment.get(CA_FOLDERS, "")
    named += tuple(folder for folder in folders.split(os.pathsep) if os.path.isdir(folder))
    if folders and not named:
        raise ConfigError(f"{CA_FOLDERS} names {folders}, where no folder is; unset or correct it")
    return named
