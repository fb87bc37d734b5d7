"""Connections to the services, and hints at what to do when a call fails."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from grpc_kit.credentials import CredentialsError
from grpc_kit.errors import ServiceError
from imagesearch_cli.console import FAILED, fail
from imagesearch_client import Client
from imagesearch_client.environment import TOKEN, tls_from_environment

CALL_SECONDS = 30.0
EMBEDDER_HINT = "Is the embedder running? --embedder sets its address."
# Hints at what to do about an error, by the error's reason.
HINTS = {
    "UNAVAILABLE": "Is the search service running at {target}? `make up` starts one; --target sets its address.",
    "UNIMPLEMENTED": "Is {target} a search service? --target sets its address.",
    "COLLECTION_NOT_FOUND": "`imagesearch collections list` lists the collections; `imagesearch ingest` creates one.",
    "EMBEDDER_UNAVAILABLE": "The search service is running, but it cannot reach its embedder.",
    "EMBEDDER_AWAY": f"{EMBEDDER_HINT} With --via search, the search service calls the embedder.",
}


@contextmanager
def calling(target: str, timeout: float = CALL_SECONDS) -> Iterator[Client]:
    """Return a client with a deadline of `timeout` seconds for each call. A wrong TLS setting ends the command."""
    try:
        client = Client(target, timeout=timeout, tls=tls_from_environment(), token=os.environ.get(TOKEN, ""))
    except CredentialsError as error:
        fail(str(error))
    with client:
        yield client


@contextmanager
def connected(target: str, code: int = FAILED) -> Iterator[Client]:
    """Return a client. If a call fails, end the command with the error's message and the exit code `code`."""
    with calling(target) as client:
        try:
            yield client
        except ServiceError as error:
            fail(f"{error.reason}: {error.message}", HINTS.get(error.reason, "").format(target=target), code)
        except UnicodeEncodeError as error:
            # gRPC sends only UTF-8. An error of another encoding comes from the terminal.
            if error.encoding != "utf-8":
                raise
            raise typer.BadParameter(f"{error.object!r:.80} is not UTF-8; ids, names and texts must be UTF-8") from None
