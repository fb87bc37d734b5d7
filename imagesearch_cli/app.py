"""The `imagesearch` command: its subcommands, and how it ends."""

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
from imagesearch_cli.console import print_error
from imagesearch_cli.duplicates import duplicates
from imagesearch_cli.environment import check_environment
from imagesearch_cli.evaluate import evaluate
from imagesearch_cli.images import images_app
from imagesearch_cli.ingest import ingest
from imagesearch_cli.map import draw_map
from imagesearch_cli.neighbors import neighbors
from imagesearch_cli.plot import plot
from imagesearch_cli.regions import regions
from imagesearch_cli.reindex import reindex
from imagesearch_cli.search import search
from imagesearch_cli.status import status
from imagesearch_cli.train import train_autoencoder
from imagesearch_cli.transfer import export, import_file
from imagesearch_cli.typer_app import App
from imagesearch_ingest.extras import how_to_install

EPILOG = """
Environment variables set defaults for options: IMAGESEARCH_TARGET (--target), IMAGESEARCH_EMBEDDER (--embedder) and
IMAGESEARCH_COLLECTION (--collection). For TLS, set IMAGESEARCH_TLS=true, or IMAGESEARCH_CA to the certificate file of
your authority. IMAGESEARCH_CERTIFICATE and IMAGESEARCH_KEY are files for a service that asks for a client certificate.
IMAGESEARCH_TOKEN is the token of the search service, IMAGESEARCH_EMBEDDER_TOKEN that of the embedder.

Exit codes of all commands: 0 success; 1 an error, or part of the work failed; 2 wrong usage; 3 stopped before the end,
and the same command resumes; 130 interrupted by Ctrl-C.
"""

app = App(
    name="imagesearch",
    help="Find images that look alike. The command calls the search service, by default on this machine.",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
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
    if not {"-h", "--help"} & set(sys.argv):
        check_environment()


# The order in which --help lists them; groups come after all else.
DATA, ANALYSIS, MODELS, GROUPS = "Images", "Analysis", "Models", "Resources"
app.command(rich_help_panel=DATA)(status)
app.command(rich_help_panel=DATA)(ingest)
app.command(rich_help_panel=DATA)(search)
app.command(rich_help_panel=DATA)(export)
app.command("import", rich_help_panel=DATA)(import_file)
app.command(rich_help_panel=DATA)(reindex)
app.command(rich_help_panel=ANALYSIS)(neighbors)
app.command(rich_help_panel=ANALYSIS)(duplicates)
app.command("map", rich_help_panel=ANALYSIS)(draw_map)
app.command(rich_help_panel=ANALYSIS)(cluster)
app.command(rich_help_panel=ANALYSIS)(plot)
app.command(rich_help_panel=ANALYSIS)(regions)
app.command(rich_help_panel=MODELS)(evaluate)
app.command(rich_help_panel=MODELS)(compare)
app.command(rich_help_panel=MODELS)(train_autoencoder)
app.add_typer(collections_app, name="collections", rich_help_panel=GROUPS)
app.add_typer(aliases_app, name="aliases", rich_help_panel=GROUPS)
app.add_typer(images_app, name="images", rich_help_panel=GROUPS)
app.add_typer(codes_app, name="codes", rich_help_panel=GROUPS)

# Packages that the extra `analysis` installs.
ANALYSIS_PACKAGES = ("jinja2", "scipy", "sklearn")


def main() -> None:
    """Run the command."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _end_quietly()
    except ModuleNotFoundError as missing:
        if missing.name is None or missing.name.partition(".")[0] not in ANALYSIS_PACKAGES:
            raise
        print_error(how_to_install(missing.name, "cli,analysis"))
        sys.exit(1)
    except SystemExit as end:
        if isinstance(end.__context__, BrokenPipeError):
            _end_quietly()
        raise


def _end_quietly() -> NoReturn:
    """End with success: the reader of a pipe, such as `head`, needs no more output."""
    # Python writes the rest of its buffers at the end of the process.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
    sys.exit(0)
