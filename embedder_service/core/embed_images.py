"""Embeds images: an encoded image goes in, its vector comes out."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

from cachetools import LRUCache

from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher
from embedder_service.core.deadlines import AnyDeadline, deadline_exceeded
from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.held_image import AdmittedImage, Hold
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.model_names import canonical_name
from embedder_service.core.ports import Observer
from embedder_service.core.region_requests import check_request, of_whole_image, within
from embedder_service.core.shared_work import SharedWork
from embedder_service.core.types import (
    Embedding,
    EncodedImage,
    ImageVectors,
    Lane,
    Limits,
    ModelInfo,
    Pixels,
    Region,
    RegionRequest,
)
from embedder_service.core.vector_checks import check_vectors
from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ServiceError, error_for_fault
from grpc_kit.server import stages

# Maximum bytes that are hashed on the event loop: that takes a fraction of a millisecond. More would delay other calls.
MAX_BYTES_HASHED_INLINE = 256 * 1024

# Equal for images with the same vectors: the SHA-256 of the bytes, the region, the fingerprint of the model, and the
# requested regions.
ImageKey: TypeAlias = tuple[bytes, Region | None, str, RegionRequest | None]
# Counts all vectors of an entry: use `new_cache`.
VectorCache: TypeAlias = LRUCache[ImageKey, ImageVectors]


def new_cache(max_vectors: int) -> VectorCache:
    """Return a cache of this many vectors. The vectors of regions count like those of images."""
    return LRUCache(max_vectors, getsizeof=lambda vectors: vectors.count)


@dataclass(frozen=True)
class DecodePool:
    """The decoder of one model, and the threads of one lane."""

    decoder: ImageDecoder
    threads: DecodeThreads


class ModelPipeline:
    """Embeds images with one model: decodes them in threads, then submits them to the batcher."""

    def __init__(
        self,
        info: ModelInfo,
        decoders: Mapping[Lane, DecodePool],
        batcher: Batcher,
        observer: Observer,
    ) -> None:
        """`decoders` has a pool for each lane, so that interactive images do not wait for the images of a bulk load."""
        self.info = info
        self._decoders = decoders
        self._batcher = batcher
        self.observer = observer

    async def key(self, hold: Hold, lane: Lane, request: RegionRequest | None) -> ImageKey:
        """Return the key of an image with this model."""
        region = hold.image.region
        if len(hold.image.content) <= MAX_BYTES_HASHED_INLINE:
            digest = _sha256(hold.image)
        else:
            digest = await self._decoders[lane].threads.run(self.info.name, hold, _sha256)
        return digest, region, self.info.fingerprint, request

    async def embed(self, hold: Hold, lane: Lane, deadline: AnyDeadline, request: RegionRequest | None) -> ImageVectors:
        """Return the checked vectors of one image. Release the image's bytes once they are decoded.

        Raises InvalidArgumentError, DeadlineExceededError, UnavailableError, InternalError.
        """
        requested, pool = time.monotonic(), self._decoders[lane]
        region = hold.image.region
        decode = partial(_decode, pool.decoder, deadline, request)
        pixels, began, ended = await pool.threads.run(self.info.name, hold, decode)
        hold.release()
        stages.record("queue", requested, began)
        stages.record("decode", began, ended)
        self.observer.decoded(lane, ended - began)
        vectors = await self._batcher.submit(pixels, lane, deadline, within(request, region))
        # Before the vectors are cached or shared.
        check_vectors(vectors, self.info, request)
        return of_whole_image(vectors, request, region)


class EmbedImages:
    """Embeds images with the served models: admits, caches and shares."""

    def __init__(
        self,
        pipelines: Mapping[str, ModelPipeline],
        default: str,
        limits: Limits,
        admission: Admission,
        cache: VectorCache | None,
        observer: Observer,
    ) -> None:
        """Serve these models.

        Args:
            pipelines: the models by name.
            default: the name of the default model.
            limits: the limits of an image, for descriptions of models.
            admission: bounds the pending images.
            cache: keeps vectors; None keeps none.
            observer: is notified of each answer to a request for a model that is not in `pipelines`.
        """
        self._pipelines = pipelines
        self.default = default
        self.limits = limits
        self._admission = admission
        self._cache = cache
        self._observer = observer
        self._shared: SharedWork[ImageVectors] = SharedWork()

    async def admit(self, image: EncodedImage, model: str, lane: Lane) -> AdmittedImage:
        """Admit an image for `embed_admitted`. The caller must release it in any case.

        Raises NotFoundError, and ResourceExhaustedError in the interactive lane.
        """
        try:
            return await self._admission.admit(lane, self._pipeline(model).info.name, image)
        except ServiceError as error:
            self._observer_of(model).answered(lane, error.reason)
            raise

    async def embed(
        self, image: EncodedImage, model: str, lane: Lane, deadline: Deadline, request: RegionRequest | None = None
    ) -> Embedding:
        """Return the embedding of one image, with the requested regions. An empty `model` is the default model.

        Raises NotFoundError, ResourceExhaustedError, InvalidArgumentError, DeadlineExceededError, UnavailableError.
        """
        admitted = await self.admit(image, model, lane)
        del image
        try:
            return await self.embed_admitted(admitted, model, lane, deadline, request)
        finally:
            admitted.release()

    async def embed_admitted(
        self,
        admitted: AdmittedImage,
        model: str,
        lane: Lane,
        deadline: Deadline,
        request: RegionRequest | None = None,
    ) -> Embedding:
        """Return the embedding of an image that was admitted for this model. Raises the errors of `embed`."""
        result = "INTERNAL"
        try:
            pipeline = self._pipeline(model)
            if request is not None:
                check_request(request, admitted.hold.image.region, pipeline.info)
            vectors, result = await self._vectors(pipeline, admitted, lane, deadline, request)
            fingerprint = pipeline.info.fingerprint if request is None else pipeline.info.region_fingerprint
            return Embedding(vectors.values, fingerprint, vectors.regions)
        except ServiceError as error:
            result = error.reason
            raise
        except asyncio.CancelledError:
            result = "CANCELLED"
            raise
        except Exception as error:
            result = error_for_fault(error).reason
            raise
        finally:
            self._observer_of(model).answered(lane, result)

    async def _vectors(
        self,
        pipeline: ModelPipeline,
        admitted: AdmittedImage,
        lane: Lane,
        deadline: Deadline,
        request: RegionRequest | None,
    ) -> tuple[ImageVectors, str]:
        key = await pipeline.key(admitted.hold, lane, request)
        cached = self._cache.get(key) if self._cache is not None else None
        if cached is not None:
            return cached, "cached"
        # Now only the work holds the bytes. It may continue for other callers after this caller has left.
        hold = admitted.hold.copy()
        admitted.hold.release()
        vectors, joined = await self._shared.run(
            key, lane, deadline, lambda latest: pipeline.embed(hold, lane, latest, request), hold.release
        )
        # The cache refuses an entry larger than itself.
        if self._cache is not None and vectors.count <= self._cache.maxsize:
            # A copy, because a row of a batch keeps the whole batch in memory.
            self._cache[key] = replace(vectors, values=vectors.values.copy())
        return vectors, "shared" if joined else "embedded"

    def models(self) -> list[ModelInfo]:
        """Return the models in the order of their names."""
        return [self._pipelines[name].info for name in sorted(self._pipelines)]

    def model(self, name: str) -> ModelInfo:
        """Return one model by any spelling of its name; an empty name means the default model. Raises NotFoundError."""
        return self._pipeline(name).info

    def _observer_of(self, model: str) -> Observer:
        pipeline = self._served(model)
        return self._observer if pipeline is None else pipeline.observer

    def _served(self, name: str) -> ModelPipeline | None:
        return self._pipelines.get(name) or self._pipelines.get(canonical_name(name) or self.default)

    def _pipeline(self, name: str) -> ModelPipeline:
        pipeline = self._served(name)
        if pipeline is None:
            served = ", ".join(sorted(self._pipelines))
            raise NotFoundError(
                "MODEL_NOT_FOUND",
                f"no model is called {name[:64]!r}; this server has {served}",
                field="model",
                metadata={"models": served},
            )
        return pipeline


def _decode(
    decoder: ImageDecoder, deadline: AnyDeadline, request: RegionRequest | None, image: EncodedImage
) -> tuple[Pixels, float, float]:
    """Return the pixels, and when decoding began and ended."""
    if deadline.remaining() <= 0:
        raise deadline_exceeded()
    began = time.monotonic()
    return decoder.decode(image, deadline, request), began, time.monotonic()


def _sha256(image: EncodedImage) -> bytes:
    return hashlib.sha256(image.content).digest()
