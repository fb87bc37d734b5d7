"""`make demo`: the main job on real photographs.

Both services are started on free ports of this machine, photographs are put into a collection, and pictures are looked
for: edited copies of the photographs, whose originals should come first.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.table import Table

from demo.local_stack import LocalStack, StartError, local_stack, stop_on_signals
from demo.photographs import EDITS, MAX_STEM, write_edited_copies, write_photographs
from imagesearch_client import Client, Hit, Metric, ServiceError
from imagesearch_client.bulk.accounts import Account
from imagesearch_client.bulk.destinations import Route
from imagesearch_client.bulk.jobs import Files, ensure_collection, load
from imagesearch_client.bulk.load import LoadOptions
from imagesearch_client.bulk.progress import show
from imagesearch_client.bulk.services import Endpoint
from imagesearch_client.plot import plot_hits
from imagesearch_client.sources.folders import Folder
from imagesearch_client.sources.items import Item

COLLECTION = "demo"
RESULTS = Path(__file__).parent / "results.png"
# Of a folder of the user's own, so many photographs are edited and looked for, and so many rows are drawn.
MAX_QUERIES = 20
ROWS = 5
HITS = 5

console = Console(width=100)


def main() -> None:
    """Runs the demonstration; exits with 1 and a message where a step fails."""
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder of your own, searched for images in all its folders")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the picture to write (default: %(default)s)")
    options = parser.parse_args()
    if options.images and not options.images.is_dir():
        parser.error(f"--images: {options.images} is no folder")
    begin = time.monotonic()
    stop_on_signals()
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
    """Starts, ingests, searches, shows."""
    originals, copies = folder / "originals", folder / "copies"
    originals.mkdir()
    copies.mkdir()
    if images is None:
        paths = write_photographs(originals)
        say(f"1/4 {len(paths)} photographs, from the scikit-image package")
        queried = paths
    else:
        originals = images
        paths = [images / item.id for item in Folder(images, by_content=False) if isinstance(item, Item)]
        if not paths:
            sys.exit(f"demo: no image files below {images}")
        say(f"1/4 {len(paths)} images, from {images}")
        queried = sample_readable(paths)
    copies_of = {original: write_edited_copies(original, copies) for original in queried}
    queries = {copy: original for original, edited in copies_of.items() for copy in edited}
    say("2/4 starting the embedder (TensorFlow, VGG16) and the search service (Milvus Lite)")
    with local_stack(folder) as stack, Client(stack.search, timeout=60) as client:
        say(f"    embedder {stack.embedder}, search service {stack.search}: both serve")
        say("3/4 ingesting: every image is embedded and stored")
        account = ingest(client, stack, originals)
        say(f"    {account.stored} of {account.met} stored, {account.images_per_second:.1f} images/s")
        for reject in account.first_rejects:
            say(f"    not stored: {reject.where}: {reject.message}")
        say(f"4/4 searching: {len(queries)} edited copies ({', '.join(EDITS)}); which image do they come from?")
        found = {query: client.search_by_image(COLLECTION, query.read_bytes(), limit=HITS) for query in queries}
    right = print_table(queries, found, originals)
    # A few of the originals, each with another kind of edit.
    shown = queried[:: max(1, len(queried) // ROWS)][:ROWS]
    rows = [copies_of[original][n % len(EDITS)] for n, original in enumerate(shown)]
    plot_hits([(row, found[row]) for row in rows], results, Metric.COSINE)
    say(f"picture of {len(rows)} queries: {results}")
    say(f"{right} of {len(queries)} edited copies found their original first ({right / len(queries):.0%})")


def ingest(client: Client, stack: LocalStack, folder: Path) -> Account:
    """Does what `imagesearch ingest FOLDER` does."""
    account = Account()
    route = Route(Endpoint(stack.search), Endpoint(stack.embedder), streams=2, patience=60)
    with show(account, console):
        collection = ensure_collection(client, COLLECTION)
        # There is no second run: the ledger is kept in memory.
        files = Files(ledger=None)
        load(client, collection, [Folder(folder, by_content=False)], route, files, LoadOptions(), account)
    if account.stopped:
        sys.exit(f"demo: the images could not all be stored: {account.stopped}")
    return account


def sample_readable(paths: Sequence[Path]) -> list[Path]:
    """Some of the images, those that Pillow can read."""
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
    # Copies are named after their originals, so that names must differ.
    return list({path.stem[:MAX_STEM]: path for path in chosen}.values())


def print_table(queries: dict[Path, Path], found: dict[Path, list[Hit]], originals: Path) -> int:
    """Prints a line a query; gives how many found their original first."""
    table = Table("query", "score", "first", "score", "second", "")
    right = 0
    for query, original in queries.items():
        hits = found[query]
        is_right = bool(hits) and hits[0].image.id == original.relative_to(originals).as_posix()
        right += is_right
        cells = [cell for hit in hits[:2] for cell in (f"{hit.score:.3f}", hit.image.id)]
        table.add_row(query.stem, *cells, *[""] * (4 - len(cells)), "[green]right" if is_right else "[red]wrong")
    console.print(table)
    return right


def say(text: str) -> None:
    """One line of what is going on."""
    console.print(text, markup=False, highlight=False)


if __name__ == "__main__":
    main()
