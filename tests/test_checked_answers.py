"""Answers that must have a form: JSON, a schema, a label, a block of code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from program import Kimi
from server import USAGE, ReplayServer, completion, refusal, stream

from kimi_cli.answer.forms import BlockForm, Misfit, make_choice, make_schema
from kimi_cli.answer.jsontext import compact_json, read_json
from kimi_cli.answer.notation import read_notation

PERSON = "name, age int"
GOOD, BAD = '{"name":"Ada","age":36}', '{"name":"Ada","age":"old"}'


def list_messages(server: ReplayServer, number: int = -1) -> list[dict[str, Any]]:
    """The messages of a request."""
    messages: list[dict[str, Any]] = server.requests[number].json["messages"]
    return messages


# A schema


@pytest.mark.parametrize(
    "answer", [GOOD, f" {GOOD}\n", f"```json\n{GOOD}\n```", f"```\n{GOOD}\n```"]
)
def test_what_fits_is_one_compact_line(ask: Kimi, server: ReplayServer, answer: str) -> None:
    """One fenced block around it is allowed; the host is asked in its own field."""
    server.script(stream(answer))
    result = ask("--schema", PERSON, "Who?")
    assert (result.stdout.decode(), result.error, result.status) == (f"{GOOD}\n", "", 0)
    wanted = server.requests[-1].json["response_format"]
    assert wanted["type"] == "json_schema"
    assert wanted["json_schema"]["schema"] == read_notation(PERSON)
    assert list_messages(server) == [{"role": "user", "content": "Who?"}]


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_what_does_not_fit_is_asked_for_again(
    ask: Kimi, server: ReplayServer, options: tuple[str, ...]
) -> None:
    """Once, with the place and the reason; the usage is the sum, the reasoning is seen."""
    make = completion if options else stream
    server.script(make(BAD, reasoning="Hm."), make(GOOD, reasoning="Ah."))
    result = ask("--schema", PERSON, "--json", *options, "Who?")
    shown = json.loads(result.stdout)
    assert (result.status, shown["content"], shown["valid"]) == (0, GOOD, True)
    assert shown["usage"]["total_tokens"] == 2 * USAGE["total_tokens"]
    asked, answered, again = list_messages(server)
    assert (asked["content"], answered) == ("Who?", {"role": "assistant", "content": BAD})
    assert '/age: "old" is not of type "integer"' in again["content"]


def test_what_never_fits_is_not_written(ask: Kimi, server: ReplayServer) -> None:
    """Status 5, nothing on stdout, the reason on stderr."""
    server.script(stream(BAD, reasoning="Hm."), stream("prose", reasoning="So."))
    result = ask("--schema", PERSON, "Who?")
    assert (result.stdout, result.status) == (b"", 5)
    assert result.error.startswith("Hm.\nSo.\nkimi: the answer does not fit: it is not JSON")
    assert len(server.requests) == 2


@pytest.mark.parametrize("times", [0, 3])
def test_it_is_asked_as_often_as_is_said(ask: Kimi, server: ReplayServer, times: int) -> None:
    """--reask 0 is never."""
    server.script(stream(BAD), repeat=True)
    assert ask("--schema", PERSON, "--reask", str(times), "Who?").status == 5
    assert len(server.requests) == 1 + times


def test_what_does_not_fit_may_be_printed(ask: Kimi, server: ReplayServer) -> None:
    """With --allow-invalid, and a warning; --json says so itself, with status 5."""
    server.script(stream("prose"), repeat=True)
    result = ask("--schema", PERSON, "--allow-invalid", "--reask", "0", "Who?")
    assert (result.stdout, result.status) == (b"prose\n", 0)
    assert result.error.startswith("kimi: the answer does not fit: it is not JSON")
    result = ask("--schema", PERSON, "--json", "--reask", "0", "Who?")
    shown = json.loads(result.stdout)
    assert (shown["valid"], shown["content"], result.status) == (False, "prose", 5)
    assert shown["problem"].startswith("it is not JSON")


def test_a_cut_answer_is_incomplete_not_invalid(ask: Kimi, server: ReplayServer) -> None:
    """Nothing of it is printed, and it is not bought again."""
    server.script(stream('{"name":"A', finish="length"))
    result = ask("--schema", PERSON, "Who?")
    assert (result.stdout, result.status) == (b"", 3)
    assert len(server.requests) == 1


def test_the_host_says_how_it_is_asked(ask: Kimi, server: ReplayServer) -> None:
    """A refusal of the field costs one request; what is left is words."""
    server.script(
        refusal(400, "invalid_request_error", "response_format json_schema is not supported"),
        refusal(400, "invalid_request_error", "response_format is not supported"),
        stream(BAD),
        stream(GOOD),
    )
    result = ask("--schema", PERSON, "-s", "Be brief.", "-v", "Who?")
    assert (result.stdout.decode(), result.status) == (f"{GOOD}\n", 0)
    first, second, third, _ = (request.json for request in server.requests)
    formats = [body.get("response_format", {}).get("type") for body in (first, second, third)]
    assert formats == ["json_schema", "json_object", None]
    said = third["messages"][0]["content"]
    assert said.startswith("Be brief.\n\nAnswer with nothing but JSON")
    assert '"required":["name","age"]' in said
    assert "does not take json_schema" in result.error


def test_a_refusal_of_all_ways_is_told_first(ask: Kimi, server: ReplayServer) -> None:
    """What the host said of the question itself is not hidden by what it says of the last way."""
    server.script(*[refusal(400, "invalid_request_error", f"words {n}") for n in (1, 2, 3)])
    result = ask("--schema", PERSON, "Who?")
    assert (result.stdout, result.status) == (b"", 65)
    assert "words 1" in result.error


@pytest.mark.parametrize("way", ["json_schema", "json_object", "prompt"])
def test_a_profile_may_know_the_way(kimi: Kimi, server: ReplayServer, home: Path, way: str) -> None:
    """Then nothing else is tried, and a refusal is the user's to see."""
    path = home / ".config/kimi/config.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'[profiles.desk]\nbase_url = "{server.url}"\nauth = "none"\nstructured = "{way}"\n'
    )
    server.script(stream(GOOD), refusal(400, "invalid_request_error", "no"))
    desk = ("ask", "--profile", "desk", "--schema", PERSON, "Who?")
    assert kimi(*desk).status == 0
    sent = server.requests[-1].json.get("response_format", {}).get("type", "prompt")
    assert sent == way
    assert kimi(*desk).status == 65
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        ('{"type":"nonsense"}', "the schema is not valid"),
        ('{"$ref":"http://127.0.0.1:9/x"}', "the schema is not valid"),
        ("{", "--schema is not JSON"),
        ("missing.json", "cannot read missing.json"),
        ("name, name", "'name' comes twice"),
        ("age number", "'number' is no type; use str, int, float, bool"),
    ],
)
def test_a_bad_schema_costs_no_request(
    ask: Kimi, server: ReplayServer, schema: str, told: str
) -> None:
    """Status 65, or 66 for a file that is not there."""
    result = ask("--schema", schema, "Who?")
    assert (result.stdout, result.status) == (b"", 66 if schema == "missing.json" else 65)
    assert told in result.error
    assert not server.requests


