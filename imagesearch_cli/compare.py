"""`imagesearch compare`."""

import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from grpc_kit.errors import NotFoundError
from imagesearch_cli.evaluate import (
    MEASURING,
    ByFolder,
    Cutoffs,
    HtmlFile,
    JsonFile,
    LabelColumn,
    LabelsOption,
    QueriesOption,
    RoleColumn,
    Root,
    Sample,
    Seed,
    TargetsOption,
    check_outputs,
    check_roles,
    cutoffs_of,
    embedding_well,
    open_labels,
    show_left_out,
    write_text,
)
from imagesearch_cli.loading import embedder_endpoint
from imagesearch_cli.output import err, out
from imagesearch_cli.snapshots import Force, ending_well, progress
from imagesearch_client import DEFAULT_EMBEDDER
from imagesearch_client.types import Metric
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.evaluation.comparison import Comparison, FolderImages, ServedModel
    from imagesearch_analysis.evaluation.labels import LabelsFile
    from imagesearch_analysis.evaluation.task import Roles, Task


def compare(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="The images, with all folders below.")],
    models: Annotated[
        str,
        typer.Option(
            "--models",
            help="Names of models that the embedder serves, between commas; NAME@HOST:PORT is served by another one. "
            "Default: all that it serves.",
        ),
    ] = "",
    metrics: Annotated[
        str, typer.Option("--metrics", help="Of cosine, l2 and ip, between commas.", rich_help_panel=MEASURING)
    ] = "cosine",
    labels: LabelsOption = None,
    by_folder: ByFolder = False,
    label: LabelColumn = "",
    role_column: RoleColumn = "",
    queries: QueriesOption = "",
    targets: TargetsOption = "",
    root: Root = None,
    cutoffs: Cutoffs = None,
    sample: Sample = None,
    seed: Seed = 0,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False, help="Where vectors are kept for the next run. Default: ~/.cache/imagesearch/vectors."
        ),
    ] = None,
    json_file: JsonFile = None,
    html_file: HtmlFile = None,
    force: Force = False,
    embedder: Annotated[
        str, typer.Option("--embedder", envvar="IMAGESEARCH_EMBEDDER", help="The embedder, HOST:PORT.")
    ] = DEFAULT_EMBEDDER,
    token_files: Annotated[
        list[str] | None,
        typer.Option(
            "--token-file",
            metavar="HOST:PORT=FILE",
            help="The file with the token of an embedder that --models names. May be repeated. "
            "IMAGESEARCH_EMBEDDER_TOKEN is for --embedder alone.",
        ),
    ] = None,
) -> None:
    """Compare models on your own labelled pictures, and say which one to take. Needs an embedder, and no Milvus.

    Every model embeds the folder, and every labelled image is a query by exact search; see `evaluate`. The one to take
    is that of the best mAP, or a cheaper one that is not significantly worse. Vectors are kept by model and content: a
    run that was cut off goes on, and one with another metric embeds nothing.

    \b
    imagesearch compare photos --by-folder --models vgg16,mobilenet_v2
    imagesearch compare shop --labels shop/labels.csv --label product --models vgg16,vgg16-gem --metrics cosine,l2
    imagesearch compare photos --by-folder --models vgg16,mine@127.0.0.1:50061 --html models.html

    Exit codes: 0 done, 1 it cannot be measured, 2 wrong usage, 3 an embedder went away: the same command goes on.
    """  # noqa: D301 - the help keeps the lines that follow this mark apart
    if (labels is not None) == by_folder:
        raise typer.BadParameter("what is right is told by one of --labels FILE and --by-folder")
    if label and labels is None:
        raise typer.BadParameter("is a column of --labels", param_hint="--label")
    check_roles(role_column, queries, targets, by_folder=by_folder)
    check_outputs(json_file, html_file, force=force)
    wanted_metrics = _metrics(metrics)
    wanted_models = _models(models, embedder)
    tokens = _tokens(token_files, {address for _, address in wanted_models} - {embedder})
    counted = cutoffs_of(cutoffs)
    file = open_labels(labels, label, role_column)
    # They bring numpy and matplotlib, which take a while to import.
    from imagesearch_analysis.evaluation import comparison_report  # noqa: PLC0415
    from imagesearch_analysis.evaluation.comparison import compare as measure  # noqa: PLC0415
    from imagesearch_analysis.evaluation.comparison import needed_positions, read_folder, run_model  # noqa: PLC0415
    from imagesearch_analysis.evaluation.task import Roles  # noqa: PLC0415

    vectors = cache or _default_cache()
    with ending_well(), embedding_well(goes_on=True):
        served = _served(wanted_models, embedder, tokens)
        pictures = read_folder(folder, max(one.model.limits.max_image_bytes for one in served))
        begin = root or (labels.parent if labels else Path())
        task = _task(pictures, file, Roles(queries, targets), begin, sample, seed)
        wanted = needed_positions(task, len(pictures.items))
        runs = []
        for one in served:
            err.print(Text(f"{one.name}: {len(wanted):,} images"), highlight=False)
            with progress(len(wanted)) as bar:
                runs.append(run_model(one, pictures, wanted, vectors, bar.reach, _say))
        comparison = measure(runs, pictures, task, wanted_metrics, counted, vectors, seed)
        _show(comparison, str(folder))
        if json_file is not None:
            write_text(json_file, json_text(comparison_report.as_json(comparison, str(folder)), indent=1))
        if html_file is not None:
            write_text(html_file, comparison_report.page(comparison, str(folder)))


