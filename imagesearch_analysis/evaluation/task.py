"""What is to be found: queries, and the right answers to each."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imagesearch_analysis.errors import AnalysisError
from imagesearch_analysis.evaluation.ranking import Positions, Vectors

NONE: Positions = np.empty(0, np.int64)


class TaskError(AnalysisError):
    """Labels that give nothing to measure; says what is wrong and what would be right."""


@dataclass(frozen=True)
class Query:
    """A query and its right answers. An image of the collection is no answer to itself."""

    name: str
    """The image's id, or the path of a file outside of the collection."""
    relevant: Positions
    """Where the right answers are; itself may be among them, and does not count."""
    classes: tuple[str, ...] = ()
    position: int | None = None
    """Where it is in the collection; None outside of it."""
    vector: Vectors | None = None
    """float32 [D] of a file outside of the collection, once it is embedded."""
    file: Path | None = None


@dataclass(frozen=True)
class Task:
    """Queries among the images of a collection, and what had to be left out."""

    queries: Sequence[Query]
    targets: Positions | None
    """Where the images are that may be hits, ascending; None is all."""
    without_image: Sequence[str] = ()
    """Names that the labels know and the collection does not."""
    without_label: Sequence[str] = ()
    """Images that the labels do not know: they may be hits, and are never right."""
    without_answer: Sequence[str] = ()
    """Queries that have no right answer, and so cannot be measured."""
    same_label: str = ""
    """The label that every image has."""

    @property
    def caution(self) -> str:
        """What is to be said where no hit can be wrong; empty otherwise."""
        if not self.same_label:
            return ""
        return f"Every image has the label {self.same_label}: no hit can be wrong, and these figures tell nothing."

    def sampled(self, size: int | None, seed: int) -> "Task":
        """With so many of the queries at most, drawn at random."""
        return dataclasses.replace(self, queries=_drawn(self.queries, size, seed))

    def without(self, gone: set[int], images: int) -> "Task":
        """Without the images at some positions of all, as queries, as hits and as answers. Raises TaskError."""
        if not gone:
            return self
        left_out = np.array(sorted(gone), dtype=np.int64)
        targets = np.setdiff1d(np.arange(images) if self.targets is None else self.targets, left_out)
        # Many queries share an array of answers, and are to share what is left of it.
        shared = {id(query.relevant): query.relevant for query in self.queries}
        less = {key: np.setdiff1d(relevant, left_out) for key, relevant in shared.items()}
        kept = [
            dataclasses.replace(query, relevant=less[id(query.relevant)])
            for query in self.queries
            if query.position not in gone
        ]
        queries = [query for query in kept if answers_to(query)]
        if not queries:
            raise TaskError(f"without the {len(gone)} images that failed no query has a right answer")
        alone = [query.name for query in kept if not answers_to(query)]
        return dataclasses.replace(
            self, queries=queries, targets=targets, without_answer=[*self.without_answer, *alone]
        )


@dataclass(frozen=True)
class Roles:
    """Which of the images ask, and which answer; an empty text is all of them."""

    queries: str = ""
    targets: str = ""

    def asks(self, roles: Sequence[str]) -> bool:
        """Whether an image of these roles is a query."""
        return not self.queries or self.queries in roles

    def answers(self, roles: Sequence[str]) -> bool:
        """Whether an image of these roles may be a hit."""
        return not self.targets or self.targets in roles


@dataclass
class Label:
    """What is known of an image. Those that share a class are right answers to each other."""

    classes: list[str] = field(default_factory=list)
    roles: list[str] = field(default_factory=list)

    def add(self, classes: Sequence[str], role: str = "") -> None:
        """One more row tells of it."""
        # One that is told twice counts once.
        self.classes = list(dict.fromkeys([*self.classes, *classes]))
        if role and role not in self.roles:
            self.roles.append(role)


