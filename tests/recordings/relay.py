"""A relay on a loopback port that keeps every byte that a real server sends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

Watch = Callable[[bytes], bool]
"""Sees all that a server has sent so far on a connection; the connection ends when it says so."""


def never(sent: bytes) -> bool:
    """End nothing."""
    return False


@dataclass
class Relay:
    """Connections to a port of this machine: what comes back on each request is kept to the byte.

    `headers` are put into every request, as a proxy or a profile does. With `withhold` only the
    beginning of a request goes on: its sender seems to have died. With `silent` nothing comes back.
    """

    target: int
    headers: Mapping[str, str] = field(default_factory=dict)
    watch: Watch = never
    withhold: int | None = None
    silent: bool = False
    received: list[bytearray] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Listen on a free port."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._join, args=(client,), daemon=True).start()

    def _join(self, client: socket.socket) -> None:
        replies: list[bytearray] = []
        with client, socket.create_connection(("127.0.0.1", self.target)) as server:
            arguments = (client, server, replies)
            up = threading.Thread(target=self._send_up, args=arguments, daemon=True)
            up.start()
            with suppress(OSError):
                while data := server.recv(65536):
                    replies[-1].extend(data)
                    if not self.silent:
                        client.sendall(data)
                    if self.watch(bytes(replies[-1])):
                        break
            for side in (client, server):
                with suppress(OSError):
                    side.shutdown(socket.SHUT_RDWR)
            up.join()

    def _send_up(
        self, client: socket.socket, server: socket.socket, replies: list[bytearray]
    ) -> None:
        lines = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
        with suppress(OSError):
            while data := client.recv(65536):
                if data.startswith((b"POST /", b"GET /")):
                    replies.append(bytearray())
                    self.received.append(replies[-1])
                    start, line_end, rest = data.partition(b"\r\n")
                    data = start + line_end + lines.encode() + rest
                server.sendall(data[: self.withhold])
            server.shutdown(socket.SHUT_RDWR)
