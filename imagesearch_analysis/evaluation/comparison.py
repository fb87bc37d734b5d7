"""Several models on the same pictures: their quality, their cost, and which one to take."""

import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from imagesearch.embedder.v1 import embedder_pb2

from imagesearch_analysis.evaluation.chance import chance, copies_among_answers
from imagesearch_analysis.evaluation.embedding import Embedded, digest_all, embed_missing
from imagesearch_analysis.evaluation.measuring import Measured, measure
from imagesearch_analysis.evaluation.metrics import Figure, difference, figures
from imagesearch_analysis.evaluation.ranking import Vectors
from imagesearch_analysis.evaluation.task import Task, TaskError
from imagesearch_analysis.evaluation.vector_cache import VectorCache
from imagesearch_analysis.free_space import lack_of_space
from imagesearch_client.types import Metric
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.sources.folder_source import FolderSource
from imagesearch_ingest.sources.items import Fault, Item, SkipReason

# What the recommendation goes by.
MEASURE = "mAP"
# A model is faster where it embeds more images by more than this factor; less is what a busy machine makes of the same.
FASTER = 1.25
FLOAT_BYTES = 4


@dataclass
class Pictures:
    """The images of a folder, by position."""

    items: Sequence[Item]
    digests: Sequence[str]
    """SHA-256 of each; empty where it cannot be read."""
    faults: dict[str, str]
    """What cannot be read, and why."""


@dataclass(frozen=True)
class Served:
    """A model, and the embedder that serves it."""

    model: embedder_pb2.Model
    endpoint: Endpoint
    shares_name: bool = False
    """Whether another embedder serves a model of the same name, which is compared too."""

    @property
    def name(self) -> str:
        """Such as "vgg16"; with the embedder's address, such as "vgg16@127.0.0.1:50061", where names are shared."""
        return f"{self.model.name}@{self.endpoint.target}" if self.shares_name else self.model.name


@dataclass
class ModelRun:
    """A model whose vectors are in the cache."""

    served: Served
    embedded: Embedded
    failed: dict[int, str] = field(default_factory=dict)
    """What is wrong with the image at a position."""

    @property
    def told_speed(self) -> float | None:
        """Images a second as the embedder measured it at its start; None where it did not."""
        told = self.served.model.execution.seconds_per_image
        return 1 / told if told else None


@dataclass(frozen=True)
class Candidate:
    """A model with a metric, and how good it is."""

    run: ModelRun
    metric: Metric
    measured: Measured
    seed: int
    speed: float | None = None
    """Images a second, as `comparable_speeds` has it."""

    @property
    def name(self) -> str:
        """Such as "vgg16, cosine"."""
        return f"{self.run.served.name}, {self.metric.value}"

    @cached_property
    def figures(self) -> dict[str, Figure]:
        """Each measure with its interval."""
        return figures(self.measured.values, self.seed)

    @property
    def quality(self) -> float:
        """What the recommendation goes by."""
        return self.figures[MEASURE].mean

    @property
    def dimension(self) -> int:
        """Of its vectors."""
        return self.run.served.model.dimension

    @property
    def bytes_per_image(self) -> int:
        """Of a vector in float32."""
        return FLOAT_BYTES * self.dimension

    @property
    def measured_speed(self) -> float | None:
        """Images a second in this run; None where some came from the cache."""
        return self.run.embedded.images_per_second

    @property
    def memory_bytes(self) -> int | None:
        """Of the model in the embedder; None where it does not tell."""
        return self.run.served.model.execution.memory_bytes or None

    def worse_by(self, best: "Candidate") -> Figure:
        """How much worse it is than the best one, by a paired bootstrap; at most 0 where it is not worse."""
        return difference(best.measured.values[MEASURE], self.measured.values[MEASURE], self.seed)


