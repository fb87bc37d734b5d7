"""A retrieval task: queries, the right answers to each query, and the images that may be hits."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.vectors import Floats, Positions, sample_positions

NO_ANSWERS: Positions = np.empty(0, np.int64)


class TaskError(AnalysisError):
    """The labels or images allow no measurement; the message says what is wrong, and what is allowed."""


@dataclass(frozen=True)
class Query:
    """A query and its right answers. An image of the collection is not an answer to itself."""

    name: str
    """The id of the image, or the path of a file outside of the collection."""
    relevant: Positions
    """The positions of the right answers. The query itself may be among them; it does not count."""
    classes: tuple[str, ...] = ()
    position: int | None = None
    """The position in the collection; None for a file outside of it."""
    vector: Floats | None = None
    """float32[dimension]: the vector of a file outside of the collection, after it was embedded."""
    file: Path | None = None


@dataclass(frozen=True)
class Task:
    """Queries on the images of a collection, and what was left out."""

    queries: Sequence[Query]
    targets: Positions | None
    """The ascending positions of the images that may be hits; None is all images."""
    without_image: Sequence[str] = ()
    """Names in the labels that belong to no image of the collection."""
    without_label: Sequence[str] = ()
    """Images without labels. They may be hits, and are always wrong."""
    without_answer: Sequence[str] = ()
    """Queries without right answers, which cannot be measured."""
    same_label: str = ""
    """The label that all images have; empty if labels differ."""

    @property
    def same_label_note(self) -> str:
        """The note that no hit can be wrong; empty if hits can be wrong."""
        if not self.same_label:
            return ""
        return f"Every image has the label {self.same_label}. No hit can be wrong, so these figures mean nothing."

    def sampled(self, size: int | None, seed: int) -> "Task":
        """Return the task with a random sample of at most `size` queries; None keeps all."""
        return dataclasses.replace(self, queries=_sampled(self.queries, size, seed))

    def without(self, removed: set[int], images: int) -> "Task":
        """Return the task without some of the `images` positions, as queries, hits and answers. Raises TaskError."""
        if not removed:
            return self
        left_out = np.array(sorted(removed), dtype=np.int64)
        targets = np.setdiff1d(np.arange(images) if self.targets is None else self.targets, left_out)
        # Many queries share one array of answers, and must also share the reduced array.
        shared = {id(query.relevant): query.relevant for query in self.queries}
        reduced = {key: np.setdiff1d(relevant, left_out) for key, relevant in shared.items()}
        kept = [
            dataclasses.replace(query, relevant=reduced[id(query.relevant)])
            for query in self.queries
            if query.position not in removed
        ]
        queries = [query for query in kept if right_answers(query)]
        if not queries:
            raise TaskError(f"without the {len(removed)} images that failed, no query has a right answer")
        alone = [query.name for query in kept if not right_answers(query)]
        return dataclasses.replace(
            self, queries=queries, targets=targets, without_answer=[*self.without_answer, *alone]
        )


@dataclass(frozen=True)
class Roles:
    """The roles of the images that are queries and of those that may be hits; an empty role means all images."""

    queries: str = ""
    targets: str = ""

    def is_query(self, roles: Sequence[str]) -> bool:
        """Return whether an image with these roles is a query."""
        return not self.queries or self.queries in roles

    def is_target(self, roles: Sequence[str]) -> bool:
        """Return whether an image with these roles may be a hit."""
        return not self.targets or self.targets in roles


@dataclass
class Label:
    """The classes and roles of an image. Images that share a class are right answers to each other."""

    classes: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def add(self, classes: Sequence[str], role: str = "") -> None:
        """Add the classes and the role of another row about the image; repeated ones count once."""
        self.classes = list(dict.fromkeys([*self.classes, *classes]))
        if role and role not in self.roles:
            self.roles.append(role)


@dataclass(frozen=True)
class Labelling:
    """The labels of the images of a collection, by position, and of files outside of it."""

    ids: Sequence[str]
    labels: Sequence[Label]
    outside: Sequence[tuple[Path, Label]] = ()
    without_image: Sequence[str] = ()

    def task(self, roles: Roles, sample: int | None = None, seed: int = 0) -> Task:
        """Return the task of these labels, with a random sample of at most `sample` queries.

        Raises TaskError if there are no queries.
        """
        targets = [position for position, label in enumerate(self.labels) if roles.is_target(label.roles)]
        answers = _Answers(self.labels, targets)
        inside = [
            Query(self.ids[position], NO_ANSWERS, tuple(label.classes), position)
            for position, label in enumerate(self.labels)
            if label.classes and roles.is_query(label.roles)
        ]
        outside = [
            Query(str(path), NO_ANSWERS, tuple(label.classes), file=path)
            for path, label in self.outside
            if label.classes and roles.is_query(label.roles)
        ]
        queries = [*inside, *outside]
        answered = [query for query in queries if answers.exist(query)]
        self._check(roles, targets, queries, answered)
        all_right = all(len(answers.of(query.classes)) == len(targets) for query in answered)
        return Task(
            [
                dataclasses.replace(query, relevant=answers.of(query.classes))
                for query in _sampled(answered, sample, seed)
            ],
            np.array(targets, dtype=np.int64) if roles.targets else None,
            self.without_image,
            [name for name, label in zip(self.ids, self.labels, strict=True) if not label.classes],
            [query.name for query in queries if not answers.exist(query)],
            ", ".join(answered[0].classes) if all_right else "",
        )

    def _check(self, roles: Roles, targets: Sequence[int], queries: Sequence[Query], answered: Sequence[Query]) -> None:
        if not any(label.classes for label in (*self.labels, *(label for _, label in self.outside))):
            example = f", such as {self.without_image[0]!r:.80}" if self.without_image else ""
            known = f"; an id is, for example, {self.ids[0]!r:.80}" if self.ids else "; there are no images"
            raise TaskError(f"no label belongs to an image: no image has a name of the labels{example}{known}")
        known_roles = sorted({role for label in self.labels for role in label.roles})
        known_roles += [role for _, label in self.outside for role in label.roles if role not in known_roles]
        for role, found in ((roles.queries, queries), (roles.targets, targets)):
            if role and not len(found):
                raise TaskError(f"no image has the role {role!r:.80}; the roles are {', '.join(known_roles) or 'none'}")
        if not answered:
            raise TaskError(
                f"none of {len(queries)} queries has a right answer among {len(targets)} images: no two images share a "
                "label"
            )


def right_answers(query: Query) -> int:
    """Return the number of right answers of a query, without itself."""
    itself = query.position is not None and bool(np.any(query.relevant == query.position))
    return len(query.relevant) - itself


class _Answers:
    """The right answers for classes, found among the targets."""

    def __init__(self, labels: Sequence[Label], targets: Sequence[int]) -> None:
        self._targets = set(targets)
        self._members: dict[str, list[int]] = defaultdict(list)
        for position in targets:
            for name in labels[position].classes:
                self._members[name].append(position)
        self._arrays: dict[frozenset[str], Positions] = {}

    def exist(self, query: Query) -> bool:
        """Return whether a query has a right answer other than itself, without building the array of all."""
        itself = query.position in self._targets
        return any(len(self._members.get(name, ())) > itself for name in query.classes)

    def of(self, classes: Sequence[str]) -> Positions:
        """Return the ascending positions of the targets that have one of the classes.

        All queries with the same classes share one array. A class of 10,000 images would otherwise need 10,000 arrays
        of 10,000 positions.
        """
        key = frozenset(classes)
        if key not in self._arrays:
            members = set[int]().union(*(self._members.get(name, ()) for name in key))
            self._arrays[key] = np.array(sorted(members), dtype=np.int64)
        return self._arrays[key]


def _sampled(queries: Sequence[Query], size: int | None, seed: int) -> Sequence[Query]:
    """Return a random sample of at most `size` queries in their order; None returns all."""
    if size is None or size >= len(queries):
        return queries
    return [queries[number] for number in sample_positions(len(queries), size, seed)]
