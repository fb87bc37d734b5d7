"""How good the searches of a collection are: what its vectors can do, and what its index makes of them."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from grpc_kit.errors import ServiceError
from imagesearch_analysis.evaluation.chance import chance, copies_among_answers
from imagesearch_analysis.evaluation.labels import attribute_texts
from imagesearch_analysis.evaluation.measuring import (
    NOBODY,
    Hits,
    Measured,
    agreement,
    measure,
    measure_hits,
)
from imagesearch_analysis.evaluation.metrics import Figure, Values, figures
from imagesearch_analysis.evaluation.task import Query, Roles, Task, TaskError
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client import Client
from imagesearch_client.filters import Filter, Value, all_of, is_in
from imagesearch_client.types import Collection, Embedding, SearchOptions, StoredImage
from imagesearch_client.types import Query as SearchQuery

# The most hits that the service gives for a query.
MOST_HITS = 1000


@dataclass(frozen=True)
class IndexSearch:
    """How the service is asked."""

    where: Filter | None = None
    """Only images that fit."""
    targets_apart: bool = True
    """Whether `where` leaves only targets; else the hits are as many as possible, and others are dropped here."""
    ef: int | None = None
    nprobe: int | None = None
    search_list: int | None = None

    def options(self, depth: int) -> SearchOptions:
        """For so many hits that are targets."""
        limit = depth if self.targets_apart else MOST_HITS
        return SearchOptions(
            limit=limit, where=self.where, ef=self.ef, nprobe=self.nprobe, search_list=self.search_list
        )


@dataclass(frozen=True)
class IndexMeasured:
    """What came of the same queries through the service's index."""

    values: dict[str, Values]
    """Each measure by name, a value for each query."""
    agreement: dict[str, Values]
    """The share of the true nearest that was found, at each cutoff."""
    cut_short: int = 0
    """Queries whose hits held fewer targets than were asked for, though there are more."""


@dataclass(frozen=True)
class Evaluation:
    """All that was measured of a collection."""

    collection: Collection
    images: int
    task: Task
    cutoffs: Sequence[int]
    exact: Measured
    index: IndexMeasured | None
    """None where the index was not asked."""
    refused: Mapping[str, str]
    """Queries that could not be asked, which are in no figure, and why."""
    seed: int
    copies: int = 0
    """Queries that have a copy of their own file among the right answers."""

    @cached_property
    def chance(self) -> dict[str, float]:
        """What a random ranking would reach, by measure."""
        return chance(self.task, self.images, self.cutoffs)

    @cached_property
    def exact_figures(self) -> dict[str, Figure]:
        """Of exact search, each measure with its interval."""
        return figures(self.exact.values, self.seed)

    @cached_property
    def index_figures(self) -> dict[str, Figure]:
        """Of the index; no measure that needs the ranking of everything."""
        return figures(self.index.values, self.seed) if self.index else {}

    @cached_property
    def agreement_figures(self) -> dict[str, Figure]:
        """The share of the true nearest that the index found."""
        return figures(self.index.agreement, self.seed) if self.index else {}


def evaluate(
    client: Client,
    snapshot: Snapshot,
    task: Task,
    cutoffs: Sequence[int],
    index: IndexSearch | None,
    *,
    refused: Mapping[str, str] | None = None,
    seed: int = 0,
    tell: Callable[[int], None] = lambda _: None,
) -> Evaluation:
    """Measures exact search and the index on the same queries.

    Args:
        client: of the service that has the collection.
        snapshot: all of the collection.
        task: whose queries outside of the collection have vectors.
        cutoffs: the k of the measures of the first k hits.
        index: how the service is asked; None does not ask it.
        refused: queries that were left out before, and why.
        seed: of the intervals.
        tell: is told the searches so far: one through the index for each query, then an exact one for each.

    Raises ServiceError, and TaskError where no query could be asked.
    """
    refusals = dict(refused or {})
    found = None
    if index is not None:
        found, failed, cut_short = _ask_index(client, snapshot, task, max(cutoffs), index, tell)
        refusals |= {task.queries[number].name: why for number, why in failed.items()}
        kept = [number for number in range(len(task.queries)) if number not in failed]
        task = dataclasses.replace(task, queries=[task.queries[number] for number in kept])
        found = Hits(found.positions[kept], found.scores[kept])
    if not task.queries:
        why = f": {next(iter(refusals.values()))}" if refusals else ""
        raise TaskError(f"none of {len(refusals)} queries could be asked{why}")
    asked = 0 if index is None else len(task.queries) + len(refusals)
    exact = measure(snapshot.vectors, snapshot.metric, task, cutoffs, lambda done: tell(asked + done))
    through_index = None
    if found is not None:
        shares = {f"agreement@{k}": agreement(found, exact.hits, k, snapshot.metric) for k in cutoffs}
        through_index = IndexMeasured(measure_hits(found, task, cutoffs), shares, cut_short)
    collection = client.get_collection(snapshot.collection)
    copies = copies_among_answers(task, snapshot.same_content())
    return Evaluation(collection, len(snapshot), task, cutoffs, exact, through_index, refusals, seed, copies)


