"""The embedder's one job: an encoded image goes in, its vector comes out."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor

from embedder_service.core.batching import Batcher
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.types import Embedding, EncodedImage, Lane, Limits, ModelInfo
from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ResourceExhaustedError


class Admission:
    """Bounds the images under way in each lane: the interactive lane refuses when it is full, the bulk lane waits."""

    def __init__(self, interactive: int, bulk: int) -> None:
        """The most images under way at a time, by lane."""
        self._limit = interactive
        self._admitted = 0
        self._bulk = asyncio.Semaphore(bulk)

    async def enter(self, lane: Lane) -> None:
        """Takes a place. Raises ResourceExhaustedError in the interactive lane."""
        if lane is Lane.BULK:
            await self._bulk.acquire()
            return
        if self._admitted >= self._limit:
            raise ResourceExhaustedError(
                "OVERLOADED",
                f"{self._limit} images wait already; try again later, or use EmbedStream, which waits",
                metadata={"max_pending": str(self._limit)},
                retry_after=1.0,
            )
        self._admitted += 1

    def leave(self, lane: Lane) -> None:
        """Gives a place back."""
        if lane is Lane.BULK:
            self._bulk.release()
        else:
            self._admitted -= 1


class ModelPipeline:
    """One model with what leads to it: decode in a pool of threads, then wait for a batch."""

    def __init__(
        self, info: ModelInfo, decoder: ImageDecoder, decoders: Mapping[Lane, Executor], batcher: Batcher
    ) -> None:
        """`decoders` has a pool for each lane: behind the large images of a load nobody should have to wait."""
        self.info = info
        self._decoder = decoder
        self._decoders = decoders
        self._batcher = batcher

    async def embed(self, image: EncodedImage, lane: Lane, deadline: Deadline) -> Embedding:
        """Embeds one image. Raises InvalidArgumentError, DeadlineExceededError."""
        loop = asyncio.get_running_loop()
        pixels = await loop.run_in_executor(self._decoders[lane], self._decoder.decode, image)
        vector = await self._batcher.submit(pixels, lane, deadline)
        return Embedding(vector, self.info.fingerprint)


class EmbedImages:
    """The models that are served, and who may use them when."""

    def __init__(
        self, pipelines: Mapping[str, ModelPipeline], default: str, limits: Limits, admission: Admission
    ) -> None:
        """`default` is the name of the model that answers where none is named."""
        self._pipelines = pipelines
        self.default = default
        self.limits = limits
        self._admission = admission

    async def embed(self, image: EncodedImage, model: str, lane: Lane, deadline: Deadline) -> Embedding:
        """Embeds one image with a model; an empty name is the default one.

        Raises NotFoundError, ResourceExhaustedError, InvalidArgumentError, DeadlineExceededError.
        """
        pipeline = self._pipeline(model)
        await self._admission.enter(lane)
        try:
            return await pipeline.embed(image, lane, deadline)
        finally:
            self._admission.leave(lane)

    def models(self) -> list[ModelInfo]:
        """The models by name."""
        return [self._pipelines[name].info for name in sorted(self._pipelines)]

    def model(self, name: str) -> ModelInfo:
        """One model; an empty name is the default one. Raises NotFoundError."""
        return self._pipeline(name).info

    def _pipeline(self, name: str) -> ModelPipeline:
        pipeline = self._pipelines.get(name or self.default)
        if pipeline is None:
            served = ", ".join(sorted(self._pipelines))
            raise NotFoundError(
                "MODEL_NOT_FOUND",
                f"no model is called {name[:64]!r}; this server has {served}",
                field="model",
                metadata={"models": served},
            )
        return pipeline
