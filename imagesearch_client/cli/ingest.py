"""`imagesearch ingest`."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from imagesearch_client.cli.connection import connected
from imagesearch_client.cli.options import DEFAULT_COLLECTION, AsJson, CollectionName, Target
from imagesearch_client.cli.output import SHOWN_REJECTS, err, out
from imagesearch_client.client import DEFAULT_TARGET
from imagesearch_client.ingest import SUFFIXES, find_images, ingest_folder, show_progress


def ingest(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Searched for images in all its folders.")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    target: Target = DEFAULT_TARGET,
    as_json: AsJson = False,
) -> None:
    """Put the images of a folder into a collection, which is made where there is none.

    An image's id is its path below the folder, so that doing it again replaces and never doubles: an image that is
    written again has no attributes. Exit code 1 when any image failed; the others are stored all the same.
    """
    if not find_images(folder):
        err.print(Text(f"no image files below {folder}; their names end in {', '.join(sorted(SUFFIXES))}"))
        raise typer.Exit(1)
    with connected(target) as client, show_progress(err) as progress:
        report = ingest_folder(client, collection, folder, progress)
    if as_json:
        print(json.dumps(report.as_json()))
    else:
        out.print(
            f"{report.stored} of {report.seen} images stored in {collection}, {report.images_per_second:.1f} images/s"
        )
        for reason, count in sorted(report.reasons().items()):
            err.print(f"  {count} x {reason}", highlight=False)
        for reject in report.rejects[:SHOWN_REJECTS]:
            err.print(f"  {reject.path}: {reject.message}", markup=False, highlight=False)
        if len(report.rejects) > SHOWN_REJECTS:
            err.print(f"  ... and {len(report.rejects) - SHOWN_REJECTS} more; --json lists all")
        if report.stopped:
            err.print("stopped early: ", end="", style="bold red")
            err.print(report.stopped, markup=False, highlight=False)
    if report.rejects or report.stopped:
        raise typer.Exit(1)
