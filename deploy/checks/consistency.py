"""Check that objects fit each other and the programs in them, which no schema can check."""

import os
import re
from collections.abc import Callable, Iterator
from unittest import mock

from pydantic import ValidationError

from deploy.checks import components, jobs, milvus, networks, pods
from deploy.checks.manifests import (
    WORKLOADS,
    Object,
    component,
    container_of_each,
    containers,
    environment,
    labels,
    named,
    of_kind,
    pod,
    ports,
    secret_references,
    selected,
    title,
)
from embedder_service.settings import EmbedderSettings
from grpc_kit.server.settings import ServerSettings, variables
from imagesearch_cli.environment import problems as command_problems
from search_service.settings import SearchSettings

SETTINGS: dict[str, type[ServerSettings]] = {"embedder": EmbedderSettings, "search": SearchSettings}
# Secrets that users create, as deploy/README.md describes.
SECRETS_OF_USERS = {"search-secrets", "search-milvus-tls"}
# Claims that users create.
CLAIMS_OF_USERS = {"images", "embedder-weights"}
SCALERS = ("HorizontalPodAutoscaler", "ScaledObject")
# Autoscalers must keep pods during pauses up to this long.
PAUSE_SECONDS = 120


def problems(objects: list[Object]) -> Iterator[str]:
    """Yield each problem."""
    for check in CHECKS:
        yield from check(objects)


def selectors_match(objects: list[Object]) -> Iterator[str]:
    """Check that every selector selects the pods of one workload."""
    for item in of_kind(objects, "Service"):
        if len(selected(objects, item["spec"]["selector"])) != 1:
            yield f"{title(item)}: its selector must match the pods of exactly one workload"
    for item in of_kind(objects, "Deployment"):
        if selected(objects, item["spec"]["selector"]["matchLabels"]) != [item]:
            yield f"{title(item)}: its selector must match its own pods only"
        for spread in pod(item).get("topologySpreadConstraints", []):
            if selected(objects, spread["labelSelector"]["matchLabels"]) != [item]:
                yield f"{title(item)}: the spread over {spread['topologyKey']} must select its own pods only"
        if not pod(item).get("topologySpreadConstraints"):
            yield f"{title(item)}: it has no topologySpreadConstraints"
    for item in of_kind(objects, "PodDisruptionBudget"):
        if len(selected(objects, item["spec"]["selector"]["matchLabels"])) != 1:
            yield f"{title(item)}: its selector must match the pods of exactly one workload"


def ports_exist(objects: list[Object]) -> Iterator[str]:
    """Check that Services name ports that pods have, and that the programs listen on these ports."""
    for item in of_kind(objects, "Service"):
        for workload in selected(objects, item["spec"]["selector"]):
            for port in item["spec"]["ports"]:
                if port["targetPort"] not in ports(workload):
                    yield f"{title(item)}: {title(workload)} has no port called {port['targetPort']}"
                elif port["port"] != ports(workload)[port["targetPort"]]:
                    yield f"{title(item)}: port {port['port']} is {ports(workload)[port['targetPort']]} in the pods"
    for workload in of_kind(objects, "Deployment"):
        for part in containers(workload):
            values = environment(objects, part)
            for name, variable in (("grpc", "LISTEN_ADDRESS"), ("metrics", "METRICS_ADDRESS")):
                address = values.get(f"{component(workload).upper()}_{variable}", "")
                if address != f"0.0.0.0:{ports(workload).get(name)}":
                    yield f"{title(workload)}: it listens on {address or 'loopback'}, not on its port {name}"


