"""Whether the services and the values for Milvus' Helm chart speak of one Milvus."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from deploy.checks.tools import ROOT

FOLDER = ROOT / "deploy" / "milvus"
NAMESPACE, PORT = "milvus", 19530
# What the chart runs, by its keys.
NODES = ("proxy", "mixCoordinator", "queryNode", "streamingNode", "dataNode")


def problems(settings: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with the search service's settings. The chart calls its Service as `fullnameOverride` says."""
    values, with_tls = _values("values.yaml"), _values("values-tls.yaml")
    keys = {"MINIO_ACCESS_KEY_ID", "MINIO_SECRET_ACCESS_KEY"}
    for part in NODES:
        if not keys <= {variable["name"] for variable in values[part].get("extraEnv", [])}:
            yield f"deploy/milvus gives {part} no credentials of the bucket"
    yield from _of_tls(values, with_tls)
    uri = settings.get("SEARCH_MILVUS_URI", "")
    host = f"{values['fullnameOverride']}.{NAMESPACE}.svc:{values.get('service', {}).get('port', PORT)}"
    expected = f"{'https' if uri.startswith('https:') else 'http'}://{host}"
    if re.sub(r"\.svc\.cluster\.local", ".svc", uri) != expected:
        yield f"SEARCH_MILVUS_URI={uri}, and deploy/milvus makes {expected}"
    if uri.startswith("https:") and "SEARCH_MILVUS_CA" not in settings:
        yield "SEARCH_MILVUS_CA is missing: no public authority signs a certificate for a name of the cluster"


def _of_tls(values: dict[str, Any], with_tls: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the values that turn TLS on: a file of Milvus' settings replaces the other whole."""
    plain, secure = (yaml.safe_load(found["extraConfigFiles"]["user.yaml"]) for found in (values, with_tls))
    if not plain["common"]["security"]["authorizationEnabled"]:
        yield "deploy/milvus/values.yaml: everybody may do everything without authorizationEnabled"
    files = secure.pop("tls")
    if secure["common"]["security"].pop("tlsMode") not in {1, 2}:
        yield "deploy/milvus/values-tls.yaml: tlsMode should be 1 or 2"
    if secure != plain:
        yield "deploy/milvus/values-tls.yaml: user.yaml should be that of values.yaml, and TLS"
    mounts = {mount["mountPath"] for mount in with_tls["proxy"]["volumeMounts"]}
    for name, path in files.items():
        if path.rpartition("/")[0] not in mounts:
            yield f"deploy/milvus/values-tls.yaml: {name} {path} is in no volume of the proxies"


def _values(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text())
    return found
