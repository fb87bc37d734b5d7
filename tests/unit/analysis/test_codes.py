"""Fitting binary codes, and measuring what searches by them find."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesearch_analysis.codes import check, fit_itq, itq_rotation, quantisation_error
from imagesearch_client import Client, Embedding, Image, Metric


def clustered(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    dice = np.random.default_rng(seed)
    centres = dice.normal(size=(30, dimension)) * np.linspace(3, 0.1, dimension)
    return (centres[dice.integers(0, 30, count)] + 0.2 * dice.normal(size=(count, dimension)) + 5).astype(np.float32)


def projected(bits: int = 64) -> NDArray[np.float64]:
    """Centred data on its principal components, by NumPy alone."""
    vectors = clustered(1000, 96).astype(float)
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found: NDArray[np.float64] = centred @ axes[:bits].T
    return found


def test_each_step_lowers_the_quantisation_error_and_keeps_the_rotation_orthogonal() -> None:
    data = projected()
    errors = []
    for steps in (0, 1, 2, 3, 10):
        rotation = itq_rotation(data, seed=3, iterations=steps)
        assert rotation.T @ rotation == pytest.approx(np.eye(64), abs=1e-9)
        errors.append(quantisation_error(data, rotation))
    assert all(later <= before + 1e-9 for before, later in pairwise(errors))
    assert errors[-1] < 0.97 * errors[0]
    # It is the distance from the corner that the signs name.
    rotated = data @ rotation
    assert errors[-1] == pytest.approx(((np.sign(rotated) - rotated) ** 2).sum(axis=1).mean())


def test_the_hyperplanes_are_centring_components_and_rotation_in_one() -> None:
    vectors = clustered(2000, 96)
    hyperplanes = fit_itq(vectors, 64, seed=3)
    assert hyperplanes.shape == (64, 97)
    assert hyperplanes.dtype == np.float32
    normals, offsets = hyperplanes[:, :-1].astype(float), hyperplanes[:, -1].astype(float)
    # The rows are orthonormal, and the mean of the data lies on every hyperplane.
    assert normals @ normals.T == pytest.approx(np.eye(64), abs=1e-5)
    assert normals @ vectors.mean(axis=0) + offsets == pytest.approx(np.zeros(64), abs=1e-3)
    # They span the first components, in which all but little of the variance is.
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    assert np.linalg.norm(normals @ axes[:64].T, axis=1) == pytest.approx(np.ones(64), abs=1e-3)
    # About as many vectors are on the one side as on the other.
    assert np.abs((vectors @ normals.T + offsets > 0).mean(axis=0) - 0.5).max() < 0.45


def test_near_vectors_have_near_codes() -> None:
    vectors = clustered(3000, 96)
    hyperplanes = fit_itq(vectors[:2000], 64)
    bits = vectors @ hyperplanes[:, :-1].T + hyperplanes[:, -1] > 0
    queries = np.arange(2000, 2100)
    found = 0
    for query in queries:
        near = np.argsort(np.linalg.norm(vectors - vectors[query], axis=1))[1:11]
        candidates = np.argsort((bits != bits[query]).sum(axis=1), kind="stable")[:150]
        found += len(set(near) & set(candidates))
    # By chance it were 5 %.
    assert found / (10 * len(queries)) > 0.9


def test_the_same_seed_gives_the_same_transform() -> None:
    vectors = clustered(500, 96)
    first, again, other = (fit_itq(vectors, 64, seed=seed).tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_components_that_never_differ_do_no_harm() -> None:
    vectors = clustered(500, 96)
    vectors[:, 50:] = 7
    hyperplanes = fit_itq(vectors, 64)
    assert np.isfinite(hyperplanes).all()
    assert np.linalg.norm(hyperplanes[:, :-1], axis=1) == pytest.approx(np.ones(64), abs=1e-4)
    codes = vectors @ hyperplanes[:, :-1].T + hyperplanes[:, -1] > 0
    assert len(np.unique(codes, axis=0)) > 20


@pytest.mark.parametrize(
    ("count", "bits", "spoil", "message"),
    [
        (64, 64, None, "need more than 64 vectors to be fitted to; there are 64"),
        (0, 64, None, "there are 0"),
        (500, 104, None, "104 bits need vectors of at least 104 components; these have 96"),
        (500, 64, np.nan, "not finite"),
        (500, 64, np.inf, "not finite"),
    ],
)
def test_what_cannot_be_fitted_to_is_refused(count: int, bits: int, spoil: float | None, message: str) -> None:
    vectors = clustered(count, 96)
    if spoil is not None:
        vectors[17, 3] = spoil
    with pytest.raises(ValueError, match=message):
        fit_itq(vectors, bits)


def test_vectors_that_are_all_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="all the same"):
        fit_itq(np.ones((500, 96), np.float32), 64)


@dataclass
class Searched:
    """A collection whose searches give the neighbours from one rank to another."""

    vectors: NDArray[np.float32]
    metric: Metric
    ranks: slice

    def __post_init__(self) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)
        self.images = {
            f"{number}": Image(f"{number}", "", {}, "", now, now, Embedding(vector.tolist(), "f"))
            for number, vector in enumerate(self.vectors)
        }

    def get_collection(self, name: str) -> Any:
        return SimpleNamespace(name=name, metric=self.metric, dimension=self.vectors.shape[1])

    def list(self, name: str, **options: Any) -> Iterator[Image]:
        return iter(self.images.values())

    def get_many(self, name: str, ids: Sequence[str], **options: Any) -> dict[str, Image]:
        return {image_id: self.images[image_id] for image_id in ids}

    def get_codes(self, name: str) -> Any:
        codes = SimpleNamespace(codes=SimpleNamespace(version="v"), code_bytes=1)
        return SimpleNamespace(sets=[codes], image_count=len(self.images))

    def search_explained(self, name: str, query: Any, **options: Any) -> tuple[Any, Any]:
        vectors, asked = self.vectors.astype(np.float64), int(query.id)
        if self.metric is Metric.L2:
            scores = 1 / (1 + np.linalg.norm(vectors - vectors[asked], axis=1))
        else:
            scores = vectors @ vectors[asked]
        others = np.sort(np.delete(scores, asked))[::-1]
        coarse = SimpleNamespace(version="v", coarse_seconds=0.0, fine_seconds=0.0)
        hits = [SimpleNamespace(score=float(np.float32(score))) for score in others[self.ranks]]
        return hits, SimpleNamespace(coarse=coarse)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
@pytest.mark.parametrize(("ranks", "recall"), [(slice(10), 1), (slice(5, 15), 0.5), (slice(10, 20), 0)])
def test_the_recall_of_codes_is_told_however_long_the_vectors_are(
    metric: Metric, scale: float, ranks: slice, recall: float
) -> None:
    vectors = np.random.default_rng(0).normal(2, 1, size=(200, 32)) * scale
    searched = Searched(vectors.astype(np.float32), metric, ranks)
    assert check(cast(Client, searched), "shoes", queries=40, limit=10).recall == pytest.approx(recall, abs=0.05)
