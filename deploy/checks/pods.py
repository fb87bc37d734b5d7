"""Whether pods are probed, stopped and held as they should be."""

import re
from collections.abc import Iterator
from typing import Any

from deploy.checks.manifests import (
    WORKLOADS,
    Object,
    component,
    container_of_each,
    containers,
    environment,
    of_kind,
    pod,
    ports,
    title,
)

# Seconds that a stop may take beside the drain: gRPC's flush, and Python's end.
STOP_SLACK = 5
UNITS = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def problems(objects: list[Object]) -> Iterator[str]:
    """Everything that is not, in words."""
    for check in (probes_ask_right, resources_fit, stops_in_time, restricted, images_are_pinned):
        yield from check(objects)


def probes_ask_right(objects: list[Object]) -> Iterator[str]:
    """Every service is probed for start, readiness and liveness: over TLS by a command, else by gRPC."""
    for workload in of_kind(objects, "Deployment"):
        (part,) = pod(workload)["containers"]
        values, port = environment(objects, part), ports(workload).get("grpc")
        over_tls = f"{component(workload).upper()}_TLS_CERTIFICATE" in values
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = part.get(name, {})
            if "grpc" in probe and not over_tls:
                asks, wanted = probe["grpc"]["port"] == port, probe["grpc"].get("service", "")
            else:
                command = probe.get("exec", {}).get("command", [])
                options = dict(part.split("=") for part in command if part.startswith("--"))
                # The certificates have the Services' names, and one of them that of the workload.
                known_as = options.get("--server-name") == workload["metadata"]["name"]
                asks = over_tls and f"127.0.0.1:{port}" in command and "--ca" in options and known_as
                wanted = options.get("--service", "")
            if not asks:
                yield f"{title(workload)}: its {name} does not reach the server"
            elif wanted != ("liveness" if name == "livenessProbe" else ""):
                yield f"{title(workload)}: its {name} asks for {wanted or 'the server as a whole'}"


def resources_fit(objects: list[Object]) -> Iterator[str]:
    """Every container asks for processors and memory, and has limits on both, not below what it asks for."""
    for workload, part in container_of_each(objects):
        for resource in ("cpu", "memory"):
            asked = part.get("resources", {}).get("requests", {}).get(resource)
            limit = part.get("resources", {}).get("limits", {}).get(resource)
            if asked is None or limit is None:
                yield f"{title(workload)}: {part['name']} has no request or no limit of {resource}"
            elif quantity(asked) > quantity(limit):
                yield f"{title(workload)}: {part['name']} asks for {asked} of {resource} and may have {limit}"


def quantity(text: str | float) -> float:
    """A quantity of Kubernetes as a number: "500m" is 0.5, "1Gi" is 2 to the 30."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text} is no quantity")
    return float(found[1]) * UNITS[found[2]]


def stops_in_time(objects: list[Object]) -> Iterator[str]:
    """A pod leaves DNS, then drains, and then is killed; a new one serves before an old one goes."""
    for workload in of_kind(objects, "Deployment"):
        (part,) = pod(workload)["containers"]
        waits = part.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drains = float(environment(objects, part).get(f"{component(workload).upper()}_DRAIN_SECONDS", 20))
        allowed = pod(workload).get("terminationGracePeriodSeconds", 30)
        if waits < STOP_SLACK:
            yield f"{title(workload)}: preStop should wait until DNS has forgotten the pod"
        if allowed < waits + drains + STOP_SLACK:
            yield f"{title(workload)}: it is killed after {allowed} s, and stops for {waits} + {drains:g} s"
        strategy = workload["spec"].get("strategy", {})
        if strategy.get("type") != "Recreate" and strategy.get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{title(workload)}: a rolling update should take no pod away before a new one serves"


def restricted(objects: list[Object]) -> Iterator[str]:
    """Kubernetes' Pod Security Standard "restricted", and a root file system that is only read."""
    for workload in of_kind(objects, *WORKLOADS):
        wrong = {problem for problem, is_so in _of_pods(pod(workload)).items() if is_so}
        for part in containers(workload):
            wrong |= {problem for problem, is_so in _of_containers(part.get("securityContext", {})).items() if is_so}
        yield from (f"{title(workload)}: {problem}" for problem in sorted(wrong))


def _of_pods(spec: Object) -> dict[str, bool]:
    context: dict[str, Any] = spec.get("securityContext", {})
    return {
        "it may run as root": not context.get("runAsNonRoot") or not context.get("runAsUser"),
        "no seccomp profile": context.get("seccompProfile", {}).get("type") != "RuntimeDefault",
        "a namespace of the host": any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
        "a folder of the host": any("hostPath" in volume for volume in spec.get("volumes", [])),
        "a token of the API server": spec.get("automountServiceAccountToken", True),
        "variables of Services among the settings": spec.get("enableServiceLinks", True),
    }


def _of_containers(context: Object) -> dict[str, bool]:
    capabilities = context.get("capabilities", {})
    return {
        "privileges to be gained": context.get("allowPrivilegeEscalation", True) or context.get("privileged", False),
        "a root file system that can be written": not context.get("readOnlyRootFilesystem"),
        "capabilities": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
        "it may run as root": context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False,
    }


def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    """Images have a tag that says which."""
    for workload, part in container_of_each(objects):
        tag = part["image"].rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"}:
            yield f"{title(workload)}: the image {part['image']} may be another one tomorrow"
