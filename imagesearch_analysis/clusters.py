"""Finds clusters of similar images: mini-batch k-means for any number of images, and HDBSCAN for dense groups."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.projection import scale_of
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.vectors import Doubles, Floats, Positions, block_rows, blocks, sample_positions
from imagesearch_client.types import Metric

# k-means starts with a sample: this many images, or SAMPLE_PER_CLUSTER for each cluster if that is more.
SAMPLE, SAMPLE_PER_CLUSTER = 20_000, 10
SILHOUETTE_SAMPLE = 2_000
# HDBSCAN compares all images with all.
MAX_HDBSCAN_IMAGES = 50_000
# The numbers of clusters that k-means tries if the number is not given.
TRIED_COUNTS = (2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30, 40, 50, 65, 80, 100)
INITIALIZATIONS = 3
BATCH_SIZE = 4096
COMPONENTS = 50
NOISE = -1


@dataclass(frozen=True, slots=True)
class Clusters:
    """The cluster of each image. Cluster 0 is the largest; an image in no cluster has the label NOISE."""

    labels: Positions
    """int64[images]."""
    distances: Doubles
    """float64[images]: the Euclidean distance to the center of the cluster, of unit vectors for COSINE; NaN for
    NOISE."""
    count: int
    silhouette: float | None
    """The silhouette of a sample of at most 2,000 images (P. Rousseeuw, Silhouettes, 1987), from -1 to 1: larger is
    more distinct. None if there are fewer than two clusters."""

    def sizes(self) -> Sequence[int]:
        """Return the number of images of each cluster."""
        counts: list[int] = np.bincount(self.labels[self.labels >= 0], minlength=self.count).tolist()
        return counts

    def most_central(self, cluster: int, limit: int) -> Sequence[int]:
        """Return the positions of the images nearest to the center of a cluster, nearest first."""
        positions = np.flatnonzero(self.labels == cluster)
        order = np.argsort(self.distances[positions], kind="stable")
        central: list[int] = positions[order[:limit]].tolist()
        return central


def k_means(
    snapshot: Snapshot, count: int | None, seed: int, on_progress: Callable[[int], None] = lambda _: None
) -> Clusters:
    """Return clusters by mini-batch k-means (D. Sculley, Web-Scale K-Means Clustering, 2010).

    The memory is that of a sample and a block: the sample has 20,000 images, or ten for each cluster if that is more.
    Clusters without images are left out.

    Args:
        snapshot: the images.
        count: the number of clusters; None chooses the one of TRIED_COUNTS with the best silhouette.
        seed: the seed of the random numbers; the same seed returns the same clusters.
        on_progress: receives the number of images that were assigned.

    Raises AnalysisError if there are fewer images than clusters, or fewer than two.
    """
    if len(snapshot) < max(2, count or 2):
        raise AnalysisError(f"{snapshot.collection} has {len(snapshot)} images, too few for {count or 2} clusters")
    scale = _scale(snapshot)
    sample = sample_positions(len(snapshot), max(SAMPLE, SAMPLE_PER_CLUSTER * (count or 0)), seed)
    vectors = snapshot.at(sample) * scale
    model = _best_model(vectors, seed) if count is None else _fit(vectors, count, seed)
    if len(snapshot) > len(sample):
        rows = block_rows(snapshot.dimension)
        # Neighboring ids often belong to similar images, so the blocks come in random order.
        for begin in np.random.default_rng(seed).permutation(range(0, len(snapshot), rows)):
            model.partial_fit(snapshot.block(int(begin), int(begin) + rows) * scale)
    labels = np.empty(len(snapshot), np.int64)
    distances = np.empty(len(snapshot))
    for begin, block in blocks(snapshot):
        scaled, part = block * scale, slice(begin, begin + len(block))
        labels[part] = model.predict(scaled)
        differences = scaled.astype(np.float64) - model.cluster_centers_[labels[part]]
        distances[part] = np.linalg.norm(differences, axis=1)
        on_progress(begin + len(block))
    return _sorted_by_size(snapshot, labels, distances / scale, seed, scale)


def hdbscan(snapshot: Snapshot, min_size: int, seed: int) -> Clusters:
    """Return clusters of any shape where images are dense (R. Campello et al., Density-Based Clustering, 2013).

    HDBSCAN gets the first 50 principal components. Images in no dense group have the label NOISE.

    Args:
        snapshot: the images, at most 50,000.
        min_size: the smallest number of images of a cluster.
        seed: the seed of the random numbers.

    Raises AnalysisError for too many images, or fewer than `min_size`.
    """
    from sklearn.cluster import HDBSCAN  # noqa: PLC0415 - scikit-learn takes a while to import
    from sklearn.decomposition import PCA  # noqa: PLC0415 - as above

    if len(snapshot) > MAX_HDBSCAN_IMAGES:
        raise AnalysisError(
            f"{snapshot.collection} has {len(snapshot)} images; --method hdbscan compares all with all and accepts at "
            f"most {MAX_HDBSCAN_IMAGES}; use --method kmeans"
        )
    if len(snapshot) < max(2, min_size):
        raise AnalysisError(
            f"{snapshot.collection} has {len(snapshot)} images, too few for a cluster of {max(2, min_size)}"
        )
    scale = _scale(snapshot)
    vectors = snapshot.block(0, len(snapshot)) * scale
    reduced = PCA(min(COMPONENTS, *vectors.shape), random_state=seed).fit_transform(vectors)
    labels = HDBSCAN(min_cluster_size=min_size, copy=True).fit_predict(reduced).astype(np.int64)
    distances = np.full(len(labels), np.nan)
    for label in range(labels.max() + 1):
        own = np.flatnonzero(labels == label)
        members = vectors[own].astype(np.float64)
        distances[own] = np.linalg.norm(members - members.mean(axis=0), axis=1)
    return _sorted_by_size(snapshot, labels, distances / scale, seed, scale)


def _scale(snapshot: Snapshot) -> float:
    """Return the factor for all vectors; it keeps the sums of squares in the range of float32."""
    if snapshot.metric is Metric.COSINE:
        return 1.0
    return scale_of(max(float(np.abs(block).max()) for _, block in blocks(snapshot)))


def _fit(vectors: Floats, count: int, seed: int) -> Any:
    from sklearn.cluster import MiniBatchKMeans  # noqa: PLC0415 - as above

    return MiniBatchKMeans(count, n_init=INITIALIZATIONS, batch_size=BATCH_SIZE, random_state=seed).fit(vectors)


def _best_model(vectors: Floats, seed: int) -> Any:
    """Return the model with the number of clusters that has the best silhouette."""
    counts = [count for count in TRIED_COUNTS if count < len(vectors)] or [len(vectors)]
    models = [_fit(vectors, count, seed) for count in counts]
    scores = [_silhouette(vectors, model.labels_, seed) or -1.0 for model in models]
    return models[int(np.argmax(scores))]


def _silhouette(vectors: Floats, labels: NDArray[np.integer], seed: int) -> float | None:
    """Return the silhouette of a sample; None if it has fewer than two clusters, or one for each image."""
    from sklearn.metrics import silhouette_score  # noqa: PLC0415 - as above

    clustered = np.flatnonzero(labels >= 0)
    chosen = clustered[sample_positions(len(clustered), SILHOUETTE_SAMPLE, seed)]
    different = len(np.unique(labels[chosen]))
    if not 2 <= different < len(chosen):  # noqa: PLR2004 - two clusters
        return None
    return float(silhouette_score(vectors[chosen], labels[chosen]))


def _sorted_by_size(snapshot: Snapshot, labels: Positions, distances: Doubles, seed: int, scale: float) -> Clusters:
    """Return the clusters with the largest as 0; among equal sizes, the one with the first image."""
    names, first, counts = np.unique(labels[labels >= 0], return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))
    # The last element is for the index NOISE, which is -1.
    new_labels = np.full(int(labels.max(initial=0)) + 2, NOISE, np.int64)
    new_labels[names[order]] = np.arange(len(names))
    renamed = new_labels[labels]
    chosen = sample_positions(len(snapshot), SAMPLE, seed)
    silhouette = _silhouette(snapshot.at(chosen) * scale, renamed[chosen], seed)
    return Clusters(renamed, distances, len(names), silhouette)
