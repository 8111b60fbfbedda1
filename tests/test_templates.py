"""Templates: kept under names, filled in by ask and by batch, and weaker than the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import make_png, picture, words
from program import Kimi
from server import ReplayServer, completion

from kimi_cli.errors import BadInput
from kimi_cli.prompt.templatefile import Template, parse_template
from kimi_cli.prompt.templates import TemplateError, list_fields


@pytest.fixture
def templates(home: Path) -> Path:
    """The folder of templates."""
    folder = home / ".config/kimi/templates"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def run(ask: Kimi, server: ReplayServer) -> Kimi:
    """`kimi ask` towards a server that answers."""
    server.answer(lambda request: completion("yes"))
    return ask.but("--no-stream", "-q")


@pytest.fixture
def loud(run: Kimi, ask: Kimi) -> Kimi:
    """The same, with its warnings."""
    return ask.but("--no-stream")


def get_body(server: ReplayServer) -> Any:
    """The last request."""
    return server.requests[-1].json


def get_text(server: ReplayServer) -> Any:
    """The last question."""
    return get_body(server)["messages"][-1]["content"]


# Asking


def test_fields_are_words_a_pipe_and_values(
    run: Kimi, server: ReplayServer, templates: Path
) -> None:
    """Each goes where it belongs, and none of them is read as a template."""
    (templates / "tell.md").write_text("{prompt} in {language}:\n{stdin}\n")
    result = run("-t", "tell", "-D", "language={prompt}", "Say", "{it}", stdin=b"piped {x}\n")
    assert result.status == 0, result.error
    assert get_text(server) == "Say {it} in {prompt}:\npiped {x}"


def test_a_template_at_a_path(run: Kimi, server: ReplayServer, tmp_path: Path) -> None:
    """With a slash, or the end of its name."""
    (tmp_path / "here.md").write_text("Say {prompt}")
    for name in ("here.md", "./here.md", str(tmp_path / "here.md")):
        assert run("-t", name, "x", cwd=tmp_path).status == 0
        assert get_text(server) == "Say x"


HEAD = """+++
model = "m1"
system = "Speak {language}."
choice = ["yes", "no"]
[options]
temperature = 0.5
max_tokens = 9
+++

