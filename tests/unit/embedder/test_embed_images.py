"""EmbedImages: admission, sharing of equal images, the cache, and the reported results."""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import Any, Protocol

import numpy as np
import pytest
from PIL import Image

from embedder_service.core.admission import Admission
from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.deadlines import AnyDeadline
from embedder_service.core.decode_threads import DecodeThreads
from embedder_service.core.embed_images import (
    MAX_BYTES_HASHED_INLINE,
    DecodePool,
    EmbedImages,
    ModelPipeline,
    VectorCache,
    new_cache,
)
from embedder_service.core.image_decoding import ImageDecoder, PixelBudget
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.types import (
    Embedding,
    EncodedImage,
    InputPolicy,
    Lane,
    Limits,
    ModelInfo,
    Pixels,
    Region,
    RegionRequest,
    Vectors,
)
from grpc_kit.deadline import Deadline
from grpc_kit.errors import (
    DeadlineExceededError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    ResourceExhaustedError,
)
from grpc_kit.server import stages
from grpc_kit.server.budget import Limit
from tests.unit.embedder.doubles import RecordingObserver, settle, until, without_regions

NEVER = Deadline.after(None)
PASSED = Deadline(0.0)
LIMITS = Limits(max_image_bytes=1_000_000, max_image_pixels=1_000_000)
INFO = ModelInfo(
    name="mean",
    network="mean",
    dimension=3,
    input=InputPolicy("squash", 4),
    head="avg",
    preprocessing="none/1",
    normalisation="none",
    weights_sha256="0" * 64,
    precision="float32",
    max_batch_size=4,
    threads=1,
)


