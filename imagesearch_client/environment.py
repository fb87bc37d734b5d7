"""The environment variables of the clients."""

import os
from collections.abc import Mapping
from pathlib import Path

from grpc_kit.credentials import ClientTls
from grpc_kit.environment import read_switch

TARGET, EMBEDDER = "IMAGESEARCH_TARGET", "IMAGESEARCH_EMBEDDER"
TLS, CA, CERTIFICATE, KEY = "IMAGESEARCH_TLS", "IMAGESEARCH_CA", "IMAGESEARCH_CERTIFICATE", "IMAGESEARCH_KEY"
TOKEN, EMBEDDER_TOKEN = "IMAGESEARCH_TOKEN", "IMAGESEARCH_EMBEDDER_TOKEN"


def tls_problems(environment: Mapping[str, str]) -> list[str]:
    """Return a line for each problem of the variables for TLS."""
    found = []
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


def tls_from_environment() -> ClientTls | None:
    """Return the files for TLS, or None for plain text. `tls_problems` finds variables that contradict each other."""
    authority, certificate, key = (
        Path(value) if (value := os.environ.get(name)) else None for name in (CA, CERTIFICATE, KEY)
    )
    wanted = read_switch(os.environ.get(TLS) or "false")
    return ClientTls(authority, certificate, key) if wanted or authority or certificate or key else None
