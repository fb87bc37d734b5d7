"""Vectors that stores cannot compare are rejected; vectors at the limits are compared correctly."""

from collections.abc import Iterator

import numpy as np
import pytest

from grpc_kit.errors import InvalidArgumentError
from imagesearch_client import Client, Embedding, Examples, Metric, NewImage

DIMENSION = 8


@pytest.fixture
def client(search_address: str) -> Iterator[Client]:
    with Client(search_address) as client:
        yield client


def embedding(direction: int, length: float) -> Embedding:
    values = np.zeros(DIMENSION)
    values[direction] = length
    return Embedding(values.tolist(), "f")


@pytest.mark.parametrize("metric", list(Metric))
def test_vectors_with_squares_beyond_float32_are_rejected(client: Client, name: str, metric: Metric) -> None:
    client.create_collection(name, dimension=DIMENSION, fingerprint="f", metric=metric)
    for length in (1e-30, 1e-20, 1e-16, 1e19, 1e30):
        (result,) = client.write(name, [NewImage("a", embedding(0, length))])
        assert isinstance(result.error, InvalidArgumentError), length
        assert result.error.reason == "VECTOR_LENGTH_INVALID"
        assert result.error.field == "embedding.values"
        assert "must be between 3.1e-16 and 7e+18" in result.error.message
        with pytest.raises(InvalidArgumentError) as refused:
            client.search(name, embedding(0, length))
        assert (refused.value.reason, refused.value.field) == (
            "VECTOR_LENGTH_INVALID",
            "query.embedding.values",
        )
        with pytest.raises(InvalidArgumentError) as refused:
            client.search(name, Examples([embedding(0, length)]))
        assert refused.value.reason == "VECTOR_LENGTH_INVALID"


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize("length", [4e-16, 1.0, 6.9e18])
def test_vectors_at_the_length_limits_are_compared_correctly(
    client: Client, name: str, metric: Metric, length: float
) -> None:
    client.create_collection(name, dimension=DIMENSION, fingerprint="f", metric=metric)
    # The ids have the opposite order.
    images = [NewImage(f"i{9 - number}", embedding(number, length)) for number in range(DIMENSION)]
    images.append(NewImage("0", embedding(0, -length)))
    assert all(result.error is None for result in client.write(name, images))
    hits = client.search(name, embedding(0, length), limit=20, strong=True)
    assert (hits[0].image.id, hits[-1].image.id) == ("i9", "0")
    scores, distances = (np.array([getattr(hit, name) for hit in hits]) for name in ("score", "distance"))
    assert np.isfinite([scores, distances]).all()
    assert distances[0] < distances[1] < distances[-1]
    expected = {Metric.COSINE: 1.0, Metric.L2: 1.0, Metric.IP: length**2}[metric]
    assert scores[0] == pytest.approx(expected, rel=1e-5)
