"""The bearer token: kept in a real keyring, found in one order, and sent to its own origin only."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from program import Kimi
from secret_service import SecretService
from server import ReplayServer, document, refusal, stream

from kimi_cli.credentials.bearer import Stores, find_bearer_token
from kimi_cli.credentials.keychain import Keychain
from kimi_cli.credentials.tokenfile import TokenFile
from kimi_cli.settings.configfile import ConfigFile
from kimi_cli.settings.precedence import resolve

TOKEN = "sk-first-0123456789abcdef"
OTHER = "sk-other-0123456789abcdef"


def login(kimi: Kimi, *options: str, token: str = TOKEN, **how: Any) -> Any:
    """Store a token that is piped in."""
    return kimi("auth", "login", "--no-verify", *options, stdin=token.encode() + b"\n", **how)


def get_sent_token(server: ReplayServer) -> str | None:
    """Return what the last request carried."""
    return server.requests[-1].headers.get("Authorization")


@pytest.fixture
def keyring(secret_service: SecretService) -> dict[str, str]:
    """An unlocked, empty keyring."""
    secret_service.clear()
    return secret_service.unlocked


def test_a_token_is_kept_in_the_keyring(
    kimi: Kimi, keyring: dict[str, str], secret_service: SecretService
) -> None:
    """auth login stores under service kimi and the origin; an independent tool reads it back."""
    assert login(kimi, env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") == TOKEN
    status = kimi("auth", "status", env=keyring)
    assert status.status == 0
    assert b"keyring" in status.stdout
    assert TOKEN.encode() not in status.stdout + status.stderr
    shown = json.loads(kimi("auth", "status", "--json", env=keyring).stdout)
    assert shown["origin"] == "https://api.acedata.cloud"
    assert shown["token"] == "…cdef"
    assert kimi("auth", "token", env=keyring).stdout == TOKEN.encode() + b"\n"
    assert kimi("auth", "logout", env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") is None
    assert kimi("auth", "status", env=keyring).status == 78
    assert kimi("auth", "logout", env=keyring).status == 78


def test_a_token_belongs_to_one_origin(
    kimi: Kimi, keyring: dict[str, str], server: ReplayServer
) -> None:
    """What was stored for one host is not sent to another, not even on another port."""
    with ReplayServer() as stranger:
        assert login(kimi, "--base-url", server.url, env=keyring).status == 0
        server.script(stream(" Hi"))
        assert kimi("ask", "--base-url", server.url, "hi", env=keyring).status == 0
        assert get_sent_token(server) == f"Bearer {TOKEN}"
        result = kimi("ask", "--base-url", stranger.url, "hi", env=keyring)
        assert result.status == 78
        assert "--no-auth" in result.error
        assert not stranger.requests


def test_a_refused_token_is_not_stored(
    kimi: Kimi, keyring: dict[str, str], server: ReplayServer, secret_service: SecretService
) -> None:
    """login asks the host first, at no cost; a host that is away is no obstacle."""
    server.script(refusal(401, "invalid_token", "no"))
    arguments = ("auth", "login", "--base-url", server.url)
    assert kimi(*arguments, stdin=TOKEN.encode(), env=keyring).status == 77
    assert secret_service.lookup(server.origin) is None
    gone = ReplayServer()
    gone.close()
    arguments = ("auth", "login", "--base-url", gone.url)
    result = kimi(*arguments, stdin=TOKEN.encode(), env=keyring)
    assert result.status == 0
    assert "not verified" in result.error
    assert secret_service.lookup(gone.origin) == TOKEN


def test_the_prompt_is_hidden_and_never_stdin(kimi: Kimi, keyring: dict[str, str]) -> None:
    """At a terminal the token is typed unseen."""
    run = kimi.pty("auth", "login", "--no-verify", env=keyring)
    run.expect(b"oken", "terminal")
    run.type(TOKEN.encode() + b"\r")
    result = run.wait()
    assert result.status == 0
    assert TOKEN.encode() not in result.terminal + result.stdout + result.stderr
    assert kimi("auth", "token", env=keyring).stdout == TOKEN.encode() + b"\n"


@pytest.mark.parametrize("state", ["locked", "prompting", "absent", "silent"])
def test_a_keyring_that_does_not_answer_is_an_error(
    kimi: Kimi, secret_service: SecretService, state: str
) -> None:
    """Unattended it is a clear message within seconds, never a hang and never a traceback."""
    environment = getattr(secret_service, state)
    result = kimi("ask", "hi", env=environment, timeout=20)
    assert result.status == 78
    assert "keyring" in result.error
    assert "KIMI_TOKEN" in result.error
    assert "Traceback" not in result.error
    assert login(kimi, env=environment, timeout=20).status == 78


def test_no_bus_is_no_wait(kimi: Kimi) -> None:
    """Under cron there is no D-Bus session: the three ways to give a token are named at once."""
    result = kimi("ask", "hi")
    assert result.status == 78
    for way in ("kimi auth login", "KIMI_TOKEN", "--token-file", "no D-Bus session"):
        assert way in result.error


@pytest.mark.parametrize("backend", ["null.Keyring", "fail.Keyring"])
def test_weak_back_ends_are_refused(kimi: Kimi, backend: str) -> None:
    """A back end that keeps nothing, or nothing secret, is never used."""
    result = login(kimi, env={"PYTHON_KEYRING_BACKEND": f"keyring.backends.{backend}"})
    assert result.status == 78
    assert "--insecure-storage" in result.error


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_insecure_storage_is_a_private_file(kimi: Kimi, home: Path, umask: int) -> None:
    """Mode 0600 in a folder of mode 0700, whatever the umask; other origins stay in it."""
    before = os.umask(umask)
    try:
        assert login(kimi, "--insecure-storage").status == 0
        elsewhere = ("--base-url", "http://127.0.0.1:1")
        assert login(kimi, "--insecure-storage", *elsewhere, token=OTHER).status == 0
    finally:
        os.umask(before)
    path = home / ".config/kimi/tokens.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert kimi("auth", "token").stdout == TOKEN.encode() + b"\n"
    path.chmod(0o640)
    assert kimi("auth", "token").status == 78
    path.chmod(0o600)
    path.write_text("{torn")
    assert login(kimi, "--insecure-storage").status == 78
    assert path.read_text() == "{torn"


def test_the_order_of_sources(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """Each source beats those after it; the profile's own come between."""
    command = home / "print-token"
    command.write_text('#!/bin/sh\n[ -z "$KIMI_TOKEN" ] && ! read -r line && echo from-command\n')
    command.chmod(0o755)
    folder = home / "credentials"
    for path, token in (
        (home / "named", "from-option"),
        (home / "file", "from-file"),
        (folder / "kimi-token", "from-systemd"),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_text(token + "\n")
        path.chmod(0o600)
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[profiles.here]\nbase_url = "{server.url}"\n'
        f'token_variable = "HERE_KEY"\ntoken_command = ["{command}"]\n'
    )
    login(kimi, "--insecure-storage", "--profile", "here", token="from-store")
    sources: list[tuple[list[str], dict[str, str]]] = [
        (["--token-file", str(home / "named")], {}),
        ([], {"KIMI_TOKEN": "from-variable"}),
        ([], {"HERE_KEY": "from-profile"}),
        ([], {"KIMI_TOKEN_FILE": str(home / "file")}),
        ([], {"CREDENTIALS_DIRECTORY": str(folder)}),
        ([], {}),
    ]
    expected = ["option", "variable", "profile", "file", "systemd", "command"]
    for place, name in enumerate(expected):
        options = [word for given, _ in sources[place:] for word in given]
        environment = {key: value for _, given in sources[place:] for key, value in given.items()}
        server.script(stream(" Hi"))
        result = kimi("ask", "--profile", "here", *options, "hi", env=environment)
        assert result.status == 0, result.error
        assert get_sent_token(server) == f"Bearer from-{name}"
    config.write_text(f'[profiles.here]\nbase_url = "{server.url}"\n')
    server.script(stream(" Hi"))
    assert kimi("ask", "--profile", "here", "hi").status == 0
    assert get_sent_token(server) == "Bearer from-store"


