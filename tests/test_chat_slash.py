"""kimi chat: its commands."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from conftest import CANARY
from conversations import (
    CONVERSATIONS,
    assistant,
    get_question,
    keep,
    list_contents,
    list_record,
    read_record,
    user,
)
from program import Kimi
from screen import Screen, Start, say
from server import ReplayServer, document, refusal, stream


@pytest.mark.parametrize("line", ["", "/edit ", "/model ", "/system ", "//"])
def test_what_is_no_text_is_told(chat: Start, server: ReplayServer, line: str) -> None:
    """A terminal in another encoding: nothing is asked, and nothing changed."""
    with chat(env={"EDITOR": "true"}) as screen:
        screen.see_prompt()
        screen.press(line.encode() + b"caf\xe9\r")
        screen.see("what was typed is not UTF-8 at letter")
        screen.see_prompt()
        assert not server.requests
        screen.enter("words")
        screen.see("re: words")
    assert server.requests[0].json["model"] == "kimi-k2.5"
    assert list_contents(server.requests[0]) == ["words"]


def test_help_lists_every_command(chat: Start) -> None:
    """By name, and with what it takes."""
    from kimi_cli.chat.slash import COMMANDS

    with chat() as screen:
        screen.see_prompt()
        screen.enter("/help")
        screen.see("/exit")
        for name, command in COMMANDS.items():
            assert any(
                line.startswith(f"/{name} {command.argument}".rstrip()) and command.help in line
                for line in screen.lines
            )


ANSWERS = [
    ("/modle x", "there is no command /modle; did you mean /model?"),
    ("/qqq", "there is no command /qqq; /help lists what there is"),
    ("/undo", "there is nothing to take back"),
    ("/retry", "there is nothing to ask again"),
    ("/copy", "there is no answer to copy"),
    ("/usage", "no tokens were counted yet"),
    ("/option x=1e999", "the value of 'x' cannot be sent: 1e999 is out of range"),
    ("/save x", "nothing has been said yet"),
    ("/load nothing", "there is no conversation 'nothing'"),
    ("/load ../x", "cannot name a conversation"),
    ("/file nothing", "cannot read nothing: No such file or directory"),
    ("/file -", "standard input is the keyboard here"),
    ("/file", "/file needs PATH"),
    ("/new x", "/new takes nothing after it"),
    ("/reasoning maybe", "/reasoning takes show or hide"),
    ("/option nonsense", "'nonsense' is not KEY=JSON"),
    ("/model", "model kimi-k2.5"),
    ("/system", "there is no system prompt"),
    ("/option", "no options are set"),
]


def test_commands_are_answered(chat: Start, server: ReplayServer) -> None:
    """Each in its words, and the chat goes on."""
    with chat() as screen:
        for typed, told in ANSWERS:
            screen.see_prompt()
            screen.enter(typed)
            screen.see(told)
        screen.see_prompt()
        assert not server.requests
        screen.enter("hello")
        screen.see("re: hello")


def test_model_system_and_options_change_the_next_request(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """They are in force from then on, and are kept with the conversation."""
    with chat("--temperature", "1") as screen:
        for line in (
            "/model kimi-k3",
            "/system Be brief.",
            "/option seed=7",
            "/option temperature=",
        ):
            screen.see_prompt()
            screen.enter(line)
        screen.see_prompt()
        assert "model kimi-k3" in screen.text
        assert "system prompt: Be brief." in screen.text
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
    with chat("-c") as screen:
        screen.see_prompt()
        assert "model kimi-k3, 1 turn so far" in screen.text
        screen.enter("two")
        screen.see("re: two")
    first, second = (request.json for request in server.requests)
    assert first == {
        "model": "kimi-k3",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "one"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "seed": 7,
    }
    assert (second["model"], second["seed"], second["messages"][0]["content"]) == (
        "kimi-k3",
        7,
        "Be brief.",
    )


def test_a_system_prompt_is_dropped(chat: Start, server: ReplayServer, home: Path) -> None:
    """From the next question on, and when the conversation goes on."""
    with chat("--system", "Be brief.") as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter('/system ""')
        screen.see("there is no system prompt")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
        screen.see_prompt()
    with chat("-c") as screen:
        screen.see_prompt()
        screen.enter("three")
        screen.see("re: three")
    roles = [
        [message["role"] for message in request.json["messages"]] for request in server.requests
    ]
    assert roles[0] == ["system", "user"]
    assert roles[1] == ["user", "assistant", "user"]
    assert roles[2] == ["user", "assistant", "user", "assistant", "user"]


def test_a_file_goes_with_the_next_question(chat: Start, server: ReplayServer, home: Path) -> None:
    """With that one only."""
    (home / "notes.txt").write_text("buy milk\n")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/file notes.txt")
        screen.see("notes.txt goes with the next question")
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
    assert list_contents(server.requests[1])[::2] == ["one\n\nnotes.txt:\nbuy milk", "two"]


def test_retry_replaces_the_answer(chat: Start, server: ReplayServer, home: Path) -> None:
    """After an answer, and after a failure; the record has each question once."""
    server.script(stream("first"), stream("second"), refusal(400, "bad_request", "no such thing"))
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("first")
        screen.see_prompt()
        screen.enter("/retry")
        screen.see("second")
        screen.see_prompt()
        screen.enter("two")
        screen.see("/retry asks again")
        screen.see_prompt()
        screen.enter("/retry")
        screen.see("re: two")
        screen.see_prompt()
    assert [get_question(request) for request in server.requests] == ["one", "one", "two", "two"]
    assert len(server.requests[1].json["messages"]) == 1
    assert [line["content"] for line in read_record(home)] == ["one", "second", "two", "re: two"]


def test_undo_takes_turn_after_turn_back(chat: Start, server: ReplayServer, home: Path) -> None:
    """Out of the record, and out of what is sent."""
    with chat() as screen:
        for question in ("one", "two", "three"):
            screen.see_prompt()
            screen.enter(question)
            screen.see(f"re: {question}")
        for question in ("three", "two"):
            screen.see_prompt()
            screen.enter("/undo")
            screen.see(f"taken back: {question}")
        screen.see_prompt()
        screen.enter("four")
        screen.see("re: four")
        screen.see_prompt()
    assert list_contents(server.requests[-1]) == ["one", "re: one", "four"]
    assert [line["content"] for line in read_record(home)] == ["one", "re: one", "four", "re: four"]


def test_edit_opens_the_editor(chat: Start, server: ReplayServer, home: Path) -> None:
    """What it leaves stands at the prompt; it sees no token."""
    editor = home / "my editor"
    editor.write_text(f'#!/bin/sh\nenv > {home}/seen\nprintf "and more\\nlines\\n" >> "$2"\n')
    editor.chmod(0o755)
    secrets = {
        "VISUAL": f"'{editor}' -x",
        "MOONSHOT_API_KEY": CANARY,
        "ACEDATACLOUD_API_KEY": CANARY,
    }
    with chat(env=secrets) as screen:
        screen.see_prompt()
        screen.enter("/edit begun")
        screen.see_line("lines")
        assert not server.requests
        screen.press("\r")
        screen.see("re: begun")
    assert list_contents(server.requests[0]) == ["begunand more\nlines"]
    seen = (home / "seen").read_text()
    assert "VISUAL=" in seen
    assert "KIMI_TOKEN" not in seen


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"EDITOR": "false"}, "the editor 'false' ended with status 1"),
        ({"EDITOR": "no-such-editor"}, "cannot run the editor 'no-such-editor': "),
        ({"EDITOR": "'unclosed"}, "cannot run the editor ''unclosed': "),
        ({"EDITOR": "rm"}, "cannot use a file for the editor: No such file"),
        ({"EDITOR": "sh -c 'printf \"\\\\377\" > $0'"}, "what was edited is not UTF-8"),
        ({"EDITOR": "sh -c 'kill -9 $$'"}, "the editor 'sh -c 'kill -9 $$'' was ended by SIGKILL"),
    ],
)
def test_an_editor_that_fails_is_told(chat: Start, variables: dict[str, str], told: str) -> None:
    """In one line, and the chat goes on; the same where there is no room for the file."""
    with chat(env=variables) as screen:
        screen.see_prompt()
        screen.enter("/edit")
        screen.see(told)
        screen.see_prompt()


def test_conversations_are_saved_loaded_and_begun(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """/save gives a name and goes on there, /new begins anew, /load goes back."""
    with chat() as screen:
        screen.see_prompt()
        screen.enter("one")
        screen.see("re: one")
        screen.see_prompt()
        screen.enter("/save mine")
        screen.see("kimi chat -S mine")
        screen.see_prompt()
        screen.enter("two")
        screen.see("re: two")
        screen.see_prompt()
        screen.enter("/new")
        screen.see("a new conversation")
        screen.see_prompt()
        screen.enter("three")
        screen.see("re: three")
        screen.see_prompt()
        screen.enter("/save mine")
        screen.see("there is a conversation 'mine' already")
        screen.see_prompt()
        screen.enter("/load mine")
        screen.see("2 turns; the last question was: two")
        screen.see_prompt()
        screen.enter("four")
        screen.see("re: four")
        screen.see_prompt()
    assert list_contents(server.requests[2]) == ["three"]
    assert list_contents(server.requests[3])[::2] == ["one", "two", "four"]
    assert len(read_record(home, "mine")) == 6
    assert [line["content"] for line in read_record(home)] == ["three", "re: three"]


def test_a_conversation_of_another_host_is_not_loaded(chat: Start, home: Path) -> None:
    """What was said there stays there."""
    (home / CONVERSATIONS).mkdir(parents=True)
    line = {"role": "user", "content": "x", "model": "m", "profile": "p", "base_url": "https://x"}
    (home / CONVERSATIONS / "other.jsonl").write_text(json.dumps(line) + "\n")
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/load other")
        screen.see("conversation other was held with https://x")
        screen.see("kimi chat -S other")


def test_usage_and_copy(chat: Start, server: ReplayServer) -> None:
    """Tokens of the last turn and of all; the clipboard gets the answer through the terminal."""
    usage = {"prompt_tokens": 262, "completion_tokens": 2, "total_tokens": 264}
    listing = document({"data": []})
    server.script(stream("Grüße\n", usage=usage), stream("x", usage=usage), listing)
    with chat() as screen:
        for question in ("one", "two"):
            screen.see_prompt()
            screen.enter(question)
            screen.see_prompt()
        screen.enter("/undo")
        screen.see_prompt()
        screen.enter("/usage")
        screen.see("last turn 262 + 2 tokens; 0.1% of the 262,144 that kimi-k2.5 reads")
        screen.see("all turns 262 + 2 tokens")
        screen.see_prompt()
        screen.enter("/copy")
        screen.see("handed to the terminal's clipboard")
    data = base64.b64encode("Grüße\n".encode())
    assert b"\x1b]52;c;" + data + b"\x07" in screen.received


def test_exit_leaves(chat: Start) -> None:
    """With status 0, whatever happened before."""
    with chat() as screen:
        screen.see_prompt()
        screen.enter("/nonsense")
        screen.see_prompt()
        screen.enter("/exit")
        assert screen.end() == 0


WORDS = [
    ("/model\x1b\rfoo", "model foo"),
    ("/system\x1b\rBe brief.", "system prompt: Be brief."),
    ("/HELP", "there is no command /HELP; did you mean /help?"),
    ("/quitt", "there is no command /quitt; did you mean /exit?"),
    ("/clear", "there is no command /clear; did you mean /new?"),
    ("/option =1", "kimi: invalid value: '=1' is not KEY=JSON"),
    ("/option stop=漢", 'stop="漢"'),
]


def test_odd_words_are_understood(chat: Start, server: ReplayServer) -> None:
    """A line feed behind a command is a space; what other programs call it is known."""
    with chat() as screen:
        for typed, told in WORDS:
            say(screen, typed, told)
        say(screen, "hello", "re: hello")
    request = server.requests[0].json
    assert (request["model"], request["stop"]) == ("foo", "漢")


@pytest.mark.parametrize(
    ("options", "data", "sent"),
    [
        (("--encoding", "latin-1"), b"caf\xe9\n", "café"),
        (("--replace-invalid",), b"caf\xe9\n", "caf\ufffd"),
        (("--max-input", "5"), b"12345", "12345"),
    ],
)
def test_files_are_read_as_the_command_says(
    chat: Start, server: ReplayServer, home: Path, options: tuple[str, ...], data: bytes, sent: str
) -> None:
    """Those of /file, too, be they below the home folder."""
    (home / "x.txt").write_bytes(data)
    with chat(*options) as screen:
        say(screen, "/file ~/x.txt", "~/x.txt goes with the next question")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == [f"one\n\n{home}/x.txt:\n{sent}"]


def test_a_file_that_is_too_large_is_told(chat: Start, server: ReplayServer, home: Path) -> None:
    """By the limit of the command; nothing of it goes with the next question."""
    (home / "x.txt").write_bytes(b"123456")
    with chat("--max-input", "5") as screen:
        say(screen, "/file x.txt", "x.txt is larger than 5 bytes; see --max-input")
        say(screen, "one", "re: one")
    assert list_contents(server.requests[0]) == ["one"]


def test_half_a_character_is_copied(chat: Start, folder: Path) -> None:
    """Where another program escaped it inside a part of the answer."""
    parts = assistant([{"type": "text", "text": "a\ud83d"}])
    keep(folder, "mine", user("q"), json.dumps(parts).encode() + b"\n")
    with chat("-S", "mine") as screen:
        say(screen, "/copy", "handed to the terminal's clipboard")
    data = base64.b64encode("a\ufffd".encode())
    assert b"\x1b]52;c;" + data + b"\x07" in screen.received


def test_a_loaded_conversation_brings_its_manner(
    chat: Start, server: ReplayServer, folder: Path
) -> None:
    """Model and options are in force again, in place of those of the chat."""
    manner = {"profile": "acedata", "base_url": server.url, "model": "kimi-k3"}
    keep(folder, "mine", user("q", **manner, options={"seed": 7}), assistant("a"))
    with chat("--temperature", "1") as screen:
        say(screen, "/load mine", "1 turn; the last question was: q")
        say(screen, "/model", "model kimi-k3")
        say(screen, "one", "re: one")
    sent = {key: value for key, value in server.requests[0].json.items() if key != "messages"}
    assert sent == {
        "model": "kimi-k3",
        "seed": 7,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("asked", [True, False])
def test_a_new_conversation_keeps_the_system_prompt(
    chat: Start, server: ReplayServer, home: Path, asked: bool
) -> None:
    """Whether or not a question was asked with it before."""
    with chat("--system", "Be brief.") as screen:
        if asked:
            say(screen, "one", "re: one")
        say(screen, "/new", "a new conversation")
        say(screen, "two", "re: two")
        screen.see_prompt()
    assert list_contents(server.requests[-1]) == ["Be brief.", "two"]
    assert list_record(home, "latest") == ["Be brief.", "two", "re: two"]


def test_a_model_that_is_named_as_a_field_is_the_model(
    chat: Start, server: ReplayServer, home: Path
) -> None:
    """For /model, the record, and whether reasoning is sent back."""
    server.script(stream("yes", reasoning=["Hm."]))
    with chat("-O", 'model="x"') as screen:
        screen.see("model x; /help lists commands")
        say(screen, "/model", "\nmodel x\n")
        say(screen, '/option model="kimi-k3"', "\nmodel kimi-k3\n")
        say(screen, "/option", "no options are set")
        say(screen, "one", "yes")
        say(screen, "two", "re: two")
    first, second = (request.json for request in server.requests)
    assert (first["model"], second["model"]) == ("kimi-k3", "kimi-k3")
    assert second["messages"][1] == assistant("yes", reasoning_content="Hm.")
    question = read_record(home)[0]
    assert (question["model"], question.get("options")) == ("kimi-k3", None)


def test_reasoning_is_shown_on_request(chat: Start, server: ReplayServer) -> None:
    """From the next answer on."""
    server.script(stream("no", reasoning=["Secret."]), stream("yes", reasoning=["Hm, well."]))
    with chat("--reasoning", "hide") as screen:
        say(screen, "one", "no")
        screen.see_prompt()
        screen.enter("/reasoning show")
        say(screen, "two", "Hm, well.")
        screen.see_prompt()
        assert "Secret." not in screen.text


def test_a_saved_conversation_is_a_named_one(
    chat: Start, server: ReplayServer, folder: Path
) -> None:
    """When its file is removed, nothing more is asked until it has another."""
    with chat() as screen:
        say(screen, "one", "re: one")
        say(screen, "/save mine", "saved")
        (folder / "mine.jsonl").unlink()
        say(screen, "two", "/retry asks again")
        assert len(server.requests) == 1
        say(screen, "/save other", "saved")
        say(screen, "/retry", "re: two")


def test_a_copy_goes_to_the_screen(kimi: Kimi, server: ReplayServer, home: Path) -> None:
    """Where stderr is a file, by way of stdout."""
    server.script(stream("an answer"))
    errors = home / "errors"
    command = f"exec {kimi.program} chat --base-url {server.url} question 2> {errors}"
    environment = {**kimi.environment, "KIMI_TOKEN": CANARY}
    with Screen(["/bin/sh", "-c", command], environment, home) as screen:
        screen.see("an answer")
        screen.see_prompt()
        screen.enter("/copy")
        screen.see_prompt()
        screen.press("\x04")
        assert screen.end() == 0
        data = base64.b64encode(b"an answer")
        assert b"\x1b]52;c;" + data + b"\x07" in screen.received
    assert b"]52" not in errors.read_bytes()
