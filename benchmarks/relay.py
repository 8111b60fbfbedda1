"""A relay that makes a server seem far away: what comes is held for a while, each way.

Called as ``relay.py PORT SECONDS``; prints its own port. Connecting to it takes no time, as on a
machine of the same house; every byte after that takes *SECONDS* to the server, and as long back.
"""

from __future__ import annotations

import contextlib
import socket
import sys
import threading
import time
from queue import SimpleQueue


def carry(source: socket.socket, target: socket.socket, seconds: float) -> None:
    """Hand on what *source* sends, each piece *seconds* after it came, and at last its end."""
    pieces: SimpleQueue[tuple[float, bytes]] = SimpleQueue()

    def deliver() -> None:
        with contextlib.suppress(OSError):
            while True:
                due, data = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(data)

    threading.Thread(target=deliver, daemon=True).start()
    data = b"begun"
    while data:
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        pieces.put((time.monotonic() + seconds, data))


def main(port: int, seconds: float) -> None:
    """Listen on any port, print it, and relay until the process is ended."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", port))
            for connected in (near, far):
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for pair in ((near, far), (far, near)):
                threading.Thread(target=carry, args=(*pair, seconds), daemon=True).start()


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
