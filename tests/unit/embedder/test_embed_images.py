"""EmbedImages and Admission: who may use which model, and when."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from functools import partial
from io import BytesIO
from typing import TypeAlias

import numpy as np
import pytest
from PIL import Image

from embedder_service.core.batching import Batcher
from embedder_service.core.embed_images import Admission, EmbedImages, ModelPipeline
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.types import EncodedImage, Lane, Limits, ModelInfo, Pixels, Vectors
from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, NotFoundError, ResourceExhaustedError

NEVER = Deadline.after(None)
LIMITS = Limits(max_image_bytes=10_000, max_image_pixels=10_000)
INFO = ModelInfo(
    name="mean",
    dimension=3,
    input_size=4,
    pooling="avg",
    preprocessing="none/1",
    normalisation="none",
    weights_sha256="0" * 64,
    precision="float32",
    max_batch_size=4,
    threads=1,
)


class MeanColour:
    """Stands for the network: a vector is the image's mean colour, times a factor. It runs while its gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

    def embed(self, pixels: Pixels, factor: int) -> Vectors:
        assert self.gate.wait(20)
        vectors: Vectors = factor * pixels.mean(axis=(1, 2), dtype=np.float32)
        return vectors


Serving: TypeAlias = Callable[[Admission], AbstractAsyncContextManager[EmbedImages]]


@pytest.fixture
def network() -> MeanColour:
    return MeanColour()


@pytest.fixture
def serving(network: MeanColour) -> Serving:
    """Serves "mean", the default, and "mean-2", whose vectors are twice as long."""

    @asynccontextmanager
    async def of_admission(admission: Admission) -> AsyncIterator[EmbedImages]:
        with ThreadPoolExecutor(2) as decoders, ThreadPoolExecutor(1) as inference:
            pipelines, batchers = {}, []
            for name, factor in (("mean-2", 2), ("mean", 1)):
                batcher = Batcher(partial(network.embed, factor=factor), 4, inference)
                batcher.start()
                batchers.append(batcher)
                info, decoder = replace(INFO, name=name), ImageDecoder(4, LIMITS)
                pipelines[name] = ModelPipeline(info, decoder, dict.fromkeys(Lane, decoders), batcher)
            try:
                yield EmbedImages(pipelines, "mean", LIMITS, admission)
            finally:
                network.gate.set()
                for batcher in batchers:
                    await batcher.stop()

    return of_admission


def image(red: int, green: int, blue: int) -> EncodedImage:
    file = BytesIO()
    Image.new("RGB", (9, 7), (red, green, blue)).save(file, "PNG")
    return EncodedImage(file.getvalue())


async def test_the_interactive_lane_refuses_at_its_limit_and_says_when_to_try_again() -> None:
    admission = Admission(interactive=2, bulk=1)
    await admission.enter(Lane.INTERACTIVE)
    await admission.enter(Lane.INTERACTIVE)
    with pytest.raises(ResourceExhaustedError, match="2 images wait already") as refused:
        await admission.enter(Lane.INTERACTIVE)
    assert (refused.value.reason, refused.value.retry_after) == ("OVERLOADED", 1.0)
    assert refused.value.metadata == {"max_pending": "2"}
    admission.leave(Lane.INTERACTIVE)
    await admission.enter(Lane.INTERACTIVE)


async def test_the_bulk_lane_waits_at_its_limit_until_one_leaves() -> None:
    admission = Admission(interactive=1, bulk=1)
    await admission.enter(Lane.BULK)
    waiting = asyncio.create_task(admission.enter(Lane.BULK))
    await asyncio.sleep(0)
    assert not waiting.done()
    admission.leave(Lane.BULK)
    await waiting


