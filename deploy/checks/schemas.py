"""Check objects against schemas: those of Kubernetes, and published models of custom resources."""

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
from cloudcoil.models.cert_manager.v1 import Certificate, Issuer
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor
from pydantic import BaseModel, ValidationError

from deploy.checks.manifests import Object, title

# The oldest supported release, one between, and the newest.
VERSIONS = ("1.33", "1.35", "1.37")
MODELS: dict[str, type[BaseModel]] = {
    "cert-manager.io/v1/Certificate": Certificate,
    "cert-manager.io/v1/Issuer": Issuer,
    "keda.sh/v1alpha1/ScaledObject": ScaledObject,
    "monitoring.coreos.com/v1/PrometheusRule": PrometheusRule,
    "monitoring.coreos.com/v1/ServiceMonitor": ServiceMonitor,
}
# No package has the schemas of the Gateway API; this one has the fields that the manifests use.
GRPC_ROUTE = Path(__file__).with_name("grpcroute.schema.json")


def problems(objects: list[Object], versions: tuple[str, ...] = VERSIONS) -> Iterator[str]:
    """Yield each problem of each object."""
    for item in objects:
        kind = f"{item.get('apiVersion')}/{item.get('kind')}"
        if kind in MODELS:
            yield from (f"{title(item)}: {problem}" for problem in _by_model(item, MODELS[kind]))
        elif kind == "gateway.networking.k8s.io/v1/GRPCRoute":
            yield from (f"{title(item)}: {problem}" for problem in _by_schema(item))
        else:
            yield from (f"{title(item)}: {problem}" for problem in _by_kubernetes(item, versions))


def _by_kubernetes(item: Object, versions: tuple[str, ...]) -> Iterator[str]:
    for version in versions:
        try:
            kubernetes_validate.validate(item, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.path)
            yield f"Kubernetes {version}: {path}: {error.message[:300]}"
        except kubernetes_validate.SchemaNotFoundError as error:
            # Kubernetes removed the apiVersion, or never had it.
            yield f"Kubernetes {version}: {error.message}"


def _by_model(item: Object, model: type[BaseModel]) -> Iterator[str]:
    try:
        read = model.model_validate(item)
    except ValidationError as error:
        yield from (f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in error.errors())
        return
    # The models ignore unknown fields, and so does the API server.
    known = read.model_dump(mode="json", by_alias=True, exclude_unset=True)
    yield from (f"{path}: unknown field" for path in _missing(item, known, ""))


def _missing(given: Any, known: Any, path: str) -> Iterator[str]:
    """Yield the paths of fields that `given` has and `known` has not."""
    if isinstance(given, dict) and isinstance(known, dict):
        for key, value in given.items():
            if key not in known:
                yield f"{path}.{key}".lstrip(".")
            else:
                yield from _missing(value, known[key], f"{path}.{key}")
    elif isinstance(given, list) and isinstance(known, list):
        for number, (one, other) in enumerate(zip(given, known, strict=False)):
            yield from _missing(one, other, f"{path}[{number}]")


def _by_schema(item: Object) -> Iterator[str]:
    for error in _grpc_route().iter_errors(item):
        yield f"{'.'.join(map(str, error.path))}: {error.message}"


@cache
def _grpc_route() -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(json.loads(GRPC_ROUTE.read_text()))
