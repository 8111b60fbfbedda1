"""Tools that a model may call, and what came of its calls, as options of ``ask`` give them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from kimi_cli.api import codec
from kimi_cli.api.messages import JSON, Message
from kimi_cli.conversation.record import Conversation, name_call
from kimi_cli.errors import BadInput
from kimi_cli.options.asking import ToolOptions
from kimi_cli.prompt.reading import Reading, read_part, read_text


def list_fields(options: ToolOptions) -> dict[str, Any]:
    """Return the body fields that *options* give; raises BadInput or MissingInput."""
    fields: dict[str, Any] = {}
    if options.tools is not None:
        fields["tools"] = _read_tools(options.tools)
    if options.tool_choice is not None:
        fields["tool_choice"] = _read_choice(options.tool_choice)
    return fields


def _read_tools(path: str) -> list[Any]:
    tools = _parse(path, read_text(path, Reading()))
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise BadInput(f"{path} is no list of tools: it must be a JSON array of objects")
    if not tools:
        raise BadInput(f"{path} holds no tools")
    return tools


def _read_choice(text: str) -> Any:
    """Return a word as it is; what begins with ``{`` is JSON."""
    return _parse("--tool-choice", text) if text.lstrip().startswith("{") else text


def _parse(name: str, text: str) -> Any:
    try:
        return codec.loads_exactly(text)
    except ValueError as error:
        raise BadInput(f"{name} is not JSON: {error}") from error


def read_results(
    given: Sequence[tuple[str, str]], conversation: Conversation | None, reading: Reading
) -> tuple[Message, ...]:
    """Return the messages that answer the calls with which *conversation* ends, one for each.

    *given* has the name of a call and that of the file with its result. Raises BadInput where
    the two do not fit together, MissingInput.
    """
    turns = conversation.list_turns() if conversation else []
    calls = {name_call(call): call for call in (turns[-1].open_calls if turns else ())}
    files = dict(given)
    if not calls:
        raise BadInput("the conversation does not end with calls of tools: no result is waited for")
    for name in files:
        if name not in calls:
            raise BadInput(f"there is no call '{name}' to answer; there are {', '.join(calls)}")
    if missing := [name for name in calls if name not in files]:
        raise BadInput(
            f"a call has no result: {', '.join(missing)}; a host wants the results of all at once"
        )
    return tuple(
        _make_result(call, read_part(files[name], reading)) for name, call in calls.items()
    )


def _make_result(call: JSON, text: str) -> Message:
    """Return the message of what came of a *call* (OpenAI's chat reference, "Tool message")."""
    function = call.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return Message("tool", text, tool_call_id=call.get("id"), name=name)


def check_results(given: Sequence[tuple[str, str]], *, has_prompt: bool, is_alone: bool) -> None:
    """Raise UsageError for results that nothing can be made of."""
    if is_alone:
        raise click.UsageError("--tool-result goes on with a conversation; name it with -S, or -c")
    if has_prompt:
        raise click.UsageError("--tool-result takes the place of a prompt")
    names = [name for name, _ in given]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise click.UsageError(f"--tool-result has two results for {twice}")
    if [path for _, path in given].count("-") > 1:
        raise click.UsageError("standard input cannot be two results")
