"""Check the objects of optional components: certificates, scraping, queries of autoscalers, routes."""

import re
from collections.abc import Iterator

import yaml
from google.protobuf.descriptor_pool import Default
from imagesearch.search.v1 import codes_pb2, collection_pb2, image_pb2, search_pb2

from deploy.checks.manifests import Object, named, of_kind, pod, ports, selected, title
from deploy.checks.tools import ROOT

RECORDING_RULES = ROOT / "deploy" / "observability" / "rules" / "recording.yml"
HEALTH = "grpc.health.v1.Health"
# Their import adds the services to the descriptor pool.
CONTRACTS = (codes_pb2, collection_pb2, image_pb2, search_pb2)


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield each problem."""
    yield from _certificates(objects)
    yield from _scraping(objects)
    yield from _queries(objects)
    yield from _routes(objects)


def _certificates(objects: list[Object]) -> Iterator[str]:
    issuers = {item["metadata"]["name"] for item in of_kind(objects, "Issuer")}
    made = {item["spec"]["secretName"] for item in of_kind(objects, "Certificate")}
    for item in of_kind(objects, "Issuer"):
        if "ca" in item["spec"] and item["spec"]["ca"]["secretName"] not in made:
            yield f"{title(item)}: no Certificate creates the Secret {item['spec']['ca']['secretName']}"
    for item in of_kind(objects, "Certificate"):
        if item["spec"]["issuerRef"]["name"] not in issuers:
            yield f"{title(item)}: there is no Issuer/{item['spec']['issuerRef']['name']}"
        if not item["spec"].get("isCA"):
            yield from (f"{title(item)}: {problem}" for problem in _server_certificate(item, objects))


def _server_certificate(certificate: Object, objects: list[Object]) -> Iterator[str]:
    spec = certificate["spec"]
    if "server auth" not in spec.get("usages", []):
        yield 'usages must contain "server auth"'
    users = [workload for workload in of_kind(objects, "Deployment") if spec["secretName"] in _mounted(workload)]
    if len(users) != 1:
        yield "exactly one Deployment must mount its Secret"
    for service in of_kind(objects, "Service"):
        if not any(workload in users for workload in selected(objects, service["spec"]["selector"])):
            continue
        name, namespace = service["metadata"]["name"], service["metadata"].get("namespace", "imagesearch")
        names = {name, f"{name}.{namespace}.svc", f"{name}.{namespace}.svc.cluster.local"}
        if not names <= set(spec["dnsNames"]):
            yield f"dnsNames must contain {sorted(names)}"
        if any("appProtocol" in port for port in service["spec"]["ports"]):
            yield f"{title(service)} has TLS, so its ports must have no appProtocol"


def _mounted(workload: Object) -> set[str]:
    return {volume["secret"]["secretName"] for volume in pod(workload).get("volumes", []) if "secret" in volume}


def _scraping(objects: list[Object]) -> Iterator[str]:
    for item in of_kind(objects, "ServiceMonitor"):
        wanted = item["spec"]["selector"]["matchLabels"]
        namespaces = {each["metadata"].get("namespace") for each in (item, *of_kind(objects, "Service"))}
        if len(namespaces) != 1 and "namespaceSelector" not in item["spec"]:
            yield f"{title(item)}: it selects Services in its own namespace only"
        scraped = []
        for service in of_kind(objects, "Service"):
            names = {port["name"] for port in service["spec"]["ports"]}
            if wanted.items() <= service["metadata"]["labels"].items() and names & _endpoints(item):
                scraped += selected(objects, service["spec"]["selector"])
                job = service["metadata"]["labels"].get(item["spec"].get("jobLabel", ""))
                if job not in {"embedder", "search"}:
                    yield f"{title(item)}: {title(service)} would get the job {job}, which no rule selects"
        expected = [workload for workload in of_kind(objects, "Deployment") if "metrics" in ports(workload)]
        if sorted(map(title, scraped)) != sorted(map(title, expected)):
            yield f"{title(item)}: each pod must be scraped once; scraped: {[title(each) for each in scraped]}"


def _endpoints(monitor: Object) -> set[str]:
    return {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]}


def _queries(objects: list[Object]) -> Iterator[str]:
    groups = yaml.safe_load(RECORDING_RULES.read_text())["groups"]
    recorded = {rule["record"] for group in groups for rule in group["rules"]}
    for item in of_kind(objects, "ScaledObject"):
        for trigger in item["spec"]["triggers"]:
            used = set(re.findall(r"imagesearch:\w+:\w+", trigger["metadata"].get("query", "")))
            yield from (f"{title(item)}: no rule records {name}" for name in sorted(used - recorded))
            if trigger["type"] == "prometheus" and not used:
                yield f"{title(item)}: its Prometheus query uses no recording rule of imagesearch"


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
