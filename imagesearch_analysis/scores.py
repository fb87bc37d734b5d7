"""Compute scores and distances as the service defines them, from a closeness.

The closeness of two vectors is their cosine, their inner product, or minus their squared Euclidean distance. It is
larger for nearer vectors.
"""

import numpy as np

from imagesearch_analysis.vectors import Doubles
from imagesearch_client.types import Metric

# The largest relative error of the conversion from an L2 score to a squared distance in float64.
CONVERSION_ERROR = 1e-9
# Relative tolerances: for two computations of the same closeness, and for rounding their scores to float32.
SCORE_TOLERANCE, SCORE_RESOLUTION = 1e-5, 2 * float(np.finfo(np.float32).eps)


def scores_and_distances(closeness: Doubles, metric: Metric) -> tuple[Doubles, Doubles]:
    """Return scores and distances as the service defines them; NaN if a closeness is not finite."""
    values = np.where(np.isfinite(closeness), closeness, np.nan)
    match metric:
        case Metric.COSINE:
            cosines = np.clip(values, -1.0, 1.0)
            return cosines, 1.0 - cosines
        case Metric.IP:
            return values, -values
        case Metric.L2:
            distances = np.sqrt(-values)
            return 1.0 / (1.0 + distances), distances


def lowest_closeness(score: float, metric: Metric) -> float:
    """Return a lower bound of the closeness of all pairs with at least this score."""
    if metric is not Metric.L2:
        return score
    return -((1.0 / score - 1.0) ** 2) * (1 + CONVERSION_ERROR) if score > 0 else -np.inf


def lowest_equal_score(scores: Doubles, metric: Metric) -> Doubles:
    """Return for each score the lowest score that differs from it only by rounding."""
    # An L2 score is 1 / (1 + distance). If the distance changes by a fraction r, the score changes by about r * change.
    change = scores * (1 - scores) if metric is Metric.L2 else np.abs(scores)
    return scores - SCORE_TOLERANCE * change - SCORE_RESOLUTION * np.abs(scores)
