"""The choices of the analysis commands. This module imports little, so that --help stays fast."""

from collections.abc import Mapping
from enum import Enum

from imagesearch_client.types import Metric

SCORE_NAMES: Mapping[Metric, str] = {
    Metric.COSINE: "cosine similarity",
    Metric.IP: "inner product",
    Metric.L2: "1 / (1 + Euclidean distance)",
}


class Keep(Enum):
    """Which image of a group of duplicates is kept."""

    LARGEST = "largest"
    FIRST = "first"
    LAST = "last"


class Action(Enum):
    """What to do with an image of a group of duplicates."""

    KEEP = "keep"
    REMOVE = "remove"
    """The image is a copy of the kept file, or a duplicate that a person or a checked threshold confirms."""
    REVIEW = "review"
    """The image is similar to the kept image, or only connected to it through other images: a person must decide."""


class MapMethod(Enum):
    """How the points of a map are computed."""

    TSNE = "tsne"
    UMAP = "umap"

    @property
    def label(self) -> str:
        """The name to display."""
        return {MapMethod.TSNE: "t-SNE", MapMethod.UMAP: "UMAP"}[self]


class ClusterMethod(Enum):
    """How clusters are found."""

    KMEANS = "kmeans"
    HDBSCAN = "hdbscan"
