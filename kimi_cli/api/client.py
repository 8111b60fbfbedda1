"""Calls to the chat-completion API: one JSON answer, a streamed answer, the list of models."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, replace
from itertools import count
from types import MappingProxyType
from typing import Any, TypeVar

from kimi_cli import __version__
from kimi_cli.api import codec
from kimi_cli.api.allowance import Allowance
from kimi_cli.api.catalogue import Model
from kimi_cli.api.channel import Channel
from kimi_cli.api.limits import Limits, sleep
from kimi_cli.api.listings import read_models
from kimi_cli.api.messages import (
    ChunkFolder,
    Completion,
    Delta,
    Ending,
    Request,
    read_completion,
)
from kimi_cli.api.refusals import Refused, Verdict, holds_error
from kimi_cli.api.replies import (
    DOCUMENT_LIMIT,
    check_status,
    explain_foreign,
    parse,
    read_answer,
    read_listing,
    refuse,
)
from kimi_cli.api.retry import RetryPolicy
from kimi_cli.api.secrecy import Veil
from kimi_cli.api.sse import EventDecoder
from kimi_cli.api.text import quantify
from kimi_cli.api.transport import Call, Reply, Transport
from kimi_cli.errors import KimiError, NotTheApi, StreamTruncated, TemporaryFailure

_T = TypeVar("_T")

_ENDPOINT = "/chat/completions"
_EVENT_LIMIT = 64 * 2**20
ANSWER_LIMIT = DOCUMENT_LIMIT
"""Characters of an answer that comes in pieces, as many as one in one piece can have."""
_SOON = 5.0
"""Seconds for what may as well be left out."""
_GRACE = 5.0
"""Seconds to wait for usage and ``[DONE]`` once a finish_reason has ended the answer."""


@dataclass(frozen=True, eq=False, repr=False)
class Retry:
    """One more attempt is about to be made: which one of how many, when (s), and why."""

    attempt: int
    attempts: int
    delay: float
    error: KimiError


class Stream:
    """The deltas of one answer, in order; ``ending`` says the rest once they are exhausted."""

    def __init__(self, reply: Reply, veil: Veil) -> None:
        """Read from *reply*, whose status and type were found good; *veil* hides the token."""
        self._reply = reply
        self._veil = veil
        self._folder = ChunkFolder()
        self._deltas = self._read_json() if _is_json(reply) else self._read_events()
        self._received = 0
        self._reasons = False
        # The first delta is read here: as long as it has not come, the call may be repeated.
        self._first = next(self._deltas, None)

    def __iter__(self) -> Iterator[Delta]:
        """Yield what each read from the wire added.

        Raises StreamTruncated when the stream ends without finish_reason and ``[DONE]``,
        TimedOut, NotTheApi, or Refused for an error object inside the stream.
        """
        if self._first is not None:
            yield self._first
            yield from self._deltas

    @property
    def ending(self) -> Ending:
        """What is known of the answer besides its text."""
        return self._folder.end()

    def _read_json(self) -> Iterator[Delta]:
        """Take one whole completion from a host that does not stream."""
        self._folder.add(self._veil.cover(read_answer(self._reply)))
        if delta := self._folder.take():
            yield delta

    def _read_events(self) -> Iterator[Delta]:
        try:
            for done in self._fold_events():
                if delta := self._folder.take():
                    self._received += len(delta.content)
                    self._reasons = True
                    yield delta
                if done:
                    return
        except KimiError as error:
            if self._folder.finish_reason is not None and isinstance(error, TemporaryFailure):
                return
            if self._reasons or isinstance(error, TemporaryFailure):
                error.args = (f"the answer was cut off {self._tell_progress()}: {error}",)
            raise
        if self._folder.finish_reason is None:
            raise StreamTruncated(
                f"the answer was cut off {self._tell_progress()}: the stream ended without "
                "finish_reason or [DONE]"
            )

    def _fold_events(self) -> Iterator[bool]:
        """Fold event by event; yield after every read whether ``[DONE]`` was seen."""
        decoder = EventDecoder()
        timer = self._reply.timer
        pieces = _refuse_foreign(self._reply)
        fold, finished = self._fold, False
        for piece in pieces:
            if (events := decoder.feed(piece)) and not finished:
                timer.touch()
            elif decoder.held > _EVENT_LIMIT:
                raise NotTheApi(f"the host sent an event of more than {_EVENT_LIMIT} bytes")
            for position, event in enumerate(events):
                if event == b"[DONE]":
                    yield True
                    return
                try:
                    fold(self._veil.cover_read(parse(event), event))
                except KimiError:
                    # What came before the bad event belongs to the answer.
                    if position:
                        yield False
                    raise
            if not finished and self._folder.finish_reason is not None:
                finished = True
                timer.expect(_GRACE)
            yield False
        if (rest := decoder.flush()) is not None:
            yield self._fold_rest(rest)

    def _fold_rest(self, event: bytes) -> bool:
        """Fold an event whose empty line never came; one that was cut is no event."""
        if event == b"[DONE]":
            return True
        try:
            document = codec.loads(event)
        except ValueError:
            return False
        self._fold(self._veil.cover(document))
        return False

    def _fold(self, chunk: Any) -> None:
        if holds_error(chunk):
            raise refuse(self._reply, chunk)
        self._folder.add(chunk)
        if self._folder.size > ANSWER_LIMIT:
            raise NotTheApi(
                f"the host sent an answer of more than {ANSWER_LIMIT} characters, which no model "
                "does; --max-tokens asks it for less"
            )

    def _tell_progress(self) -> str:
        if self._received:
            return f"after {quantify(self._received, 'character')}"
        return "while the model reasoned" if self._reasons else "before its first word"


class Client:
    """One origin, one bearer token. Retries as its policy says; prints nothing."""

    def __init__(
        self,
        transport: Transport,
        *,
        bearer_token: str | None,
        headers: Mapping[str, str] = MappingProxyType({}),
        secrets: Mapping[str, str] = MappingProxyType({}),
        limits: Limits,
        policy: RetryPolicy,
        notify: Callable[[Retry], None] = lambda retry: None,
        advise: Callable[[Client, str], str | None] = lambda client, model: None,
    ) -> None:
        """Use *transport*; *notify* is told of every further attempt before its wait.

        *headers* go along with every request; *secrets*, each with what stands in its place, are
        hidden where the host repeats them, as the token is. *advise* says what can be done where
        the host does not know a model.
        """
        self._transport = transport
        self._limits = limits
        self._policy = policy
        self._notify = notify
        self._advise = advise
        self._veil = Veil(bearer_token, secrets)
        self._headers = dict(headers)
        if "user-agent" not in map(str.lower, headers):
            self._headers["User-Agent"] = f"kimi-pipe/{__version__}"
        self._headers |= {"Accept-Encoding": "identity", "Content-Type": "application/json"}
        if bearer_token is not None:
            self._headers["Authorization"] = f"Bearer {bearer_token}"

    def complete(self, request: Request) -> Completion:
        """Ask for one whole answer as JSON.

        Raises Refused, Unreachable, TimedOut, StreamTruncated or NotTheApi.
        """
        return self._persist(lambda deadline: self._complete_once(request, deadline))

    @contextmanager
    def stream(self, request: Request) -> Iterator[Stream]:
        """Ask for an answer and yield it as it comes; raises as ``complete`` does.

        Attempts are repeated only until the first delta: text that was shown is never taken
        back, nor bought twice.
        """
        with ExitStack() as stack:
            yield self._persist(lambda deadline: self._start_stream(stack, request, deadline))

    def list_models(self) -> list[Model]:
        """Ask the host's models endpoint; raises as ``complete`` does."""
        return self._persist(self._fetch_models)

    def open_channel(self, allowance: Allowance | None = None) -> Channel:
        """Return a kept connection for many requests, all from one thread.

        Those that share an *allowance* hold no more of large replies at once.
        """
        return Channel(
            self._transport,
            _ENDPOINT,
            self._headers,
            connect=self._limits.connect,
            explain=self.explain,
            veil=self._veil,
            allowance=allowance,
        )

    def explain(self, error: KimiError, model: str) -> None:
        """Add to *error* what can be done: where it is the key, or there is no such *model*."""
        if not isinstance(error, Refused):
            return
        self._note_token(error)
        if error.refusal.verdict is not Verdict.NOT_SERVED:
            return
        if error.refusal.names_model and (advice := self._advise(self, model)):
            error.args = (f"{error}; {advice}",)

    def _note_token(self, error: Refused) -> None:
        """Let *error* say that no bearer token was sent, where one is refused."""
        if error.refusal.verdict is Verdict.TOKEN_REFUSED and "Authorization" not in self._headers:
            error.miss_token()

    def begin(self) -> Client:
        """Return a client for one question: the limit of the whole counts from now."""
        client = copy(self)
        client._limits = replace(self._limits, since=time.monotonic())
        return client

    def hurry(self) -> Client:
        """Return a client for what is only good to know: it waits little, and tries once."""
        client = copy(self)
        connect, idle = min(self._limits.connect, _SOON), min(self._limits.idle, _SOON)
        client._limits = replace(self._limits, connect=connect, idle=idle)
        client._policy = replace(self._policy, retries=0)
        return client

    def probe(self, *, has_models: bool) -> None:
        """Find out, at no cost, whether the token is taken; raises as ``complete`` does.

        A host without a models endpoint is sent a request that it must refuse: refusals are not
        billed.
        """
        method, path, body = ("GET", "/models", None) if has_models else ("POST", _ENDPOINT, b"{}")
        with self._send(method, path, body, None) as reply:
            reply.read(DOCUMENT_LIMIT)

    def _persist(self, call: Callable[[float | None], _T]) -> _T:
        """Run *call* until it succeeds or the policy ends it."""
        began = time.monotonic()
        total = self._limits.total
        deadline = None if total is None else (self._limits.since or began) + total
        policy = self._policy
        if total is not None:
            policy = replace(policy, budget=min(policy.budget, total))
        for attempt in count(1):
            try:
                return call(deadline)
            except KimiError as error:
                elapsed = time.monotonic() - began
                delay = policy.plan_delay(error, attempt=attempt, elapsed=elapsed)
                if delay is None:
                    raise
                self._notify(Retry(attempt, policy.retries, delay, error))
                sleep(delay)
        raise AssertionError("unreachable")

    def _complete_once(self, request: Request, deadline: float | None) -> Completion:
        with self._send("POST", _ENDPOINT, request.encode(), deadline) as reply:
            return read_completion(self._veil.cover(read_answer(reply)))

    def _start_stream(self, stack: ExitStack, request: Request, deadline: float | None) -> Stream:
        with ExitStack() as attempt:
            sent = self._send("POST", _ENDPOINT, request.encode(), deadline)
            stream = Stream(attempt.enter_context(sent), self._veil)
            stack.push(attempt.pop_all())
            return stream

    def _fetch_models(self, deadline: float | None) -> list[Model]:
        with self._send("GET", "/models", None, deadline) as reply:
            return read_models(read_listing(reply))

    @contextmanager
    def _send(
        self, method: str, path: str, body: bytes | None, deadline: float | None
    ) -> Iterator[Reply]:
        """Yield a reply of status 2xx; raise Refused or NotTheApi for any other."""
        call = Call(method, path, self._headers, body)
        with self._transport.exchange(call, self._limits, deadline) as reply:
            try:
                check_status(reply)
            except Refused as error:
                self._note_token(error)
                raise
            yield reply


def _is_json(reply: Reply) -> bool:
    return "json" in (reply.header("content-type") or "").lower()


def _refuse_foreign(reply: Reply) -> Iterator[bytes]:
    """Yield the pieces of *reply*; raise NotTheApi first when they are no event stream."""
    pieces = reply.iterate()
    if "event-stream" in (reply.header("content-type") or "").lower():
        yield from pieces
        return
    first = next(pieces, b"")
    if not first.removeprefix(b"\xef\xbb\xbf").lstrip().startswith((b"data:", b":", b"event:")):
        raise explain_foreign(reply, first)
    yield first
    yield from pieces
