"""`imagesearch status`."""

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, Target
from imagesearch_cli.output import out, print_collections
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text


def status(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """Show whether the service answers, and what it holds."""
    with connected(target) as client:
        serving = client.is_serving()
        found = [(collection, client.count(collection.name)) for collection in client.list_collections()]
    if as_json:
        rows = [{"name": collection.name, "images": count} for collection, count in found]
        print(json_text({"target": target, "serving": serving, "collections": rows}))
    else:
        out.print(f"{target}: {'serving' if serving else 'not serving'}")
        print_collections(found)
    if not serving:
        raise typer.Exit(1)
