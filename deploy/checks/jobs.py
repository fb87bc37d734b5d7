"""Check that jobs use the `imagesearch` command correctly."""

from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from deploy.checks.manifests import Object, containers, of_kind, pod, title
from imagesearch_cli import environment
from imagesearch_cli.app import app

VARIABLES = environment.VARIABLES | {"XDG_STATE_HOME"}


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield each wrong argument of a job, and each reason why it could not be repeated."""
    for job in of_kind(objects, "Job"):
        (part,) = containers(job)
        name, *arguments = part["args"]
        command = _commands().get(name)
        if command is None:
            yield f"{title(job)}: there is no command imagesearch {name}"
            continue
        try:
            command.make_context(name, list(arguments))
        except TyperException as error:
            yield f"{title(job)}: imagesearch {name}: {error}"
        mounts = {mount["mountPath"] for mount in part["volumeMounts"] if not mount.get("readOnly")}
        ledger = next((value.partition("=")[2] for value in arguments if value.startswith("--ledger=")), "")
        if ledger.rpartition("/")[0] not in mounts:
            yield f"{title(job)}: the ledger must be on a writable volume"
        if pod(job)["restartPolicy"] != "Never" or job["spec"].get("parallelism", 1) != 1:
            yield f"{title(job)}: only one pod at a time may use the ledger"
        for rule in job["spec"].get("podFailurePolicy", {}).get("rules", []):
            if rule.get("onExitCodes", {}).get("containerName", part["name"]) != part["name"]:
                yield f"{title(job)}: podFailurePolicy names another container"


def _commands() -> dict[str, Any]:
    group = typer.main.get_command(app)
    if not isinstance(group, TyperGroup):
        raise TypeError("imagesearch must have subcommands")
    return dict(group.commands)