Is it? {prompt}
"""


def test_the_head_holds_where_nobody_says_otherwise(
    run: Kimi, server: ReplayServer, templates: Path
) -> None:
    """Model, system prompt, form and body fields; environment and conversation are weaker."""
    (templates / "is.md").write_text(HEAD)
    call = run.but("-t", "is", "-D", "language=Latin", "so", env={"KIMI_MODEL": "other"})
    result = call()
    assert (result.status, result.stdout) == (0, b"yes\n"), result.error
    body = get_body(server)
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m1", 0.5, 9)
    assert body["messages"][0]["content"].startswith("Speak Latin.")
    assert body["messages"][-1]["content"].startswith("Is it? so")
    assert "yes" in json.dumps(body)


def test_the_command_line_is_stronger(run: Kimi, server: ReplayServer, templates: Path) -> None:
    """Than each part of a head."""
    (templates / "is.md").write_text(HEAD)
    given = ("-m", "m2", "-s", "{mine}", "--temperature", "1", "-O", "max_completion_tokens=5")
    result = run("-t", "is", "-D", "language=x", *given, "--extract", "--allow-invalid", "so")
    assert result.status == 0, result.error
    body = get_body(server)
    assert (body["model"], body["temperature"]) == ("m2", 1)
    assert body["max_completion_tokens"] == 5
    assert "max_tokens" not in body
    assert body["messages"][0]["content"].startswith("{mine}")
    assert run("-t", "is", "-D", "language=x", "--test", "so").status == 0


def test_a_template_that_takes_no_pipe_reads_none(
    loud: Kimi, server: ReplayServer, templates: Path
) -> None:
    """It may hang; an explicit '-' is told of."""
    (templates / "plain.md").write_text("Say {prompt}")
    assert loud("-t", "plain", "x", stdin="pipe", timeout=20).status == 0
    assert get_text(server) == "Say x"
    told = loud("-t", "plain", "x", "-", stdin=b"y")
    assert (told.status, "standard input is not read" in told.error) == (0, True)


def test_files_and_images_go_along(
    run: Kimi, server: ReplayServer, templates: Path, tmp_path: Path
) -> None:
    """Behind the text, and before it."""
    (templates / "plain.md").write_text("Say {prompt}")
    (tmp_path / "a.txt").write_text("in a file")
    (tmp_path / "a.png").write_bytes(make_png())
    assert run("-t", "plain", "-f", "a.txt", "-i", "a.png", "x", cwd=tmp_path).status == 0
    assert get_text(server) == [picture(make_png()), words("Say x\n\na.txt:\nin a file")]


def test_a_value_that_nothing_takes_is_a_warning(
    loud: Kimi, server: ReplayServer, templates: Path
) -> None:
    """Words and values alike."""
    (templates / "fixed.md").write_text("Hello {name}")
    result = loud("-t", "fixed", "-D", "name=you", "-D", "age=3", "words")
    assert result.status == 0
    assert "it has no {age}" in result.error
    assert "it has no {prompt}" in result.error
    assert get_text(server) == "Hello you"


WRONG = {
    "missing": ("{a} {b} {prompt}", ("-D", "a=1"), 65, "nobody gives {b}, {prompt}"),
    "no pipe": ("{stdin}", ("-n",), 65, "a pipe"),
    "unknown key": ("+++\nbase_url = 'http://x'\n+++\nx", (), 65, "'base_url' is no key"),
    "token": ("+++\ntoken_file = 'x'\n+++\nx", (), 65, "'token_file' is no key"),
    "a file": ("+++\nschema = '/etc/hosts'\n+++\nx", (), 65, "which no template reads"),
    "frame": ("+++\n[options]\nmessages = []\n+++\nx", (), 65, "'messages'"),
    "wrong type": ("+++\n[options]\nseed = 'x'\n+++\nx", (), 65, "'seed' must be"),
    "a date": ("+++\n[options]\nx = 2026-11-01\n+++\nx", (), 65, "sent as JSON"),
    "model": ("+++\nmodel = 3\n+++\nx", (), 65, "'model' must be text"),
    "two forms": ("+++\nextract = true\nchoice = 'a'\n+++\nx", (), 65, "exclude each other"),
    "no end": ("+++\nmodel = 'x'\n", (), 65, "has no end"),
    "no TOML": ("+++\nmodel\n+++\nx", (), 65, "is not TOML"),
    "braces": ("a { b", (), 2, "single '{'"),
    "system braces": ("+++\nsystem = 'a } b'\n+++\nx", (), 2, "single '}'"),
    "empty": ("+++\n+++\n \n", (), 65, "empty prompt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_template_is_one_line(
    run: Kimi, server: ReplayServer, templates: Path, case: str
) -> None:
    """With the documented status, and nothing is asked."""
    text, options, status, said = WRONG[case]
    (templates / "bad.md").write_text(text)
    result = run("-t", "bad", *options)
    assert (result.status, result.stdout) == (status, b""), result.error
    assert said in result.error
    assert result.error.count("\n") == 1
    assert not server.requests


def test_names(run: Kimi, server: ReplayServer, templates: Path) -> None:
    """What is not there names what is; -D needs a template."""
    (templates / "one.md").write_text("x")
    for name, status, said in (("two", 66, "there are: one"), ("a b", 65, "cannot name")):
        result = run("-t", name, "x")
        assert (result.status, said in result.error) == (status, True), result.error
    assert run("-D", "a=b", "x").status == 2
    assert run("-t", "one", "-D", "ab").status == 2
    assert not server.requests


# Rows


def test_rows_fill_a_template(
    batch: Kimi, server: ReplayServer, templates: Path, tmp_path: Path
) -> None:
    """Text and system prompt take the row's fields; its model and fields are sent."""
    server.answer(lambda request: completion("yes"))
    (templates / "is.md").write_text(HEAD.replace("{prompt}", "{text}"))
    table = b"text,language\nso,Latin\nsure,Greek\n"
    result = batch("-q", "-c", "1", "--csv", "-t", "is", "--format", "flat", stdin=table)
    assert result.status == 0, result.error
    bodies = [request.json for request in server.requests]
    systems = [body["messages"][0]["content"].splitlines()[0] for body in bodies]
    assert systems == ["Speak Latin.", "Speak Greek."]
    assert {(body["model"], body["temperature"]) for body in bodies} == {("m1", 0.5)}
    stronger = batch("-q", "--csv", "-t", "is", "-s", "mine", "-m", "m2", stdin=table)
    assert stronger.status == 0
    assert get_body(server)["messages"][0]["content"].startswith("mine")
    assert get_body(server)["model"] == "m2"


@pytest.mark.parametrize("case", [case for case in WRONG if WRONG[case][3] not in ("a pipe",)])
def test_a_bad_template_is_one_error_and_not_one_a_row(
    batch: Kimi, server: ReplayServer, templates: Path, out: Path, case: str
) -> None:
    """Nothing is written; a field that no row has is told with those that there are."""
    text, _, status, _ = WRONG[case]
    (templates / "bad.md").write_text(text)
    rows = b'{"id": 1, "x": 2}\n' * 3
    result = batch("-q", "-t", "bad", "-o", str(out), stdin=rows)
    assert result.status == status, result.error
    assert result.error.count("\n") == 1
    assert not out.exists() or not out.read_bytes()
    assert not server.requests


