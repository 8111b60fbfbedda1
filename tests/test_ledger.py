"""The ledger's memory of what is done."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from kimi_cli.batch.ledger import HashSet

HASHES = st.binary(min_size=4, max_size=4)


@given(st.lists(HASHES), st.lists(HASHES))
def test_a_set_of_hashes_is_a_set(added: list[bytes], asked: list[bytes]) -> None:
    """Whatever lies beside it in its bucket, a hash is found if and only if it was added."""
    hashes, truth = HashSet(4), set[bytes]()
    for item in added:
        assert hashes.add(item) is (item not in truth)
        truth.add(item)
    assert len(hashes) == len(truth)
    assert all((item in hashes) is (item in truth) for item in [*added, *asked])


@given(st.lists(HASHES), st.lists(HASHES))
def test_sets_are_merged(one: list[bytes], other: list[bytes]) -> None:
    """Every hash of both is in the result, once."""
    left, right = HashSet(4), HashSet(4)
    for hashes, items in ((left, one), (right, other)):
        for item in items:
            hashes.add(item)
    left.merge(right)
    assert len(left) == len({*one, *other})
    assert all(item in left for item in [*one, *other])


def test_it_is_small() -> None:
    """A hundred thousand keys take a few bytes each beyond their own sixteen."""

    def make(numbers: Iterable[int]) -> HashSet:
        hashes = HashSet(16)
        for number in numbers:
            hashes.add(hashlib.blake2b(str(number).encode(), digest_size=16).digest())
        return hashes

    tracemalloc.start()
    hashes = make(range(100_000))
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(hashes) == 100_000
    assert size < 8_000_000
