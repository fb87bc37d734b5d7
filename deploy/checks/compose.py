"""Whether deploy/compose.yaml fits the services' settings, and gives no container more than it needs."""

import os
import re
from collections.abc import Iterator
from typing import Any
from unittest import mock

import yaml
from pydantic import ValidationError

from deploy.checks import jobs
from deploy.checks.consistency import SETTINGS
from deploy.checks.tools import ROOT, ProblemError, prometheus_tool, run
from grpc_kit.server.settings import variables
from imagesearch_cli.environment import problems as command_problems

FILE = ROOT / "deploy" / "compose.yaml"
SCRAPING = ROOT / "deploy" / "compose.prometheus.yml"
# Seconds that a stop may take beside the drain.
STOP_SLACK = 5


def problems() -> Iterator[str]:
    """Everything that does not fit, in words."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    for name, service in services.items():
        found = [*_of_any(service), *_of_waiting(service, services)]
        if service["image"].startswith("imagesearch/"):
            found += _of_ours(service)
        yield from (f"{name}: {problem}" for problem in found)
    try:
        run(prometheus_tool("promtool"), "check", "config", SCRAPING)
    except ProblemError as error:
        yield str(error)


def _of_any(service: dict[str, Any]) -> Iterator[str]:
    if not service.get("profiles"):
        yield "it would be started with every profile"
    if "mem_limit" not in service or "cpus" not in service:
        yield "it has no limit of memory or of processors"
    if not re.search(r":(?!latest$)[^:/]+$", service["image"]):
        yield f"the image {service['image']} may be another one tomorrow"
    for port in service.get("ports", []):
        if not str(port).startswith("127.0.0.1:"):
            yield f"its port {port} would be open to everybody"


def _of_waiting(service: dict[str, Any], services: dict[str, dict[str, Any]]) -> Iterator[str]:
    for other in service.get("depends_on", {}):
        if not set(service["profiles"]) <= set(services.get(other, {}).get("profiles", [])):
            yield f"it waits for {other}, which is not started with each of its profiles"


def _of_ours(service: dict[str, Any]) -> Iterator[str]:
    hardened = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "user": "65532:65532"}
    yield from (f"it should have {key}: {value}" for key, value in hardened.items() if service.get(key) != value)
    component = service["image"].partition("/")[2].partition(":")[0]
    values: dict[str, str] = service.get("environment", {})
    settings = SETTINGS.get(component)
    known = variables(settings) if settings else jobs.VARIABLES
    yield from (f"nothing reads {name}" for name in values.keys() - known)
    if settings is None:
        yield from command_problems(values)
        return
    with mock.patch.dict(os.environ, values, clear=True):
        try:
            drains = settings().drain_seconds
        except ValidationError as error:
            yield str(error)
            return
    if int(str(service.get("stop_grace_period", "10s")).removesuffix("s")) < drains + STOP_SLACK:
        yield f"it is killed before it has drained for {drains:g} s"
