"""Runs a client with right and wrong credentials and during an outage, and reports its faults."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from demo.photographs import write_photographs
from examples.languages import Client
from examples.stack import Stack
from examples.transcripts import faults_of_outage, faults_of_run, has_error

# The first photograph is the query.
PHOTOS = ("retina", "rocket", "moon")
# Larger than gRPC's default buffer for retries.
LARGE_SIDE, LARGE_BYTES = 2000, 1_100_000
# Number of attempts in the service config of each client.
ATTEMPTS = 4
CLIENT_SECONDS = 120


def write_photos(folder: Path) -> None:
    """Write the photographs; the query is a large file. Raises ValueError if it is not large enough."""
    write_photographs(folder)
    query = folder / f"{PHOTOS[0]}.jpg"
    with Image.open(query) as photo:
        large = photo.resize((LARGE_SIDE, LARGE_SIDE))
    large.save(query, quality=100, subsampling=0)
    if query.stat().st_size < LARGE_BYTES:
        raise ValueError(f"{query} has {query.stat().st_size} bytes; it must have {LARGE_BYTES} or more")


class Runs:
    """Runs one client against a stack."""

    def __init__(self, client: Client, stack: Stack, photos: Path) -> None:
        """Prepare the runs. `photos` is the folder of the photographs."""
        self._client = client
        self._stack = stack
        self._files = [str(photos / f"{name}.jpg") for name in PHOTOS]

    def _run(self, **changes: str) -> tuple[int, str]:
        environment = {
            "LC_ALL": "C.UTF-8",
            "no_proxy": "localhost",
            "IMAGESEARCH_EMBEDDER": self._stack.embedder,
            "IMAGESEARCH_TARGET": self._stack.search,
            "IMAGESEARCH_CA": str(self._stack.authority),
            "IMAGESEARCH_TOKEN": self._stack.token,
        }
        done = subprocess.run(
            [*self._client.command, *self._files],
            env={**os.environ, **self._client.environment, **environment, **changes},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
        return done.returncode, done.stdout

    def faults(self) -> Iterator[str]:
        """Run the client with the right token, a wrong token and another authority. Yield its faults."""
        code, printed = self._run()
        print(printed, end="", flush=True)
        yield from faults_of_run(printed, PHOTOS)
        if code:
            yield f"exit code {code}"

        code, printed = self._run(IMAGESEARCH_TOKEN="wrong")  # noqa: S106 - not one
        if code != 1 or not has_error(printed, "failed", "UNAUTHENTICATED", "TOKEN_INVALID"):
            yield f"not true: a wrong token is refused\n{printed}"

        code, printed = self._run(IMAGESEARCH_CA=str(self._stack.stranger))
        if code != 1 or "SERVING" in printed or not has_error(printed, "failed", "UNAVAILABLE"):
            yield f"not true: the client refuses a server of another authority\n{printed}"

    def faults_of_outage(self) -> Iterator[str]:
        """Run the client while the search service cannot reach the embedder. Yield its faults."""
        before = self._stack.refused_searches()
        code, printed = self._run()
        attempts = self._stack.refused_searches() - before
        for fault in faults_of_outage(printed, PHOTOS):
            yield f"{fault}\n{printed}"
        if (code, attempts) != (1, ATTEMPTS):
            yield f"exit code {code} after {attempts} searches; they must be 1 and {ATTEMPTS}\n{printed}"


def faults_of_reflection(stack: Stack) -> Iterator[str]:
    """List both servers' services by both versions of reflection. Yield the faults."""
    buf = [str(Path(sys.executable).parent / "buf"), "curl", "--protocol", "grpc", "--cacert", str(stack.authority)]
    token = ["--reflect-header", f"authorization: Bearer {stack.token}"]
    for address, service in ((stack.embedder, "EmbedderService"), (stack.search, "SearchService")):
        for version in ("grpc-v1", "grpc-v1alpha"):
            command = [*buf, *token, "--reflect-protocol", version, "--list-services", f"https://{address}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if f".{service}\n" not in done.stdout:
                yield f"not true: {version} lists {service}\n{done.stdout}{done.stderr}"
