"""A prompt out of a template that is kept: fields are given as words, in a pipe, or one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kimi_cli.errors import BadInput
from kimi_cli.prompt.content import Prompt, put_before
from kimi_cli.prompt.reading import (
    STDIN,
    Reading,
    decode_argument,
    drop_last_line_end,
    read_attachment,
    read_image,
    read_stdin,
    stdin_is_ours,
)
from kimi_cli.prompt.templatefile import Template
from kimi_cli.prompt.templates import fill_template

_WORDS, _PIPE = "prompt", "stdin"


def fill_prompt(
    template: Template,
    words: Sequence[str],
    paths: Sequence[str],
    images: Sequence[str],
    given: Mapping[str, str],
    *,
    use_stdin: bool,
    reading: Reading,
) -> tuple[Prompt, str | None]:
    """Return the question that *template* makes, and its system prompt.

    ``{prompt}`` is the *words*, ``{stdin}`` the pipe, which is not read where nothing takes it;
    the others are *given*. Raises BadInput where nobody gives a field, and for an empty prompt.
    """
    fields = template.fields
    values = dict(given)
    text = " ".join(decode_argument(word) for word in words if word != STDIN)
    if text.strip():
        values.setdefault(_WORDS, text)
    takes_stdin = _PIPE in fields and _PIPE not in values and STDIN not in (*paths, *images)
    if use_stdin and takes_stdin and (STDIN in words or stdin_is_ours(has_text=False)):
        values[_PIPE] = drop_last_line_end(read_stdin(reading))
    _check_fields(template, fields, values)
    for unused in [name for name in values if name not in fields]:
        what = "what the words say" if unused == _WORDS else f"'{unused}'"
        reading.warn(f"nothing in template {template.name} takes {what}: it has no {{{unused}}}")
    if STDIN in words and _PIPE not in fields:
        reading.warn(f"standard input is not read: template {template.name} has no {{{_PIPE}}}")
    parts = [fill_template(template.text, values), *(read_attachment(p, reading) for p in paths)]
    pictures = [part for path in images for part in read_image(path, reading).others]
    question = put_before(pictures, "\n\n".join(part for part in parts if part.strip()))
    if question.is_empty:
        raise BadInput(f"template {template.name} makes an empty prompt of this")
    return question, None if template.system is None else fill_template(template.system, values)


def _check_fields(template: Template, fields: Sequence[str], values: Mapping[str, str]) -> None:
    missing = [name for name in fields if name not in values]
    if not missing:
        return
    ways = {_WORDS: "words", _PIPE: "a pipe"}
    advice = " and ".join(dict.fromkeys(ways.get(name, f"-D {name}=…") for name in missing))
    shown = ", ".join(f"{{{name}}}" for name in missing)
    there = ", ".join(f"{{{name}}}" for name in fields)
    raise BadInput(
        f"nobody gives {shown} of template {template.name}, whose fields are {there}; give {advice}"
    )
