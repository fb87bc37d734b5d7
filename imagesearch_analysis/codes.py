"""Binary codes of a collection: fitting what makes them, and measuring what searches by them find.

The transform is ITQ, of Gong and Lazebnik, "Iterative Quantization: A Procrustean Approach to Learning Binary Codes"
(CVPR 2011): the vectors are centred, brought onto their first principal components, and rotated so that they are as
near to the corners of a cube as can be; a bit is a side of the cube. Altogether that is a hyperplane for each bit.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from grpc_kit.errors import FailedPreconditionError
from imagesearch_analysis.evaluation.ranking import least_equal
from imagesearch_client import Client
from imagesearch_client.types import CodeSetStatus, Collection, Image, Metric, StoredImage

Matrix: TypeAlias = NDArray[np.float32]
Item = TypeVar("Item")

DEFAULT_SAMPLE = 20_000
# As in the paper; the error falls little after that.
ITERATIONS = 50
# Images that are read at a time, the bytes of their vectors, and ids.
CHUNK, CHUNK_BYTES, IDS = 500, 8 * 1024 * 1024, 1000


def fit_itq(vectors: Matrix, bits: int, *, seed: int = 0, iterations: int = ITERATIONS) -> Matrix:
    """Fits a transform to float32[N, D]: float32[bits, D + 1], of each bit its hyperplane's normal and then the offset.

    Bit k of x is 1 where `normal_k . x + offset_k > 0`. For the cosine the vectors should have length 1. Raises
    ValueError where the vectors cannot tell so many bits: where they are too few, not finite, or all the same.
    """
    from sklearn.decomposition import PCA  # noqa: PLC0415 - takes a second to import

    count, dimension = vectors.shape
    if bits > dimension:
        raise ValueError(f"{bits} bits need vectors of at least {bits} components; these have {dimension}")
    if count <= bits:
        raise ValueError(f"{bits} bits need more than {bits} vectors to be fitted to; there are {count}")
    if not np.isfinite(vectors).all():
        raise ValueError("some vectors are not finite; every component should be")
    if not np.ptp(vectors, axis=0).any():
        raise ValueError("the vectors are all the same; there is nothing to tell them apart by")
    pca = PCA(bits, random_state=seed).fit(vectors)
    projected = pca.transform(vectors)
    rotation = itq_rotation(projected, seed=seed, iterations=iterations)
    normals = rotation.T @ pca.components_
    offsets = -normals @ pca.mean_
    return np.column_stack([normals, offsets]).astype(np.float32)


def itq_rotation(
    projected: NDArray[np.floating], *, seed: int = 0, iterations: int = ITERATIONS
) -> NDArray[np.floating]:
    """ITQ's rotation [bits, bits] of centred data [N, bits], from a random one on.

    Each step takes the nearest corners for the data as it is rotated, and then the rotation that brings the data
    nearest to these corners (the orthogonal Procrustes problem), so that `quantisation_error` never grows.
    """
    bits = projected.shape[1]
    rotation, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(bits, bits)))
    rotation = rotation.astype(projected.dtype)
    for _ in range(iterations):
        corners = np.where(projected @ rotation > 0, 1, -1).astype(projected.dtype)
        left, _, right = np.linalg.svd(corners.T @ projected)
        rotation = right.T @ left.T
    return rotation


def quantisation_error(projected: NDArray[np.floating], rotation: NDArray[np.floating]) -> float:
    """The mean squared distance of rotated data from the nearest corners of the cube -1..1."""
    rotated = projected @ rotation
    return float(((np.abs(rotated) - 1) ** 2).sum(axis=1).mean())


@dataclass(frozen=True)
class Fitted:
    """A transform that was fitted to a collection."""

    hyperplanes: Matrix
    """float32[bits, D + 1]"""
    sample_count: int
    image_count: int


def fit(client: Client, name: str, bits: int, *, sample: int = DEFAULT_SAMPLE, seed: int = 0) -> Fitted:
    """Fits a transform to a random sample of a collection's vectors.

    Raises FailedPreconditionError where these are too few or cannot be told apart, ServiceError.
    """
    collection = client.get_collection(name)
    ids, total = _sample_ids(client, collection.name, sample, seed)
    _, vectors = _vectors_of(client, collection, ids)
    try:
        hyperplanes = fit_itq(_directed(vectors, collection.metric), bits, seed=seed)
    except ValueError as error:
        raise FailedPreconditionError(
            "CODES_NOT_FITTED", f"no codes of {bits} bits can be fitted to {collection.name}: {error}", field="bits"
        ) from None
    return Fitted(hyperplanes, len(vectors), total)


def _sample_ids(client: Client, name: str, size: int, seed: int) -> tuple[list[str], int]:
    """Ids of a random sample of the images, all where there are no more, in their order; and the number of images.

    It sees every write until now, so that reads that follow see these too. One pass that keeps `size` ids (reservoir
    sampling: Vitter, "Random Sampling with a Reservoir", 1985, algorithm R).
    """
    dice = random.Random(seed)
    kept: list[str] = []
    total = 0
    for image in client.list(name, page_size=IDS, strong=True):
        total += 1
        if len(kept) < size:
            kept.append(image.id)
        elif (place := dice.randrange(total)) < size:
            kept[place] = image.id
    return sorted(kept), total


def _vectors_of(client: Client, collection: Collection, ids: Sequence[str]) -> tuple[list[str], Matrix]:
    """Those of some images that are still there, and their vectors, float32[N, D]."""
    there: list[str] = []
    parts = [np.empty((0, collection.dimension), np.float32)]
    size = _chunk_size(collection)
    for begin in range(0, len(ids), size):
        found = client.get_many(collection.name, ids[begin : begin + size], with_vector=True)
        there += found
        parts.append(_matrix(list(found.values()), collection.dimension))
    return there, np.concatenate(parts)


def _chunk_size(collection: Collection) -> int:
    return max(1, min(CHUNK, CHUNK_BYTES // (4 * collection.dimension)))


def _matrix(images: Sequence[Image], dimension: int) -> Matrix:
    vectors = [image.embedding.values for image in images if image.embedding is not None]
    return np.array(vectors, dtype=np.float32).reshape(-1, dimension)


def _directed(vectors: Matrix, metric: Metric) -> Matrix:
    """The vectors, scaled to length 1 where only their directions are compared."""
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True) if metric is Metric.COSINE else vectors


@dataclass(frozen=True)
class Check:
    """What searches from coarse to fine find of the true neighbours, and what both kinds of search keep in memory."""

    status: CodeSetStatus
    """Of the codes that were searched."""
    collection: Collection
    queries: int
    limit: int
    candidates: int
    recall: float
    """The part of the `limit` true neighbours that is found, in the mean over the queries."""
    worst: float
    """The least of these parts."""
    coarse_seconds: float
    """Medians over the queries, in the service: of the search by codes,"""
    fine_seconds: float
    """and of comparing the candidates."""
    vector_bytes: int
    """Of all vectors as float32."""

    @property
    def code_bytes(self) -> int:
        """Of all codes."""
        return self.status.code_bytes


def check(
    client: Client, name: str, *, queries: int = 200, candidates: int = 100, limit: int = 10, seed: int = 0
) -> Check:
    """Compares searches from coarse to fine with the truth, for stored images that are taken at random as queries.

    The truth is computed here, of all vectors, which are read once. An image is no neighbour of itself. A hit that
    scores as the last of the true neighbours does is one of them. Raises FailedPreconditionError where there are too
    few images, ServiceError.
    """
    collection = client.get_collection(name)
    ids, total = _sample_ids(client, collection.name, queries, seed)
    if total <= limit:
        raise FailedPreconditionError(
            "TOO_FEW_IMAGES", f"recall of {limit} hits needs more than {limit} images; {collection.name} has {total}"
        )
    ids, vectors = _vectors_of(client, collection, ids)
    least = least_equal(true_scores(client, collection, ids, vectors, limit)[:, -1], collection.metric)
    parts, coarse, fine, version = [], [], [], ""
    for image_id, score in zip(ids, least, strict=True):
        hits, explanation = client.search_explained(
            collection.name, StoredImage(image_id), limit=limit, coarse=candidates
        )
        parts.append(sum(hit.score >= score for hit in hits) / limit)
        if explanation.coarse is not None:
            version = explanation.coarse.version
            coarse.append(explanation.coarse.coarse_seconds)
            fine.append(explanation.coarse.fine_seconds)
    status = client.get_codes(collection.name)
    return Check(
        next(codes for codes in status.sets if codes.codes.version == version),
        collection,
        len(ids),
        limit,
        candidates,
        float(np.mean(parts)),
        min(parts),
        float(np.median(coarse)),
        float(np.median(fine)),
        4 * collection.dimension * status.image_count,
    )


def true_scores(client: Client, collection: Collection, ids: Sequence[str], queries: Matrix, limit: int) -> Matrix:
    """The scores of the true neighbours of stored images, float32[Q, limit], the best first.

    Every vector of the collection is compared with every query; those of some images are in memory at a time.
    """
    best = np.full((len(queries), limit), -np.inf, np.float32)
    own = {image_id: row for row, image_id in enumerate(ids)}
    queries = _directed(queries, collection.metric)
    size = _chunk_size(collection)
    for images in _chunks(client.list(collection.name, with_vector=True, page_size=size), size):
        scores = _scores(
            queries, _directed(_matrix(images, collection.dimension), collection.metric), collection.metric
        )
        for column, image in enumerate(images):
            if image.id in own:
                scores[own[image.id], column] = -np.inf
        best = -np.partition(-np.hstack([best, scores]), limit - 1, axis=1)[:, :limit]
    return -np.sort(-best, axis=1)


def _scores(queries: Matrix, vectors: Matrix, metric: Metric) -> Matrix:
    """As the service tells them: float32[Q, N]. For the cosine all have length 1."""
    # In float32 the rounding of long vectors' squares would be as large as small distances.
    asked, compared = queries.astype(np.float64), vectors.astype(np.float64)
    scores = asked @ compared.T
    if metric is Metric.L2:
        squares = (asked**2).sum(axis=1)[:, np.newaxis] + (compared**2).sum(axis=1) - 2 * scores
        scores = 1 / (1 + np.sqrt(np.maximum(squares, 0)))
    return scores.astype(np.float32)


def _chunks(items: Iterator[Item], size: int) -> Iterator[list[Item]]:
    while chunk := list(islice(items, size)):
        yield chunk
