"""A loopback chat-completion server in a process of its own, fast enough to measure clients with.

    python batch_server.py [--delay S] [--concurrency N] [--rate N --period S] [--dialect D]
                           [--after S] [--slots N] [--content TEXT]

It prints its port. With slots, so many answers are made at once, and further requests queue. A
limit that is reached is refused: in Moonshot's words, number and misleading hint included, or in
one of the dialects below, with a Retry-After if one is given. ``GET /stats`` returns what it saw;
moments in it are on the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import json
import time
from collections import deque

_ANSWER = {
    "id": "chatcmpl-952dd5e75583c4d1",
    "object": "chat.completion",
    "created": 1770992031,
    "model": "kimi-k2.5",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "Hello there, this is an answer."},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 9, "completion_tokens": 20, "total_tokens": 29},
}


_TOO_MANY, _BUSY = b"429 Too Many Requests", b"503 Service Unavailable"
_DIALECTS: dict[str, tuple[bytes, object]] = {
    "silent": (_TOO_MANY, {"error": {"message": "Too Many Requests"}}),
    "rate": (_TOO_MANY, {"error": {"code": "too_many_requests", "message": "slow down"}}),
    "places": (_TOO_MANY, {"error": {"code": "rate_limited", "message": "too many"}}),
    "detail": (_TOO_MANY, {"detail": "slow down"}),
    "empty": (_TOO_MANY, ""),
    "busy": (_BUSY, {"error": {"type": "unavailable_error", "message": "busy"}}),
    "page": (_BUSY, "<html><h1>503 Service Temporarily Unavailable</h1></html>"),
}
"""How a limit is refused; a string is the body itself."""


def _frame(status: bytes, document: object, *headers: str) -> bytes:
    body = document.encode() if isinstance(document, str) else json.dumps(document).encode()
    kind = "text/html" if isinstance(document, str) else "application/json"
    lines = [f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return b"HTTP/1.1 %s\r\n%s\r\n\r\n" % (status, "\r\n".join(lines).encode()) + body


class Account:
    """What is allowed, and what was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Allow what *options* say."""
        self.delay: float = options.delay
        self._concurrency: int | None = options.concurrency
        self._rate: int | None = options.rate
        self._period: float = options.period
        self._dialect: str = options.dialect
        self._headers = [] if options.after is None else [f"Retry-After: {options.after}"]
        self._admitted: deque[float] = deque()
        self._free: list[float] | None = [0.0] * options.slots if options.slots else None
        """When each slot is free again."""
        self.reply = _frame(b"200 OK", _ANSWER)
        if options.content is not None:
            message = {"role": "assistant", "content": options.content}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            self.reply = _frame(b"200 OK", {**_ANSWER, "choices": [choice]})
        self.running = 0
        self.seen = {"connections": 0, "answered": 0, "refused": 0, "first": 0.0}

    def find_delay(self) -> float:
        """Return the seconds until the answer to one more request."""
        if self._free is None:
            return self.delay
        now = time.monotonic()
        done = max(now, heapq.heappop(self._free)) + self.delay
        heapq.heappush(self._free, done)
        return done - now

    def refuse(self) -> bytes | None:
        """Return the refusal of one more request, or None and count it."""
        now = time.monotonic()
        while self._admitted and self._admitted[0] <= now - self._period:
            self._admitted.popleft()
        if self._concurrency is not None and self.running >= self._concurrency:
            return self._word(f"max organization concurrency: {self._concurrency}")
        if self._rate is not None:
            if len(self._admitted) >= self._rate:
                return self._word(f"organization max RPM: {self._rate}")
            self._admitted.append(now)
        return None

    def _word(self, limit: str) -> bytes:
        self.seen["refused"] += 1
        if self._dialect in _DIALECTS:
            return _frame(*_DIALECTS[self._dialect], *self._headers)
        error = {
            "type": "rate_limit_reached_error",
            "message": f"Your account org-1 request reached {limit}, "
            "please try again after 1 seconds",
        }
        return _frame(_TOO_MANY, {"error": error}, *self._headers)


class Conversation(asyncio.Protocol):
    """One connection, and the requests on it one by one."""

    def __init__(self, account: Account) -> None:
        """Serve *account*."""
        self._account = account
        self._seen = account.seen
        self._buffer = b""
        self._later = asyncio.get_running_loop().call_later

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count the connection."""
        self._transport = transport
        self._seen["connections"] += 1

    def data_received(self, data: bytes) -> None:
        """Answer every request that is whole."""
        if not self._seen["first"]:
            self._seen["first"] = time.monotonic()
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            _, found, value = head.partition(b"content-length:")
            size = int(value.split(b"\r\n", 1)[0]) if found else 0
            if len(self._buffer) < end + 4 + size:
                return
            self._buffer = self._buffer[end + 4 + size :]
            self._serve(head)

    def _serve(self, head: bytes) -> None:
        account = self._account
        if head.startswith(b"get /stats"):
            self._transport.write(_frame(b"200 OK", self._seen))
            self._seen["first"] = 0.0
        elif (refusal := account.refuse()) is not None:
            self._transport.write(refusal)
        elif account.delay:
            account.running += 1
            self._later(account.find_delay(), self._answer)
        else:
            self._seen["answered"] += 1
            self._transport.write(account.reply)

    def _answer(self) -> None:
        self._account.running -= 1
        self._seen["answered"] += 1
        if not self._transport.is_closing():
            self._transport.write(self._account.reply)


async def serve(options: argparse.Namespace) -> None:
    """Serve until the process is ended."""
    account = Account(options)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Conversation(account), "127.0.0.1", 0, backlog=2048)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--concurrency", type=int)
    parser.add_argument("--rate", type=int)
    parser.add_argument("--slots", type=int)
    parser.add_argument("--period", type=float, default=60.0)
    parser.add_argument("--dialect", choices=["moonshot", *_DIALECTS], default="silent")
    parser.add_argument("--after")
    parser.add_argument("--content", help="the text of every answer")
    asyncio.run(serve(parser.parse_args()))
