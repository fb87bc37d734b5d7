"""`imagesearch reindex`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from grpc_kit.errors import ServiceError
from imagesearch_client.cli.bars import show_progress
from imagesearch_client.cli.connection import connected
from imagesearch_client.cli.options import (
    AsJson,
    CandidatesOption,
    ClustersOption,
    EdgesOption,
    IndexOption,
    Target,
    index_parameters_of,
)
from imagesearch_client.cli.output import SHOWN_REJECTS, err, out
from imagesearch_client.client import DEFAULT_TARGET
from imagesearch_client.json_text import json_text
from imagesearch_client.reindex import Change, Reindexing, check_aliases, make_new
from imagesearch_client.types import Metric


def reindex(
    source: Annotated[str, typer.Argument(help="The collection, or an alias of it, which is moved then.")],
    new: Annotated[str, typer.Argument(help="The collection to make.")],
    target: Target = DEFAULT_TARGET,
    index: IndexOption = None,
    m: EdgesOption = None,
    ef_construction: CandidatesOption = None,
    nlist: ClustersOption = None,
    metric: Annotated[Metric | None, typer.Option(help="How vectors are compared.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Another model of the embedder: every image's file is read and embedded anew.")
    ] = None,
    root: Annotated[Path, typer.Option(help="Where relative uris begin, to find the files for --model.")] = Path(),
    alias: Annotated[list[str] | None, typer.Option(help="An alias to point at the new collection.")] = None,
    keep_alias: Annotated[bool, typer.Option("--keep-alias", help="Leave SOURCE where it points.")] = False,
    skip_failed: Annotated[
        bool, typer.Option("--skip-failed", help="Go on without the images that could not be written.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a collection anew beside the old one, with another index, metric or model, and move the alias to it.

    Vectors, attributes and all else is copied; only another model reads the images' files again. What is written to the
    old collection meanwhile is carried over. The alias moves when every image was copied. The old collection stays
    until you remove it.
    """
    change = Change(model, index, index_parameters_of(m, ef_construction, nlist), metric)
    with connected(target) as client, show_progress(err) as progress:
        old = client.get_collection(source)
        aliases = [*(alias or []), *([] if keep_alias or old.name == source else [source])]
        check_aliases(client, aliases)
        made = make_new(client, old, new, change)
        progress.start(client.count(old.name))
        reindexing = Reindexing(client, old, made, root, progress.step)
        reindexing.copy()
        report = reindexing.report
        good = report.complete or (skip_failed and not report.differences)
        if good:
            try:
                reindexing.move(aliases)
            except ServiceError:
                for name in report.moved:
                    err.print(f"{name} -> {new}; what was written to {report.source} at last is not copied")
                raise
            good = skip_failed or not report.failed
    if as_json:
        print(json_text(report.as_json()))
    else:
        how = "embedded anew" if report.embedded_anew else "vectors copied"
        out.print(f"{report.collection}: {report.count} images of {report.source_count} in {report.source}; {how}")
        for name in report.moved:
            out.print(f"{name} -> {report.collection}", highlight=False)
    for result in report.failed[:SHOWN_REJECTS]:
        err.print(Text(f"{result.id}: {result.error}"), style="red")
    if len(report.failed) > SHOWN_REJECTS:
        err.print(f"and {len(report.failed) - SHOWN_REJECTS} more; --json lists all")
    if not good and not report.moved:
        err.print(f"no alias was moved; {report.source} is as it was, and `collections delete {new}` removes the copy")
    if not good:
        raise typer.Exit(1)
