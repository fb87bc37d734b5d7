"""Whether what an overlay adds fits what it is added to: certificates, scraping, rules for scaling, routes."""

import re
from collections.abc import Iterator

import yaml
from google.protobuf.descriptor_pool import Default
from imagesearch.search.v1 import codes_pb2, collection_pb2, image_pb2, search_pb2

from deploy.checks.manifests import Object, named, of_kind, pod, ports, selected, title
from deploy.checks.tools import ROOT

RECORDING_RULES = ROOT / "deploy" / "observability" / "rules" / "recording.yml"
HEALTH = "grpc.health.v1.Health"
# Imported so that the pool of descriptors knows their services.
CONTRACTS = (codes_pb2, collection_pb2, image_pb2, search_pb2)


def problems(objects: list[Object]) -> Iterator[str]:
    """Everything that does not fit, in words."""
    yield from _certificates(objects)
    yield from _scraping(objects)
    yield from _queries(objects)
    yield from _routes(objects)


def _certificates(objects: list[Object]) -> Iterator[str]:
    issuers = {item["metadata"]["name"] for item in of_kind(objects, "Issuer")}
    made = {item["spec"]["secretName"] for item in of_kind(objects, "Certificate")}
    for item in of_kind(objects, "Issuer"):
        if "ca" in item["spec"] and item["spec"]["ca"]["secretName"] not in made:
            yield f"{title(item)}: nobody makes the Secret {item['spec']['ca']['secretName']}"
    for item in of_kind(objects, "Certificate"):
        if item["spec"]["issuerRef"]["name"] not in issuers:
            yield f"{title(item)}: there is no Issuer/{item['spec']['issuerRef']['name']}"
        if not item["spec"].get("isCA"):
            yield from (f"{title(item)}: {problem}" for problem in _of_a_server(item, objects))


def _of_a_server(certificate: Object, objects: list[Object]) -> Iterator[str]:
    spec = certificate["spec"]
    if "server auth" not in spec.get("usages", []):
        yield "a server could not show it"
    users = [workload for workload in of_kind(objects, "Deployment") if spec["secretName"] in _mounted(workload)]
    if len(users) != 1:
        yield "one Deployment should mount its Secret"
    for service in of_kind(objects, "Service"):
        if not any(workload in users for workload in selected(objects, service["spec"]["selector"])):
            continue
        name, space = service["metadata"]["name"], service["metadata"].get("namespace", "imagesearch")
        names = {name, f"{name}.{space}.svc", f"{name}.{space}.svc.cluster.local"}
        if not names <= set(spec["dnsNames"]):
            yield f"it should have the names {sorted(names)}"
        if any("appProtocol" in port for port in service["spec"]["ports"]):
            yield f"what {title(service)} speaks is no cleartext HTTP/2"


def _mounted(workload: Object) -> set[str]:
    return {volume["secret"]["secretName"] for volume in pod(workload).get("volumes", []) if "secret" in volume}


def _scraping(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "ServiceMonitor"):
        wanted = item["spec"]["selector"]["matchLabels"]
        spaces = {one["metadata"].get("namespace") for one in (item, *of_kind(objects, "Service"))}
        if len(spaces) != 1 and "namespaceSelector" not in item["spec"]:
            yield f"{title(item)}: it looks for Services in its own namespace only"
        scraped = []
        for service in of_kind(objects, "Service"):
            names = {port["name"] for port in service["spec"]["ports"]}
            if wanted.items() <= service["metadata"]["labels"].items() and names & _endpoints(item):
                scraped += selected(objects, service["spec"]["selector"])
                job = service["metadata"]["labels"].get(item["spec"].get("jobLabel", ""))
                if job not in {"embedder", "search"}:
                    yield f"{title(item)}: {title(service)} would be scraped as job {job}, which no rule knows"
        expected = [workload for workload in of_kind(objects, "Deployment") if "metrics" in ports(workload)]
        if sorted(map(title, scraped)) != sorted(map(title, expected)):
            yield f"{title(item)}: each pod should be scraped once; it would be {[title(one) for one in scraped]}"


def _endpoints(monitor: Object) -> set[str]:
    return {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}


def _queries(objects: list[Object]) -> Iterator[str]:
    groups = yaml.safe_load(RECORDING_RULES.read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    for item in of_kind(objects, "ScaledObject"):
        for trigger in item["spec"]["triggers"]:
            used = set(re.findall(r"imagesearch:\w+:\w+", trigger["metadata"].get("query", "")))
            yield from (f"{title(item)}: nothing records {name}" for name in sorted(used - recorded))
            if trigger["type"] == "prometheus" and not used:
                yield f"{title(item)}: it asks Prometheus for none of imagesearch's recording rules"


def _routes(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "GRPCRoute"):
        for rule in item["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                service = named(objects, "Service", backend["name"])
                if service is None or backend["port"] not in {port["port"] for port in service["spec"]["ports"]}:
                    yield f"{title(item)}: there is no Service/{backend['name']} with port {backend['port']}"
            for match in rule["matches"]:
                name = match["method"]["service"]
                if name != HEALTH and not _is_service(name):
                    yield f"{title(item)}: there is no gRPC service {name}"


def _is_service(name: str) -> bool:
    try:
        Default().FindServiceByName(name)
    except KeyError:
        return False
    return True
