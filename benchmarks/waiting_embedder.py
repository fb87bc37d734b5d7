"""An embedder whose model only sleeps: `python -m benchmarks.waiting_embedder`.

Everything else is the real service: gRPC, decoding, batching, limits. The CPU is idle while the model "runs", so one
machine can show how a load is distributed over several embedders. The vectors have no meaning.
"""

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from embedder_service.bootstrap import serve
from embedder_service.core.types import ImageVectors, InputPolicy, ModelInfo, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from grpc_kit.server import logging
from grpc_kit.server.process import stop_signals
from grpc_kit.server.settings import load

# About the time of VGG16 on two CPUs with bfloat16.
SECONDS_PER_IMAGE = 0.04
INFO = ModelInfo(
    name="waiting",
    network="waiting",
    dimension=512,
    input=InputPolicy("squash", 224),
    head="none",
    preprocessing="none",
    normalisation="l2",
    weights_sha256="0" * 64,
    precision="float32",
    max_batch_size=8,
    threads=2,
    seconds_per_image=SECONDS_PER_IMAGE,
)


class WaitingModel:
    """Sleeps as long as a network would run, and returns unit vectors that depend on the mean pixel."""

    info = INFO

    def run(self, pixels: Pixels, _requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        """Return vectors, float32[512], of uint8[N, S, S, 3], without regions."""
        time.sleep(SECONDS_PER_IMAGE * len(pixels))
        means = pixels.reshape(len(pixels), -1).mean(axis=1)
        vectors = np.cos(np.outer(means, np.arange(1, INFO.dimension + 1))).astype(np.float32)
        return list(map(ImageVectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)))


async def run(settings: EmbedderSettings) -> None:
    """Serve until a signal stops the process."""
    stop = stop_signals(settings.drain_seconds)
    async with serve([WaitingModel()], settings):
        await stop.wait()


if __name__ == "__main__":
    options = load(EmbedderSettings, "python -m benchmarks.waiting_embedder")
    logging.configure(options.log_format, options.log_level, "waiting_embedder")
    asyncio.run(run(options))
