"""`imagesearch regions`."""

import os
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import ServiceError
from imagesearch_analysis.region_layout import label_of_box
from imagesearch_cli.connection import EMBEDDER_HINT
from imagesearch_cli.console import fail, note
from imagesearch_cli.hits import shown_box
from imagesearch_cli.option_values import parse_region
from imagesearch_cli.options import DEFAULT_REGIONS, AsJson, Embedder, Force, output_option
from imagesearch_cli.snapshots import analysis_errors, check_file
from imagesearch_cli.tables import Column, print_table
from imagesearch_client import DEFAULT_EMBEDDER, EmbedderClient
from imagesearch_client.defaults import MAX_REGIONS
from imagesearch_client.environment import EMBEDDER_TOKEN, tls_from_environment
from imagesearch_client.types import ImageRegions, Region, RegionEmbedding
from imagesearch_ingest.json_text import json_text

SUFFIXES = (".png", ".jpg", ".pdf", ".svg")


def regions(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", exists=True, dir_okay=False, help="Image file.")],
    output: Annotated[Path | None, output_option("Picture to write: .png, .jpg, .pdf or .svg.")] = None,
    max_regions: Annotated[
        int, typer.Option("--max-regions", min=0, max=MAX_REGIONS, metavar="N", help="Maximum number of regions.")
    ] = DEFAULT_REGIONS,
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Model with the input native and the head avg, max or gem, such as vgg16-max-native. "
            "[default: the embedder's first model]",
        ),
    ] = "",
    box: Annotated[
        list[str] | None,
        typer.Option("--box", metavar="X0,Y0,X1,Y1", help="Also embed this box, in fractions. May be repeated."),
    ] = None,
    embedder: Embedder = DEFAULT_EMBEDDER,
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Show the regions of an image that the embedder proposes.

    A collection with regions stores these regions. The salient box is the part that `search --auto-crop` uses.

    Example: imagesearch regions room.jpg --model vgg16-max-native -o boxes.png
    """
    boxes = [given for text in box or () if (given := parse_region(text, "--box")) is not None]
    check_file(output, SUFFIXES, "--output", force=force, inputs=[image])
    found = _embed(embedder, image, max_regions, boxes, model)
    if output is not None:
        # matplotlib takes a while to import.
        from imagesearch_analysis.region_plot import plot_regions  # noqa: PLC0415

        with analysis_errors():
            plot_regions(image, found, output)
    if as_json:
        print(json_text(_regions_json(found)))
    else:
        _print_regions(found)
    if output is not None:
        note(f"wrote {output}")


def _embed(address: str, image: Path, max_regions: int, boxes: list[Region], model: str) -> ImageRegions:
    try:
        with EmbedderClient(address, tls=tls_from_environment(), token=os.environ.get(EMBEDDER_TOKEN, "")) as client:
            return client.embed_regions(image, max_regions=max_regions, boxes=boxes, model=model)
    except CredentialsError as error:
        fail(str(error))
    except ServiceError as error:
        fail(f"{error.reason}: {error.message}", EMBEDDER_HINT if error.reason == "UNAVAILABLE" else "")


def _print_regions(found: ImageRegions) -> None:
    """Print a table of the regions, with the labels of the picture."""
    names = [str(number + 1) for number in range(len(found.proposals))]
    names += [f"{label_of_box(number)} given" for number in range(len(found.boxes))] + ["S salient"]
    all_boxes = [*(region.box for region in (*found.proposals, *found.boxes)), found.salient_box]
    saliencies = [f"{region.saliency:.3f}" for region in found.proposals] + [""] * (len(found.boxes) + 1)
    print_table(
        [
            Column("region", names, 0),
            Column("box", [shown_box(each) for each in all_boxes], 1),
            Column("saliency", saliencies, 2, is_number=True),
        ]
    )


def _regions_json(found: ImageRegions) -> dict[str, object]:
    return {
        "fingerprint": found.embedding.fingerprint,
        "proposals": [_region_json(region) for region in found.proposals],
        "boxes": [_region_json(region) for region in found.boxes],
        "salient_box": astuple(found.salient_box),
    }


def _region_json(region: RegionEmbedding) -> dict[str, object]:
    return {"box": astuple(region.box), "saliency": region.saliency}
