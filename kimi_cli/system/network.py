"""Proxies and certificate authorities, as the environment names them.

The HTTP layer reads no environment of its own, because that would bring ``~/.netrc`` along,
whose passwords replace a bearer token (psf/requests#3929). These variables are read on purpose.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from requests.utils import get_environ_proxies

from kimi_cli.api.transport import Route
from kimi_cli.errors import ConfigError
from kimi_cli.settings.precedence import is_loopback

CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
PROXY_VARIABLES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")


def find_route(base_url: str, environment: Mapping[str, str]) -> Route:
    """Return the way to *base_url*; raises ConfigError for a CA path that does not exist.

    This machine is never reached through a proxy: a proxy would see the token in plain text.
    """
    if is_loopback(base_url):
        return Route(base_url, ca_bundle=_find_ca_bundle(environment))
    return Route(base_url, get_environ_proxies(base_url), _find_ca_bundle(environment))


def _find_ca_bundle(environment: Mapping[str, str]) -> str | None:
    for variable in CA_VARIABLES:
        if path := environment.get(variable):
            if not os.path.exists(path):
                raise ConfigError(f"{variable} names {path}, which does not exist")
            return path
    return None
