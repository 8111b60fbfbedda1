"""Asking until the answer has the form that is wanted, or no attempt is left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kimi_cli.answer.forms import Fit, Form, Misfit
from kimi_cli.answer.ways import Ways, make_format, make_instruction
from kimi_cli.api.messages import Completion, Message, Request
from kimi_cli.api.refusals import Refused

JSON = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Check:
    """What an answer must be, how the host is asked for it, and how often it is asked again."""

    form: Form
    ways: Ways
    reasks: int = 1


@dataclass(frozen=True)
class Checked:
    """The last answer, its usage that of all; what it is, or why it is not what it should be.

    Both are None for an answer that is not even whole.
    """

    completion: Completion
    fit: Fit | None = None
    problem: str | None = None


def ask_in_form(ask: Callable[[Request], Completion], request: Request, check: Check) -> Checked:
    """Put *request* to *ask* until the answer fits; raises what *ask* raises."""
    usage: JSON | None = None
    problem, asked = None, request
    for _ in range(check.reasks + 1):
        completion = _ask_in_some_way(ask, asked, check)
        usage = add_usage(usage, completion.ending.usage)
        completion = replace(completion, ending=replace(completion.ending, usage=usage))
        if completion.ending.find_lack(has_text=bool(completion.content.strip())) is not None:
            return Checked(completion)
        if completion.ending.tool_calls and not completion.content.strip():
            return Checked(completion, problem="the model calls a tool instead of answering")
        try:
            return Checked(completion, check.form.read(completion.content))
        except Misfit as misfit:
            problem = str(misfit)
        asked = replace(
            request, messages=(*request.messages, *complain(completion.content, problem))
        )
    return Checked(completion, problem=problem)


def _ask_in_some_way(
    ask: Callable[[Request], Completion], request: Request, check: Check
) -> Completion:
    """Ask in the strictest way that the host takes; the first refusal tells most."""
    refused: dict[str, Refused] = {}
    while (way := check.ways.choose(check.form, refused)) is not None:
        try:
            completion = ask(shape_request(request, check.form, way))
        except Refused as error:
            if not check.ways.may_mean(error, way):
                raise
            refused[way] = error
        else:
            check.ways.prove(way, refused)
            return completion
    raise next(iter(refused.values()))


def shape_request(request: Request, form: Form, way: str) -> Request:
    """Return *request* asking for an answer of that *form*; what the user set stays."""
    parameters, messages = dict(request.parameters), request.messages
    if (wanted := make_format(form, way)) is not None:
        parameters.setdefault("response_format", wanted)
    if (instruction := make_instruction(form, way)) is not None:
        before = next((m for m in messages if m.role == "system"), None)
        said = add_instruction(before.text if before else "", instruction)
        rest = tuple(m for m in messages if m is not before)
        messages = (Message("system", said), *rest)
    return replace(request, messages=messages, parameters=parameters)


def add_instruction(said: str, instruction: str) -> str:
    """Return a system prompt that says what was *said* before, and the *instruction*."""
    return f"{said}\n\n{instruction}" if said else instruction


def complain(content: str, problem: str) -> tuple[Message, Message]:
    """Return the messages that ask again: the answer's *content*, and what is wrong with it."""
    words = f"That does not fit: {problem}. Answer again, with nothing but what was asked for."
    return Message("assistant", content), Message("user", words)


def add_usage(usage: JSON | None, more: JSON | None) -> JSON | None:
    """Return the sum of two counts of tokens, as far as both are whole numbers."""
    if usage is None or more is None:
        return more if usage is None else usage
    total = dict(more)
    for key, value in usage.items():
        other = more.get(key)
        if type(value) is int and type(other) is int:
            total[key] = value + other
        elif isinstance(value, dict) and isinstance(other, dict):
            total[key] = add_usage(value, other)
        elif other is None:
            total[key] = value
    return total