def index_search(
    snapshot: Snapshot,
    task: Task,
    roles: Roles,
    role_attribute: str,
    where: Filter | None,
    *,
    ef: int | None = None,
    nprobe: int | None = None,
    search_list: int | None = None,
) -> IndexSearch:
    """How the service finds only the targets: by the attribute that has the role, where exactly the targets have it.

    Raises TaskError where no attribute tells them, and `ef` or `search_list` is less than the hits that are asked for
    then.
    """
    how = IndexSearch(where, ef=ef, nprobe=nprobe, search_list=search_list)
    if task.targets is None:
        return how
    stored = _stored_roles(snapshot, role_attribute, roles.targets)
    if stored.keys() == set(task.targets.tolist()):
        only = is_in(role_attribute, *dict.fromkeys(stored.values()))
        return replace(how, where=only if where is None else all_of(where, only))
    for option, kept in (("--ef", ef), ("--search-list", search_list)):
        if kept is not None and kept < MOST_HITS:
            raise TaskError(
                f"{option} is {kept}, and should be at least {MOST_HITS}: the images have no attribute that tells the "
                f"targets, so that the service is asked for its first {MOST_HITS} hits, and looks at no fewer. Ingest "
                f"the labels as a manifest, and the role is an attribute: then {option} may be as low as -k"
            )
    return replace(how, targets_apart=False)


def _stored_roles(snapshot: Snapshot, attribute: str, role: str) -> dict[int, Value]:
    """The images that have a role, by position, and how it is stored: 1 in the labels may be a text or a number."""
    found: dict[int, Value] = {}
    for position in range(len(snapshot)):
        stored = snapshot.describe(position).attributes.get(attribute)
        if role in attribute_texts(stored):
            found[position] = stored if isinstance(stored, str | bool | int | float) else role
    return found


def _ask_index(
    client: Client,
    snapshot: Snapshot,
    task: Task,
    depth: int,
    index: IndexSearch,
    tell: Callable[[int], None],
) -> tuple[Hits, dict[int, str], int]:
    """The hits of every query through the service, what is wrong with some, and how many have too few."""
    by_id = {image_id: position for position, image_id in enumerate(snapshot.ids)}
    is_target = np.ones(len(snapshot), dtype=bool)
    if task.targets is not None:
        is_target[:] = False
        is_target[task.targets] = True
    queries = task.queries
    hits = Hits(np.full((len(queries), depth), NOBODY), np.zeros((len(queries), depth), np.float32))
    failed: dict[int, str] = {}
    cut_short = Counter[int]()
    answers = client.search_many(snapshot.collection, _asked(queries, snapshot.fingerprint), **index.options(depth))
    for done, (number, found) in enumerate(answers, start=1):
        if isinstance(found, ServiceError):
            failed[number] = f"{found.reason}: {found.message}"
        else:
            # What was written since the snapshot was taken is at no position, and is right for nobody.
            known = [(by_id.get(hit.image.id, NOBODY), hit.score) for hit in found]
            kept = [(position, score) for position, score in known if position == NOBODY or is_target[position]][:depth]
            for rank, (position, score) in enumerate(kept):
                hits.positions[number, rank], hits.scores[number, rank] = position, score
            others = int(is_target.sum()) - (queries[number].position is not None)
            cut_short[number] = not index.targets_apart and len(kept) < min(depth, others)
        tell(done)
    return hits, failed, sum(cut_short.values())


def _asked(queries: Sequence[Query], fingerprint: str) -> Iterator[SearchQuery]:
    for query in queries:
        if query.vector is None:
            yield StoredImage(query.name)
        else:
            yield Embedding(query.vector.tolist(), fingerprint)
