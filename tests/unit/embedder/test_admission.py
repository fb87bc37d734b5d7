"""Admission: who gets a place, who waits for one, and that every place comes back."""

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
    """Admits images of a slow model, which tests use where they need only one, and of two faster ones."""
    costs = {"slow": seconds_per_image, "fast": seconds_per_image / 8, "other": 0.0}
    return Admission(interactive, bulk, costs)


def sized(size: int) -> EncodedImage:
    return EncodedImage(bytes(size))


async def waiting(at: Admission, sizes: Iterable[int]) -> list["asyncio.Task[AdmittedImage]"]:
    """Bulk callers that wait in this order, or have their places."""
    tasks = [asyncio.create_task(at.admit(Lane.BULK, "slow", sized(size))) for size in sizes]
    await settle()
    return tasks


def with_places(tasks: Iterable["asyncio.Task[AdmittedImage]"]) -> list[bool]:
    return [task.done() for task in tasks]


async def test_the_interactive_lane_refuses_at_its_limit_of_images_and_says_when_to_try_again() -> None:
    at = admission(Limit(items=3, size=1000), seconds_per_image=0.4)
    places = [await at.admit(Lane.INTERACTIVE, "slow", sized(10)) for _ in range(3)]
    with pytest.raises(
        ResourceExhaustedError, match="3 images of model 'slow' are pending, and the limit is 3"
    ) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    assert refused.value.reason == "OVERLOADED"
    assert refused.value.retry_after == pytest.approx(0.6)
    assert refused.value.metadata == {"max_pending": "3", "max_pending_bytes": "1000", "model": "slow"}
    assert at.in_flight(Lane.INTERACTIVE) == 3
    places[1].release()
    await at.admit(Lane.INTERACTIVE, "slow", sized(10))


@pytest.mark.parametrize(("size", "taken"), [(400, True), (401, False)])
async def test_the_interactive_lane_refuses_at_its_limit_of_bytes(size: int, taken: bool) -> None:
    at = admission(Limit(items=100, size=1000))
    for _ in range(2):
        await at.admit(Lane.INTERACTIVE, "slow", sized(300))
    if taken:
        await at.admit(Lane.INTERACTIVE, "slow", sized(size))
        return
    with pytest.raises(ResourceExhaustedError) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(size))
    assert refused.value.metadata == {"max_pending": "100", "max_pending_bytes": "1000", "model": "slow"}
    # A refusal takes nothing.
    await at.admit(Lane.INTERACTIVE, "slow", sized(400))


async def test_who_is_refused_is_never_told_to_come_back_at_once() -> None:
    at = admission(Limit(items=1, size=1000), seconds_per_image=0.0)
    await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    with pytest.raises(ResourceExhaustedError) as refused:
        await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    assert refused.value.retry_after == 0.1


@pytest.mark.parametrize("limit", [Limit(items=2, size=1000), Limit(items=100, size=20)], ids=str)
async def test_the_bulk_lane_waits_at_its_limit_until_one_leaves(limit: Limit) -> None:
    at = admission(bulk=limit)
    tasks = await waiting(at, [10, 10, 10])
    assert with_places(tasks) == [True, True, False]
    assert at.in_flight(Lane.BULK) == 2
    tasks[0].result().release()
    await settle()
    assert with_places(tasks) == [True, True, True]
    assert at.in_flight(Lane.BULK) == 2


async def test_bulk_callers_get_their_places_in_the_order_in_which_they_came() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    first = await at.admit(Lane.BULK, "slow", sized(1))
    order: list[int] = []

    async def caller(number: int) -> None:
        place = await at.admit(Lane.BULK, "slow", sized(1))
        order.append(number)
        await asyncio.sleep(0)
        place.release()

    tasks = [asyncio.create_task(caller(number)) for number in range(10)]
    await settle()
    first.release()
    await asyncio.gather(*tasks)
    assert order == list(range(10))


async def test_a_small_bulk_image_does_not_overtake_a_large_one_that_waits() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [60, 60, 10])
    assert with_places(tasks) == [True, False, False]
    tasks[0].result().release()
    await settle()
    assert with_places(tasks) == [True, True, True]


async def test_one_that_leaves_makes_place_for_as_many_as_fit() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [100, 40, 40, 40])
    tasks[0].result().release()
    await settle()
    assert with_places(tasks[1:]) == [True, True, False]


