"""Filters select the same images in every store, for any values."""

import asyncio
import math
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grpc_kit.deadline import Deadline
from search_service.core.filters import (
    MAX_CONDITIONS,
    MAX_VALUES,
    And,
    Equals,
    Exists,
    Filter,
    FilterValue,
    IdAfter,
    In,
    Not,
    Or,
    Prefix,
    Range,
    TextRange,
    UpdatedWithin,
)
from search_service.core.ports import VectorStore
from search_service.core.types import AttributeValue, Collection, Consistency, StoredImage, View
from tests.contract.searching import search_one
from tests.memory_store import fits

T0 = datetime(2026, 1, 1, tzinfo=UTC)
VALUES: list[AttributeValue] = [
    "", "abc", "ab", "ab_c", "abd", "ABC", 'quo"te', "apos'trophe", "back\\slash", "\\", "line\nend", "re\rturn", "tab\t",
    "\x01\x1f\x7f\x85", "\u2028", "{x}", "%", "_", "ทดสอบ", "😀", "😀z", "\U0010ffff", "\ud7ff", "\ue000", "1", "true", "null",
    0, 1, -1, 3, 3.0, 2.5, -2.5, 1e-7, 1e300, -1e300, 2**53 + 1, 2**62, -(2**62), 0.1, True, False,
    2**53, 2.0**53, 2**53 + 2, 2.0**53 + 2, -(2**53) - 1, 2.0**62, 2**63 - 1, -(2**63), -(2**63) + 1, -(2.0**63), 2.0**70,
    [], ["abc"], ["ab", 'quo"te', "ทดสอบ"], ["", "1"], ["{x}", "line\nend"],
]  # fmt: skip
ATTRIBUTES = ("x", "y", "id", "n_x")


def images() -> list[StoredImage]:
    """Return images with every value under one name, some values under other names, and images without attributes."""
    made: list[dict[str, AttributeValue]] = [{}, {"y": 1}]
    made += [{"x": value} for value in VALUES]
    made += [{"x": one, "y": other, "id": other} for one, other in zip(VALUES, reversed(VALUES), strict=True)]
    made += [{"n_x": value} for value in VALUES[::5]]
    return [
        StoredImage(
            id=f"i{number:03d}",
            attributes=attributes,
            create_time=T0,
            update_time=T0 + number // 2 * timedelta(microseconds=1),
            vector=np.array([1, number, 0, 0, 0, 0, 0, 0], np.float32),
        )
        for number, attributes in enumerate(made)
    ]


