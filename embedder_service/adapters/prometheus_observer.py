"""The embedder's metrics for Prometheus."""

from collections.abc import Iterable
from copy import copy
from functools import partial
from typing import Self

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher
from embedder_service.core.types import Lane, ModelInfo

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
# Results of images that got a vector.
SUCCESSES = ("embedded", "shared", "cached")


class PrometheusObserver:
    """Counts the events of one model; `of` returns the observer of a model.

    The label `model` is empty if a request names a model that is not served.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add the metrics to `registry`."""
        self._model = ""
        self._registry = registry
        self._images = Counter(
            "embedder_images",
            "Images answered, by lane and result: embedded, shared, cached, or the reason of an error.",
            ("model", "lane", "result"),
            registry=registry,
        )
        self._decode = Histogram(
            "embedder_decode_seconds",
            "Time to decode an image.",
            ("model", "lane"),
            buckets=SECONDS,
            registry=registry,
        )
        self._queue = Histogram(
            "embedder_queue_seconds",
            "Time that a decoded image waited in the queue.",
            ("model", "lane"),
            buckets=SECONDS,
            registry=registry,
        )
        self._inference = Histogram(
            "embedder_inference_seconds",
            "Time of a batch in the model.",
            ("model",),
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "embedder_batch_size", "Images in a batch.", ("model",), buckets=SIZES, registry=registry
        )

    def of(self, model: str) -> Self:
        """Return the observer of one model, with all its series at 0.

        Without them, rate() would miss a series' first event, and sums would miss idle models.
        """
        mine = copy(self)
        mine._model = model  # noqa: SLF001 - a copy of this object
        self._inference.labels(model)
        self._batch.labels(model)
        for lane in Lane:
            self._decode.labels(model, lane.value)
            self._queue.labels(model, lane.value)
            for result in SUCCESSES:
                self._images.labels(model, lane.value, result)
        return mine

    def decoded(self, lane: Lane, seconds: float) -> None:
        """An image was decoded in this time."""
        self._decode.labels(self._model, lane.value).observe(seconds)

    def queued(self, lane: Lane, seconds: float) -> None:
        """A decoded image waited this time for its run."""
        self._queue.labels(self._model, lane.value).observe(seconds)

    def batch_ran(self, images: int, seconds: float) -> None:
        """The model ran a batch."""
        self._inference.labels(self._model).observe(seconds)
        self._batch.labels(self._model).observe(images)

    def answered(self, lane: Lane, result: str) -> None:
        """An image was answered."""
        self._images.labels(self._model, lane.value, result).inc()

    def watch(self, models: Iterable[tuple[ModelInfo, Batcher]], admission: Admission) -> None:
        """Add gauges of the models, their queues and the pending images. Each scrape reads the current state."""
        in_flight = Gauge("embedder_images_in_flight", "Images not answered yet.", ("lane",), registry=self._registry)
        for lane in Lane:
            in_flight.labels(lane.value).set_function(partial(admission.in_flight, lane))
        pending = Gauge(
            "embedder_pending_bytes", "Bytes of admitted images that are still in memory.",
            ("lane",), registry=self._registry,
        )  # fmt: skip
        for lane in Lane:
            pending.labels(lane.value).set_function(partial(admission.pending_bytes, lane))
        queue = Gauge("embedder_queue_size", "Decoded images in the queue.", ("model", "lane"), registry=self._registry)
        described = Gauge(
            "embedder_model_info", "1; the labels describe the model.",
            ("model", "fingerprint", "precision", "threads"), registry=self._registry,
        )  # fmt: skip
        cost = Gauge(
            "embedder_seconds_per_image", "Seconds per image of a full batch, measured at start.",
            ("model",), registry=self._registry,
        )  # fmt: skip
        memory = Gauge(
            "embedder_model_memory_bytes", "Growth of the process's memory when the model was loaded.",
            ("model",), registry=self._registry,
        )  # fmt: skip
        for info, batcher in models:
            described.labels(info.name, info.fingerprint, info.precision, str(info.threads)).set(1)
            cost.labels(info.name).set(info.seconds_per_image)
            memory.labels(info.name).set(info.memory_bytes)
            for lane in Lane:
                queue.labels(info.name, lane.value).set_function(partial(batcher.queue_size, lane))
