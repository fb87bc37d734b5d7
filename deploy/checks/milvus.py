"""Check that the search service's settings fit the values for Milvus' Helm chart."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from deploy.checks.tools import ROOT

FOLDER = ROOT / "deploy" / "milvus"
NAMESPACE, PORT = "milvus", 19530
# Components of Milvus, by their keys in the chart.
NODES = ("proxy", "mixCoordinator", "queryNode", "streamingNode", "dataNode")


def problems(settings: Mapping[str, str]) -> Iterator[str]:
    """Yield each problem of the search service's settings. `fullnameOverride` is the name of Milvus' Service."""
    values, with_tls = _values("values.yaml"), _values("values-tls.yaml")
    keys = {"MINIO_ACCESS_KEY_ID", "MINIO_SECRET_ACCESS_KEY"}
    for part in NODES:
        if not keys <= {variable["name"] for variable in values[part].get("extraEnv", [])}:
            yield f"deploy/milvus/values.yaml: {part} has no credentials of the bucket"
    yield from _tls_values(values, with_tls)
    uri = settings.get("SEARCH_MILVUS_URI", "")
    host = f"{values['fullnameOverride']}.{NAMESPACE}.svc:{values.get('service', {}).get('port', PORT)}"
    expected = f"{'https' if uri.startswith('https:') else 'http'}://{host}"
    if re.sub(r"\.svc\.cluster\.local", ".svc", uri) != expected:
        yield f"SEARCH_MILVUS_URI={uri}; with deploy/milvus it must be {expected}"
    if uri.startswith("https:") and "SEARCH_MILVUS_CA" not in settings:
        yield "SEARCH_MILVUS_CA is missing: public authorities sign no certificates for names in a cluster"


def _tls_values(values: dict[str, Any], with_tls: dict[str, Any]) -> Iterator[str]:
    """Yield each problem of values-tls.yaml. Its user.yaml replaces that of values.yaml as a whole."""
    plain, secure = (yaml.safe_load(found["extraConfigFiles"]["user.yaml"]) for found in (values, with_tls))
    if not plain["common"]["security"]["authorizationEnabled"]:
        yield "deploy/milvus/values.yaml: authorizationEnabled must be true"
    files = secure.pop("tls")
    if secure["common"]["security"].pop("tlsMode") not in {1, 2}:
        yield "deploy/milvus/values-tls.yaml: tlsMode must be 1 or 2"
    if secure != plain:
        yield "deploy/milvus/values-tls.yaml: user.yaml must have all of values.yaml, and TLS"
    mounts = {mount["mountPath"] for mount in with_tls["proxy"]["volumeMounts"]}
    for name, path in files.items():
        if path.rpartition("/")[0] not in mounts:
            yield f"deploy/milvus/values-tls.yaml: {name} {path} is on no volume of the proxies"


def _values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found
