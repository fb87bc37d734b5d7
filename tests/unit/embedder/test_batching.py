"""Batcher, as callers see it: through `submit`, with a network that runs when the test lets it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import numpy as np
import pytest

from embedder_service.core.batching import Batcher
from embedder_service.core.types import Lane, Pixels, Vectors
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InternalError, UnavailableError

NEVER = Deadline.after(None)
PASSED = Deadline(0.0)
# Seconds after which a caller hangs; nothing here takes nearly as long.
AT_MOST = 5.0


class Network:
    """Stands for the network. Image n is a pixel of value n, and its vector is (n, n * n)."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.faulty: set[int] = set()
        self.drops_vectors = False
        self._begun = threading.Semaphore(0)
        self._gate: threading.Semaphore | None = None

    def run(self, pixels: Pixels) -> Vectors:
        images = pixels[:, 0, 0, 0].tolist()
        self.batches.append(images)
        self._begun.release()
        gate = self._gate
        assert gate is None or gate.acquire(timeout=AT_MOST)
        if self.faulty.intersection(images):
            raise RuntimeError("a secret of the server")
        vectors = np.array([(image, image * image) for image in images], np.float32)
        return vectors[:-1] if self.drops_vectors else vectors

    def hold(self) -> None:
        """From now on a run ends by `step` or `release` only."""
        self._gate = threading.Semaphore(0)

    def step(self) -> None:
        """Lets one run end."""
        assert self._gate
        self._gate.release()

    def release(self) -> None:
        """Lets every run end, from now on."""
        gate, self._gate = self._gate, None
        if gate:
            gate.release(100)

    async def begun(self) -> None:
        """Waits until one more run has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=AT_MOST)


class Bench:
    """A batcher at work on a network, and the callers that the test sends."""

    def __init__(self, batcher: Batcher, network: Network) -> None:
        self.batcher = batcher
        self.network = network

    async def send(
        self, images: Iterable[int], lane: Lane = Lane.INTERACTIVE, deadline: Deadline = NEVER
    ) -> list["asyncio.Task[Vectors]"]:
        """Callers, one for each image, that wait for their turn in this order when this returns."""
        pixels = [np.full((1, 1, 3), image, np.uint8) for image in images]
        tasks = [asyncio.create_task(self.batcher.submit(each, lane, deadline)) for each in pixels]
        # New tasks run in the order of their making, each up to its first wait, before this one runs again.
        await asyncio.sleep(0)
        return tasks

    async def occupy(self) -> "asyncio.Task[Vectors]":
        """The caller of image 0, which the network has in hand when this returns."""
        self.network.hold()
        (task,) = await self.send([0])
        await self.network.begun()
        return task

    async def release(self, tasks: Iterable["asyncio.Task[Vectors]"]) -> list[Any]:
        """Lets the network run; what each caller got, a vector or an exception."""
        self.network.release()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), AT_MOST)


BenchOf: TypeAlias = Callable[[int], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench() -> BenchOf:
    @asynccontextmanager
    async def of_limit(max_batch_size: int) -> AsyncIterator[Bench]:
        network = Network()
        with ThreadPoolExecutor(1) as executor:
            batcher = Batcher(network.run, max_batch_size, executor)
            batcher.start()
            try:
                yield Bench(batcher, network)
            finally:
                network.release()
                await batcher.stop()

    return of_limit


def vector_of(image: int) -> list[float]:
    return [image, image * image]


async def test_each_caller_gets_the_vector_of_its_own_image(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = await at.send(range(50)) + await at.send(range(50, 100), Lane.BULK)
        vectors = await at.release(tasks)
    assert [vector.tolist() for vector in vectors] == [vector_of(image) for image in range(100)]
    assert (vectors[0].shape, vectors[0].dtype) == ((2,), np.float32)


async def test_an_image_that_finds_the_network_idle_runs_alone_and_at_once(bench: BenchOf) -> None:
    async with bench(8) as at:
        for image in (1, 2, 3):
            (task,) = await at.send([image])
            await at.network.begun()
            await at.release([task])
        assert at.network.batches == [[1], [2], [3]]


@pytest.mark.parametrize("lane", Lane)
async def test_what_arrives_while_the_network_is_busy_is_batched_in_order_up_to_the_limit(
    bench: BenchOf, lane: Lane
) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 12), lane)]
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("interactive", "bulk", "batches"),
    [
        pytest.param([1, 2], [11, 12, 13, 14, 15], [[1, 2, 11, 12], [13, 14, 15]], id="interactive first"),
        pytest.param([1, 2, 3, 4, 5], [11, 12], [[1, 2, 3, 11], [4, 5, 12]], id="bulk keeps a quarter"),
        pytest.param([1, 2, 3, 4, 5], [], [[1, 2, 3, 4], [5]], id="no bulk, no share"),
        pytest.param([1], [11, 12, 13, 14], [[1, 11, 12, 13], [14]], id="bulk fills what is left"),
        pytest.param([1, 2, 3], list(range(11, 31)), [[1, 2, 3, 11]], id="a flood of bulk delays nobody"),
    ],
)
async def test_the_lanes_share_a_batch_of_four(
    bench: BenchOf, interactive: list[int], bulk: list[int], batches: list[list[int]]
) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send(bulk, Lane.BULK), *await at.send(interactive)]
        await at.release(tasks)
        assert at.network.batches[1 : 1 + len(batches)] == batches


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
@pytest.mark.parametrize(("lane", "other"), [(Lane.BULK, Lane.INTERACTIVE), (Lane.INTERACTIVE, Lane.BULK)])
async def test_no_lane_waits_for_the_other_one_to_run_dry(bench: BenchOf, limit: int, lane: Lane, other: Lane) -> None:
    async with bench(limit) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 100), other), *await at.send([200], lane)]
        await at.release(tasks)
        turn = next(number for number, batch in enumerate(at.network.batches) if 200 in batch)
    # A quarter of the slots is bulk's: of five images one is, whatever the size of a batch.
    assert turn <= 5


@pytest.mark.parametrize("lane", Lane)
async def test_a_cancelled_caller_costs_no_slot(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 9), lane)]
        for task in tasks[1:5]:
            task.cancel()
        outcomes = await at.release(tasks)
        assert at.network.batches == [[0], [5, 6, 7, 8]]
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[1:5])
    assert outcomes[5].tolist() == vector_of(5)


@pytest.mark.parametrize("lane", Lane)
async def test_a_passed_deadline_costs_no_slot_and_is_named(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2, 3], lane, PASSED), *await at.send([4, 5, 6, 7], lane)]
        outcomes = await at.release(tasks)
        assert at.network.batches == [[0], [4, 5, 6, 7]]
    assert [type(outcome) for outcome in outcomes[1:4]] == [DeadlineExceededError] * 3
    assert outcomes[1].reason == "DEADLINE_EXCEEDED"


async def test_slots_kept_for_bulk_callers_that_left_go_to_interactive_ones(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2, 3, 4])]
        bulk = await at.send([11, 12], Lane.BULK)
        for task in bulk:
            task.cancel()
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4]]


async def test_a_caller_that_leaves_during_its_run_disturbs_nobody(bench: BenchOf) -> None:
    async with bench(4) as at:
        occupying = await at.occupy()
        tasks = await at.send([1, 2])
        occupying.cancel()
        outcomes = await at.release(tasks)
    assert [outcome.tolist() for outcome in outcomes] == [vector_of(1), vector_of(2)]


@pytest.mark.parametrize("faulty", [{1}, {4}, {2, 3}, {1, 8}, set(range(1, 9))], ids=str)
async def test_a_faulty_image_fails_alone_and_the_batcher_goes_on(bench: BenchOf, faulty: set[int]) -> None:
    async with bench(8) as at:
        at.network.faulty = faulty
        tasks = [await at.occupy(), *await at.send(range(1, 9))]
        outcomes = await at.release(tasks)
        later = await at.release(await at.send([9]))
    for image, outcome in enumerate(outcomes):
        if image in faulty:
            assert isinstance(outcome, InternalError)
            assert outcome.reason == "INFERENCE_FAILED"
            assert "secret" not in outcome.message
        else:
            assert outcome.tolist() == vector_of(image)
    assert later[0].tolist() == vector_of(9)


async def test_a_caller_that_left_is_not_run_again_when_its_batch_fails(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.faulty = {1}
        tasks = [await at.occupy(), *await at.send([1, 2, 3, 4])]
        at.network.step()
        await at.network.begun()
        tasks[3].cancel()
        await at.release(tasks)
        assert all(3 not in batch for batch in at.network.batches[2:])


async def test_a_network_that_gives_too_few_vectors_fails_those_images_only(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.drops_vectors = True
        outcomes = await at.release([await at.occupy()])
        at.network.drops_vectors = False
        later = await at.release(await at.send([5]))
    assert isinstance(outcomes[0], InternalError)
    assert later[0].tolist() == vector_of(5)


@pytest.mark.parametrize("lane", Lane)
async def test_stop_refuses_what_waits(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        await at.occupy()
        waiting = await at.send([1, 2], lane)
        stopping = asyncio.create_task(at.batcher.stop())
        outcomes = await at.release(waiting)
        await stopping
        assert at.network.batches == [[0]]
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 2
    assert (outcomes[0].reason, outcomes[0].retry_after) == ("STOPPING", 1.0)


async def outcome_of(caller: Awaitable[Vectors]) -> str:
    try:
        await asyncio.wait_for(caller, AT_MOST)
    except UnavailableError as error:
        return error.reason
    except TimeoutError:
        return "hangs"
    return "vector"


async def test_stop_leaves_no_caller_hanging_whose_image_is_in_hand(bench: BenchOf) -> None:
    async with bench(4) as at:
        in_hand = await at.occupy()
        stopping = asyncio.create_task(at.batcher.stop())
        at.network.release()
        await stopping
        assert await outcome_of(in_hand) in {"STOPPING", "vector"}


async def test_a_caller_that_comes_after_stop_is_refused(bench: BenchOf) -> None:
    async with bench(4) as at:
        await at.batcher.stop()
        caller = at.batcher.submit(np.zeros((1, 1, 3), np.uint8), Lane.INTERACTIVE, NEVER)
        assert await outcome_of(caller) == "STOPPING"
