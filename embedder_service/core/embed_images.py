"""The embedder's one job: an encoded image goes in, its vector comes out."""

import asyncio
import hashlib
import time
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher, TimeLeft, out_of_time
from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.held_image import AdmittedImage, Hold
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.model_names import same_name
from embedder_service.core.ports import Observer
from embedder_service.core.sharing import SharedWork
from embedder_service.core.types import Embedding, EncodedImage, Lane, Limits, ModelInfo, Pixels, Region, Vectors
from embedder_service.core.vector_checks import check_vector
from grpc_kit.deadline import Deadline
from grpc_kit.errors import NotFoundError, ServiceError, error_for_fault
from grpc_kit.server import stages

# Bytes that are hashed on the event loop, in a fraction of a millisecond; more would hold up other calls.
HASHED_AT_ONCE = 256 * 1024

# What makes two images one: the SHA-256 of the bytes, the region, and the fingerprint of the model.
ImageKey: TypeAlias = tuple[bytes, Region | None, str]
VectorCache: TypeAlias = MutableMapping[ImageKey, Vectors]


@dataclass(frozen=True)
class DecodePool:
    """Decoder and threads of a lane for one model."""

    decoder: ImageDecoder
    threads: DecodeThreads


class ModelPipeline:
    """One model with what leads to it: decode in a pool of threads, then wait for a batch."""

    def __init__(
        self,
        info: ModelInfo,
        decoders: Mapping[Lane, DecodePool],
        batcher: Batcher,
        observer: Observer,
    ) -> None:
        """`decoders` has a pool for each lane: behind the large images of a load nobody should have to wait."""
        self.info = info
        self._decoders = decoders
        self._batcher = batcher
        self.observer = observer

    async def key(self, hold: Hold, lane: Lane) -> ImageKey:
        """Names what the vector depends on."""
        region = hold.image.region
        if len(hold.image.content) <= HASHED_AT_ONCE:
            digest = _sha256(hold.image)
        else:
            digest = await self._decoders[lane].threads.run(self.info.name, hold, _sha256)
        return digest, region, self.info.fingerprint

    async def embed(self, hold: Hold, lane: Lane, patience: TimeLeft) -> Vectors:
        """Embed one image as float32[D], a vector that the contract allows. Releases its bytes once they are decoded.

        Raises InvalidArgumentError, DeadlineExceededError, UnavailableError, InternalError.
        """
        asked, pool = time.monotonic(), self._decoders[lane]
        pixels, began, ended = await pool.threads.run(self.info.name, hold, partial(_decode, pool.decoder, patience))
        hold.release()
        stages.record("queue", asked, began)
        stages.record("decode", began, ended)
        self.observer.decoded(lane, ended - began)
        vector = await self._batcher.submit(pixels, lane, patience)
        # Checked before it is cached or shared, so that only the callers of this image are refused.
        check_vector(vector, self.info)
        return vector


class EmbedImages:
    """The models that are served, and who may use them when."""

    def __init__(
        self,
        pipelines: Mapping[str, ModelPipeline],
        default: str,
        limits: Limits,
        admission: Admission,
        cache: VectorCache | None,
        observer: Observer,
    ) -> None:
        """Serves some models.

        Args:
            pipelines: by the model's name.
            default: the name of the model that answers where none is named.
            limits: what is said of the largest image.
            admission: bounds what is under way.
            cache: keeps vectors; what it forgets is embedded again. None keeps nothing.
            observer: is notified of each answer to a request for a model that is not in `pipelines`.
        """
        self._pipelines = pipelines
        self.default = default
        self.limits = limits
        self._admission = admission
        self._cache = cache
        self._observer = observer
        self._shared: SharedWork[Vectors] = SharedWork()

    async def admit(self, image: EncodedImage, model: str, lane: Lane) -> AdmittedImage:
        """Admit an image for `embed_admitted`. The caller must call its `leave` in any case.

        Raises NotFoundError, and ResourceExhaustedError in the interactive lane.
        """
        try:
            return await self._admission.enter(lane, self._pipeline(model).info.name, image)
        except ServiceError as error:
            self._observer_of(model).answered(lane, error.reason)
            raise

    async def embed(self, image: EncodedImage, model: str, lane: Lane, deadline: Deadline) -> Embedding:
        """Embeds one image with a model; an empty name is the default one.

        Raises NotFoundError, ResourceExhaustedError, InvalidArgumentError, DeadlineExceededError, UnavailableError.
        """
        admitted = await self.admit(image, model, lane)
        del image
        try:
            return await self.embed_admitted(admitted, model, lane, deadline)
        finally:
            admitted.leave()

    async def embed_admitted(self, admitted: AdmittedImage, model: str, lane: Lane, deadline: Deadline) -> Embedding:
        """Embed one image that was admitted for this model. Raises the errors of `embed`."""
        result = "INTERNAL"
        try:
            pipeline = self._pipeline(model)
            vector, result = await self._vector(pipeline, admitted, lane, deadline)
            return Embedding(vector, pipeline.info.fingerprint)
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

    async def _vector(
        self, pipeline: ModelPipeline, admitted: AdmittedImage, lane: Lane, deadline: Deadline
    ) -> tuple[Vectors, str]:
        key = await pipeline.key(admitted.hold, lane)
        cached = self._cache.get(key) if self._cache is not None else None
        if cached is not None:
            return cached, "cached"
        # From here on only the work holds the bytes: it may continue for other callers when this caller has left.
        hold = admitted.hold.copy()
        admitted.hold.release()
        vector, joined = await self._shared.run(
            key, lane, deadline, lambda patience: pipeline.embed(hold, lane, patience), hold.release
        )
        if self._cache is not None:
            # A copy: what the network gave is a row that would keep its whole batch in memory.
            self._cache[key] = vector.copy()
        return vector, "shared" if joined else "embedded"

    def models(self) -> list[ModelInfo]:
        """The models by name."""
        return [self._pipelines[name].info for name in sorted(self._pipelines)]

    def model(self, name: str) -> ModelInfo:
        """Return one model by any spelling of its name; an empty name means the default model. Raises NotFoundError."""
        return self._pipeline(name).info

    def _observer_of(self, model: str) -> Observer:
        pipeline = self._served(model)
        return self._observer if pipeline is None else pipeline.observer

    def _served(self, name: str) -> ModelPipeline | None:
        return self._pipelines.get(name) or self._pipelines.get(same_name(name) or self.default)

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


def _decode(decoder: ImageDecoder, patience: TimeLeft, image: EncodedImage) -> tuple[Pixels, float, float]:
    """The pixels, and when decoding began and ended."""
    if patience.remaining() <= 0:
        raise out_of_time()
    began = time.monotonic()
    return decoder.decode(image, patience), began, time.monotonic()


def _sha256(image: EncodedImage) -> bytes:
    return hashlib.sha256(image.content).digest()
