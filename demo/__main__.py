"""Load real photographs and search for them: `make demo`.

The demo starts both services on free ports, loads photographs into a collection, and searches with edited copies of
them. The first hit of each copy should be its original.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import track

from demo.local_stack import LocalStack, StartError, local_stack, stop_on_signals, stop_with
from demo.photographs import EDITS, MAX_STEM, write_edited_copies, write_photographs
from demo.results import Outcome, misses_of, table_of
from imagesearch_analysis.query_plot import QueryHits, plot_queries
from imagesearch_cli.progress import show_load
from imagesearch_client import Client, Metric, ServiceError
from imagesearch_ingest.load.bulk_clients import Endpoint
from imagesearch_ingest.load.job import LoadJob, load
from imagesearch_ingest.load.load_options import LoadOptions, LoadServices, LocalFiles
from imagesearch_ingest.load.planned_collection import ensure_collection
from imagesearch_ingest.load.report import LoadReport
from imagesearch_ingest.sources.folder_source import FolderSource
from imagesearch_ingest.sources.items import Item

COLLECTION = "demo"
RESULTS = Path(__file__).parent / "results.png"
# Maximum number of the user's photographs to search for, and number of rows in the picture.
MAX_QUERIES = 20
ROWS = 5
HITS = 5

console = Console()


def main() -> None:
    """Run the demo; exit with 1 and a message if a step fails."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--images", type=Path, help="folder with your own images; its subfolders are included")
    parser.add_argument("--results", type=Path, default=RESULTS, help="picture to write (default: %(default)s)")
    parser.add_argument("--parent", type=int, metavar="PID", help="stop when this process, the parent, ends (Linux)")
    options = parser.parse_args()
    if options.images and not options.images.is_dir():
        parser.error(f"--images: {options.images} is not a folder")
    begin = time.monotonic()
    stop_on_signals()
    if options.parent:
        stop_with(options.parent)
    with tempfile.TemporaryDirectory(prefix="imagesearch-demo-") as folder:
        try:
            run(Path(folder), options.images, options.results)
        except StartError as error:
            sys.exit(f"demo: a service did not start: {error}")
        except ServiceError as error:
            sys.exit(f"demo: a call failed: {error.reason}: {error.message}")
        except KeyboardInterrupt:
            sys.exit("demo: stopped")
    say(f"done in {time.monotonic() - begin:.0f} s; both services are stopped and their data is removed")


def run(folder: Path, images: Path | None, results: Path) -> None:
    """Start both services, load the images, search, and show the results."""
    originals, copies = folder / "originals", folder / "copies"
    originals.mkdir()
    copies.mkdir()
    if images is None:
        paths = write_photographs(originals)
        say(f"1/4 {len(paths)} photographs, from the scikit-image package")
        queried = paths
    else:
        originals = images
        paths = [images / item.id for item in FolderSource(images, by_content=False) if isinstance(item, Item)]
        if not paths:
            sys.exit(f"demo: no image files below {images}")
        say(f"1/4 {len(paths)} images, from {images}")
        queried = sample_readable(paths)
    copies_of = {original: write_edited_copies(original, copies) for original in queried}
    say("2/4 starting the embedder (VGG16 on TensorFlow) and the search service")
    with local_stack(folder, say) as stack, Client(stack.search, timeout=60) as client:
        say("3/4 storing the images")
        report = ingest(client, stack, originals)
        say(f"  {report.stored} of {report.listed} stored, {report.images_per_second:.1f} images/s")
        for reject in report.first_rejects:
            say(f"  not stored: {reject.where}: {reject.message}")
        say(f"4/4 searching with {len(EDITS)} edited copies of {len(queried)} images, for the originals")
        copied = [copy for edited in copies_of.values() for copy in edited]
        found = {
            copy: client.search_by_image(COLLECTION, copy.read_bytes(), limit=HITS)
            for copy in track(copied, "  searching", console=console, transient=True, disable=not console.is_terminal)
        }
    outcomes = [
        Outcome(original.relative_to(originals).as_posix(), edit, found[copy])
        for original, edited in copies_of.items()
        for edit, copy in zip(EDITS, edited, strict=True)
    ]
    show_outcomes(outcomes)
    # Some of the originals, each with a different edit.
    shown = queried[:: max(1, len(queried) // ROWS)][:ROWS]
    rows = [copies_of[original][n % len(EDITS)] for n, original in enumerate(shown)]
    plot_queries([QueryHits(row.name, str(row), found[row]) for row in rows], results, Metric.COSINE)
    say(f"picture of {len(rows)} queries: {os.path.relpath(results)}")


def ingest(client: Client, stack: LocalStack, folder: Path) -> LoadReport:
    """Load a folder like `imagesearch ingest FOLDER`."""
    report = LoadReport()
    services = LoadServices(Endpoint(stack.search), Endpoint(stack.embedder), streams=2)
    with show_load(report, console):
        collection = ensure_collection(client, COLLECTION)
        # There is no second run, so the ledger is in memory.
        files = LocalFiles(ledger=None)
        options = LoadOptions(retry_seconds=60)
        load(LoadJob(client, collection, [FolderSource(folder, by_content=False)], services, files, options, report))
    if report.stopped:
        sys.exit(f"demo: the images could not all be stored: {report.stopped}")
    return report


def sample_readable(paths: Sequence[Path]) -> list[Path]:
    """Return a sample of the images that Pillow can read."""
    chosen = []
    for path in random.Random(0).sample(list(paths), len(paths)):
        try:
            with Image.open(path) as image:
                image.load()
        except (OSError, ValueError, Image.DecompressionBombError):
            continue
        chosen.append(path)
        if len(chosen) == MAX_QUERIES:
            break
    if not chosen:
        sys.exit("demo: none of the images can be read")
    # Copies are named after their originals, so the names of originals must differ.
    return list({path.stem[:MAX_STEM]: path for path in chosen}.values())


def show_outcomes(outcomes: Sequence[Outcome]) -> None:
    """Print which originals were found."""
    console.print(table_of(outcomes))
    for miss in misses_of(outcomes):
        say(miss)
    right = sum(outcome.found for outcome in outcomes)
    say(f"{right} of {len(outcomes)} edited copies found their original first ({right / len(outcomes):.0%})")


def say(text: str) -> None:
    """Print a line of progress."""
    console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
