"""What choices and scores are called: light, so that the command's --help need not wait."""

from collections.abc import Mapping
from enum import Enum

from imagesearch_client.types import Metric

SCORES: Mapping[Metric, str] = {
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
    """What should become of an image of a group of duplicates."""

    KEEP = "keep"
    REMOVE = "remove"
    """It is a copy of the file that is kept, or a duplicate by a person's decision or a threshold that was checked."""
    REVIEW = "review"
    """It looks like the one that is kept, or only other images connect the two: somebody should look."""


class Method(Enum):
    """How a map is made."""

    TSNE = "tsne"
    UMAP = "umap"

    @property
    def label(self) -> str:
        """As people write it."""
        return {Method.TSNE: "t-SNE", Method.UMAP: "UMAP"}[self]


class Clustering(Enum):
    """How clusters are found."""

    KMEANS = "kmeans"
    HDBSCAN = "hdbscan"
