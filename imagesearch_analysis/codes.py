"""Binary codes of a collection: draws the hyperplanes of the codes, and measures what searches by codes find.

A bit of a code says on which side of a hyperplane a vector lies. The normals of the hyperplanes are random, and the
hyperplanes contain the mean of the vectors (M. Charikar, Similarity Estimation Techniques from Rounding Algorithms,
2002).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.exact_search import nearest
from imagesearch_analysis.scores import lowest_equal_score
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.snapshot_writer import RETRY_SECONDS
from imagesearch_analysis.vectors import Doubles, Floats, comparable, sample_positions
from imagesearch_client import Client
from imagesearch_client.listing import Listing, ListingPosition
from imagesearch_client.types import CodeSetStatus, Collection, StoredImage
from imagesearch_ingest.empty_collection import EmptyCollectionError


@dataclass(frozen=True)
class CodesCheck:
    """How many of the true neighbors searches by codes find, and how much memory codes and vectors need."""

    status: CodeSetStatus
    """The codes that were searched."""
    collection: Collection
    limit: int
    candidates: int
    recalls: Doubles
    """float64[queries]: the share of the `limit` true neighbors that each query finds."""
    coarse_seconds: float
    """The median time of the search by codes in the service."""
    fine_seconds: float
    """The median time of comparing the candidates by their vectors."""

    @property
    def vector_bytes(self) -> int:
        """The bytes of all vectors as float32."""
        return 4 * self.collection.dimension * self.status.code_count


def random_hyperplanes(mean: Doubles, bits: int, seed: int = 0) -> Floats:
    """Return float32[bits, dimension + 1]: random hyperplanes that contain `mean`, each a normal and then an offset.

    Bit k of a vector x is 1 if `normal_k . x + offset_k > 0`. The same seed returns the same hyperplanes.
    """
    normals = np.random.default_rng(seed).normal(size=(bits, len(mean)))
    return np.column_stack([normals, -normals @ mean]).astype(np.float32)


def mean_vector(client: Client, name: str, on_progress: Callable[[int], None] = lambda _: None) -> Doubles:
    """Return float64[dimension]: the mean of all vectors of a collection, of unit length for COSINE.

    Args:
        client: the client of the search service.
        name: the name of the collection, or an alias.
        on_progress: receives the number of images so far.

    Raises ServiceError, EmptyCollectionError.
    """
    collection = client.get_collection(name)
    total, count = np.zeros(collection.dimension), 0
    for images, _ in Listing(client, collection, None, ListingPosition(), RETRY_SECONDS).pages():
        vectors = [image.embedding.values for image in images if image.embedding is not None]
        values = np.array(vectors, np.float32).reshape(-1, collection.dimension)
        total += comparable(values, collection.metric).sum(axis=0, dtype=np.float64)
        count += len(vectors)
        on_progress(count)
    if not count:
        raise EmptyCollectionError(collection.name, None)
    return total / count


def check_codes(
    client: Client,
    snapshot: Snapshot,
    *,
    queries: int = 200,
    candidates: int = 100,
    limit: int = 10,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> CodesCheck:
    """Compare searches by codes with an exact search, for random stored images as queries.

    An image is not its own neighbor. A hit counts if its score equals that of the last true neighbor or is higher.

    Args:
        client: the client of the search service.
        snapshot: all images of the collection.
        queries: the number of queries.
        candidates: the number of candidates that the codes select.
        limit: the number of true neighbors of each query.
        seed: the seed of the random queries.
        on_progress: receives the number of queries so far.

    Raises ServiceError; AnalysisError if there are too few images.
    """
    if len(snapshot) <= limit:
        raise AnalysisError(
            f"recall of {limit} hits needs more than {limit} images; {snapshot.collection} has {len(snapshot)}"
        )
    positions = sample_positions(len(snapshot), queries, seed)
    truth = nearest(snapshot, snapshot.at(positions), limit, excluded=positions)
    lowest = lowest_equal_score(truth.scores[:, -1], snapshot.metric)
    recalls, times, version = np.zeros(len(positions)), [], ""
    for row, position in enumerate(positions):
        query = StoredImage(snapshot.ids[position])
        hits, explanation = client.search_explained(snapshot.collection, query, limit=limit, coarse=candidates)
        recalls[row] = sum(hit.score >= lowest[row] for hit in hits) / limit
        if explanation.coarse is not None:
            version = explanation.coarse.version
            times.append((explanation.coarse.coarse_seconds, explanation.coarse.fine_seconds))
        on_progress(row + 1)
    status = next(codes for codes in client.get_codes(snapshot.collection).sets if codes.codes.version == version)
    collection = client.get_collection(snapshot.collection)
    coarse, fine = np.median(np.array(times), axis=0).tolist()
    return CodesCheck(status, collection, limit, candidates, recalls, coarse, fine)
