"""Reads labels of images from a file, from folder names or from attributes; and lists of right answers from a file."""

import os
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imagesearch_analysis.evaluation.label_tables import columns_of, read_table
from imagesearch_analysis.evaluation.task import Label, Labelling, Query, Task, TaskError, right_answers
from imagesearch_analysis.vectors import Positions
from imagesearch_client.types import AttributeValue
from imagesearch_ingest.sources.manifest_columns import ID_COLUMN, PATH_COLUMNS
from imagesearch_ingest.sources.source_file import local_path

NAME_COLUMNS = (ID_COLUMN, *PATH_COLUMNS)
QUERY_COLUMN, RELEVANT_COLUMN = "query", "relevant"


class KnownImages:
    """Finds images by the names that labels use: an id, a uri, or a path relative to a folder."""

    def __init__(self, ids: Sequence[str], uris: Iterable[str], root: Path) -> None:
        """Index images by position. Relative paths start at `root`."""
        self.ids = ids
        self._by_id = {image_id: position for position, image_id in enumerate(ids)}
        self._by_uri: dict[str, int] = {}
        for position, uri in enumerate(uris):
            self._by_uri.setdefault(local_path(uri), position)
        self._root = root

    def find(self, names: Sequence[str]) -> int | None:
        """Return the position of the first image with one of the names; None if there is none."""
        for name in names:
            if (position := self._by_id.get(name)) is not None:
                return position
            for uri in (local_path(name), str(self.path(name))):
                if (position := self._by_uri.get(uri)) is not None:
                    return position
        return None

    def path(self, name: str) -> Path:
        """Return the path of the file that a name may mean."""
        return Path(posixpath.normpath((self._root / local_path(name)).absolute()))


@dataclass(frozen=True)
class LabelColumns:
    """The names of the columns of a label file."""

    label: str = ""
    """The column of the classes; empty if it is the only column besides the names and the roles."""
    role: str = ""
    """The column of the roles; empty if images have no roles."""


class LabelsFile:
    """A file with a row for each image and its class, or a row for each query and right answer."""

    def __init__(self, path: Path, columns: LabelColumns) -> None:
        """Read the file. Raises TaskError if it cannot be used."""
        self._path = path
        self._rows = read_table(path)
        present = columns_of(self._rows)
        self.has_pairs = QUERY_COLUMN in present and RELEVANT_COLUMN in present
        if self.has_pairs:
            if columns.label or columns.role:
                raise TaskError(
                    f"{path} lists queries and right answers, and has no labels and no roles; leave out --label-column "
                    "and --role-column"
                )
            return
        self._names = [name for name in NAME_COLUMNS if name in present]
        if not self._names:
            raise TaskError(
                f"{path} has the columns {', '.join(present)}; it must have {', '.join(NAME_COLUMNS)}, or "
                f"{QUERY_COLUMN} and {RELEVANT_COLUMN}"
            )
        self._role = columns.role
        self._label = columns.label or self._only_label(present)
        for column in filter(None, (self._label, self._role)):
            if column not in present:
                raise TaskError(f"{path} has no column {column!r:.80}; it has {', '.join(present)}")

    def _only_label(self, present: Sequence[str]) -> str:
        others = [name for name in present if name not in self._names and name != self._role]
        if len(others) != 1:
            what = f"has the columns {', '.join(others)}" if others else "has no column of labels"
            raise TaskError(f"{self._path} {what}; use --label-column to name the column of the labels")
        return others[0]

    def labelling(self, images: KnownImages, *, outside: bool = True) -> Labelling:
        """Return the labels of images and, with `outside`, of files that are not among the images."""
        labels = [Label() for _ in images.ids]
        files: dict[Path, Label] = {}
        missing: list[str] = []
        for row in self._rows:
            names = [name for column in self._names for name in row.get(column, ())]
            if not names:
                continue
            position = images.find(names)
            role = next(iter(row.get(self._role, ())), "")
            path = images.path(names[-1])
            if position is not None:
                labels[position].add(row.get(self._label, ()), role)
            elif outside and _is_file(path):
                files.setdefault(path, Label()).add(row.get(self._label, ()), role)
            else:
                missing.append(names[0])
        return Labelling(images.ids, labels, list(files.items()), missing)

    def pairs(self, images: KnownImages, *, outside: bool = True) -> Task:
        """Return the task of a file of queries and right answers; with `outside`, files may be queries too.

        Raises TaskError if no query can be measured.
        """
        answers: dict[str, list[int]] = {}
        missing: list[str] = []
        for row in self._rows:
            for name in row.get(QUERY_COLUMN, ()):
                known = answers.setdefault(name, [])
                for answer in row.get(RELEVANT_COLUMN, ()):
                    position = images.find([answer])
                    if position is None:
                        missing.append(answer)
                    else:
                        known.append(position)
        queries, without_answer = [], []
        for name, positions in answers.items():
            query = _query(name, np.unique(np.array(positions, dtype=np.int64)), images)
            if query is None or (query.file and not outside):
                missing.append(name)
            elif right_answers(query):
                queries.append(query)
            else:
                without_answer.append(name)
        if not queries:
            raise TaskError(f"{self._path} has no query that exists and has an existing right answer")
        return Task(queries, None, list(dict.fromkeys(missing)), (), without_answer)


def folder_labels(ids: Sequence[str], uris: Iterable[str]) -> Labelling:
    """Return labels with the folder name of each image as its class: the folder in its id, or else in its uri.

    Raises TaskError if no image is in a folder.
    """
    labels = []
    for image_id, uri in zip(ids, uris, strict=True):
        name = posixpath.basename(posixpath.dirname(image_id)) or posixpath.basename(posixpath.dirname(local_path(uri)))
        labels.append(Label([name] if name else []))
    if ids and not any(label.classes for label in labels):
        raise TaskError(f"no id or uri contains a folder, as 'shoes/1.jpg' does; an id is, for example, {ids[0]!r:.80}")
    return Labelling(ids, labels)


def attribute_labels(
    ids: Sequence[str], attributes: Iterable[Mapping[str, AttributeValue]], label: str, role: str = ""
) -> Labelling:
    """Return labels with the value of the attribute `label` as class, and that of the attribute `role` as role.

    Raises TaskError if no image has these attributes.
    """
    labels = []
    stored: set[str] = set()
    for values in attributes:
        stored |= values.keys()
        image_label = Label()
        for name in attribute_texts(values.get(role)) or [""]:
            image_label.add(attribute_texts(values.get(label)), name)
        labels.append(image_label)
    for name in filter(None, (label, role)):
        if ids and name not in stored:
            known_names = ", ".join(sorted(stored)) or "none"
            raise TaskError(f"no image has the attribute {name!r:.80}; the attributes are {known_names}")
    return Labelling(ids, labels)


def attribute_texts(value: AttributeValue | None) -> list[str]:
    """Return the texts of an attribute; numbers and truth values as JSON writes them."""
    if value is None:
        return []
    if isinstance(value, bool):
        return [str(value).lower()]
    return [str(value)] if isinstance(value, str | int | float) else list(value)


def _query(name: str, relevant: Positions, images: KnownImages) -> Query | None:
    position = images.find([name])
    if position is not None:
        return Query(images.ids[position], relevant, position=position)
    path = images.path(name)
    return Query(str(path), relevant, file=path) if _is_file(path) else None


def _is_file(path: Path) -> bool:
    # Path.is_file raises an error for a name that is too long.
    return os.path.isfile(path)  # noqa: PTH113