IMAGES = images()
NUMBERS = [value for value in VALUES if isinstance(value, int | float) and not isinstance(value, bool)]
TEXTS = [value for value in VALUES if isinstance(value, str)]
names = st.sampled_from(ATTRIBUTES)
values = st.sampled_from([value for value in VALUES if not isinstance(value, list)]) | st.text(max_size=5)
# Also neighbors of large integers, which are equal as doubles.
WHOLE = [number + step for number in NUMBERS if isinstance(number, int) for step in (-1, 0, 1)]
stated = (
    st.sampled_from([float(number) for number in NUMBERS if number < 2**63 - 1])
    | st.sampled_from([number for number in WHOLE if -(2**63) <= number < 2**63])
    | st.floats(-5, 5)
)
bounds = st.none() | stated
ranges = st.one_of(
    st.builds(Range, names, gte=stated, lte=bounds),
    st.builds(Range, names, gt=stated, lt=bounds),
    st.builds(Range, names, lte=stated),
    st.builds(Range, names, lt=stated, gte=bounds),
)
texts = st.sampled_from([text for text in TEXTS if text]) | st.text(max_size=3)
text_ranges = st.one_of(
    st.builds(TextRange, names, gte=texts, lt=st.none() | texts),
    st.builds(TextRange, names, gt=texts, lte=st.none() | texts),
    st.builds(TextRange, names, lte=texts),
    st.builds(TextRange, names, lt=texts),
)
leaves: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, names, values),
    st.builds(In, names, st.lists(values, min_size=1, max_size=4).map(tuple)),
    ranges,
    text_ranges,
    st.builds(Prefix, names, st.sampled_from([text for text in TEXTS if text]) | st.text(min_size=1, max_size=2)),
    st.builds(Exists, names),
    st.builds(IdAfter, st.sampled_from([image.id for image in IMAGES])),
    st.builds(UpdatedWithin, st.just(T0), st.integers(0, 60).map(lambda n: T0 + n * timedelta(microseconds=1))),
)
filters = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(And, st.lists(inner, min_size=1, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=1, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@pytest.fixture
async def filled(store: VectorStore, collection: Collection, deadline: Deadline) -> Collection:
    await store.upsert(collection, IMAGES, deadline)
    assert await store.count(collection, None, Consistency.STRONG, deadline) == len(IMAGES)
    # From now on, bounded reads see all images; on a server they are a hundred times faster.
    await asyncio.sleep(1)
    return collection


async def chosen(store: VectorStore, collection: Collection, condition: Filter) -> list[str]:
    deadline, bounded = Deadline.after(20), Consistency.BOUNDED
    found = await store.query(collection, condition, 1000, View.ID, bounded, deadline)
    assert await store.count(collection, condition, bounded, deadline) == len(found)
    return [image.id for image in found]


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(condition=filters)
async def test_filter_selects_the_matching_images(store: VectorStore, filled: Collection, condition: Filter) -> None:
    assert await chosen(store, filled, condition) == [image.id for image in IMAGES if fits(image, condition)]


async def test_each_value_matches_equals_and_not_its_negation(store: VectorStore, filled: Collection) -> None:
    for value in VALUES:
        if isinstance(value, FilterValue):
            for condition in (Equals("x", value), Not(Equals("x", value))):
                assert await chosen(store, filled, condition) == [
                    image.id for image in IMAGES if fits(image, condition)
                ], condition


async def test_search_returns_the_nearest_matching_images(
    store: VectorStore, filled: Collection, deadline: Deadline
) -> None:
    condition = Or((Range("x", gte=-10, lt=10), Prefix("x", "a")))
    vector = np.array([1, 30, 0, 0, 0, 0, 0, 0], np.float32)
    hits = await search_one(store, filled, vector, condition, 5, View.BASIC, Consistency.STRONG, deadline)
    fitting = [image for image in IMAGES if fits(image, condition)]
    assert len(hits) == 5
    assert all(hit.image in [_without_vector(image) for image in fitting] for hit in hits)
    nearest = sorted(fitting, key=lambda image: abs(math.atan(int(image.id[1:])) - math.atan(30)))
    assert hits[0].image.id == nearest[0].id


def _without_vector(image: StoredImage) -> StoredImage:
    return StoredImage(
        image.id,
        attributes={
            name: list(value) if isinstance(value, list) else value for name, value in image.attributes.items()
        },
        create_time=image.create_time,
        update_time=image.update_time,
    )


@pytest.mark.parametrize(
    "condition",
    [
        In("x", (*(f"value {number}" for number in range(MAX_VALUES - 1)), "abc")),
        Or((*(Equals("x", f"v{number}") for number in range(MAX_CONDITIONS - 2)), Equals("x", "abc"))),
        Not(And(tuple(Not(Equals("x", text)) for text in ["abc"] * 200))),
    ],
    ids=["in", "or", "and"],
)
async def test_largest_filters_are_answered(store: VectorStore, filled: Collection, condition: Filter) -> None:
    assert await chosen(store, filled, condition) == [image.id for image in IMAGES if fits(image, Equals("x", "abc"))]


async def test_deepest_filters_are_answered(store: VectorStore, filled: Collection) -> None:
    condition: Filter = Equals("x", "abc")
    for level in range(14):
        condition = And((condition, Not(Exists("nothing")))) if level % 2 else Or((condition, Exists("nothing")))
    assert await chosen(store, filled, condition) == [image.id for image in IMAGES if fits(image, condition)]


async def test_query_returns_the_lowest_ids_in_order(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    shuffled = [f"i{number * 7919 % 3000:04d}" for number in range(3000)]
    for begin in range(0, 3000, 1000):
        made = [StoredImage(name, vector=np.ones(8, np.float32)) for name in shuffled[begin : begin + 1000]]
        await store.upsert(collection, made, deadline)
    # Some images twice: a server keeps both rows for a while.
    await store.upsert(
        collection, [StoredImage(name, vector=np.ones(8, np.float32)) for name in shuffled[:500]], deadline
    )
    last, seen = "", []
    while found := await store.query(collection, IdAfter(last), 700, View.ID, Consistency.STRONG, deadline):
        seen += [image.id for image in found]
        last = seen[-1]
    assert seen == sorted(shuffled)


# Each with neighbors that are equal to it as float32, as float64, or in Python.
EXTREMES: list[AttributeValue] = [
    2**53 - 1, 2**53, 2**53 + 1, 2.0**53, 2**60 + 1, 2.0**60, 2**63 - 1, 2.0**63, -(2**63), -(2.0**63), 2**63 - 512,
    0, 0.0, -0.0, 1, 1.0, True, False, 5e-324, -5e-324, 2.5, 2, 2.0, 1.7976931348623157e308, -1.7976931348623157e308, "1",
]  # fmt: skip


async def test_extreme_numbers_are_compared_exactly(
    store: VectorStore, collection: Collection, deadline: Deadline
) -> None:
    stored = [
        StoredImage(f"i{number:02d}", attributes={"x": value}, vector=np.ones(8, np.float32))
        for number, value in enumerate(EXTREMES)
    ]
    await store.upsert(collection, stored, deadline)
    assert await store.count(collection, None, Consistency.STRONG, deadline) == len(stored)
    await asyncio.sleep(1)
    numbers = [value for value in EXTREMES if isinstance(value, int | float) and not isinstance(value, bool)]
    conditions: list[Filter] = [Range("x", **{name: bound}) for bound in numbers for name in ("gte", "gt", "lte", "lt")]
    conditions += [Range("x", gte=bound, lte=bound) for bound in numbers]
    conditions += [Equals("x", value) for value in EXTREMES if isinstance(value, FilterValue)]
    conditions += [In("x", (2**53 + 1, 2.0**60, True)), In("x", (-(2**63), 0, 2**63 - 1, 5e-324))]
    for condition in (*conditions, *map(Not, conditions)):
        expected = [image.id for image in stored if fits(image, condition)]
        assert await chosen(store, collection, condition) == expected, condition
