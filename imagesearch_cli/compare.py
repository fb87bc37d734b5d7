"""`imagesearch compare`."""

import os
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from grpc_kit.errors import NotFoundError
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
from imagesearch_cli.load_setup import embedder_endpoint, note_waiting
from imagesearch_cli.options import (
    CONNECTION,
    DEFAULT_REGIONS,
    MEASURING,
    AsJson,
    ByFolder,
    Cutoffs,
    Embedder,
    EvaluationSeed,
    Force,
    LabelColumn,
    LabelsFileOption,
    LabelsRoot,
    MatchOption,
    MaxRegions,
    QueryRole,
    RoleColumn,
    SampleSize,
    TargetRole,
    output_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import analysis_errors, check_file
from imagesearch_cli.tables import Column, print_table
from imagesearch_client import DEFAULT_EMBEDDER
from imagesearch_client.types import Match, Metric
from imagesearch_ingest.json_text import json_text

if TYPE_CHECKING:
    from imagesearch_analysis.evaluation.comparison import Comparison, ServedModel


def compare(
    folder: Annotated[
        Path,
        typer.Argument(metavar="FOLDER", exists=True, file_okay=False, help="Folder of images, with its subfolders."),
    ],
    models: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="Models to compare. NAME@HOST:PORT is a model of another embedder. [default: all models of the "
            "embedder]",
        ),
    ] = "",
    metrics: Annotated[
        str,
        typer.Option(metavar="METRIC,METRIC", help="Metrics to compare: cosine, l2, ip.", rich_help_panel=MEASURING),
    ] = "cosine",
    labels: LabelsFileOption = None,
    by_folder: ByFolder = False,
    label_column: LabelColumn = "",
    role_column: RoleColumn = "",
    query_role: QueryRole = "",
    target_role: TargetRole = "",
    root: LabelsRoot = None,
    match: MatchOption = Match.IMAGES,
    max_regions: MaxRegions = None,
    cutoffs: Cutoffs = None,
    sample: SampleSize = None,
    seed: EvaluationSeed = 0,
    cache: Annotated[
        Path | None,
        typer.Option(
            file_okay=False,
            metavar="FOLDER",
            help="Folder that keeps the vectors for the next run. [default: ~/.cache/imagesearch/vectors]",
        ),
    ] = None,
    output: Annotated[Path | None, output_option("Page with curves: .html.")] = None,
    force: Force = False,
    embedder: Embedder = DEFAULT_EMBEDDER,
    token_files: Annotated[
        list[str] | None,
        typer.Option(
            "--token-file",
            metavar="HOST:PORT=FILE",
            help="File with the token of an embedder in --models. May be repeated. IMAGESEARCH_EMBEDDER_TOKEN is only "
            "for --embedder.",
            rich_help_panel=CONNECTION,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare models on your own labelled images, and recommend one. Needs an embedder, but no Milvus.

    Every model embeds the images of the folder. Every labelled image is a query of an exact search; see `imagesearch
    evaluate`. The recommended model has the best mAP, or is cheaper and not significantly worse. With --match
    regions, the score of an image is that of the best of its regions.

    The command keeps the vectors by model and content. If it is interrupted, run it again: it resumes. A run with
    another metric embeds nothing again.

    Example: imagesearch compare photos --by-folder --models vgg16,mobilenet_v2

    Example: imagesearch compare shop --labels shop/labels.csv --label-column product --metrics cosine,l2

    Example: imagesearch compare photos --by-folder --models vgg16,mine@127.0.0.1:50061 -o models.html

    Exit codes: 0 done; 1 the models cannot be compared; 3 an embedder became unavailable.
    """
    check_labels(labels, label_column, by_folder=by_folder)
    check_roles(role_column, query_role, target_role, by_folder=by_folder)
    check_file(output, PAGE_SUFFIXES, "--output", force=force)
    if max_regions is not None and match is Match.IMAGES:
        raise typer.BadParameter("has no effect without --match regions or --match all", param_hint="--max-regions")
    regions = None if match is Match.IMAGES else max_regions or DEFAULT_REGIONS
    wanted_metrics = _parse_metrics(metrics)
    wanted_models = _parse_models(models, embedder)
    tokens = _read_tokens(token_files, {address for _, address in wanted_models} - {embedder})
    file = open_labels(labels, label_column, role_column)
    # NumPy and matplotlib take a while to import.
    from imagesearch_analysis.evaluation import comparison_report  # noqa: PLC0415
    from imagesearch_analysis.evaluation.comparison import compare as measure  # noqa: PLC0415
    from imagesearch_analysis.evaluation.comparison import needed_positions, read_folder, run_model  # noqa: PLC0415
    from imagesearch_analysis.evaluation.task import Roles  # noqa: PLC0415

    vectors = cache or _default_cache()
    roles, labels_root = Roles(query_role, target_role), root or (labels.parent if labels else Path())
    with analysis_errors(), embedder_errors(resumes=True):
        served = _with_regions(_served_models(wanted_models, embedder, tokens), regions)
        pictures = read_folder(folder, max(one.model.limits.max_image_bytes for one in served))
        ids, uris = [item.id for item in pictures.items], [item.uri for item in pictures.items]
        task = labelled_task(ids, uris, file, labels_root, roles, sample, seed, outside=False)
        wanted = needed_positions(task, len(pictures.items))
        runs = []
        for one in served:
            note(f"{one.name}: {len(wanted):,} images")
            with show_progress(len(wanted)) as bar:
                runs.append(run_model(one, pictures, wanted, vectors, bar.reach, note_waiting))
        comparison = measure(runs, pictures, task, wanted_metrics, sorted_cutoffs(cutoffs), vectors, seed, match)
        if as_json:
            print(json_text(comparison_report.as_json(comparison, str(folder))))
        else:
            _show(comparison, str(folder))
        if output is not None:
            write_page(output, comparison_report.page(comparison, str(folder)))


def _with_regions(served: Sequence["ServedModel"], regions: int | None) -> Sequence["ServedModel"]:
    """Return the models with this many regions. A model that cannot embed regions ends the command."""
    if regions is None:
        return served
    unable = [one.name for one in served if not one.model.region_fingerprint]
    if unable:
        raise typer.BadParameter(
            f"{', '.join(unable)} cannot embed regions; name models such as vgg16-max-native", param_hint="--models"
        )
    return [replace(one, max_regions=regions) for one in served]


def _parse_metrics(text: str) -> list[Metric]:
    """Return the metrics of --metrics, in their order."""
    names = [name.strip().lower() for name in text.split(",")]
    known = [metric.value for metric in Metric]
    if not set(names) <= set(known) or len(set(names)) < len(names):
        raise typer.BadParameter(
            f"{text!r} must be some of {','.join(known)}, separated by commas, each once", param_hint="--metrics"
        )
    return [Metric(name) for name in names]


def _parse_models(text: str, embedder: str) -> list[tuple[str, str]]:
    """Return each model of --models with the address of its embedder, or an empty list for all models."""
    if not text:
        return []
    found = []
    for part in text.split(","):
        name, at, address = (piece.strip() for piece in part.partition("@"))
        if not name or (at and not address) or (name, address or embedder) in found:
            raise typer.BadParameter(
                f"{text!r} must be NAME or NAME@HOST:PORT, separated by commas, each once", param_hint="--models"
            )
        found.append((name, address or embedder))
    return found


def _read_tokens(texts: Sequence[str] | None, others: AbstractSet[str]) -> Mapping[str, str]:
    """Return the token of each embedder in `others` by address; "" without a token."""
    found = dict.fromkeys(others, "")
    for text in texts or ():
        address, equals_sign, name = text.partition("=")
        if not equals_sign or address not in others:
            raise typer.BadParameter(
                f"{text!r} must be HOST:PORT=FILE, with the address of an embedder in --models",
                param_hint="--token-file",
            )
        try:
            found[address] = Path(name).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            raise typer.BadParameter(f"{name} cannot be read: {error}", param_hint="--token-file") from None
    return found


def _served_models(wanted: list[tuple[str, str]], embedder: str, tokens: Mapping[str, str]) -> list["ServedModel"]:
    """Return the wanted models as their embedders serve them. A model that is not served ends the command."""
    from imagesearch_analysis.evaluation.comparison import ServedModel, with_unique_names  # noqa: PLC0415 - NumPy is slow
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
                "Add the model to its setting EMBEDDER_MODELS",
                param_hint="--models",
            ) from None
        if (model.name, address) in chosen:
            raise typer.BadParameter(f"{name!r} is {model.name}, which is named twice", param_hint="--models")
        chosen[model.name, address] = ServedModel(model, endpoint)
    return with_unique_names(list(chosen.values()))


def _show(comparison: "Comparison", folder: str) -> None:
    """Print the figures, the recommendation, and what the figures leave out."""
    from imagesearch_analysis.evaluation import comparison_report  # noqa: PLC0415 - matplotlib is slow
    from imagesearch_analysis.evaluation.recommendation import recommendation  # noqa: PLC0415 - as above

    for name, value in comparison_report.facts(comparison, folder).items():
        show(f"{name}: {value}")
    titles, rows = comparison_report.columns_of(comparison), comparison_report.rows_of(comparison)
    print_table([Column(title, [row[rank] for row in rows], rank) for rank, title in enumerate(titles)])
    show(recommendation(comparison))
    for text in comparison_report.notes(comparison):
        note(text)
    print_left_out(comparison_report.left_out_of(comparison))


def _default_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagesearch" / "vectors"