@dataclass(frozen=True)
class Labelling:
    """The labels of a collection's images, by position, and of files that are not in it."""

    ids: Sequence[str]
    labels: Sequence[Label]
    outside: Sequence[tuple[Path, Label]] = ()
    without_image: Sequence[str] = ()

    def task(self, roles: Roles, sample: int | None = None, seed: int = 0) -> Task:
        """The queries that the labels make, so many of them at most, drawn at random.

        Raises TaskError where there are none.
        """
        targets = [position for position, label in enumerate(self.labels) if roles.answers(label.roles)]
        answers = _Answers(self.labels, targets)
        inside = [
            Query(self.ids[position], NONE, tuple(label.classes), position)
            for position, label in enumerate(self.labels)
            if label.classes and roles.asks(label.roles)
        ]
        outside = [
            Query(str(path), NONE, tuple(label.classes), file=path)
            for path, label in self.outside
            if label.classes and roles.asks(label.roles)
        ]
        asked = [*inside, *outside]
        answered = [query for query in asked if answers.exist(query)]
        self._check(roles, targets, asked, answered)
        all_right = all(len(answers.to(query.classes)) == len(targets) for query in answered)
        return Task(
            [
                dataclasses.replace(query, relevant=answers.to(query.classes))
                for query in _drawn(answered, sample, seed)
            ],
            np.array(targets, dtype=np.int64) if roles.targets else None,
            self.without_image,
            [name for name, label in zip(self.ids, self.labels, strict=True) if not label.classes],
            [query.name for query in asked if not answers.exist(query)],
            ", ".join(answered[0].classes) if all_right else "",
        )

    def _check(self, roles: Roles, targets: Sequence[int], asked: Sequence[Query], queries: Sequence[Query]) -> None:
        if not any(label.classes for label in (*self.labels, *(label for _, label in self.outside))):
            example = f", such as {self.without_image[0]!r:.80}," if self.without_image else ""
            known = f"; an id is, for example, {self.ids[0]!r:.80}" if self.ids else "; there are no images"
            raise TaskError(f"no label is of an image that is there: the names in the labels{example} are none{known}")
        known_roles = sorted({role for label in self.labels for role in label.roles})
        known_roles += [role for _, label in self.outside for role in label.roles if role not in known_roles]
        for role, found in ((roles.queries, asked), (roles.targets, targets)):
            if role and not len(found):
                raise TaskError(f"no image has the role {role!r:.80}; the roles are {', '.join(known_roles) or 'none'}")
        if not queries:
            raise TaskError(
                f"none of {len(asked)} queries has a right answer among {len(targets)} images: no two share a label"
            )


def answers_to(query: Query) -> int:
    """How many right answers a query has, itself not counted."""
    itself = query.position is not None and bool(np.any(query.relevant == query.position))
    return len(query.relevant) - itself


class _Answers:
    """The right answers to queries, by their classes."""

    def __init__(self, labels: Sequence[Label], targets: Sequence[int]) -> None:
        """Labels by position, and the positions, ascending, of the images that may be hits."""
        self._targets = set(targets)
        self._members: dict[str, list[int]] = defaultdict(list)
        for position in targets:
            for name in labels[position].classes:
                self._members[name].append(position)
        self._made: dict[frozenset[str], Positions] = {}

    def exist(self, query: Query) -> bool:
        """Whether a query has a right answer, itself not counted. Makes no array of them."""
        itself = query.position in self._targets
        return any(len(self._members.get(name, ())) > itself for name in query.classes)

    def to(self, classes: Sequence[str]) -> Positions:
        """The images that share a class, int64, ascending; the same array for the same classes.

        A class of 10,000 images would else have 10,000 arrays of 10,000.
        """
        key = frozenset(classes)
        if key not in self._made:
            members = set[int]().union(*(self._members.get(name, ()) for name in key))
            self._made[key] = np.array(sorted(members), dtype=np.int64)
        return self._made[key]


def _drawn(queries: Sequence[Query], size: int | None, seed: int) -> Sequence[Query]:
    """So many of the queries at most, drawn at random, in their order."""
    if size is None or size >= len(queries):
        return queries
    chosen = np.sort(np.random.default_rng(seed).choice(len(queries), size, replace=False))
    return [queries[number] for number in chosen]
