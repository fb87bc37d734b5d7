"""Binary codes: how they are computed, and which transforms are valid."""

from datetime import UTC, datetime

import numpy as np
import pytest

from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError
from search_service.core.codes import CodeTransform, check_transform, latest_set, ready_set
from search_service.core.types import CodeSet, Collection, Metric

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def collection(dimension: int = 96, *codes: CodeSet) -> Collection:
    return Collection("shoes", dimension, "f", NOW, codes=codes)


def transform(bits: int = 64, dimension: int = 96) -> CodeTransform:
    return CodeTransform(np.random.default_rng(0).normal(size=(bits, dimension + 1)).astype(np.float32))


@pytest.mark.parametrize("metric", list(Metric))
def test_code_bits_are_the_sides_of_the_hyperplanes(metric: Metric) -> None:
    made = transform()
    vectors = (3 * np.random.default_rng(1).normal(size=(50, 96)) + 1).astype(np.float32)
    codes = made.encode(vectors, metric)
    assert codes.dtype == np.uint8
    assert codes.shape == (50, 8)
    bits = np.unpackbits(codes, axis=1)
    for vector, found in zip(vectors.astype(float), bits, strict=True):
        length = np.sqrt(sum(x * x for x in vector)) if metric is Metric.COSINE else 1.0
        for row, bit in zip(made.hyperplanes.astype(float), found, strict=True):
            side = sum(w * x / length for w, x in zip(row[:-1], vector, strict=True)) + row[-1]
            assert abs(side) < 1e-4 or bit == (side > 0)


def test_only_cosine_codes_ignore_the_length_of_a_vector() -> None:
    made = transform()
    vectors = np.random.default_rng(1).normal(size=(50, 96)).astype(np.float32)
    assert (made.encode(vectors, Metric.COSINE) == made.encode(4 * vectors, Metric.COSINE)).all()
    assert (made.encode(vectors, Metric.L2) != made.encode(4 * vectors, Metric.L2)).any()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("exponent", [-100, 100])
def test_code_does_not_depend_on_the_scale_of_a_hyperplane(exponent: int) -> None:
    vectors = (1e18 * np.random.default_rng(1).normal(size=(50, 96))).astype(np.float32)
    scaled = CodeTransform(np.ldexp(transform().hyperplanes, exponent))
    assert (scaled.encode(vectors, Metric.L2) == transform().encode(vectors, Metric.L2)).all()


def test_version_is_the_hash_of_the_hyperplanes() -> None:
    one, same = transform(), transform()
    assert one.version == same.version
    assert len(one.version) == 16
    changed = one.hyperplanes.copy()
    changed[3, -1] = np.nextafter(changed[3, -1], np.float32(9))
    assert CodeTransform(changed).version != one.version


@pytest.mark.parametrize(("bits", "dimension"), [(0, 96), (56, 96), (68, 96), (104, 96), (520, 2048)], ids=str)
def test_transform_rejects_number_of_bits_out_of_range(bits: int, dimension: int) -> None:
    with pytest.raises(InvalidArgumentError, match=r"64 to 512, a multiple of 8, and at most \d+, the dim") as caught:
        check_transform(transform(bits, dimension), collection(dimension))
    assert (caught.value.reason, caught.value.field) == ("CODE_TRANSFORM_INVALID", "transform.hyperplanes")


@pytest.mark.parametrize(("column", "value"), [(5, np.nan), (0, np.inf), (-1, -np.inf)])
def test_transform_rejects_hyperplane_that_is_not_finite(column: int, value: float) -> None:
    made = transform()
    made.hyperplanes[7, column] = value
    with pytest.raises(InvalidArgumentError, match="is not finite") as caught:
        check_transform(made, collection())
    assert caught.value.field == "transform.hyperplanes[7]"


def test_transform_rejects_normal_of_zeros() -> None:
    made = transform()
    made.hyperplanes[2, :-1] = 0
    with pytest.raises(InvalidArgumentError, match="normal of zeros") as caught:
        check_transform(made, collection())
    assert caught.value.field == "transform.hyperplanes[2]"


def test_searches_use_the_ready_set_and_encoding_uses_the_latest() -> None:
    old, new = CodeSet("a", 1, 64, NOW, ready=True), CodeSet("b", 2, 64, NOW)
    assert ready_set(collection(96, old, new), "coarse") == old
    assert latest_set(collection(96, old, new)) == new
    for codes, reason in (((), "CODES_MISSING"), ((new,), "CODES_INCOMPLETE")):
        with pytest.raises(FailedPreconditionError, match="imagesearch codes") as caught:
            ready_set(collection(96, *codes), "coarse")
        assert (caught.value.reason, caught.value.field) == (reason, "coarse")
