"""Admission: which images are admitted, which wait, and that all slots are released."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from embedder_service.core.admission import Admission
from embedder_service.core.held_image import AdmittedImage
from embedder_service.core.types import EncodedImage, Lane
from grpc_kit.errors import ResourceExhaustedError, UnavailableError
from grpc_kit.server import hang_watch
from grpc_kit.server.budget import Limit
from grpc_kit.server.hang_watch import HangWatch
from tests.unit.embedder.doubles import FakeClock, settle

AMPLE = Limit(items=1000, size=1_000_000)


def admission(interactive: Limit = AMPLE, bulk: Limit = AMPLE, *, seconds_per_image: float = 0.0) -> Admission:
    """Return an admission for a slow model and two faster models."""
    costs = {"slow": seconds_per_image, "fast": seconds_per_image / 8, "other": 0.0}
    return Admission(interactive, bulk, costs)


def sized(size: int) -> EncodedImage:
    return EncodedImage(bytes(size))


async def waiting(at: Admission, sizes: Iterable[int]) -> list["asyncio.Task[AdmittedImage]"]:
    """Start bulk callers in this order. They wait or are admitted when this returns."""
    tasks = [asyncio.create_task(at.admit(Lane.BULK, "slow", sized(size))) for size in sizes]
    await settle()
    return tasks


def are_admitted(tasks: Iterable["asyncio.Task[AdmittedImage]"]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_the_interactive_lane_refuses_above_its_image_limit_with_a_retry_delay() -> None:
    at = admission(Limit(items=3, size=1000), seconds_per_image=0.4)
    admitted = [await at.admit(Lane.INTERACTIVE, "slow", sized(10)) for _ in range(3)]
    with pytest.raises(
        ResourceExhaustedError, match="3 images of model 'slow' are pending, and the limit is 3"
    ) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    assert refused.value.reason == "OVERLOADED"
    assert refused.value.retry_after == pytest.approx(0.6)
    assert refused.value.metadata == {"max_pending": "3", "max_pending_bytes": "1000", "model": "slow"}
    assert at.in_flight(Lane.INTERACTIVE) == 3
    admitted[1].release()
    await at.admit(Lane.INTERACTIVE, "slow", sized(10))


@pytest.mark.parametrize(("size", "taken"), [(400, True), (401, False)])
async def test_the_interactive_lane_refuses_above_its_byte_limit(size: int, taken: bool) -> None:
    at = admission(Limit(items=100, size=1000))
    for _ in range(2):
        await at.admit(Lane.INTERACTIVE, "slow", sized(300))
    if taken:
        await at.admit(Lane.INTERACTIVE, "slow", sized(size))
        return
    with pytest.raises(ResourceExhaustedError) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(size))
    assert refused.value.metadata == {"max_pending": "100", "max_pending_bytes": "1000", "model": "slow"}
    # A refused image takes no bytes.
    await at.admit(Lane.INTERACTIVE, "slow", sized(400))


async def test_a_refusal_has_a_minimum_retry_delay() -> None:
    at = admission(Limit(items=1, size=1000), seconds_per_image=0.0)
    await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    with pytest.raises(ResourceExhaustedError) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    assert refused.value.retry_after == 0.1


@pytest.mark.parametrize("limit", [Limit(items=2, size=1000), Limit(items=100, size=20)], ids=str)
async def test_the_bulk_lane_waits_at_its_limit_until_an_image_is_released(limit: Limit) -> None:
    at = admission(bulk=limit)
    tasks = await waiting(at, [10, 10, 10])
    assert are_admitted(tasks) == [True, True, False]
    assert at.in_flight(Lane.BULK) == 2
    tasks[0].result().release()
    await settle()
    assert are_admitted(tasks) == [True, True, True]
    assert at.in_flight(Lane.BULK) == 2


async def test_bulk_images_are_admitted_in_order_of_arrival() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    first = await at.admit(Lane.BULK, "slow", sized(1))
    order: list[int] = []

    async def caller(number: int) -> None:
        image = await at.admit(Lane.BULK, "slow", sized(1))
        order.append(number)
        await asyncio.sleep(0)
        image.release()

    tasks = [asyncio.create_task(caller(number)) for number in range(10)]
    await settle()
    first.release()
    await asyncio.gather(*tasks)
    assert order == list(range(10))


async def test_a_small_bulk_image_does_not_overtake_a_waiting_large_one() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [60, 60, 10])
    assert are_admitted(tasks) == [True, False, False]
    tasks[0].result().release()
    await settle()
    assert are_admitted(tasks) == [True, True, True]


async def test_a_release_admits_as_many_images_as_fit() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [100, 40, 40, 40])
    tasks[0].result().release()
    await settle()
    assert are_admitted(tasks[1:]) == [True, True, False]


@pytest.mark.parametrize(("full", "other"), [(Lane.BULK, Lane.INTERACTIVE), (Lane.INTERACTIVE, Lane.BULK)])
async def test_a_full_lane_does_not_block_the_other_lane(full: Lane, other: Lane) -> None:
    at = admission(Limit(1, 100), Limit(1, 100))
    await at.admit(full, "slow", sized(100))
    await asyncio.wait_for(at.admit(other, "slow", sized(100)), 5)
    assert [at.in_flight(lane) for lane in Lane] == [1, 1]


async def test_an_interactive_image_above_the_byte_limit_is_admitted_alone() -> None:
    at = admission(Limit(items=100, size=100))
    image = await at.admit(Lane.INTERACTIVE, "slow", sized(101))
    with pytest.raises(ResourceExhaustedError):
        await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    image.release()
    await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    with pytest.raises(ResourceExhaustedError):
        await at.admit(Lane.INTERACTIVE, "slow", sized(101))


async def test_a_bulk_image_above_the_byte_limit_is_admitted_alone() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [1, 101, 1])
    assert are_admitted(tasks) == [True, False, False]
    tasks[0].result().release()
    await settle()
    assert are_admitted(tasks) == [True, True, False]
    tasks[1].result().release()
    await settle()
    assert are_admitted(tasks) == [True, True, True]


@pytest.mark.parametrize("lane", Lane)
async def test_a_second_release_does_nothing(lane: Lane) -> None:
    at = admission()
    first, _ = [await at.admit(lane, "slow", sized(10)) for _ in range(2)]
    for _ in range(3):
        first.release()
    assert at.in_flight(lane) == 1


async def test_waiting_images_are_refused_when_a_thread_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hang_watch, "TICK", 0.01)
    watch, gate = HangWatch(), threading.Event()
    at = Admission(AMPLE, Limit(items=1, size=100), {"slow": 0.0}, watch=watch)
    watching = asyncio.create_task(watch.watch())
    _, *late = await waiting(at, [10, 10, 10])
    with ThreadPoolExecutor(1) as pool:
        hangs = asyncio.create_task(watch.run(pool, "work", 0.02, gate.wait, 20.0))
        outcomes = await asyncio.wait_for(asyncio.gather(hangs, *late, return_exceptions=True), 20)
        gate.set()
    await watching
    assert [getattr(outcome, "reason", outcome) for outcome in outcomes] == ["WORKER_DIED"] * 3
    for lane in Lane:
        with pytest.raises(UnavailableError):
            await at.admit(lane, "slow", sized(10))


async def test_a_bulk_caller_cancelled_while_waiting_takes_no_slot() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    tasks = await waiting(at, [1, 1, 1])
    tasks[1].cancel()
    await settle()
    tasks[0].result().release()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    assert at.in_flight(Lane.BULK) == 1


async def test_a_cancelled_large_bulk_image_does_not_block_smaller_ones() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [60, 60, 10, 10])
    tasks[1].cancel()
    await settle()
    assert are_admitted(tasks) == [True, True, True, True]
    assert at.in_flight(Lane.BULK) == 3


async def test_a_bulk_caller_cancelled_just_after_its_admission_releases_the_slot() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    tasks = await waiting(at, [1, 1, 1])
    tasks[0].result().release()
    # The image is admitted by now, but the task has not run yet.
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    tasks[2].result().release()
    assert at.in_flight(Lane.BULK) == 0


async def test_a_slot_may_be_released_just_when_the_next_caller_is_cancelled() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    tasks = await waiting(at, [1, 1, 1])
    tasks[1].cancel()
    tasks[0].result().release()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    tasks[2].result().release()
    assert at.in_flight(Lane.BULK) == 0


IMAGES, SIZE = 4, 100
# (what, number): admit an image of this number of bytes, or release or cancel the caller of this number (modulo).
STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "release", "release", "cancel", "let run"]), st.integers(1, 120)),
    max_size=40,
)


def model_of(number: int, models: int) -> str:
    return ("slow", "fast", "other")[number % models]


class Crowd:
    """Bulk callers that enter and leave in any order. The limits of the lane must hold at any time."""

    def __init__(self, models: int) -> None:
        self.models = models
        self.at = admission(bulk=Limit(IMAGES, SIZE))
        self.callers: list[tuple[int, asyncio.Task[AdmittedImage]]] = []
        self.admitted: list[tuple[int, AdmittedImage]] = []

    async def do(self, what: str, number: int) -> None:
        if what == "enter":
            entering = self.at.admit(Lane.BULK, model_of(number, self.models), sized(number))
            self.callers.append((number, asyncio.create_task(entering)))
        elif what == "release" and self.admitted:
            self.admitted.pop(number % len(self.admitted))[1].release()
        elif what == "cancel" and self.callers:
            self.callers[number % len(self.callers)][1].cancel()
        elif what == "let run":
            await asyncio.sleep(0)

    def count(self) -> None:
        for size, task in [each for each in self.callers if each[1].done()]:
            self.callers.remove((size, task))
            if not task.cancelled():
                self.admitted.append((size, task.result()))
        sizes = [size for size, _ in self.admitted]
        assert max(Counter(model_of(size, self.models) for size in sizes).values(), default=0) <= IMAGES
        assert sum(sizes) <= SIZE or len(sizes) == 1
        assert self.at.in_flight(Lane.BULK) <= self.models * IMAGES

    async def release_all(self) -> None:
        while self.callers or self.admitted:
            await settle()
            self.count()
            # If callers wait, an image must be admitted.
            assert self.admitted or not self.callers
            assert self.at.in_flight(Lane.BULK) == len(self.admitted)
            for _, image in self.admitted:
                image.release()
                image.release()
            self.admitted.clear()
        assert self.at.in_flight(Lane.BULK) == 0


async def bulk_callers_come_and_go(steps: list[tuple[str, int]], models: int, *, between: bool) -> None:
    """Execute the steps; with `between`, tasks run between two steps."""
    crowd = Crowd(models)
    for what, number in steps:
        await crowd.do(what, number)
        if between:
            await settle()
        crowd.count()
    await crowd.release_all()


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_limits_hold_and_all_slots_are_released_in_any_order_of_events(
    steps: list[tuple[str, int]], models: int
) -> None:
    asyncio.run(bulk_callers_come_and_go(steps, models, between=True))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@example([("enter", 100), ("enter", 100), ("let run", 1), ("let run", 1), ("cancel", 1), ("release", 1)], 1)
@given(STEPS, st.integers(1, 3))
def test_limits_hold_if_events_happen_at_once(steps: list[tuple[str, int]], models: int) -> None:
    asyncio.run(bulk_callers_come_and_go(steps, models, between=False))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(STEPS)
def test_interactive_limits_hold_and_all_slots_are_released(steps: list[tuple[str, int]]) -> None:
    async def come_and_go() -> None:
        at = admission(Limit(IMAGES, SIZE))
        inside: list[tuple[int, AdmittedImage]] = []
        for what, number in steps:
            sizes = [size for size, _ in inside]
            if what == "enter":
                fits = not sizes or (len(sizes) < IMAGES and sum(sizes) + number <= SIZE)
                try:
                    inside.append((number, await at.admit(Lane.INTERACTIVE, "slow", sized(number))))
                except ResourceExhaustedError:
                    assert not fits
                else:
                    assert fits
            elif inside:
                inside.pop(number % len(inside))[1].release()
            assert at.in_flight(Lane.INTERACTIVE) == len(inside)
        for _, image in inside:
            image.release()
        assert at.in_flight(Lane.INTERACTIVE) == 0

    asyncio.run(come_and_go())


async def refused(at: Admission, model: str, size: int) -> ResourceExhaustedError:
    with pytest.raises(ResourceExhaustedError) as error:
        await at.admit(Lane.INTERACTIVE, model, sized(size))
    return error.value


async def test_a_full_queue_of_a_slow_model_refuses_only_its_own_callers() -> None:
    at = admission(Limit(items=2, size=1000), seconds_per_image=8.0)
    for _ in range(2):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    error = await refused(at, "slow", 10)
    assert "2 images of model 'slow' are pending" in error.message
    assert error.retry_after == pytest.approx(8.0)
    # The retry delay of a fast model is shorter.
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    assert (await refused(at, "fast", 10)).retry_after == pytest.approx(1.0)
    assert at.in_flight(Lane.INTERACTIVE) == 4


async def test_a_full_bulk_lane_of_a_slow_model_does_not_block_other_models() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    slow = await waiting(at, [10, 10])
    fast = asyncio.create_task(at.admit(Lane.BULK, "fast", sized(10)))
    await settle()
    assert (are_admitted(slow), fast.done()) == ([True, False], True)


async def test_a_model_may_use_all_bytes_while_no_other_model_is_active() -> None:
    at = admission(Limit(items=100, size=100))
    for _ in range(10):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))


async def test_a_model_that_uses_all_bytes_yields_a_share_to_a_model_with_a_refused_caller() -> None:
    at = admission(Limit(items=100, size=100))
    held = [await at.admit(Lane.INTERACTIVE, "slow", sized(10)) for _ in range(10)]
    error = await refused(at, "fast", 10)
    assert "the limit is 100 bytes, and 50 for this model" in error.message
    # However fast the slow model's callers try again, they are above their share until half is free.
    for image in held[:5]:
        image.release()
        await refused(at, "slow", 10)
    for _ in range(5):
        await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    await refused(at, "fast", 10)


async def test_an_inactive_model_loses_its_share() -> None:
    clock = FakeClock()
    at = Admission(Limit(100, 100), AMPLE, {"slow": 0.0, "fast": 0.0}, clock)
    (await at.admit(Lane.INTERACTIVE, "fast", sized(1))).release()
    for _ in range(5):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    clock.now += 9.9
    await refused(at, "slow", 10)
    clock.now += 0.2
    await at.admit(Lane.INTERACTIVE, "slow", sized(50))


async def test_bulk_images_above_their_models_share_do_not_block_other_models() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    slow = await waiting(at, [50, 50, 50])
    fast = [asyncio.create_task(at.admit(Lane.BULK, "fast", sized(20))) for _ in range(3)]
    await settle()
    assert are_admitted(slow) == [True, True, False]
    slow[0].result().release()
    await settle()
    assert are_admitted(fast) == [True, True, False]
    assert are_admitted(slow) == [True, True, False]


async def test_an_image_above_its_models_share_is_admitted_if_it_is_the_models_only_image() -> None:
    at = admission(Limit(items=100, size=100))
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    await at.admit(Lane.INTERACTIVE, "slow", sized(80))
    await refused(at, "slow", 10)


@pytest.mark.parametrize("lane", Lane)
async def test_bytes_count_until_the_last_hold_is_released(lane: Lane) -> None:
    at = admission(Limit(100, 100), Limit(100, 100))
    image = await at.admit(lane, "slow", sized(100))
    thread = image.hold.copy()
    image.release()
    image.release()
    assert (at.in_flight(lane), at.pending_bytes(lane)) == (0, 100)
    assert len(thread.image.content) == 100
    thread.release()
    thread.release()
    assert at.pending_bytes(lane) == 0
    for use in (thread.copy, lambda: thread.image):
        with pytest.raises(RuntimeError, match="the image was released"):
            use()
