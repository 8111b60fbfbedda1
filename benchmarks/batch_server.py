"""A loopback chat-completion server in a process of its own, fast enough to measure clients with.

    python batch_server.py [--delay S] [--concurrency N] [--rate N --period S] [--dialect D]
                           [--slots N]

It prints its port. With slots, so many answers are made at once, and further requests queue. A
limit that is reached is refused with 429: in Moonshot's words, number and misleading hint included,
or (silent) in words that tell nothing. ``GET /stats`` returns what it saw; moments in it are on
the monotonic clock, which all processes of a machine share.
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


def _frame(status: bytes, document: object) -> bytes:
    body = json.dumps(document).encode()
    head = b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    return head % (status, len(body)) + body


_REPLY = _frame(b"200 OK", _ANSWER)


class Account:
    """What is allowed, and what was asked for."""

    def __init__(self, options: argparse.Namespace) -> None:
        """Allow what *options* say."""
        self.delay: float = options.delay
        self._concurrency: int | None = options.concurrency
        self._rate: int | None = options.rate
        self._period: float = options.period
        self._moonshot = options.dialect == "moonshot"
        self._admitted: deque[float] = deque()
        self._free: list[float] | None = [0.0] * options.slots if options.slots else None
        """When each slot is free again."""
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
        error = {"message": "Too Many Requests"}
        if self._moonshot:
            error = {
                "type": "rate_limit_reached_error",
                "message": f"Your account org-1 request reached {limit}, "
                "please try again after 1 seconds",
            }
        return _frame(b"429 Too Many Requests", {"error": error})


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
            self._transport.write(_REPLY)

    def _answer(self) -> None:
        self._account.running -= 1
        self._seen["answered"] += 1
        if not self._transport.is_closing():
            self._transport.write(_REPLY)


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
    parser.add_argument("--dialect", choices=["moonshot", "silent"], default="silent")
    asyncio.run(serve(parser.parse_args()))
