"""The command as a whole: what it is made of, and how it ends."""

import os
import sys
from typing import NoReturn

import typer

from imagesearch_client.cli.aliases import aliases_app
from imagesearch_client.cli.collections import collections_app
from imagesearch_client.cli.images import images_app
from imagesearch_client.cli.ingest import ingest
from imagesearch_client.cli.reindex import reindex
from imagesearch_client.cli.search import search
from imagesearch_client.cli.status import status
from imagesearch_client.cli.transfer import export, import_file

app = typer.Typer(
    name="imagesearch",
    help="Find the images that look like an image. Talks to the search service, by default on this machine.",
    epilog="Over TLS: IMAGESEARCH_TLS=true, or IMAGESEARCH_CA with the file of your authority; IMAGESEARCH_CERTIFICATE "
    "and IMAGESEARCH_KEY for a service that asks for yours, IMAGESEARCH_TOKEN for one that wants a token.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
# The order in which --help lists them; groups come after all else.
app.command()(status)
app.command()(reindex)
app.command()(ingest)
app.command()(search)
app.command()(export)
app.command("import")(import_file)
app.add_typer(collections_app, name="collections")
app.add_typer(aliases_app, name="aliases")
app.add_typer(images_app, name="images")


def main() -> None:
    """Runs the command."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_quietly()
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            end_quietly()
        raise


def end_quietly() -> NoReturn:
    """Ends well: the reader of a pipe, such as `head`, has seen enough."""
    # What is still to be written at the end of the process goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)
