"""Calls for regions are cached, shared, limited, counted and ended as calls for whole images are.

The feature map of the model is the image itself, so that the tests know every vector. Everything else is the service.
"""

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc import error_details_pb2, status_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from PIL import Image

from benchmarks.waiting_embedder import INFO
from demo.local_stack import free_port
from embedder_service.bootstrap import serve
from embedder_service.core.heads import FeatureMaps, maximum, unit_length
from embedder_service.core.regions import regions_of
from embedder_service.core.types import ImageVectors, InputPolicy, Pixels, RegionRequest, Vectors
from embedder_service.settings import EmbedderSettings
from grpc_kit.server import hang_watch
from tests.harness.processes import metric
from tests.integration.embedder.helpers import Stub, embed_request, info_of, png, status_of, until

STEP, DIMENSION = 32, 2048
AT_MOST = 20
WHOLE = encoded_image_pb2.Region(x0=0, y0=0, x1=1, y1=1)
LEFT = encoded_image_pb2.Region(x0=0, y0=0, x1=0.5, y1=1)


class PixelModel:
    """Its feature map has the pixel of each cell, repeated. It runs while its gate is open."""

    info = dataclasses.replace(
        INFO, name="pixels", dimension=DIMENSION, input=InputPolicy("native", 512), head="max", max_batch_size=1,
        seconds_per_image=0.0,
    )  # fmt: skip

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs = 0

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        self.runs += 1
        assert self.gate.wait(AT_MOST)
        maps = np.pad(pixels[:, ::STEP, ::STEP].astype(np.float32), [(0, 0), (0, 0), (0, 0), (0, 1)])
        maps = np.tile(maps, DIMENSION // 4)
        return [
            ImageVectors(vector, None if request is None else regions_of(one, request, vectors_of))
            for vector, one, request in zip(vectors_of(maps), maps, requests, strict=True)
        ]


def vectors_of(maps: FeatureMaps) -> Vectors:
    return unit_length(maximum(maps))


class Service:
    """A served PixelModel."""

    def __init__(self, model: PixelModel, stub: Stub, metrics_address: str) -> None:
        self.model = model
        self.stub = stub
        self._metrics_address = metrics_address

    async def answered(self, result: str, lane: str = "interactive") -> float:
        return await asyncio.to_thread(
            metric, self._metrics_address, "embedder_images_total", model="pixels", lane=lane, result=result
        )


@asynccontextmanager
async def served(**options: Any) -> AsyncIterator[Service]:
    model, metrics_address = PixelModel(), f"127.0.0.1:{free_port()}"
    settings = EmbedderSettings(listen_address="127.0.0.1:0", metrics_address=metrics_address, **options)
    async with AsyncExitStack() as stack:
        address = await stack.enter_async_context(serve([model], settings))
        stack.callback(model.gate.set)
        # gRPC's default options: no message above 4 MiB.
        channel = await stack.enter_async_context(
            grpc.aio.insecure_channel(address, [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)])
        )
        yield Service(model, embedder_pb2_grpc.EmbedderServiceStub(channel), metrics_address)


def noise(seed: int, width: int = 512, height: int = 512) -> bytes:
    return png(Image.fromarray(np.random.default_rng(seed).integers(1, 256, (height, width, 3), dtype=np.uint8)))


def request_for(
    content: bytes, max_regions: int = 8, boxes: Sequence[encoded_image_pb2.Region] = ()
) -> embedder_pb2.EmbedRegionsRequest:
    return embedder_pb2.EmbedRegionsRequest(
        image=encoded_image_pb2.EncodedImage(content=content),
        options=embedder_pb2.RegionOptions(max_regions=max_regions, boxes=boxes),
    )


def item_of(request: embedder_pb2.EmbedRegionsRequest, request_id: str = "") -> embedder_pb2.EmbedStreamRequest:
    return embedder_pb2.EmbedStreamRequest(request_id=request_id, image=request.image, regions=request.options)