class MeanColour:
    """A fake model: a vector is the image's mean colour, times a factor. It runs while its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.images = 0
        self.fails = False

    def embed(self, pixels: Pixels, factor: int) -> Vectors:
        self.images += len(pixels)
        assert self.gate.wait(20)
        if self.fails:
            raise RuntimeError
        vectors: Vectors = factor * pixels.mean(axis=(1, 2), dtype=np.float32)
        return vectors


class CountingDecoder(ImageDecoder):
    """Counts its images. It decodes while its gate is open."""

    def __init__(self, policy: InputPolicy, limits: Limits, budget: PixelBudget) -> None:
        super().__init__(policy, limits, budget)
        self.images = 0
        self.gate = threading.Event()
        self.gate.set()

    def decode(self, image: EncodedImage, deadline: AnyDeadline, request: RegionRequest | None = None) -> Pixels:
        self.images += 1
        assert self.gate.wait(20)
        return super().decode(image, deadline, request)


class Bench:
    """The objects under test."""

    def __init__(
        self, images: EmbedImages, admission: Admission, observer: RecordingObserver, decoder: CountingDecoder
    ) -> None:
        self.images = images
        self.admission = admission
        self.observer = observer
        self.decoder = decoder

    async def send(
        self, image: EncodedImage, lane: Lane = Lane.INTERACTIVE, *, model: str = "", deadline: Deadline = NEVER
    ) -> "asyncio.Task[Embedding]":
        """Start a caller. It waits when this returns."""
        task = asyncio.create_task(self.images.embed(image, model, lane, deadline))
        await settle()
        return task

    def results(self) -> list[str]:
        """Return the results that the observer received."""
        return [result for _, result in self.observer.answers]


class Serving(Protocol):
    """Creates benches."""

    def __call__(
        self, interactive: int = 64, bulk: int = 64, *, cache: VectorCache | None = None
    ) -> AbstractAsyncContextManager[Bench]: ...


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


@pytest.fixture
def serving(network: MeanColour) -> Serving:
    """Serves "mean", the default, and "mean-2", whose vectors are twice as long."""

    @asynccontextmanager
    async def of_limits(
        interactive: int = 64, bulk: int = 64, *, cache: VectorCache | None = None
    ) -> AsyncIterator[Bench]:
        observer, decoder = (
            RecordingObserver(),
            CountingDecoder(InputPolicy("squash", 4), LIMITS, PixelBudget(1_000_000)),
        )
        admission = Admission(Limit(interactive, 10_000_000), Limit(bulk, 10_000_000), {"mean": 0.0, "mean-2": 0.0})
        with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(1) as inference:
            pipelines, batchers, threads = {}, [], DecodeThreads(decoders, 2)
            for name, factor in (("mean-2", 2), ("mean", 1)):
                batcher = Batcher(
                    without_regions(partial(network.embed, factor=factor)),
                    BatchPolicy(4, 4),
                    InferenceSlot(inference),
                    observer,
                )
                batcher.start()
                batchers.append(batcher)
                info = replace(INFO, name=name)
                pipelines[name] = ModelPipeline(
                    info, dict.fromkeys(Lane, DecodePool(decoder, threads)), batcher, observer
                )
            try:
                yield Bench(
                    EmbedImages(pipelines, "mean", LIMITS, admission, cache, observer), admission, observer, decoder
                )
            finally:
                network.gate.set()
                decoder.gate.set()
                for batcher in batchers:
                    await batcher.stop()

    return of_limits


def image(red: int, green: int, blue: int, region: Region | None = None) -> EncodedImage:
    file = BytesIO()
    Image.new("RGB", (9, 7), (red, green, blue)).save(file, "PNG")
    return EncodedImage(file.getvalue(), region)


def large_image(red: int) -> EncodedImage:
    """One whose bytes are not hashed on the event loop."""
    file = BytesIO()
    Image.new("RGB", (400, 400), (red, 0, 0)).save(file, "BMP")
    assert len(file.getvalue()) > MAX_BYTES_HASHED_INLINE
    return EncodedImage(file.getvalue())


@pytest.mark.parametrize(("model", "factor"), [("", 1), ("mean", 1), ("mean-2", 2)])
@pytest.mark.parametrize("lane", Lane)
async def test_an_image_is_embedded_by_the_requested_model(
    serving: Serving, model: str, factor: int, lane: Lane
) -> None:
    async with serving() as at:
        embedding = await at.images.embed(image(10, 20, 30), model, lane, NEVER)
        assert embedding.values.tolist() == [10 * factor, 20 * factor, 30 * factor]
        assert embedding.fingerprint == at.images.model(model).fingerprint
        assert at.observer.answers == [(lane, "embedded")]
        assert [decoded for decoded, _ in at.observer.decodes] == [lane]


async def test_models_are_listed_by_name_and_the_empty_name_is_the_default(serving: Serving) -> None:
    async with serving() as at:
        assert [info.name for info in at.images.models()] == ["mean", "mean-2"]
        assert at.images.model("").name == "mean"


async def test_an_unknown_model_is_refused_with_the_served_models(serving: Serving) -> None:
    async with serving(1) as at:
        for _ in range(3):
            with pytest.raises(NotFoundError, match="'mode'; this server has mean, mean-2") as refused:
                await at.images.embed(image(0, 0, 0), "mode", Lane.INTERACTIVE, NEVER)
        assert (refused.value.reason, refused.value.field) == ("MODEL_NOT_FOUND", "model")
        assert at.results() == ["MODEL_NOT_FOUND"] * 3
        with pytest.raises(NotFoundError) as refused:
            at.images.model("x" * 100_000)
        assert len(refused.value.message) < 200


@pytest.mark.parametrize("spelling", ["MEAN", " mean ", "\tMean\n"])
async def test_case_and_spaces_of_a_model_name_do_not_matter(spelling: str, serving: Serving) -> None:
    async with serving() as at:
        assert at.images.model(spelling).name == "mean"
        assert at.images.model("  ").name == "mean"


async def test_one_image_too_many_is_refused_and_the_others_get_vectors(serving: Serving, network: MeanColour) -> None:
    async with serving(interactive=2) as at:
        network.gate.clear()
        under_way = [await at.send(image(red, 0, 0)) for red in (1, 2)]
        with pytest.raises(ResourceExhaustedError):
            await at.images.embed(image(3, 0, 0), "", Lane.INTERACTIVE, NEVER)
        network.gate.set()
        embeddings = await asyncio.gather(*under_way)
        assert [embedding.values[0] for embedding in embeddings] == [1, 2]
        await at.images.embed(image(3, 0, 0), "", Lane.INTERACTIVE, NEVER)
        assert at.results() == ["OVERLOADED", "embedded", "embedded", "embedded"]


@pytest.mark.parametrize("lane", Lane)
async def test_refused_and_cancelled_images_release_their_slots(
    serving: Serving, network: MeanColour, lane: Lane
) -> None:
    async with serving(1, 1) as at:
        for _ in range(3):
            with pytest.raises(InvalidArgumentError):
                await at.images.embed(EncodedImage(b"no image"), "", lane, NEVER)
        network.gate.clear()
        for _ in range(3):
            caller = await at.send(image(1, 1, 1), lane)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        network.gate.set()
        assert (await at.images.embed(image(5, 5, 5), "", lane, NEVER)).values.tolist() == [5, 5, 5]
        assert at.admission.in_flight(lane) == 0
        results = ["IMAGE_FORMAT_UNSUPPORTED"] * 3 + ["CANCELLED"] * 3 + ["embedded"]
        assert at.observer.answers == [(lane, result) for result in results]


async def test_a_slot_admitted_in_advance_is_released(serving: Serving) -> None:
    async with serving(bulk=1) as at:
        for red in range(1, 4):
            admitted = await at.images.admit(image(red, 0, 0), "", Lane.BULK)
            await at.images.embed_admitted(admitted, "", Lane.BULK, NEVER)
            assert at.admission.in_flight(Lane.BULK) == 1
            admitted.release()
            assert at.admission.in_flight(Lane.BULK) == 0


@pytest.mark.parametrize("lane", Lane)
async def test_a_model_that_is_not_served_is_refused_before_it_takes_a_slot(
    serving: Serving, network: MeanColour, lane: Lane
) -> None:
    async with serving(1, 1) as at:
        network.gate.clear()
        caller = await at.send(image(1, 1, 1), lane)
        with pytest.raises(NotFoundError):
            await asyncio.wait_for(at.images.admit(image(2, 2, 2), "mode", lane), 5)
        assert at.observer.answers == [(lane, "MODEL_NOT_FOUND")]
        network.gate.set()
        await caller


async def test_a_full_queue_of_one_model_does_not_affect_another_model(serving: Serving, network: MeanColour) -> None:
    async with serving(interactive=2) as at:
        network.gate.clear()
        callers = [await at.send(image(red, 0, 0), model="mean") for red in (1, 2)]
        with pytest.raises(ResourceExhaustedError):
            await at.images.embed(image(3, 0, 0), "mean", Lane.INTERACTIVE, NEVER)
        callers += [await at.send(image(red, 0, 0), model="mean-2") for red in (4, 5)]
        network.gate.set()
        embeddings = await asyncio.gather(*callers)
        assert [embedding.values[0] for embedding in embeddings] == [1, 2, 8, 10]


@pytest.mark.parametrize("lane", Lane)
async def test_bytes_are_released_when_the_image_is_decoded(serving: Serving, network: MeanColour, lane: Lane) -> None:
    async with serving() as at:
        network.gate.clear()
        at.decoder.gate.clear()
        caller = await at.send(large_image(1), lane)
        assert at.admission.pending_bytes(lane) > MAX_BYTES_HASHED_INLINE
        at.decoder.gate.set()
        await until(lambda: network.images == 1)
        assert (at.admission.in_flight(lane), at.admission.pending_bytes(lane)) == (1, 0)
        network.gate.set()
        await caller


@pytest.mark.parametrize("lane", Lane)
async def test_only_images_in_threads_count_after_their_callers_are_cancelled(serving: Serving, lane: Lane) -> None:
    async with serving() as at:
        at.decoder.gate.clear()
        sent = [large_image(red) for red in range(5)]
        callers = [await at.send(image, lane) for image in sent]
        await until(lambda: at.decoder.images == 2)
        for caller in callers:
            caller.cancel()
        await settle()
        size = len(sent[0].content)
        assert (at.admission.in_flight(lane), at.admission.pending_bytes(lane)) == (0, 2 * size)
        at.decoder.gate.set()
        await until(lambda: at.admission.pending_bytes(lane) == 0)
        assert at.decoder.images == 2


async def test_one_of_several_equal_images_is_kept_while_a_caller_waits(serving: Serving) -> None:
    async with serving() as at:
        at.decoder.gate.clear()
        callers = [await at.send(image(1, 2, 3)) for _ in range(5)]
        await until(lambda: at.decoder.images == 1)
        size = len(image(1, 2, 3).content)
        assert at.admission.pending_bytes(Lane.INTERACTIVE) == size
        # The first one's bytes are read for the others.
        callers[0].cancel()
        await settle()
        assert at.admission.in_flight(Lane.INTERACTIVE) == 4
        assert at.admission.pending_bytes(Lane.INTERACTIVE) == size
        at.decoder.gate.set()
        await asyncio.gather(*callers[1:])
        assert at.admission.pending_bytes(Lane.INTERACTIVE) == 0


async def test_a_failed_inference_is_counted_with_its_reason(serving: Serving, network: MeanColour) -> None:
    async with serving() as at:
        network.fails = True
        with pytest.raises(InternalError):
            await at.images.embed(image(1, 2, 3), "", Lane.BULK, NEVER)
        assert at.observer.answers == [(Lane.BULK, "INFERENCE_FAILED")]


@pytest.mark.parametrize("lane", Lane)
async def test_an_image_whose_deadline_passed_is_not_decoded(serving: Serving, network: MeanColour, lane: Lane) -> None:
    async with serving() as at:
        with pytest.raises(DeadlineExceededError):
            await at.images.embed(image(1, 2, 3), "", lane, PASSED)
    # The threads have ended by now.
    assert at.observer.answers == [(lane, "DEADLINE_EXCEEDED")]
    assert (at.decoder.images, network.images) == (0, 0)


async def test_a_deadline_that_passes_while_the_model_is_busy_is_enforced(
    serving: Serving, network: MeanColour
) -> None:
    async with serving() as at:
        network.gate.clear()
        first = await at.send(image(1, 1, 1))
        await until(lambda: network.images == 1)
        with pytest.raises(DeadlineExceededError):
            await at.images.embed(image(2, 2, 2), "", Lane.INTERACTIVE, Deadline.after(0.02))
        network.gate.set()
        await first
        assert at.results() == ["DEADLINE_EXCEEDED", "embedded"]
    assert network.images == 1


async def test_the_stages_of_a_call_have_the_times_of_its_image(serving: Serving) -> None:
    async with serving() as at:
        call = stages.collect(spans=False)
        await at.images.embed(image(1, 2, 3), "", Lane.INTERACTIVE, NEVER)
        assert call.seconds.keys() == {"queue", "decode", "inference"}
        assert min(call.seconds.values()) >= 0.0


@pytest.mark.parametrize("equal", [image(10, 20, 30), large_image(7)], ids=["small", "large"])
@pytest.mark.parametrize("lane", Lane)
async def test_equal_images_in_flight_are_embedded_once(
    serving: Serving, network: MeanColour, equal: EncodedImage, lane: Lane
) -> None:
    async with serving() as at:
        network.gate.clear()
        callers = [await at.send(EncodedImage(bytes(bytearray(equal.content))), lane) for _ in range(5)]
        # The digests of large images come from threads.
        await until(lambda: [len(flight.deadlines) for flight in at.images._shared._in_flight.values()] == [5])
        network.gate.set()
        embeddings = await asyncio.gather(*callers)
        assert len({tuple(embedding.values.tolist()) for embedding in embeddings}) == 1
        assert (at.decoder.images, network.images) == (1, 1)
        assert sorted(at.results()) == ["embedded", "shared", "shared", "shared", "shared"]


async def test_images_with_different_regions_or_models_are_embedded_separately(
    serving: Serving, network: MeanColour
) -> None:
    async with serving() as at:
        network.gate.clear()
        regions = [None, Region(0, 0, 1, 1), Region(0, 0, 0.5, 1)]
        callers = [await at.send(image(1, 2, 3, region)) for region in regions]
        callers.append(await at.send(image(1, 2, 3), model="mean-2"))
        # The default under its own name is the same model.
        callers.append(await at.send(image(1, 2, 3), model="mean"))
        network.gate.set()
        embeddings = await asyncio.gather(*callers)
        assert [embedding.values[0] for embedding in embeddings] == [1, 1, 1, 2, 1]
        assert network.images == 4
        assert sorted(at.results()) == ["embedded"] * 4 + ["shared"]


async def test_an_interactive_image_does_not_wait_for_an_equal_one_of_a_load(
    serving: Serving, network: MeanColour
) -> None:
    async with serving() as at:
        network.gate.clear()
        callers = [await at.send(image(1, 2, 3), lane) for lane in (Lane.BULK, Lane.INTERACTIVE, Lane.BULK)]
        network.gate.set()
        await asyncio.gather(*callers)
        assert network.images == 2
        assert sorted(at.results()) == ["embedded", "embedded", "shared"]


@pytest.mark.parametrize("leaves", [0, 1])
async def test_one_of_several_equal_requests_may_be_cancelled(
    serving: Serving, network: MeanColour, leaves: int
) -> None:
    async with serving() as at:
        network.gate.clear()
        callers = [await at.send(image(1, 2, 3)) for _ in range(2)]
        callers[leaves].cancel()
        await settle()
        assert at.results() == ["CANCELLED"]
        assert at.admission.in_flight(Lane.INTERACTIVE) == 1
        network.gate.set()
        assert (await callers[1 - leaves]).values.tolist() == [1, 2, 3]
        assert network.images == 1


async def test_equal_invalid_images_are_each_refused(serving: Serving) -> None:
    async with serving() as at:
        callers = [await at.send(EncodedImage(b"no image")) for _ in range(3)]
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [InvalidArgumentError] * 3
        assert at.results() == ["IMAGE_FORMAT_UNSUPPORTED"] * 3


async def test_without_a_cache_nothing_is_kept(serving: Serving, network: MeanColour) -> None:
    async with serving() as at:
        for _ in range(2):
            await at.images.embed(image(1, 2, 3), "", Lane.INTERACTIVE, NEVER)
        assert network.images == 2
        assert at.results() == ["embedded", "embedded"]


@pytest.mark.parametrize("again", Lane)
async def test_a_repeated_image_is_answered_from_the_cache(serving: Serving, network: MeanColour, again: Lane) -> None:
    async with serving(cache=new_cache(10)) as at:
        first = await at.images.embed(image(1, 2, 3), "", Lane.INTERACTIVE, NEVER)
        second = await at.images.embed(image(1, 2, 3), "mean", again, NEVER)
        assert second.values.tolist() == first.values.tolist() == [1, 2, 3]
        assert second.fingerprint == first.fingerprint
        assert (at.decoder.images, network.images) == (1, 1)
        assert at.observer.answers == [(Lane.INTERACTIVE, "embedded"), (again, "cached")]
        assert at.admission.in_flight(again) == 0


async def test_the_cache_distinguishes_regions_and_models(serving: Serving, network: MeanColour) -> None:
    async with serving(cache=new_cache(10)) as at:
        for _ in range(2):
            for region, model in [(None, "mean"), (None, "mean-2"), (Region(0, 0, 0.5, 1), "mean")]:
                embedding = await at.images.embed(image(1, 2, 3, region), model, Lane.BULK, NEVER)
                assert embedding.values[0] == (2 if model == "mean-2" else 1)
        assert network.images == 3
        assert at.results() == ["embedded"] * 3 + ["cached"] * 3


async def test_an_image_dropped_from_the_cache_is_embedded_again(serving: Serving, network: MeanColour) -> None:
    async with serving(cache=new_cache(2)) as at:
        for red in (1, 2, 1, 3, 1, 2):
            embedding = await at.images.embed(image(red, 0, 0), "", Lane.BULK, NEVER)
            assert embedding.values[0] == red
        assert at.results() == ["embedded", "embedded", "cached", "embedded", "cached", "embedded"]
        assert network.images == 4


async def test_the_cache_keeps_no_batch_in_memory(serving: Serving, network: MeanColour) -> None:
    cache: VectorCache = new_cache(10)
    async with serving(cache=cache) as at:
        network.gate.clear()
        callers = [await at.send(image(red, 0, 0)) for red in range(1, 6)]
        network.gate.set()
        await asyncio.gather(*callers)
        assert [vectors.values.base for vectors in cache.values()] == [None] * 5


async def test_errors_are_not_cached(serving: Serving, network: MeanColour) -> None:
    cache: VectorCache = new_cache(10)
    async with serving(cache=cache) as at:
        network.fails = True
        with pytest.raises(InternalError):
            await at.images.embed(image(1, 2, 3), "", Lane.BULK, NEVER)
        assert not cache
        network.fails = False
        assert (await at.images.embed(image(1, 2, 3), "", Lane.BULK, NEVER)).values.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "other"}, False),
        ({"input": InputPolicy("squash", 5)}, False),
        ({"head": "max"}, False),
        ({"preprocessing": "none/2"}, False),
        ({"normalisation": "l2"}, False),
        ({"weights_sha256": "1" * 64}, False),
        ({"precision": "bfloat16"}, True),
        ({"max_batch_size": 64}, True),
        ({"threads": 8}, True),
        ({"seconds_per_image": 0.5}, True),
        ({"memory_bytes": 5}, True),
    ],
    ids=str,
)
def test_the_fingerprint_depends_only_on_what_changes_vectors(change: dict[str, Any], same: bool) -> None:
    changed = replace(INFO, **change)
    assert (changed.fingerprint == INFO.fingerprint) is same