@dataclass(frozen=True)
class Comparison:
    """Candidates on the same queries, the best first."""

    candidates: Sequence[Candidate]
    task: Task
    images: int
    cutoffs: Sequence[int]
    failed: Mapping[str, str]
    """Images that one of the models could not take, or that cannot be read, and why; they are in no figure."""
    copies: int = 0
    """Queries that have a copy of their own file among the right answers."""

    @cached_property
    def chance(self) -> dict[str, float]:
        """What a random ranking would reach, by measure."""
        return chance(self.task, self.images, self.cutoffs)

    @property
    def best(self) -> Candidate:
        """The one of the best quality."""
        return self.candidates[0]


def read_folder(folder: Path, max_bytes: int, tell: Callable[[int], None] = lambda _: None) -> Pictures:
    """Every image below a folder by its path, with the digest of its content. Raises TaskError where there is none."""
    items, faults = [], {}
    for found in FolderSource(folder):
        if isinstance(found, Fault):
            faults[found.where] = f"{found.reason}: {found.message}"
        elif isinstance(found, Item):
            items.append(found)
        elif found.reason is SkipReason.UNSUPPORTED:
            faults[found.where] = f"FORMAT_UNSUPPORTED: {found.message}"
    if not items:
        why = f": {next(iter(faults.values()))}" if faults else ""
        raise TaskError(f"there are no images in {folder}{why}")
    # In the order of ids, by which equal scores are ordered.
    items.sort(key=lambda item: item.id)
    digests, unreadable = digest_all(items, max_bytes, tell)
    return Pictures(items, digests, faults | unreadable)


def told_apart(served: Sequence[Served]) -> list[Served]:
    """The same, those of one name with the addresses of their embedders in their names."""
    names = Counter(one.model.name for one in served)
    return [replace(one, shares_name=names[one.model.name] > 1) for one in served]


def comparable_speeds(runs: Sequence[ModelRun]) -> list[float | None]:
    """Images a second of each model, all known in the same way; None of all where there is no such way.

    Those of this run, where each model embedded all images in it, or else what the embedders measured at their start.
    """
    this_run = [run.embedded.images_per_second for run in runs]
    told = [run.told_speed for run in runs]
    return next((speeds for speeds in (this_run, told) if all(speeds)), [None] * len(runs))


def wanted_positions(task: Task, images: int) -> list[int]:
    """The images that a task needs: its queries and its targets."""
    if task.targets is None:
        return list(range(images))
    asked = {query.position for query in task.queries if query.position is not None}
    return sorted(asked | set(task.targets.tolist()))


