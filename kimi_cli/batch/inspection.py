"""Answers of rows that must have a form: each is asked for it, looked at, and asked again.

What a form is, in which way a host is asked for it, and what is said to an answer that has it not,
is the same as for one question (``answer.checking``).
"""

from __future__ import annotations

from typing import Any

from kimi_cli.answer.checking import Check, add_instruction, add_usage, complain
from kimi_cli.answer.forms import Form, Misfit
from kimi_cli.answer.ways import make_format, make_instruction
from kimi_cli.api import codec
from kimi_cli.api.refusals import Refused
from kimi_cli.api.retry import is_foreign
from kimi_cli.api.text import mend_surrogates
from kimi_cli.batch.jobs import Asked, Job, Outcome
from kimi_cli.batch.results import read_text

JSON = dict[str, Any]

_FIELD = "response_format"


class Inspector:
    """Says of each row in which form its answer is wanted, and looks at what comes.

    A row that says it itself is sent as it is, and its answer is looked at all the same. What is
    known of one row is with the row (``Asked``), what is learned of the host with the check.
    """

    def __init__(self, check: Check, *, allow_invalid: bool = False) -> None:
        """Have answers as *check* says; *allow_invalid* has the text of others do as well."""
        self._check = check
        self._allows_any = allow_invalid
        self._fields: dict[str, bytes | None] = {}

    def show(self, payload: bytes) -> bytes:
        """Return what is sent first for a row that asks *payload*."""
        return self._shape(payload, self._choose(payload))

    def prepare(self, job: Job) -> None:
        """Have the fresh row of *job* ask for the form."""
        way = self._choose(job.payload)
        job.asked = Asked(way, self._allows_any)
        job.change(self._shape(job.payload, way))

    def inspect(self, outcome: Outcome) -> None:
        """Look at what came, and say in *outcome* what it is, or what is to be asked instead."""
        if isinstance(outcome.error, Refused):
            self._look_at_refusal(outcome, outcome.error)
        elif outcome.document is not None:
            self._look_at_answer(outcome, outcome.document)

    def _look_at_refusal(self, outcome: Outcome, error: Refused) -> None:
        """Have the row asked in another way where the host may not take this one."""
        check, asked = self._check, outcome.job.asked
        assert asked is not None  # noqa: S101 - it was prepared
        if asked.way is None or is_foreign(error) or not check.ways.may_mean(error, asked.way):
            return
        asked.refused[asked.way] = error
        if (way := check.ways.choose(check.form, asked.refused)) is None:
            outcome.error = next(iter(asked.refused.values()))  # the first tells most
            return
        asked.way = way
        outcome.next_body = self._compose(outcome.job)

    def _look_at_answer(self, outcome: Outcome, document: JSON) -> None:
        """Read the answer, and ask again for one that does not fit."""
        check, asked = self._check, outcome.job.asked
        assert asked is not None  # noqa: S101 - it was prepared
        usage = document.get("usage")
        asked.usage = add_usage(asked.usage, usage if isinstance(usage, dict) else None)
        if asked.way is not None:
            check.ways.prove(asked.way, asked.refused)
        if outcome.lack is not None:
            return
        fits = []
        for choice in document["choices"]:
            text = read_text(choice) or ""
            try:
                fits.append(check.form.read(text))
            except Misfit as misfit:
                outcome.problem = str(misfit)
                if asked.reasks < check.reasks:
                    asked.reasks += 1
                    asked.complaints = [
                        message.to_json()
                        for message in complain(mend_surrogates(text), outcome.problem)
                    ]
                    outcome.next_body = self._compose(outcome.job)
                return
        outcome.fits = tuple(fits)

    def _choose(self, payload: bytes) -> str | None:
        """Return the way to ask; None where the row says itself in which form it wants it."""
        if _FIELD.encode() in payload and _FIELD in codec.loads_exactly(payload):
            return None
        return self._check.ways.choose(self._check.form)

    def _compose(self, job: Job) -> bytes:
        """Return what is sent next: the row's own words, and a complaint where there is one."""
        asked, payload = job.asked, job.record.payload
        assert asked is not None  # noqa: S101 - it was prepared
        if asked.complaints:
            body = codec.loads_exactly(payload)
            body["messages"] += asked.complaints
            payload = codec.dumps(body, sort_keys=True).encode()
        return self._shape(payload, asked.way)

    def _shape(self, payload: bytes, way: str | None) -> bytes:
        """Return *payload* asking for the form in that *way*."""
        if way is None:
            return payload
        form = self._check.form
        if (instruction := make_instruction(form, way)) is not None:
            body = codec.loads_exactly(payload)
            body["messages"] = instruct(body["messages"], instruction)
            payload = codec.dumps(body, sort_keys=True).encode()
        if way not in self._fields:
            self._fields[way] = _encode_field(form, way)
        field = self._fields[way]
        return payload if field is None else payload[:-1] + b"," + field + b"}"


def _encode_field(form: Form, way: str) -> bytes | None:
    """Return the member of a body that asks for *form* in that *way*; None where words do."""
    wanted = make_format(form, way)
    return None if wanted is None else f'"{_FIELD}":{codec.dumps(wanted)}'.encode()


def instruct(messages: list[JSON], instruction: str) -> list[JSON]:
    """Return *messages* whose system prompt gives the *instruction* as well."""
    for place, message in enumerate(messages):
        if message["role"] in ("system", "developer"):
            content = message.get("content") or ""
            if isinstance(content, str):
                said: Any = add_instruction(content, instruction)
            else:
                said = [*content, {"type": "text", "text": instruction}]
            return [*messages[:place], {**message, "content": said}, *messages[place + 1 :]]
    return [{"role": "system", "content": instruction}, *messages]


def describe_form(form: Form) -> str | None:
    """Return what a request asks of the form of its answer, whatever the way; None for nothing.

    It is a part of what makes two rows the same.
    """
    wanted = form.instruction
    return None if wanted is None else codec.dumps({"form": wanted})
