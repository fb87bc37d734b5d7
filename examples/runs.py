"""Runs a client in each way that matters, and says what is wrong."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from examples.languages import Client
from examples.stack import Stack
from examples.transcripts import faults_of_outage, faults_of_run, has_error

PHOTOS = ("coffee", "rocket", "moon")
# What the service config of each client says.
ATTEMPTS = 4
CLIENT_SECONDS = 120


def run(client: Client, photos: Path, **environment: str) -> tuple[int, str]:
    """Run a client once. Return its exit code, and what it printed."""
    files = [str(photos / f"{name}.jpg") for name in PHOTOS]
    done = subprocess.run(
        [*client.command, *files],
        env={**os.environ, "LC_ALL": "C.UTF-8", "no_proxy": "localhost", **client.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout


def faults_of(client: Client, stack: Stack, photos: Path) -> Iterator[str]:
    """Run a client against the stack in each way. Return what is wrong, each with what the client printed."""
    healthy = {
        "IMAGESEARCH_EMBEDDER": stack.embedder,
        "IMAGESEARCH_TARGET": stack.search,
        "IMAGESEARCH_CA": str(stack.authority),
        "IMAGESEARCH_TOKEN": stack.token,
    }
    code, printed = run(client, photos, **healthy)
    print(printed, end="", flush=True)
    for fault in [*faults_of_run(printed, PHOTOS), *([f"exit code {code}"] if code else [])]:
        yield fault  # the output is above

    before = stack.attempts_at_cut_off()
    code, printed = run(client, photos, **{**healthy, "IMAGESEARCH_TARGET": stack.cut_off})
    attempts = stack.attempts_at_cut_off() - before
    for fault in faults_of_outage(printed):
        yield f"{fault}\n{printed}"
    if (code, attempts) != (1, ATTEMPTS):
        yield f"exit code {code} after {attempts} attempts; they must be 1 and {ATTEMPTS}\n{printed}"

    code, printed = run(client, photos, **{**healthy, "IMAGESEARCH_TOKEN": "wrong"})
    if code != 1 or not has_error(printed, "failed", "UNAUTHENTICATED", "TOKEN_INVALID"):
        yield f"not true: a wrong token is refused\n{printed}"

    code, printed = run(client, photos, **{**healthy, "IMAGESEARCH_CA": str(stack.stranger)})
    if code != 1 or "SERVING" in printed or not has_error(printed, "failed", "UNAVAILABLE"):
        yield f"not true: the client refuses a server of another authority\n{printed}"


def faults_of_reflection(stack: Stack) -> Iterator[str]:
    """Ask both servers for their services by both versions of reflection. Return what is wrong."""
    buf = [str(Path(sys.executable).parent / "buf"), "curl", "--protocol", "grpc", "--cacert", str(stack.authority)]
    token = ["--reflect-header", f"authorization: Bearer {stack.token}"]
    for address, service in ((stack.embedder, "EmbedderService"), (stack.search, "SearchService")):
        for version in ("grpc-v1", "grpc-v1alpha"):
            command = [*buf, *token, "--reflect-protocol", version, "--list-services", f"https://{address}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if f".{service}\n" not in done.stdout:
                yield f"not true: {version} lists {service}\n{done.stdout}{done.stderr}"
