"""`imagesearch aliases`: second names of collections."""

from typing import Annotated

import typer

from imagesearch_cli.connection import connected
from imagesearch_cli.console import show
from imagesearch_cli.options import DEFAULT_COLLECTION, AsJson, CollectionName, Target
from imagesearch_cli.typer_app import App
from imagesearch_client import DEFAULT_TARGET
from imagesearch_ingest.json_text import json_text

aliases_app = App(help="Manage aliases: second names of collections.", no_args_is_help=True)
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="Name of the alias.")]


@aliases_app.command("list")
def list_aliases(target: Target = DEFAULT_TARGET, as_json: AsJson = False) -> None:
    """List the aliases and their collections."""
    with connected(target) as client:
        aliases = client.list_aliases()
    if as_json:
        print(json_text(aliases))
    else:
        for alias, collection in aliases.items():
            show(f"{alias} -> {collection}")


@aliases_app.command("set")
def set_alias(alias: Alias, collection: CollectionName = DEFAULT_COLLECTION, target: Target = DEFAULT_TARGET) -> None:
    """Create an alias, or move it to another collection in one step.

    Example: imagesearch aliases set shop -c shop_2
    """
    with connected(target) as client:
        previous = client.set_alias(alias, collection)
    show(f"{alias} -> {collection}" + (f" (was {previous})" if previous else ""))


@aliases_app.command("delete")
def delete_alias(alias: Alias, target: Target = DEFAULT_TARGET) -> None:
    """Delete an alias; its collection stays."""
    with connected(target) as client:
        client.delete_alias(alias)
    show(f"deleted {alias}")