def _metrics(text: str) -> list[Metric]:
    """The metrics of --metrics, in their order."""
    names = [name.strip().lower() for name in text.split(",")]
    known = [metric.value for metric in Metric]
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise typer.BadParameter(f"{text!r} should be some of {','.join(known)}, each once", param_hint="--metrics")
    return [Metric(name) for name in names]


def _models(text: str, embedder: str) -> list[tuple[str, str]]:
    """Each model of --models, and the address of its embedder; none means all."""
    if not text:
        return []
    found = []
    for part in text.split(","):
        name, at, address = (piece.strip() for piece in part.partition("@"))
        if not name or (at and not address) or (name, address or embedder) in found:
            raise typer.BadParameter(
                f"{text!r} should be NAME or NAME@HOST:PORT between commas, each once", param_hint="--models"
            )
        found.append((name, address or embedder))
    return found


def _tokens(texts: Sequence[str] | None, others: AbstractSet[str]) -> Mapping[str, str]:
    """The token of each embedder that is not the one of --embedder, by address; most have none."""
    found = dict.fromkeys(others, "")
    for text in texts or ():
        address, equals_sign, name = text.partition("=")
        if not equals_sign or address not in others:
            raise typer.BadParameter(
                f"{text!r} should be HOST:PORT=FILE, with the address of an embedder that --models names after @",
                param_hint="--token-file",
            )
        try:
            found[address] = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{name} cannot be read: {error}", param_hint="--token-file") from None
    return found


def _served(wanted: list[tuple[str, str]], embedder: str, tokens: Mapping[str, str]) -> list["ServedModel"]:
    """The models that are wanted, as their embedders serve them; a wrong command line where one is not served."""
    from imagesearch_analysis.evaluation.comparison import ServedModel, with_unique_names  # noqa: PLC0415 - they bring numpy
    from imagesearch_analysis.evaluation.embedding import served_models  # noqa: PLC0415 - as above

    if not wanted:
        endpoint = embedder_endpoint(embedder)
        return with_unique_names([ServedModel(model, endpoint) for model in served_models(endpoint)])
    chosen: dict[tuple[str, str], ServedModel] = {}
    for name, address in wanted:
        endpoint = embedder_endpoint(address, tokens.get(address))
        try:
            (model,) = served_models(endpoint, [name])
        except NotFoundError as error:
            raise typer.BadParameter(
                f"the embedder at {address} does not serve {name!r:.80}; it serves {error.metadata.get('models')}. "
                "EMBEDDER_MODELS of the embedder lists what it serves",
                param_hint="--models",
            ) from None
        if (model.name, address) in chosen:
            raise typer.BadParameter(f"{name!r} is {model.name}, which is named twice", param_hint="--models")
        chosen[model.name, address] = ServedModel(model, endpoint)
    return with_unique_names(list(chosen.values()))


def _task(
    pictures: "FolderImages", file: "LabelsFile | None", roles: "Roles", root: Path, sample: int | None, seed: int
) -> "Task":
    """The queries and the right answers that the options tell."""
    from imagesearch_analysis.evaluation.labels import KnownImages, folder_labels  # noqa: PLC0415 - they bring numpy

    ids, uris = [item.id for item in pictures.items], [item.uri for item in pictures.items]
    if file is None:
        return folder_labels(ids, uris).task(roles, sample, seed)
    known = KnownImages(ids, uris, root)
    if file.has_pairs:
        return file.pairs(known, outside=False).sampled(sample, seed)
    return file.labelling(known, outside=False).task(roles, sample, seed)


def _show(comparison: "Comparison", folder: str) -> None:
    """The figures for people, what to take, and what was left out."""
    from imagesearch_analysis.evaluation import comparison_report  # noqa: PLC0415 - it brings matplotlib
    from imagesearch_analysis.evaluation.recommendation import recommendation  # noqa: PLC0415 - as above

    for name, value in comparison_report.facts(comparison, folder).items():
        out.print(Text(f"{name}: {value}"), highlight=False)
    table = Table(*comparison_report.columns_of(comparison))
    for row in comparison_report.rows_of(comparison):
        table.add_row(*map(Text, row))
    out.print(table)
    out.print(Text(recommendation(comparison)), soft_wrap=True)
    for note in comparison_report.notes(comparison):
        err.print(Text(note), soft_wrap=True)
    show_left_out(comparison_report.left_out_of(comparison))


def _say(text: str) -> None:
    if text:
        err.print(Text(f"waiting for {text}"), soft_wrap=True)


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesearch" / "vectors"
