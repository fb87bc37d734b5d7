"""What is told of a comparison of models: a table, JSON for programs, a page for people."""

from typing import Any

from imagesearch_analysis.evaluation.chance import cautions
from imagesearch_analysis.evaluation.comparison import MEASURE, Candidate, Comparison, advice
from imagesearch_analysis.evaluation.curves import curve_image
from imagesearch_analysis.evaluation.metrics import RECALL_LEVELS, Figure
from imagesearch_analysis.evaluation.report import left_out, render

NOT_KNOWN = "n/a"
MEBIBYTE = 2**20


def columns_of(comparison: Comparison) -> list[str]:
    """The names of the columns."""
    costs = ["images/s", "dimension", "bytes/image", "memory of model"]
    return ["model, metric", *_measures(comparison), f"{MEASURE} below best", *costs]


def rows_of(comparison: Comparison) -> list[list[str]]:
    """A row for each candidate, the best first, and one of a random ranking; intervals are in second lines."""
    return [
        [
            candidate.name,
            *(two_lines(candidate.figures[name]) for name in _measures(comparison)),
            "" if candidate is comparison.best else two_lines(candidate.worse_by(comparison.best)),
            *_costs(candidate),
        ]
        for candidate in comparison.candidates
    ] + [["random ranking", *(f"{comparison.chance[name]:.3f}" for name in _measures(comparison)), *[""] * 5]]


def notes(comparison: Comparison) -> list[str]:
    """What makes the figures say little."""
    return cautions(comparison.task, comparison.chance, comparison.copies)


def two_lines(figure: Figure) -> str:
    """The mean, and the interval below it."""
    return f"{figure.mean:.3f}\n[{figure.low:.3f}, {figure.high:.3f}]"


def facts(comparison: Comparison, folder: str) -> dict[str, str]:
    """What was measured."""
    task = comparison.task
    targets = comparison.images if task.targets is None else len(task.targets)
    return {
        "folder": folder,
        "images": f"{comparison.images:,}",
        "queries": f"{len(task.queries):,}, among {targets:,} images",
    }


def as_json(comparison: Comparison, folder: str) -> dict[str, Any]:
    """All that was measured, for programs."""
    task = comparison.task
    return {
        "folder": folder,
        "images": comparison.images,
        "targets": comparison.images if task.targets is None else len(task.targets),
        "queries": len(task.queries),
        "candidates": [_candidate_json(candidate, comparison) for candidate in comparison.candidates],
        "chance": comparison.chance,
        "copies_among_answers": comparison.copies,
        "notes": notes(comparison),
        "advice": advice(comparison),
        "left_out": left_out(task, {}) | {"failed": dict(comparison.failed)},
    }


def page(comparison: Comparison, folder: str) -> str:
    """A page that needs nothing beside itself."""
    failed = [f"{name}: {why}" for name, why in comparison.failed.items()]
    return render(
        "comparison.html.jinja",
        advice=" ".join([advice(comparison), *(note for note in notes(comparison) if note != comparison.task.caution)]),
        facts=facts(comparison, folder),
        columns=columns_of(comparison),
        rows=rows_of(comparison),
        curve=curve_image({candidate.name: candidate.measured.curve for candidate in comparison.candidates}),
        left_out=left_out(comparison.task, {}) | {"images that failed": failed},
    )


def _measures(comparison: Comparison) -> list[str]:
    at_cutoffs = [f"{name}@{k}" for k in comparison.cutoffs for name in ("recall", "nDCG")]
    return [MEASURE, "P@1", *at_cutoffs]


def _costs(candidate: Candidate) -> list[str]:
    speed, memory = candidate.measured_speed, candidate.memory_bytes
    return [
        NOT_KNOWN if speed is None else f"{speed:.1f}",
        f"{candidate.dimension:,}",
        f"{candidate.bytes_per_image:,}",
        NOT_KNOWN if memory is None else _mebibytes(memory),
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