async def test_a_repeated_request_is_answered_from_the_cache_and_another_one_is_not() -> None:
    async with served(cache_vectors=100) as at:
        content = noise(1)
        requests = [request_for(content, count, boxes) for count in (0, 4) for boxes in ((), (LEFT,))]
        first = [await at.stub.EmbedRegions(request) for request in requests]
        plain = await at.stub.Embed(embed_request(content))
        assert at.model.runs == 5
        assert [await at.stub.EmbedRegions(request) for request in requests] == first
        assert await at.stub.Embed(embed_request(content)) == plain
        # Bulk requests use the same cache.
        (answer,) = [answer async for answer in at.stub.EmbedStream(iter([item_of(requests[3])]))]
        assert answer.regions == first[3].regions
        assert at.model.runs == 5
        assert (await at.answered("embedded"), await at.answered("cached")) == (5, 5)
        assert await at.answered("cached", "bulk") == 1


async def test_the_cache_counts_the_vectors_of_regions() -> None:
    async with served(cache_vectors=12) as at:
        requests = [request_for(noise(seed), 4) for seed in (1, 2, 3)]
        for request in requests:
            assert len((await at.stub.EmbedRegions(request)).regions.proposals) == 4
        # Two images of 5 vectors fit, and three do not.
        await at.stub.EmbedRegions(requests[2])
        await at.stub.EmbedRegions(requests[1])
        assert at.model.runs == 3
        await at.stub.EmbedRegions(requests[0])
        assert at.model.runs == 4
        # More vectors than the cache can hold.
        for _ in range(2):
            assert len((await at.stub.EmbedRegions(request_for(noise(4), 20))).regions.proposals) == 20
        assert at.model.runs == 6


async def test_equal_requests_in_flight_run_once() -> None:
    async with served() as at:
        at.model.gate.clear()
        content = noise(1)
        calls = [asyncio.ensure_future(at.stub.EmbedRegions(request_for(content, 4))) for _ in range(5)]
        other = asyncio.ensure_future(at.stub.EmbedRegions(request_for(content, 5)))
        plain = asyncio.ensure_future(at.stub.Embed(embed_request(content)))
        await until(lambda: at.model.runs == 1)
        await asyncio.sleep(0.2)
        at.model.gate.set()
        answers = await asyncio.gather(*calls)
        assert answers == [answers[0]] * 5
        assert (await other).regions.proposals[:4] == answers[0].regions.proposals
        assert (await plain).embedding.values == answers[0].regions.image.values
        assert at.model.runs == 3
        assert (await at.answered("embedded"), await at.answered("shared")) == (3, 4)


async def refusal(at: Service, request: embedder_pb2.EmbedRegionsRequest, method: str) -> status_pb2.Status:
    if method == "EmbedStream":
        (answer,) = [answer async for answer in at.stub.EmbedStream(iter([item_of(request)]))]
        return answer.error
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await at.stub.EmbedRegions(request)
    return status_of(refused.value)


def field_of(status: status_pb2.Status) -> str:
    wrong = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(wrong)
    return str(wrong.field_violations[0].field)


HALF_BLACK = Image.new("RGB", (512, 512))
HALF_BLACK.paste((200, 100, 50), (256, 0, 512, 512))


@pytest.mark.parametrize(("method", "options"), [("EmbedRegions", "options"), ("EmbedStream", "regions")])
async def test_a_zero_vector_of_a_box_is_an_error_of_that_box(method: str, options: str) -> None:
    async with served() as at:
        refused = await refusal(at, request_for(png(HALF_BLACK), 0, [WHOLE, LEFT]), method)
        assert info_of(refused).reason == "IMAGE_WITHOUT_VECTOR"
        assert field_of(refused) == f"{options}.boxes[1]"
        assert f"the vector of {options}.boxes[1] is all zero" in refused.message


async def test_proposals_without_a_vector_are_left_out() -> None:
    async with served() as at:
        found = (await at.stub.EmbedRegions(request_for(png(HALF_BLACK), 64))).regions
        assert len(found.proposals) > 3
        assert all(np.linalg.norm(each.values) == pytest.approx(1, abs=1e-5) for each in found.proposals)
        # Windows over the black half only would have none.
        assert all(each.box.x1 > 0.5 for each in found.proposals)


WRONG_PART = encoded_image_pb2.Region(x0=0.5, y0=0, x1=float("nan"), y1=1)