def test_a_template_and_a_prompt_exclude_each_other(batch: Kimi, templates: Path) -> None:
    """One text makes the prompts."""
    (templates / "one.md").write_text("x")
    assert batch("-t", "one", "-p", "{x}", stdin=b"{}\n").status == 2


# Keeping


def test_saved_shown_listed_and_asked(
    run: Kimi, kimi: Kimi, server: ReplayServer, templates: Path, tmp_path: Path
) -> None:
    """With the options that it was saved with; a schema is kept, and not its file."""
    (tmp_path / "person.json").write_text('{"type": "string"}')
    options = ("-m", "m3", "-s", 'Say "{how}"', "--seed", "7", "--stop", "x", "-O", 'a={"b":[1]}')
    save = kimi.but("template", "save")
    saved = save("tell", *options, "--schema", "person.json", "Tell {prompt}", cwd=tmp_path)
    assert saved.status == 0, saved.error
    (tmp_path / "person.json").unlink()
    shown = kimi("template", "show", "tell")
    assert shown.stdout == (templates / "tell.md").read_bytes()
    listed = [json.loads(x) for x in kimi("template", "list", "--json").stdout.splitlines()]
    assert listed == [{"name": "tell", "fields": ["prompt", "how"], "model": "m3", "problem": None}]
    assert b"tell  prompt how  Tell {prompt}" in kimi("template").stdout
    server.answer(lambda request: completion('"yes"'))
    assert run("-t", "tell", "-D", "how=so", "all").status == 0
    body = get_body(server)
    assert (body["model"], body["seed"], body["stop"], body["a"]) == ("m3", 7, ["x"], {"b": [1]})
    again = save("tell", "other")
    assert (again.status, "--force" in again.error) == (73, True)
    assert save("tell", "--force", stdin=b"+++ is how it begins\n").status == 0
    assert kimi("template", "show", "tell").stdout == b"+++\n+++\n\n+++ is how it begins\n"


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("a/b", "x"), 65),
        (("..", "x"), 65),
        (("a", " "), 65),
        (("a", "x {"), 2),
        (("a", "--thinking", "on", "x"), 2),
        (("a", "-O", "a=null", "x"), 65),
        (("a", "-O", "stream=true", "x"), 65),
        (("a", "--schema", "none.json", "x"), 66),
    ],
)
def test_what_cannot_be_saved(
    kimi: Kimi, templates: Path, arguments: tuple[str, ...], status: int
) -> None:
    """Nothing is written."""
    result = kimi("template", "save", *arguments)
    assert (result.status, result.error.count("\n")) == (status, 1), result.error
    assert not list(templates.iterdir())


def test_edited(kimi: Kimi, templates: Path) -> None:
    """By the person's own editor, which sees no token; what is wrong stays, and is told."""
    edit = kimi.but("template", "edit", env={"KIMI_TOKEN": "secret"})
    made = edit("new", env={"EDITOR": 'sh -c \'echo "[$KIMI_TOKEN] {x}" > "$0"\''})
    assert made.status == 0, made.error
    assert (templates / "new.md").read_text() == "[] {x}\n"
    broken = edit("new", env={"EDITOR": 'sh -c \'echo "{" > "$0"\''})
    assert (broken.status, "is saved, and cannot be used" in broken.error) == (65, True)
    assert b"(cannot be read)" in kimi("template").stdout
    assert edit("none", env={"EDITOR": "true"}).status == 0
    assert edit("none", env={"EDITOR": "false"}).status == 73
    assert kimi("template", "show", "none").status == 66


def test_names_are_completed(kimi: Kimi, templates: Path) -> None:
    """Of templates that there are."""
    (templates / "commit.md").write_text("x")
    (templates / "not one.md").write_text("x")
    for line in ("kimi ask -t co", "kimi batch --template c", "kimi template show c"):
        words = line.split()
        env = {
            "_KIMI_COMPLETE": "bash_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
        }
        assert b"commit" in kimi(env=env).stdout


# Values

VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)


@given(
    st.text(max_size=20),
    st.none() | st.text(max_size=8),
    st.dictionaries(st.text(max_size=5).map("x_".__add__), VALUES, max_size=3),
)
def test_what_is_encoded_is_read_again(text: str, system: str | None, options: Any) -> None:
    """Whatever it holds, but for its last line end."""
    template = Template(name="t", text=text, system=system, options=options)
    try:
        again = parse_template(template.encode(), "t")
    except (BadInput, TemplateError):
        return  # fields that are none, or half a character
    assert again.text.removesuffix("\n") == text
    assert again.system == system
    assert again.options == options


def test_fields_are_listed() -> None:
    """Each once, in order, and no doubled brace."""
    assert list_fields("{b} {{x}} {a.c} {b}") == ["b", "a.c"]
