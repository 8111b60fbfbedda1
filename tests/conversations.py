"""Conversations for the tests: their lines, their files, and a host that echoes."""

from __future__ import annotations

import json
import os
import stat
import time
from pathlib import Path
from typing import Any

from program import Kimi
from server import ReceivedRequest, Reply, completion, stream

from kimi_cli.api.messages import Message
from kimi_cli.conversation.record import Conversation, Entry, read_entry

CONVERSATIONS = ".local/state/kimi/conversations"
NOTE = "\n\n[The answer was cut off here.]"
Line = dict[str, Any]
HOUR, DAY = 3600, 86400


def system(text: str, **more: Any) -> Line:
    """A system prompt as a line of a record."""
    return {"role": "system", "content": text, **more}


def user(content: Any, **more: Any) -> Line:
    """A question as a line of a record."""
    return {"role": "user", "content": content, **more}


def assistant(content: Any, **more: Any) -> Line:
    """An answer as a line of a record."""
    return {"role": "assistant", "content": content, **more}


def calling(*names: str, content: str | None = None, **more: Any) -> Line:
    """An answer that calls tools, by the ids of the calls."""
    function = {"name": "add", "arguments": "{}"}
    calls = [{"id": name, "type": "function", "function": function} for name in names]
    return assistant(content, tool_calls=calls, **more)


def result(name: str, **more: Any) -> Line:
    """What a tool gave for the call of that id."""
    return {"role": "tool", "content": "3", "tool_call_id": name, "name": "add", **more}


def encode(*lines: Line) -> bytes:
    """The bytes of a record."""
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()


def read_lines(path: Path) -> list[Line]:
    """What a record holds; every line of it must be whole."""
    data = path.read_bytes()
    assert data.endswith(b"\n")
    return [json.loads(line) for line in data.split(b"\n")[:-1]]


def make_conversation(*lines: Line) -> Conversation:
    """The conversation of these lines."""
    return Conversation(read_entry(line) for line in encode(*lines).splitlines())


def list_sent(*lines: Line, model: str = "kimi-k2.5") -> list[Line]:
    """What a model is sent of these lines, as it goes over the wire."""
    return [message.to_json() for message in make_conversation(*lines).make_messages(model)]


def say(text: str) -> Entry:
    """A message, for tests that do not care what was said."""
    return Entry(Message("user", text))


FIRST, LAST = user("first é"), assistant("last 漢 😀", turn="t", usage={"total_tokens": 3})


def find_mode(path: Path) -> int:
    """The permissions of a file or folder."""
    return stat.S_IMODE(path.stat().st_mode)


def list_contents(request: ReceivedRequest) -> list[str]:
    """What the server was told, message by message."""
    return [message["content"] for message in request.json["messages"]]


def echo(request: ReceivedRequest) -> Reply:
    """An answer that names its question."""
    text = f"re: {list_contents(request)[-1]}"
    return stream(text) if request.json["stream"] else completion(text)


def find_record(home: Path, name: str = "latest") -> Path:
    """The file of a conversation."""
    return home / CONVERSATIONS / f"{name}.jsonl"


def read_record(home: Path, name: str = "latest") -> list[Line]:
    """What is kept under a name."""
    return read_lines(find_record(home, name))


def list_record(home: Path, name: str = "mine") -> list[str]:
    """What was said in a conversation."""
    return [line["content"] for line in read_record(home, name)]


def list_next(kimi: Kimi) -> list[str]:
    """What would be sent before the next question."""
    shown = json.loads(kimi("--dry-run", "next").stdout)
    *before, last = [message["content"] for message in shown["messages"]]
    assert last == "next"
    return before


def encode_compact(*lines: Line) -> bytes:
    """The bytes of a record, as the program itself writes them."""
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
    return "".join(encoder.encode(line) + "\n" for line in lines).encode()


def keep(folder: Path, name: str, *lines: Line | bytes, age: float = -600) -> Path:
    """Put a conversation into the folder, last changed that many seconds ago."""
    path = folder / f"{name}.jsonl"
    path.write_bytes(
        b"".join(line if isinstance(line, bytes) else encode_compact(line) for line in lines)
    )
    moment = time.time() - age
    os.utime(path, (moment, moment))
    return path


def list_names(log: Kimi) -> list[str]:
    """The names in the order of the list."""
    return [json.loads(line)["name"] for line in log("list", "--json").stdout.splitlines()]


def get_question(request: ReceivedRequest) -> str:
    """Return the last message of a request."""
    content: str = request.json["messages"][-1]["content"]
    return content
