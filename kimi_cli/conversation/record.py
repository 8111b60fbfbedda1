"""A conversation: what was said in it, and what of that is sent back to the model.

Its record is one message a line (see kimi-log(1)); a question and its answer share a turn, since
two processes may talk in one conversation at the same time.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import takewhile
from typing import Any

from kimi_cli.api import codec
from kimi_cli.api.catalogue import wants_reasoning
from kimi_cli.api.messages import JSON, Completion, Message, read_message
from kimi_cli.api.text import mend_surrogates
from kimi_cli.prompt.content import Prompt, name_part

_CUT = "\n\n[The answer was cut off here.]"


@dataclass(frozen=True, kw_only=True)
class Manner:
    """How a turn was asked: where, which model, with which other fields of the request body."""

    model: str
    profile: str
    base_url: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def is_of(self, name: str) -> bool:
        """Tell whether the question went to the profile of that name."""
        return name == self.profile


@dataclass(frozen=True)
class Entry:
    """One message on record, and what is known of it by the keys of kimi-log(1)."""

    message: Message
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def turn(self) -> str:
        """The id that a question and its answer share; empty in other programs' records."""
        return self.facts.get("turn") or ""

    @property
    def incomplete(self) -> str | None:
        """Why an answer is not whole; None when it is."""
        return self.facts.get("incomplete")

    @property
    def usage(self) -> JSON | None:
        """The tokens that an answer took, as far as the host told."""
        return self.facts.get("usage")

    @property
    def manner(self) -> Manner | None:
        """How a question was asked; None where that is not known."""
        model, profile = self.facts.get("model"), self.facts.get("profile")
        if self.message.role != "user" or model is None or profile is None:
            return None
        return Manner(
            model=model,
            profile=profile,
            base_url=self.facts.get("base_url"),
            options=self.facts.get("options") or {},
        )

    @property
    def headline(self) -> str:
        """Who speaks, and when."""
        role, when = self.message.role, self.facts.get("time")
        answerer = self.facts.get("model") or "the model"
        who = {"user": "Question", "assistant": f"Answer of {answerer}"}.get(role)
        flaw = self.incomplete and f"incomplete: {self.incomplete}"
        words = ", ".join(filter(None, (who or role.capitalize(), when, flaw)))
        return " ".join(words.split())

    def show(self) -> str:
        """Return what was said, as Markdown."""
        content = self.message.content if isinstance(self.message.content, list) else []
        parts = [f"[{name_part(part)}]" for part in content if "text" not in part]
        calls = [f"```json\n{codec.dumps(call)}\n```" for call in self.message.tool_calls]
        return "\n\n".join(filter(None, [_close_fence(self.message.text), *parts, *calls]))

    def encode(self) -> bytes:
        """Return the line of the record."""
        shown = {**self.message.to_json(), **self.facts}
        return mend_surrogates(codec.dumps(shown)).encode() + b"\n"


def _close_fence(text: str) -> str:
    """End a block of code that *text* leaves open, as an answer does that was cut off in it."""
    fence = ""
    for mark, rest in re.findall(r"(?m)^ {0,3}(`{3,}|~{3,})([^\n]*)$", text):
        if not fence:
            fence = "" if mark[0] in rest and mark[0] == "`" else mark
        elif mark.startswith(fence) and not rest.strip():
            fence = ""
    return f"{text}\n{fence}" if fence else text


_KINDS: dict[str, type] = {
    **dict.fromkeys(("turn", "time", "model", "profile", "base_url"), str),
    **dict.fromkeys(("id", "finish_reason", "incomplete"), str),
    **dict.fromkeys(("options", "usage"), dict),
}
_OF_MESSAGE = {item.name for item in fields(Message)} | {"reasoning_content"}
_OF_MESSAGE -= {"reasoning", "partial"}  # which are no keys of a record


def read_entry(line: bytes) -> Entry:
    """Read one line of a record; unknown keys are tolerated, and kept. Raises ValueError."""
    document = codec.loads(line)
    if not isinstance(document, dict):
        raise ValueError("not a message")
    if b"\\u" in line:
        document = _mend(document)
    message = read_message(document)
    facts = {}
    for key, value in document.items():
        if key in _OF_MESSAGE or value is None:
            continue
        if not isinstance(value, _KINDS.get(key, object)):
            raise ValueError(f"'{key}' has a wrong type")
        facts[key] = value
    return Entry(message, facts)


