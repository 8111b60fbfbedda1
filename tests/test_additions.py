"""Headers and a query of a profile: filled in, sent home and nowhere else, and never shown."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import pytest
from answers import assert_failed
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from server import ReceivedRequest, ReplayServer, Reply, completion, document, refusal, stream
from test_hosts import configure

from kimi_cli.settings.additions import Additions, find_additions
from kimi_cli.settings.configfile import ConfigFile
from kimi_cli.settings.precedence import resolve

KEY = "canary-0123456789abcdef"
OTHER = "c4n4ry/with?odd&signs=1 2"
LITERAL = "literal-canary-0123456789"


def set_up(home: Path, server: ReplayServer) -> None:
    """Write a profile of the server with a header, and a query, of each kind."""
    configure(
        home,
        f'''
[profiles.desk]
base_url = "{server.url}"
auth = "none"
[profiles.desk.headers]
X-Key = "$DESK_KEY"
X-Scheme = "Basic ${{DESK_KEY}}=$$"
X-Provider = "openai"
X-Literal = "{LITERAL}"
[profiles.desk.query]
sig = "${{DESK_SIG}}"
api-version = "2024-10-21-preview"
''',
    )


@pytest.fixture
def desk(kimi: Kimi, home: Path, server: ReplayServer) -> Kimi:
    """The program with that profile in force, and its variables set."""
    set_up(home, server)
    return kimi.but(env={"KIMI_PROFILE": "desk", "DESK_KEY": KEY, "DESK_SIG": OTHER})


def test_variables_are_filled_in(desk: Kimi, server: ReplayServer) -> None:
    """In either spelling, in the midst of a value; two dollars are one; a query is quoted."""
    server.script(stream("x"))
    assert desk("ask", "hi").status == 0
    [request] = server.requests
    headers = request.headers
    assert (headers["X-Key"], headers["X-Scheme"]) == (KEY, f"Basic {KEY}=$")
    assert headers["Authorization"] is None
    sent = urlsplit(request.path)
    assert sent.path == "/kimi/chat/completions"
    assert parse_qsl(sent.query) == [("sig", OTHER), ("api-version", "2024-10-21-preview")]


@pytest.mark.parametrize("state", [None, "", " "])
@pytest.mark.parametrize(
    "command",
    [
        ("ask", "hi"),
        ("batch",),
        ("chat",),
        ("models",),
        ("auth", "status"),
    ],
    ids=" ".join,
)
def test_a_variable_that_is_not_set(
    desk: Kimi, server: ReplayServer, command: tuple[str, ...], state: str | None
) -> None:
    """It is 78 in one line that names it, and nothing is sent; an empty one sets nothing."""
    result = desk(*command, stdin=b'"hi"\n', env={"DESK_KEY": state})
    assert_failed(result, 78, "DESK_KEY", "'X-Key' in headers of profile desk", "set it")
    assert server.requests == []


def test_what_needs_no_host_needs_no_variable(desk: Kimi) -> None:
    """A dry run, the log, another profile and help go on without it."""
    unset = desk.but(env={"DESK_KEY": None})
    for command in (
        ("ask", "--dry-run", "hi"),
        ("batch", "--dry-run"),
        ("log", "list"),
        ("models", "--profile", "acedata"),
    ):
        result = unset(*command, stdin=b'"hi"\n')
        assert result.status == 0, result.error


def echo(request: ReceivedRequest) -> list[str]:
    """Return every header and the query, as a careless host would repeat them."""
    query = dict(parse_qsl(urlsplit(request.path).query))
    return [*request.headers.values(), request.path, *query.values()]


def repeat(request: ReceivedRequest) -> Reply:
    """Answer with all that was brought."""
    fields = {"id": KEY, "model": LITERAL, "system_fingerprint": echo(request)}
    choice = {"index": 0, "message": {"content": "openai 2024-10-21-preview"}}
    body = {**fields, "choices": [{**choice, "finish_reason": "stop"}]}
    return document(body, headers={"X-Request-Id": KEY})


def refuse(request: ReceivedRequest) -> Reply:
    """Refuse with all that was brought."""
    return refusal(400, KEY, " ".join(echo(request)), trace_id=f"{LITERAL} {OTHER}")


def find_leaks(folder: Path, *outputs: bytes) -> list[bytes]:
    """Return what holds a secret: files below *folder*, but the configuration, and *outputs*."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name != "config.toml"]
    texts = [*outputs, *(path.read_bytes() for path in files)]
    secrets = [text.encode() for text in (KEY, OTHER, LITERAL, "c4n4ry%2Fwith%3Fodd")]
    return [secret for secret in secrets if any(secret in text for text in texts)]