@pytest.mark.parametrize(
    "environment",
    [
        {"KIMI_TOKEN": ""},
        {"KIMI_TOKEN": "two words"},
        {"KIMI_TOKEN": "line\nbreak"},
        {"KIMI_TOKEN": "schlüssel"},
        {"KIMI_TOKEN": "x" * 5000},
        {"KIMI_TOKEN_FILE": "/nowhere/token"},
        {"KIMI_TOKEN_FILE": "/dev/null"},
    ],
)
def test_a_named_source_that_fails_is_an_error(
    kimi: Kimi, server: ReplayServer, environment: dict[str, str]
) -> None:
    """No other identity takes its place, and the value is not shown."""
    login(kimi, "--insecure-storage", "--base-url", server.url)
    result = kimi("ask", "--base-url", server.url, "hi", env=environment)
    assert result.status == 78
    assert not server.requests
    assert "break" not in result.error.replace("line break", "")


@pytest.mark.parametrize(
    "script", ["exit 3", "sleep 60", "printf 'a b'", "head -c 70000 /dev/zero"]
)
def test_a_token_command_that_fails(
    kimi: Kimi, home: Path, server: ReplayServer, script: str
) -> None:
    """Its failure, its silence and its nonsense are errors of ours, in bounded time."""
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        f'[profiles.here]\nbase_url = "{server.url}"\ntoken_command = ["sh", "-c", "{script}"]\n'
    )
    result = kimi("ask", "--profile", "here", "hi", timeout=30)
    assert result.status == 78
    assert result.error.count("\n") == 1


