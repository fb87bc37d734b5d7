"""Compares models on the images of a folder: their quality and their cost."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from imagesearch.embedder.v1 import embedder_pb2

from imagesearch_analysis.disk_space import space_problem
from imagesearch_analysis.evaluation.embedding import Embedded, digest_all, embed_missing
from imagesearch_analysis.evaluation.measuring import Measured, measure
from imagesearch_analysis.evaluation.metrics import Figure, difference, figures
from imagesearch_analysis.evaluation.random_baseline import queries_with_copies, random_figures
from imagesearch_analysis.evaluation.task import Task, TaskError
from imagesearch_analysis.evaluation.vector_cache import VectorCache
from imagesearch_analysis.vectors import FLOAT, ArrayVectors, Floats, PartedVectors, VectorSet
from imagesearch_client.types import Match, Metric
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.sources.folder_source import FolderSource
from imagesearch_ingest.sources.items import Fault, Item, SkipReason

# The measure that decides which candidate is the best.
MEASURE = "mAP"


@dataclass
class FolderImages:
    """The images of a folder, by position."""

    items: Sequence[Item]
    digests: Sequence[str]
    """The SHA-256 of each image; empty if it cannot be read."""
    failed: dict[str, str]
    """Files that cannot be read, with the reason."""


@dataclass(frozen=True)
class ServedModel:
    """A model, and the embedder that serves it."""

    model: embedder_pb2.Model
    endpoint: Endpoint
    shares_name: bool = False
    """Whether a model of the same name on another embedder is compared too."""
    max_regions: int | None = None
    """Maximum number of regions of an image; None compares whole images."""

    @property
    def cache_name(self) -> str:
        """The name of the vectors in the cache."""
        if self.max_regions is None:
            return self.model.fingerprint
        return f"{self.model.region_fingerprint}-{self.max_regions}"

    @property
    def record_size(self) -> int:
        """The number of components of all vectors of an image."""
        return self.model.dimension * (1 + (self.max_regions or 0))

    @property
    def name(self) -> str:
        """The name, such as "vgg16"; with the address of the embedder, "vgg16@127.0.0.1:50061", if names are shared."""
        return f"{self.model.name}@{self.endpoint.target}" if self.shares_name else self.model.name


@dataclass
class ModelRun:
    """A model whose vectors are in the cache."""

    served: ServedModel
    embedded: Embedded
    failed: dict[int, str] = field(default_factory=dict)
    """The positions of the images that failed, with the reason."""

    @property
    def declared_speed(self) -> float | None:
        """Images a second as the embedder measured them at its start; None if it did not."""
        seconds = self.served.model.execution.seconds_per_image
        return 1 / seconds if seconds else None


@dataclass(frozen=True)
class Candidate:
    """A model with a metric, and its quality."""

    run: ModelRun
    metric: Metric
    measured: Measured
    seed: int
    speed: float | None = None
    """Images a second from `comparable_speeds`."""

    @property
    def name(self) -> str:
        """The name of model and metric, such as "vgg16, cosine"."""
        return f"{self.run.served.name}, {self.metric.value}"

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Each measure with its confidence interval."""
        return figures(self.measured.values, self.seed)

    @property
    def quality(self) -> float:
        """The mean that orders the candidates."""
        return self.figures[MEASURE].mean

    @property
    def dimension(self) -> int:
        """The dimension of the vectors."""
        return self.run.served.model.dimension

    @property
    def bytes_per_image(self) -> int:
        """The bytes of all vectors of an image in float32; an image may have fewer regions."""
        return FLOAT.itemsize * self.run.served.record_size

    @property
    def measured_speed(self) -> float | None:
        """Images a second in this run; None if some vectors came from the cache."""
        return self.run.embedded.images_per_second

    @property
    def memory_bytes(self) -> int | None:
        """The memory of the model in the embedder; None if the embedder does not report it."""
        return self.run.served.model.execution.memory_bytes or None

    def worse_by(self, best: "Candidate") -> Figure:
        """Return how much worse this candidate is than the best one, by a paired bootstrap."""
        return difference(best.measured.values[MEASURE], self.measured.values[MEASURE], self.seed)


@dataclass(frozen=True)
class Comparison:
    """Candidates on the same queries, best first."""

    candidates: Sequence[Candidate]
    task: Task
    images: int
    cutoffs: Sequence[int]
    failed: Mapping[str, str]
    """Images that cannot be read, or that a model cannot embed, with the reason; they are in no figure."""
    copies: int = 0
    """The number of queries that have a copy of their own file among their right answers."""

    @cached_property
    def random(self) -> dict[str, float]:
        """The value of each measure for a random ranking."""
        return random_figures(self.task, self.images, self.cutoffs)

    @property
    def best(self) -> Candidate:
        """The candidate with the best quality."""
        return self.candidates[0]


