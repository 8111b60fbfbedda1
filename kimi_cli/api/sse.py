"""Server-sent events, decoded from bytes as they arrive. No I/O.

The format is WHATWG HTML, section 9.2: lines end with LF, CR LF or CR; an empty line ends an
event. Only the data of an event is kept: neither host uses names, ids or retry times.
"""

from __future__ import annotations

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventDecoder:
    """Turns pieces of a byte stream, cut anywhere, into the data of its events."""

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._parts: list[bytes] = []
        self._held = 0
        self._last = b""
        self._after_cr = False
        self._at_start = True

    @property
    def held(self) -> int:
        """How many bytes of an unfinished event are held."""
        return self._held

    def feed(self, data: bytes) -> list[bytes]:
        """Take the next piece; return the data of every event that it completes, in order."""
        if self._after_cr or b"\r" in data:
            data = self._normalise(data)
        if not data:
            return []
        # Only the seam can hide an event's end in what is held already: look there, not in all
        # of it again, or an event that comes byte by byte would cost the square of its length.
        complete = b"\n\n" in data or (self._last == b"\n" and data[0] == 0x0A)
        self._last = data[-1:]
        self._parts.append(data)
        self._held += len(data)
        if not complete:
            return []
        blocks = b"".join(self._parts).split(b"\n\n")
        rest = blocks.pop()
        self._parts = [rest] if rest else []
        self._held = len(rest)
        if self._at_start:
            self._at_start = False
            blocks[0] = blocks[0].removeprefix(_BYTE_ORDER_MARK)
        events = []
        for block in blocks:
            if block.startswith(b"data: ") and b"\n" not in block:
                events.append(block[6:])
            elif (data_lines := _data_lines(block)) is not None:
                events.append(data_lines)
        return events

    def flush(self) -> bytes | None:
        """Return the data of an event whose last empty line never came, if there is any."""
        rest = b"".join(self._parts)
        self._parts, self._held = [], 0
        return _data_lines(rest.removeprefix(_BYTE_ORDER_MARK) if self._at_start else rest)

    def _normalise(self, data: bytes) -> bytes:
        """Make every line end LF; a CR LF may be cut between two pieces."""
        if self._after_cr and data.startswith(b"\n"):
            data = data[1:]
            self._after_cr = False
        if data:
            self._after_cr = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _data_lines(block: bytes) -> bytes | None:
    """Join the ``data`` fields of one event by LF; None when it has none (a comment, say)."""
    values = []
    for line in block.split(b"\n"):
        name, _, value = line.partition(b":")
        if name == b"data":
            values.append(value.removeprefix(b" "))
    return b"\n".join(values) if values else None
