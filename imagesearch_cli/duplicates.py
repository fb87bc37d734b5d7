"""`imagesearch duplicates`."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from imagesearch_analysis.choices import SCORE_NAMES, Keep
from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, OpenOption, Target, Where
from imagesearch_cli.output import err, out, shown_number
from imagesearch_cli.snapshots import (
    CollectionArgument,
    Force,
    SnapshotFolder,
    check_file,
    progress,
    snapshot_of,
)
from imagesearch_client import DEFAULT_TARGET
from imagesearch_client.types import Metric
from imagesearch_ingest.json_text import json_text, rounded

if TYPE_CHECKING:
    from imagesearch_analysis.duplicates import Member
    from imagesearch_analysis.judged_pairs import ChosenThreshold, JudgedPairs
    from imagesearch_analysis.snapshot import Snapshot

DEFAULT_THRESHOLD = 0.95
# A threshold with less precision than this is warned of.
SURE = 0.99
# How far below the threshold a curve begins.
BELOW = 0.15
SHOWN_GROUPS, SHOWN_MEMBERS = 10, 5


def duplicates(
    collection: CollectionArgument,
    threshold: Annotated[
        float | None,
        typer.Option(help="The score from which on two images are duplicates. [default: 0.95 of cosine]"),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Pairs that a person has judged, a CSV file with the columns id_a, id_b, duplicate (1 or 0): takes "
            "the threshold that does best with them, by F1.",
        ),
    ] = None,
    precision: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="With --labels: the lowest threshold with this precision, not the best F1."),
    ] = None,
    decisions: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="Pairs that a person has decided, a file like that of --labels: with 0 they are never in one group, "
            "with 1 they always are.",
        ),
    ] = None,
    remove_alike: Annotated[
        bool,
        typer.Option(
            "--remove-alike",
            help="With --threshold, for one that you have checked: list what scores at least as much to be removed, "
            "not to be reviewed.",
        ),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write what to keep and to remove: .csv, .json or .jsonl."),
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write a page with the pictures of each group: .html.")] = None,
    curve: Annotated[
        Path | None, typer.Option(help="Draw how many pairs and groups there are by threshold: .png, .pdf or .svg.")
    ] = None,
    curve_from: Annotated[
        float | None, typer.Option(help="Where the curve begins. [default: 0.15 below the threshold]")
    ] = None,
    keep: Annotated[
        Keep, typer.Option(help="What is kept of a group: the image of the most pixels, or the first or last by id.")
    ] = Keep.LARGEST,
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Find images that look the same, in groups, by comparing all with all; nothing is removed.

    Two images are in a group where they score at least the threshold, or other images connect them; copies of one file
    are always found. Of each group one image is to be kept. Copies of its file, and what a person has decided to be a
    duplicate of it, can be removed. The rest is to be reviewed, because other flavours of one product look nearly the
    same: only with a threshold that judged pairs have chosen (--labels), or that you have checked (--remove-alike), can
    what scores at least as much be removed.

    Example: imagesearch duplicates images --report duplicates.html -o duplicates.csv

    Example: imagesearch duplicates images --labels judged.csv --precision 0.99 --curve curve.png
    """
    _check(threshold, labels, precision, curve, curve_from)
    if remove_alike and threshold is None:
        raise typer.BadParameter(
            "is for a --threshold that you have checked: give that too", param_hint="--remove-alike"
        )
    trusted = labels is not None or remove_alike
    for path, suffixes, option in (
        (output, (".csv", ".json", ".jsonl"), "--output"),
        (report, (".html",), "--report"),
        (curve, (".png", ".pdf", ".svg"), "--curve"),
    ):
        if path is not None:
            check_file(path, suffixes, option, force=force, inputs=(labels, decisions))
    # They bring numpy and scipy, which take a while to import.
    from imagesearch_analysis.duplicate_files import plot_curve, write_list, write_report  # noqa: PLC0415
    from imagesearch_analysis.duplicates import groups_above, threshold_curve  # noqa: PLC0415
    from imagesearch_analysis.duplicates import members as members_of  # noqa: PLC0415
    from imagesearch_analysis.judged_pairs import choose_threshold, read_pairs  # noqa: PLC0415
    from imagesearch_analysis.similarity_forest import compare_all  # noqa: PLC0415

    if labels is None:
        _check_threshold(target, collection, threshold)
    given = DEFAULT_THRESHOLD if threshold is None else threshold
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found:
        choice = None if labels is None else choose_threshold(found, read_pairs(labels, found), precision)
        limit = choice.threshold if choice else given
        judged = None if decisions is None else read_pairs(decisions, found)
        least = min(limit, limit - BELOW if curve_from is None else curve_from) if curve else limit
        with progress(len(found)) as bar:
            forest = compare_all(found, least, judged, bar.reach)
        groups = groups_above(forest, limit)
        with progress(len(groups)) as bar:
            members = list(members_of(found, groups, keep, limit, judged, bar.reach, trusted=trusted))
        told = _told(found, limit, members) | {"threshold_trusted": trusted}
        if output is not None:
            write_list(output, members)
        if curve is not None:
            plot_curve(curve, threshold_curve(forest), limit, SCORE_NAMES[found.metric])
        if report is not None:
            facts = {name.replace("_", " "): str(value) for name, value in told.items()}
            write_report(report, members, f"Duplicates in {found.collection}", facts)
    _tell(told, members, choice, judged, as_json=as_json)
    for path in (output, report, curve):
        if path is not None:
            err.print(Text(f"wrote {path}"))


