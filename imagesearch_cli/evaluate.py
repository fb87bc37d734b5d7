"""`imagesearch evaluate`."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import note, show
from imagesearch_cli.evaluation import (
    PAGE_SUFFIXES,
    check_labels,
    check_roles,
    embedder_errors,
    labelled_task,
    open_labels,
    print_left_out,
    sorted_cutoffs,
    write_page,
)
from imagesearch_cli.load_setup import embedder_endpoint
from imagesearch_cli.option_values import parse_where
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    MEASURING,
    TRUTH,
    AsJson,
    ByFolder,
    CollectionName,
    Cutoffs,
    Embedder,
    EvaluationSeed,
    Force,
    LabelColumn,
    LabelsFileOption,
    LabelsRoot,
    MatchOption,
    OpenOption,
    QueryRole,
    RoleColumn,
    SampleSize,
    SearchEf,
    SearchList,
    SearchNprobe,
    SnapshotFolder,
    Target,
    TargetRole,
    Where,
    output_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import check_file, snapshot_of
from imagesearch_cli.tables import Column, print_table
from imagesearch_client import DEFAULT_EMBEDDER, DEFAULT_TARGET
from imagesearch_client.types import Match
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.evaluation.collection_quality import CollectionQuality
    from imagesearch_analysis.evaluation.labels import LabelsFile
    from imagesearch_analysis.evaluation.task import Roles, Task
    from imagesearch_analysis.snapshot import Snapshot


def evaluate(
    collection: CollectionName = DEFAULT_COLLECTION,
    labels: LabelsFileOption = None,
    by_folder: ByFolder = False,
    by_attribute: Annotated[
        str,
        typer.Option(metavar="NAME", help="The value of this stored attribute is the label.", rich_help_panel=TRUTH),
    ] = "",
    label_column: LabelColumn = "",
    role_column: RoleColumn = "",
    query_role: QueryRole = "",
    target_role: TargetRole = "",
    root: LabelsRoot = None,
    cutoffs: Cutoffs = None,
    sample: SampleSize = None,
    seed: EvaluationSeed = 0,
    exact_only: Annotated[
        bool,
        typer.Option("--exact-only", help="Measure only exact search, not the index.", rich_help_panel=MEASURING),
    ] = False,
    ef: SearchEf = None,
    nprobe: SearchNprobe = None,
    search_list: SearchList = None,
    where: Where = None,
    match: MatchOption = Match.IMAGES,
    output: Annotated[Path | None, output_option("Page with curves and images: .html.")] = None,
    examples: Annotated[
        int, typer.Option(min=0, max=200, metavar="N", help="Number of the best and of the worst queries on the page.")
    ] = 10,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    embedder: Embedder = DEFAULT_EMBEDDER,
    as_json: AsJson = False,
) -> None:
    """Measure the quality of a collection's searches against labels.

    Every labelled image is a query. The images with the same label are the right hits; the image itself is no hit. A
    labelled file that is not in the collection is embedded, and is a query too. Exact search over all images shows how
    good the vectors are. The same queries to the service show how much its index loses. With --match regions, the score
    of an image is that of its best region; regions are read as they are now, so write nothing meanwhile.

    Example: imagesearch evaluate -c shop --labels labels.csv --label-column product

    Example: imagesearch evaluate -c photos --by-folder -k 1 -k 10 -o report.html

    Example: imagesearch evaluate -c products --by-attribute category --sample 1000 --ef 64 --json

    Exit codes: 0 done; 1 the quality cannot be measured, or the service refused; 3 the embedder became unavailable.
    """
    check_labels(labels, label_column, by_folder=by_folder, by_attribute=by_attribute)
    check_roles(role_column, query_role, target_role, by_folder=by_folder)
    if any((ef, nprobe, search_list)) and exact_only:
        raise typer.BadParameter("--ef, --nprobe and --search-list are for the index; leave out --exact-only")
    check_file(output, PAGE_SUFFIXES, "--output", force=force)
    condition = parse_where(where)
    file = open_labels(labels, label_column, role_column)
    # NumPy and matplotlib take a while to import.
    from imagesearch_analysis.evaluation import collection_quality, collection_report  # noqa: PLC0415
    from imagesearch_analysis.evaluation.embedding import embed_queries  # noqa: PLC0415
    from imagesearch_analysis.evaluation.parted_vectors import parted_vectors  # noqa: PLC0415
    from imagesearch_analysis.evaluation.task import Roles  # noqa: PLC0415

    roles, folder = Roles(query_role, target_role), labels.parent if labels else Path()
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found, connected(target) as client:
        task = _task(found, file, by_attribute, role_column, roles, root or folder, sample, seed)
        tuning = collection_quality.IndexSearch(condition, ef=ef, nprobe=nprobe, search_list=search_list, match=match)
        search = None if exact_only else collection_quality.index_search(found, task, roles, role_column, tuning)
        with embedder_errors(), show_progress(sum(query.file is not None for query in task.queries)) as bar:
            task, failed = embed_queries(embedder_endpoint(embedder), found.fingerprint, task, bar.reach)
        with ExitStack() as stack:
            parts = None
            if match is not Match.IMAGES:
                bar = stack.enter_context(show_progress(len(found)))
                parts = stack.enter_context(parted_vectors(client, found, match, bar.reach))
            bar = stack.enter_context(show_progress(len(task.queries) * (2 if search else 1)))
            quality = collection_quality.measure_collection(
                client,
                found,
                task,
                sorted_cutoffs(cutoffs),
                search,
                parts=parts,
                failed=failed,
                seed=seed,
                on_progress=bar.reach,
            )
        if as_json:
            print(json_text(collection_report.as_json(quality, found)))
        else:
            _show(quality)
        if output is not None:
            write_page(output, collection_report.page(quality, found, examples))


def _task(
    found: "Snapshot",
    file: "LabelsFile | None",
    attribute: str,
    role_column: str,
    roles: "Roles",
    root: Path,
    sample: int | None,
    seed: int,
) -> "Task":
    """Return the queries and the right hits."""
    from imagesearch_analysis.evaluation.labels import attribute_labels  # noqa: PLC0415 - NumPy is slow

    images = map(found.image, range(len(found)))
    if attribute:
        attributes = (image.attributes for image in images)
        return attribute_labels(list(found.ids), attributes, attribute, role_column).task(roles, sample, seed)
    return labelled_task(
        list(found.ids), (image.uri for image in images), file, root, roles, sample, seed, outside=True
    )


def _show(quality: "CollectionQuality") -> None:
    """Print the figures, and what they leave out."""
    from imagesearch_analysis.evaluation import collection_report  # noqa: PLC0415 - matplotlib is slow

    for name, value in collection_report.facts(quality).items():
        show(f"{name}: {value}")
    rows = collection_report.figure_rows(quality)
    agreement = quality.agreement_figures
    none = [""] * len(agreement)
    print_table(
        [
            Column("measure", [*(row.name for row in rows), *agreement], 0),
            Column("exact search", [*(str(row.exact) for row in rows), *none], 1),
            Column("with the index", [*(str(row.index or "") for row in rows), *map(str, agreement.values())], 2),
            Column(
                "loss", [*(f"{row.exact.mean - row.index.mean:.3f}" if row.index else "" for row in rows), *none], 3
            ),
            Column("random", [*(f"{row.random:.3f}" for row in rows), *none], 4),
        ]
    )
    for text in collection_report.notes(quality):
        note(text)
    print_left_out(collection_report.left_out(quality.task, quality.failed))
