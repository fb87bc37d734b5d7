"""The way to the service, as the environment and --target say, and what is told where it fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.text import Text

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import ServiceError
from imagesearch_cli.output import err
from imagesearch_client import Client
from imagesearch_client.environment import TOKEN, tls_from_environment

CALL_SECONDS = 30.0
EMBEDDER_HINT = "Is the embedder up? --embedder names it"
# What helps at a terminal, by the reason of an error.
HINTS = {
    "UNAVAILABLE": "Is the search service up at {target}? `make up` starts one; --target names another.",
    "UNIMPLEMENTED": "Is that a search service at {target}? --target names another.",
    "COLLECTION_NOT_FOUND": "`imagesearch collections list` shows those there are; `imagesearch ingest` makes one.",
    "EMBEDDER_UNAVAILABLE": "The search service answers, and its embedder does not: is it up?",
    "EMBEDDER_AWAY": f"{EMBEDDER_HINT}, and --via search has the search service call its own.",
}


@contextmanager
def calling(target: str, timeout: float = CALL_SECONDS) -> Iterator[Client]:
    """A client, whose calls may take `timeout` seconds each; a wrong setting of TLS ends the command."""
    try:
        client = Client(target, timeout=timeout, tls=tls_from_environment(), token=os.environ.get(TOKEN, ""))
    except CredentialsError as error:
        err.print(f"[bold red]error[/] {error}")
        raise typer.Exit(1) from None
    with client:
        yield client


@contextmanager
def connected(target: str, code: int = 1) -> Iterator[Client]:
    """A client; an error of the service ends the command with its message and an exit code."""
    with calling(target) as client:
        try:
            yield client
        except ServiceError as error:
            err.print(f"[bold red]error[/] {error.reason}: ", end="")
            err.print(error.message, markup=False, highlight=False)
            if hint := HINTS.get(error.reason):
                err.print(Text(hint.format(target=target)))
            raise typer.Exit(code) from None
        except UnicodeEncodeError as error:
            # gRPC sends UTF-8 alone. Other encodings are those of what is printed.
            if error.encoding != "utf-8":
                raise
            raise typer.BadParameter(f"{error.object!r:.80} is not UTF-8, and ids, names and texts must be") from None
