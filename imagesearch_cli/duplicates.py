"""`imagesearch duplicates`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagesearch_analysis.choices import SCORE_NAMES, Keep
from imagesearch_cli.connection import connected
from imagesearch_cli.console import note, show
from imagesearch_cli.hits import shown_number
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    AsJson,
    CollectionName,
    Force,
    OpenOption,
    SnapshotFolder,
    Target,
    Where,
    output_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import check_file, snapshot_of
from imagesearch_client import DEFAULT_TARGET
from imagesearch_client.types import Metric
from imagesearch_ingest.json_text import json_text, rounded

if TYPE_CHECKING:
    from imagesearch_analysis.duplicates import Member
    from imagesearch_analysis.judged_pairs import ChosenThreshold, JudgedPairs
    from imagesearch_analysis.snapshot import Snapshot

DEFAULT_THRESHOLD = 0.95
# The command warns about thresholds with a lower precision.
SURE_PRECISION = 0.99
# How far below the threshold the curve begins by default.
CURVE_BELOW = 0.15
SHOWN_GROUPS, SHOWN_MEMBERS = 10, 5


def duplicates(
    collection: CollectionName = DEFAULT_COLLECTION,
    threshold: Annotated[
        float | None,
        typer.Option(
            metavar="SCORE", help="Minimum score of two duplicates. [default: 0.95 in collections with cosine]"
        ),
    ] = None,
    judged_pairs: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Choose the threshold with the best F1 on pairs that a person has judged: a CSV file with the columns "
            "id_a, id_b and duplicate (1 or 0).",
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            metavar="SHARE",
            help="With --judged-pairs: choose the lowest threshold that has this precision, instead of the best F1.",
        ),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            metavar="FILE",
            help="Pairs that a person has decided, in the format of --judged-pairs. Pairs with 1 are always in one "
            "group, pairs with 0 never.",
        ),
    ] = None,
    trust_threshold: Annotated[
        bool,
        typer.Option(
            "--trust-threshold",
            help="With a --threshold that you have checked: mark images with this score for removal, not for review.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        output_option("List of images to keep, to remove and to review: .csv, .json or .jsonl."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Page with the images of each group: .html.")
    ] = None,
    curve: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Plot of the numbers of pairs and groups by threshold: .png, .pdf or .svg."),
    ] = None,
    curve_from: Annotated[
        float | None,
        typer.Option(metavar="SCORE", help="Lowest threshold of the curve. [default: 0.15 below the threshold]"),
    ] = None,
    keep: Annotated[
        Keep, typer.Option(help="Image to keep of a group: the one with the most pixels, or the first or last by id.")
    ] = Keep.LARGEST,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Find groups of images that look the same. The search is exact; nothing is deleted.

    Two images are in one group if they score at least the threshold, or if other images connect them. Copies of one
    file are always found.

    The command keeps one image of each group. It marks copies of its file, and images that a person has decided to be
    its duplicates, for removal. It marks all others for review, because variants of one product look almost the same.
    With --judged-pairs or --trust-threshold it marks images that score at least the threshold for removal too.

    Example: imagesearch duplicates -c images --report duplicates.html -o duplicates.csv

    Example: imagesearch duplicates -c images --judged-pairs judged.csv --precision 0.99 --curve curve.png
    """
    _check_thresholds(threshold, judged_pairs, precision, curve, curve_from, trust_threshold=trust_threshold)
    trusted = judged_pairs is not None or trust_threshold
    for path, suffixes, option in (
        (output, (".csv", ".json", ".jsonl"), "--output"),
        (report, (".html",), "--report"),
        (curve, (".png", ".pdf", ".svg"), "--curve"),
    ):
        check_file(path, suffixes, option, force=force, inputs=(judged_pairs, decisions))
    # NumPy and SciPy take a while to import.
    from imagesearch_analysis.duplicate_files import plot_curve, write_list, write_report  # noqa: PLC0415
    from imagesearch_analysis.duplicates import groups_above, threshold_curve  # noqa: PLC0415
    from imagesearch_analysis.duplicates import members as members_of  # noqa: PLC0415
    from imagesearch_analysis.judged_pairs import choose_threshold, read_pairs  # noqa: PLC0415
    from imagesearch_analysis.similarity_forest import compare_all  # noqa: PLC0415

    if judged_pairs is None:
        _check_metric(target, collection, threshold)
    given = DEFAULT_THRESHOLD if threshold is None else threshold
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found:
        choice = None if judged_pairs is None else choose_threshold(found, read_pairs(judged_pairs, found), precision)
        limit = choice.threshold if choice else given
        judged = None if decisions is None else read_pairs(decisions, found)
        least = min(limit, limit - CURVE_BELOW if curve_from is None else curve_from) if curve else limit
        with show_progress(len(found)) as bar:
            forest = compare_all(found, least, judged, bar.reach)
        groups = groups_above(forest, limit)
        with show_progress(len(groups)) as bar:
            members = list(members_of(found, groups, keep, limit, judged, bar.reach, trusted=trusted))
        summary = _counts(found, limit, members) | {"threshold_trusted": trusted}
        if output is not None:
            write_list(output, members)
        if curve is not None:
            plot_curve(curve, threshold_curve(forest), limit, SCORE_NAMES[found.metric])
        if report is not None:
            facts = {name.replace("_", " "): str(value) for name, value in summary.items()}
            write_report(report, members, f"Duplicates in {found.collection}", facts)
    if as_json:
        print(json_text(summary | _choice_json(choice)))
    else:
        _show(summary, members, choice)
        _warn(summary, choice, judged)
    for path in (output, report, curve):
        if path is not None:
            note(f"wrote {path}")


