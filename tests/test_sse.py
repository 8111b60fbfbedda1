"""The event decoder: any cut of the bytes, the same events."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.api.sse import EventDecoder


def decode(*pieces: bytes) -> list[bytes]:
    """Return the events of a stream that comes in *pieces*."""
    decoder = EventDecoder()
    return [event for piece in pieces for event in decoder.feed(piece)]


def decode_slowly(stream: bytes) -> list[bytes]:
    """Decode line by line, as WHATWG HTML 9.2 tells it: slow, and plainly right."""
    text = stream.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, data = [], []
    for line in text.split(b"\n")[:-1]:
        if not line:
            if data:
                events.append(b"\n".join(data))
            data = []
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value[1:] if value.startswith(b" ") else value)
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\r\n\r\ndata:two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        (b": comment\n\ndata: one\n\n", [b"one"]),
        (b"event: x\nid: 7\nretry: 1\ndata: one\n\n", [b"one"]),
        (b"data: one\ndata: two\n\n", [b"one\ntwo"]),
        (b"data\n\n", [b""]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        ("data: a\u2028b\u0085c\n\n".encode(), ["a\u2028b\u0085c".encode()]),
        (b"data: unfinished", []),
    ],
)
def test_streams_are_decoded(stream: bytes, events: list[bytes]) -> None:
    """Every form of line end, field and comment means what the standard says."""
    assert decode(stream) == events
    assert decode(*(bytes([byte]) for byte in stream)) == events


LINES = st.sampled_from(
    [b"data: {}", b"data:x", b"data", b": ping", b"event: error", b"", b"", b"data: \xe4\xbd\xa0"]
)
STREAMS = st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r\n", b"\r"]))).map(
    lambda lines: b"".join(text + end for text, end in lines)
)


@given(STREAMS | st.binary(), st.lists(st.integers(0, 200)))
def test_any_cut_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    """Where the network cuts a stream does not change its events, and nothing makes it raise."""
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[start:end] for start, end in itertools.pairwise(places)]
    assert decode(*pieces) == decode_slowly(stream)


@pytest.mark.parametrize("rest", [b"data: [DONE]", b"data: [DONE]\n", b"id: 1\ndata: [DONE]\r\n"])
def test_an_event_without_its_empty_line_can_be_had(rest: bytes) -> None:
    """Some hosts leave out the last empty line."""
    decoder = EventDecoder()
    assert decoder.feed(rest) == []
    assert decoder.flush() == b"[DONE]"
    assert decoder.flush() is None


def test_what_is_held_is_known() -> None:
    """A caller can bound the size of one event."""
    decoder = EventDecoder()
    decoder.feed(b"data: one\n\ndata: " + b"x" * 100)
    assert decoder.held == 106
