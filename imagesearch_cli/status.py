"""`imagesearch status`."""

import typer

from imagesearch_cli.collections import counted_collections, print_collections
from imagesearch_cli.connection import connected
from imagesearch_cli.console import FAILED, show
from imagesearch_cli.options import AsJson, Target
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text


def status(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show whether the search service is ready, and its collections."""
    with connected(target) as client:
        serving = client.is_serving()
        found = counted_collections(client)
    if as_json:
        rows = [{"name": collection.name, "images": count} for collection, count in found]
        print(json_text({"target": target, "serving": serving, "collections": rows}))
    else:
        show(f"{target}: {'serving' if serving else 'not serving'}")
        print_collections(found)
    if not serving:
        raise typer.Exit(FAILED)
