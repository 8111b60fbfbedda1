"""A server for the benchmarks: streams made beforehand, sent without a delay.

``/chunked`` sends one HTTP chunk an event, as most hosts do; ``/closed`` ends with the connection.
The ``stamp`` forms send a single delta that holds the time at which it is written, ``/stuck``
sends one and no more.

Called as ``server.py CHUNKS [CERTIFICATE]``; with a certificate it speaks TLS.
"""

from __future__ import annotations

import json
import re
import socket
import ssl
import sys
import threading
import time

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n"
_CHUNKED = b"Transfer-Encoding: chunked\r\n"


def make_event(text: str, finish: str | None = None) -> bytes:
    """Return one event in the shape of the gateway's guide."""
    chunk = {
        "id": "chatcmpl-952dd5e75583c4d1",
        "object": "chat.completion.chunk",
        "created": 1770992031,
        "model": "kimi-k2.5",
        "system_fingerprint": None,
        "choices": [
            {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
        ],
        "usage": None,
    }
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def frame(event: bytes) -> bytes:
    """Return *event* as one HTTP chunk."""
    return b"%x\r\n%s\r\n" % (len(event), event)


class Server:
    """Answers every POST by its path."""

    def __init__(self, chunks: int, certificate: str | None = None) -> None:
        """Make the bytes of streams of *chunks* chunks."""
        self._context = None
        if certificate is not None:
            self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self._context.load_cert_chain(certificate)
        events = [make_event(f" token{number}") for number in range(chunks)]
        self._end = make_event("", "stop") + b"data: [DONE]\n\n"
        self._closed = b"".join([*events, self._end])
        self._chunked = b"".join(frame(event) for event in [*events, self._end]) + b"0\r\n\r\n"

    def run(self) -> None:
        """Listen on any port, print the URL, and answer until the process is ended."""
        with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
            scheme = "https" if self._context else "http"
            print(f"{scheme}://127.0.0.1:{listener.getsockname()[1]}", flush=True)
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._context is not None:
            connection = self._context.wrap_socket(connection, server_side=True)
        with connection:
            path = _read_request(connection)
            chunked = "chunked" in path
            connection.sendall(_HEAD + (_CHUNKED if chunked else b"") + b"\r\n")
            if "stuck" in path:
                connection.sendall(make_event(" stuck"))
                connection.recv(1)
                return
            if "stamp" in path:
                self._send_stamp(connection, chunked=chunked)
            else:
                connection.sendall(self._chunked if chunked else self._closed)
            connection.shutdown(socket.SHUT_WR)
            connection.recv(1)

    def _send_stamp(self, connection: socket.socket, *, chunked: bool) -> None:
        time.sleep(0.2)
        now = f" {time.clock_gettime(time.CLOCK_MONOTONIC):.6f}"
        event = make_event(now)
        connection.sendall(frame(event) if chunked else event)
        time.sleep(0.2)
        connection.sendall(frame(self._end) + b"0\r\n\r\n" if chunked else self._end)


def _read_request(connection: socket.socket) -> str:
    """Read one whole request; return its path."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += connection.recv(65536)
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    left = int(length[1]) - len(body) if length else 0
    while left > 0:
        left -= len(connection.recv(65536))
    return head.split(b" ")[1].decode()


if __name__ == "__main__":
    Server(int(sys.argv[1]), *sys.argv[2:3]).run()