def test_a_schema_may_be_a_file(ask: Kimi, server: ReplayServer, home: Path) -> None:
    """Whatever its name; --dry-run shows what it becomes."""
    (home / "person").write_text(json.dumps(read_notation(PERSON)))
    result = ask("--schema", "person", "--dry-run", "Who?")
    wanted = json.loads(result.stdout)["response_format"]["json_schema"]["schema"]
    assert wanted == read_notation(PERSON)
    assert not server.requests


NUMBERS = st.one_of(
    st.integers().map(str),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,20})\.[0-9]{1,20}([eE][+-]?[0-9]{1,2})?\Z"),
)
VALUES = st.recursive(
    st.one_of(NUMBERS, st.text(max_size=5).map(json.dumps), st.sampled_from(["true", "null"])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[ {' , '.join(items)} ]"),
        st.dictionaries(st.text(max_size=3), inner, max_size=3).map(
            lambda items: "{" + ", ".join(f"{json.dumps(k)} : {v}" for k, v in items.items()) + "}"
        ),
    ),
    max_leaves=8,
)


@given(VALUES)
def test_json_is_printed_digit_for_digit(text: str) -> None:
    """The same value on one line, and each number as the model wrote it."""
    value, written = read_json(f"\n{text} ")
    line = compact_json(written)
    assert "\n" not in line
    assert json.loads(line) == value == json.loads(text)
    assert json.loads(line, parse_float=str, parse_int=str) == json.loads(
        text, parse_float=str, parse_int=str
    )