@pytest.mark.parametrize("mode", [(), ("--no-stream",)], ids=["stream", "no-stream"])
def test_an_answer_shows_no_value(
    desk: Kimi, server: ReplayServer, home: Path, mode: tuple[str, ...]
) -> None:
    """F21: not with -v, --json, in a record or a batch; what is no secret stays as it is."""
    server.answer(repeat)
    result = desk("ask", "-v", "--json", "-S", "kept", *mode, "hi")
    shown = json.loads(result.stdout)
    assert shown["content"] == "openai 2024-10-21-preview"
    assert (shown["id"], shown["model"]) == ("[X-Key]", "[X-Literal]")
    row = desk("batch", "-v", "-o", "out.jsonl", stdin=b'"hi"\n')
    assert row.status == 0, row.error
    told = desk("log", "show", "kept", "--json")
    assert told.status == 0, told.error
    outputs = [stream for run in (result, row, told) for stream in (run.stdout, run.stderr)]
    assert find_leaks(home, *outputs) == []
    assert "with headers X-Key X-Scheme X-Provider X-Literal, query sig api-version" in row.error


def test_a_refusal_shows_no_value(desk: Kimi, server: ReplayServer, home: Path) -> None:
    """F21: neither in the line of the error, nor in what a batch writes of it."""
    server.answer(refuse)
    result = desk("ask", "-v", "hi")
    assert result.status == 65
    assert "[X-Key]" in result.error
    row = desk("batch", "-o", "out.jsonl", "--summary", "sum.json", stdin=b'"hi"\n')
    assert row.status == 4, row.error
    outputs = [stream for run in (result, row) for stream in (run.stdout, run.stderr)]
    assert find_leaks(home, *outputs) == []
    dry = desk("ask", "--dry-run", "hi")
    status = desk("auth", "status", "--json")
    assert find_leaks(home, dry.stdout, dry.stderr, status.stdout, status.stderr) == []
    shown = json.loads(status.stdout)
    assert shown["headers"] == ["X-Key", "X-Scheme", "X-Provider", "X-Literal"]
    assert shown["query"] == ["sig", "api-version"]


def test_they_go_to_no_other_origin(desk: Kimi, server: ReplayServer) -> None:
    """F21: with --base-url or KIMI_BASE_URL of another host nothing of the profile goes along."""
    with ReplayServer() as other:
        other.answer(lambda request: stream("x"))
        assert desk("ask", "--no-auth", "--base-url", other.url, "hi").status == 0
        variables = {"KIMI_BASE_URL": other.url, "KIMI_TOKEN": "token-0123456789"}
        # The profile is named by the environment as well: the URL wins.
        assert desk("ask", "hi", env=variables).status == 0
        other.answer(lambda request: completion("x"))
        row = desk("batch", "--no-auth", "--base-url", other.url, stdin=b'"hi"\n')
        assert row.status == 0, row.error
        for request in other.requests:
            assert "?" not in request.path
            assert not {"X-Key", "X-Scheme", "X-Literal"} & set(request.headers.keys())
        assert len(other.requests) == 3
    assert server.requests == []


def test_another_path_of_the_origin_is_home(desk: Kimi, server: ReplayServer) -> None:
    """As for a token, the origin counts."""
    server.script(stream("x"))
    assert desk("ask", "--base-url", f"{server.origin}/v2", "hi").status == 0
    [request] = server.requests
    assert request.headers["X-Key"] == KEY


