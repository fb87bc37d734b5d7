"""Read the metrics that the services expose to Prometheus from their registries."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from imagesearch.embedder.v1 import embedder_pb2
from imagesearch.search.v1 import codes_pb2, collection_pb2, image_pb2, search_pb2
from prometheus_client import CollectorRegistry

from embedder_service.adapters.prometheus_observer import PrometheusObserver
from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.types import ImageVectors, InputPolicy, Lane, ModelInfo, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from grpc_kit.server.budget import Limit
from grpc_kit.server.grpc_server import Server
from grpc_kit.server.interceptors.call_observer import CallMetrics
from grpc_kit.server.metrics import new_registry
from search_service.adapters.sweep_metrics import orphaned_regions_deleted

SERVICES = [
    service
    for module in (embedder_pb2, codes_pb2, collection_pb2, image_pb2, search_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
]
METHODS = {method.name: method for service in SERVICES for method in service.methods}
STAGES = ("queue", "decode", "inference", "embed", "store", "coarse", "fine")
MODEL = ModelInfo("vgg16", "vgg16", 512, InputPolicy("squash", 224), "avg", "v1", "l2", "digest", "float32", 8, 2, 0.1)


@cache
def exposed() -> dict[str, dict[str, set[str]]]:
    """Return, for each metric name, its labels, and for each label its values in these registries."""
    found: dict[str, dict[str, set[str]]] = {}
    for registry in (asyncio.run(_server()), _calls(), _embedder(), _search()):
        for family in registry.collect():
            for sample in family.samples:
                labels = found.setdefault(sample.name, defaultdict(set))
                for label, value in sample.labels.items():
                    labels[label].add(value)
    return found


async def _server() -> CollectorRegistry:
    """Return the metrics of a server before its first call."""
    registry = new_registry()
    Server([], EmbedderSettings(), "domain", registry)
    return registry


def _search() -> CollectorRegistry:
    """Return the metrics of the search service alone."""
    registry = CollectorRegistry()
    orphaned_regions_deleted(registry)
    return registry


def _calls() -> CollectorRegistry:
    """Return the metrics of a server after a call of each method."""
    registry = CollectorRegistry()
    metrics = CallMetrics(registry)
    for method in METHODS.values():
        labels = method.containing_service.full_name, method.name
        metrics.started.labels(*labels).inc()
        metrics.in_flight.labels(*labels).inc()
        metrics.handled.labels(*labels, "OK").inc()
        metrics.refused.labels(*labels, "OVERLOADED").inc()
        metrics.seconds.labels(*labels).observe(1)
        for stage in STAGES:
            metrics.stage_seconds.labels(*labels, stage).observe(1)
    return registry


def _embedder() -> CollectorRegistry:
    """Return the metrics of the embedder after an image in each lane."""
    registry = CollectorRegistry()
    observer = PrometheusObserver(registry)
    with ThreadPoolExecutor(1) as executor:
        batcher = Batcher(_run, BatchPolicy(8, 2), InferenceSlot(executor), observer)
        limit = Limit(1, 1)
        observer.watch([(MODEL, batcher)], Admission(limit, limit, {MODEL.name: 1}))
    observer.of(MODEL.name).batch_ran(1, 1)
    for lane in Lane:
        observer.decoded(lane, 1)
        observer.of(MODEL.name).queued(lane, 1)
        observer.answered(lane, "embedded")
    return registry


def _run(_: Pixels, __: Sequence[RegionRequest | None]) -> list[ImageVectors]:
    raise NotImplementedError
