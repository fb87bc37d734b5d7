"""The environment variables of the command, and checks of their names and values."""

import os
from collections.abc import Mapping
from pathlib import Path

import typer

from grpc_kit.credentials import ClientTls
from grpc_kit.environment import read_switch, unknown_variables
from imagesearch_cli.output import err

PREFIX = "IMAGESEARCH_"
TLS, CA, CERTIFICATE, KEY = (f"{PREFIX}{name}" for name in ("TLS", "CA", "CERTIFICATE", "KEY"))
TOKEN, EMBEDDER_TOKEN = f"{PREFIX}TOKEN", f"{PREFIX}EMBEDDER_TOKEN"
VARIABLES = frozenset(
    {
        TLS,
        CA,
        CERTIFICATE,
        KEY,
        TOKEN,
        EMBEDDER_TOKEN,
        *(f"{PREFIX}{name}" for name in ("TARGET", "EMBEDDER", "COLLECTION")),
    }
)
# deploy/compose.yaml reads these: a shell that starts the containers may have them set for the command too.
OF_COMPOSE = frozenset(f"{PREFIX}{name}" for name in ("PORT", "VERSION", "REVISION", "EMBEDDER_CPUS"))


def problems(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each problem of the command's variables."""
    others = {name: value for name, value in environment.items() if name not in OF_COMPOSE}
    found = unknown_variables(PREFIX, VARIABLES, others)
    wanted = None
    if switch := environment.get(TLS):
        try:
            wanted = read_switch(switch)
        except ValueError as error:
            found.append(f"{TLS}={switch!r}: {error}")
    files = [name for name in (CA, CERTIFICATE, KEY) if environment.get(name)]
    if bool(environment.get(CERTIFICATE)) != bool(environment.get(KEY)):
        found.append(f"{CERTIFICATE} and {KEY} are set together or not at all")
    if wanted is False and files:
        found.append(f"{TLS}={switch!r} turns off TLS, and {files[0]} is for TLS: unset one of them")
    return found


def check_environment() -> None:
    """End the command with a list of all problems of its variables, if there are any."""
    if found := problems(os.environ):
        lines = "\n".join(f"  {problem}" for problem in found)
        err.print(f"imagesearch: wrong settings:\n{lines}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2)


def tls_from_environment() -> ClientTls | None:
    """How the services are called over TLS; None is plain text."""
    authority, certificate, key = (
        Path(value) if (value := os.environ.get(name)) else None for name in (CA, CERTIFICATE, KEY)
    )
    wanted = read_switch(os.environ.get(TLS) or "false")
    return ClientTls(authority, certificate, key) if wanted or authority or certificate or key else None
