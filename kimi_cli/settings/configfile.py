"""The configuration file: its rows, its folder, and what is wrong with it.

Every setting has one row in ``SETTINGS``, every key of a ``[profiles.NAME]`` table one in
``PROFILE_KEYS``, of a ``[prices.MODEL]`` table one in ``PRICE_KEYS``. kimi-config(5) documents
them, and a test holds the two together.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kimi_cli.errors import ConfigError
from kimi_cli.settings.profiles import DEFAULT_PROFILE, STRUCTURED, THINKING


@dataclass(frozen=True, eq=False, repr=False)
class Setting:
    """One setting: how its text is read, what types a configuration file may give, the default."""

    parse: Callable[[str], Any]
    types: tuple[type, ...]
    default: Any
    minimum: float | None = None
    maximum: float = float("inf")
    choices: tuple[str, ...] = ()
    find_flaw: Callable[[Mapping[str, str]], str | None] = lambda table: None
    """Says what is wrong with a table."""

    @property
    def wanted(self) -> str:
        """What a value must be, for messages."""
        return " or ".join(map(_name_type, self.types))

    def check(self, value: object) -> str | None:
        """Return what *value*, already of a right type, should have been; None when it is good."""
        if self.choices and value not in self.choices:
            return f"one of {', '.join(self.choices)}"
        if self.minimum is not None and not (
            isinstance(value, (int, float)) and self.minimum <= value < self.maximum
        ):
            most = f", and below {self.maximum:g}" if self.maximum < float("inf") else ""
            return f"a number not below {self.minimum:g}{most}"
        return None


def _parse_switch(text: str) -> bool:
    return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[
        text.lower()
    ]


_NUMBER = (int, float)
LONGEST = 10.0 * 365 * 86400
"""Seconds that a limit may have: ten years. No clock of the system takes any number."""

PATIENCE = 120.0
"""Seconds without data, where nothing was said: models have been seen to pause for a minute while
they reason, and a connection that is dead must end."""
LONG_PATIENCE = 600.0
"""Seconds for a whole answer in one piece, and for an engine that reads the prompt here."""
BATCH_RETRIES = 4
"""Of a row of a batch, where nothing was said: a run has more time than a person has."""

SETTINGS: dict[str, Setting] = {
    "profile": Setting(str, (str,), DEFAULT_PROFILE),
    "base_url": Setting(str, (str,), None),
    "model": Setting(str, (str,), None),
    "reasoning": Setting(str, (str,), "show", choices=("show", "hide")),
    "connect_timeout": Setting(float, _NUMBER, 10.0, minimum=0.001, maximum=LONGEST),
    "timeout": Setting(float, _NUMBER, None, minimum=0.001, maximum=LONGEST),
    "max_time": Setting(float, _NUMBER, None, minimum=0.001, maximum=LONGEST),
    "retries": Setting(int, (int,), 2, minimum=0),
    "local_model": Setting(str, (str,), None),
    "save": Setting(_parse_switch, (bool,), default=True),
    "markdown": Setting(_parse_switch, (bool,), default=False),
}


def _find_header_flaw(table: Mapping[str, str]) -> str | None:
    from kimi_cli.settings.variables import find_header_flaw  # noqa: PLC0415 - few profiles have any

    return find_header_flaw(table)


def _find_query_flaw(table: Mapping[str, str]) -> str | None:
    from kimi_cli.settings.variables import find_query_flaw  # noqa: PLC0415 - few profiles have any

    return find_query_flaw(table)


PROFILE_KEYS: dict[str, Setting] = {
    "base_url": Setting(str, (str,), ""),
    "model": Setting(str, (str,), None),
    "auth": Setting(str, (str,), "token", choices=("token", "none")),
    "token_variable": Setting(str, (str,), None),
    "token_command": Setting(str, (list,), ()),
    "headers": Setting(str, (dict,), {}, find_flaw=_find_header_flaw),
    "query": Setting(str, (dict,), {}, find_flaw=_find_query_flaw),
    "insecure_http": Setting(str, (bool,), default=False),
    "models": Setting(str, (str,), "live", choices=("live", "documented")),
    "ask_usage": Setting(str, (bool,), True),
    "thinking": Setting(str, (str,), "thinking", choices=tuple(THINKING)),
    "structured": Setting(str, (str,), "auto", choices=("auto", *STRUCTURED)),
    "continues": Setting(str, (bool,), True),
    "list_prices": Setting(str, (bool,), default=False),
}

_DEAREST = 1e9
"""What a million tokens may cost."""
PRICE_KEYS: dict[str, Setting] = {
    "input": Setting(str, _NUMBER, None, minimum=0, maximum=_DEAREST),
    "cached": Setting(str, _NUMBER, None, minimum=0, maximum=_DEAREST),
    "output": Setting(str, _NUMBER, None, minimum=0, maximum=_DEAREST),
    "currency": Setting(str, (str,), "USD"),
}


@dataclass(frozen=True)
class ConfigFile:
    """A parsed configuration file: plain settings, profiles, prices, and what to warn of."""

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    profiles: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By model, what is set in ``PRICE_KEYS``."""
    warnings: tuple[str, ...] = ()


def find_config_path(environment: Mapping[str, str]) -> Path:
    """Return where the configuration file belongs; it need not exist."""
    return find_folder(environment, "XDG_CONFIG_HOME", ".config") / "config.toml"


def find_folder(environment: Mapping[str, str], variable: str, default: str) -> Path:
    """Return our folder under an XDG base folder; a relative value is ignored, as XDG has it."""
    base = environment.get(variable, "")
    if not os.path.isabs(base):
        base = os.path.join(_find_home(environment), default)
    return Path(base) / "kimi"


