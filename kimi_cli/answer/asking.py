"""Asking: the pieces of an answer go to who listens, and the whole to who wants to judge it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from kimi_cli.api.messages import Completion, Delta, Ending, Request, join_deltas
from kimi_cli.errors import KimiError

if TYPE_CHECKING:
    from kimi_cli.api.client import Client


class Listener(Protocol):
    """Who is told of an answer while it comes."""

    def note(self, delta: Delta) -> None:
        """Take what has come."""

    def end(self, ending: Ending) -> None:
        """Take what is known of the answer, once it is over and nothing failed."""


class Follow(Protocol):
    """A way to ask: each piece of the answer goes to every listener in turn, then the ending."""

    def __call__(self, request: Request, *listeners: Listener) -> Ending:
        """Ask; raises what the client and the listeners raise."""


class Collector:
    """Listens, and has the whole answer in the end."""

    def __init__(self) -> None:
        """Begin before the first piece."""
        self._deltas: list[Delta] = []
        self.ending: Ending | None = None
        """What is known of the answer; None while it comes, or where it broke off."""

    def note(self, delta: Delta) -> None:
        """Keep what has come."""
        self._deltas.append(delta)

    def end(self, ending: Ending) -> None:
        """Keep what is known of the answer."""
        self.ending = ending

    def join(self) -> Completion:
        """Return all that has come."""
        return join_deltas(self._deltas, self.ending or Ending())


def follow(client: Client, request: Request, *listeners: Listener) -> Ending:
    """Ask, and hand each piece of the answer to every listener in turn; nothing is kept.

    Raises what the client and the listeners raise; what a model that there is not can be
    replaced by is said.
    """
    try:
        return follow_plainly(client, request, *listeners)
    except KimiError as error:
        client.explain(error, request.model)
        raise


def follow_plainly(client: Client, request: Request, *listeners: Listener) -> Ending:
    """Ask as ``follow`` does; an error is only what the host said."""
    if request.stream:
        with client.stream(request) as stream:
            for delta in stream:
                for listener in listeners:
                    listener.note(delta)
        ending = stream.ending
    else:
        completion = client.complete(request)
        for listener in listeners:
            listener.note(completion.delta)
        ending = completion.ending
    for listener in listeners:
        listener.end(ending)
    return ending


def ask(follow: Follow, request: Request, *listeners: Listener) -> Completion:
    """Ask by *follow*, and return the whole answer; *listeners* are told of it as well."""
    collector = Collector()
    follow(request, *listeners, collector)
    return collector.join()