def run_model(
    served: Served,
    pictures: Pictures,
    wanted: Iterable[int],
    folder: Path,
    tell: Callable[[int], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> ModelRun:
    """Sees that the cache in a folder has a model's vectors of the wanted images. Raises as `embed_missing`."""
    positions = [position for position in wanted if pictures.digests[position]]
    files = {pictures.digests[position]: pictures.items[position] for position in positions}
    with VectorCache(folder, served.model.fingerprint, served.model.dimension) as cache:
        embedded = embed_missing(served.endpoint, served.model, files, cache, tell, say)
    failed = {
        position: embedded.failed[pictures.digests[position]]
        for position in positions
        if pictures.digests[position] in embedded.failed
    }
    return ModelRun(served, embedded, failed)


def compare(
    runs: Sequence[ModelRun],
    pictures: Pictures,
    task: Task,
    metrics: Sequence[Metric],
    cutoffs: Sequence[int],
    cache_folder: Path,
    seed: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """Measures every model with every metric, all on the same queries and images. Raises TaskError, CacheError.

    An image that one of the models could not take is left out for all of them. `tell` is told the queries so far.
    """
    images = len(pictures.items)
    wanted = wanted_positions(task, images)
    unreadable = {position for position in wanted if not pictures.digests[position]}
    task = task.without(unreadable.union(*(run.failed for run in runs)), images)
    failed = dict(pictures.faults)
    for run in runs:
        for position, why in run.failed.items():
            failed[f"{pictures.items[position].id} ({run.served.name})"] = why
    candidates = []
    for run, speed in zip(runs, comparable_speeds(runs), strict=True):
        vectors = _vectors(run, pictures, wanted_positions(task, images), cache_folder)
        for metric in metrics:
            measured = measure(vectors, metric, task, cutoffs, tell)
            candidates.append(Candidate(run, metric, measured, seed, speed))
    candidates.sort(key=lambda candidate: -candidate.quality)
    by_digest: defaultdict[str, list[int]] = defaultdict(list)
    for position in wanted_positions(task, images):
        if digest := pictures.digests[position]:
            by_digest[digest].append(position)
    return Comparison(candidates, task, images, cutoffs, failed, copies_among_answers(task, by_digest.values()))


def advice(comparison: Comparison) -> str:
    """Which candidate to take, and why: the best one, or a cheaper one that is not significantly worse."""
    if caution := comparison.task.caution:
        return caution
    best = comparison.best
    its = f"{MEASURE} of {best.figures[MEASURE]}"
    if len(comparison.candidates) == 1:
        return f"{best.name} has an {its}; there is nothing to compare it with."
    rivals = [candidate for candidate in comparison.candidates[1:] if candidate.worse_by(best).low <= 0]
    if not rivals:
        return f"Take {best.name}: its {its} is significantly better than that of all others."
    cheaper = [rival for rival in rivals if is_faster(rival, best) or is_smaller(rival, best)]
    if not cheaper:
        names = "; ".join(rival.name for rival in rivals)
        return f"Take {best.name}: its {its} is the best. Within noise of it, and no cheaper: {names}."
    chosen = cheapest(cheaper)
    return (
        f"Take {chosen.name}, and not {best.name} with the best {its}: {_cheaper_by(chosen, best)}. It has "
        f"{chosen.figures[MEASURE]}, and the difference of {chosen.worse_by(best)} is within noise on these "
        f"{len(comparison.task.queries):,} queries (paired bootstrap)."
    )


def is_faster(one: Candidate, other: Candidate) -> bool:
    """Whether it embeds more images a second, as far as that is known of both."""
    return one.speed is not None and other.speed is not None and one.speed > FASTER * other.speed


def is_smaller(one: Candidate, other: Candidate) -> bool:
    """Whether its vectors are smaller, and it is no slower."""
    return one.bytes_per_image < other.bytes_per_image and not is_faster(other, one)


def cheapest(candidates: Sequence[Candidate]) -> Candidate:
    """The fastest one; of those about as fast the one of the smallest vectors, and of these the best."""
    fastest = max(candidates, key=lambda candidate: candidate.speed or 0)
    as_fast = [candidate for candidate in candidates if not is_faster(fastest, candidate)]
    return min(as_fast, key=lambda candidate: (candidate.bytes_per_image, -candidate.quality))


def _cheaper_by(chosen: Candidate, best: Candidate) -> str:
    if chosen.speed and best.speed and is_faster(chosen, best):
        return f"it embeds {chosen.speed / best.speed:.1f} times as many images a second"
    return f"its vectors are {best.bytes_per_image / chosen.bytes_per_image:.1f} times smaller"


def _vectors(run: ModelRun, pictures: Pictures, wanted: Sequence[int], folder: Path) -> Vectors:
    """A model's vectors by position, float32 [N, D], in a file that goes with them; what is not wanted is 0."""
    model = run.served.model
    # A disk that is full would end the process when the file's memory is written.
    if problem := lack_of_space(folder, len(pictures.items) * model.dimension * FLOAT_BYTES):
        raise TaskError(f"the vectors of {run.served.name} have no room: {problem}; --cache names another folder")
    with tempfile.TemporaryFile(dir=folder) as file, VectorCache(folder, model.fingerprint, model.dimension) as cache:
        vectors: Vectors = np.memmap(file, np.float32, "w+", shape=(len(pictures.items), model.dimension))
        for position in wanted:
            vector = cache.get(pictures.digests[position])
            if vector is None:
                raise TaskError(
                    f"the vector of {pictures.items[position].id} is gone from {cache.path}; run the command again"
                )
            vectors[position] = vector
    return vectors
