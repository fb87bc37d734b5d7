"""Measures the quality of a collection: what its vectors can find, and what its index loses."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from grpc_kit.errors import ServiceError
from imagesearch_analysis.evaluation.labels import attribute_texts
from imagesearch_analysis.evaluation.measuring import Hits, Measured, agreement, measure, measure_hits
from imagesearch_analysis.evaluation.metrics import Figure, Values, figures
from imagesearch_analysis.evaluation.random_baseline import queries_with_copies, random_figures
from imagesearch_analysis.evaluation.task import Query, Roles, Task, TaskError
from imagesearch_analysis.exact_search import NO_POSITION
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_analysis.vectors import PartedVectors
from imagesearch_client import Client
from imagesearch_client.filters import Filter, Value, all_of, is_in
from imagesearch_client.types import Collection, Embedding, Match, SearchOptions, StoredImage
from imagesearch_client.types import Query as SearchQuery

# The largest number of hits that the service returns for a query.
MAX_HITS = 1000


@dataclass(frozen=True)
class IndexSearch:
    """How queries are sent to the service."""

    where: Filter | None = None
    """Search only images that match."""
    filters_targets: bool = True
    """Whether `where` matches only targets. If not, MAX_HITS hits are requested, and other images are dropped here."""
    ef: int | None = None
    nprobe: int | None = None
    search_list: int | None = None
    match: Match = Match.IMAGES

    def options(self, depth: int) -> SearchOptions:
        """Return the search options for `depth` hits that are targets."""
        limit = depth if self.filters_targets else MAX_HITS
        return SearchOptions(
            limit=limit,
            where=self.where,
            ef=self.ef,
            nprobe=self.nprobe,
            search_list=self.search_list,
            match=self.match,
        )


@dataclass(frozen=True)
class IndexQuality:
    """The measures of the same queries through the index of the service."""

    values: dict[str, Values]
    """The value of each measure for each query."""
    agreement: dict[str, Values]
    """The share of the true nearest that were found, at each cutoff."""
    incomplete: int = 0
    """The number of queries whose hits contained too few targets, although there are more."""


@dataclass(frozen=True)
class CollectionQuality:
    """All measurements of a collection."""

    collection: Collection
    images: int
    task: Task
    cutoffs: Sequence[int]
    exact: Measured
    index: IndexQuality | None
    """None if the index was not measured."""
    failed: Mapping[str, str]
    """Queries that could not be searched, with the reason; they are in no figure."""
    seed: int
    copies: int = 0
    """The number of queries that have a copy of their own file among their right answers."""

    @cached_property
    def random(self) -> dict[str, float]:
        """The value of each measure for a random ranking."""
        return random_figures(self.task, self.images, self.cutoffs)

    @cached_property
    def exact_figures(self) -> dict[str, Figure]:
        """The figures of exact search."""
        return figures(self.exact.values, self.seed)

    @cached_property
    def index_figures(self) -> dict[str, Figure]:
        """The figures of the index, without measures that need the ranking of all images."""
        return figures(self.index.values, self.seed) if self.index else {}

    @cached_property
    def agreement_figures(self) -> dict[str, Figure]:
        """The share of the true nearest that the index found, at each cutoff."""
        return figures(self.index.agreement, self.seed) if self.index else {}


def measure_collection(
    client: Client,
    snapshot: Snapshot,
    task: Task,
    cutoffs: Sequence[int],
    index: IndexSearch | None,
    *,
    parts: PartedVectors | None = None,
    failed: Mapping[str, str] | None = None,
    seed: int = 0,
    on_progress: Callable[[int], None] = lambda _: None,
) -> CollectionQuality:
    """Measure exact search and the index with the same queries.

    Args:
        client: the client of the service that has the collection.
        snapshot: all images of the collection.
        task: the queries; those outside of the collection have vectors.
        cutoffs: the values of k for the measures of the first k hits.
        index: how queries are sent to the service; None measures only exact search.
        parts: the regions of the images of the snapshot; None compares whole images.
        failed: queries that failed before, with the reason.
        seed: the seed of the confidence intervals.
        on_progress: receives the number of searches so far: first all through the index, then all exact ones.

    Raises ServiceError; TaskError if no query could be searched.
    """
    all_failed = dict(failed or {})
    found, incomplete = None, 0
    if index is not None:
        found, failed_now, incomplete = _search_index(client, snapshot, task, max(cutoffs), index, on_progress)
        all_failed |= {task.queries[number].name: reason for number, reason in failed_now.items()}
        kept = [number for number in range(len(task.queries)) if number not in failed_now]
        task = replace(task, queries=[task.queries[number] for number in kept])
        found = Hits(found.positions[kept], found.scores[kept])
    if not task.queries:
        reason = f": {next(iter(all_failed.values()))}" if all_failed else ""
        raise TaskError(f"all {len(all_failed)} queries failed{reason}")
    searched = 0 if index is None else len(task.queries) + len(all_failed)
    exact = measure(snapshot if parts is None else parts, task, cutoffs, lambda done: on_progress(searched + done))
    index_quality = None
    if found is not None:
        shares = {f"agreement@{k}": agreement(found, exact.hits, k, snapshot.metric) for k in cutoffs}
        index_quality = IndexQuality(measure_hits(found, task, cutoffs), shares, incomplete)
    collection = client.get_collection(snapshot.collection)
    copies = queries_with_copies(task, snapshot.groups_of_same_file())
    return CollectionQuality(collection, len(snapshot), task, cutoffs, exact, index_quality, all_failed, seed, copies)


def index_search(
    snapshot: Snapshot, task: Task, roles: Roles, role_attribute: str, options: IndexSearch
) -> IndexSearch:
    """Return how to search only the targets: by the attribute with the role, if exactly the targets have that role.

    Raises TaskError if no attribute distinguishes the targets, and `ef` or `search_list` is below MAX_HITS.
    """
    if task.targets is None:
        return options
    stored = _stored_roles(snapshot, role_attribute, roles.targets)
    if stored.keys() == set(task.targets.tolist()):
        only = is_in(role_attribute, *dict.fromkeys(stored.values()))
        return replace(options, where=only if options.where is None else all_of(options.where, only))
    for option, value in (("--ef", options.ef), ("--search-list", options.search_list)):
        if value is not None and value < MAX_HITS:
            raise TaskError(
                f"{option} is {value}; it must be at least {MAX_HITS} here: no stored attribute distinguishes the "
                f"targets, so the service is asked for its first {MAX_HITS} hits. Ingest the label file as a "
                "manifest to store the roles as an attribute"
            )
    return replace(options, filters_targets=False)


def _stored_roles(snapshot: Snapshot, attribute: str, role: str) -> dict[int, Value]:
    """Return the positions of the images with a role, and its stored value: the role "1" may be a text or a number."""
    found: dict[int, Value] = {}
    for position in range(len(snapshot)):
        stored = snapshot.image(position).attributes.get(attribute)
        if role in attribute_texts(stored):
            found[position] = stored if isinstance(stored, str | bool | int | float) else role
    return found


def _search_index(
    client: Client,
    snapshot: Snapshot,
    task: Task,
    depth: int,
    index: IndexSearch,
    on_progress: Callable[[int], None],
) -> tuple[Hits, dict[int, str], int]:
    """Return the hits of all queries, the reasons of those that failed, and the number of incomplete ones."""
    by_id = {image_id: position for position, image_id in enumerate(snapshot.ids)}
    is_target = np.ones(len(snapshot), dtype=bool)
    if task.targets is not None:
        is_target[:] = False
        is_target[task.targets] = True
    queries = task.queries
    hits = Hits(np.full((len(queries), depth), NO_POSITION), np.zeros((len(queries), depth)))
    failed: dict[int, str] = {}
    incomplete = Counter[int]()
    results = client.search_many(
        snapshot.collection, _search_queries(queries, snapshot.fingerprint), **index.options(depth)
    )
    for done, (number, result) in enumerate(results, start=1):
        if isinstance(result, ServiceError):
            failed[number] = f"{result.reason}: {result.message}"
        else:
            # Images that were written after the snapshot have no position, and count as wrong hits.
            known = [(by_id.get(hit.image.id, NO_POSITION), hit.score) for hit in result]
            kept = [hit for hit in known if hit[0] == NO_POSITION or is_target[hit[0]]][:depth]
            for rank, (position, score) in enumerate(kept):
                hits.positions[number, rank], hits.scores[number, rank] = position, score
            others = int(is_target.sum()) - (queries[number].position is not None)
            incomplete[number] = not index.filters_targets and len(kept) < min(depth, others)
        on_progress(done)
    return hits, failed, sum(incomplete.values())


def _search_queries(queries: Sequence[Query], fingerprint: str) -> Iterator[SearchQuery]:
    for query in queries:
        if query.vector is None:
            yield StoredImage(query.name)
        else:
            yield Embedding(query.vector.tolist(), fingerprint)