@pytest.mark.parametrize(("full", "other"), [(Lane.BULK, Lane.INTERACTIVE), (Lane.INTERACTIVE, Lane.BULK)])
async def test_a_full_lane_holds_up_no_other(full: Lane, other: Lane) -> None:
    at = admission(Limit(1, 100), Limit(1, 100))
    await at.admit(full, "slow", sized(100))
    await asyncio.wait_for(at.admit(other, "slow", sized(100)), 5)
    assert [at.in_flight(lane) for lane in Lane] == [1, 1]


async def test_an_interactive_image_above_the_limit_of_bytes_gets_in_alone() -> None:
    at = admission(Limit(items=100, size=100))
    place = await at.admit(Lane.INTERACTIVE, "slow", sized(101))
    with pytest.raises(ResourceExhaustedError):
        await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    place.release()
    await at.admit(Lane.INTERACTIVE, "slow", sized(1))
    with pytest.raises(ResourceExhaustedError):
        await at.admit(Lane.INTERACTIVE, "slow", sized(101))


async def test_a_bulk_image_above_the_limit_of_bytes_gets_in_alone() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [1, 101, 1])
    assert with_places(tasks) == [True, False, False]
    tasks[0].result().release()
    await settle()
    assert with_places(tasks) == [True, True, False]
    tasks[1].result().release()
    await settle()
    assert with_places(tasks) == [True, True, True]


@pytest.mark.parametrize("lane", Lane)
async def test_a_place_is_given_back_once_however_often_that_is_said(lane: Lane) -> None:
    at = admission()
    first, _ = [await at.admit(lane, "slow", sized(10)) for _ in range(2)]
    for _ in range(3):
        first.release()
    assert at.in_flight(lane) == 1


async def test_images_that_wait_beside_a_thread_that_hangs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
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


async def test_a_bulk_caller_that_leaves_while_it_waits_takes_no_place() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    tasks = await waiting(at, [1, 1, 1])
    tasks[1].cancel()
    await settle()
    tasks[0].result().release()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    assert at.in_flight(Lane.BULK) == 1


async def test_a_large_bulk_image_whose_caller_leaves_holds_up_no_smaller_ones() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    tasks = await waiting(at, [60, 60, 10, 10])
    tasks[1].cancel()
    await settle()
    assert with_places(tasks) == [True, True, True, True]
    assert at.in_flight(Lane.BULK) == 3


async def test_a_bulk_caller_that_leaves_just_when_its_turn_has_come_gives_the_place_on() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    tasks = await waiting(at, [1, 1, 1])
    tasks[0].result().release()
    # It has the place by now, and has not run yet.
    tasks[1].cancel()
    await settle()
    assert tasks[1].cancelled()
    assert tasks[2].done()
    tasks[2].result().release()
    assert at.in_flight(Lane.BULK) == 0


async def test_a_place_may_be_left_just_when_the_next_caller_leaves() -> None:
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
# (what, number): a new image of so many bytes, or the caller of that number, round and round, leaves.
STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "enter", "leave", "leave", "cancel", "let run"]), st.integers(1, 120)),
    max_size=40,
)


def model_of(number: int, models: int) -> str:
    return ("slow", "fast", "other")[number % models]


class Crowd:
    """Bulk callers who come and go, in a lane whose limits have to hold all the while."""

    def __init__(self, models: int) -> None:
        self.models = models
        self.at = admission(bulk=Limit(IMAGES, SIZE))
        self.callers: list[tuple[int, asyncio.Task[AdmittedImage]]] = []
        self.inside: list[tuple[int, AdmittedImage]] = []

    async def do(self, what: str, number: int) -> None:
        if what == "enter":
            entering = self.at.admit(Lane.BULK, model_of(number, self.models), sized(number))
            self.callers.append((number, asyncio.create_task(entering)))
        elif what == "leave" and self.inside:
            self.inside.pop(number % len(self.inside))[1].release()
        elif what == "cancel" and self.callers:
            self.callers[number % len(self.callers)][1].cancel()
        elif what == "let run":
            await asyncio.sleep(0)

    def count(self) -> None:
        for size, task in [each for each in self.callers if each[1].done()]:
            self.callers.remove((size, task))
            if not task.cancelled():
                self.inside.append((size, task.result()))
        sizes = [size for size, _ in self.inside]
        assert max(Counter(model_of(size, self.models) for size in sizes).values(), default=0) <= IMAGES
        assert sum(sizes) <= SIZE or len(sizes) == 1
        assert self.at.in_flight(Lane.BULK) <= self.models * IMAGES

    async def go_home(self) -> None:
        while self.callers or self.inside:
            await settle()
            self.count()
            # Whoever waits, waits for somebody.
            assert self.inside or not self.callers
            assert self.at.in_flight(Lane.BULK) == len(self.inside)
            for _, place in self.inside:
                place.release()
                place.release()
            self.inside.clear()
        assert self.at.in_flight(Lane.BULK) == 0


