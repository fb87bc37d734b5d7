"""Reports the quality of a collection: JSON for programs, a page for people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imagesearch_analysis.evaluation.collection_quality import CollectionQuality
from imagesearch_analysis.evaluation.measuring import Hits, by_class, right_hits, worst_and_best
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Figure
from imagesearch_analysis.evaluation.precision_recall_curve import curve_url
from imagesearch_analysis.evaluation.random_baseline import label_notes
from imagesearch_analysis.evaluation.task import Query, Task, right_answers
from imagesearch_analysis.exact_search import NO_POSITION
from imagesearch_analysis.pages import render_page
from imagesearch_analysis.pictures import thumbnail_url
from imagesearch_analysis.snapshot import Snapshot

MAX_CAPTION = 60
THUMBNAIL_PIXELS = 160


@dataclass(frozen=True)
class Picture:
    """A picture of an example."""

    url: str
    """A data: URL; empty if the image cannot be read."""
    caption: str
    right: bool = False


@dataclass(frozen=True)
class Example:
    """A query with its first hits."""

    caption: str
    image: Picture
    hits: Sequence[Picture]


@dataclass(frozen=True)
class FigureRow:
    """A measure of exact search, of the index and of a random ranking."""

    name: str
    exact: Figure
    index: Figure | None
    """None for a measure that needs the ranking of all images."""
    random: float


def figure_rows(quality: CollectionQuality) -> list[FigureRow]:
    """Return a row for each measure."""
    index, random = quality.index_figures, quality.random
    return [FigureRow(name, figure, index.get(name), random[name]) for name, figure in quality.exact_figures.items()]


def facts(quality: CollectionQuality) -> dict[str, str]:
    """Return what was measured."""
    collection, task = quality.collection, quality.task
    targets = quality.images if task.targets is None else len(task.targets)
    return {
        "collection": collection.name,
        "model": f"{collection.model or 'vectors from elsewhere'}, {collection.dimension} dimensions",
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "images": f"{quality.images:,}",
        "queries": f"{len(task.queries):,}, among {targets:,} images",
    }


def notes(quality: CollectionQuality) -> list[str]:
    """Return what readers of the figures must know."""
    found = label_notes(quality.task, quality.random, quality.copies)
    if quality.index is not None and quality.index.incomplete:
        found.append(
            f"The figures of the index are too low: for {quality.index.incomplete} queries, the first 1,000 hits "
            "contained too few targets. No stored attribute distinguishes the targets, so the service could not filter "
            "by it. Ingest the label file as a manifest to store the roles as an attribute."
        )
    if quality.task.without_label:
        found.append(f"{len(quality.task.without_label)} images have no label. As hits they count as wrong.")
    return found


def left_out(task: Task, failed: Mapping[str, str]) -> dict[str, list[str]]:
    """Return what is in no figure, grouped by the reason."""
    return {
        "labels without an image": list(task.without_image),
        "images without a label": list(task.without_label),
        "queries without a right answer": list(task.without_answer),
        "queries that failed": [f"{name}: {reason}" for name, reason in failed.items()],
    }


def as_json(quality: CollectionQuality, snapshot: Snapshot) -> dict[str, Any]:
    """Return all measurements for programs."""
    collection, task, exact, index = quality.collection, quality.task, quality.exact, quality.index
    classes = by_class(task.queries, exact.values["mAP"])
    return {
        "collection": collection.name,
        "model": collection.model,
        "fingerprint": collection.fingerprint,
        "metric": collection.metric.value,
        "index": collection.index.value,
        "images": quality.images,
        "targets": quality.images if task.targets is None else len(task.targets),
        "queries": len(task.queries),
        "seed": quality.seed,
        "chance": quality.random,
        "copies_among_answers": quality.copies,
        "notes": notes(quality),
        "exact": {name: figure.as_json() for name, figure in quality.exact_figures.items()},
        "through_index": {name: figure.as_json() for name, figure in quality.index_figures.items()} if index else None,
        "agreement": {name: figure.as_json() for name, figure in quality.agreement_figures.items()} if index else None,
        "cut_short": index.incomplete if index else 0,
        "curve": {"recall": RECALL_LEVELS.tolist(), "precision": exact.curve.tolist()},
        "by_class": {name: {"queries": count, "mAP": value} for name, (count, value) in classes.items()},
        "left_out": left_out(task, quality.failed),
        "per_query": _per_query(quality, list(snapshot.ids)),
    }


def _per_query(quality: CollectionQuality, ids: Sequence[str]) -> list[dict[str, Any]]:
    values = {name: column.tolist() for name, column in quality.exact.values.items()}
    rows = zip(quality.task.queries, quality.exact.hits.positions.tolist(), strict=True)
    return [
        {
            "query": query.name,
            "classes": list(query.classes),
            "relevant": right_answers(query),
            "hits": [ids[position] for position in hits if position != NO_POSITION],
            **{name: column[number] for name, column in values.items()},
        }
        for number, (query, hits) in enumerate(rows)
    ]


def page(quality: CollectionQuality, snapshot: Snapshot, examples: int) -> str:
    """Return a page with all figures, and `examples` of the worst and of the best queries."""
    average_precisions = quality.exact.values["mAP"]
    worst, best = worst_and_best(average_precisions, examples)
    return render_page(
        "collection_report.html",
        title=f"Quality of the collection {quality.collection.name}",
        facts=facts(quality),
        figures=figure_rows(quality),
        agreement=quality.agreement_figures,
        notes=notes(quality),
        curve=curve_url({"exact search": quality.exact.curve}),
        classes=by_class(quality.task.queries, average_precisions),
        worst=[_example(quality, snapshot, number) for number in worst],
        best=[_example(quality, snapshot, number) for number in best],
        left_out=left_out(quality.task, quality.failed),
    )


def _example(quality: CollectionQuality, snapshot: Snapshot, number: int) -> Example:
    query, hits = quality.task.queries[number], quality.exact.hits
    positions, scores = hits.positions[number], hits.scores[number]
    (right,) = right_hits(Hits(positions[None], scores[None]), [query])
    answers = right_answers(query)
    classes = f", {', '.join(query.classes)}" if query.classes else ""
    average_precision = float(quality.exact.values["mAP"][number])
    return Example(
        f"average precision {average_precision:.3f}; {answers} right answer{'s' * (answers > 1)}{classes}",
        _query_picture(query, snapshot),
        [
            _picture(snapshot, position, f"{score:.3f}", right=is_right)
            for position, score, is_right in zip(positions.tolist(), scores.tolist(), right.tolist(), strict=True)
            if position != NO_POSITION
        ],
    )


def _query_picture(query: Query, snapshot: Snapshot) -> Picture:
    if query.position is not None:
        return _picture(snapshot, query.position, "query")
    return Picture(thumbnail_url(query.name, THUMBNAIL_PIXELS), f"query {_end(query.name)}")


def _picture(snapshot: Snapshot, position: int, what: str, *, right: bool = False) -> Picture:
    image = snapshot.image(position)
    return Picture(thumbnail_url(image.uri, THUMBNAIL_PIXELS, image.region), f"{what} {_end(image.id)}", right)


def _end(text: str) -> str:
    """Return the last characters of a long text: the ends of paths differ more than their beginnings."""
    return text if len(text) <= MAX_CAPTION else f"...{text[-MAX_CAPTION + 3 :]}"
