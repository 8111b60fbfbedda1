"""--thinking: one option, spelled as each host has it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import CANARY
from program import Kimi
from server import ReplayServer, completion, stream

SPELLINGS: list[tuple[str | None, str, dict[str, Any]]] = [
    (None, "on", {"thinking": {"type": "enabled"}}),
    (None, "off", {"thinking": {"type": "disabled"}}),
    ("thinking", "off", {"thinking": {"type": "disabled"}}),
    ("reasoning_effort", "on", {"reasoning_effort": "high"}),
    ("reasoning_effort", "off", {"reasoning_effort": "none"}),
    ("chat_template", "on", {"chat_template_kwargs": {"enable_thinking": True}}),
    ("chat_template", "off", {"chat_template_kwargs": {"enable_thinking": False}}),
]
FIELDS = {"thinking", "reasoning_effort", "chat_template_kwargs"}


@pytest.fixture
def desk(kimi: Kimi, server: ReplayServer, home: Path) -> Kimi:
    """The program with a profile of its own that leads to the server; see ``spell``."""
    spell(server, home, None)
    return kimi.but(env={"KIMI_PROFILE": "desk", "KIMI_TOKEN": CANARY})


def spell(server: ReplayServer, home: Path, how: str | None) -> None:
    """Write the profile, with or without a word on how its host spells the switch."""
    folder = home / ".config/kimi"
    folder.mkdir(exist_ok=True)
    line = f'thinking = "{how}"\n' if how is not None else ""
    (folder / "config.toml").write_text(
        f'[profiles.desk]\nbase_url = "{server.url}"\nmodel = "m"\n{line}'
    )


def read_switch(body: dict[str, Any]) -> dict[str, Any]:
    """Return what a request says of thinking."""
    return {key: value for key, value in body.items() if key in FIELDS}


@pytest.mark.parametrize(("how", "switch", "sent"), SPELLINGS)
def test_each_command_spells_the_switch_as_the_profile_does(
    desk: Kimi, server: ReplayServer, home: Path, how: str | None, switch: str, sent: dict[str, Any]
) -> None:
    """S10: the host receives its own field, and none of the others, from every command."""
    spell(server, home, how)
    server.script(stream("a"), stream("a"), completion("a"))
    assert desk("ask", "--thinking", switch, "hi").status == 0
    assert desk("chat", "--thinking", switch, stdin=b"hi\n").status == 0
    assert desk("batch", "--thinking", switch, stdin=b'"hi"\n').status == 0
    assert [read_switch(request.json) for request in server.requests] == [sent] * 3


def test_nothing_is_said_of_thinking_unless_asked(desk: Kimi, server: ReplayServer) -> None:
    """Several models refuse a field that they did not expect."""
    server.script(stream("a"))
    assert desk("ask", "hi").status == 0
    assert read_switch(server.requests[0].json) == {}


def test_a_field_that_was_named_has_the_last_word(desk: Kimi, server: ReplayServer) -> None:
    """--option is stronger than the option that has a name of its own."""
    server.script(stream("a"))
    assert desk("ask", "--thinking", "on", "-O", 'thinking={"type":"auto"}', "hi").status == 0
    assert read_switch(server.requests[0].json) == {"thinking": {"type": "auto"}}


def test_a_conversation_remembers_the_switch_until_it_is_turned(
    desk: Kimi, server: ReplayServer, home: Path
) -> None:
    """The switch goes on with the conversation, in whatever spelling."""
    spell(server, home, "chat_template")
    server.script(stream("a"), repeat=True)
    for options in (("--thinking", "off"), (), ("--thinking", "on")):
        assert desk("ask", "-S", "trip", *options, "hi").status == 0
    sent = [read_switch(r.json)["chat_template_kwargs"]["enable_thinking"] for r in server.requests]
    assert sent == [False, False, True]


def test_a_level_of_thinking_off_is_refused(desk: Kimi) -> None:
    """What would contradict itself at the host costs nothing here."""
    run = desk("ask", "--thinking", "off", "--reasoning-effort", "high", "hi")
    assert run.status == 2
    assert "--thinking off and --reasoning-effort exclude each other" in run.error


def test_an_unknown_spelling_names_its_line(desk: Kimi, server: ReplayServer, home: Path) -> None:
    """The configuration is checked where it is wrong."""
    spell(server, home, "effort")
    run = desk("ask", "hi")
    assert run.status == 78
    wanted = "'thinking' must be one of thinking, reasoning_effort, chat_template"
    assert f"config.toml:4: {wanted}" in run.error


def test_a_row_of_a_batch_is_stronger(desk: Kimi, server: ReplayServer) -> None:
    """What a row says of thinking beats the option."""
    server.script(completion("a"))
    row = {"prompt": "hi", "thinking": {"type": "enabled"}}
    run = desk("batch", "--thinking", "off", stdin=json.dumps(row).encode())
    assert run.status == 0
    assert read_switch(server.requests[0].json) == {"thinking": {"type": "enabled"}}