@pytest.mark.parametrize("method", ["EmbedRegions", "EmbedStream"])
async def test_a_wrong_part_is_reported_before_boxes_that_are_outside_of_it(method: str) -> None:
    async with served() as at:
        request = request_for(noise(1), 1, [LEFT])
        request.image.region.CopyFrom(WRONG_PART)
        refused = await refusal(at, request, method)
        assert (info_of(refused).reason, field_of(refused)) == ("REGION_INVALID", "image.region")


@pytest.mark.parametrize("size", [(1, 1), (32, 32), (20_000, 300)])
async def test_images_of_every_shape_have_regions(size: tuple[int, int]) -> None:
    async with served() as at:
        found = (await at.stub.EmbedRegions(request_for(noise(1, *size), 64, [WHOLE]))).regions
        assert found.boxes[0].values == found.image.values
        boxes = [each.box for each in found.proposals] + [found.salient_box]
        assert all(0 <= box.x0 < box.x1 <= 1 and 0 <= box.y0 < box.y1 <= 1 for box in boxes)


async def test_the_largest_response_fits_into_grpcs_default_limit() -> None:
    async with served() as at:
        response = await at.stub.EmbedRegions(request_for(noise(1), 64, [LEFT] * 64))
        assert len(response.regions.boxes) == 64
        assert len(response.regions.proposals) > 32
        # With 64 proposals of the largest dimension of a network.
        assert (1 + 64 + 64) * (DIMENSION * 4 + 64) < 4 * 1024 * 1024


async def test_a_stream_that_reads_nothing_keeps_few_vectors() -> None:
    size = 33 * DIMENSION * 4
    async with served(stream_unread_bytes=2 * size, stream_window=64) as at:
        requests = [item_of(request_for(noise(seed), 0, [LEFT] * 32), str(seed)) for seed in range(40)]
        stream = at.stub.EmbedStream(iter(requests))
        answers = aiter(stream)
        names = {(await anext(answers)).request_id}
        await no_more_runs(at.model)
        # Two responses wait, and gRPC holds a few.
        assert at.model.runs < 20
        names |= {answer.request_id async for answer in answers}
        assert len(names) == 40


async def no_more_runs(model: PixelModel) -> None:
    runs = -1
    while runs != model.runs:
        runs = model.runs
        await asyncio.sleep(1)


async def test_a_deadline_passes_while_the_model_runs() -> None:
    async with served() as at:
        at.model.gate.clear()
        with pytest.raises(grpc.aio.AioRpcError) as late:
            await at.stub.EmbedRegions(request_for(noise(1)), timeout=0.5)
        assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        at.model.gate.set()
        assert (await at.stub.EmbedRegions(request_for(noise(1)), timeout=AT_MOST)).regions.proposals


async def test_a_call_in_flight_is_answered_while_the_server_stops() -> None:
    model = PixelModel()
    model.gate.clear()
    service = serve([model], EmbedderSettings(listen_address="127.0.0.1:0"))
    async with grpc.aio.insecure_channel(await service.__aenter__()) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        call = asyncio.ensure_future(stub.EmbedRegions(request_for(noise(1))))
        await until(lambda: model.runs == 1)
        stopping = asyncio.create_task(service.__aexit__(None, None, None))
        await asyncio.sleep(0.5)
        assert not stopping.done()
        model.gate.set()
        assert len((await call).regions.proposals) == 8
        await stopping


async def test_a_full_lane_refuses_calls_for_regions() -> None:
    async with served(max_pending=1) as at:
        at.model.gate.clear()
        call = asyncio.ensure_future(at.stub.EmbedRegions(request_for(noise(1))))
        await until(lambda: at.model.runs == 1)
        assert info_of(await refusal(at, request_for(noise(2)), "EmbedRegions")).reason == "OVERLOADED"
        at.model.gate.set()
        await call
        assert await at.answered("OVERLOADED") == 1


async def test_a_hung_run_fails_calls_for_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_watch, "TICK", 0.05)
    async with served(hang_timeout_seconds=0.4, drain_seconds=1) as at:
        at.model.gate.clear()
        for seed in (1, 2):
            assert info_of(await refusal(at, request_for(noise(seed)), "EmbedRegions")).reason == "WORKER_DIED"
