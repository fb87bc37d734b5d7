"""Metrics with one, two and five models: each model has its own series from the start."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias
from urllib.request import urlopen

import grpc
import numpy as np
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from prometheus_client.parser import text_string_to_metric_families

from demo.local_stack import free_port
from embedder_service.bootstrap import serve
from embedder_service.core.types import ImageVectors, InputPolicy, Lane, ModelInfo, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from tests.integration.embedder.helpers import Stub, answers, plain_image

Labels: TypeAlias = frozenset[tuple[str, str]]
Series: TypeAlias = dict[tuple[str, Labels], float]

SIDE = 32
UNKNOWN = "none-such"
CORRUPT = b"no image"
# The metrics of each model, and whether the lanes have series of their own.
PER_MODEL = {
    "embedder_images_total": True,
    "embedder_decode_seconds_count": True,
    "embedder_queue_seconds_count": True,
    "embedder_queue_size": True,
    "embedder_inference_seconds_count": False,
    "embedder_batch_size_sum": False,
    "embedder_seconds_per_image": False,
    "embedder_model_memory_bytes": False,
    "embedder_model_info": False,
}
SHARED = {"embedder_images_in_flight", "embedder_pending_bytes"}


class MeanColour:
    """A model whose vector is the mean colour of an image."""

    def __init__(self, number: int) -> None:
        self.info = ModelInfo(
            f"mean-{number}", "mean", 3, InputPolicy("squash", SIDE), "avg", "v1", "none", f"{number:064}", "float32",
            max_batch_size=4, threads=2, seconds_per_image=0.5 + number, memory_bytes=number,
        )  # fmt: skip

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        return list(map(ImageVectors, pixels.mean(axis=(1, 2), dtype=np.float32)))


@dataclass(frozen=True)
class Served:
    """An embedder in this process."""

    models: list[str]
    stub: Stub
    metrics_url: str

    async def series(self) -> Series:
        """Return every series of the embedder's own metrics."""
        text = await asyncio.to_thread(lambda: urlopen(self.metrics_url, timeout=10).read().decode())  # noqa: S310
        return {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith("embedder_") and not sample.name.endswith("_created")
        }


@asynccontextmanager
async def serving(models: int, *, max_pending: int = 64) -> AsyncIterator[Served]:
    metrics = f"127.0.0.1:{free_port()}"
    loaded = [MeanColour(number) for number in range(models)]
    settings = EmbedderSettings(
        listen_address="127.0.0.1:0", metrics_address=metrics, cache_vectors=0, max_pending=max_pending
    )
    async with (
        serve(loaded, settings) as address,
        grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel,
    ):
        names = [model.info.name for model in loaded]
        yield Served(names, embedder_pb2_grpc.EmbedderServiceStub(channel), f"http://{metrics}/metrics")


def of(series: Series, metric: str) -> dict[tuple[str, ...], float]:
    """Return the values of a metric by its labels model, lane and result, of which some may be absent."""
    return {
        tuple(dict(labels)[name] for name in ("model", "lane", "result") if name in dict(labels)): value
        for (found, labels), value in series.items()
        if found == metric
    }


@pytest.mark.parametrize("models", [1, 2, 5])
async def test_every_model_has_its_series_before_the_first_image(models: int) -> None:
    async with serving(models) as served:
        series = await served.series()
    for metric, by_lane in PER_MODEL.items():
        values = of(series, metric)
        assert {(key[0], *key[1:2]) for key in values} == {
            (model, *lane)
            for model in served.models
            for lane in ([(each.value,) for each in Lane] if by_lane else [()])
        }, metric
    assert of(series, "embedder_images_total") == {
        (model, lane.value, result): 0
        for model in served.models
        for lane in Lane
        for result in ("embedded", "shared", "cached")
    }
    assert {name for name, labels in series if "model" not in dict(labels)} == SHARED
    costs = of(series, "embedder_seconds_per_image")
    assert costs == {(f"mean-{number}",): 0.5 + number for number in range(models)}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("models", [1, 2, 5])
async def test_requests_are_counted_for_their_own_model(models: int, seed: int) -> None:
    random_ = random.Random(seed)
    async with serving(models) as served:
        requests = [
            (
                # An empty name is the first model.
                random_.choice([*served.models, "", UNKNOWN]),
                random_.choice(list(Lane)),
                CORRUPT if random_.random() < 0.2 else plain_image(number),
            )
            for number in range(60)
        ]
        await asyncio.gather(*(ask(served.stub, number, *request) for number, request in enumerate(requests)))
        series = await served.series()

    expected: Counter[tuple[str, ...]] = Counter()
    for asked, lane, content in requests:
        model = "" if asked == UNKNOWN else asked or served.models[0]
        refusal = "MODEL_NOT_FOUND" if asked == UNKNOWN else "IMAGE_FORMAT_UNSUPPORTED" if content is CORRUPT else ""
        expected[model, lane.value, refusal or "embedded"] += 1
    images = of(series, "embedder_images_total")
    assert {key: value for key, value in images.items() if value} == expected
    embedded = {
        (model, lane.value): expected[model, lane.value, "embedded"] for model in served.models for lane in Lane
    }
    assert of(series, "embedder_queue_seconds_count") == embedded
    assert of(series, "embedder_decode_seconds_count") == embedded
    runs = {(model,): sum(embedded[model, lane.value] for lane in Lane) for model in served.models}
    assert of(series, "embedder_batch_size_sum") == runs
    assert of(series, "embedder_inference_seconds_count") == of(series, "embedder_batch_size_count")


@pytest.mark.parametrize("models", [1, 2, 5])
async def test_a_refusal_is_counted_for_the_requested_model(models: int) -> None:
    async with serving(models, max_pending=1) as served:
        last = served.models[-1]
        refusals = 0
        while not refusals:
            calls = [ask(served.stub, number, last, Lane.INTERACTIVE, plain_image(number)) for number in range(20)]
            refusals = sum(code is grpc.StatusCode.RESOURCE_EXHAUSTED for code in await asyncio.gather(*calls))
        images = of(await served.series(), "embedder_images_total")
    assert {key: value for key, value in images.items() if key[2] == "OVERLOADED"} == {
        (last, "interactive", "OVERLOADED"): refusals
    }


async def ask(stub: Stub, number: int, model: str, lane: Lane, content: bytes) -> grpc.StatusCode:
    image = encoded_image_pb2.EncodedImage(content=content)
    if lane is Lane.BULK:
        await answers(stub, [embedder_pb2.EmbedStreamRequest(request_id=str(number), model=model, image=image)])
        return grpc.StatusCode.OK
    try:
        await stub.Embed(embedder_pb2.EmbedRequest(model=model, image=image))
    except grpc.aio.AioRpcError as error:
        return error.code()
    return grpc.StatusCode.OK
