"""Faults that people make in manifests: the checks have to notice every one."""

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
    """A fault: where it is made, and how."""

    name: str
    build: str
    make: Callable[[list[Object]], None]


def put(where: str, path: tuple[Key, ...], value: Any) -> Callable[[list[Object]], None]:
    """Sets a field of an object, Kind/name; generated names are given without their hash."""

    def make(objects: list[Object]) -> None:
        _parent(_find(objects, where), path)[path[-1]] = value

    return make


def drop(where: str, path: tuple[Key, ...]) -> Callable[[list[Object]], None]:
    """Removes a field of an object."""

    def make(objects: list[Object]) -> None:
        del _parent(_find(objects, where), path)[path[-1]]

    return make


def remove(where: str) -> Callable[[list[Object]], None]:
    """Removes an object."""

    def make(objects: list[Object]) -> None:
        objects.remove(_find(objects, where))

    return make


def rename(where: str, path: tuple[Key, ...], name: str) -> Callable[[list[Object]], None]:
    """Renames a field of an object, as a typing error does."""

    def make(objects: list[Object]) -> None:
        parent = _parent(_find(objects, where), path)
        parent[name] = parent.pop(path[-1])

    return make


def _find(objects: list[Object], where: str) -> Object:
    kind, _, name = where.partition("/")
    found = [item for item in objects if item["kind"] == kind and _plain(item) == name]
    if len(found) != 1:
        raise LookupError(f"{where}: there are {len(found)}")
    return found[0]


def _plain(item: Object) -> str:
    name: str = item["metadata"]["name"]
    # Kustomize puts a hash behind the names of ConfigMaps.
    return name.rpartition("-")[0] if item["kind"] == "ConfigMap" and "settings-" in name else name


def _parent(item: Object, path: tuple[Key, ...]) -> Any:
    here: Any = item
    for key in path[:-1]:
        here = here[key]
    return here