def test_a_redirect_takes_nothing_along(desk: Kimi, server: ReplayServer) -> None:
    """It is not followed; what it repeats is hidden."""
    with ReplayServer() as other:
        server.answer(
            lambda request: Reply(status=307, headers={"Location": f"{other.url}?k={KEY}"})
        )
        result = desk("ask", "hi")
        assert_failed(result, 76, "redirects are not followed")
        assert KEY not in result.error
        assert other.requests == []


def test_other_programs_do_not_get_the_variables(
    kimi: Kimi, home: Path, server: ReplayServer
) -> None:
    """A token_command sees none of them, whichever profile is in force."""
    command = 'token_command = ["sh", "-c", "env >seen; echo token-0123456789"]'
    set_up(home, server)
    text = (home / ".config/kimi/config.toml").read_text().replace("openai", "${USER}")
    configure(home, f'{text}\n[profiles.two]\nbase_url = "{server.url}"\n{command}\n')
    server.script(stream("x"))
    variables = {"DESK_KEY": KEY, "DESK_SIG": OTHER, "USER": "me"}
    assert kimi("ask", "--profile", "two", "hi", env=variables, cwd=home).status == 0
    seen = (home / "seen").read_text()
    assert "USER=me" in seen
    assert "DESK_" not in seen
    assert KEY not in seen


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ('headers = { Authorization = "x" }', "the bearer token has its own places"),
        ('headers = { authorization = "x" }', "'authorization' cannot be among the headers"),
        ('headers = { Host = "x" }', "kimi sets it itself"),
        ('headers = { Content-Length = "1" }', "kimi sets it itself"),
        ('headers = { content-type = "x" }', "kimi sets it itself"),
        ('headers = { Transfer-Encoding = "x" }', "it is for one connection"),
        ('headers = { Connection = "close" }', "it is for one connection"),
        ('headers = { Proxy-Authorization = "x" }', "it is for one connection"),
        ('headers = { TE = "trailers" }', "it is for one connection"),
        ('headers = { "a b" = "x" }', "'a b' is no name of a header"),
        ('headers = { "" = "x" }', "'' is no name of a header"),
        ('headers = { "x:" = "x" }', "'x:' is no name of a header"),
        ('headers = { "ä" = "x" }', "'ä' is no name of a header"),
        ('headers = { X-A = "x", x-a = "y" }', "'x-a' is among the headers twice"),
        ('headers = { X-A = "a\\r\\nX-B: c" }', "the header 'X-A' holds a line break"),
        ('headers = { X-A = "é" }', "the header 'X-A' holds a line break, or another character"),
        ('headers = { X-A = "a $ b" }', "a '$' that begins no variable"),
        ('headers = { X-A = "$1" }', "a '$' that begins no variable"),
        ('headers = { X-A = "${A" }', "a '$' that begins no variable"),
        ("headers = { X-A = 1 }", "'headers' must be a table of strings"),
        ('headers = ["x"]', "'headers' must be a table of strings"),
        ('query = { a = "$-" }', "a '$' that begins no variable"),
        ('query = { "" = "x" }', "a name in the query is empty"),
        ('query = "a=b"', "'query' must be a table of strings"),
        ('insecure_http = "yes"', "'insecure_http' must be true or false"),
    ],
)
def test_what_cannot_be_sent_is_refused(kimi: Kimi, home: Path, lines: str, words: str) -> None:
    """F21: at its place in the file, whichever profile is in force."""
    configure(home, f'[profiles.x]\nbase_url = "https://x.example"\n{lines}\n')
    result = kimi("models")
    assert_failed(result, 78, "config.toml:3: ", words)


