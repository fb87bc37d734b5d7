"""Check the probes, the shutdown, the resources and the rights of pods."""

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

# Seconds that a stop may take after the drain, for gRPC's flush and Python's exit.
STOP_SLACK = 5
UNITS = {"m": 1e-3, "": 1.0, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield each problem."""
    for check in (probes_fit, resources_fit, stops_in_time, restricted, images_are_pinned):
        yield from check(objects)


def probes_fit(objects: list[Object]) -> Iterator[str]:
    """Check the startup, readiness and liveness probes: by gRPC, or by a command if the server has TLS."""
    for workload in of_kind(objects, "Deployment"):
        (part,) = pod(workload)["containers"]
        values, port = environment(objects, part), ports(workload).get("grpc")
        over_tls = f"{component(workload).upper()}_TLS_CERTIFICATE" in values
        for name in ("startupProbe", "readinessProbe", "livenessProbe"):
            probe = part.get(name, {})
            if "grpc" in probe and not over_tls:
                reaches, service = probe["grpc"]["port"] == port, probe["grpc"].get("service", "")
            else:
                command = probe.get("exec", {}).get("command", [])
                options = dict(part.split("=") for part in command if part.startswith("--"))
                # The certificate has the names of the Services, one of which is the name of the workload.
                name_fits = options.get("--server-name") == workload["metadata"]["name"]
                reaches = over_tls and f"127.0.0.1:{port}" in command and "--ca" in options and name_fits
                service = options.get("--service", "")
            if not reaches:
                yield f"{title(workload)}: its {name} does not reach the server"
            elif service != ("liveness" if name == "livenessProbe" else ""):
                yield f"{title(workload)}: its {name} checks {service or 'the server as a whole'}"


def resources_fit(objects: list[Object]) -> Iterator[str]:
    """Check that every container has requests and limits of CPU and memory, with request <= limit."""
    for workload, part in container_of_each(objects):
        for resource in ("cpu", "memory"):
            request = part.get("resources", {}).get("requests", {}).get(resource)
            limit = part.get("resources", {}).get("limits", {}).get(resource)
            if request is None or limit is None:
                yield f"{title(workload)}: {part['name']} has no request or no limit of {resource}"
            elif quantity(request) > quantity(limit):
                yield f"{title(workload)}: {part['name']} requests {request} of {resource}; the limit is {limit}"


def quantity(text: str | float) -> float:
    """Return a Kubernetes quantity as a number: "500m" is 0.5, "1Gi" is 2 to the 30."""
    found = re.fullmatch(r"([0-9.]+)([a-zA-Z]*)", str(text))
    if found is None or found[2] not in UNITS:
        raise ValueError(f"{text} is not a Kubernetes quantity, such as 500m or 1Gi")
    return float(found[1]) * UNITS[found[2]]


def stops_in_time(objects: list[Object]) -> Iterator[str]:
    """Check that a pod has time to leave DNS and to drain, and that updates keep the number of serving pods."""
    for workload in of_kind(objects, "Deployment"):
        (part,) = pod(workload)["containers"]
        waits = part.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drains = float(environment(objects, part).get(f"{component(workload).upper()}_DRAIN_SECONDS", 20))
        allowed = pod(workload).get("terminationGracePeriodSeconds", 30)
        if waits < STOP_SLACK:
            yield f"{title(workload)}: preStop must wait at least {STOP_SLACK} s, until DNS no longer lists the pod"
        if allowed < waits + drains + STOP_SLACK:
            yield f"{title(workload)}: Kubernetes kills it after {allowed} s; it stops within {waits} + {drains:g} s"
        strategy = workload["spec"].get("strategy", {})
        if strategy.get("type") != "Recreate" and strategy.get("rollingUpdate", {}).get("maxUnavailable") != 0:
            yield f"{title(workload)}: maxUnavailable of the rolling update must be 0"


def restricted(objects: list[Object]) -> Iterator[str]:
    """Check Kubernetes' Pod Security Standard "restricted", and a read-only root file system."""
    for workload in of_kind(objects, *WORKLOADS):
        found = {problem for problem, wrong in _pod_rights(pod(workload)).items() if wrong}
        for part in containers(workload):
            rights = _container_rights(part.get("securityContext", {}))
            found |= {problem for problem, wrong in rights.items() if wrong}
        yield from (f"{title(workload)}: {problem}" for problem in sorted(found))


def _pod_rights(spec: Object) -> dict[str, bool]:
    context: dict[str, Any] = spec.get("securityContext", {})
    return {
        "it may run as root": not context.get("runAsNonRoot") or not context.get("runAsUser"),
        "it has no seccomp profile": context.get("seccompProfile", {}).get("type") != "RuntimeDefault",
        "it uses a namespace of the host": any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC")),
        "it mounts a folder of the host": any("hostPath" in volume for volume in spec.get("volumes", [])),
        "it gets a token of the API server": spec.get("automountServiceAccountToken", True),
        "it gets variables of Services": spec.get("enableServiceLinks", True),
    }


def _container_rights(context: Object) -> dict[str, bool]:
    capabilities = context.get("capabilities", {})
    return {
        "it may gain privileges": context.get("allowPrivilegeEscalation", True) or context.get("privileged", False),
        "its root file system is writable": not context.get("readOnlyRootFilesystem"),
        "it has capabilities": capabilities.get("drop") != ["ALL"] or bool(capabilities.get("add")),
        "it may run as root": context.get("runAsUser") == 0 or context.get("runAsNonRoot") is False,
    }


def images_are_pinned(objects: list[Object]) -> Iterator[str]:
    """Check that every image has a tag other than latest."""
    for workload, part in container_of_each(objects):
        tag = part["image"].rpartition("/")[2].partition(":")[2]
        if tag in {"", "latest"}:
            yield f"{title(workload)}: the image {part['image']} must have a tag other than latest"