def test_secrets_of_a_profile_stay_at_home(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """A base URL that is not the profile's own gets neither its variable nor its command."""
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(
        '[profiles.here]\nbase_url = "http://127.0.0.1:1"\ntoken_variable = "HERE_KEY"\n'
        'token_command = ["echo", "secret"]\n'
    )
    result = kimi(
        "ask", "--profile", "here", "--base-url", server.url, "hi", env={"HERE_KEY": "secret"}
    )
    assert result.status == 78
    assert not server.requests


def test_variables_of_vendors_are_for_vendors(kimi: Kimi, server: ReplayServer) -> None:
    """Each is read for its own host only, and another tool's never."""
    variables = {"ACEDATACLOUD_API_TOKEN": TOKEN, "MOONSHOT_API_KEY": OTHER, "KIMI_API_KEY": "x"}
    assert kimi("ask", "--base-url", server.url, "hi", env=variables).status == 78
    assert kimi("auth", "token", env=variables).stdout.decode().strip() == TOKEN
    moonshot = kimi("auth", "token", "--profile", "moonshot-cn", env=variables)
    assert moonshot.stdout.decode().strip() == OTHER


@pytest.mark.parametrize("how", ["option", "profile"])
def test_a_host_that_needs_no_token(kimi: Kimi, home: Path, server: ReplayServer, how: str) -> None:
    """--no-auth, or auth = "none" in its profile: no Authorization header is sent."""
    config = home / ".config/kimi/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[profiles.desk]\nbase_url = "{server.url}"\nauth = "none"\n')
    server.script(stream(" Hi"))
    options = ["--base-url", server.url, "--no-auth"] if how == "option" else ["--profile", "desk"]
    assert kimi("ask", *options, "hi", env={"KIMI_TOKEN": TOKEN}).status == 0
    assert get_sent_token(server) is None


def test_a_token_file_that_others_can_read_is_refused(kimi: Kimi, home: Path) -> None:
    """And the way to mend it is named; stdin is a token file, too."""
    path = home / "token"
    path.write_text(TOKEN)
    path.chmod(0o644)
    result = kimi("auth", "token", "--token-file", str(path))
    assert result.status == 78
    assert f"chmod 600 {path}" in result.error
    piped = kimi("auth", "token", "--token-file", "-", stdin=TOKEN.encode() + b"\n")
    assert piped.stdout == TOKEN.encode() + b"\n"


def configure(home: Path, text: str) -> None:
    """Write the configuration file."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make_private(path: Path, text: str) -> Path:
    """Write a file that its owner alone can read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    return path


# Storing


def test_an_accepted_token_is_stored(
    kimi: Kimi, keyring: dict[str, str], server: ReplayServer, secret_service: SecretService
) -> None:
    """It is tried at the host before it is kept, in one request and at no cost."""
    server.script(document({"data": []}))
    arguments = ("auth", "login", "--base-url", server.url)
    assert kimi(*arguments, stdin=TOKEN.encode() + b"\r\n", env=keyring).status == 0
    (request,) = server.requests
    assert (request.method, request.path) == ("GET", "/kimi/models")
    assert get_sent_token(server) == f"Bearer {TOKEN}"
    assert secret_service.lookup(server.origin) == TOKEN


def test_no_verify_sends_nothing(
    kimi: Kimi, keyring: dict[str, str], server: ReplayServer, secret_service: SecretService
) -> None:
    """The host does not hear of the token."""
    assert login(kimi, "--base-url", server.url, env=keyring).status == 0
    assert not server.connections
    assert secret_service.lookup(server.origin) == TOKEN


def test_each_origin_has_its_own_entry(
    kimi: Kimi, keyring: dict[str, str], secret_service: SecretService
) -> None:
    """Two profiles are two entries; the path of a base URL makes no other origin."""
    assert login(kimi, env=keyring).status == 0
    assert login(kimi, "--profile", "moonshot", token=OTHER, env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") == TOKEN
    assert secret_service.lookup("https://api.moonshot.ai") == OTHER
    assert secret_service.lookup("https://api.moonshot.cn") is None
    elsewhere = ("--base-url", "https://API.moonshot.ai:443/another/path")
    assert kimi("auth", "token", *elsewhere, env=keyring).stdout == OTHER.encode() + b"\n"
    assert kimi("auth", "logout", "--profile", "moonshot", env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") == TOKEN


def test_a_second_login_replaces_the_first(
    kimi: Kimi, keyring: dict[str, str], secret_service: SecretService
) -> None:
    """One entry per origin, the last one."""
    for token in (TOKEN, OTHER):
        assert login(kimi, token=token, env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") == OTHER


def test_logout_empties_every_store(
    kimi: Kimi, keyring: dict[str, str], home: Path, secret_service: SecretService
) -> None:
    """Keyring and file, but of one origin only; the keyring comes first while both are there."""
    assert login(kimi, env=keyring).status == 0
    assert login(kimi, "--insecure-storage", token=OTHER, env=keyring).status == 0
    assert login(kimi, "--insecure-storage", "--profile", "moonshot", env=keyring).status == 0
    assert kimi("auth", "token", env=keyring).stdout == TOKEN.encode() + b"\n"
    assert kimi("auth", "logout", env=keyring).status == 0
    assert secret_service.lookup("https://api.acedata.cloud") is None
    kept = json.loads((home / ".config/kimi/tokens.json").read_text())
    assert kept == {"https://api.moonshot.ai": TOKEN}


# The prompt


def test_a_pipe_is_read_and_no_question_asked(kimi: Kimi, keyring: dict[str, str]) -> None:
    """With data on stdin the terminal is left alone."""
    run = kimi.pty("auth", "login", "--no-verify", stdin=TOKEN.encode() + b"\n", env=keyring)
    result = run.wait()
    assert result.status == 0
    assert result.terminal == b""
    assert kimi("auth", "token", env=keyring).stdout == TOKEN.encode() + b"\n"


def test_a_closed_stdin_is_no_answer(kimi: Kimi) -> None:
    """Without a terminal and without a pipe nothing is asked, and nothing taken for an answer."""
    result = kimi("auth", "login", "--no-verify", stdin="closed")
    assert result.status == 66
    assert "no terminal" in result.error
    assert login(kimi, token="").status == 78


def test_piped_text_is_never_a_token(kimi: Kimi, server: ReplayServer) -> None:
    """`ask` without a token asks for none, even with a terminal at hand and text on stdin."""
    arguments = ("ask", "--base-url", server.url, "hi")
    result = kimi.pty(*arguments, stdin=b"not-a-token\n").wait()
    assert result.status == 78
    assert not server.connections
    assert result.terminal == b""


def test_a_token_on_stdin_is_one_line(kimi: Kimi, server: ReplayServer) -> None:
    """--token-file - takes stdin for itself: what follows the first line is not sent."""
    server.script(stream(" Hi"))
    arguments = ("ask", "--base-url", server.url, "--token-file", "-", "hi")
    assert kimi(*arguments, stdin=TOKEN.encode() + b"\nrest\n").status == 0
    assert get_sent_token(server) == f"Bearer {TOKEN}"
    assert TOKEN.encode() not in server.requests[0].body


# The state of the stores


@pytest.mark.parametrize(
    ("state", "command"),
    [
        ("locked", "token"),
        ("silent", "status"),
        # Only a keyring that waits for its password comes up against our own limit.
        ("prompting", "token"),
        ("prompting", "logout"),
    ],
)
def test_every_command_survives_a_dead_keyring(
    kimi: Kimi, secret_service: SecretService, state: str, command: str
) -> None:
    """Each says what is wrong in one line, within a time that a cron job can bear."""
    result = kimi("auth", command, env=getattr(secret_service, state), timeout=20)
    assert result.status == 78
    assert "keyring" in result.error
    assert "Traceback" not in result.error
    assert result.seconds < 15


def test_the_file_is_used_while_the_keyring_is_locked(
    kimi: Kimi, secret_service: SecretService
) -> None:
    """A keyring that cannot be asked is passed over, for it was not named."""
    assert login(kimi, "--insecure-storage", env=secret_service.locked).status == 0
    shown = json.loads(kimi("auth", "status", "--json", env=secret_service.locked).stdout)
    assert shown["source"].endswith("tokens.json")
    assert shown["token"] == "…cdef"


def test_status_without_a_token(kimi: Kimi, home: Path) -> None:
    """--json is an object even then; a host that needs none is no failure."""
    result = kimi("auth", "status", "--json")
    assert result.status == 78
    shown = json.loads(result.stdout)
    assert (shown["source"], shown["token"], shown["needed"]) == (None, None, True)
    assert "KIMI_TOKEN" in shown["error"]
    configure(home, '[profiles.desk]\nbase_url = "http://127.0.0.1:9"\nauth = "none"\n')
    result = kimi("auth", "status", "--json", "--profile", "desk")
    assert result.status == 0
    assert json.loads(result.stdout)["needed"] is False


def test_a_short_token_has_no_tail(kimi: Kimi) -> None:
    """Four characters of few would be a good part of it."""
    shown = json.loads(kimi("auth", "status", "--json", env={"KIMI_TOKEN": "short-one"}).stdout)
    assert (shown["source"], shown["token"]) == ("KIMI_TOKEN", "…")


# The order


ORIGINS = {
    "acedata": ["ACEDATACLOUD_API_TOKEN", "ACEDATACLOUD_API_KEY"],
    "moonshot": ["MOONSHOT_API_KEY"],
    "moonshot-cn": ["MOONSHOT_API_KEY"],
}


@pytest.mark.parametrize("profile", ORIGINS)
def test_vendor_variables_have_their_place(tmp_path: Path, profile: str) -> None:
    """After KIMI_TOKEN, before the profile's own; of two the first; another vendor's never."""
    config = ConfigFile(tmp_path, profiles={profile: {"token_variable": "OWN_KEY"}})
    settings = resolve({"profile": profile}, {}, config)
    every = {name for names in ORIGINS.values() for name in names} | {"KIMI_API_KEY"}
    names = ["KIMI_TOKEN", *ORIGINS[profile], "OWN_KEY"]
    strangers = dict.fromkeys(every - set(names), "of-another")
    stores = Stores(
        Keychain({}, attended=False, notify=lambda _: None), TokenFile(tmp_path / "none")
    )
    for place, name in enumerate(names):
        environment = {given: f"from-{given}" for given in names[place:]} | strangers
        found = find_bearer_token(settings, environment, stores)
        assert (found.value, found.source) == (f"from-{name}", name)


@pytest.mark.parametrize("variable", ["KIMI_API_KEY", "OPENAI_API_KEY"])
def test_variables_of_other_tools_are_not_read(kimi: Kimi, variable: str) -> None:
    """Not even for the default host: they belong to programs of other makers."""
    assert kimi("auth", "token", env={variable: TOKEN}).status == 78


FAILING = {
    "option names nothing": (["--token-file", "{home}/nothing"], {}),
    "option names an empty file": (["--token-file", "{home}/empty"], {}),
    "option names a folder": (["--token-file", "{home}"], {}),
    "option without a name": (["--token-file", ""], {}),
    "variable names a folder": ([], {"KIMI_TOKEN_FILE": "{home}"}),
    "variable names an open file": ([], {"KIMI_TOKEN_FILE": "{home}/open"}),
    "variable without a name": ([], {"KIMI_TOKEN_FILE": ""}),
    "profile's variable is empty": ([], {"HERE_KEY": ""}),
    "credential is empty": ([], {"CREDENTIALS_DIRECTORY": "{home}/credentials"}),
}


@pytest.mark.parametrize("case", FAILING)
def test_a_failing_source_hides_those_behind_it(
    kimi: Kimi, home: Path, server: ReplayServer, case: str
) -> None:
    """A store and a command that would give a token are not asked."""
    make_private(home / "empty", "")
    make_private(home / "open", TOKEN).chmod(0o640)
    make_private(home / "credentials/kimi-token", "\n")
    configure(
        home,
        f'[profiles.here]\nbase_url = "{server.url}"\ntoken_variable = "HERE_KEY"\n'
        f'token_command = ["touch", "{home}/asked"]\n',
    )
    assert login(kimi, "--insecure-storage", "--base-url", server.url).status == 0
    options, variables = FAILING[case]
    result = kimi(
        *("ask", "--profile", "here", *(option.format(home=home) for option in options), "hi"),
        env={name: value.format(home=home) for name, value in variables.items()},
    )
    assert result.status == 78
    assert result.error.count("\n") == 1
    assert TOKEN not in result.error
    assert not server.connections
    assert not (home / "asked").exists()


def test_a_service_without_our_credential_goes_on(kimi: Kimi, home: Path) -> None:
    """CREDENTIALS_DIRECTORY names a folder for all programs of a unit, and not a token of ours."""
    (home / "credentials").mkdir()
    assert login(kimi, "--insecure-storage").status == 0
    result = kimi("auth", "token", env={"CREDENTIALS_DIRECTORY": str(home / "credentials")})
    assert result.stdout == TOKEN.encode() + b"\n"


# The command


def test_a_token_command_sees_neither_secrets_nor_the_prompt(
    kimi: Kimi, home: Path, server: ReplayServer
) -> None:
    """Its stdin is empty, so the text that was piped in still reaches the host."""
    names = "KIMI_TOKEN|ACEDATACLOUD_API_TOKEN|ACEDATACLOUD_API_KEY|MOONSHOT_API_KEY"
    script = f"cat >seen-stdin; env | grep -E '^({names})=' >seen-env; echo from-command"
    configure(
        home,
        f'[profiles.here]\nbase_url = "{server.url}"\ntoken_command = ["sh", "-c", "{script}"]\n',
    )
    server.script(stream(" Hi"))
    secrets = dict.fromkeys(names.split("|")[1:], TOKEN)
    result = kimi("ask", "--profile", "here", "hi", stdin=b"the text\n", env=secrets)
    assert result.status == 0, result.error
    assert get_sent_token(server) == "Bearer from-command"
    assert b"the text" in server.requests[0].body
    assert (home / "seen-env").read_bytes() == b""
    # ask has read all of its stdin by then; a command that reads none still has it to lose.
    assert kimi("auth", "token", "--profile", "here", stdin=b"the text\n").status == 0
    assert (home / "seen-stdin").read_bytes() == b""


def test_a_token_command_is_no_shell_line(kimi: Kimi, home: Path) -> None:
    """Words go to the program as they are; one that is missing is named."""
    configure(
        home,
        '[profiles.here]\nbase_url = "http://127.0.0.1:9"\ntoken_command = ["echo", "$HOME;id"]\n'
        '[profiles.gone]\nbase_url = "http://127.0.0.1:9"\ntoken_command = ["no-such-thing"]\n',
    )
    assert kimi("auth", "token", "--profile", "here").stdout == b"$HOME;id\n"
    result = kimi("auth", "token", "--profile", "gone")
    assert result.status == 78
    assert "no-such-thing" in result.error


def test_status_speaks_of_the_token_that_ask_would_send(
    kimi: Kimi, home: Path, server: ReplayServer
) -> None:
    """Also where the profile needs none and one is named all the same."""
    configure(home, f'[profiles.desk]\nbase_url = "{server.url}"\nauth = "none"\n')
    path = home / "token"
    path.write_text(f"{TOKEN}\n")
    path.chmod(0o600)
    desk = ("--profile", "desk")
    assert b"source   none needed" in kimi("auth", "status", *desk).stdout
    named = kimi("auth", "status", *desk, "--token-file", str(path))
    assert f"source   --token-file {path}".encode() in named.stdout
    server.script(stream("hi"))
    assert kimi("ask", *desk, "--token-file", str(path), "hi").status == 0
    assert get_sent_token(server) == f"Bearer {TOKEN}"
