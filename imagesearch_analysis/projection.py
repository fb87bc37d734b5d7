"""Vectors as points of a plane, near where they are alike."""

import importlib.util
import math
import warnings

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.nearest import Floats, Positions
from imagesearch_analysis.wording import Method

# What t-SNE and UMAP are given: more only makes them slower (L. van der Maaten and G. Hinton, Visualizing Data using
# t-SNE, 2008, section 4.2, takes 30).
COMPONENTS = 50
PERPLEXITY = 30.0
NEIGHBORS = 15
FEWEST = 3


def sample(images: int, limit: int, seed: int) -> Positions:
    """int64[at most limit]: positions of all images, or of so many that are drawn at random, in their order."""
    if images <= limit:
        return np.arange(images)
    return np.sort(np.random.default_rng(seed).choice(images, limit, replace=False))


def scale_of(largest: float) -> float:
    """Return the power of two that brings the largest number of some vectors near 1.

    scikit-learn sums squares in float32, which overflow or vanish for vectors that the service takes. A power of two
    rounds nothing.
    """
    return 2.0 ** -math.frexp(largest)[1]


def project(vectors: Floats, method: Method, seed: int) -> NDArray[np.float64]:
    """float64[n, 2] within 0 and 1: t-SNE or UMAP of the first 50 principal components of float32[n, dimension].

    The perplexity is 30, or a third of the other vectors where there are fewer than 91. Raises AnalysisError for fewer
    than three vectors, and where UMAP is not installed.
    """
    if len(vectors) < FEWEST:
        raise AnalysisError(f"a map needs {FEWEST} images at least, and there are {len(vectors)}")
    if method is Method.UMAP and importlib.util.find_spec("umap") is None:
        raise AnalysisError("umap needs another package: pip install umap-learn; --method tsne does without")
    if not np.ptp(vectors, axis=0).any():
        # All are alike, and there is nothing to tell them apart by.
        return np.full((len(vectors), 2), 0.5)
    reduced = _principal_components(vectors * scale_of(float(np.abs(vectors).max())), seed)
    points = _umap(reduced, seed) if method is Method.UMAP else _tsne(reduced, seed)
    low, high = points.min(axis=0), points.max(axis=0)
    # One scale for both axes, and the middle in the middle.
    scaled: NDArray[np.float64] = (points - (low + high) / 2) / (high - low).max() + 0.5
    return scaled


def _principal_components(vectors: Floats, seed: int) -> NDArray[np.float64]:
    from sklearn.decomposition import PCA  # noqa: PLC0415 - scikit-learn takes a while to import

    reduced: NDArray[np.float64] = PCA(min(COMPONENTS, *vectors.shape), random_state=seed).fit_transform(
        vectors.astype(np.float64)
    )
    return reduced


def _tsne(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # noqa: PLC0415 - as above

    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    # It begins with the first two components, if there are two.
    init = "pca" if vectors.shape[1] > 1 else "random"
    points: NDArray[np.float64] = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(vectors)
    return points.astype(np.float64)


def _umap(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    # Only where it is installed: it brings a compiler of its own.
    umap = importlib.import_module("umap")
    # With two points less than neighbours its beginning by eigenvectors fails.
    few = len(vectors) <= NEIGHBORS + 2
    with warnings.catch_warnings():
        # It says that a seed means one thread.
        warnings.simplefilter("ignore", UserWarning)
        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBORS, len(vectors) - 1), init="random" if few else "spectral", random_state=seed
        )
        points: NDArray[np.float64] = reducer.fit_transform(vectors)
    return points.astype(np.float64)