@given(VALUES)
def test_what_the_validator_accepts_is_printed_as_the_same_value(text: str) -> None:
    """With a schema that describes everything."""
    fit = make_schema({}).read(text)
    assert json.loads(fit.text) == fit.value == json.loads(text)


@pytest.mark.parametrize("text", ['{"when":"2026-02-30"}', '{"when":"today"}'])
def test_formats_are_checked(text: str) -> None:
    """Hosts that promise a schema leave them out."""
    form = make_schema({"properties": {"when": {"type": "string", "format": "date"}}})
    with pytest.raises(Misfit, match=r"at /when: .* is not a"):
        form.read(text)


# JSON


def test_json_mode_is_held_to_its_word(ask: Kimi, server: ReplayServer) -> None:
    """A host that ignores the field does not pass prose for JSON."""
    server.script(stream("prose"), stream("[1, 2.50]"), stream("prose"), stream("prose"))
    assert ask("--json-mode", "List").stdout == b"[1,2.50]\n"
    assert ask("--json-mode", "List").status == 5


# A label


@pytest.mark.parametrize("said", ["spam", "Spam.", "**SPAM**", ' "spam" ', "`spam`.\n", "_Spam_"])
def test_a_label_is_printed_as_it_was_given(ask: Kimi, server: ReplayServer, said: str) -> None:
    """Case, quotes, emphasis and a last full stop are forgiven."""
    server.script(stream(said))
    result = ask("--choice", "Spam,ham", "--choice", "other thing", "Which?")
    assert (result.stdout, result.status) == (b"Spam\n", 0)
    assert "Spam, ham, other thing" in list_messages(server)[0]["content"]


@pytest.mark.parametrize("said", ["It is spam.", "spam ham", "", "spa", "spam!"])
def test_nothing_else_is_a_label(said: str) -> None:
    """Not a sentence with one, nor two."""
    with pytest.raises(Misfit):
        make_choice(["spam", "ham"]).read(said)


def test_labels_that_look_alike_are_refused(ask: Kimi, server: ReplayServer) -> None:
    """Before any request."""
    assert ask("--choice", "yes,Yes.", "Which?").status == 65
    assert ask("--choice", "yes,,no", "Which?").status == 65
    assert not server.requests


@pytest.mark.parametrize(("said", "status"), [("Yes.", 0), ("no", 1), ("perhaps", 5)])
def test_a_test_is_its_status(ask: Kimi, server: ReplayServer, said: str, status: int) -> None:
    """As grep has it; what is no answer is 2 or above."""
    server.script(stream(said), repeat=True)
    result = ask("--test", "Is it?")
    assert (result.stdout, result.status) == (b"", status)


@pytest.mark.parametrize("reply", [refusal(401, "invalid_token", "no"), stream("", finish="stop")])
def test_a_test_that_fails_is_no_no(ask: Kimi, server: ReplayServer, reply: Any) -> None:
    """Whatever fails is 2 or above, also what other options would allow."""
    server.script(reply)
    assert ask("--test", "--allow-incomplete", "--allow-invalid", "Is it?").status >= 2


