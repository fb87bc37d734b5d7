"""`imagesearch map`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from imagesearch_analysis.choices import MapMethod
from imagesearch_cli.options import OpenOption, Target, Where
from imagesearch_cli.output import err
from imagesearch_cli.snapshots import (
    CollectionArgument,
    Force,
    SnapshotFolder,
    check_attribute,
    check_file,
    progress,
    snapshot_of,
)
from imagesearch_client import DEFAULT_TARGET


def draw_map(
    collection: CollectionArgument,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="A picture (.png, .pdf, .svg), or a page to move about in (.html)."),
    ],
    method: Annotated[MapMethod, typer.Option(help="How; umap needs the package umap-learn.")] = MapMethod.TSNE,
    limit: Annotated[int, typer.Option(min=3, help="The most images; of more so many are drawn at random.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Of what is random: the same one gives the same map.")] = 0,
    color_by: Annotated[str, typer.Option(help="Colour images by this attribute, with a legend.")] = "",
    where: Where = None,
    snapshot: SnapshotFolder = None,
    opens: OpenOption = None,
    force: Force = False,
    target: Target = DEFAULT_TARGET,
) -> None:
    """Draw a collection as a map on which images that are alike are near each other.

    t-SNE keeps neighbours together; what is far apart on the map says little, and neither do its axes. The page holds
    all it shows: wheel and drag move about, the pointer on a picture shows it with its id, the legend hides what is
    unticked.

    Example: imagesearch map images -o map.png

    Example: imagesearch map products -o map.html --color-by category --limit 2000
    """
    check_file(output, (".png", ".pdf", ".svg", ".html"), "--output", force=force)
    check_attribute(color_by, "--color-by")
    # They bring numpy and others, which take a while to import.
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
        with progress(len(positions)) as bar:
            write(output, drawn, bar.reach)
    err.print(Text(f"wrote {output}, {title}"), soft_wrap=True)
