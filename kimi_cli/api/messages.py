"""Values of the chat-completion API: requests, deltas, completions; to and from JSON.

Shapes are those of the gateway's guide, of Moonshot's reference (platform.kimi.ai/docs/api/chat)
and of OpenAI-compatible hosts; unknown keys are tolerated everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kimi_cli.api import codec
from kimi_cli.api.parts import gather_text, read_content, read_reasoning
from kimi_cli.errors import BadInput, NotTheApi

JSON = dict[str, Any]


FULL_STOPS = frozenset(
    (
        *("stop", "eos", "eos_token", "end", "end_turn", "stop_sequence", "complete", "completed"),
        *("tool_calls", "tool_call", "tool_use", "function_call"),
    )
)
"""Every finish_reason, in lower case, that says: the model came to its own full stop."""
_CUT_SHORT = ("length", "max_tokens", "max_length", "model_length", "max_output_tokens")

ROLES = ("system", "user", "assistant", "tool")
_LOGPROB, _FRAGMENT = 100, 50
"""Characters that the probability of a token counts for, and a fragment of a call besides them."""
_RARE = {"reasoning_content", "tool_calls", "tool_call_id", "name"}


@dataclass(frozen=True)
class Message:
    """One message of a conversation; *role* is one of ``ROLES``.

    *content* is text, or a list of parts (images, say); an assistant that only calls tools may
    have None. Hosts call the *reasoning* that is sent back ``reasoning_content``.
    """

    role: str
    content: str | list[JSON] | None
    reasoning: str | None = None
    tool_calls: tuple[JSON, ...] = ()
    tool_call_id: str | None = None
    name: str | None = None
    partial: bool = False
    """Whether the answer goes on where this ends (Moonshot's partial mode)."""

    @property
    def text(self) -> str:
        """The content as far as it is text."""
        return read_text(self.content)

    def to_json(self) -> JSON:
        """Return the object the API takes."""
        body: JSON = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            body["reasoning_content"] = self.reasoning
        if self.tool_calls:
            body["tool_calls"] = list(self.tool_calls)
        if self.tool_call_id is not None:
            body["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            body["name"] = self.name
        if self.partial:
            body["partial"] = True
        return body


def read_text(content: str | Sequence[JSON] | None) -> str:
    """Return what is text in a message's *content*: all of it, or the texts of its parts."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(str(part["text"]) for part in content if "text" in part)


def count_tokens(usage: JSON, key: str) -> int | None:
    """Return a figure of *usage*; None where the host left it out, or sent nonsense."""
    value = usage.get(key)
    return value if type(value) is int and 0 <= value < 2**53 else None


def read_message(document: JSON) -> Message:
    """Read what ``Message.to_json`` wrote, or any message of the API; raises ValueError."""
    role, content = document.get("role"), document.get("content")
    if role in ROLES and isinstance(content, str) and document.keys().isdisjoint(_RARE):
        return Message(role, content)
    calls = document.get("tool_calls") or []
    texts = [document.get(key) for key in ("reasoning_content", "tool_call_id", "name")]
    if (
        role not in ROLES
        or not isinstance(content, (str, list, type(None)))
        or not isinstance(calls, list)
        or not all(isinstance(call, dict) for call in calls)
        or (isinstance(content, list) and not all(isinstance(part, dict) for part in content))
        or not all(isinstance(text, (str, type(None))) for text in texts)
    ):
        raise ValueError("not a message")
    reasoning, tool_call_id, name = texts
    return Message(role, content, reasoning, tuple(calls), tool_call_id, name)


@dataclass(frozen=True)
class Request:
    """One call for a completion.

    *parameters* holds body fields by their API names, only those that the user gave: several
    models answer HTTP 400 to a sampling field they did not expect, even to its default.
    """

    model: str
    messages: tuple[Message, ...]
    stream: bool = True
    ask_usage: bool = True
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> JSON:
        """Return the body; *parameters* have the last word."""
        body: JSON = {
            "model": self.model,
            "messages": [message.to_json() for message in self.messages],
            "stream": self.stream,
        }
        if self.stream and self.ask_usage:
            body["stream_options"] = {"include_usage": True}
        return body | dict(self.parameters)

    def encode(self) -> bytes:
        """Return the body as it goes over the wire; raises BadInput for what JSON cannot hold."""
        try:
            return codec.dumps(self.to_json()).encode()
        except ValueError as error:
            raise BadInput(f"the request cannot be written as UTF-8 JSON: {error}") from error


class Delta(NamedTuple):
    """What one read from the wire adds to the answer; *reasoning* comes before *content*."""

    content: str
    reasoning: str


@dataclass(frozen=True)
class Ending:
    """What is known of an answer once it is over; None where the host did not say."""

    id: str | None = None
    model: str | None = None
    finish_reason: str | None = None
    usage: JSON | None = None
    tool_calls: tuple[JSON, ...] = ()
    refusal: str | None = None
    """The text in which the model said no; it is the answer's text as well."""
    logprobs: JSON | None = None
    asked: str | None = None
    """The model that was asked, where it may have been another than the request's."""

    @property
    def is_cut_short(self) -> bool:
        """Whether a limit of length ended it."""
        return (self.finish_reason or "").lower() in _CUT_SHORT

    def find_lack(self, *, has_text: bool) -> str | None:
        """Name what keeps the answer from being whole: a finish_reason, or ``empty``.

        None when the model came to its own full stop.
        """
        if self.finish_reason is not None and self.finish_reason.lower() not in FULL_STOPS:
            return self.finish_reason
        return None if has_text or self.tool_calls else "empty"

    def find_flaw(self, *, has_text: bool) -> str | None:
        """Say why the answer is not whole; None when it is."""
        lack = self.find_lack(has_text=has_text)
        if lack is None:
            return None
        if lack == "empty":
            return "the answer is empty; ask again, or in other words"
        advice = "; raise --max-tokens" if self.is_cut_short else ""
        if lack == "content_filter":
            advice = "; ask in other words"
        return f"the answer is incomplete: finish_reason {lack[:80]}{advice}"

    def dump_tool_calls(self) -> str:
        """Return the tool calls as one line of JSON, an array."""
        return codec.dumps(list(self.tool_calls))


@dataclass(frozen=True)
class Completion:
    """One whole answer."""

    content: str
    reasoning: str
    ending: Ending

    @property
    def delta(self) -> Delta:
        """The whole text, as one delta."""
        return Delta(self.content, self.reasoning)

    def dump(self, **more: Any) -> str:
        """Return the object of ``--json``, and *more* of it, as one line.

        kimi-ask(1) documents it as stable.
        """
        shown: JSON = {
            "content": self.content,
            "reasoning": self.reasoning,
            "model": self.ending.model,
            "id": self.ending.id,
            "finish_reason": self.ending.finish_reason,
            "usage": self.ending.usage,
        }
        if self.ending.tool_calls:
            shown["tool_calls"] = list(self.ending.tool_calls)
        if self.ending.refusal is not None:
            shown["refusal"] = self.ending.refusal
        if self.ending.logprobs is not None:
            shown["logprobs"] = self.ending.logprobs
        return codec.dumps(shown | more)


def join_deltas(deltas: Sequence[Delta], ending: Ending) -> Completion:
    """Return the whole answer that came in *deltas*."""
    content = "".join(delta.content for delta in deltas)
    return Completion(content, "".join(delta.reasoning for delta in deltas), ending)


class _Call:
    """A tool call whose fragments are still coming."""

    def __init__(self) -> None:
        self.id: Any = None
        self.type = "function"
        self._name: list[str] = []
        self._arguments: list[str] = []

    def add(self, fragment: JSON, function: JSON) -> int:
        """Take one fragment, and return its size: only the first has a name, all have arguments.

        llama.cpp has sent arguments as an object, whole (ggml-org/llama.cpp#20198).
        """
        self.id = fragment.get("id") or self.id
        self.type = fragment.get("type") or self.type
        self._name.append(_expect_text(function.get("name") or ""))
        arguments = function.get("arguments") or ""
        self._arguments.append(arguments if isinstance(arguments, str) else codec.dumps(arguments))
        return _FRAGMENT + len(self._name[-1]) + len(self._arguments[-1])

    def join(self) -> JSON:
        """Return the call in the API's shape."""
        function = {"name": "".join(self._name), "arguments": "".join(self._arguments)}
        return {"id": self.id, "type": self.type, "function": function}


class ChunkFolder:
    """Folds the chunks of a stream: text is handed on in deltas, all else ends in an Ending.

    Of several choices the one that comes first counts, whatever its index.
    """

    def __init__(self) -> None:
        """Start before the first chunk."""
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._refusal: list[str] = []
        self._tool_calls: dict[int, _Call] = {}
        self._index: int | None = None
        self._id: str | None = None
        self._model: str | None = None
        self._usage: JSON | None = None
        self._logprobs: JSON | None = None
        self.finish_reason: str | None = None
        self.size = 0
        """How much has come, in characters or as much: who listens may keep all of it."""

    def add(self, chunk: JSON) -> None:
        """Fold one ``chat.completion.chunk`` object, or a whole ``chat.completion``.

        Raises NotTheApi when a value has a type that the API never sends.
        """
        try:
            self._add(chunk)
        except (AttributeError, TypeError) as error:
            shown = codec.dumps(chunk)[:80]
            raise NotTheApi(f"the host sent JSON of an unknown shape: {shown}") from error

    def _add(self, chunk: JSON) -> None:
        self._id = self._id or _read_name(chunk.get("id"))
        self._model = self._model or _read_name(chunk.get("model"))
        if isinstance(usage := chunk.get("usage"), dict):
            self._usage = usage
        for choice in chunk.get("choices") or ():
            index = choice.get("index") or 0
            self._index = index if self._index is None else self._index
            if index != self._index:
                continue
            self._add_choice(choice)

    def _add_choice(self, choice: JSON) -> None:
        self._add_delta(find_message(choice))
        if reason := choice.get("finish_reason"):
            self.finish_reason = _read_name(reason)
        # Moonshot puts the usage of a stream into the last choice.
        if isinstance(usage := choice.get("usage"), dict):
            self._usage = usage
        if isinstance(logprobs := choice.get("logprobs"), dict):
            self._logprobs = self._logprobs or {}
            for key, values in logprobs.items():
                known = self._logprobs.setdefault(key, [] if isinstance(values, list) else values)
                if isinstance(known, list) and isinstance(values, list):
                    known += values
                    self.size += sum(map(_measure, values))

    def _add_delta(self, delta: JSON) -> None:
        if reasoning := read_reasoning(delta):
            self._reasoning.append(reasoning)
            self.size += len(reasoning)
        if content := delta.get("content"):
            text, thoughts = read_content(content)
            self._reasoning += [thoughts] if thoughts else []
            self._content += [text] if text else []
            self.size += len(text) + len(thoughts)
        if refusal := gather_text(delta.get("refusal")):
            self._content.append(refusal)
            self._refusal.append(refusal)
            self.size += len(refusal)
        for fragment in delta.get("tool_calls") or ():
            self._add_tool_call(fragment)
        if (call := delta.get("function_call")) and not delta.get("tool_calls"):
            self._add_tool_call({"index": -1, "function": call})  # the name before tools had one

    def _add_tool_call(self, fragment: JSON) -> None:
        """Join the fragments of a call: only its first has a name."""
        function = fragment.get("function") or {}
        index = fragment.get("index")
        if index is None:
            index = len(self._tool_calls) - (0 if function.get("name") else 1)
        elif not isinstance(index, int):
            raise TypeError("not an index")
        call = self._tool_calls.setdefault(index, _Call())
        self.size += call.add(fragment, function)

    def take(self) -> Delta | None:
        """Return the text that came since the last call; None when there was none."""
        if not self._content and not self._reasoning:
            return None
        delta = Delta("".join(self._content), "".join(self._reasoning))
        self._content.clear()
        self._reasoning.clear()
        return delta

    def end(self) -> Ending:
        """Return what is known once the stream is over."""
        return Ending(
            self._id,
            self._model,
            self.finish_reason,
            self._usage,
            tuple(self._tool_calls[index].join() for index in sorted(self._tool_calls)),
            "".join(self._refusal) or None,
            self._logprobs,
        )


def _measure(logprob: object) -> int:
    """Return what a token's logarithm takes, and those of others in its place."""
    others = logprob.get("top_logprobs") if isinstance(logprob, dict) else None
    return _LOGPROB * (1 + (len(others) if isinstance(others, list) else 0))


def find_message(choice: JSON) -> JSON:
    """Return the message of a *choice*, or the piece of it that a stream's chunk brings.

    Raises TypeError where either is no object.
    """
    for message in (choice.get("delta"), choice.get("message")):
        if not isinstance(message, (dict, type(None))):
            raise TypeError("not a message")
    return choice.get("delta") or choice.get("message") or {}


def _read_name(value: object) -> str | None:
    """Return what should be a text, and is made one."""
    return value if isinstance(value, (str, type(None))) else codec.dumps(value)[:80]


def _expect_text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not text")
    return value


def read_completion(document: JSON) -> Completion:
    """Read one whole ``chat.completion`` object; raises NotTheApi for an unknown shape."""
    folder = ChunkFolder()
    folder.add(document)
    delta = folder.take() or Delta("", "")
    return Completion(delta.content, delta.reasoning, folder.end())


def find_lack(document: JSON) -> str | None:
    """Name what a ``chat.completion`` object lacks to be whole, in any of its choices.

    As ``Ending.find_lack`` does; raises NotTheApi for an unknown shape.
    """
    choices = document.get("choices") or [{}]
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise NotTheApi(f"the host sent choices of an unknown shape: {codec.dumps(choices)[:80]}")
    for choice in choices:
        completion = read_completion({"choices": [{**choice, "index": 0}]})
        lack = completion.ending.find_lack(has_text=bool(completion.content.strip()))
        if lack is not None:
            return lack
    return None
