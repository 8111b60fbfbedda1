"""An answer that goes on where it was cut short, or where a prefix of it ends.

The text so far is sent as the last message, the assistant's, with ``partial`` (Moonshot,
platform.kimi.ai/docs/guide/use-partial-mode-feature-of-kimi-api); other hosts go on with such a
message anyway. What comes is the rest alone, but for llama.cpp, which repeats what it was sent
when it does not stream.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kimi_cli.answer.asking import Follow, Listener
from kimi_cli.answer.checking import add_usage
from kimi_cli.api.messages import Delta, Ending, Message, Request
from kimi_cli.api.refusals import Refused, Verdict
from kimi_cli.api.text import quantify
from kimi_cli.errors import KimiError

JSON = dict[str, Any]

_TELLING = 3
"""Characters from which on a stream that begins with what was sent is taken to repeat it: no host
is known to, and a ``[`` may well be followed by another."""


@dataclass(frozen=True, kw_only=True)
class Extension:
    """How an answer begins, and how often it is gone on with."""

    times: int = 0
    prefix: str = ""
    keeps_reasoning: bool = False
    """Whether what was reasoned is sent back with the text."""
    tell: Callable[[str], None] = lambda message: None


def extend(follow: Follow, extension: Extension) -> Follow:
    """Return who asks as *follow* does, until the end of the answer has come.

    An answer of nothing but reasoning is not gone on with.
    """

    def follow_on(request: Request, *listeners: Listener) -> Ending:
        joint = _Joint(extension.prefix, listeners, is_streamed=request.stream)
        ending = _follow_once(follow, request, extension, joint)
        for number in range(1, extension.times + 1):
            if not ending.is_cut_short or not joint.has_grown or ending.tool_calls:
                break
            extension.tell(
                f"cut short after {quantify(len(joint.text), 'character')}; going on "
                f"({number} of {extension.times})"
            )
            ending = _join(ending, _follow_once(follow, request, extension, joint))
        for listener in listeners:
            listener.end(ending)
        return ending

    return follow_on


def begin(request: Request, text: str, reasoning: str | None = None) -> Request:
    """Return *request* with the beginning of its answer."""
    begun = Message("assistant", text, reasoning, partial=True)
    return replace(request, messages=(*request.messages, begun)) if text else request


def _follow_once(follow: Follow, request: Request, extension: Extension, joint: _Joint) -> Ending:
    reasoning = (joint.reasoning or None) if extension.keeps_reasoning else None
    sent, known = joint.text, len(joint.text) if joint.has_begun else 0
    joint.expect(sent)
    try:
        ending = follow(begin(request, sent, reasoning), joint)
    except KimiError as error:
        joint.flush()
        if known and len(joint.text) == known:
            error.args = (_explain(error, known),)
        raise
    joint.flush()
    return ending


def _explain(error: KimiError, known: int) -> str:
    """Say that what came is all, and why."""
    advice = ""
    if isinstance(error, Refused) and error.refusal.verdict is Verdict.REQUEST_REFUSED:
        advice = "; a host that never goes on with an answer has continues = false in its profile"
    return (
        f"the answer was cut short after {quantify(known, 'character')}, and going on failed: "
        f"{error}{advice}"
    )


class _Joint:
    """Hands on what comes of an answer in several replies, as if it came in one."""

    def __init__(self, prefix: str, listeners: Sequence[Listener], *, is_streamed: bool) -> None:
        """The answer begins with *prefix*, which is handed on with the first text after it."""
        self.text = prefix
        """The answer so far."""
        self.reasoning = ""
        self.has_begun = False
        """Whether anything of its text was handed on."""
        self.has_grown = False
        """Whether the last reply brought more than white space."""
        self._listeners = listeners
        self._is_streamed = is_streamed
        self._expected = ""
        self._held = ""

    def expect(self, sent: str) -> None:
        """Begin with a reply that may repeat what was *sent*."""
        is_telling = len(sent) >= _TELLING or not self._is_streamed
        self._expected, self._held = sent if is_telling else "", ""
        self.has_grown = False

    def note(self, delta: Delta) -> None:
        """Hand on what is new; what may prove to be a repetition waits."""
        self.reasoning += delta.reasoning
        content = delta.content
        if self._expected and content:
            self._held += content
            content = ""
            if self._held.startswith(self._expected):
                content = self._held.removeprefix(self._expected)
                self._expected = self._held = ""
            elif not self._expected.startswith(self._held):
                content, self._expected, self._held = self._held, "", ""
        self._hand_on(Delta(content, delta.reasoning))

    def end(self, ending: Ending) -> None:
        """Do nothing: the answer may go on."""

    def flush(self) -> None:
        """Hand on what waits: the reply is over."""
        content, self._expected, self._held = self._held, "", ""
        self._hand_on(Delta(content, ""))

    def _hand_on(self, delta: Delta) -> None:
        if not delta.content and not delta.reasoning:
            return
        if delta.content:
            self.has_grown = self.has_grown or not delta.content.isspace()
            self.text += delta.content
            if not self.has_begun:
                self.has_begun = True
                delta = Delta(self.text, delta.reasoning)
        for listener in self._listeners:
            listener.note(delta)


def _join(ending: Ending, more: Ending) -> Ending:
    """Return what is known of an answer that came in two replies."""
    refusal = f"{ending.refusal or ''}{more.refusal or ''}" or None
    return replace(
        more,
        id=more.id or ending.id,
        model=more.model or ending.model,
        usage=add_usage(ending.usage, more.usage),
        refusal=refusal,
        logprobs=_join_lists(ending.logprobs, more.logprobs),
    )


def _join_lists(one: JSON | None, other: JSON | None) -> JSON | None:
    """Return the lists of both, one behind the other, under their names."""
    if one is None or other is None:
        return one or other
    joined = {**one, **other}
    for name, values in one.items():
        if isinstance(values, list) and isinstance(other.get(name), list):
            joined[name] = values + other[name]
    return joined
