"""Whether the services and the values for Milvus' Helm chart speak of one Milvus."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from deploy.checks.tools import ROOT

VALUES = ROOT / "deploy" / "milvus" / "values.yaml"
NAMESPACE, PORT = "milvus", 19530
# What the chart runs, by its keys.
NODES = ("proxy", "mixCoordinator", "queryNode", "streamingNode", "dataNode")


def problems(uri: str) -> Iterator[str]:
    """What is wrong with SEARCH_MILVUS_URI. The chart calls its Service as `fullnameOverride` says."""
    values: dict[str, Any] = yaml.safe_load(VALUES.read_text())
    expected = f"http://{values['fullnameOverride']}.{NAMESPACE}.svc:{values.get('service', {}).get('port', PORT)}"
    keys = {"MINIO_ACCESS_KEY_ID", "MINIO_SECRET_ACCESS_KEY"}
    for part in NODES:
        if not keys <= {variable["name"] for variable in values[part].get("extraEnv", [])}:
            yield f"deploy/milvus gives {part} no credentials of the bucket"
    if re.sub(r"\.svc\.cluster\.local", ".svc", uri) != expected:
        yield f"SEARCH_MILVUS_URI={uri}, and deploy/milvus makes {expected}"
