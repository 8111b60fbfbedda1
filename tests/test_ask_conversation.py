"""`kimi ask -c` and `-S`: what is kept, what is sent again, and to which host."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import CANARY
from conversations import (
    CONVERSATIONS,
    NOTE,
    assistant,
    echo,
    encode,
    find_mode,
    find_record,
    list_contents,
    list_next,
    list_record,
    read_lines,
    system,
    user,
)
from program import Kimi
from server import Barrier, Cut, ReplayServer, Reply, Stall, completion, event, refusal, stream


def configure(home: Path, text: str) -> Path:
    """Write the configuration file."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def other() -> Iterator[ReplayServer]:
    """A second server that echoes."""
    with ReplayServer() as server:
        server.answer(echo)
        yield server
    server.check()


# Going on


def test_a_session_is_made_and_goes_on(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The host is told all that was said; the record has it, and nothing was on stderr."""
    for question in ("one", "two", "three"):
        run = mine(question)
        assert (run.stdout.decode(), run.error, run.status) == (f"re: {question}\n", "", 0)
    said = ["one", "re: one", "two", "re: two", "three", "re: three"]
    sent = [list_contents(request) for request in server.requests]
    assert sent == [said[:1], said[:3], said[:5]]
    lines = read_lines(find_record(home, "mine"))
    assert [line["content"] for line in lines] == said
    assert [line["role"] for line in lines] == ["user", "assistant"] * 3
    assert [line["turn"] for line in lines[::2]] == [line["turn"] for line in lines[1::2]]
    assert len({line["turn"] for line in lines}) == 3
    facts = ("model", "profile", "base_url", "options")
    question = [lines[0].get(fact) for fact in facts]
    assert question == ["kimi-k2.5", "acedata", server.url, None]
    assert (lines[1]["finish_reason"], lines[1]["usage"]["total_tokens"]) == ("stop", 144)
    assert find_mode(find_record(home, "mine")) == 0o600


USAGE = {"stream_options": {"include_usage": True}}
"""What a stream is asked for besides, at any host but the gateway."""

OPTIONS = (
    *("--temperature", "0.3", "--top-p", "0.9", "--max-tokens", "77", "--stop", "END", "--seed"),
    *("7", "--reasoning-effort", "low", "--json-mode", "-O", "user=ann", "-O", "logprobs=true"),
)


def test_the_manner_of_a_conversation_is_in_force_again(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """Model and options are; those of the command line and environment are stronger."""
    configure(home, 'model = "kimi-k2.6"\n')
    prose = ("--reask", "0", "--allow-invalid")
    assert mine("-m", "kimi-k3", *OPTIONS, *prose, "one").status == 0
    assert mine("two").status == 0
    changes = ("--temperature", "1", "--stop", "A", "--stop", "B", "-O", "user=bob", "--no-stream")
    assert mine(*changes, "three", env={"KIMI_MODEL": "kimi-k2"}).status == 0
    assert mine("-m", "m", "-O", "top_k=5", "four").status == 0
    one, two, three, four = (
        {key: value for key, value in request.json.items() if key != "messages"}
        for request in server.requests
    )
    assert one == two == {
        "model": "kimi-k3", "stream": True, "temperature": 0.3, "top_p": 0.9, "max_tokens": 77,
        "stop": ["END"], "seed": 7, "reasoning_effort": "low",
        "response_format": {"type": "json_object"}, "user": "ann", "logprobs": True, **USAGE,
    }  # fmt: skip
    changed = {"model": "kimi-k2", "temperature": 1, "stop": ["A", "B"], "user": "bob"}
    unstreamed = {key: value for key, value in one.items() if key not in USAGE}
    assert three == unstreamed | changed | {"stream": False}
    assert four == three | {"model": "m", "top_k": 5, "stream": True, **USAGE}


def test_an_option_overrides_a_field_that_was_given_by_its_name(mine: Kimi, home: Path) -> None:
    """The last word of an earlier turn is not the last word of this one."""
    assert mine("-O", "model=kimi-k3", "one").status == 0
    shown = json.loads(mine("--dry-run", "-m", "kimi-k2.6", "two").stdout)
    assert shown["model"] == "kimi-k2.6"


def test_the_profile_of_a_conversation_is_in_force_again(
    kimi: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """With its model; another profile has its own, and none of the options."""
    server.answer(echo)
    configure(
        home,
        f'[profiles.desk]\nbase_url = "{server.url}"\nmodel = "d"\nauth = "none"\n'
        f'[profiles.shop]\nbase_url = "{other.url}"\nmodel = "s"\nauth = "none"\n',
    )
    mine = kimi.but("ask", "-S", "mine")
    assert mine("--profile", "desk", "--seed", "7", "one").status == 0
    assert mine("two").status == 0
    assert [(r.json["model"], r.json["seed"]) for r in server.requests] == [("d", 7)] * 2
    assert mine("--profile", "shop", "three").status == 0
    assert mine("four").status == 0
    assert [r.json["model"] for r in other.requests] == ["s"] * 2
    assert not any("seed" in request.json for request in other.requests)
    assert len(list_contents(other.requests[1])) == 7
    assert "Authorization" not in other.requests[1].headers


def test_reasoning_is_kept_and_sent_to_whom_wants_it(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """It is on record for every model, without the copy of it."""
    server.script(stream("Yes.", reasoning=["Hm", "."]))
    assert mine("one").status == 0
    answer = read_lines(find_record(home, "mine"))[1]
    assert (answer["reasoning_content"], answer.get("reasoning")) == ("Hm.", None)
    assert mine("-m", "kimi-k3", "two").status == 0
    sent = server.requests[1].json["messages"][1]
    assert sent == assistant("Yes.", reasoning_content="Hm.")
    shown = json.loads(mine("--dry-run", "-m", "kimi-k2.6", "three").stdout)
    assert shown["messages"][1] == assistant("Yes.")


def test_the_latest_conversation(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """On a terminal it is kept and replaced; a pipe reads it, and keeps nothing."""
    for arguments in (("zero",), ("one",), ("-c", "two")):
        assert asking.pty(*arguments, stdin=None).wait().status == 0
    kept = ["one", "re: one", "two", "re: two"]
    assert list_record(home, "latest") == kept
    assert asking("-c", "three").status == 0
    assert asking("four").status == 0
    assert [list_contents(request) for request in server.requests[2:]] == [
        ["one", "re: one", "two"],
        [*kept, "three"],
        ["four"],
    ]
    assert list_record(home, "latest") == kept
    assert [path.name for path in (home / CONVERSATIONS).iterdir()] == ["latest.jsonl"]


def test_nothing_to_go_on_with(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """-c says so, on a terminal and in a pipe, and asks nothing."""
    assert asking.pty("-c", "one", stdin=None).wait().status == 66
    refused = asking("-c", "one")
    assert (refused.status, refused.stdout) == (66, b"")
    assert "there is no conversation to go on with" in refused.error
    assert not server.connections
    assert not (home / CONVERSATIONS).exists()


@pytest.mark.parametrize("way", ["--no-save", "KIMI_SAVE", "config"])
def test_nothing_is_kept_when_not_wanted(
    asking: Kimi, server: ReplayServer, home: Path, way: str
) -> None:
    """What there is goes on, and is not added to."""
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    record.write_bytes(encode(user("q"), assistant("a")))
    if way == "config":
        configure(home, "save = false\n")
    chosen = asking.but(
        *(["--no-save"] if way == "--no-save" else []),
        env={"KIMI_SAVE": "false"} if way == "KIMI_SAVE" else {},
    )
    latest = chosen.pty("one", stdin=None)
    run = chosen("-S", "mine", "two")
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "conversation mine is not saved" in run.error
    assert latest.wait().status == 0
    sent = sorted(map(list_contents, server.requests))
    assert sent == [["one"], ["q", "a", "two"]]
    assert record.read_bytes() == encode(user("q"), assistant("a"))
    assert os.listdir(home / CONVERSATIONS) == ["mine.jsonl"]


def test_a_system_prompt_is_in_force_until_the_next(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """The same one is written once; an empty one ends it."""
    options = [["-s", "A"], [], ["-s", "A"], ["-s", "B"], ["-s", ""]]
    for number, arguments in enumerate(options, 1):
        assert mine(*arguments, str(number)).status == 0
    firsts = [request.json["messages"][0] for request in server.requests]
    assert firsts == [*[system("A")] * 3, system("B"), user("1")]
    roles = [m["role"] for request in server.requests for m in request.json["messages"][1:]]
    assert "system" not in roles
    systems = [text for text in list_record(home) if text in ("A", "B", "")]
    assert systems == ["A", "B", ""]
    assert list_next(mine)[0] == "1"


def test_answers_that_are_not_whole_are_marked(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """And are not sent back as if they were."""
    failures: list[tuple[Reply, tuple[str, ...], int, str]] = [
        (stream("half", Cut()), (), 75, "failed"),
        (stream("half\n", finish="length"), (), 3, "length"),
        (stream("half", finish="content_filter"), ("--allow-incomplete",), 0, "content_filter"),
        (completion("half", finish="length"), ("--no-stream", "--json"), 3, "length"),
        (stream("half", event('{"choices": 7}')), (), 76, "failed"),
    ]
    for reply, options, status, why in failures:
        server.script(reply)
        assert mine(*options, why).status == status
    lines = read_lines(find_record(home, "mine"))
    reasons = [why for *_, why in failures]
    assert [line["incomplete"] for line in lines[1::2]] == reasons
    assert mine("next").status == 0
    before = [text for why in reasons for text in (why, "half" + NOTE)]
    assert list_contents(server.requests[-1]) == [*before, "next"]


def test_json_that_is_cut_is_kept(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """As without it, though nothing was printed."""
    server.script(stream("half", Cut()))
    assert mine("--json", "one").status == 75
    lines = read_lines(find_record(home, "mine"))
    assert [line.get("incomplete") for line in lines] == [None, "failed"]


def test_questions_without_an_answer_are_not_sent_again(
    mine: Kimi, server: ReplayServer, home: Path
) -> None:
    """They are on record; empty answers are not."""
    failures = [
        (refusal(400, "bad_request", "no"), 65),
        (refusal(429, "too_many_requests", "slow down"), 75),
        (stream("\n "), 3),
        (stream(reasoning=["Hm."], finish="length"), 3),
        (stream(Cut()), 75),
    ]
    for reply, status in failures:
        server.script(reply)
        assert mine(str(status)).status == status
    assert mine("next").status == 0
    assert list_contents(server.requests[-1]) == ["next"]
    assert list_record(home) == ["65", "75", "3", "3", "75", "next", "re: next"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_in_the_middle_of_an_answer(
    mine: Kimi, server: ReplayServer, home: Path, number: signal.Signals
) -> None:
    """What came is kept and marked; of kill -9 the question is left; the next turn is right."""
    server.script(stream("half", Stall()))
    run = mine.start("one")
    run.expect(b"half")
    run.signal(number)
    assert run.wait().status == -number
    killed = number == signal.SIGKILL
    lines = read_lines(find_record(home, "mine"))
    assert [line.get("incomplete") for line in lines] == [None, *["interrupted"] * (not killed)]
    if not killed:
        assert list_next(mine) == ["one", "half" + NOTE]
        return
    assert mine("two").error == ""
    assert list_contents(server.requests[1]) == ["two"]
    assert list_record(home) == ["one", "two", "re: two"]


def test_a_signal_before_the_answer(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """Leaves the question alone."""
    server.script(Reply([Stall()]))
    run = mine.start("one")
    server.await_requests(1)
    run.signal(signal.SIGINT)
    assert run.wait().status == -signal.SIGINT
    assert list_record(home) == ["one"]


def test_a_reader_that_leaves(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """`| head -1` cuts the answer short, and the record says so."""
    gate = threading.Event()
    server.script(stream("one\n", "two\n", Barrier(gate), "x" * 100_000, Stall()))
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb") as source, os.fdopen(writer, "wb") as sink:
        run = mine.start("q", stdout=sink)
        sink.close()
        assert source.readline() == b"one\n"
        source.close()
        gate.set()
        assert run.wait().status == -signal.SIGPIPE
    assert read_lines(find_record(home, "mine"))[1]["incomplete"] == "failed"


def test_a_torn_record_goes_on(mine: Kimi, server: ReplayServer, home: Path) -> None:
    """The torn answer is dropped with a warning, once, and its question with it."""
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    said = [user("one"), assistant("re: one"), user("two"), assistant("re: two")]
    record.write_bytes(encode(*said)[:-5])
    assert "the last line was torn, and is dropped" in mine("three").error
    assert list_contents(server.requests[0]) == ["one", "re: one", "three"]
    assert list_record(home) == ["one", "re: one", "two", "three", "re: three"]
    assert mine("--dry-run", "four").error == ""


def test_a_damaged_record_is_refused(asking: Kimi, server: ReplayServer, home: Path) -> None:
    """Named or the latest: nothing is asked in it, and not a byte of it changes."""
    data = encode(user("q")) + b"my notes\n" + encode(assistant("a"))
    for name, run in (
        ("mine", lambda: asking("-S", "mine", "one")),
        ("latest", lambda: asking.pty("-c", "one", stdin=None).wait()),
    ):
        find_record(home, name).parent.mkdir(parents=True, exist_ok=True)
        find_record(home, name).write_bytes(data)
        refused = run()
        assert refused.status == 65
        assert f"{name}.jsonl:2 is no message" in refused.error
    assert not server.connections
    # A new conversation does not take its place either.
    run = asking.pty("two", stdin=None).wait()
    assert (run.stdout, run.status) == (b"re: two\n", 0)
    assert "the conversation is not saved" in run.error
    assert find_record(home).read_bytes() == find_record(home, "mine").read_bytes() == data


# Hosts and tokens


def test_another_host_is_told_nothing(
    kimi: Kimi, mine: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """Neither a word nor the token, whatever names it but an option."""
    assert mine("one").status == 0
    before = find_record(home, "mine").read_bytes()
    elsewhere = kimi.but("ask", "-S", "mine", env={"KIMI_TOKEN": CANARY})
    refused = [elsewhere("two", env={"KIMI_BASE_URL": other.url})]
    configure(home, f'base_url = "{other.url}"\n')
    refused.append(elsewhere("two"))
    configure(home, f'profile = "shop"\n[profiles.shop]\nbase_url = "{other.url}"\n')
    refused.append(elsewhere("two", env={"KIMI_PROFILE": "shop"}))
    configure(home, f'[profiles.acedata]\nbase_url = "{other.url}"\n')
    refused.append(elsewhere("two"))
    for run in refused:
        assert (run.status, run.stdout) == (78, b"")
        assert f"this conversation was held with {server.url}" in run.error
    assert not other.connections
    assert len(server.requests) == 1
    assert find_record(home, "mine").read_bytes() == before
    assert elsewhere("--base-url", other.url, "two").status == 0
    assert list_contents(other.requests[0]) == ["one", "re: one", "two"]


def find_tokens(server: ReplayServer) -> list[str | None]:
    """The bearer tokens that a server was sent."""
    return [request.headers["Authorization"] for request in server.requests]


def test_a_token_that_names_no_host_is_not_sent_where_only_the_conversation_points(
    kimi: Kimi, server: ReplayServer, other: ReplayServer, home: Path
) -> None:
    """KIMI_TOKEN and the like are for the host that this run names."""
    configure(
        home,
        f'base_url = "{server.url}"\n'
        f'[profiles.desk]\nbase_url = "{other.url}"\nmodel = "m"\ntoken_variable = "DESK"\n',
    )
    token = home / "token"
    token.write_text(CANARY)
    token.chmod(0o600)
    credentials = home / "credentials"
    credentials.mkdir()
    (credentials / "kimi-token").write_text(CANARY)
    mine = kimi.but("ask", "-S", "mine")
    desk = {"DESK": "desk-token-123"}
    assert mine("--profile", "desk", "one", env=desk).status == 0
    sources = {
        "KIMI_TOKEN": CANARY,
        "KIMI_TOKEN_FILE": str(token),
        "CREDENTIALS_DIRECTORY": str(credentials),
    }
    assert mine("two", env=sources | desk).status == 0
    assert find_tokens(other) == ["Bearer desk-token-123"] * 2
    for run in [mine.start("three", env={name: value}) for name, value in sources.items()]:
        refused = run.wait()
        assert refused.status == 78
        assert "name the host with --profile desk" in refused.error
    assert len(other.requests) == 2
    for arguments, env in (
        (("--profile", "desk"), {}),
        ((), {"KIMI_PROFILE": "desk"}),
        (("--token-file", str(token)), {"KIMI_TOKEN": "unused-token-1"}),
    ):
        assert mine(*arguments, "four", env={"KIMI_TOKEN": CANARY, **env}).status == 0
    assert find_tokens(other)[2:] == [f"Bearer {CANARY}"] * 3
    assert not server.connections
    assert CANARY not in find_record(home, "mine").read_text()
    assert "desk-token-123" not in find_record(home, "mine").read_text()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_base_url_names_the_host(kimi: Kimi, server: ReplayServer, home: Path, way: str) -> None:
    """KIMI_TOKEN is for it, whatever profile the conversation has."""
    server.answer(echo)
    record = find_record(home, "mine")
    record.parent.mkdir(parents=True)
    asked = user("one", model="m", profile="moonshot", base_url=server.url)
    record.write_bytes(encode(asked, assistant("re: one")))
    options = ("--base-url", server.url) if way == "option" else ()
    env = {"KIMI_BASE_URL": server.url} if way == "variable" else {}
    assert kimi("ask", "-S", "mine", *options, "two", env={"KIMI_TOKEN": CANARY, **env}).status == 0
    assert find_tokens(server) == [f"Bearer {CANARY}"]