async def bulk_callers_come_and_go(steps: list[tuple[str, int]], models: int, *, between: bool) -> None:
    """Does the steps, with time for everybody `between` them."""
    crowd = Crowd(models)
    for what, number in steps:
        await crowd.do(what, number)
        if between:
            await settle()
        crowd.count()
    await crowd.go_home()


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(STEPS, st.integers(1, 3))
def test_whoever_comes_and_goes_the_limits_hold_and_every_place_comes_back(
    steps: list[tuple[str, int]], models: int
) -> None:
    asyncio.run(bulk_callers_come_and_go(steps, models, between=True))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@example([("enter", 100), ("enter", 100), ("let run", 1), ("let run", 1), ("cancel", 1), ("leave", 1)], 1)
@given(STEPS, st.integers(1, 3))
def test_the_limits_hold_when_much_happens_at_once(steps: list[tuple[str, int]], models: int) -> None:
    asyncio.run(bulk_callers_come_and_go(steps, models, between=False))


@settings(max_examples=200, derandomize=True, database=None, deadline=None)
@given(STEPS)
def test_interactive_images_are_within_the_limits_and_every_place_comes_back(steps: list[tuple[str, int]]) -> None:
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
        for _, place in inside:
            place.release()
        assert at.in_flight(Lane.INTERACTIVE) == 0

    asyncio.run(come_and_go())


async def refused(at: Admission, model: str, size: int) -> ResourceExhaustedError:
    with pytest.raises(ResourceExhaustedError) as error:
        await at.admit(Lane.INTERACTIVE, model, sized(size))
    return error.value


async def test_a_slow_models_full_queue_refuses_its_own_callers_alone() -> None:
    at = admission(Limit(items=2, size=1000), seconds_per_image=8.0)
    for _ in range(2):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    error = await refused(at, "slow", 10)
    assert "2 images of model 'slow' are pending" in error.message
    assert error.retry_after == pytest.approx(8.0)
    # A fast model's callers come again sooner.
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    assert (await refused(at, "fast", 10)).retry_after == pytest.approx(1.0)
    assert at.in_flight(Lane.INTERACTIVE) == 4


async def test_a_slow_models_full_bulk_lane_holds_up_no_other_model() -> None:
    at = admission(bulk=Limit(items=1, size=1000))
    slow = await waiting(at, [10, 10])
    fast = asyncio.create_task(at.admit(Lane.BULK, "fast", sized(10)))
    await settle()
    assert (with_places(slow), fast.done()) == ([True, False], True)


async def test_a_model_has_all_bytes_while_no_other_one_has_callers() -> None:
    at = admission(Limit(items=100, size=100))
    for _ in range(10):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))


async def test_a_model_that_has_all_bytes_makes_room_for_one_whose_caller_was_refused() -> None:
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


async def test_a_model_whose_callers_stay_away_gives_its_share_back() -> None:
    clock = FakeClock()
    at = Admission(Limit(100, 100), AMPLE, {"slow": 0.0, "fast": 0.0}, clock)
    (await at.admit(Lane.INTERACTIVE, "fast", sized(1))).release()
    for _ in range(5):
        await at.admit(Lane.INTERACTIVE, "slow", sized(10))
    clock.now += 9.9
    await refused(at, "slow", 10)
    clock.now += 0.2
    await at.admit(Lane.INTERACTIVE, "slow", sized(50))


async def test_bulk_images_of_a_model_above_its_share_wait_while_others_pass() -> None:
    at = admission(bulk=Limit(items=100, size=100))
    slow = await waiting(at, [50, 50, 50])
    fast = [asyncio.create_task(at.admit(Lane.BULK, "fast", sized(20))) for _ in range(3)]
    await settle()
    assert with_places(slow) == [True, True, False]
    slow[0].result().release()
    await settle()
    assert with_places(fast) == [True, True, False]
    assert with_places(slow) == [True, True, False]


async def test_an_image_above_its_models_share_gets_in_when_its_model_has_no_other() -> None:
    at = admission(Limit(items=100, size=100))
    await at.admit(Lane.INTERACTIVE, "fast", sized(10))
    await at.admit(Lane.INTERACTIVE, "slow", sized(80))
    await refused(at, "slow", 10)


@pytest.mark.parametrize("lane", Lane)
async def test_bytes_count_until_the_last_hold_on_them_ends(lane: Lane) -> None:
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
