"""Liveness fails when the thread that runs the model has died."""

import dataclasses
import io
from collections.abc import Sequence

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2
from imagesearch.embedder.v1 import embedder_pb2_grpc
from PIL import Image

from benchmarks.waiting_embedder import INFO
from embedder_service.bootstrap import serve
from embedder_service.core.types import ImageVectors, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from grpc_kit.health import LIVENESS
from tests.integration.embedder.helpers import embed_request
from tests.integration.embedder.test_service import health_of


class DyingModel:
    """Its first run ends the thread that it runs in."""

    info = dataclasses.replace(INFO, name="dying", max_batch_size=1)

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        raise GeneratorExit(np.shape(pixels))


async def test_liveness_follows_the_worker() -> None:
    content = io.BytesIO()
    Image.new("RGB", (8, 8)).save(content, "png")
    settings = EmbedderSettings(listen_address="127.0.0.1:0")
    async with serve([DyingModel()], settings) as address, grpc.aio.insecure_channel(address) as channel:
        assert await health_of(channel, LIVENESS) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await embedder_pb2_grpc.EmbedderServiceStub(channel).Embed(embed_request(content.getvalue()))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        for name in ("", LIVENESS):
            assert await health_of(channel, name) == health_pb2.HealthCheckResponse.NOT_SERVING
