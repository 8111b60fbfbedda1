"""A TCP connection to whichever of a host's addresses answers first (RFC 8305), or a socket's.

A host may have an address that swallows every packet, a broken IPv6 say: trying one after the
other with the whole limit each would never come to the next.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from typing import Any

_HEAD_START = 0.25
"""Seconds that an address has for itself, before the next is tried beside it."""


def dial(host: str, port: int, seconds: float, options: Iterable[Sequence[Any]]) -> socket.socket:
    """Return a socket that is connected, in blocking mode; *options* are for ``setsockopt``.

    Raises socket.gaierror for a name, TimeoutError after so many *seconds*, OSError otherwise.
    """
    # As bytes: it is ASCII already, and Python would load its tables of letters to see that.
    found = socket.getaddrinfo(host.encode("ascii"), port, 0, socket.SOCK_STREAM)
    addresses = _interleave(found)
    ends = time.monotonic() + seconds
    poll = select.poll()
    trying: dict[int, socket.socket] = {}
    failure: OSError | None = None
    with ExitStack() as stack:
        while addresses or trying:
            if addresses:
                try:
                    begun = _begin(addresses.pop(0), options)
                except OSError as error:
                    failure = error
                    continue
                trying[begun.fileno()] = stack.enter_context(begun)
                poll.register(begun, select.POLLOUT)
            left = ends - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
            for descriptor, _ in poll.poll(1000 * min(left, _HEAD_START if addresses else left)):
                reason = trying[descriptor].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if not reason:
                    connected = trying[descriptor].dup()
                    connected.setblocking(True)
                    return connected
                poll.unregister(descriptor)
                trying.pop(descriptor).close()
                failure = OSError(reason, os.strerror(reason))
    raise failure or OSError(f"no address of {host} can be used")


def dial_socket(path: str, seconds: float) -> socket.socket:
    """Return a socket that is connected to the one at *path*, within *seconds*; raises OSError."""
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(seconds)
        connected.connect(path)
        connected.settimeout(None)
    except BaseException:
        connected.close()
        raise
    return connected


def _interleave(found: Sequence[Any]) -> list[Any]:
    """Return the addresses in turns of their families, the resolver's first choice first."""
    first = [info for info in found if info[0] == found[0][0]]
    others = [info for info in found if info[0] != found[0][0]]
    turns: list[Any] = []
    while first or others:
        turns += first[:1] + others[:1]
        first, others = first[1:], others[1:]
    return turns


def _begin(info: Any, options: Iterable[Sequence[Any]]) -> socket.socket:
    """Begin to connect; raises OSError where that fails at once."""
    family, kind, protocol, _, address = info
    begun = socket.socket(family, kind, protocol)
    try:
        for option in options:
            begun.setsockopt(*option)
        begun.setblocking(False)
        reason = begun.connect_ex(address)
        if reason not in (0, errno.EINPROGRESS):
            raise OSError(reason, os.strerror(reason))
    except BaseException:
        begun.close()
        raise
    return begun
