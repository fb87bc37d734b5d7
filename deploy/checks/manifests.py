"""Kubernetes objects as kustomize builds them, and ways to find one's way among them."""

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
"""One object of the Kubernetes API, as YAML has it."""

WORKLOADS = ("Deployment", "Job")


def builds() -> dict[str, list[Object]]:
    """What is shipped: each overlay and job, and production with every component; by name."""
    names = [path.parent for path in sorted(K8S.glob("overlays/*/kustomization.yaml"))]
    names += [path.parent for path in sorted(K8S.glob("jobs/*/kustomization.yaml"))]
    found = {str(path.relative_to(K8S)): build(path) for path in names}
    return {**found, "production with all components": build_with_components(K8S / "overlays" / "production")}


def build(folder: Path) -> list[Object]:
    """The objects that `kubectl kustomize` gives. Raises ProblemError."""
    return [item for item in yaml.safe_load_all(run(installed("kubectl"), "kustomize", folder)) if item]


def build_with_components(overlay: Path) -> list[Object]:
    """An overlay with the components that stand in its list as comments, as a user would take them in.

    Raises ProblemError.
    """
    with tempfile.TemporaryDirectory() as folder:
        k8s = Path(folder).resolve() / "k8s"
        shutil.copytree(K8S, k8s)
        copy = k8s / overlay.relative_to(K8S) / "kustomization.yaml"
        copy.write_text(re.sub(r"^  # (- \.\./\.\./components/)", r"  \1", copy.read_text(), flags=re.MULTILINE))
        return build(copy.parent)


def of_kind(objects: list[Object], *kinds: str) -> list[Object]:
    """The objects of some kinds."""
    return [item for item in objects if item["kind"] in kinds]


def named(objects: list[Object], kind: str, name: str) -> Object | None:
    """The object of this kind and name."""
    return next((item for item in of_kind(objects, kind) if item["metadata"]["name"] == name), None)


def title(item: Object) -> str:
    """How an object is called in messages: Kind/name."""
    return f"{item['kind']}/{item['metadata']['name']}"


def template(workload: Object) -> Object:
    """A workload's template of pods."""
    found: Object = workload["spec"]["template"]
    return found


def pod(workload: Object) -> Object:
    """The specification of a workload's pods."""
    found: Object = template(workload)["spec"]
    return found


def labels(workload: Object) -> dict[str, str]:
    """The labels of a workload's pods."""
    return dict(template(workload)["metadata"].get("labels", {}))


def component(workload: Object) -> str:
    """Which part of imagesearch a workload is."""
    return labels(workload).get("app.kubernetes.io/component", "")


def containers(workload: Object) -> list[Object]:
    """All containers of a workload, those that run first too."""
    return [*pod(workload).get("initContainers", []), *pod(workload)["containers"]]


def container_of_each(objects: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Each workload with each of its containers."""
    for workload in of_kind(objects, *WORKLOADS):
        yield from ((workload, part) for part in containers(workload))


def ports(workload: Object) -> dict[str, int]:
    """The named ports of a workload's containers."""
    return {port["name"]: port["containerPort"] for part in containers(workload) for port in part.get("ports", [])}


def selected(objects: list[Object], selector: dict[str, str]) -> list[Object]:
    """The workloads whose pods have all these labels."""
    return [item for item in of_kind(objects, *WORKLOADS) if selector.items() <= labels(item).items()]


def environment(objects: list[Object], container: Object) -> dict[str, str]:
    """The variables that a container gets, but for those of Secrets. Kubernetes' order: `env` stands over `envFrom`."""
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        config = named(objects, "ConfigMap", source.get("configMapRef", {}).get("name", ""))
        found |= config["data"] if config else {}
    return found | {item["name"]: item["value"] for item in container.get("env", []) if "value" in item}


def secret_references(workload: Object) -> Iterator[tuple[str, bool]]:
    """The Secrets that a workload needs: name, and whether it starts without."""
    for part in containers(workload):
        for source in part.get("envFrom", []):
            if "secretRef" in source:
                yield source["secretRef"]["name"], source["secretRef"].get("optional", False)
    for volume in pod(workload).get("volumes", []):
        if "secret" in volume:
            yield volume["secret"]["secretName"], volume["secret"].get("optional", False)