# A block


def test_a_block_is_extracted_byte_for_byte(ask: Kimi, server: ReplayServer) -> None:
    """Without its fences; the last one on request."""
    text = "First:\n```sh\nls  -l\n\n\techo 'a'\n```\nthen\n~~~~\nb\n~~~\n~~~~\nDone."
    server.script(stream(text), repeat=True)
    assert ask("-x", "How?").stdout == b"ls  -l\n\n\techo 'a'\n"
    assert ask("--extract-last", "How?").stdout == b"b\n~~~\n"


@pytest.mark.parametrize("text", ["rm -rf build", "```sh\nrm", "`ls`", "~~~\nx\n```"])
def test_a_shell_never_gets_prose(ask: Kimi, server: ReplayServer, text: str) -> None:
    """No block, or one that never closes: asked again once, then status 5."""
    server.script(stream(text), repeat=True)
    result = ask("--extract", "How?")
    assert (result.stdout, result.status) == (b"", 5)
    assert len(server.requests) == 2


@given(st.lists(st.text(alphabet="ab `~\t", max_size=6), max_size=5))
def test_what_stands_in_a_fence_comes_out(lines: list[str]) -> None:
    """Any lines, in a fence that is longer than theirs."""
    inside = "".join(f"{line}\n" for line in lines)
    assert BlockForm().read(f"Here:\n{'`' * 9}py\n{inside}{'`' * 9}\n").text == inside


# All of them


@pytest.mark.parametrize(
    ("one", "other"),
    [("--extract", "--json-mode"), ("--test", "--choice=a,b"), ("--schema=a", "--extract-last")],
)
def test_an_answer_has_one_form(ask: Kimi, server: ReplayServer, one: str, other: str) -> None:
    """Two are a usage error that names both."""
    result = ask(one, other, "What?")
    assert result.status == 2
    assert one.partition("=")[0] in result.error
    assert other.partition("=")[0] in result.error
    assert not server.requests


def test_a_chat_checks_each_answer(ask: Kimi, server: ReplayServer) -> None:
    """One line each; the first that does not fit ends a pipe."""
    server.script(stream('{"a": 1}'), stream('{"a": 2}'), stream("prose"), stream("prose"))
    chat = Kimi(ask.program, ask.environment, ask.folder, ("chat", "--base-url", server.url))
    result = chat("--schema", "a int", "--no-save", stdin=b"one\ntwo\nthree\nfour\n")
    assert (result.stdout, result.status) == (b'{"a":1}\n\n{"a":2}\n', 5)
    contents = [message["content"] for message in list_messages(server, 1)]
    assert contents == ["one", '{"a": 1}', "two"]


def test_a_notation_is_spelled_out(kimi: Kimi) -> None:
    """What is printed is a schema that --schema takes."""
    result = kimi("schema", "name,", "mood:", "happy or sad")
    assert result.status == 0
    assert json.loads(result.stdout) == read_notation("name, mood: happy or sad")
    assert kimi("schema", "a b").status == 65


@pytest.mark.parametrize("command", ["ask", "batch"])
def test_a_validator_that_is_missing_can_be_installed(
    kimi: Kimi, server: ReplayServer, tmp_path: Path, command: str
) -> None:
    """The command that helps is printed, and nothing is asked."""
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['jsonschema_rs'] = None\n")
    result = kimi(
        *(command, "--base-url", server.url, "--no-auth", "--schema", "name"),
        *(["hi"] if command == "ask" else []),
        stdin=b'"hi"\n',
        env={"PYTHONPATH": str(tmp_path)},
    )
    assert (result.status, result.stdout) == (78, b"")
    assert f"run: {sys.executable} -m pip install 'jsonschema-rs" in result.error
    assert result.error.count("\n") == 1
    assert server.connections == 0
