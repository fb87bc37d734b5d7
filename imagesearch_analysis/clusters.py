"""Clusters of a snapshot's images: k-means by blocks for any number of them, HDBSCAN where density counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.nearest import Doubles, Floats, Positions, block_rows
from imagesearch_analysis.projection import sample, scale_of
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client.types import Metric

# Images that k-means begins with, that a silhouette is of, and the most that HDBSCAN takes: it compares all with all.
SAMPLE, SILHOUETTE, MOST_DENSE = 20_000, 2_000, 50_000
# Images for each cluster that k-means begins with, where that is more.
SAMPLE_OF_EACH = 10
# What is tried where the number of clusters is left open.
CANDIDATES = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 65, 80, 100)
BEGINNINGS = 3
COMPONENTS = 50
NOISE = -1


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which cluster each image is in; 0 is the largest one, NOISE is none."""

    labels: Positions
    """int64[images]."""
    distances: Doubles
    """float64[images]: Euclidean, to the middle of the cluster, of unit vectors for COSINE; NaN for NOISE."""
    count: int
    silhouette: float | None
    """Of a sample of at most 2,000 images (P. Rousseeuw, Silhouettes, 1987): from -1 to 1, more is more distinct; None
    where there are not two clusters."""

    def sizes(self) -> Sequence[int]:
        """Images of each cluster."""
        counts: list[int] = np.bincount(self.labels[self.labels >= 0], minlength=self.count).tolist()
        return counts

    def central(self, cluster: int, most: int) -> Sequence[int]:
        """The positions of the images nearest to the middle of a cluster, the nearest first."""
        positions = np.flatnonzero(self.labels == cluster)
        order = np.argsort(self.distances[positions], kind="stable")
        nearest: list[int] = positions[order[:most]].tolist()
        return nearest


def k_means(snapshot: Snapshot, count: int | None, seed: int, tell: Callable[[int], None] = lambda _: None) -> Clusters:
    """Mini-batch k-means (D. Sculley, Web-Scale K-Means Clustering, 2010); memory is that of a sample and a block.

    The sample has 20,000 images, or ten for each cluster where that is more. A cluster that no image is in is left out.

    Args:
        snapshot: has the images.
        count: how many clusters; None takes that of CANDIDATES with the best silhouette.
        seed: of what is random.
        tell: is told how many images have their cluster.

    Raises AnalysisError where there are fewer images than clusters, or than two.
    """
    if len(snapshot) < max(2, count or 2):
        raise AnalysisError(f"{snapshot.collection} has {len(snapshot)} images, too few for {count or 2} clusters")
    scale = _scale(snapshot)
    some = _vectors(snapshot, sample(len(snapshot), max(SAMPLE, SAMPLE_OF_EACH * (count or 0)), seed), scale)
    model = _best_model(some, seed) if count is None else _fitted(some, count, seed)
    blocks = list(range(0, len(snapshot), block_rows(snapshot.dimension)))
    if len(snapshot) > len(some):
        # In another order than by id, which often says something about an image.
        for begin in np.random.default_rng(seed).permutation(blocks):
            model.partial_fit(_block(snapshot, int(begin), scale))
    labels = np.empty(len(snapshot), np.int64)
    distances = np.empty(len(snapshot))
    for begin in blocks:
        block = _block(snapshot, begin, scale)
        own = model.predict(block)
        labels[begin : begin + len(block)] = own
        distances[begin : begin + len(block)] = np.linalg.norm(
            block.astype(np.float64) - model.cluster_centers_[own], axis=1
        )
        tell(begin + len(block))
    return _ordered(snapshot, labels, distances / scale, seed, scale)


