"""Bodies that come packed although nobody asked: undone whole, bounded, and never half."""

from __future__ import annotations

import gzip
import zlib
from http.client import IncompleteRead

import pytest
from conftest import Kimi
from hypothesis import given
from hypothesis import strategies as st
from server import ReplayServer, completion

from kimi_cli.api.http1 import unpack
from kimi_cli.errors import NotTheApi


def deflate_bare(data: bytes) -> bytes:
    """Pack without a header, as some servers understand the word."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


PACKERS = {
    "gzip": (gzip.compress, "gzip"),
    "twice": (lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]), "gzip"),
    "deflate": (zlib.compress, "deflate"),
    "bare": (deflate_bare, "deflate"),
    "old": (gzip.compress, "X-GZIP"),
    "plain": (bytes, None),
    "identity": (bytes, " identity "),
}


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(
    st.sampled_from(sorted(PACKERS)),
    st.one_of(st.binary(max_size=300), st.integers(0, 400_000).map(bytes)),
    st.integers(1, 5000),
)
def test_what_is_unpacked_is_what_was_packed(name: str, data: bytes, size: int) -> None:
    """However a body is packed, and wherever it is cut into pieces, its bytes come out."""
    pack, encoding = PACKERS[name]
    assert b"".join(unpack(iter(cut(pack(data), size)), encoding)) == data


@given(st.sampled_from(["gzip", "deflate", "bare"]), st.binary(min_size=1), st.data())
def test_a_cut_body_is_never_taken_for_a_whole_one(
    name: str, body: bytes, draw: st.DataObject
) -> None:
    """A packed body that ends early is a failure, wherever it ends."""
    pack, encoding = PACKERS[name]
    packed = pack(body)
    kept = draw.draw(st.integers(1, len(packed) - 1))
    with pytest.raises(IncompleteRead):
        list(unpack(iter([packed[:kept]]), encoding))


def test_no_piece_is_larger_than_agreed() -> None:
    """A small body that unfolds to much is handed on in small pieces."""
    sizes = [len(piece) for piece in unpack(iter([gzip.compress(bytes(10_000_000))]), "gzip")]
    assert sum(sizes) == 10_000_000
    assert max(sizes) <= 65536


def test_what_is_no_packing() -> None:
    """Bytes that are not packed as they say are named, as is a packing that nobody knows."""
    with pytest.raises(NotTheApi, match="cannot be decompressed"):
        list(unpack(iter([b"no gzip at all"]), "gzip"))
    with pytest.raises(NotTheApi, match="packed as br"):
        list(unpack(iter([b"x"]), "br"))


@pytest.mark.parametrize("packed", ["gzip", "deflate", "bare", "twice"])
@pytest.mark.parametrize("command", ["ask", "batch"])
def test_a_packed_answer_is_read(
    kimi: Kimi, server: ReplayServer, packed: str, command: str
) -> None:
    """A question and a row of a batch take the same packings."""
    reply = completion("Hello")
    pack, encoding = PACKERS[packed]
    body = pack(b"".join(step for step in reply.body if isinstance(step, bytes)))
    server.script(reply.but(body=[body], headers={**reply.headers, "Content-Encoding": encoding}))
    options = ["--base-url", server.url, "--no-auth"]
    if command == "ask":
        result = kimi("ask", *options, "--no-stream", "hi")
    else:
        result = kimi("batch", *options, "--format", "text", stdin=b'"hi"\n')
    assert result.status == 0, result.error
    assert b"Hello" in result.stdout


def test_a_packing_that_nobody_knows_is_named(kimi: Kimi, server: ReplayServer) -> None:
    """What cannot be unpacked is exit 76, with its name."""
    reply = completion("x")
    server.script(reply.but(headers={**reply.headers, "Content-Encoding": "br"}))
    result = kimi("ask", "--base-url", server.url, "--no-auth", "--no-stream", "hi")
    assert (result.stdout, result.status) == (b"", 76)
    assert "packed as br" in result.error
    assert result.error.count("\n") == 1
