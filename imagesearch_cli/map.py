"""`imagesearch map`."""

from pathlib import Path
from typing import Annotated

import typer

from imagesearch_analysis.choices import MapMethod
from imagesearch_cli.console import err, note
from imagesearch_cli.option_values import check_attribute_name
from imagesearch_cli.options import (
    DEFAULT_COLLECTION,
    CollectionName,
    Force,
    OpenOption,
    SnapshotFolder,
    Target,
    Where,
    limit_option,
    output_option,
    seed_option,
)
from imagesearch_cli.progress import show_progress
from imagesearch_cli.snapshots import check_file, snapshot_of
from imagesearch_client import DEFAULT_TARGET


def draw_map(
    output: Annotated[
        Path, output_option("File to write: an image (.png, .pdf, .svg) or an interactive page (.html).")
    ],
    collection: CollectionName = DEFAULT_COLLECTION,
    method: Annotated[
        MapMethod, typer.Option(help="How images are placed. umap needs the package umap-learn.")
    ] = MapMethod.TSNE,
    limit: Annotated[
        int, limit_option("Maximum number of images to draw; larger collections are sampled at random.", least=3)
    ] = 5000,
    seed: Annotated[int, seed_option("Seed of the random parts. The same seed draws the same map.")] = 0,
    color_by: Annotated[
        str, typer.Option(metavar="NAME", help="Color the images by this attribute, with a legend.")
    ] = "",
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Draw a collection as a map: images that look alike are close to each other.

    t-SNE keeps neighbors together. Large distances and the axes mean little.

    The page needs no other file. Zoom with the wheel and drag to move; point at an image to see it with its id; clear
    an entry of the legend to hide its images.

    Example: imagesearch map -c images -o map.png

    Example: imagesearch map -c products -o map.html --color-by category --limit 2000
    """
    check_file(output, (".png", ".pdf", ".svg", ".html"), "--output", force=force)
    check_attribute_name(color_by, "--color-by")
    # NumPy and others take a while to import.
    from imagesearch_analysis import map_files  # noqa: PLC0415
    from imagesearch_analysis.errors import AnalysisError  # noqa: PLC0415
    from imagesearch_analysis.projection import project  # noqa: PLC0415
    from imagesearch_analysis.vectors import sample_positions  # noqa: PLC0415

    with snapshot_of(target, collection, where, snapshot, opens=opens) as found:
        positions = sample_positions(len(found), limit, seed)
        values = [found.attribute_values(color_by)[position] for position in positions] if color_by else []
        if color_by and not any(value is not None for value in values):
            known = sorted({name for position in positions for name in found.image(position).attributes})
            raise AnalysisError(
                f"no image has the attribute {color_by!r}; the attributes are {', '.join(known) or 'none'}"
            )
        with err.status("placing the images"):
            points = project(found.at(positions), method, seed)
        of_all = f" of {len(found)}" if len(positions) < len(found) else ""
        title = f"{found.collection}: {len(positions)}{of_all} images by {method.label}"
        images = [found.image(position) for position in positions]
        drawn = map_files.Map(title, images, points, map_files.palette_of(values) if color_by else None, color_by)
        write = map_files.write_map_page if output.suffix.lower() == ".html" else map_files.draw_map
        with show_progress(len(positions)) as bar:
            write(output, drawn, bar.reach)
    note(f"wrote {output}, {title}")