def addresses_exist(objects: list[Object]) -> Iterator[str]:
    """Check that addresses in settings are headless Services, because gRPC clients balance by themselves."""
    headless = {"embedder-headless": 50051, "search-headless": 50052}
    for workload, part in container_of_each(objects):
        for name, value in environment(objects, part).items():
            if not name.endswith(("_TARGET", "_EMBEDDER")):
                continue
            found = re.fullmatch(r"dns:///([-a-z0-9]+):(\d+)", value)
            service = named(objects, "Service", found[1]) if found else None
            # A job is applied without its Services, which the base has.
            known = headless.get(found[1]) if found else None
            if found is None or known != int(found[2]):
                yield f"{title(workload)}: {name}={value} is no headless Service of imagesearch"
            elif of_kind(objects, "Service") and (service is None or service["spec"].get("clusterIP") != "None"):
                yield f"{title(workload)}: {name}={value}: there is no such headless Service"


def scaling_fits(objects: list[Object]) -> Iterator[str]:
    """Check that each Deployment has replicas or one autoscaler, and that budgets allow node drains."""
    for item in of_kind(objects, *SCALERS):
        yield from (f"{title(item)}: {problem}" for problem in _scaler(item, objects))
    for workload in of_kind(objects, "Deployment"):
        scalers = [item for item in of_kind(objects, *SCALERS) if _scales(item, workload)]
        if len(scalers) + ("replicas" in workload["spec"]) != 1:
            yield f"{title(workload)}: it must have either replicas or one autoscaler"
        smallest = min([_smallest(item) for item in scalers], default=workload["spec"].get("replicas", 1))
        budgets = [item for item in of_kind(objects, "PodDisruptionBudget") if workload in _covered(objects, item)]
        if smallest > 1 and len(budgets) != 1:
            yield f"{title(workload)}: it must have one PodDisruptionBudget"
        for item in budgets:
            if item["spec"].get("maxUnavailable") != 1 or smallest == 1:
                yield f"{title(item)}: maxUnavailable must be 1, for at least two pods"


def _scaler(item: Object, objects: list[Object]) -> Iterator[str]:
    if not any(_scales(item, workload) for workload in of_kind(objects, "Deployment")):
        yield f"there is no Deployment/{item['spec']['scaleTargetRef']['name']}"
    if not 1 < _smallest(item) < _largest(item):
        yield "it must have at least two replicas, and a larger maximum"
    if not item["spec"].get("metrics", item["spec"].get("triggers")):
        yield "it has no metrics or triggers"
    if _seconds_before_fewer(item) < PAUSE_SECONDS:
        yield f"it must wait at least {PAUSE_SECONDS} s before it removes replicas"


def _scales(item: Object, workload: Object) -> bool:
    return bool(item["spec"]["scaleTargetRef"]["name"] == workload["metadata"]["name"])


def _smallest(item: Object) -> int:
    return int(item["spec"].get("minReplicas", item["spec"].get("minReplicaCount", 1)))


def _largest(item: Object) -> int:
    return int(item["spec"].get("maxReplicas", item["spec"].get("maxReplicaCount", 1)))


def _seconds_before_fewer(item: Object) -> int:
    spec = item["spec"]
    if item["kind"] == "ScaledObject":
        spec = spec.get("advanced", {}).get("horizontalPodAutoscalerConfig", {})
    return int(spec.get("behavior", {}).get("scaleDown", {}).get("stabilizationWindowSeconds", 0))


def _covered(objects: list[Object], item: Object) -> list[Object]:
    return selected(objects, item["spec"]["selector"]["matchLabels"])


def settings_are_known(objects: list[Object]) -> Iterator[str]:
    """Check that the program reads every variable and accepts its value."""
    for workload, part in container_of_each(objects):
        values = environment(objects, part)
        settings = SETTINGS.get(component(workload))
        known = variables(settings) if settings else jobs.VARIABLES
        yield from (f"{title(workload)}: no program reads {name}" for name in values.keys() - known)
        if settings is None:
            yield from (f"{title(workload)}: {problem}" for problem in command_problems(values))
            continue
        with mock.patch.dict(os.environ, values, clear=True):
            try:
                settings()
            except ValidationError as error:
                for problem in error.errors():
                    name = "_".join(map(str, problem["loc"])).upper()
                    yield f"{title(workload)}: {component(workload).upper()}_{name}: {problem['msg']}"


