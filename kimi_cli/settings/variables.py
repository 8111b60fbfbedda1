"""Values of headers and queries: what may stand in them, and what they take from the environment.

A value may name environment variables, as ``$NAME`` or ``${NAME}``; ``$$`` is a dollar.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from kimi_cli.errors import ConfigError

_OURS = {
    "authorization": "the bearer token has its own places, see kimi-auth(1)",
    **dict.fromkeys(
        ("host", "content-type", "content-length", "content-encoding", "accept-encoding"),
        "kimi sets it itself",
    ),
    **dict.fromkeys(
        (
            *("connection", "expect", "keep-alive", "proxy-authenticate", "proxy-authorization"),
            *("proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        ),
        "it is for one connection, not for the host",
    ),
}
"""Headers that no profile may set, and why: those of RFC 9110, sections 7.6 and 8, among them."""
_NAME = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"
"""A token of RFC 9110, section 5.6.2."""
_VARIABLE = r"\$(?:(\$)|([A-Za-z_][A-Za-z0-9_]*)|\{([A-Za-z_][A-Za-z0-9_]*)\}|)"
"""The last way to match, with nothing, is a dollar that begins no variable."""
_PLAIN = frozenset(
    ("HOME", "HOSTNAME", "LANG", "LOGNAME", "PATH", "PWD", "SHELL", "TERM", "TMPDIR", "TZ", "USER")
)
"""Variables of every session, which hold no secret."""
_SECRET_NAME = (
    r"(?i)(?:^|[-_.])(?:key|auth|jwt|pass|sig)(?:[-_.]|$)"
    r"|apikey|token|secret|passw|cookie|credential|signature"
)
_SECRET_VALUE = r"[^\s/]{20,}|(?=[a-z]*[0-9])(?=[0-9]*[a-z])[a-z0-9]{6,}"
"""What a key looks like: long and in one piece, or letters and digits in one word."""


def find_header_flaw(table: Mapping[str, str]) -> str | None:
    """Say what is wrong with a table of headers; None when it can be sent."""
    seen: set[str] = set()
    for name, value in table.items():
        if not re.fullmatch(_NAME, name):
            return f"'{name}' is no name of a header"
        if why := _OURS.get(name.lower()):
            return f"'{name}' cannot be among the headers: {why}"
        if name.lower() in seen:
            return f"'{name}' is among the headers twice"
        seen.add(name.lower())
        if flaw := _find_value_flaw(value) or _find_dollar(value):
            return f"the header '{name}' {flaw}"
    return None


def find_query_flaw(table: Mapping[str, str]) -> str | None:
    """Say what is wrong with a table of a query; None when it can be sent."""
    for name, value in table.items():
        if not name:
            return "a name in the query is empty"
        if flaw := _find_dollar(value):
            return f"'{name}' of the query {flaw}"
    return None


def list_variables(values: Iterable[str]) -> set[str]:
    """Return the variables that *values* name, and that other programs are not to see."""
    return {name for value in values for name in _find_variables(value)} - _PLAIN


def fill_in(
    template: str, name: str, environment: Mapping[str, str], place: str
) -> tuple[str, list[str]]:
    """Return the value of *template*, and those of its parts that are secret.

    It is that of *name* in *place*. Raises ConfigError for a variable that is not set, or that
    holds what cannot be sent.
    """
    variables = _find_variables(template)
    for variable in variables:
        if not environment.get(variable, "").strip():
            state = "is empty" if variable in environment else "is not set"
            raise ConfigError(f"{variable} {state}, which '{name}' in {place} needs; set it")
        find_flaw = _find_value_flaw if place.startswith("headers") else _find_text_flaw
        if flaw := find_flaw(environment[variable].strip()):
            raise ConfigError(f"{variable} cannot be sent as '{name}' in {place}: it {flaw}")
    filled = re.sub(
        _VARIABLE,
        lambda found: found[1] or environment[found[2] or found[3]].strip(),
        template,
    ).strip()
    hidden = [environment[variable].strip() for variable in variables if variable not in _PLAIN]
    return filled, [filled, *hidden] if hidden or is_secret(name, filled) else []


def is_secret(name: str, value: str) -> bool:
    """Tell whether a value is to be hidden, by its *name* or by what it looks like."""
    return bool(re.search(_SECRET_NAME, name) or re.search(_SECRET_VALUE, value.lower()))


def _find_variables(template: str) -> list[str]:
    found = re.finditer(_VARIABLE, template)
    return list(dict.fromkeys(name for match in found if (name := match[2] or match[3])))


def _find_dollar(template: str) -> str | None:
    if any(match[0] == "$" for match in re.finditer(_VARIABLE, template)):
        return "has a '$' that begins no variable; a dollar is written '$$'"
    return None


def _find_value_flaw(value: str) -> str | None:
    if not all(" " <= character <= "~" or character == "\t" for character in value):
        return "holds a line break, or another character that a header cannot hold"
    return None


def _find_text_flaw(value: str) -> str | None:
    return None if value.isprintable() else "holds a line break, or bytes that are not UTF-8"