def _mend(value: Any) -> Any:
    """Make texts of other programs, who escape half characters, fit to be sent."""
    if isinstance(value, str):
        return mend_surrogates(value)
    if isinstance(value, list):
        return [_mend(item) for item in value]
    if isinstance(value, dict):
        return {mend_surrogates(key): _mend(item) for key, item in value.items()}
    return value


@dataclass(frozen=True)
class PastTurn:
    """A question and what came of it, tools and all; *entries* are in the order of the record."""

    id: str
    entries: tuple[Entry, ...]

    @property
    def question(self) -> Prompt | None:
        """What was asked; None where the record begins with an answer."""
        asked = [entry.message for entry in self.entries if entry.message.role == "user"]
        content = asked[0].content if asked else None
        if content is None:
            return None
        return Prompt(content if isinstance(content, str) else tuple(content))

    @property
    def title(self) -> str:
        """The question in one line, or what there is instead."""
        asked = next((e for e in self.entries if e.message.role == "user"), self.entries[0])
        return " ".join((asked.message.text or asked.show()).split())

    @property
    def answer(self) -> Entry | None:
        """The last message of the assistant."""
        return next((e for e in reversed(self.entries) if e.message.role == "assistant"), None)

    @property
    def open_calls(self) -> tuple[JSON, ...]:
        """The calls of tools with which it ends, with results or not, and no answer after them."""
        message = self._drop_results()[-1].message
        return message.tool_calls if message.role == "assistant" else ()

    def make_messages(self, *, with_reasoning: bool) -> list[Message]:
        """Return what is sent back of this turn: nothing, unless it was answered.

        A cut answer says so in its text. A call of a tool without the tool's result would be
        refused by the host, and so would an empty message of the assistant.
        """
        sent, answered = self._list_messages(with_reasoning=with_reasoning)
        return sent if answered else []

    def resume(self, results: Sequence[Message], *, with_reasoning: bool) -> list[Message]:
        """Return what is sent to go on after *results* of the calls with which it ends."""
        entries = (*self._drop_results(), *map(Entry, results))
        return replace(self, entries=entries)._list_messages(with_reasoning=with_reasoning)[0]

    def _drop_results(self) -> tuple[Entry, ...]:
        """Return its entries without the results of tools at their end."""
        results = list(takewhile(lambda e: e.message.role == "tool", reversed(self.entries[1:])))
        return self.entries[: len(self.entries) - len(results)]

    def _list_messages(self, *, with_reasoning: bool) -> tuple[list[Message], bool]:
        """Return what can be sent of this turn, and whether it ends in an answer."""
        sent: list[Message] = []
        answered = False
        for place, entry in enumerate(self.entries):
            message = entry.message
            if message.role == "user":
                sent.append(message)
                answered = False
            elif message.role == "assistant":
                results = _find_results(message, self.entries[place + 1 :])
                if results:
                    # Inside a loop of tools every thinking model wants the field, be it empty.
                    sent += [replace(message, reasoning=message.reasoning or ""), *results]
                    answered = False
                elif text := message.text.strip():
                    sent.append(_trim(entry, text, with_reasoning=with_reasoning))
                    answered = True
        return sent, answered


def name_call(call: JSON) -> str:
    """Return what a call of a tool is told by: its id, or where it has none its function's name."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return str(call.get("id") or name or "")


def _find_results(message: Message, following: Sequence[Entry]) -> list[Message]:
    """Return the results of a message's calls, one each, if they all stand right behind it.

    Of two for one call the later counts: the first may have been sent in vain.
    """
    tools = [e.message for e in takewhile(lambda e: e.message.role == "tool", following)]
    names = [tool.tool_call_id or tool.name or "" for tool in tools]
    wanted = {name_call(call) for call in message.tool_calls}
    if not wanted <= set(names):
        return []
    return [
        tool
        for place, (name, tool) in enumerate(zip(names, tools, strict=True), 1)
        if name in wanted and name not in names[place:]
    ]


def _trim(entry: Entry, text: str, *, with_reasoning: bool) -> Message:
    """Return what is sent back of an assistant's message that has a *text*."""
    reasoning = entry.message.reasoning if with_reasoning else None
    content = entry.message.content if entry.incomplete is None else text + _CUT
    return Message("assistant", content, reasoning)


