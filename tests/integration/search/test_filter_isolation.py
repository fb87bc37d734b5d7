"""Concurrent searches with similar filters: each caller gets the hits of its own filter."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from imagesearch_client import Client, Embedding, NewImage
from imagesearch_client.filters import Filter, Value, equals, is_in, negated, number

CALLERS = 16
QUERY = Embedding([1, 1], "f")
VALUES: Sequence[Value] = (True, 1, False, 0, 2.5, "1", "", "True", 2**53, 2**53 + 1)
FILTERS: tuple[Filter, ...] = (
    *(equals("k", value) for value in VALUES),
    equals("k", 1.0),
    is_in("k", True, 0),
    is_in("k", 1, False),
    negated(equals("k", True)),
    negated(equals("k", 1)),
    number("k", gte=0),
    number("k", gte=2**53 + 1),
    number("k", gte=float(2**53)),
)


def search_together(address: str, name: str, rounds: int) -> None:
    with Client(address) as client:
        client.create_collection(name, dimension=2, fingerprint="f")
        images = [
            NewImage(f"i{position:02d}", Embedding([1, position], "f"), attributes={"k": value})
            for position, value in enumerate(VALUES)
        ]
        assert all(result.error is None for result in client.write(name, images))

        def search(where: Filter) -> list[str]:
            return [hit.image.id for hit in client.search(name, QUERY, where=where, limit=20)]

        assert client.search(name, QUERY, limit=20, strong=True)
        alone = [search(where) for where in FILTERS]
        assert len({tuple(found) for found in alone}) > len(VALUES)
        with ThreadPoolExecutor(CALLERS) as threads:
            found = list(threads.map(search, FILTERS * rounds))
    assert found == alone * rounds


def test_concurrent_callers_get_hits_of_their_own_filters(search_address: str, name: str) -> None:
    search_together(search_address, name, 30)


@pytest.mark.soak
def test_ten_thousand_concurrent_searches_get_hits_of_their_own_filters(search_address: str, name: str) -> None:
    search_together(search_address, name, 10_000 // len(FILTERS) + 1)
