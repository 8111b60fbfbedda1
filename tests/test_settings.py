"""Which value wins, and what is wrong with one."""

from __future__ import annotations

import os
import pwd
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.errors import ConfigError
from kimi_cli.settings.addresses import check_base_url, find_origin
from kimi_cli.settings.configfile import SETTINGS, ConfigFile, find_config_path, read_config
from kimi_cli.settings.precedence import resolve

GIVEN: dict[str, tuple[Any, str, Any]] = {
    "profile": ("moonshot", "moonshot-cn", "local"),
    "base_url": ("https://o.example/v1", "https://e.example", "https://c.example"),
    "model": ("o", "e", "c"),
    "reasoning": ("hide", "show", "hide"),
    "connect_timeout": (1.0, "2", 3),
    "timeout": (1.0, "2", 3),
    "max_time": (1.0, "2", 3),
    "retries": (1, "2", 3),
    "local_model": ("o", "e", "c"),
    "save": (False, "true", False),
    "markdown": (True, "false", True),
}


def resolve_with(
    options: dict[str, Any] | None = None,
    environment: dict[str, str] | None = None,
    **values: Any,
) -> Any:
    """Resolve with a configuration file that holds *values*."""
    config = ConfigFile(Path("config.toml"), values)
    return resolve(options or {}, environment or {}, config)


def show(settings: Any, name: str) -> Any:
    """Return one setting as it was given."""
    value = getattr(settings, name)
    return value.name if name == "profile" else value


@pytest.mark.parametrize("name", SETTINGS)
def test_option_beats_environment_beats_file(name: str) -> None:
    """The same order for every setting."""
    option, variable, entry = GIVEN[name]
    environment = {f"KIMI_{name.upper()}": variable}
    assert show(resolve_with({name: option}, environment, **{name: entry}), name) == option
    read = str(show(resolve_with({}, environment, **{name: entry}), name))
    assert read.lower().startswith(variable)
    assert show(resolve_with(**{name: entry}), name) == entry


@pytest.mark.parametrize(("text", "value"), [("1", True), ("Yes", True), ("0", False)])
def test_a_switch_has_several_spellings(text: str, value: bool) -> None:
    """What people write into a variable; anything else is an error that says what is wanted."""
    assert resolve_with({}, {"KIMI_SAVE": text}).save is value
    with pytest.raises(ConfigError, match="KIMI_SAVE must be true or false, not 'perhaps'"):
        resolve_with({}, {"KIMI_SAVE": "perhaps"})


def test_a_conversation_stands_between_environment_and_file() -> None:
    """Its model belongs to its profile; what this run itself says is stronger."""
    config = ConfigFile(Path("config.toml"), {"profile": "moonshot", "model": "c"})
    kept = {"profile": "moonshot-cn", "model": "k"}
    plain = resolve({}, {}, config, kept)
    assert (plain.profile.name, plain.model, plain.is_named) == ("moonshot-cn", "k", False)
    named = resolve({"profile": "moonshot"}, {"KIMI_MODEL": ""}, config, kept)
    assert (named.profile.name, named.model, named.is_named) == ("moonshot", "c", True)
    varied = resolve({}, {"KIMI_MODEL": "e"}, config, kept)
    assert (varied.profile.name, varied.model) == ("moonshot-cn", "e")


def test_the_built_in_values() -> None:
    """With nothing given it is the gateway of the guide, and its model."""
    settings = resolve_with()
    assert settings.base_url == "https://api.acedata.cloud/kimi"
    assert settings.model == "kimi-k2.5"
    assert (settings.reasoning, settings.connect_timeout, settings.retries) == ("show", 10.0, 2)


def test_a_profile_named_by_something_stronger_brings_its_own_base_url() -> None:
    """--profile is stronger than KIMI_BASE_URL; --base-url is as strong as --profile."""
    environment = {"KIMI_BASE_URL": "https://e.example"}
    chosen = resolve_with({"profile": "moonshot"}, environment)
    assert chosen.base_url == "https://api.moonshot.ai/v1"
    both = resolve_with({"profile": "moonshot", "base_url": "https://o.example"}, environment)
    assert both.base_url == "https://o.example"
    assert not both.at_home


