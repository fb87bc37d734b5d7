"""Check that deploy/compose.yaml fits the services' settings and gives containers only the rights they need."""

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
# Seconds that a stop may take after the drain.
STOP_SLACK = 5


def problems() -> Iterator[str]:
    """Yield each problem."""
    services: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    for name, service in services.items():
        found = [*_any_service(service), *_dependencies(service, services)]
        if service["image"].startswith("imagesearch/"):
            found += _own_service(service)
        yield from (f"{name}: {problem}" for problem in found)
    try:
        run(prometheus_tool("promtool"), "check", "config", SCRAPING)
    except ProblemError as error:
        yield str(error)


def _any_service(service: dict[str, Any]) -> Iterator[str]:
    if not service.get("profiles"):
        yield "it has no profile, so every profile would start it"
    if "mem_limit" not in service or "cpus" not in service:
        yield "it has no limit of memory or CPUs"
    if not re.search(r":(?!latest$)[^:/]+$", service["image"]):
        yield f"the image {service['image']} must have a tag other than latest"
    for port in service.get("ports", []):
        if not str(port).startswith("127.0.0.1:"):
            yield f"its port {port} must be bound to 127.0.0.1"


def _dependencies(service: dict[str, Any], services: dict[str, dict[str, Any]]) -> Iterator[str]:
    for other in service.get("depends_on", {}):
        if not set(service["profiles"]) <= set(services.get(other, {}).get("profiles", [])):
            yield f"it depends on {other}, which lacks some of its profiles"


def _own_service(service: dict[str, Any]) -> Iterator[str]:
    hardened = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges"], "user": "65532:65532"}
    yield from (f"{key} must be {value}" for key, value in hardened.items() if service.get(key) != value)
    component = service["image"].partition("/")[2].partition(":")[0]
    values: dict[str, str] = service.get("environment", {})
    settings = SETTINGS.get(component)
    known = variables(settings) if settings else jobs.VARIABLES
    yield from (f"no program reads {name}" for name in values.keys() - known)
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
        yield f"stop_grace_period must be at least {drains + STOP_SLACK:g}s, because it drains for {drains:g} s"
