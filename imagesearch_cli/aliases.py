"""`imagesearch aliases`."""

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.options import AsJson, Target
from imagesearch_cli.output import out
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text

aliases_app = typer.Typer(help="Point second names at collections.", no_args_is_help=True)


@aliases_app.command("list")
def list_aliases(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the aliases and what they point at."""
    with connected(target) as client:
        aliases = client.list_aliases()
    if as_json:
        print(json_text(aliases))
    else:
        for alias, collection in aliases.items():
            out.print(f"{alias} -> {collection}", highlight=False)


@aliases_app.command("set")
def set_alias(alias: str, collection: str, target: Target = DEFAULT_TARGET) -> None:
    """Point an alias at a collection; who searches sees the one or the other."""
    with connected(target) as client:
        previous = client.set_alias(alias, collection)
    out.print(f"{alias} -> {collection}" + (f" (was {previous})" if previous else ""), highlight=False)


@aliases_app.command("delete")
def delete_alias(alias: str, target: Target = DEFAULT_TARGET) -> None:
    """Remove an alias, never its collection."""
    with connected(target) as client:
        client.delete_alias(alias)
    out.print(f"removed {alias}", highlight=False)