def test_a_variable_that_cannot_be_sent(desk: Kimi, server: ReplayServer) -> None:
    """A line break in it would begin another header; its value is not shown."""
    result = desk("ask", "hi", env={"DESK_KEY": f"{KEY}\r\nX-Other: 1"})
    assert_failed(result, 78, "DESK_KEY cannot be sent as 'X-Key'", "holds a line break")
    assert KEY not in result.error
    for value in ("a\udcffb-0123456789", "a\nb-0123456789"):
        result = desk("ask", "hi", env={"DESK_SIG": value})
        assert_failed(result, 78, "DESK_SIG cannot be sent as 'sig'")
    assert server.requests == []
    server.script(stream("x"))
    assert desk("ask", "hi", env={"DESK_KEY": f"{KEY}\n"}).status == 0
    assert server.requests[0].headers["X-Key"] == KEY


def test_a_name_of_its_own_replaces_ours(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """Some firewalls want a User-Agent of their own."""
    text = f'base_url = "{server.url}"\nauth = "none"\nheaders = {{ user-agent = "me/1" }}\n'
    configure(home, f"[profiles.x]\n{text}")
    server.script(stream("x"), completion("y"))
    assert kimi("ask", "--profile", "x", "hi").status == 0
    assert kimi("batch", "--profile", "x", stdin=b'"hi"\n').status == 0
    assert [r.headers.get_all("User-Agent") for r in server.requests] == [["me/1"]] * 2


def test_an_endpoint_that_was_pasted_whole(kimi: Kimi, server: ReplayServer) -> None:
    """F21: its end is cut off, and its query goes along with every request."""
    server.answer(
        lambda request: (
            document({"data": [{"id": "m"}]}) if request.method == "GET" else completion("x")
        )
    )
    url = f"{server.url}/v1/chat/completions?api-version=2024-10-21&key={KEY}"
    run = kimi.but(env={"KIMI_TOKEN": "token-0123456789"})
    for command in (("ask", "-v", "hi"), ("batch",), ("models",)):
        result = run(*command[:1], "--base-url", url, *command[1:], stdin=b'"hi"\n')
        assert result.status == 0, result.error
        assert KEY not in result.error
    query = f"?api-version=2024-10-21&key={KEY}"
    assert [request.path for request in server.requests] == [
        f"/kimi/v1/chat/completions{query}",
        f"/kimi/v1/chat/completions{query}",
        f"/kimi/v1/models{query}",
    ]
    bad = run("ask", "--base-url", f"https://x .example/chat/completions?key={KEY}", "hi")
    assert bad.status == 78
    assert KEY not in bad.error


def test_the_query_of_a_url_wins(kimi: Kimi, home: Path, server: ReplayServer) -> None:
    """What was pasted is closer than the table of the profile."""
    text = 'auth = "none"\nquery = { api-version = "1", more = "2" }\n'
    configure(home, f'[profiles.x]\nbase_url = "{server.url}"\n{text}')
    server.script(stream("x"))
    url = f"{server.url}/chat/completions/?api-version=3"
    assert kimi("ask", "--profile", "x", "--base-url", url, "hi").status == 0
    assert server.requests[0].path == "/kimi/chat/completions?more=2&api-version=3"


def make(value: str, environment: dict[str, str]) -> Additions:
    """Return what a profile with this header and query adds."""
    table = {"base_url": "https://x.example", "headers": {"X-A": value}, "query": {"a": value}}
    config = ConfigFile(Path("config.toml"), {}, {"x": table})
    return find_additions(resolve({"profile": "x"}, {}, config), environment)


@given(st.lists(st.sampled_from(["$A", "${B}", "$$", "x", "-", "$C_1"]), max_size=6))
def test_filling_in_is_plain_replacement(parts: list[str]) -> None:
    """No value is read for variables again, and each stands where its name stood."""
    values = {"$A": "$B", "${B}": "bb", "$$": "$", "$C_1": "${A}"}
    environment = {"A": "$B", "B": "bb", "C_1": "${A}"}
    template = "".join(part + ("-" if part in ("$A", "$C_1") else "") for part in parts)
    wanted = "".join(
        values.get(part, part) + ("-" if part in ("$A", "$C_1") else "") for part in parts
    )
    additions = make(template, environment)
    assert (dict(additions.headers), dict(additions.query)) == ({"X-A": wanted}, {"a": wanted})
