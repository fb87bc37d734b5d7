"""What is told of an evaluation of a collection: JSON for programs, a page for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from imagesearch_analysis.evaluation.chance import cautions
from imagesearch_analysis.evaluation.collection import Evaluation
from imagesearch_analysis.evaluation.curves import curve_image
from imagesearch_analysis.evaluation.measuring import NOBODY, by_class, extremes, right_hits
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Figure
from imagesearch_analysis.evaluation.task import Query, Task, answers_to
from imagesearch_analysis.pictures import data_uri, read_picture
from imagesearch_analysis.snapshot import Snapshot
from imagesearch_client.types import Region

MAX_CAPTION = 60
THUMBNAIL_PIXELS = 160


@dataclass(frozen=True)
class Tile:
    """A picture of a page."""

    name: str
    caption: str
    source: str
    """A data: URL; empty where there is no picture."""
    right: bool = False


@dataclass(frozen=True)
class Example:
    """A query and its first hits."""

    caption: str
    query: Tile
    hits: Sequence[Tile]


@dataclass(frozen=True)
class Row:
    """A measure, of exact search and of the index."""

    name: str
    exact: Figure
    index: Figure | None
    chance: float
    """Of a random ranking."""


def figure_rows(evaluation: Evaluation) -> list[Row]:
    """Every measure; those that need the ranking of everything have no figure of the index."""
    of_index = evaluation.index_figures
    by_chance = evaluation.chance
    figures = evaluation.exact_figures.items()
    return [Row(name, figure, of_index.get(name), by_chance[name]) for name, figure in figures]


def facts(evaluation: Evaluation) -> dict[str, str]:
    """What was measured."""
    collection, task = evaluation.collection, evaluation.task
    targets = evaluation.images if task.targets is None else len(task.targets)
    return {
        "collection": collection.name,
        "model": f"{collection.model or 'vectors made elsewhere'}, {collection.dimension} dimensions",
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "images": f"{evaluation.images:,}",
        "queries": f"{len(task.queries):,}, among {targets:,} images",
    }


def notes(evaluation: Evaluation) -> list[str]:
    """What is to be known beside the figures."""
    told = cautions(evaluation.task, evaluation.chance, evaluation.copies)
    if evaluation.index is not None and evaluation.index.cut_short:
        told.append(
            f"The images have no attribute that tells the targets, so that the service could not be told either: of "
            f"{evaluation.index.cut_short} queries the first 1,000 hits held too few targets, and the figures of the "
            "index are lower than with a filter. Ingest the labels as a manifest, and the role is an attribute."
        )
    if evaluation.task.without_label:
        told.append(f"{len(evaluation.task.without_label)} images have no label: as hits they count as wrong.")
    return told


def left_out(task: Task, refused: Mapping[str, str]) -> dict[str, list[str]]:
    """What is in no figure, by what is the matter with it."""
    return {
        "labels without an image": list(task.without_image),
        "images without a label": list(task.without_label),
        "queries without a right answer": list(task.without_answer),
        "queries that could not be asked": [f"{name}: {why}" for name, why in refused.items()],
    }


def as_json(evaluation: Evaluation, snapshot: Snapshot) -> dict[str, Any]:
    """All that was measured, for programs."""
    collection, task, exact = evaluation.collection, evaluation.task, evaluation.exact
    ids = list(snapshot.ids)
    queries = [
        {
            "query": query.name,
            "classes": list(query.classes),
            "relevant": answers_to(query),
            "hits": [ids[position] for position in hits if position != NOBODY],
            **{name: values[number] for name, values in by_name.items()},
        }
        for by_name in ({name: values.tolist() for name, values in exact.values.items()},)
        for number, (query, hits) in enumerate(zip(task.queries, exact.hits.positions.tolist(), strict=True))
    ]
    index = evaluation.index
    return {
        "collection": collection.name,
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "images": evaluation.images,
        "targets": evaluation.images if task.targets is None else len(task.targets),
        "queries": len(task.queries),
        "seed": evaluation.seed,
        "chance": evaluation.chance,
        "copies_among_answers": evaluation.copies,
        "notes": notes(evaluation),
        "exact": {name: figure.as_json() for name, figure in evaluation.exact_figures.items()},
        "through_index": {name: figure.as_json() for name, figure in evaluation.index_figures.items()}
        if index
        else None,
        "agreement": {name: figure.as_json() for name, figure in evaluation.agreement_figures.items()}
        if index
        else None,
        "cut_short": index.cut_short if index else 0,
        "curve": {"recall": RECALL_LEVELS.tolist(), "precision": exact.curve.tolist()},
        "by_class": {
            name: {"queries": count, "mAP": value}
            for name, (count, value) in by_class(task.queries, exact.values["mAP"]).items()
        },
        "left_out": left_out(task, evaluation.refused),
        "per_query": queries,
    }


def page(evaluation: Evaluation, snapshot: Snapshot, examples: int) -> str:
    """A page that needs nothing beside itself, with so many of the best and of the worst queries."""
    worst, best = extremes(evaluation.exact.values["mAP"], examples)
    shown = _Examples(evaluation, snapshot)
    return render(
        "collection.html.jinja",
        facts=facts(evaluation),
        figures=figure_rows(evaluation),
        agreement=evaluation.agreement_figures,
        notes=notes(evaluation),
        curve=curve_image({"exact search": evaluation.exact.curve}),
        classes=by_class(evaluation.task.queries, evaluation.exact.values["mAP"]),
        worst=[shown.example(number) for number in worst],
        best=[shown.example(number) for number in best],
        left_out=left_out(evaluation.task, evaluation.refused),
    )


def render(template: str, **values: object) -> str:
    """A page of a template of this package; all values are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("imagesearch_analysis.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


class _Examples:
    """Queries with pictures."""

    def __init__(self, evaluation: Evaluation, snapshot: Snapshot) -> None:
        self._evaluation = evaluation
        self._snapshot = snapshot

    def example(self, number: int) -> Example:
        evaluation = self._evaluation
        query, hits = evaluation.task.queries[number], evaluation.exact.hits
        row = slice(number, number + 1)
        (right,) = right_hits(type(hits)(hits.positions[row], hits.scores[row]), [query])
        found = zip(hits.positions[number].tolist(), hits.scores[number].tolist(), right.tolist(), strict=True)
        classes = f", {', '.join(query.classes)}" if query.classes else ""
        average_precision = float(np.asarray(evaluation.exact.values["mAP"])[number])
        answers = answers_to(query)
        return Example(
            f"average precision {average_precision:.3f}; {answers} right answer{'s' * (answers > 1)}{classes}",
            self._asked(query),
            [
                self._tile(position, f"{score:.3f}", right=is_right)
                for position, score, is_right in found
                if position >= 0
            ],
        )

    def _asked(self, query: Query) -> Tile:
        if query.position is not None:
            return self._tile(query.position, "query")
        return Tile(query.name, f"query {shortened(query.name)}", thumbnail(query.name))

    def _tile(self, position: int, what: str, *, right: bool = False) -> Tile:
        image = self._snapshot.describe(position)
        return Tile(image.id, f"{what} {shortened(image.id)}", thumbnail(image.uri, image.region), right)


def thumbnail(uri: str, region: Region | None = None) -> str:
    """The picture at a uri as a data: URL; empty where there is none."""
    picture = read_picture(uri, THUMBNAIL_PIXELS, region)
    return "" if picture is None else data_uri(picture)


def shortened(text: str) -> str:
    """The end of a long text, which tells files apart better than the beginning."""
    return text if len(text) <= MAX_CAPTION else f"...{text[-MAX_CAPTION + 3 :]}"