def references_exist(objects: list[Object]) -> Iterator[str]:
    """Check that the ConfigMaps, Secrets, claims and accounts of pods exist, or that users create them."""
    secrets = SECRETS_OF_USERS | {item["spec"]["secretName"] for item in of_kind(objects, "Certificate")}
    for workload in of_kind(objects, *WORKLOADS):
        for part in containers(workload):
            for source in part.get("envFrom", []):
                name = source.get("configMapRef", {}).get("name")
                if name and not named(objects, "ConfigMap", name):
                    yield f"{title(workload)}: there is no ConfigMap/{name}"
        for name, optional in secret_references(workload):
            # The certificates of a job belong to the services.
            if not optional and name not in secrets and workload["kind"] != "Job":
                yield f"{title(workload)}: there is no Secret/{name}"
        for volume in pod(workload).get("volumes", []):
            claim = volume.get("persistentVolumeClaim", {}).get("claimName")
            if claim and claim not in CLAIMS_OF_USERS and not named(objects, "PersistentVolumeClaim", claim):
                yield f"{title(workload)}: there is no PersistentVolumeClaim/{claim}"
        if not named(objects, "ServiceAccount", pod(workload).get("serviceAccountName", "")):
            yield f"{title(workload)}: it has no ServiceAccount"


def volumes_are_mounted(objects: list[Object]) -> Iterator[str]:
    """Check that containers mount exactly the volumes, and that files in settings are on a mounted volume."""
    for workload, part in container_of_each(objects):
        mounts = {mount["mountPath"]: mount for mount in part.get("volumeMounts", [])}
        volumes = {volume["name"] for volume in pod(workload).get("volumes", [])}
        if {mount["name"] for mount in mounts.values()} != volumes:
            yield f"{title(workload)}: its volumes and its mounts differ"
        for name, value in environment(objects, part).items():
            folder = value.rpartition("/")[0]
            # The weights may be in the image.
            if value.startswith("/") and folder not in {*mounts, "/weights"}:
                yield f"{title(workload)}: {name}={value} is on no volume"


def store_fits(objects: list[Object]) -> Iterator[str]:
    """Check that Milvus Lite has one process and a volume, or that the address is that of deploy/milvus."""
    for workload in of_kind(objects, "Deployment"):
        if component(workload) != "search":
            continue
        (part,) = pod(workload)["containers"]
        settings = environment(objects, part)
        uri = settings.get("SEARCH_MILVUS_URI", "")
        if uri.endswith(".db"):
            claims = {volume["name"] for volume in pod(workload)["volumes"] if "persistentVolumeClaim" in volume}
            kept = {mount["mountPath"] for mount in part["volumeMounts"] if mount["name"] in claims}
            if workload["spec"].get("replicas") != 1 or workload["spec"]["strategy"]["type"] != "Recreate":
                yield f"{title(workload)}: Milvus Lite requires one replica and the strategy Recreate"
            if uri.rpartition("/")[0] not in kept:
                yield f"{title(workload)}: {uri} is not on a persistent volume"
        else:
            yield from (f"{title(workload)}: {problem}" for problem in milvus.problems(settings))


def components_are_known(objects: list[Object]) -> Iterator[str]:
    """Check the labels of pods, which policies and dashboards use."""
    for workload in of_kind(objects, *WORKLOADS):
        expected = {
            "app.kubernetes.io/name": "imagesearch",
            "app.kubernetes.io/component": workload["metadata"]["name"],
        }
        if not expected.items() <= labels(workload).items():
            yield f"{title(workload)}: its pods must have the labels {expected}"


CHECKS: tuple[Callable[[list[Object]], Iterator[str]], ...] = (
    components_are_known,
    selectors_match,
    ports_exist,
    addresses_exist,
    scaling_fits,
    settings_are_known,
    references_exist,
    volumes_are_mounted,
    store_fits,
    pods.problems,
    networks.problems,
    jobs.problems,
    components.problems,
)
