"""`imagesearch evaluate`."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.table import Table
from rich.text import Text

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import ServiceError
from imagesearch_cli.connection import EMBEDDER_HINT, connected
from imagesearch_cli.loading import STOPPED, embedder_endpoint
from imagesearch_cli.options import OpenOption, Target, Where, condition_of
from imagesearch_cli.output import SHOWN_REJECTS, err, out
from imagesearch_cli.snapshots import (
    CollectionArgument,
    Force,
    SnapshotFolder,
    check_file,
    progress,
    snapshot_of,
)
from imagesearch_client import DEFAULT_EMBEDDER, DEFAULT_TARGET
from imagesearch_ingest.atomic_file import atomic_write
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.evaluation.collection_quality import CollectionQuality
    from imagesearch_analysis.evaluation.labels import LabelsFile
    from imagesearch_analysis.evaluation.task import Roles, Task
    from imagesearch_analysis.snapshot import Snapshot

TRUTH = "What is right"
MEASURING = "What is measured"

LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        exists=True,
        dir_okay=False,
        help="A .csv, .tsv or .jsonl file: a row for each image (id, path or uri) with its label; or a row for each "
        "query and relevant image.",
        rich_help_panel=TRUTH,
    ),
]
ByFolder = Annotated[
    bool,
    typer.Option(
        "--by-folder", help="An image's label is the name of the folder that it lies in.", rich_help_panel=TRUTH
    ),
]
LabelColumn = Annotated[
    str,
    typer.Option("--label", help="The column of the labels. Default: the only one there is.", rich_help_panel=TRUTH),
]
RoleColumn = Annotated[
    str,
    typer.Option(
        help="The column, or the stored attribute, that tells queries and targets apart.", rich_help_panel=TRUTH
    ),
]
QueriesOption = Annotated[
    str, typer.Option("--queries", help="Only images of this role are queries.", rich_help_panel=TRUTH)
]
TargetsOption = Annotated[
    str, typer.Option("--targets", help="Only images of this role may be hits.", rich_help_panel=TRUTH)
]
Root = Annotated[
    Path | None,
    typer.Option(help="Where relative paths of the labels begin. Default: their folder.", rich_help_panel=TRUTH),
]
Cutoffs = Annotated[
    list[int] | None,
    typer.Option(
        "-k", min=1, max=1000, help="Hits that count. May be repeated. Default: 10.", rich_help_panel=MEASURING
    ),
]
Sample = Annotated[
    int | None,
    typer.Option(min=1, help="Ask so many of the queries, drawn at random. Default: all.", rich_help_panel=MEASURING),
]
Seed = Annotated[int, typer.Option(min=0, help="Of the sample and of the intervals.", rich_help_panel=MEASURING)]
JsonFile = Annotated[
    Path | None, typer.Option("--json", dir_okay=False, help="Write everything that was measured, as .json.")
]
HtmlFile = Annotated[
    Path | None, typer.Option("--html", dir_okay=False, help="Write a page with curves and pictures, as .html.")
]
EmbedderOption = Annotated[
    str,
    typer.Option(
        "--embedder", envvar="IMAGESEARCH_EMBEDDER", help="The embedder, HOST:PORT, of images that have no vector yet."
    ),
]


def evaluate(
    collection: CollectionArgument,
    labels: LabelsOption = None,
    by_folder: ByFolder = False,
    attribute: Annotated[
        str, typer.Option(help="An image's label is the value of this stored attribute.", rich_help_panel=TRUTH)
    ] = "",
    label: LabelColumn = "",
    role_column: RoleColumn = "",
    queries: QueriesOption = "",
    targets: TargetsOption = "",
    root: Root = None,
    cutoffs: Cutoffs = None,
    sample: Sample = None,
    seed: Seed = 0,
    index: Annotated[
        bool, typer.Option("--index/--no-index", help="Ask the service's index too.", rich_help_panel=MEASURING)
    ] = True,
    ef: Annotated[
        int | None, typer.Option(min=1, help="HNSW, AUTOINDEX: candidates kept.", rich_help_panel=MEASURING)
    ] = None,
    nprobe: Annotated[
        int | None, typer.Option(min=1, help="IVF: clusters looked at.", rich_help_panel=MEASURING)
    ] = None,
    search_list: Annotated[
        int | None, typer.Option(min=1, help="DISKANN: candidates kept.", rich_help_panel=MEASURING)
    ] = None,
    where: Where = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    examples: Annotated[
        int, typer.Option(min=0, max=200, help="The best and the worst queries on the page, so many of each.")
    ] = 10,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
    embedder: EmbedderOption = DEFAULT_EMBEDDER,
) -> None:
    """Measure how good a collection's searches are, against labels.

    Every labelled image is a query, and the images that share its label are the right answers; the image itself is no
    hit. A labelled file that is not in the collection is embedded, and is a query too. The ranking of all images by
    exact search tells how good the vectors are; the same queries through the service tell what its index loses.

    \b
    imagesearch evaluate shop --labels labels.csv --label product
    imagesearch evaluate shop --labels labels.csv --label product --role-column role --queries shelf --targets product
    imagesearch evaluate photos --by-folder -k 1 -k 10 --html report.html
    imagesearch evaluate products --attribute category --sample 1000 --ef 64 --json figures.json
    imagesearch evaluate photos --labels pairs.csv          # columns query and relevant

    Exit codes: 0 done, 1 it cannot be measured or the service refused, 2 wrong usage, 3 the embedder went away.
    """  # noqa: D301 - the help keeps the lines that follow this mark apart
    if (labels is not None) + by_folder + bool(attribute) != 1:
        raise typer.BadParameter("what is right is told by one of --labels FILE, --by-folder and --attribute NAME")
    check_roles(role_column, queries, targets, by_folder=by_folder)
    if label and labels is None:
        raise typer.BadParameter("is a column of --labels", param_hint="--label")
    if any((ef, nprobe, search_list)) and not index:
        raise typer.BadParameter("--ef, --nprobe and --search-list are for the index, which --no-index leaves out")
    check_outputs(json_file, html_file, force=force)
    condition = condition_of(where)
    counted = cutoffs_of(cutoffs)
    file = open_labels(labels, label, role_column)
    # They bring numpy and matplotlib, which take a while to import.
    from imagesearch_analysis.evaluation import collection_report  # noqa: PLC0415
    from imagesearch_analysis.evaluation.collection_quality import IndexSearch, index_search, measure_collection  # noqa: PLC0415
    from imagesearch_analysis.evaluation.embedding import embed_queries  # noqa: PLC0415
    from imagesearch_analysis.evaluation.task import Roles  # noqa: PLC0415

    roles = Roles(queries, targets)
    with snapshot_of(target, collection, where, snapshot, opens=opens) as found, connected(target) as client:
        begin = root or (labels.parent if labels else Path())
        task = _task(found, file, attribute, role_column, roles, begin, sample, seed)
        options = IndexSearch(condition, ef=ef, nprobe=nprobe, search_list=search_list)
        how = index_search(found, task, roles, role_column, options) if index else None
        with embedding_well(), progress(sum(query.file is not None for query in task.queries)) as bar:
            task, failed = embed_queries(embedder_endpoint(embedder), found.fingerprint, task, bar.reach)
        with progress(len(task.queries) * (2 if index else 1)) as bar:
            quality = measure_collection(
                client, found, task, counted, how, failed=failed, seed=seed, on_progress=bar.reach
            )
        _show(quality)
        if json_file is not None:
            write_text(json_file, json_text(collection_report.as_json(quality, found), indent=1))
        if html_file is not None:
            write_text(html_file, collection_report.page(quality, found, examples))


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
    """The queries and the right answers that the options tell."""
    from imagesearch_analysis.evaluation.labels import KnownImages, attribute_labels, folder_labels  # noqa: PLC0415

    ids = list(found.ids)
    images = map(found.image, range(len(found)))
    if attribute:
        labelling = attribute_labels(ids, (image.attributes for image in images), attribute, role_column)
        return labelling.task(roles, sample, seed)
    uris = (image.uri for image in images)
    if file is None:
        return folder_labels(ids, uris).task(roles, sample, seed)
    known = KnownImages(ids, uris, root)
    if file.has_pairs:
        return file.pairs(known).sampled(sample, seed)
    return file.labelling(known).task(roles, sample, seed)


def _show(quality: "CollectionQuality") -> None:
    """The figures for people, and what was left out."""
    from imagesearch_analysis.evaluation import collection_report  # noqa: PLC0415

    for name, value in collection_report.facts(quality).items():
        out.print(Text(f"{name}: {value}"), highlight=False)
    table = Table("measure", "exact search", "through the index", "lost by the index", "random ranking")
    for row in collection_report.figure_rows(quality):
        lost = f"{row.exact.mean - row.index.mean:.3f}" if row.index else ""
        table.add_row(row.name, Text(str(row.exact)), Text(str(row.index or "")), lost, f"{row.random:.3f}")
    for name, figure in quality.agreement_figures.items():
        table.add_row(name, "", Text(str(figure)), "", "")
    out.print(table)
    for note in collection_report.notes(quality):
        err.print(Text(note), soft_wrap=True)
    show_left_out(collection_report.left_out(quality.task, quality.failed))


def check_roles(role_column: str, queries: str, targets: str, *, by_folder: bool) -> None:
    """Sees that the options of roles fit together."""
    if (queries or targets) and not role_column:
        raise typer.BadParameter("--queries and --targets are roles, and --role-column says where these are")
    if role_column and not (queries or targets):
        raise typer.BadParameter("needs --queries ROLE, --targets ROLE or both", param_hint="--role-column")
    if role_column and by_folder:
        raise typer.BadParameter("folders tell no roles", param_hint="--role-column")


def check_outputs(json_file: Path | None, html_file: Path | None, *, force: bool) -> None:
    """Sees that the files can be written, before all the work."""
    if json_file is not None:
        check_file(json_file, (".json",), "--json", force=force)
    if html_file is not None:
        check_file(html_file, (".html", ".htm"), "--html", force=force)


def cutoffs_of(cutoffs: Sequence[int] | None) -> list[int]:
    """The -k options in ascending order."""
    return sorted(set(cutoffs or [10]))


def open_labels(labels: Path | None, label: str, role_column: str) -> "LabelsFile | None":
    """The file of --labels; None where there is none."""
    if labels is None:
        return None
    from imagesearch_analysis.evaluation.labels import LabelColumns, LabelsFile  # noqa: PLC0415 - it brings numpy
    from imagesearch_analysis.evaluation.task import TaskError  # noqa: PLC0415

    try:
        return LabelsFile(labels, LabelColumns(label, role_column))
    except TaskError as error:
        raise typer.BadParameter(str(error), param_hint="--labels") from None


@contextmanager
def embedding_well(*, goes_on: bool = False) -> Iterator[None]:
    """Ends the command with a line where an embedder cannot be called, or goes away.

    `goes_on` says that the same command takes up what was done, and that the line is to tell so.
    """
    from imagesearch_ingest.load.errors import LoadStoppedError  # noqa: PLC0415 - for speed, as all of bulk

    try:
        yield
    except ServiceError as error:
        _end(f"{error.reason}: {error.message}", 1, f"{EMBEDDER_HINT}." if error.reason == "UNAVAILABLE" else "")
    except CredentialsError as error:
        _end(str(error), 1)
    except LoadStoppedError as error:
        _end(f"{error.reason}: {error.message}", STOPPED, "The same command goes on from here." if goes_on else "")


def _end(message: str, code: int, hint: str = "") -> NoReturn:
    err.print("[bold red]error[/] ", end="")
    err.print(Text(message), soft_wrap=True)
    if hint:
        err.print(Text(hint), soft_wrap=True)
    raise typer.Exit(code)


def show_left_out(groups: Mapping[str, Sequence[str]]) -> None:
    """What is in no figure, with the first names of each kind."""
    for title, names in groups.items():
        if names:
            more = f", and {len(names) - SHOWN_REJECTS} more" if len(names) > SHOWN_REJECTS else ""
            err.print(Text(f"{len(names)} {title}: {', '.join(names[:SHOWN_REJECTS])}{more}"), soft_wrap=True)


def write_text(path: Path, text: str) -> None:
    """Writes a file whole or not at all. Raises OSError."""
    with atomic_write(path) as partial:
        partial.write_text(text, encoding="utf-8")
    err.print(Text(f"wrote {path}"), soft_wrap=True)