def write(folder: Path, text: str) -> Path:
    """Write a configuration file."""
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_profile_of_the_users_own(tmp_path: Path) -> None:
    """[profiles.NAME] adds a host; its own model is closer than the file's top."""
    text = 'model = "top"\n[profiles.desk]\nbase_url = "http://127.0.0.1:1/v1/"\nauth = "none"\n'
    settings = resolve({"profile": "desk"}, {}, read_config(write(tmp_path, text)))
    assert (settings.base_url, settings.model) == ("http://127.0.0.1:1/v1", "top")
    assert settings.is_open
    text += 'model = "own"\n'
    assert resolve({"profile": "desk"}, {}, read_config(write(tmp_path, text))).model == "own"


def test_unknown_keys_warn(tmp_path: Path) -> None:
    """They name their line, and stop nothing."""
    config = read_config(write(tmp_path, "retries = 1\nretrys = 2\n"))
    assert config.values == {"retries": 1}
    assert config.warnings == (f"{config.path}:2: unknown key 'retrys' is ignored",)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("retries = 'many'", 1),
        ("\nretries = true", 2),
        ("timeout = 0", 1),
        ("timeout = inf", 1),
        ("reasoning = 'loud'", 1),
        ("[profiles.x]\nbase_url = 1", 2),
        ("[profiles.x]\n\ntoken_command = 'pass'", 3),
        ("[profiles.x]\ntoken_command = [1]", 2),
        ("profiles = 3", 1),
    ],
)
def test_wrong_values_name_file_and_line(tmp_path: Path, text: str, line: int) -> None:
    """A configuration that means nothing is an error, at its place."""
    path = write(tmp_path, text)
    with pytest.raises(ConfigError, match=f"^{path}:{line}: .* must be "):
        read_config(path)


def test_a_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    """It could name a command to run."""
    path = write(tmp_path, "")
    path.chmod(0o666)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_config(path)


@pytest.mark.parametrize(
    ("options", "environment"),
    [
        ({"profile": "nowhere"}, {}),
        ({}, {"KIMI_RETRIES": "many"}),
        ({}, {"KIMI_TIMEOUT": "-1"}),
        ({}, {"KIMI_TIMEOUT": "nan"}),
        ({}, {"KIMI_REASONING": "loud"}),
    ],
)
def test_bad_values_are_refused(options: dict[str, Any], environment: dict[str, str]) -> None:
    """Also those of the command line and the environment."""
    with pytest.raises(ConfigError):
        resolve_with(options, environment)


def test_relative_folders_are_ignored() -> None:
    """As the XDG specification has it."""
    environment = {"XDG_CONFIG_HOME": "here", "HOME": "/home/me"}
    assert find_config_path(environment) == Path("/home/me/.config/kimi/config.toml")


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_useless_home_is_looked_up(home: str | None) -> None:
    """Cron and containers may leave HOME out: the user's own folder is known all the same."""
    environment = {} if home is None else {"HOME": home}
    expected = Path(pwd.getpwuid(os.getuid()).pw_dir, ".config/kimi/config.toml")
    assert find_config_path(environment) == expected


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x.example",
        "https://",
        "x.example",
        "https://a:b@x.example",
        "https://x.example?a=1",
        "https://x.example#a",
        "http://x.example",
        "https://x.example:99999",
        "https://x .example",
        "http://127.0.0.1.example",
        "http://localhost.example",
    ],
)
def test_bad_base_urls(url: str) -> None:
    """Nothing that could send the token elsewhere, or in the clear."""
    with pytest.raises(ConfigError, match="bad base URL"):
        check_base_url(url, "--base-url")


@given(st.text(max_size=30))
def test_no_base_url_hides_a_secret_or_a_query(text: str) -> None:
    """Whatever passes is https (or loopback), without user, query or fragment."""
    try:
        url = check_base_url(f"https://{text}", "test")
    except ConfigError:
        return
    assert url.startswith("https://")
    assert not set("@?#\\ ") & set(url.split("/")[2])


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("https://A.example:443/v1", "https://a.example"),
        ("https://a.example:8443/v1/", "https://a.example:8443"),
        ("http://[::1]:80/v1", "http://[::1]"),
    ],
)
def test_origins(url: str, origin: str) -> None:
    """Scheme, host and port, in one spelling."""
    assert find_origin(url) == origin