def hdbscan(snapshot: Snapshot, least: int, seed: int) -> Clusters:
    """Clusters of any number and form, where images are dense (R. Campello et al., Density-Based Clustering, 2013).

    It is given the first 50 principal components. `least` is the fewest images of a cluster; what is in none is NOISE.
    Raises AnalysisError for too many images, or too few.
    """
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415 - scikit-learn takes a while to import
    from sklearn.decomposition import PCA  # noqa: PLC0415 - as above

    if len(snapshot) > MOST_DENSE:
        raise AnalysisError(
            f"hdbscan compares all with all, which {MOST_DENSE} images at most are for, and {snapshot.collection} has "
            f"{len(snapshot)}; --method kmeans takes any number"
        )
    if len(snapshot) < max(2, least):
        raise AnalysisError(
            f"{snapshot.collection} has {len(snapshot)} images, too few for a cluster of {max(2, least)}"
        )
    scale = _scale(snapshot)
    vectors = _vectors(snapshot, np.arange(len(snapshot)), scale)
    reduced = PCA(min(COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
    labels = HDBSCAN(min_cluster_size=least, copy=True).fit_predict(reduced).astype(np.int64)
    distances = np.full(len(labels), np.nan)
    for label in range(labels.max() + 1):
        own = np.flatnonzero(labels == label)
        members = vectors[own].astype(np.float64)
        distances[own] = np.linalg.norm(members - members.mean(axis=0), axis=1)
    return _ordered(snapshot, labels, distances / scale, seed, scale)


def _scale(snapshot: Snapshot) -> float:
    """Return what all vectors are multiplied by before they are clustered; those of COSINE have unit length."""
    if snapshot.metric is Metric.COSINE:
        return 1.0
    begins = range(0, len(snapshot), block_rows(snapshot.dimension))
    return scale_of(max(float(np.abs(_block(snapshot, begin, 1.0)).max()) for begin in begins))


def _vectors(snapshot: Snapshot, positions: Positions, scale: float) -> Floats:
    return snapshot.comparable(np.asarray(snapshot.vectors[positions])) * scale


def _block(snapshot: Snapshot, begin: int, scale: float) -> Floats:
    return snapshot.block(begin, begin + block_rows(snapshot.dimension)) * scale


def _fitted(vectors: Floats, count: int, seed: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415 - as above

    return MiniBatchKMeans(count, n_init=BEGINNINGS, batch_size=4096, random_state=seed).fit(vectors)


def _best_model(vectors: Floats, seed: int) -> Any:
    """The model whose number of clusters has the best silhouette."""
    candidates = [count for count in CANDIDATES if count < len(vectors)] or [len(vectors)]
    models = [_fitted(vectors, count, seed) for count in candidates]
    scores = [_silhouette(vectors, model.labels_, seed) or -1.0 for model in models]
    return models[int(np.argmax(scores))]


def _silhouette(vectors: Floats, labels: NDArray[np.integer], seed: int) -> float | None:
    """That of a sample of the vectors that are in a cluster; None for less than two clusters, or one for each image."""
    from sklearn.metrics import silhouette_score  # noqa: PLC0415 - as above

    clustered = np.flatnonzero(labels >= 0)
    chosen = clustered[sample(len(clustered), SILHOUETTE, seed)]
    different = len(np.unique(labels[chosen]))
    if not 2 <= different < len(chosen):  # noqa: PLR2004 - two clusters
        return None
    return float(silhouette_score(vectors[chosen], labels[chosen]))


def _ordered(snapshot: Snapshot, labels: Positions, distances: Doubles, seed: int, scale: float) -> Clusters:
    """Clusters with the largest first; of equal sizes that with the first image."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    numbers = np.full(int(labels.max(initial=0)) + 2, NOISE, np.int64)
    numbers[names[order]] = np.arange(len(names))
    # NOISE is the last of them.
    renamed = numbers[labels]
    chosen = sample(len(snapshot), SAMPLE, seed)
    silhouette = _silhouette(_vectors(snapshot, chosen, scale), renamed[chosen], seed)
    return Clusters(renamed, distances, len(names), silhouette)