class Conversation:
    """What was said so far."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        """Begin with *entries*, in the order of their record."""
        self.entries = list(entries)

    @property
    def manner(self) -> Manner | None:
        """How the last question was asked."""
        return next((e.manner for e in reversed(self.entries) if e.manner is not None), None)

    @property
    def system(self) -> str | None:
        """The system prompt in force: the last one that was set."""
        found = (e.message for e in reversed(self.entries) if e.message.role == "system")
        message = next(found, None)
        return None if message is None else message.text

    @property
    def usage(self) -> JSON | None:
        """The tokens of the last answer that told them."""
        return next((e.usage for e in reversed(self.entries) if e.usage is not None), None)

    def list_turns(self) -> list[PastTurn]:
        """Return the turns in the order of their questions; system prompts belong to none."""
        turns: dict[str, list[Entry]] = {}
        current = ""
        for number, entry in enumerate(self.entries):
            role = entry.message.role
            if role == "system":
                continue
            if entry.turn:
                current = entry.turn
            elif role == "user":
                current = f"line {number}"  # a record that another program wrote
            turns.setdefault(current, []).append(entry)
        return [PastTurn(name, tuple(entries)) for name, entries in turns.items()]

    def make_messages(
        self, model: str, *, keeps_reasoning: bool = False, results: Sequence[Message] = ()
    ) -> list[Message]:
        """Return what *model* is sent before the next question, or to go on after *results*.

        *keeps_reasoning* is for a model that was asked to keep what it reasoned earlier.
        """
        with_reasoning = keeps_reasoning or wants_reasoning(model)
        messages = [] if not self.system else [Message("system", self.system)]
        turns = self.list_turns()
        for turn in turns[:-1] if results else turns:
            messages += turn.make_messages(with_reasoning=with_reasoning)
        if results:
            messages += turns[-1].resume(results, with_reasoning=with_reasoning)
        return messages


def make_turn_id() -> str:
    """Return a name for a turn that no other process has chosen."""
    return os.urandom(6).hex()


def make_question(
    turn: str, prompt: Prompt, manner: Manner, *, system: str | None = None
) -> list[Entry]:
    """Return the entries of a question; *system* is a prompt that is in force from here on."""
    stamp = {"turn": turn, "time": _tell_time()}
    facts = {item.name: getattr(manner, item.name) for item in fields(Manner)}
    known = {key: value for key, value in facts.items() if value}
    entries = [Entry(Message("user", prompt.to_content()), known | stamp)]
    if system is not None:
        entries.insert(0, Entry(Message("system", system), stamp))
    return entries


def make_results(
    turn: str, results: Sequence[Message], *, system: str | None = None
) -> list[Entry]:
    """Return the entries of *results*; *system* is a prompt that is in force from here on."""
    stamp = {"turn": turn, "time": _tell_time()}
    known = {key: value for key, value in stamp.items() if value}
    before = [] if system is None else [Message("system", system)]
    return [Entry(message, known) for message in (*before, *results)]


def make_answer(turn: str, completion: Completion, *, incomplete: str | None) -> Entry | None:
    """Return the entry of an answer; None for an empty one, which would poison later turns."""
    ending = completion.ending
    if not completion.content.strip() and not ending.tool_calls:
        return None
    message = Message(
        "assistant",
        mend_surrogates(completion.content),
        mend_surrogates(completion.reasoning) or None,
        ending.tool_calls,
    )
    facts = {
        "turn": turn,
        "time": _tell_time(),
        "model": ending.model,
        "id": ending.id,
        "finish_reason": ending.finish_reason,
        "usage": ending.usage,
        "incomplete": incomplete,
    }
    # What a host sends may have any type; what is kept can be read again.
    return Entry(message, {k: v for k, v in facts.items() if isinstance(v, _KINDS[k])})


def _tell_time() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