EMBEDDER, SEARCH = "Deployment/embedder", "Deployment/search"
MUTATIONS = (
    # What schemas notice.
    Mutation("a misspelt field", LOCAL, rename(EMBEDDER, (*CONTAINER, "readinessProbe"), "readynessProbe")),
    Mutation("an API version that was removed", PRODUCTION, put("PodDisruptionBudget/search", ("apiVersion",), "policy/v1beta1")),
    Mutation("an HPA of an API version that was removed", PRODUCTION, put("HorizontalPodAutoscaler/embedder", ("apiVersion",), "autoscaling/v2beta2")),
    Mutation("a number that is text", LOCAL, put(SEARCH, ("spec", "replicas"), "one")),
    Mutation("a probe's port by name", LOCAL, put(EMBEDDER, (*CONTAINER, "livenessProbe", "grpc", "port"), "grpc")),
    Mutation("a misspelt field of a ServiceMonitor", PRODUCTION, rename("ServiceMonitor/imagesearch", ("spec", "jobLabel"), "joblabel")),
    Mutation("a misspelt field of a Certificate", PRODUCTION, rename("Certificate/search", ("spec", "dnsNames"), "dnsnames")),
    Mutation("a misspelt field of a ScaledObject", ALL, rename("ScaledObject/embedder", ("spec", "minReplicaCount"), "minReplicas")),
    Mutation("a misspelt field of a GRPCRoute", ALL, rename("GRPCRoute/search", ("spec", "parentRefs"), "parentRef")),
    # Selectors, ports, addresses.
    Mutation("a Service that selects nobody", LOCAL, put("Service/embedder-headless", ("spec", "selector", COMPONENT), "embeder")),
    Mutation("a Service that selects both", LOCAL, drop("Service/embedder", ("spec", "selector", COMPONENT))),
    Mutation("a port that the pods do not name", LOCAL, put("Service/search", ("spec", "ports", 0, "targetPort"), "rpc")),
    Mutation("a Service's port that nobody listens on", LOCAL, put("Service/search", ("spec", "ports", 0, "port"), 50051)),
    Mutation("listening on loopback", LOCAL, drop("ConfigMap/search-settings", ("data", "SEARCH_LISTEN_ADDRESS"))),
    Mutation("a target that is no headless Service", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_EMBEDDER_TARGET"), "dns:///embedder:50051")),
    Mutation("a headless Service with an address", LOCAL, drop("Service/embedder-headless", ("spec", "clusterIP"))),
    Mutation("a spread of the other's pods", PRODUCTION, put(EMBEDDER, (*POD, "topologySpreadConstraints", 1, "labelSelector", "matchLabels", COMPONENT), "search")),
    # Settings.
    Mutation("a misspelt setting", LOCAL, put("ConfigMap/embedder-settings", ("data", "EMBEDDER_MAX_BATCHSIZE"), "8")),
    Mutation("a setting's value that is none", LOCAL, put("ConfigMap/embedder-settings", ("data", "EMBEDDER_LOG_FORMAT"), "logfmt")),
    Mutation("a certificate without its key", PRODUCTION, drop("ConfigMap/search-settings", ("data", "SEARCH_TLS_KEY"))),
    Mutation("a file in no volume", PRODUCTION, put("ConfigMap/search-settings", ("data", "SEARCH_EMBEDDER_CA"), "/etc/tls/ca.crt")),
    Mutation("a job's TLS that is neither on nor off", JOB, put("Job/ingest", (*CONTAINER, "env", 0), {"name": "IMAGESEARCH_TLS", "value": "tls"})),
    Mutation("a variable of a job that nothing reads", JOB, put("Job/ingest", (*CONTAINER, "env", 0, "name"), "IMAGESEARCH_ADDRESS")),
    Mutation("an option that the command does not have", JOB, put("Job/ingest", (*CONTAINER, "args", 3), "--stream=6")),
    Mutation("a ledger that is gone with its pod", JOB, put("Job/ingest", (*CONTAINER, "args", 4), "--ledger=/var/images.ledger")),
    # Starting, serving, stopping.
    Mutation("liveness by readiness", LOCAL, drop(SEARCH, (*CONTAINER, "livenessProbe", "grpc", "service"))),
    Mutation("no startup probe", LOCAL, drop(EMBEDDER, (*CONTAINER, "startupProbe"))),
    Mutation("a probe in plain text of a server with TLS", PRODUCTION, put(SEARCH, (*CONTAINER, "readinessProbe"), {"grpc": {"port": 50052}})),
    Mutation("a probe for another's name", PRODUCTION, put(SEARCH, (*CONTAINER, "readinessProbe", "exec", "command", 5), "--server-name=nobody")),
    Mutation("killed in the middle of its drain", LOCAL, put(EMBEDDER, (*POD, "terminationGracePeriodSeconds"), 20)),
    Mutation("no preStop", LOCAL, drop(EMBEDDER, (*CONTAINER, "lifecycle"))),
    Mutation("an update that takes the old away first", PRODUCTION, put(SEARCH, ("spec", "strategy", "rollingUpdate", "maxUnavailable"), 1)),
    # Scaling.
    Mutation("replicas beside an autoscaler", PRODUCTION, put(EMBEDDER, ("spec", "replicas"), 3)),
    Mutation("an autoscaler of nobody", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "scaleTargetRef", "name"), "searcher")),
    Mutation("two autoscalers", ALL, put("HorizontalPodAutoscaler/search", ("spec", "scaleTargetRef", "name"), "embedder")),
    Mutation("a smallest number above the largest", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "minReplicas"), 30)),
    Mutation("a budget that no pod may leave", PRODUCTION, put("PodDisruptionBudget/embedder", ("spec", "maxUnavailable"), 0)),
    Mutation("a query for what nothing records", ALL, put("ScaledObject/embedder", ("spec", "triggers", 0, "metadata", "query"), "imagesearch:embedder_queue_seconds:mean")),
    Mutation("an autoscaler without a measure", PRODUCTION, put("HorizontalPodAutoscaler/search", ("spec", "metrics"), [])),
    # Resources and rights.
    Mutation("no limit of memory", LOCAL, drop(SEARCH, (*CONTAINER, "resources", "limits", "memory"))),
    Mutation("more asked for than allowed", LOCAL, put(SEARCH, (*CONTAINER, "resources", "requests", "memory"), "16Gi")),
    Mutation("root", LOCAL, put(SEARCH, (*POD, "securityContext", "runAsUser"), 0)),
    Mutation("a root file system that can be written", LOCAL, drop(EMBEDDER, (*CONTAINER, "securityContext", "readOnlyRootFilesystem"))),
    Mutation("a capability", LOCAL, put(EMBEDDER, (*CONTAINER, "securityContext", "capabilities", "add"), ["NET_ADMIN"])),
    Mutation("a token of the API server", LOCAL, put(SEARCH, (*POD, "automountServiceAccountToken"), True)),
    Mutation("Services among the settings", LOCAL, drop(EMBEDDER, (*POD, "enableServiceLinks"))),
    Mutation("an image without a version", LOCAL, put(SEARCH, (*CONTAINER, "image"), "imagesearch/search:latest")),
    # Networks.
    Mutation("no policy that closes all", LOCAL, remove("NetworkPolicy/imagesearch-deny-all")),
    Mutation("no way to Milvus", PRODUCTION, remove("NetworkPolicy/search-milvus")),
    Mutation("everybody may call", LOCAL, drop("NetworkPolicy/embedder", ("spec", "ingress", 0, "from"))),
    Mutation("the search service may not call the embedder", LOCAL, put("NetworkPolicy/embedder", ("spec", "ingress", 0, "from", 0, "podSelector", "matchLabels", COMPONENT), "serch")),
    Mutation("a policy for a port that is not there", LOCAL, put("NetworkPolicy/search", ("spec", "ingress", 0, "ports", 0, "port"), "rpc")),
    Mutation("a policy of the whole namespace", LOCAL, put("NetworkPolicy/imagesearch-deny-all", ("spec", "podSelector"), {})),
    Mutation("Prometheus may not come in", PRODUCTION, remove("NetworkPolicy/imagesearch-metrics")),
    Mutation("metrics over UDP", PRODUCTION, put("NetworkPolicy/imagesearch-metrics", ("spec", "ingress", 0, "ports", 0, "protocol"), "UDP")),
    Mutation("callers narrowed by another label", LOCAL, put("NetworkPolicy/search", ("spec", "ingress", 0, "from", 1, "podSelector"), {"matchLabels": {"app": "shop"}})),
    Mutation("names from pods of the own namespace", LOCAL, drop("NetworkPolicy/search", ("spec", "egress", 1, "to", 0, "namespaceSelector"))),
    Mutation("names over TCP alone", LOCAL, drop("NetworkPolicy/search", ("spec", "egress", 1, "ports", 0))),
    Mutation("a load that reaches the nodes' metadata", JOB, put("NetworkPolicy/ingest", ("spec", "egress", 2, "to", 0, "ipBlock", "except"), ["10.0.0.0/8"])),
    # What is referred to.
    Mutation("settings that are not there", LOCAL, put(SEARCH, (*CONTAINER, "envFrom", 0, "configMapRef", "name"), "settings")),
    Mutation("a Secret that nobody makes", PRODUCTION, put(SEARCH, (*CONTAINER, "envFrom", 1, "secretRef", "name"), "secrets")),
    Mutation("an issuer that is not there", PRODUCTION, put("Certificate/search", ("spec", "issuerRef", "name"), "letsencrypt")),
    Mutation("a certificate without the name that is called", PRODUCTION, put("Certificate/embedder", ("spec", "dnsNames"), ["embedder"])),
    Mutation("a certificate for clients", PRODUCTION, put("Certificate/search", ("spec", "usages"), ["client auth"])),
    Mutation("a ServiceMonitor elsewhere", PRODUCTION, put("ServiceMonitor/imagesearch", ("metadata", "namespace"), "monitoring")),
    Mutation("a route to a port that is not there", ALL, put("GRPCRoute/search", ("spec", "rules", 0, "backendRefs", 0, "port"), 50051)),
    Mutation("a route of a service that is not there", ALL, put("GRPCRoute/search", ("spec", "rules", 0, "matches", 0, "method", "service"), "imagesearch.Search")),
    Mutation("pods that are scraped twice", PRODUCTION, put("Service/search", ("spec", "ports", 0, "name"), "metrics")),
    # Milvus.
    Mutation("Milvus Lite with two replicas", LOCAL, put(SEARCH, ("spec", "replicas"), 2)),
    Mutation("Milvus Lite with a rolling update", LOCAL, put(SEARCH, ("spec", "strategy"), {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0}})),
    Mutation("Milvus Lite on no volume", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_URI"), "/tmp/milvus.db")),  # noqa: S108
    Mutation("another Milvus than deploy/milvus makes", PRODUCTION, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_URI"), "http://milvus:19530")),
    Mutation("TLS to Milvus without its authority", ALL, drop(SEARCH, (*CONTAINER, "env", 1))),
    Mutation("an authority of a Milvus without TLS", ALL, put(SEARCH, (*CONTAINER, "env", 0, "value"), "http://milvus.milvus.svc:19530")),
    Mutation("a certificate for Milvus without its key", ALL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_CERTIFICATE"), "/milvus-tls/tls.crt")),
    Mutation("a database of Milvus Lite", LOCAL, put("ConfigMap/search-settings", ("data", "SEARCH_MILVUS_DATABASE"), "shop")),
)  # fmt: skip


def unnoticed(built: dict[str, list[Object]]) -> Iterator[str]:
    """The mutations that no check notices."""
    for mutation in MUTATIONS:
        objects = copy.deepcopy(built[mutation.build])
        before = {title(item): copy.deepcopy(item) for item in objects}
        mutation.make(objects)
        changed = [item for item in objects if before.get(title(item)) != item]
        # One release is enough to see that a schema notices.
        if not any(schemas.problems(changed, schemas.VERSIONS[1:2])) and not any(consistency.problems(objects)):
            yield f"{mutation.name} ({mutation.build})"