def _find_home(environment: Mapping[str, str]) -> str:
    """Return the home folder; cron and containers may leave HOME out, or empty."""
    home = environment.get("HOME", "")
    if os.path.isabs(home):
        return home
    import pwd  # noqa: PLC0415 - nearly everybody has a HOME

    try:
        return pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"


def read_config(path: Path) -> ConfigFile:
    """Read the configuration file; one that does not exist is empty.

    Raises ConfigError, with file and line, for bad TOML and wrong types; unknown keys become
    warnings.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.stat().st_mode & stat.S_IWOTH:
            raise ConfigError(f"{path} is writable by everybody; run 'chmod 600 {path}'")
        folder = path.parent.stat().st_mode
        if folder & stat.S_IWOTH and not folder & stat.S_ISVTX:
            raise ConfigError(f"all may write to {path.parent}; run 'chmod o-w {path.parent}'")
    except FileNotFoundError:
        return ConfigFile(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    return _parse_config(path, text)


def _parse_config(path: Path, text: str) -> ConfigFile:
    import tomllib  # noqa: PLC0415 - a run without a configuration file does not pay for it

    try:
        document = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path}: {error}") from error
    except RecursionError:
        raise ConfigError(f"{path}: the values are nested too deeply") from None
    reader = _TableReader(path, text)
    tables = {
        "profiles": reader.take_tables(document, "profiles", "NAME"),
        "prices": reader.take_tables(document, "prices", '"MODEL"'),
    }
    values = reader.read(document, "", SETTINGS)
    profiles = {
        name: reader.read(table, f"profiles.{name}", PROFILE_KEYS)
        for name, table in tables["profiles"].items()
    }
    prices = {name: reader.read_price(table, name) for name, table in tables["prices"].items()}
    return ConfigFile(path, values, profiles, prices, tuple(reader.warnings))


class _TableReader:
    """Checks the tables of one file against their rows, and names lines in what it says."""

    def __init__(self, path: Path, text: str) -> None:
        self._path = path
        self._places = _find_places(text)
        self.warnings: list[str] = []

    def read(
        self, table: Mapping[str, Any], section: str, rows: Mapping[str, Setting]
    ) -> dict[str, Any]:
        values = {}
        for key, value in table.items():
            row = rows.get(key)
            if row is None:
                self.warnings.append(f"{self._find(section, key)}: unknown key '{key}' is ignored")
                continue
            if type(value) not in row.types:
                raise self.complain(section, key, row.wanted)
            if isinstance(value, list):
                if not all(isinstance(word, str) for word in value):
                    raise self.complain(section, key, "a list of strings")
                value = tuple(value)
            if isinstance(value, dict):
                if not all(isinstance(text, str) for text in value.values()):
                    raise self.complain(section, key, row.wanted)
                if flaw := row.find_flaw(value):
                    raise ConfigError(f"{self._find(section, key)}: {flaw}")
            if wanted := row.check(value):
                raise self.complain(section, key, wanted)
            values[key] = value
        return values

    def take_tables(
        self, document: dict[str, Any], section: str, name: str
    ) -> Mapping[str, Mapping[str, Any]]:
        """Take the tables below *section* out of *document*."""
        tables = document.pop(section, {})
        if not isinstance(tables, dict):
            raise self.complain("", section, f"tables named [{section}.{name}]")
        for key, table in tables.items():
            if not isinstance(table, dict):
                raise self.complain(section, key, "a table")
        return tables

    def read_price(self, table: Mapping[str, Any], model: str) -> dict[str, Any]:
        """Read the table of a model's price."""
        section = f"prices.{model}"
        if nested := next((key for key, value in table.items() if isinstance(value, dict)), None):
            raise ConfigError(
                f'{self._find(section, nested)}: a model with a dot needs quotes: [prices."'
                f'{model}.{nested}"]'
            )
        values = self.read(table, section, PRICE_KEYS)
        if missing := [key for key in ("input", "output") if key not in values]:
            place = self._find(section, "")
            raise ConfigError(f"{place}: the price of '{model}' has no {' and no '.join(missing)}")
        currency = values.get("currency", "")
        if "currency" in values and not re.fullmatch("[A-Za-z]{1,16}", currency):
            raise self.complain(section, "currency", 'a word of Latin letters, such as "USD"')
        return values

    def complain(self, section: str, key: str, wanted: str) -> ConfigError:
        return ConfigError(f"{self._find(section, key)}: '{key}' must be {wanted}")

    def _find(self, section: str, key: str) -> str:
        """Return ``path:line`` of *key* in *section*; the path alone where it is not found."""
        number = self._places.get((section, key))
        return str(self._path) if number is None else f"{self._path}:{number}"


def _find_places(text: str) -> dict[tuple[str, str], int]:
    """Return the lines, from 1, of every table and key; tomllib keeps no positions."""
    places: dict[tuple[str, str], int] = {}
    section = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            section = re.sub("[\"']", "", header[1])
            places.setdefault((section, ""), number)
            above, _, name = section.rpartition(".")
            places.setdefault((above, name), number)
        elif found := re.match(r"\s*([\"']?)([^\"'=]+?)\1\s*[=.]", line):
            places.setdefault((section, found[2]), number)
    return places


def _name_type(kind: type) -> str:
    return {
        str: "a string",
        int: "a whole number",
        float: "a number",
        bool: "true or false",
        list: "a list of strings",
        dict: "a table of strings",
    }[kind]
