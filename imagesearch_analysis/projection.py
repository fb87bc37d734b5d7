"""Projects vectors to points of a plane, so that similar vectors are near each other."""

import importlib.util
import math
import warnings

import numpy as np
from numpy.typing import NDArray

from imagesearch_analysis.choices import MapMethod
from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.vectors import Floats

# Both methods get this many principal components; more only take longer (L. van der Maaten and G. Hinton, Visualizing
# Data using t-SNE, 2008, section 4.2, use 30).
COMPONENTS = 50
PERPLEXITY = 30.0
NEIGHBORS = 15
MIN_IMAGES = 3


def scale_of(largest: float) -> float:
    """Return the power of two that scales the largest component of some vectors to about 1.

    scikit-learn sums squares in float32. These overflow or vanish for the longest and the shortest vectors that the
    service accepts. A power of two changes no digit.
    """
    return 2.0 ** -math.frexp(largest)[1]


def project(vectors: Floats, method: MapMethod, seed: int) -> NDArray[np.float64]:
    """Return float64[n, 2], all from 0 to 1: t-SNE or UMAP of the first 50 principal components.

    The perplexity is 30, or a third of the number of other vectors if there are fewer than 91.

    Args:
        vectors: float32[n, dimension].
        method: t-SNE or UMAP.
        seed: the seed of the random numbers; the same seed returns the same points.

    Raises AnalysisError for fewer than three vectors, or if UMAP is not installed.
    """
    if len(vectors) < MIN_IMAGES:
        raise AnalysisError(f"a map needs at least {MIN_IMAGES} images; there are {len(vectors)}")
    if method is MapMethod.UMAP and importlib.util.find_spec("umap") is None:
        raise AnalysisError("--method umap needs another package: pip install umap-learn; --method tsne needs none")
    if not np.ptp(vectors, axis=0).any():
        return np.full((len(vectors), 2), 0.5)
    reduced = _principal_components(vectors * scale_of(float(np.abs(vectors).max())), seed)
    points = _umap(reduced, seed) if method is MapMethod.UMAP else _tsne(reduced, seed)
    low, high = points.min(axis=0), points.max(axis=0)
    # Both axes have one scale, and the points are centred.
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
    # The initialization by PCA needs two components.
    init = "pca" if vectors.shape[1] > 1 else "random"
    points: NDArray[np.float64] = TSNE(perplexity=perplexity, init=init, random_state=seed).fit_transform(vectors)
    return points.astype(np.float64)


def _umap(vectors: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    # UMAP is optional, because it brings a compiler of its own.
    umap = importlib.import_module("umap")
    # The spectral initialization fails unless there are at least three more points than neighbors.
    few = len(vectors) <= NEIGHBORS + 2
    with warnings.catch_warnings():
        # UMAP warns that a seed limits it to one thread.
        warnings.simplefilter("ignore", UserWarning)
        reducer = umap.UMAP(
            n_neighbors=min(NEIGHBORS, len(vectors) - 1), init="random" if few else "spectral", random_state=seed
        )
        points: NDArray[np.float64] = reducer.fit_transform(vectors)
    return points.astype(np.float64)