def _check_thresholds(
    threshold: float | None,
    judged_pairs: Path | None,
    precision: float | None,
    curve: Path | None,
    curve_from: float | None,
    *,
    trust_threshold: bool,
) -> None:
    """Check that the options go together."""
    if threshold is not None and judged_pairs is not None:
        raise typer.BadParameter("chooses the threshold; leave out --threshold", param_hint="--judged-pairs")
    if precision is not None and judged_pairs is None:
        raise typer.BadParameter("has no effect without --judged-pairs", param_hint="--precision")
    if curve_from is not None and curve is None:
        raise typer.BadParameter("has no effect without --curve", param_hint="--curve-from")
    if trust_threshold and threshold is None:
        raise typer.BadParameter(
            "is for a threshold that you have checked; add --threshold", param_hint="--trust-threshold"
        )


def _check_metric(target: str, collection: str, threshold: float | None) -> None:
    """Check that the threshold, or the default one, is a score of the collection's metric."""
    with connected(target) as client:
        metric = client.get_collection(collection).metric
    if threshold is None and metric is not Metric.COSINE:
        raise typer.BadParameter(
            f"{collection} has the metric {metric.value}, for which there is no default; give --threshold or "
            "--judged-pairs",
            param_hint="--threshold",
        )
    low = {Metric.COSINE: -1.0, Metric.L2: 0.0}.get(metric)
    if threshold is not None and low is not None and not low < threshold <= 1:
        raise typer.BadParameter(
            f"{threshold:g} is no score of {collection}, whose metric is {metric.value}; it must be more than {low:g} "
            "and at most 1",
            param_hint="--threshold",
        )


def _counts(snapshot: "Snapshot", threshold: float, members: Sequence[Sequence["Member"]]) -> dict[str, object]:
    counts = Counter(member.action.value for group in members for member in group)
    return {
        "collection": snapshot.collection,
        "images": len(snapshot),
        "threshold": rounded(threshold),
        "groups": len(members),
        "images_in_groups": counts.total(),
        "remove": counts["remove"],
        "review": counts["review"],
    }


def _choice_json(choice: "ChosenThreshold | None") -> dict[str, object]:
    if choice is None:
        return {}
    names = ("precision", "recall", "f1", "pairs", "duplicates")
    return {"chosen": {name: getattr(choice, name) for name in names}}


def _show(summary: dict[str, object], members: Sequence[Sequence["Member"]], choice: "ChosenThreshold | None") -> None:
    if choice is not None:
        show(
            f"threshold {choice.threshold:.4f}: precision {choice.precision:.3f}, recall {choice.recall:.3f}, F1 "
            f"{choice.f1:.3f} on {choice.pairs} judged pairs, {choice.duplicates} of them duplicates"
        )
    for number, group in enumerate(members[:SHOWN_GROUPS], start=1):
        kept, *others = group
        show(f"{number}. {kept.image.id}")
        for member in others[:SHOWN_MEMBERS]:
            same = ", the same file" if member.same_file else ""
            show(f"   {shown_number(member.score)} {member.image.id}{same}")
        if len(others) > SHOWN_MEMBERS:
            show(f"   and {len(others) - SHOWN_MEMBERS} more images")
    if len(members) > SHOWN_GROUPS:
        show(f"and {len(members) - SHOWN_GROUPS} more groups; --output and --report write all")
    show(
        f"{summary['groups']} groups of {summary['images_in_groups']} images with scores of at least "
        f"{summary['threshold']}, among {summary['images']} images of {summary['collection']}; {summary['remove']} to "
        f"remove, {summary['review']} to review"
    )


def _warn(summary: dict[str, object], choice: "ChosenThreshold | None", judged: "JudgedPairs | None") -> None:
    """Print what to know before images are deleted."""
    if summary["review"] and not summary["threshold_trusted"]:
        note(
            "Nobody has checked this threshold, so only copies of one file and decided pairs are marked for removal. "
            "--judged-pairs chooses a threshold; --trust-threshold is for a threshold that you have checked."
        )
    if choice is not None and choice.precision < SURE_PRECISION:
        note(
            f"{100 * (1 - choice.precision):.0f} % of the judged pairs with at least this threshold are no duplicates: "
            "review the list before you delete images, or set --precision."
        )
    if judged is not None and judged.unknown:
        note(f"{judged.unknown} decided pairs name images that do not exist.")
