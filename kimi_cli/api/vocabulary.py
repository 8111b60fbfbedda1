"""How many tokens a request's prompt has: to the token, where the model's vocabulary is at hand.

Around each message models have a frame of their own. For kimi-k2.5, kimi-k2.6 and kimi-k2.7-code
it is that of the chat template beside their weights (huggingface.co/moonshotai/Kimi-K2.5), for
kimi-k3 that of the encoder beside its own (huggingface.co/moonshotai/Kimi-K3). Counted so, the
gateway's guide has its own figures: 9 for "Hello" and 28 for its dialogue with kimi-k2.5, and 86
for "Hello" with kimi-k3, where the last tag, which opens the reasoning, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from kimi_cli.api import codec
from kimi_cli.api.estimate import estimate_tokens
from kimi_cli.api.parts import gather_text
from kimi_cli.api.text import mend_surrogates

JSON = dict[str, Any]
Piece = str | int
"""A text, or a number of tokens that stand for no text: marks of a frame."""

NOT_INSTALLED = "the vocabulary is not installed"
_ROLES = ("system", "user", "assistant")
_FRAME = 4
"""Tokens around a message, roughly."""


@dataclass(frozen=True, eq=False, repr=False)
class Count:
    """How many tokens a prompt has."""

    tokens: int
    doubt: str | None = None
    """Why that is an estimate; None where it is exact."""


@dataclass(frozen=True, eq=False, repr=False)
class _Family:
    """Models that read alike."""

    vocabulary: str
    frame: Callable[[JSON], Iterator[Piece]]
    find_odd: Callable[[JSON], str | None]
    """Names what of a dialogue they read in a way that is not known."""


def _frame_k2(body: JSON) -> Iterator[Piece]:
    """Yield the pieces of a prompt as kimi-k2.5 and its successors read it."""
    for message in body["messages"]:
        yield from _begin_k2(message["role"])
        if message["role"] == "assistant":
            yield 1  # its reasoning begins
            yield message.get("reasoning_content") or "" if _keeps_reasoning(body) else ""
            yield 1
        yield gather_text(message.get("content"))
        yield 1
    yield from _begin_k2("assistant")
    yield 1
    thinking = _find_object(body, "chat_template_kwargs").get("thinking", True)
    if _find_object(body, "thinking").get("type") == "disabled" or thinking is False:
        yield 1  # its reasoning ends at once


def _begin_k2(role: str) -> Iterator[Piece]:
    yield from (1, role, 1)


def _keeps_reasoning(body: JSON) -> bool:
    return _find_object(body, "thinking").get("keep") == "all" or "k2.7" in str(body.get("model"))


def _find_odd_k2(body: JSON) -> str | None:
    is_kept = _keeps_reasoning(body) and any(m.get("reasoning_content") for m in body["messages"])
    return "earlier reasoning" if is_kept else None


_MOST_K3, _LESS_K3 = 50, 51
"""Tokens in which kimi-k3 is told to think as much as it can, or at another level."""


def _frame_k3(body: JSON) -> Iterator[Piece]:
    """Yield the pieces of a prompt as kimi-k3 reads it: how much to think, then what was said."""
    is_most = body.get("reasoning_effort") in (None, "max")
    yield from _open_k3('message role="system" type="thinking-effort"')
    yield _MOST_K3 if is_most else _LESS_K3
    yield from _end_k3()
    for message in body["messages"]:
        role = message["role"]
        yield from _open_k3(f'message role="{role}"')
        if role == "assistant":
            if reasoning := message.get("reasoning_content"):
                yield from (*_open_k3("think"), reasoning, *_close_k3("think"))
            yield from _open_k3("response")
        yield gather_text(message.get("content"))
        if role == "assistant":
            yield from _close_k3("response")
        yield from _end_k3()
    yield from _open_k3('message role="assistant"')


def _find_odd_k3(body: JSON) -> str | None:
    return "earlier answers" if any(m["role"] == "assistant" for m in body["messages"]) else None


def _open_k3(tag: str) -> tuple[Piece, ...]:
    return 1, tag, 1


def _close_k3(tag: str) -> tuple[Piece, ...]:
    return 1, tag, 1


def _end_k3() -> tuple[Piece, ...]:
    return *_close_k3("message"), 1


_K2 = _Family("kimi_k2", _frame_k2, _find_odd_k2)
_K3 = _Family("kimi_k3", _frame_k3, _find_odd_k3)
_KNOWN: Mapping[str, _Family] = {
    "kimi-k2.5": _K2,
    "kimi-k2.6": _K2,
    "kimi-k2.7-code": _K2,
    "kimi-k2.7-code-highspeed": _K2,
    "kimi-k3": _K3,
}
_ALIKE = (("kimi-k3", "kimi-k3", _K3), ("kimi-k2", "kimi-k2.5", _K2))
"""Beginnings of other names, what they are counted as, and how that is."""


def _find_object(body: JSON, name: str) -> JSON:
    value = body.get(name)
    return value if isinstance(value, dict) else {}


@dataclass(eq=False, repr=False)
class TokenCounter:
    """Counts prompts; each vocabulary is loaded once."""

    _loaded: dict[str, Any] = field(default_factory=dict)

    def count(self, body: JSON) -> Count:
        """Return how many tokens the prompt of a request *body* has."""
        name = str(body.get("model") or "")
        family, doubt = _find_family(name)
        if family is None:
            return _estimate(body, f"the vocabulary of {name} is not known here")
        encode = self._load(family.vocabulary)
        if encode is None:
            return _estimate(body, NOT_INSTALLED)
        odd = [*find_odd_parts(body), *filter(None, [family.find_odd(body)])]
        plain = {**body, "messages": [_simplify(message) for message in body["messages"]]}
        tokens = sum(
            piece if isinstance(piece, int) else len(encode(mend_surrogates(piece)))
            for piece in family.frame(plain)
        )
        if odd:
            doubt = f"what {name} reads of {', '.join(odd)} is not known here"
            tokens += sum(len(encode(mend_surrogates(text))) for text in _list_odd_texts(body))
            tokens += _measure_media(body)
        return Count(tokens, doubt)

    def _load(self, vocabulary: str) -> Callable[[str], list[int]] | None:
        """Return what encodes text, in which no mark is seen; None where it is not installed."""
        if vocabulary not in self._loaded:
            try:
                from splintr import Tokenizer  # type: ignore[import-not-found, unused-ignore]  # noqa: PLC0415 - an optional extra

                self._loaded[vocabulary] = Tokenizer.from_pretrained(vocabulary).encode_ordinary
            except ImportError:
                self._loaded[vocabulary] = None
        encode: Callable[[str], list[int]] | None = self._loaded[vocabulary]
        return encode


def _find_family(name: str) -> tuple[_Family | None, str | None]:
    """Return how a model reads, and what is doubtful about that."""
    short = name.rpartition("/")[2].lower()
    if (family := _KNOWN.get(short)) is not None:
        return family, None
    for beginning, like, family in _ALIKE:
        if short.startswith(beginning):
            return family, f"{name} is counted as {like}"
    return None, None


def find_odd_parts(body: JSON) -> list[str]:
    """Name what is in a request besides messages of text, and becomes part of the prompt."""
    messages = body["messages"]
    kind = _find_object(body, "response_format").get("type", "text")
    odd = {
        "tools": body.get("tools"),
        "response_format": kind != "text",
        "tool calls": any("tool_calls" in m or m["role"] == "tool" for m in messages),
        "names": any("name" in m for m in messages),
        "other roles": any(m["role"] not in (*_ROLES, "tool") for m in messages),
        "images and the like": any(_list_media(m) for m in messages),
        "an answer that has begun": messages[-1]["role"] == "assistant",
    }
    return [name for name, is_there in odd.items() if is_there]


def _list_media(message: JSON) -> list[Any]:
    """Return the parts of a message that are no text."""
    content = message.get("content")
    return [
        part
        for part in (content if isinstance(content, list) else ())
        if not (isinstance(part, str) or (isinstance(part, dict) and "text" in part))
    ]


def _simplify(message: JSON) -> JSON:
    """Return a message whose role the frame knows."""
    return message if message["role"] in _ROLES else {**message, "role": "system"}


def _list_odd_texts(body: JSON) -> Iterator[str]:
    """Yield the texts of what has no frame here."""
    values = [body.get("tools"), body.get("response_format")]
    values += [message.get("tool_calls") for message in body["messages"]]
    return (codec.dumps(value) for value in values if value)


def _measure_media(body: JSON) -> int:
    """Return about how many tokens images have."""
    parts = (part for message in body["messages"] for part in _list_media(message))
    return math.ceil(sum(estimate_tokens(codec.dumps(part)) for part in parts))


def _estimate(body: JSON, doubt: str) -> Count:
    """Count by letters."""
    texts: Iterable[str] = (gather_text(message.get("content")) for message in body["messages"])
    sizes = [estimate_tokens(text) + _FRAME for text in (*texts, *_list_odd_texts(body))]
    return Count(math.ceil(sum(sizes)) + _FRAME + _measure_media(body), doubt)
