"""The hyperplanes of binary codes, and the check of searches by codes."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from imagesearch_analysis.codes import check_codes, random_hyperplanes
from imagesearch_analysis.errors import AnalysisError
from imagesearch_client import Client, Metric
from tests.unit.analysis.snapshots import normal, snapshot_of


def clustered(count: int, dimension: int, seed: int = 0) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(30, dimension)) * np.linspace(3, 0.1, dimension)
    noise = 0.2 * random.normal(size=(count, dimension))
    return (centres[random.integers(0, 30, count)] + noise + 5).astype(np.float32)


def bits_of(vectors: NDArray[np.float32], hyperplanes: NDArray[np.float32]) -> NDArray[np.bool_]:
    return np.asarray(vectors @ hyperplanes[:, :-1].T + hyperplanes[:, -1] > 0)


def test_all_hyperplanes_contain_the_mean_and_halve_the_vectors() -> None:
    vectors = clustered(2000, 96)
    mean = vectors.mean(axis=0, dtype=np.float64)
    hyperplanes = random_hyperplanes(mean, 64, seed=3)
    assert hyperplanes.shape == (64, 97)
    assert hyperplanes.dtype == np.float32
    assert hyperplanes[:, :-1] @ mean + hyperplanes[:, -1] == pytest.approx(np.zeros(64), abs=1e-3)
    assert np.abs(bits_of(vectors, hyperplanes).mean(axis=0) - 0.5).max() < 0.45


def test_near_vectors_have_near_codes() -> None:
    vectors = clustered(3000, 96)
    bits = bits_of(vectors, random_hyperplanes(vectors.mean(axis=0, dtype=np.float64), 256))
    found = 0
    for query in range(100):
        near = np.argsort(np.linalg.norm(vectors - vectors[query], axis=1))[1:11]
        candidates = np.argsort((bits != bits[query]).sum(axis=1), kind="stable")[:150]
        found += len(set(near) & set(candidates))
    # Random candidates would contain 5 %.
    assert found / 1000 > 0.9


def test_the_same_seed_returns_the_same_hyperplanes() -> None:
    mean = np.ones(96)
    first, again, other = (random_hyperplanes(mean, 64, seed).tobytes() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@dataclass
class SearchedRanks:
    """A search service whose hits are the true neighbors of some ranks."""

    vectors: NDArray[np.float32]
    metric: Metric
    ranks: slice

    def get_collection(self, name: str) -> Any:
        return SimpleNamespace(name=name, metric=self.metric, dimension=self.vectors.shape[1])

    def get_codes(self, name: str) -> Any:
        codes = SimpleNamespace(codes=SimpleNamespace(version="v"), code_bytes=1, code_count=len(self.vectors))
        return SimpleNamespace(sets=[codes])

    def search_explained(self, name: str, query: Any, **options: Any) -> tuple[Any, Any]:
        vectors, position = self.vectors.astype(np.float64), int(query.id[1:])
        if self.metric is Metric.L2:
            scores = 1 / (1 + np.linalg.norm(vectors - vectors[position], axis=1))
        else:
            scores = vectors @ vectors[position]
        others = np.sort(np.delete(scores, position))[::-1]
        coarse = SimpleNamespace(version="v", coarse_seconds=0.0, fine_seconds=0.0)
        hits = [SimpleNamespace(score=float(np.float32(score))) for score in others[self.ranks]]
        return hits, SimpleNamespace(coarse=coarse)


@pytest.mark.parametrize("metric", [Metric.L2, Metric.IP])
@pytest.mark.parametrize("scale", [1e-4, 1, 1e4])
@pytest.mark.parametrize(("ranks", "recall"), [(slice(10), 1), (slice(5, 15), 0.5), (slice(10, 20), 0)])
def test_the_check_measures_the_recall_of_vectors_of_any_length(
    tmp_path: Path, metric: Metric, scale: float, ranks: slice, recall: float
) -> None:
    vectors = (np.random.default_rng(0).normal(2, 1, size=(200, 32)) * scale).astype(np.float32)
    service = cast(Client, SearchedRanks(vectors, metric, ranks))
    with snapshot_of(tmp_path, vectors, metric) as snapshot:
        checked = check_codes(service, snapshot, queries=40, limit=10)
    assert len(checked.recalls) == 40
    assert checked.recalls.mean() == pytest.approx(recall, abs=0.05)


def test_the_check_needs_more_images_than_neighbors(tmp_path: Path) -> None:
    service = cast(Client, SearchedRanks(normal(10, 4), Metric.IP, slice(10)))
    with (
        snapshot_of(tmp_path, normal(10, 4), Metric.IP) as snapshot,
        pytest.raises(AnalysisError, match="recall of 10 hits needs more than 10 images; shoes has 10"),
    ):
        check_codes(service, snapshot, limit=10)
