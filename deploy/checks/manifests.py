"""Build Kubernetes objects with kustomize, and read their parts."""

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from deploy.checks.tools import ROOT, installed, run

K8S = ROOT / "deploy" / "k8s"
Object: TypeAlias = dict[str, Any]
"""An object of the Kubernetes API, as parsed YAML."""

WORKLOADS = ("Deployment", "Job")


def builds() -> dict[str, list[Object]]:
    """Return the objects of each overlay and job, and of production with all components, by name."""
    names = [path.parent for path in sorted(K8S.glob("overlays/*/kustomization.yaml"))]
    names += [path.parent for path in sorted(K8S.glob("jobs/*/kustomization.yaml"))]
    found = {str(path.relative_to(K8S)): build(path) for path in names}
    return {**found, "production with all components": build_with_components(K8S / "overlays" / "production")}


def build(folder: Path) -> list[Object]:
    """Return the objects that `kubectl kustomize` builds. Raise ProblemError if it fails."""
    return [item for item in yaml.safe_load_all(run(installed("kubectl"), "kustomize", folder)) if item]


def build_with_components(overlay: Path) -> list[Object]:
    """Build an overlay with the components that are commented out in it. Raise ProblemError if that fails."""
    with tempfile.TemporaryDirectory() as folder:
        k8s = Path(folder).resolve() / "k8s"
        shutil.copytree(K8S, k8s)
        copy = k8s / overlay.relative_to(K8S) / "kustomization.yaml"
        copy.write_text(re.sub(r"^  # (- \.\./\.\./components/)", r"  \1", copy.read_text(), flags=re.MULTILINE))
        return build(copy.parent)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """Return the objects of the given kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object | None:
    """Return the object with this kind and name, or None."""
    return next((item for item in of_kind(objects, kind) if item["metadata"]["name"] == name), None)


def title(item: Object) -> str:
    """Return Kind/name, for messages."""
    return f"{item['kind']}/{item['metadata']['name']}"


def template(workload: Object) -> Object:
    """Return the pod template of a workload."""
    found: Object = workload["spec"]["template"]
    return found


def pod(workload: Object) -> Object:
    """Return the pod specification of a workload."""
    found: Object = template(workload)["spec"]
    return found


def labels(workload: Object) -> dict[str, str]:
    """Return the labels of a workload's pods."""
    return dict(template(workload)["metadata"].get("labels", {}))


def component(workload: Object) -> str:
    """Return the component label of a workload's pods: embedder, search or ingest."""
    return labels(workload).get("app.kubernetes.io/component", "")


def containers(workload: Object) -> list[Object]:
    """Return all containers of a workload, including init containers."""
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def container_of_each(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Yield each workload with each of its containers."""
    for workload in of_kind(objects, *WORKLOADS):
        yield from ((workload, part) for part in containers(workload))


def ports(workload: Object) -> dict[str, int]:
    """Return the named ports of a workload's containers."""
    return {port["name"]: port["containerPort"] for part in containers(workload) for port in part.get("ports", [])}


def selected(objects: list[Object], selector: dict[str, str]) -> list[Object]:
    """Return the workloads whose pods have all these labels."""
    return [item for item in of_kind(objects, *WORKLOADS) if selector.items() <= labels(item).items()]


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """Return the variables of a container, without those from Secrets. `env` overrides `envFrom`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        config = named(objects, "ConfigMap", source.get("configMapRef", {}).get("name", ""))
        found |= config["data"] if config else {}
    return found | {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


def secret_references(workload: Object) -> Iterator[tuple[str, bool]]:
    """Yield the Secrets that a workload uses: the name, and whether it is optional."""
    for part in containers(workload):
        for source in part.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], source["secretRef"].get("optional", False)
    for volume in pod(workload).get("volumes", []):
        if "secret" in volume:
            yield volume["secret"]["secretName"], volume["secret"].get("optional", False)