async def test_a_bulk_caller_that_leaves_while_it_waits_takes_no_place() -> None:
    admission = Admission(interactive=1, bulk=1)
    await admission.enter(Lane.BULK)
    first, second = (asyncio.create_task(admission.enter(Lane.BULK)) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    admission.leave(Lane.BULK)
    await second


@pytest.mark.parametrize(("full", "other"), [(Lane.BULK, Lane.INTERACTIVE), (Lane.INTERACTIVE, Lane.BULK)])
async def test_a_full_lane_holds_up_no_other(full: Lane, other: Lane) -> None:
    admission = Admission(interactive=1, bulk=1)
    await admission.enter(full)
    await admission.enter(other)


@pytest.mark.parametrize(("model", "factor"), [("", 1), ("mean", 1), ("mean-2", 2)])
@pytest.mark.parametrize("lane", Lane)
async def test_an_image_is_embedded_by_the_model_that_is_named(
    serving: Serving, model: str, factor: int, lane: Lane
) -> None:
    async with serving(Admission(1, 1)) as images:
        embedding = await images.embed(image(10, 20, 30), model, lane, NEVER)
        assert embedding.values.tolist() == [10 * factor, 20 * factor, 30 * factor]
        assert embedding.fingerprint == images.model(model).fingerprint


async def test_models_are_listed_by_name_and_the_empty_name_is_the_default(serving: Serving) -> None:
    async with serving(Admission(1, 1)) as images:
        assert [info.name for info in images.models()] == ["mean", "mean-2"]
        assert images.model("").name == "mean"


async def test_an_unknown_model_is_refused_with_the_names_of_those_there_are(serving: Serving) -> None:
    async with serving(Admission(1, 1)) as images:
        with pytest.raises(NotFoundError, match="'mode'; this server has mean, mean-2") as refused:
            await images.embed(image(0, 0, 0), "mode", Lane.INTERACTIVE, NEVER)
        assert (refused.value.reason, refused.value.field) == ("MODEL_NOT_FOUND", "model")
        with pytest.raises(NotFoundError) as refused:
            images.model("x" * 100_000)
        assert len(refused.value.message) < 200


async def test_one_image_too_many_is_refused_while_the_others_get_their_vectors(
    serving: Serving, network: MeanColour
) -> None:
    async with serving(Admission(2, 1)) as images:
        network.gate.clear()
        under_way = [asyncio.create_task(images.embed(image(red, 0, 0), "", Lane.INTERACTIVE, NEVER)) for red in (1, 2)]
        await asyncio.sleep(0)
        with pytest.raises(ResourceExhaustedError):
            await images.embed(image(3, 0, 0), "", Lane.INTERACTIVE, NEVER)
        network.gate.set()
        embeddings = await asyncio.gather(*under_way)
        assert [embedding.values[0] for embedding in embeddings] == [1, 2]
        await images.embed(image(3, 0, 0), "", Lane.INTERACTIVE, NEVER)


@pytest.mark.parametrize("lane", Lane)
async def test_refused_and_cancelled_images_give_their_places_back(
    serving: Serving, network: MeanColour, lane: Lane
) -> None:
    async with serving(Admission(1, 1)) as images:
        for _ in range(3):
            with pytest.raises(InvalidArgumentError):
                await images.embed(EncodedImage(b"no image"), "", lane, NEVER)
        network.gate.clear()
        for _ in range(3):
            caller = asyncio.create_task(images.embed(image(1, 1, 1), "", lane, NEVER))
            await asyncio.sleep(0)
            caller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await caller
        network.gate.set()
        assert (await images.embed(image(5, 5, 5), "", lane, NEVER)).values.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"name": "other"}, False),
        ({"input_size": 5}, False),
        ({"pooling": "max"}, False),
        ({"preprocessing": "none/2"}, False),
        ({"normalisation": "l2"}, False),
        ({"weights_sha256": "1" * 64}, False),
        ({"precision": "bfloat16"}, True),
        ({"max_batch_size": 64}, True),
        ({"threads": 8}, True),
    ],
    ids=str,
)
def test_the_fingerprint_changes_with_what_changes_vectors_and_with_nothing_else(
    change: dict[str, str | int], same: bool
) -> None:
    changed = ModelInfo(**{**vars(INFO), **change})
    assert (changed.fingerprint == INFO.fingerprint) is same
