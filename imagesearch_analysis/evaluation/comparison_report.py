"""Reports a comparison of models: a table, JSON for programs, a page for people."""

from typing import Any

from imagesearch_analysis.evaluation.collection_report import left_out
from imagesearch_analysis.evaluation.comparison import MEASURE, Candidate, Comparison
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Figure
from imagesearch_analysis.evaluation.precision_recall_curve import curve_url
from imagesearch_analysis.evaluation.random_baseline import label_notes
from imagesearch_analysis.evaluation.recommendation import recommendation
from imagesearch_analysis.pages import render_page

UNKNOWN = "n/a"
MEBIBYTE = 2**20


def columns_of(comparison: Comparison) -> list[str]:
    """Return the names of the columns of the table."""
    costs = ["images/s", "dimension", "bytes/image", "memory of model"]
    return ["model, metric", *_measures(comparison), f"{MEASURE} below best", *costs]


def rows_of(comparison: Comparison) -> list[list[str]]:
    """Return a row for each candidate, best first, and one for a random ranking. Intervals are in second lines."""
    measures = _measures(comparison)
    rows = [
        [
            candidate.name,
            *(_two_lines(candidate.figures[name]) for name in measures),
            "" if candidate is comparison.best else _two_lines(candidate.worse_by(comparison.best)),
            *_costs(candidate),
        ]
        for candidate in comparison.candidates
    ]
    return [*rows, ["random ranking", *(f"{comparison.random[name]:.3f}" for name in measures), *[""] * 5]]


def notes(comparison: Comparison) -> list[str]:
    """Return what makes good figures meaningless, besides the recommendation."""
    found = label_notes(comparison.task, comparison.random, comparison.copies)
    return [note for note in found if note != comparison.task.same_label_note]


def facts(comparison: Comparison, folder: str) -> dict[str, str]:
    """Return what was measured."""
    task = comparison.task
    targets = comparison.images if task.targets is None else len(task.targets)
    return {
        "folder": folder,
        "images": f"{comparison.images:,}",
        "queries": f"{len(task.queries):,}, among {targets:,} images",
    }


def left_out_of(comparison: Comparison) -> dict[str, list[str]]:
    """Return what is in no figure, grouped by the reason."""
    failed = [f"{name}: {reason}" for name, reason in comparison.failed.items()]
    return left_out(comparison.task, {}) | {"images that failed": failed}


def as_json(comparison: Comparison, folder: str) -> dict[str, Any]:
    """Return all measurements for programs."""
    task = comparison.task
    return {
        "folder": folder,
        "images": comparison.images,
        "targets": comparison.images if task.targets is None else len(task.targets),
        "queries": len(task.queries),
        "candidates": [_candidate_json(candidate, comparison) for candidate in comparison.candidates],
        "chance": comparison.random,
        "copies_among_answers": comparison.copies,
        "notes": label_notes(task, comparison.random, comparison.copies),
        "advice": recommendation(comparison),
        "left_out": left_out(task, {}) | {"failed": dict(comparison.failed)},
    }


def page(comparison: Comparison, folder: str) -> str:
    """Return a page with all figures."""
    return render_page(
        "comparison_report.html",
        title=f"Models compared on {folder}",
        advice=recommendation(comparison),
        notes=notes(comparison),
        facts=facts(comparison, folder),
        columns=columns_of(comparison),
        rows=rows_of(comparison),
        curve=curve_url({candidate.name: candidate.measured.curve for candidate in comparison.candidates}),
        left_out=left_out_of(comparison),
    )


def _measures(comparison: Comparison) -> list[str]:
    at_cutoffs = [f"{name}@{k}" for k in comparison.cutoffs for name in ("recall", "nDCG")]
    return [MEASURE, "P@1", *at_cutoffs]


def _two_lines(figure: Figure) -> str:
    return f"{figure.mean:.3f}\n[{figure.low:.3f}, {figure.high:.3f}]"


def _costs(candidate: Candidate) -> list[str]:
    speed, memory = candidate.measured_speed, candidate.memory_bytes
    return [
        UNKNOWN if speed is None else f"{speed:.1f}",
        f"{candidate.dimension:,}",
        f"{candidate.bytes_per_image:,}",
        UNKNOWN if memory is None else _mebibytes(memory),
    ]


def _mebibytes(size: int) -> str:
    return f"{size / MEBIBYTE:.0f} MiB" if size >= MEBIBYTE else "< 1 MiB"


def _candidate_json(candidate: Candidate, comparison: Comparison) -> dict[str, Any]:
    model = candidate.run.served.model
    return {
        "model": model.name,
        "fingerprint": model.fingerprint,
        "embedder": candidate.run.served.endpoint.target,
        "metric": candidate.metric.value,
        "figures": {name: figure.as_json() for name, figure in candidate.figures.items()},
        "below_best": candidate.worse_by(comparison.best).as_json(),
        "embedded_now": candidate.run.embedded.fresh,
        "images_per_second": candidate.measured_speed,
        "dimension": candidate.dimension,
        "bytes_per_image": candidate.bytes_per_image,
        "memory_bytes": candidate.memory_bytes,
        "curve": {"recall": RECALL_LEVELS.tolist(), "precision": candidate.measured.curve.tolist()},
    }
