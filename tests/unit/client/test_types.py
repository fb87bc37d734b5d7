"""Values of the clients: vectors as NumPy arrays, and equality."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from imagesearch_client import Embedding, Hit, Hits, Image

TIME = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize("values", [[1, 2], (1.0, 2.0), np.array([1, 2]), np.array([1, 2], np.float64), range(1, 3)])
def test_embeddings_accept_any_sequence_of_numbers(values: Any) -> None:
    embedding = Embedding(values, "f")
    assert embedding.values.dtype == np.float32
    assert embedding == Embedding(np.array([1, 2], np.float32), "f")


def test_a_float32_array_is_not_copied_and_stays_writeable_for_its_owner() -> None:
    values = np.array([1, 2], np.float32)
    embedding = Embedding(values, "f")
    assert np.shares_memory(embedding.values, values)
    assert values.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        embedding.values[0] = 3


@pytest.mark.parametrize("values", [["1", "2"], [None], [1 + 2j], "12", [True, False], [b"1"], None, 7])
def test_embeddings_refuse_values_that_are_no_sequence_of_numbers(values: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="the values of an embedding"):
        Embedding(values, "f")


def test_embeddings_refuse_arrays_with_two_dimensions() -> None:
    with pytest.raises(ValueError, match=r"the shape is \(2, 2\)"):
        Embedding(np.zeros((2, 2), np.float32), "f")


def test_embeddings_are_equal_if_their_values_and_fingerprints_are() -> None:
    one = Embedding([0.0, 1.0], "f")
    assert one == Embedding([-0.0, 1.0], "f")
    assert hash(one) == hash(Embedding([-0.0, 1.0], "f"))
    assert one != Embedding([0.0, 1.0], "g")
    assert one != Embedding([0.0, 1.0, 2.0], "f")
    assert one != [0.0, 1.0]
    assert len({one, Embedding([0.0, 1.0], "f"), Embedding([0.5, 1.0], "f")}) == 2


def test_images_and_hits_with_vectors_are_equal_if_their_values_are() -> None:
    def hit(*values: float) -> Hit:
        return Hit(Image("a", "u", {"n": 1}, "", TIME, TIME, Embedding(values, "f")), 1.0, 0.0)

    assert hit(1, 2) == hit(1, 2)
    assert hit(1, 2) != hit(1, 3)
    assert Hits([hit(1, 2)]) == [hit(1, 2)]
    assert isinstance(Hits([hit(1, 2)]), list)
