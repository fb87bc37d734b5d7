"""Check that network policies allow the connections in docs/explanation/architecture.md and no others."""

from collections.abc import Iterator
from typing import Any

from deploy.checks.manifests import WORKLOADS, Object, component, environment, labels, of_kind, pod, ports, title
from deploy.checks.milvus import NAMESPACE, PORT

Edge = tuple[str, str]
"""The peer, as text of its selectors, and the port with its protocol."""

OWN = {"app.kubernetes.io/name": "imagesearch"}
GRPC, METRICS = "grpc/TCP", "metrics/TCP"


def _own(part: str) -> str:
    return f"pods app.kubernetes.io/component={part},app.kubernetes.io/name=imagesearch"


def _namespace(name: str) -> str:
    return f"namespaces kubernetes.io/metadata.name={name}"


DNS = {
    (peer, port)
    for peer in (f"{_namespace('kube-system')} pods k8s-app=kube-dns", "169.254.20.10/32")
    for port in ("53/UDP", "53/TCP")
}
# All public addresses.
OUTSIDE = "0.0.0.0/0 except 10.0.0.0/8,169.254.0.0/16,172.16.0.0/12,192.168.0.0/16"


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield each missing connection, and each allowed connection that nothing needs."""
    policies = of_kind(objects, "NetworkPolicy")
    workloads = of_kind(objects, *WORKLOADS)
    if not workloads:
        return
    yield from _named_ports(policies, workloads)
    yield from _unselective(policies)
    for workload in workloads:
        name = component(workload)
        incoming = {peer for policy in _of(policies, workload, "Ingress") for peer in _peers(policy, "ingress", "from")}
        outgoing = {peer for policy in _of(policies, workload, "Egress") for peer in _peers(policy, "egress", "to")}
        denied = {kind for policy in policies for kind in policy["spec"]["policyTypes"] if _selects(policy, workload)}
        if denied != {"Ingress", "Egress"}:
            yield f"{title(workload)}: no policy denies {' and '.join({'Ingress', 'Egress'} - denied)}"
        callees = _callees(name, workload, objects)
        callers = _callers(name, objects)
        for peer, port in sorted(incoming - callers):
            yield f"{title(workload)}: {peer} must not be allowed to call its port {port}"
        for peer, port in sorted(callers - incoming):
            yield f"{title(workload)}: {peer} must be allowed to call its port {port}"
        for peer, port in sorted(outgoing - callees):
            yield f"{title(workload)}: it must not be allowed to call {peer}:{port}"
        for peer, port in sorted(callees - outgoing):
            yield f"{title(workload)}: it must be allowed to call {peer}:{port}"


def _callers(name: str, objects: list[Object]) -> set[Edge]:
    """Return the peers that must be allowed to call a component."""
    found = {
        "embedder": {(_own("search"), GRPC), (_own("ingest"), GRPC)},
        "search": {(_own("ingest"), GRPC), ("namespaces imagesearch/caller=true", GRPC)},
    }.get(name, set())
    if found and of_kind(objects, "ServiceMonitor"):
        found.add((_namespace("monitoring"), METRICS))
    if name == "search" and of_kind(objects, "GRPCRoute"):
        found.add((_namespace("gateway"), GRPC))
    return found


def _callees(name: str, workload: Object, objects: list[Object]) -> set[Edge]:
    """Return the peers that a component must be allowed to call."""
    match name:
        case "search":
            (part,) = pod(workload)["containers"]
            on_server = environment(objects, part).get("SEARCH_MILVUS_URI", "").startswith("http")
            milvus = (f"{_namespace(NAMESPACE)} pods app.kubernetes.io/name=milvus", f"{PORT}/TCP")
            return DNS | {(_own("embedder"), GRPC)} | ({milvus} if on_server else set())
        case "ingest":
            return DNS | {(_own("embedder"), GRPC), (_own("search"), GRPC), (OUTSIDE, "443/TCP")}
        case _:
            return set()


def _of(policies: list[Object], workload: Object, kind: str) -> list[Object]:
    return [item for item in policies if kind in item["spec"]["policyTypes"] and _selects(item, workload)]


def _selects(policy: Object, workload: Object) -> bool:
    wanted: dict[str, str] = policy["spec"]["podSelector"].get("matchLabels", {})
    return wanted.items() <= labels(workload).items()


def _peers(policy: Object, rules: str, peers: str) -> Iterator[Edge]:
    for rule in policy["spec"].get(rules, []):
        for port in rule.get("ports", [{"port": "any"}]):
            for peer in rule.get(peers, [{}]):
                yield _peer(peer), f"{port['port']}/{port.get('protocol', 'TCP')}"


def _peer(peer: dict[str, Any]) -> str:
    if "ipBlock" in peer:
        exceptions = ",".join(sorted(peer["ipBlock"].get("except", [])))
        return f"{peer['ipBlock']['cidr']}{f' except {exceptions}' if exceptions else ''}"
    parts = []
    for kind, selector in (("namespaces", "namespaceSelector"), ("pods", "podSelector")):
        if selector in peer:
            chosen = peer[selector].get("matchLabels", {})
            parts.append(f"{kind} {','.join(f'{key}={value}' for key, value in sorted(chosen.items())) or 'all'}")
    return " ".join(parts) or "anybody"


def _named_ports(policies: list[Object], workloads: list[Object]) -> Iterator[str]:
    """Yield policies for ports that no selected pod has: Kubernetes ignores them without an error."""
    for policy in policies:
        chosen = [item for item in workloads if _selects(policy, item)]
        for rule in policy["spec"].get("ingress", []):
            for port in rule.get("ports", []):
                if chosen and not all(port["port"] in ports(item) for item in chosen):
                    yield f"{title(policy)}: some of its pods have no port called {port['port']}"


def _unselective(policies: list[Object]) -> Iterator[str]:
    for policy in policies:
        if not OWN.items() <= policy["spec"]["podSelector"].get("matchLabels", {}).items():
            yield f"{title(policy)}: it must select only the pods of imagesearch"
