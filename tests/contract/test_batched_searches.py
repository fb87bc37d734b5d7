"""Concurrent searches return what single searches return, even if their filters are similar."""

import asyncio
import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpc_kit.deadline import Deadline
from search_service.core.filters import And, Equals, Exists, Filter, FilterValue, In, Not, Or, Range
from search_service.core.ports import Nearest, VectorStore
from search_service.core.types import AttributeValue, Collection, Consistency, SearchParameters, StoredImage, View
from tests.contract.test_filters import T0

# Some of these are equal in Python, so that a dictionary would have one key for them.
ALIKE: Sequence[FilterValue] = (True, 1, 1.0, False, 0, 0.0, -0.0, "", "1", "True", 2**53, 2.0**53, 2**53 + 1)
VALUES: Sequence[AttributeValue] = (*ALIKE, [], [""], ["1"])
IMAGES = [
    StoredImage(
        id=f"i{number:02d}",
        attributes={"k": value},
        create_time=T0,
        update_time=T0,
        vector=np.array([1, number, 0, 0, 0, 0, 0, 0], np.float32),
    )
    for number, value in enumerate(VALUES)
] + [StoredImage("none", create_time=T0, update_time=T0, vector=np.ones(8, np.float32))]
values = st.sampled_from(ALIKE)
numbers = st.sampled_from([value for value in ALIKE if isinstance(value, int | float) and not isinstance(value, bool)])
leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, st.just("k"), values),
    st.builds(In, st.just("k"), st.lists(values, min_size=1, max_size=2).map(tuple)),
    st.builds(Range, st.just("k"), gte=numbers),
    st.builds(Range, st.just("k"), gt=numbers, lte=st.none() | numbers),
    st.builds(Exists, st.just("k")),
)
filters = leaves | st.builds(Not, leaves) | st.builds(lambda a, b: And((a, b)), leaves, leaves)
filters |= st.builds(lambda a, b: Or((a, b)), leaves, leaves)
asked = st.builds(
    Nearest,
    st.sampled_from([1, 5, 30]),
    st.sampled_from([View.ID, View.BASIC, View.FULL]),
    st.just(Consistency.BOUNDED),
    st.none() | filters,
    st.sampled_from([SearchParameters(), SearchParameters(ef=64)]),
)


async def hits(store: VectorStore, collection: Collection, nearest: Nearest) -> list[object]:
    (found,) = await store.search(collection, [np.ones(8, np.float32)], nearest, Deadline.after(30))
    return [
        (hit.image.id, round(hit.score, 5), hit.image.attributes, hit.image.vector is not None, len(found))
        for hit in found
    ]


async def test_batched_searches_return_what_single_searches_return(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    await store.upsert(collection, IMAGES, deadline)
    assert await store.count(collection, None, Consistency.STRONG, deadline) == len(IMAGES)
    await asyncio.sleep(1)
    loop = asyncio.get_running_loop()

    async def check(one: Nearest, other: Nearest) -> None:
        alone = [await hits(store, collection, one), await hits(store, collection, other)]
        # Many searches with each filter, so that most of them wait and share a request.
        pairs = [hits(store, collection, nearest) for _ in range(8) for nearest in (one, other)]
        together = await asyncio.gather(*pairs)
        assert together[0::2] == [alone[0]] * 8
        assert together[1::2] == [alone[1]] * 8

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(asked, asked)
    def pairs_agree(one: Nearest, other: Nearest) -> None:
        asyncio.run_coroutine_threadsafe(check(one, other), loop).result(60)

    for one, other in ((True, 1), (1.0, True), (0, False), ("", False), (2**53, 2**53 + 1)):
        nearest = Nearest(30, View.ID, Consistency.BOUNDED, Equals("k", one))
        await check(nearest, dataclasses.replace(nearest, condition=Equals("k", other)))
    await asyncio.to_thread(pairs_agree)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Equals("k", True), Equals("k", 1)),
        (Equals("k", 1), Equals("k", 1.0)),
        (In("k", (0, 1)), In("k", (False, 1))),
        (Range("k", gte=0.0), Range("k", gte=-0.0)),
        (Range("k", gte=1), Range("k", gte=1.0)),
        (Not(Equals("k", True)), Not(Equals("k", 1))),
        (And((Equals("k", 1),)), Or((Equals("k", 1),))),
    ],
)
def test_filters_with_different_meanings_are_not_batched(one: Filter, other: Filter) -> None:
    assert one != other
    assert len({one, other}) == 2
    assert len({one, dataclasses.replace(one)}) == 1
