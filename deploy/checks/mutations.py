"""Typical faults in manifests. `make check-deploy` makes each one and fails if no check notices it."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from deploy.checks import consistency, schemas
from deploy.checks.manifests import Object, title

LOCAL, PRODUCTION, ALL, JOB = "overlays/local", "overlays/production", "production with all components", "jobs/ingest"

Key = str | int
CONTAINER: tuple[Key, ...] = ("spec", "template", "spec", "containers", 0)
POD: tuple[Key, ...] = ("spec", "template", "spec")
COMPONENT = "app.kubernetes.io/component"


@dataclass(frozen=True)
class Mutation:
    """A fault in a build."""

    name: str
    build: str
    make: Callable[[list[Object]], None]


def put(target: str, path: tuple[Key, ...], value: Any) -> Callable[[list[Object]], None]:
    """Return a function that sets a field of the object Kind/name. Names of ConfigMaps are without their hash."""

    def make(objects: list[Object]) -> None:
        _parent(_find(objects, target), path)[path[-1]] = value

    return make


def drop(target: str, path: tuple[Key, ...]) -> Callable[[list[Object]], None]:
    """Return a function that removes a field of an object."""

    def make(objects: list[Object]) -> None:
        del _parent(_find(objects, target), path)[path[-1]]

    return make


def remove(target: str) -> Callable[[list[Object]], None]:
    """Return a function that removes an object."""

    def make(objects: list[Object]) -> None:
        objects.remove(_find(objects, target))

    return make


def rename(target: str, path: tuple[Key, ...], name: str) -> Callable[[list[Object]], None]:
    """Return a function that renames a field of an object, as a typing error does."""

    def make(objects: list[Object]) -> None:
        parent = _parent(_find(objects, target), path)
        parent[name] = parent.pop(path[-1])

    return make


def _find(objects: list[Object], target: str) -> Object:
    kind, _, name = target.partition("/")
    found = [item for item in objects if item["kind"] == kind and _plain(item) == name]
    if len(found) != 1:
        raise LookupError(f"{target}: there are {len(found)} objects; there must be one")
    return found[0]


def _plain(item: Object) -> str:
    name: str = item["metadata"]["name"]
    # Kustomize appends a hash to the names of ConfigMaps.
    return name.rpartition("-")[0] if item["kind"] == "ConfigMap" and "settings-" in name else name


def _parent(item: Object, path: tuple[Key, ...]) -> Any:
    parent: Any = item
    for key in path[:-1]:
        parent = parent[key]
    return parent


EMBEDDER, SEARCH = "Deployment/embedder", "Deployment/search"
MUTATIONS = (
    # Schemas.
    Mutation("a misspelt field", LOCAL, rename(EMBEDDER, (*CONTAINER, "readinessProbe"), "readynessProbe")),
    Mutation("a removed API version", PRODUCTION, put("PodDisruptionBudget/search", ("apiVersion",), "policy/v1beta1")),
    Mutation("an autoscaler of a removed API version", PRODUCTION, put("HorizontalPodAutoscaler/embedder", ("apiVersion",), "autoscaling/v2beta2")),
    Mutation("text instead of a number", LOCAL, put(SEARCH, ("spec", "replicas"), "one")),
    Mutation("a gRPC probe with a port name", LOCAL, put(EMBEDDER, (*CONTAINER, "livenessProbe", "grpc", "port"), "grpc")),
    Mutation("a misspelt field of a ServiceMonitor", PRODUCTION, rename("ServiceMonitor/imagesearch", ("spec", "jobLabel"), "joblabel")),
    Mutation("a misspelt field of a Certificate", PRODUCTION, rename("Certificate/search", ("spec", "dnsNames"), "dnsnames")),
    Mutation("a misspelt field of a ScaledObject", ALL, rename("ScaledObject/embedder", ("spec", "minReplicaCount"), "minReplicas")),
    Mutation("a misspelt field of a GRPCRoute", ALL, rename("GRPCRoute/search", ("spec", "parentRefs"), "parentRef")),
    # Selectors, ports, addresses.
    Mutation("a Service that selects no pods", LOCAL, put("Service/embedder-headless", ("spec", "selector", COMPONENT), "embeder")),
    Mutation("a Service that selects the pods of both services", LOCAL, drop("Service/embedder", ("spec", "selector", COMPONENT))),
    Mutation("a targetPort that the pods do not have", LOCAL, put("Service/search", ("spec", "ports", 0, "targetPort"), "rpc")),
    Mutation("a Service port on which no program listens", LOCAL, put("Service/search", ("spec", "ports", 0, "port"), 50051)),
    Mutation("listening on loopback", LOCAL, drop("ConfigMap/search-settings", ("data", "SEARCH_LISTEN_ADDRESS"))),
    Mutation("a target that is not a headless Service", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_EMBEDDER_TARGET"), "dns:///embedder:50051")),
    Mutation("a headless Service with a cluster IP", LOCAL, drop("Service/embedder-headless", ("spec", "clusterIP"))),
    Mutation("a spread constraint that selects other pods", PRODUCTION, put(EMBEDDER, (*POD, "topologySpreadConstraints", 1, "labelSelector", "matchLabels", COMPONENT), "search")),
    # Settings.
    Mutation("a misspelt setting", LOCAL, put("ConfigMap/embedder-settings", ("data", "EMBEDDER_MAX_BATCHSIZE"), "8")),
    Mutation("an invalid value of a setting", LOCAL, put("ConfigMap/embedder-settings", ("data", "EMBEDDER_LOG_FORMAT"), "logfmt")),
    Mutation("a certificate without its key", PRODUCTION, drop("ConfigMap/search-settings", ("data", "SEARCH_TLS_KEY"))),
    Mutation("a file on no volume", PRODUCTION, put("ConfigMap/search-settings", ("data", "SEARCH_EMBEDDER_CA"), "/etc/tls/ca.crt")),
    Mutation("an invalid value of IMAGESEARCH_TLS", JOB, put("Job/ingest", (*CONTAINER, "env", 0), {"name": "IMAGESEARCH_TLS", "value": "tls"})),
    Mutation("a variable that the command does not read", JOB, put("Job/ingest", (*CONTAINER, "env", 0, "name"), "IMAGESEARCH_ADDRESS")),
    Mutation("an unknown option of the command", JOB, put("Job/ingest", (*CONTAINER, "args", 3), "--stream=6")),
    Mutation("a ledger on no volume", JOB, put("Job/ingest", (*CONTAINER, "args", 4), "--ledger=/var/images.ledger")),
    # Probes and shutdown.
    Mutation("a liveness probe that checks readiness", LOCAL, drop(SEARCH, (*CONTAINER, "livenessProbe", "grpc", "service"))),
    Mutation("no startup probe", LOCAL, drop(EMBEDDER, (*CONTAINER, "startupProbe"))),
    Mutation("a plain text probe of a server with TLS", PRODUCTION, put(SEARCH, (*CONTAINER, "readinessProbe"), {"grpc": {"port": 50052}})),
    Mutation("a probe with a wrong server name", PRODUCTION, put(SEARCH, (*CONTAINER, "readinessProbe", "exec", "command", 5), "--server-name=nobody")),
    Mutation("a grace period shorter than the drain", LOCAL, put(EMBEDDER, (*POD, "terminationGracePeriodSeconds"), 20)),
    Mutation("no preStop", LOCAL, drop(EMBEDDER, (*CONTAINER, "lifecycle"))),
    Mutation("a rolling update that removes old pods first", PRODUCTION, put(SEARCH, ("spec", "strategy", "rollingUpdate", "maxUnavailable"), 1)),
    # Scaling.
    Mutation("replicas and an autoscaler", PRODUCTION, put(EMBEDDER, ("spec", "replicas"), 3)),
    Mutation("an autoscaler of an unknown Deployment", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "scaleTargetRef", "name"), "searcher")),
    Mutation("two autoscalers of one Deployment", ALL, put("HorizontalPodAutoscaler/search", ("spec", "scaleTargetRef", "name"), "embedder")),
    Mutation("a minimum above the maximum", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "minReplicas"), 30)),
    Mutation("a disruption budget that blocks node drains", PRODUCTION, put("PodDisruptionBudget/embedder", ("spec", "maxUnavailable"), 0)),
    Mutation("a query of an unknown recording rule", ALL, put("ScaledObject/embedder", ("spec", "triggers", 0, "metadata", "query"), "imagesearch:embedder_queue_seconds:mean")),
    Mutation("an autoscaler without metrics", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "metrics"), [])),
    # Resources and rights.
    Mutation("no memory limit", LOCAL, drop(SEARCH, (*CONTAINER, "resources", "limits", "memory"))),
    Mutation("a request above the limit", LOCAL, put(SEARCH, (*CONTAINER, "resources", "requests", "memory"), "16Gi")),
    Mutation("a root user", LOCAL, put(SEARCH, (*POD, "securityContext", "runAsUser"), 0)),
    Mutation("a writable root file system", LOCAL, drop(EMBEDDER, (*CONTAINER, "securityContext", "readOnlyRootFilesystem"))),
    Mutation("a capability", LOCAL, put(EMBEDDER, (*CONTAINER, "securityContext", "capabilities", "add"), ["NET_ADMIN"])),
    Mutation("a token of the API server", LOCAL, put(SEARCH, (*POD, "automountServiceAccountToken"), True)),
    Mutation("variables of Services", LOCAL, drop(EMBEDDER, (*POD, "enableServiceLinks"))),
    Mutation("an image without a version", LOCAL, put(SEARCH, (*CONTAINER, "image"), "imagesearch/search:latest")),
    # Networks.
    Mutation("no policy that denies all traffic", LOCAL, remove("NetworkPolicy/imagesearch-deny-all")),
    Mutation("no policy that allows Milvus", PRODUCTION, remove("NetworkPolicy/search-milvus")),
    Mutation("a policy that allows all callers", LOCAL, drop("NetworkPolicy/embedder", ("spec", "ingress", 0, "from"))),
    Mutation("a misspelt component in a policy", LOCAL, put("NetworkPolicy/embedder", ("spec", "ingress", 0, "from", 0, "podSelector", "matchLabels", COMPONENT), "serch")),
    Mutation("a policy for a port that the pods do not have", LOCAL, put("NetworkPolicy/search", ("spec", "ingress", 0, "ports", 0, "port"), "rpc")),
    Mutation("a policy that selects the whole namespace", LOCAL, put("NetworkPolicy/imagesearch-deny-all", ("spec", "podSelector"), {})),
    Mutation("no policy that allows Prometheus", PRODUCTION, remove("NetworkPolicy/imagesearch-metrics")),
    Mutation("metrics over UDP", PRODUCTION, put("NetworkPolicy/imagesearch-metrics", ("spec", "ingress", 0, "ports", 0, "protocol"), "UDP")),
    Mutation("callers that need one more label", LOCAL, put("NetworkPolicy/search", ("spec", "ingress", 0, "from", 1, "podSelector"), {"matchLabels": {"app": "shop"}})),
    Mutation("DNS only in the own namespace", LOCAL, drop("NetworkPolicy/search", ("spec", "egress", 1, "to", 0, "namespaceSelector"))),
    Mutation("DNS over TCP only", LOCAL, drop("NetworkPolicy/search", ("spec", "egress", 1, "ports", 0))),
    Mutation("a job that can reach the nodes' metadata", JOB, put("NetworkPolicy/ingest", ("spec", "egress", 2, "to", 0, "ipBlock", "except"), ["10.0.0.0/8"])),
    # References.
    Mutation("a ConfigMap that does not exist", LOCAL, put(SEARCH, (*CONTAINER, "envFrom", 0, "configMapRef", "name"), "settings")),
    Mutation("a Secret that does not exist", PRODUCTION, put(SEARCH, (*CONTAINER, "envFrom", 1, "secretRef", "name"), "secrets")),
    Mutation("an issuer that does not exist", PRODUCTION, put("Certificate/search", ("spec", "issuerRef", "name"), "letsencrypt")),
    Mutation("a certificate without the names of its Services", PRODUCTION, put("Certificate/embedder", ("spec", "dnsNames"), ["embedder"])),
    Mutation("a certificate for clients only", PRODUCTION, put("Certificate/search", ("spec", "usages"), ["client auth"])),
    Mutation("a ServiceMonitor in another namespace", PRODUCTION, put("ServiceMonitor/imagesearch", ("metadata", "namespace"), "monitoring")),
    Mutation("a route to a port that does not exist", ALL, put("GRPCRoute/search", ("spec", "rules", 0, "backendRefs", 0, "port"), 50051)),
    Mutation("a route of a gRPC service that does not exist", ALL, put("GRPCRoute/search", ("spec", "rules", 0, "matches", 0, "method", "service"), "imagesearch.Search")),
    Mutation("pods scraped twice", PRODUCTION, put("Service/search", ("spec", "ports", 0, "name"), "metrics")),
    # Milvus.
    Mutation("Milvus Lite with two replicas", LOCAL, put(SEARCH, ("spec", "replicas"), 2)),
    Mutation("Milvus Lite with a rolling update", LOCAL, put(SEARCH, ("spec", "strategy"), {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}})),
    Mutation("Milvus Lite on no volume", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_URI"), "/tmp/milvus.db")),  # noqa: S108
    Mutation("another address than that of deploy/milvus", PRODUCTION, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_URI"), "http://milvus:19530")),
    Mutation("TLS to Milvus without an authority", ALL, drop(SEARCH, (*CONTAINER, "env", 1))),
    Mutation("an authority for a Milvus without TLS", ALL, put(SEARCH, (*CONTAINER, "env", 0, "value"), "http://milvus.milvus.svc:19530")),
    Mutation("a client certificate for Milvus without its key", ALL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_CERTIFICATE"), "/milvus-tls/tls.crt")),
    Mutation("a database in Milvus Lite", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_DATABASE"), "shop")),
)  # fmt: skip


def unnoticed(built: dict[str, list[Object]]) -> Iterator[str]:
    """Yield the mutations that no check notices."""
    for mutation in MUTATIONS:
        objects = copy.deepcopy(built[mutation.build])
        before = {title(item): copy.deepcopy(item) for item in objects}
        mutation.make(objects)
        changed = [item for item in objects if before.get(title(item)) != item]
        # The schemas of one release are enough here.
        if not any(schemas.problems(changed, schemas.VERSIONS[1:2])) and not any(consistency.problems(objects)):
            yield f"{mutation.name} ({mutation.build})"
