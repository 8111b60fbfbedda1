"""The fields of a request body, by their names in the API: the one table of options and rows.

Names and types are those of OpenAI's chat reference, with Moonshot's ``thinking``,
``prompt_cache_key`` and ``safety_identifier``; ``chat_template_kwargs`` is vLLM's and llama.cpp's.
What is not here can still be sent with ``-O``; a row that has it carries it along.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kimi_cli.api import codec

JSON = dict[str, Any]

_NUMBER, _WHOLE, _TEXT, _SWITCH = (int, float), (int,), (str,), (bool,)
_OBJECT, _ARRAY = (dict,), (list,)

FIELDS: Mapping[str, tuple[type, ...]] = {
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "max_tokens": _WHOLE,
    "max_completion_tokens": _WHOLE,
    "stop": (str, list),
    "seed": _WHOLE,
    "reasoning_effort": _TEXT,
    "response_format": _OBJECT,
    "thinking": _OBJECT,
    "chat_template_kwargs": _OBJECT,
    "n": _WHOLE,
    "tools": _ARRAY,
    "tool_choice": (str, dict),
    "parallel_tool_calls": _SWITCH,
    "frequency_penalty": _NUMBER,
    "presence_penalty": _NUMBER,
    "logit_bias": _OBJECT,
    "logprobs": _SWITCH,
    "top_logprobs": _WHOLE,
    "user": _TEXT,
    "safety_identifier": _TEXT,
    "prompt_cache_key": _TEXT,
    "service_tier": _TEXT,
    "store": _SWITCH,
    "modalities": _ARRAY,
    "audio": _OBJECT,
    "prediction": _OBJECT,
    "web_search_options": _OBJECT,
}
"""What a user may set, and the JSON types that it may have."""

FRAME: Mapping[str, tuple[type, ...]] = {
    "model": _TEXT,
    "messages": _ARRAY,
    "stream": _SWITCH,
    "stream_options": _OBJECT,
}
"""What makes the request itself."""

_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "an object",
    list: "an array",
}
_TWINS = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}
"""One setting with two names; hosts answer HTTP 400 to a request with both."""


def find_fault(name: str, value: object) -> str | None:
    """Say what the field of that *name* must be, and *value* is not; None where it is fine."""
    types = FIELDS.get(name) or FRAME[name]
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return None
    wanted = "a number" if float in types else " or ".join(_NAMES[kind] for kind in types)
    return f"'{name}' must be {wanted}"


def read_cell(name: str, text: str) -> object:
    """Return what the cell of a table says for the field of that *name*; None for an empty one.

    A table has only text, and many write a column of whole numbers with a gap as 5.0. What cannot
    be read stays text, which ``find_fault`` judges.
    """
    types = FIELDS.get(name) or FRAME[name]
    if not text:
        return None
    if str in types:
        return text
    try:
        value = codec.loads_exactly(text.lower() if bool in types else text)
    except ValueError:
        return text
    is_whole = isinstance(value, float) and value.is_integer() and float not in types
    return int(value) if is_whole else value


def override(fields: Mapping[str, Any], stronger: Mapping[str, Any]) -> JSON:
    """Return *fields* with those of *stronger* in their places, whichever name a setting has."""
    named = {_TWINS.get(name) for name in stronger}
    return {name: value for name, value in fields.items() if name not in named} | dict(stronger)
