"""The command as a whole: what it is made of, and how it ends."""

import os
import sys
from importlib.metadata import version
from typing import Annotated, NoReturn

import typer

from imagesearch_cli.aliases import aliases_app
from imagesearch_cli.cluster import cluster
from imagesearch_cli.codes import codes_app
from imagesearch_cli.collections import collections_app
from imagesearch_cli.compare import compare
from imagesearch_cli.duplicates import duplicates
from imagesearch_cli.environment import check_environment
from imagesearch_cli.evaluate import evaluate
from imagesearch_cli.images import images_app
from imagesearch_cli.ingest import ingest
from imagesearch_cli.map import draw_map
from imagesearch_cli.neighbors import neighbors
from imagesearch_cli.plot import plot
from imagesearch_cli.reindex import reindex
from imagesearch_cli.search import search
from imagesearch_cli.status import status
from imagesearch_cli.train import train_autoencoder
from imagesearch_cli.transfer import export, import_file
from imagesearch_ingest.extras import how_to_install

app = typer.Typer(
    name="imagesearch",
    help="Find the images that look like an image. Talks to the search service, by default on this machine.",
    epilog="IMAGESEARCH_TARGET and IMAGESEARCH_EMBEDDER say where the services are, where options do not, and "
    "IMAGESEARCH_COLLECTION says which collection. Over TLS: IMAGESEARCH_TLS=true, or IMAGESEARCH_CA with the file of "
    "your authority; IMAGESEARCH_CERTIFICATE and IMAGESEARCH_KEY for a service that asks for yours, IMAGESEARCH_TOKEN "
    "for a search service that wants a token, IMAGESEARCH_EMBEDDER_TOKEN for the embedder of --embedder.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"imagesearch {version('imagesearch')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    # The context does not have a command's own arguments yet.
    if "--help" not in sys.argv:
        check_environment()


# The order in which --help lists them; groups come after all else.
app.command()(status)
app.command()(reindex)
app.command()(ingest)
app.command()(search)
app.command()(export)
app.command("import")(import_file)
app.command()(evaluate)
app.command()(compare)
app.command()(neighbors)
app.command()(duplicates)
app.command("map")(draw_map)
app.command()(cluster)
app.command()(plot)
app.command()(train_autoencoder)
app.add_typer(collections_app, name="collections")
app.add_typer(aliases_app, name="aliases")
app.add_typer(images_app, name="images")
app.add_typer(codes_app, name="codes")


# What the extra `analysis` brings.
ANALYSIS = ("jinja2", "scipy", "sklearn")


def main() -> None:
    """Runs the command."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        end_quietly()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in ANALYSIS:
            raise
        sys.exit(f"imagesearch: {how_to_install(missing.name, 'cli,analysis')}")
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            end_quietly()
        raise


def end_quietly() -> NoReturn:
    """Ends well: the reader of a pipe, such as `head`, has seen enough."""
    # What is still to be written at the end of the process goes nowhere.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)
