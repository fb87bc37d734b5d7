"""Batcher, through `submit`, with a fake model whose runs the test controls."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import chain
from typing import Any, TypeAlias

import numpy as np
import pytest

from embedder_service.core.batching import Batcher, BatchPolicy
from embedder_service.core.inference_slot import InferenceSlot
from embedder_service.core.types import ImageVectors, Lane, Pixels, Vectors
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InternalError, ResourceExhaustedError, UnavailableError
from grpc_kit.server import stages
from tests.unit.embedder.doubles import FakeClock, RecordingObserver, settle, without_regions

NEVER = Deadline.after(None)
# Seconds after which a test fails; no test needs as long.
AT_MOST = 5.0


class Fatal(BaseException):
    """An error that kills the worker."""


class Network:
    """A fake model. Image n is a pixel of value n, and its vector is (n, n * n)."""

    def __init__(self, clock: FakeClock) -> None:
        self.batches: list[list[int]] = []
        self.faulty: set[int] = set()
        self.fault: type[Exception] = RuntimeError
        self.fatal: list[int] = []
        """The batch that kills the worker."""
        self.drops_vectors = False
        self.seconds = 0.0
        """Seconds of a run."""
        self._clock = clock
        self._begun = threading.Semaphore(0)
        self._gate: threading.Semaphore | None = None

    def run(self, pixels: Pixels) -> Vectors:
        images = pixels[:, 0, 0, 0].tolist()
        self.batches.append(images)
        self._begun.release()
        gate = self._gate
        assert gate is None or gate.acquire(timeout=AT_MOST)
        self._clock.now += self.seconds
        if images == self.fatal:
            raise Fatal
        if self.faulty.intersection(images):
            raise self.fault("a secret of the server")
        vectors = np.array([(image, image * image) for image in images], np.float32)
        return vectors[:-1] if self.drops_vectors else vectors

    def hold(self) -> None:
        """Make runs wait for `step` or `release`."""
        self._gate = threading.Semaphore(0)

    def step(self) -> None:
        """End one run."""
        assert self._gate
        self._gate.release()

    def release(self) -> None:
        """End all runs from now on."""
        gate, self._gate = self._gate, None
        if gate:
            gate.release(100)

    async def begun(self) -> None:
        """Wait until one more run has begun."""
        assert await asyncio.to_thread(self._begun.acquire, timeout=AT_MOST)


class Bench:
    """A batcher with a fake model, and the callers of a test."""

    def __init__(self, policy: BatchPolicy, executor: ThreadPoolExecutor) -> None:
        self.clock = FakeClock()
        self.network = Network(self.clock)
        self.observer = RecordingObserver()
        self.batcher = Batcher(
            without_regions(self.network.run), policy, InferenceSlot(executor), self.observer, self.clock
        )

    def deadline(self, seconds: float) -> Deadline:
        return Deadline(self.clock() + seconds, self.clock)

    async def send(
        self, images: Iterable[int], lane: Lane = Lane.INTERACTIVE, deadline: Deadline = NEVER
    ) -> list["asyncio.Task[ImageVectors]"]:
        """Start a caller for each image. They are queued in this order when this returns."""
        pixels = [np.full((1, 1, 3), image, np.uint8) for image in images]
        tasks = [asyncio.create_task(self.batcher.submit(each, lane, deadline)) for each in pixels]
        # New tasks run in order of creation, each up to its first wait, before this task continues.
        await asyncio.sleep(0)
        return tasks

    async def occupy(self) -> "asyncio.Task[ImageVectors]":
        """Start the caller of image 0. The model runs this image when this returns."""
        self.network.hold()
        (task,) = await self.send([0])
        await self.network.begun()
        return task

    async def release(self, tasks: Iterable["asyncio.Task[ImageVectors]"]) -> list[Any]:
        """End all runs, and return the vector or the exception of each caller."""
        self.network.release()
        return await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), AT_MOST)


BenchOf: TypeAlias = Callable[[int | BatchPolicy], AbstractAsyncContextManager[Bench]]


@pytest.fixture
def bench() -> BenchOf:
    """Return a factory of benches. A number is the maximum batch size of both lanes."""

    @asynccontextmanager
    async def of_policy(policy: int | BatchPolicy) -> AsyncIterator[Bench]:
        with ThreadPoolExecutor(1) as executor:
            at = Bench(policy if isinstance(policy, BatchPolicy) else BatchPolicy(policy, policy), executor)
            at.batcher.start()
            try:
                yield at
            finally:
                at.network.release()
                await asyncio.wait_for(at.batcher.stop(), AT_MOST)

    return of_policy


def vector_of(image: int) -> list[float]:
    return [image, image * image]


async def test_each_caller_gets_the_vector_of_its_own_image(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = await at.send(range(50)) + await at.send(range(50, 100), Lane.BULK)
        vectors = await at.release(tasks)
    assert [vector.values.tolist() for vector in vectors] == [vector_of(image) for image in range(100)]
    assert (vectors[0].values.shape, vectors[0].values.dtype) == ((2,), np.float32)


async def test_an_image_runs_alone_and_at_once_if_the_model_is_idle(bench: BenchOf) -> None:
    async with bench(8) as at:
        for image in (1, 2, 3):
            (task,) = await at.send([image])
            await at.network.begun()
            await at.release([task])
        assert at.network.batches == [[1], [2], [3]]


@pytest.mark.parametrize("lane", Lane)
async def test_images_that_arrive_during_a_run_are_batched_in_order_up_to_the_limit(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 12), lane)]
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize(
    ("interactive", "bulk", "batches"),
    [
        pytest.param([1, 2], [11, 12, 13, 14, 15], [[1, 2], [11, 12, 13], [14, 15]], id="interactive first, and alone"),
        pytest.param([1, 2, 3, 4, 5], [], [[1, 2, 3, 4], [5]], id="no bulk, no share"),
        pytest.param([1], [11, 12], [[1], [11, 12]], id="bulk does not fill what is left"),
        pytest.param([1, 2, 3], list(range(11, 31)), [[1, 2, 3], [11, 12, 13]], id="a flood of bulk delays nobody"),
        pytest.param([], [11, 12, 13, 14], [[11, 12, 13], [14]], id="bulk alone"),
    ],
)
async def test_each_lane_has_its_own_batches(
    bench: BenchOf, interactive: list[int], bulk: list[int], batches: list[list[int]]
) -> None:
    async with bench(BatchPolicy(max_batch_size=4, bulk_batch_size=3)) as at:
        tasks = [await at.occupy(), *await at.send(bulk, Lane.BULK), *await at.send(interactive)]
        await at.release(tasks)
        assert at.network.batches[1 : 1 + len(batches)] == batches


@pytest.mark.parametrize(
    ("share", "turns"),
    [
        pytest.param(0.25, "IIIIBIIIIBIIIIB"),
        pytest.param(0.5, "IIBIIBIIBIIB"),
        pytest.param(1.0, "IBIBIBIB"),
        (0.0, "IIIIIIIIIIII"),
    ],
)
async def test_bulk_gets_its_share_while_both_lanes_wait(bench: BenchOf, share: float, turns: str) -> None:
    async with bench(BatchPolicy(max_batch_size=3, bulk_batch_size=3, bulk_share=share)) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 41)), *await at.send(range(101, 141), Lane.BULK)]
        await at.release(tasks)
        images = list(chain.from_iterable(at.network.batches[1:]))
    assert "".join("B" if image > 100 else "I" for image in images[: len(turns)]) == turns


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
async def test_each_lane_runs_in_order_of_arrival(bench: BenchOf, limit: int) -> None:
    async with bench(limit) as at:
        tasks = [await at.occupy(), *await at.send(range(101, 121), Lane.BULK), *await at.send(range(1, 21))]
        await at.release(tasks)
        images = list(chain.from_iterable(at.network.batches[1:]))
        assert [image for image in images if image < 100] == list(range(1, 21))
        assert [image for image in images if image > 100] == list(range(101, 121))


async def test_bulk_images_get_no_credit_for_the_time_before_they_arrive(bench: BenchOf) -> None:
    async with bench(1) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 10))]
        for _ in range(6):
            at.network.step()
            await at.network.begun()
        tasks += await at.send([101], Lane.BULK)
        await at.release(tasks)
        # Image 6 was running when the bulk image arrived.
        assert at.network.batches[7:9] == [[7], [8]]


@pytest.mark.parametrize("limit", [1, 2, 3, 8])
@pytest.mark.parametrize(("lane", "other"), [(Lane.BULK, Lane.INTERACTIVE), (Lane.INTERACTIVE, Lane.BULK)])
async def test_no_lane_waits_until_the_other_lane_is_empty(bench: BenchOf, limit: int, lane: Lane, other: Lane) -> None:
    async with bench(limit) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 100), other), *await at.send([200], lane)]
        await at.release(tasks)
        turn = next(number for number, batch in enumerate(at.network.batches) if 200 in batch)
    # Interactive goes first, and one of five images is bulk, with any batch size.
    assert turn <= (5 if lane is Lane.BULK else 1)


async def test_bulk_batches_are_small_while_interactive_images_arrive(bench: BenchOf) -> None:
    async with bench(BatchPolicy(max_batch_size=8, bulk_batch_size=2, interactive_memory=60.0)) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 6), Lane.BULK)]
        at.clock.now += 60.0
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2], [3, 4], [5]]


async def test_bulk_batches_are_large_again_long_after_the_last_interactive_image(bench: BenchOf) -> None:
    async with bench(BatchPolicy(max_batch_size=8, bulk_batch_size=2, interactive_memory=60.0)) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 11), Lane.BULK)]
        at.clock.now += 60.1
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4, 5, 6, 7, 8], [9, 10]]


async def test_each_interactive_image_makes_bulk_batches_small_for_a_while(bench: BenchOf) -> None:
    async with bench(BatchPolicy(max_batch_size=8, bulk_batch_size=2, interactive_memory=60.0)) as at:
        tasks = [await at.occupy(), *await at.send(range(101, 106), Lane.BULK)]
        at.clock.now += 100.0
        await at.release([*tasks, *await at.send([1])])
        assert at.network.batches == [[0], [1], [101, 102], [103, 104], [105]]


async def test_bulk_batches_are_large_without_any_interactive_image(bench: BenchOf) -> None:
    async with bench(BatchPolicy(max_batch_size=4, bulk_batch_size=1)) as at:
        at.network.hold()
        tasks = await at.send([0], Lane.BULK)
        await at.network.begun()
        tasks += await at.send(range(1, 7), Lane.BULK)
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4], [5, 6]]


async def test_a_bulk_batch_never_exceeds_the_maximum_batch_size(bench: BenchOf) -> None:
    async with bench(BatchPolicy(max_batch_size=2, bulk_batch_size=8)) as at:
        await at.release([await at.occupy(), *await at.send(range(1, 5), Lane.BULK)])
        assert at.network.batches == [[0], [1, 2], [3, 4]]


@pytest.mark.parametrize("lane", Lane)
async def test_a_cancelled_image_leaves_the_queue(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send(range(1, 9), lane)]
        for task in tasks[1:5]:
            task.cancel()
        await settle()
        # Their pixels are not kept in memory.
        assert at.batcher.queue_size(lane) == 4
        outcomes = await at.release(tasks)
        assert at.network.batches == [[0], [5, 6, 7, 8]]
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes[1:5])
    assert outcomes[5].values.tolist() == vector_of(5)


@pytest.mark.parametrize("lane", Lane)
async def test_an_image_whose_deadline_passed_is_refused_and_does_not_run(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2, 3], lane, at.deadline(5.0))]
        tasks += await at.send([4, 5, 6, 7], lane, at.deadline(5.1))
        at.clock.now += 5.0
        outcomes = await at.release(tasks)
        assert at.network.batches == [[0], [4, 5, 6, 7]]
    assert [type(outcome) for outcome in outcomes[1:4]] == [DeadlineExceededError] * 3
    assert outcomes[1].reason == "DEADLINE_EXCEEDED"


async def test_a_deadline_that_passes_during_the_run_is_ignored(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.hold()
        (task,) = await at.send([3], deadline=at.deadline(5.0))
        await at.network.begun()
        at.clock.now += 6.0
        assert [vector.values.tolist() for vector in await at.release([task])] == [vector_of(3)]


async def test_interactive_images_fill_the_share_of_cancelled_bulk_images(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2, 3, 4])]
        bulk = await at.send([11, 12], Lane.BULK)
        for task in bulk:
            task.cancel()
        await at.release(tasks)
        assert at.network.batches == [[0], [1, 2, 3, 4]]


async def test_a_caller_cancelled_during_its_run_does_not_affect_its_batch(bench: BenchOf) -> None:
    async with bench(4) as at:
        occupying = await at.occupy()
        tasks = await at.send([1, 2])
        occupying.cancel()
        outcomes = await at.release(tasks)
    assert [outcome.values.tolist() for outcome in outcomes] == [vector_of(1), vector_of(2)]


@pytest.mark.parametrize("faulty", [{1}, {4}, {2, 3}, {1, 8}, set(range(1, 9))], ids=str)
async def test_a_faulty_image_fails_alone_and_the_batcher_continues(bench: BenchOf, faulty: set[int]) -> None:
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
            assert outcome.values.tolist() == vector_of(image)
    assert later[0].values.tolist() == vector_of(9)


async def test_an_image_is_refused_with_out_of_memory_if_the_model_has_no_memory(bench: BenchOf) -> None:
    async with bench(8) as at:
        at.network.faulty, at.network.fault = {2}, MemoryError
        outcomes = await at.release([await at.occupy(), *await at.send(range(1, 4))])
    assert outcomes[1].values.tolist() == vector_of(1)
    assert outcomes[3].values.tolist() == vector_of(3)
    assert isinstance(outcomes[2], ResourceExhaustedError)
    assert outcomes[2].reason == "OUT_OF_MEMORY"
    assert outcomes[2].retry_after is not None


async def test_a_caller_that_left_is_not_run_again_when_its_batch_fails(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.faulty = {1}
        tasks = [await at.occupy(), *await at.send([1, 2, 3, 4])]
        at.network.step()
        await at.network.begun()
        tasks[3].cancel()
        await at.release(tasks)
        assert all(3 not in batch for batch in at.network.batches[2:])


async def test_too_few_vectors_fail_only_the_images_of_this_batch(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.drops_vectors = True
        outcomes = await at.release([await at.occupy()])
        at.network.drops_vectors = False
        later = await at.release(await at.send([5]))
    assert isinstance(outcomes[0], InternalError)
    assert later[0].values.tolist() == vector_of(5)


@pytest.mark.parametrize("lane", Lane)
async def test_stop_refuses_queued_images(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        await at.occupy()
        waiting = await at.send([1, 2], lane)
        stopping = asyncio.create_task(at.batcher.stop())
        outcomes = await at.release(waiting)
        await stopping
        assert at.network.batches == [[0]]
    assert [type(outcome) for outcome in outcomes] == [UnavailableError] * 2
    assert (outcomes[0].reason, outcomes[0].retry_after) == ("STOPPING", 1.0)


async def outcome_of(caller: Awaitable[ImageVectors], at_most: float = AT_MOST) -> str:
    try:
        await asyncio.wait_for(caller, at_most)
    except UnavailableError as error:
        return error.reason
    except TimeoutError:
        return "hangs"
    return "vector"


async def test_stop_finishes_the_current_batch(bench: BenchOf) -> None:
    async with bench(4) as at:
        in_hand = await at.occupy()
        stopping = asyncio.create_task(at.batcher.stop())
        at.network.release()
        await stopping
        assert await outcome_of(in_hand) in {"STOPPING", "vector"}


async def test_an_image_submitted_after_stop_is_refused(bench: BenchOf) -> None:
    async with bench(4) as at:
        await at.batcher.stop()
        caller = at.batcher.submit(np.zeros((1, 1, 3), np.uint8), Lane.INTERACTIVE, NEVER)
        assert await outcome_of(caller) == "STOPPING"


async def test_a_worker_that_dies_refuses_all_images(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.fatal = [1, 2]
        tasks = [await at.occupy(), *await at.send([1, 2])]
        at.network.step()
        await at.network.begun()
        tasks += await at.send([3, 4]) + await at.send([11, 12], Lane.BULK)
        assert not at.batcher.died.is_set()
        outcomes = await at.release(tasks)
        assert at.batcher.died.is_set()
        assert outcomes[0].values.tolist() == vector_of(0)
        assert [type(outcome) for outcome in outcomes[1:]] == [UnavailableError] * 6
        assert {(outcome.reason, outcome.retry_after) for outcome in outcomes[1:]} == {("WORKER_DIED", 1.0)}
        assert [at.batcher.queue_size(lane) for lane in Lane] == [0, 0]


@pytest.mark.parametrize("lane", Lane)
async def test_an_image_submitted_after_the_worker_died_is_refused(bench: BenchOf, lane: Lane) -> None:
    async with bench(4) as at:
        at.network.fatal = [1]
        await at.release(await at.send([1]))
        at.network.fatal = []
        for task in await at.send([2, 3], lane):
            assert await outcome_of(task) == "WORKER_DIED"
        await asyncio.wait_for(at.batcher.stop(), AT_MOST)
        (task,) = await at.send([4], lane)
        assert await outcome_of(task) == "WORKER_DIED"
        assert at.network.batches == [[1]]


@pytest.mark.parametrize(
    ("fatal", "lost"),
    [
        pytest.param([1, 2], [1, 2, 3, 4]),
        ([3, 4], [3, 4]),
    ],
)
async def test_a_worker_that_dies_of_half_a_batch_refuses_all_images(
    bench: BenchOf, fatal: list[int], lost: list[int]
) -> None:
    async with bench(4) as at:
        at.network.faulty, at.network.fatal = {1, 3}, fatal
        tasks = [await at.occupy(), *await at.send([1, 2, 3, 4])]
        at.network.release()
        await asyncio.wait_for(at.batcher.died.wait(), AT_MOST)
        # All of them have been answered by now.
        assert [await outcome_of(tasks[image], 0.1) for image in lost] == ["WORKER_DIED"] * len(lost)


async def test_a_caller_cancelled_before_the_worker_died_does_not_affect_others(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2])]
        at.network.fatal = [0]
        tasks[0].cancel()
        tasks[1].cancel()
        outcomes = await at.release(tasks)
    assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError, asyncio.CancelledError, UnavailableError]


async def test_a_stopped_batcher_does_not_count_as_dead(bench: BenchOf) -> None:
    async with bench(4) as at:
        await at.release(await at.send([1]))
        await at.batcher.stop()
        assert not at.batcher.died.is_set()


async def test_an_image_that_fails_does_not_kill_the_worker(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.faulty = {1}
        await at.release(await at.send([1]))
        assert not at.batcher.died.is_set()


async def test_the_stages_of_a_call_have_the_times_in_the_queue_and_in_the_model(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.seconds = 0.5
        occupying = await at.occupy()
        call = stages.collect(spans=False)
        tasks = [occupying, *await at.send([1])]
        at.clock.now += 2.0
        await at.release(tasks)
        assert call.seconds == {"queue": 2.5, "inference": 0.5}


async def test_the_observer_receives_each_wait_and_each_run(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.seconds = 0.5
        tasks = [await at.occupy(), *await at.send([1, 2]), *await at.send([11], Lane.BULK)]
        at.clock.now += 2.0
        await at.release(tasks)
        assert at.observer.runs == [(1, 2.5), (2, 0.5), (1, 0.5)]
        interactive, bulk = Lane.INTERACTIVE, Lane.BULK
        assert at.observer.waits == [(interactive, 0.0), (interactive, 2.5), (interactive, 2.5), (bulk, 3.0)]


async def test_the_observer_receives_no_failed_run(bench: BenchOf) -> None:
    async with bench(4) as at:
        at.network.faulty = {1}
        await at.release([await at.occupy(), *await at.send([1, 2])])
        assert [images for images, _ in at.observer.runs] == [1, 1]
        assert len(at.observer.waits) == 2


async def test_queued_images_are_counted_by_lane(bench: BenchOf) -> None:
    async with bench(4) as at:
        tasks = [await at.occupy(), *await at.send([1, 2]), *await at.send([11], Lane.BULK)]
        assert [at.batcher.queue_size(lane) for lane in (Lane.INTERACTIVE, Lane.BULK)] == [2, 1]
        await at.release(tasks)
        assert [at.batcher.queue_size(lane) for lane in Lane] == [0, 0]