def _check(
    threshold: float | None,
    labels: Path | None,
    precision: float | None,
    curve: Path | None,
    curve_from: float | None,
) -> None:
    """Sees that the options go together."""
    if threshold is not None and labels is not None:
        raise typer.BadParameter("chooses the threshold, and --threshold says it: give one", param_hint="--labels")
    if precision is not None and labels is None:
        raise typer.BadParameter("is of judged pairs, which --labels names", param_hint="--precision")
    if curve_from is not None and curve is None:
        raise typer.BadParameter("is where the curve begins that --curve draws", param_hint="--curve-from")


def _check_threshold(target: str, collection: str, threshold: float | None) -> None:
    """Sees that a collection can have this threshold, or the default one; a wrong command line else."""
    with connected(target) as client:
        metric = client.get_collection(collection).metric
    if threshold is None and metric is not Metric.COSINE:
        raise typer.BadParameter(
            f"{collection} has {metric.value}, which has no usual threshold: say one, or give --labels",
            param_hint="--threshold",
        )
    low = {Metric.COSINE: -1.0, Metric.L2: 0.0}.get(metric)
    if threshold is not None and low is not None and not low < threshold <= 1:
        raise typer.BadParameter(
            f"{threshold:g} is none of {collection}, which has {metric.value}: more than {low:g}, at most 1",
            param_hint="--threshold",
        )


def _told(snapshot: "Snapshot", threshold: float, members: Sequence[Sequence["Member"]]) -> dict[str, object]:
    """What came of it."""
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


def _tell(
    told: dict[str, object],
    members: Sequence[Sequence["Member"]],
    choice: "ChosenThreshold | None",
    judged: "JudgedPairs | None",
    *,
    as_json: bool,
) -> None:
    if as_json:
        chosen = (
            {}
            if choice is None
            else {
                "chosen": {
                    "precision": choice.precision,
                    "recall": choice.recall,
                    "f1": choice.f1,
                    "pairs": choice.pairs,
                    "duplicates": choice.duplicates,
                }
            }
        )
        print(json_text(told | chosen))
        return
    if choice is not None:
        out.print(
            f"threshold {choice.threshold:.4f}: precision {choice.precision:.3f}, recall {choice.recall:.3f}, F1 "
            f"{choice.f1:.3f} on {choice.pairs} judged pairs, {choice.duplicates} of them duplicates",
            highlight=False,
            soft_wrap=True,
        )
    for number, group in enumerate(members[:SHOWN_GROUPS], start=1):
        kept, *others = group
        out.print(Text(f"{number}. {kept.image.id}"), soft_wrap=True)
        for member in others[:SHOWN_MEMBERS]:
            same = ", the same file" if member.same_file else ""
            out.print(Text(f"   {shown_number(member.score)} {member.image.id}{same}"), soft_wrap=True)
        if len(others) > SHOWN_MEMBERS:
            out.print(f"   and {len(others) - SHOWN_MEMBERS} images more", highlight=False)
    if len(members) > SHOWN_GROUPS:
        out.print(f"and {len(members) - SHOWN_GROUPS} groups more; --output and --report write all", highlight=False)
    out.print(
        f"{told['groups']} groups of {told['images_in_groups']} images from a score of {told['threshold']} on, among "
        f"{told['images']} of {told['collection']}; {told['remove']} could be removed, "
        f"{told['review']} are to be reviewed",
        highlight=False,
        soft_wrap=True,
    )
    if told["review"] and not told["threshold_trusted"]:
        err.print(
            "Nobody has checked this threshold, so that only copies of one file and decided pairs are to be removed. "
            "--labels chooses a threshold by judged pairs; --remove-alike is for one that you have checked.",
            soft_wrap=True,
        )
    if choice is not None and choice.precision < SURE:
        err.print(
            f"{100 * (1 - choice.precision):.0f} % of the judged pairs from this threshold on are no duplicates: look "
            "before you remove, or ask for a --precision",
            soft_wrap=True,
        )
    if judged is not None and judged.unknown:
        err.print(f"{judged.unknown} decided pairs are of images that are not there")
