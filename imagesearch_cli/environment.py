"""The environment variables of the command, and checks of their names and values."""

import os
from collections.abc import Mapping

import typer

from grpc_kit.environment import unknown_variables
from imagesearch_cli.console import WRONG_USAGE, note
from imagesearch_client.environment import (
    CA,
    CERTIFICATE,
    EMBEDDER,
    EMBEDDER_TOKEN,
    KEY,
    TARGET,
    TLS,
    TOKEN,
    tls_problems,
)

PREFIX = "IMAGESEARCH_"
COLLECTION = f"{PREFIX}COLLECTION"
VARIABLES = frozenset({TARGET, EMBEDDER, TLS, CA, CERTIFICATE, KEY, TOKEN, EMBEDDER_TOKEN, COLLECTION})
# deploy/compose.yaml reads these: a shell that starts the containers may have them set for the command too.
OF_COMPOSE = frozenset(f"{PREFIX}{name}" for name in ("PORT", "VERSION", "REVISION", "EMBEDDER_CPUS"))


def problems(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each problem of the command's variables."""
    others = {name: value for name, value in environment.items() if name not in OF_COMPOSE}
    return unknown_variables(PREFIX, VARIABLES, others) + tls_problems(environment)


def check_environment() -> None:
    """End the command with a list of all problems of its variables, if there are any."""
    if found := problems(os.environ):
        note("\n".join(["imagesearch: wrong settings:", *(f"  {problem}" for problem in found)]))
        raise typer.Exit(WRONG_USAGE)