def read_folder(folder: Path, max_bytes: int, on_progress: Callable[[int], None] = lambda _: None) -> FolderImages:
    """Return all images below a folder, ordered by path, with their digests. Raises TaskError if there are none."""
    items, failed = [], {}
    for found in FolderSource(folder):
        if isinstance(found, Fault):
            failed[found.where] = f"{found.reason}: {found.message}"
        elif isinstance(found, Item):
            items.append(found)
        elif found.reason is SkipReason.UNSUPPORTED:
            failed[found.where] = f"FORMAT_UNSUPPORTED: {found.message}"
    if not items:
        reason = f": {next(iter(failed.values()))}" if failed else ""
        raise TaskError(f"{folder} contains no images{reason}")
    # Equal scores are ordered by position, as the service orders them by id.
    items.sort(key=lambda item: item.id)
    digests, unreadable = digest_all(items, max_bytes, on_progress)
    return FolderImages(items, digests, failed | unreadable)


def with_unique_names(served: Sequence[ServedModel]) -> list[ServedModel]:
    """Return the models; the names of models with the same name contain the address of the embedder."""
    counts = Counter(one.model.name for one in served)
    return [replace(one, shares_name=counts[one.model.name] > 1) for one in served]


def comparable_speeds(runs: Sequence[ModelRun]) -> list[float | None]:
    """Return the images a second of each model, all measured in the same way; all None if that is impossible.

    The speeds are those of this run if every model embedded all images in it. Otherwise they are those that the
    embedders measured at their start.
    """
    this_run = [run.embedded.images_per_second for run in runs]
    declared = [run.declared_speed for run in runs]
    return next((speeds for speeds in (this_run, declared) if all(speeds)), [None] * len(runs))


def needed_positions(task: Task, images: int) -> list[int]:
    """Return the ascending positions of the images that a task needs: its queries and its targets."""
    if task.targets is None:
        return list(range(images))
    queries = {query.position for query in task.queries if query.position is not None}
    return sorted(queries | set(task.targets.tolist()))


def run_model(
    served: ServedModel,
    images: FolderImages,
    needed: Iterable[int],
    cache_folder: Path,
    on_progress: Callable[[int], None] = lambda _: None,
    on_wait: Callable[[str], None] = lambda _: None,
) -> ModelRun:
    """Embed the needed images whose vectors are not in the cache. Raises the errors of `embed_missing`."""
    positions = [position for position in needed if images.digests[position]]
    files = {images.digests[position]: images.items[position] for position in positions}
    with VectorCache(cache_folder, served.cache_name, served.record_size) as cache:
        embedded = embed_missing(
            served.endpoint, served.model, files, cache, on_progress, on_wait, max_regions=served.max_regions
        )
    failed = {
        position: embedded.failed[images.digests[position]]
        for position in positions
        if images.digests[position] in embedded.failed
    }
    return ModelRun(served, embedded, failed)


def compare(
    runs: Sequence[ModelRun],
    images: FolderImages,
    task: Task,
    metrics: Sequence[Metric],
    cutoffs: Sequence[int],
    cache_folder: Path,
    seed: int = 0,
    match: Match = Match.IMAGES,
) -> Comparison:
    """Measure every model with every metric on the same queries and images.

    An image that one of the models cannot embed is left out for all models.

    Raises TaskError, CacheError.
    """
    count = len(images.items)
    unreadable = {position for position in needed_positions(task, count) if not images.digests[position]}
    task = task.without(unreadable.union(*(run.failed for run in runs)), count)
    failed = dict(images.failed)
    for run in runs:
        for position, reason in run.failed.items():
            failed[f"{images.items[position].id} ({run.served.name})"] = reason
    needed = needed_positions(task, count)
    candidates = []
    for run, speed in zip(runs, comparable_speeds(runs), strict=True):
        vectors = _cached_vectors(run, images, needed, cache_folder)
        for metric in metrics:
            measured = measure(_vector_set(vectors, run.served, metric, match), task, cutoffs)
            candidates.append(Candidate(run, metric, measured, seed, speed))
    candidates.sort(key=lambda candidate: -candidate.quality)
    same_file: defaultdict[str, list[int]] = defaultdict(list)
    for position in needed:
        same_file[images.digests[position]].append(position)
    return Comparison(candidates, task, count, cutoffs, failed, queries_with_copies(task, same_file.values()))


def _vector_set(vectors: Floats, served: ServedModel, metric: Metric, match: Match) -> VectorSet:
    if served.max_regions is None:
        return ArrayVectors(vectors, metric)
    return PartedVectors(vectors.reshape(len(vectors), 1 + served.max_regions, -1), metric, match)


def _cached_vectors(run: ModelRun, images: FolderImages, needed: Sequence[int], folder: Path) -> Floats:
    """Return float32[images, record]: the vectors by position in a temporary file; 0 for images not needed."""
    served = run.served
    # A write to a mapped file on a full disk would kill the process.
    if problem := space_problem(folder, len(images.items) * served.record_size * FLOAT.itemsize):
        raise TaskError(
            f"not enough disk space for the vectors of {run.served.name}: {problem}; use --cache to name another folder"
        )
    with (
        tempfile.TemporaryFile(dir=folder) as file,
        VectorCache(folder, served.cache_name, served.record_size) as cache,
    ):
        vectors: Floats = np.memmap(file, FLOAT, "w+", shape=(len(images.items), served.record_size))
        for position in needed:
            vector = cache.get(images.digests[position])
            if vector is None:
                raise TaskError(
                    f"the vector of {images.items[position].id} has disappeared from {cache.path}; run the "
                    "command again"
                )
            vectors[position] = vector
    return vectors
