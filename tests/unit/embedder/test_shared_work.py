"""SharedWork: equal work runs once for all callers, while at least one of them waits."""

import asyncio
import gc
import math
import threading
from typing import Any

import pytest

from embedder_service.core.deadlines import AnyDeadline
from embedder_service.core.shared_work import SharedWork
from embedder_service.core.types import Lane
from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError
from tests.unit.embedder.doubles import FakeClock, settle

NEVER = Deadline.after(None)
PASSED = Deadline(0.0)


def nothing() -> None:
    """Release nothing."""


class Run:
    """One run of the work. The test sets its result."""

    def __init__(self, deadline: AnyDeadline) -> None:
        self.deadline = deadline
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Desk:
    """Shared work, and its callers."""

    def __init__(self) -> None:
        self.shared: SharedWork[str] = SharedWork()
        self.runs: list[Run] = []
        # Number of calls of `release`.
        self.releases = 0

    def release(self) -> None:
        self.releases += 1

    async def work(self, deadline: AnyDeadline) -> str:
        run = Run(deadline)
        self.runs.append(run)
        return await run.end

    async def ask(
        self, key: str = "key", lane: Lane = Lane.INTERACTIVE, deadline: AnyDeadline = NEVER
    ) -> "asyncio.Task[tuple[str, bool]]":
        """Start a caller. It waits when this returns."""
        task = asyncio.create_task(self.shared.run(key, lane, deadline, self.work, self.release))
        await settle()
        return task

    async def leave(self, *tasks: "asyncio.Task[tuple[str, bool]]") -> None:
        for task in tasks:
            task.cancel()
        await settle()
        assert all(task.cancelled() for task in tasks)

    def is_clear(self) -> bool:
        """Return whether no work is in flight."""
        return not self.shared._in_flight


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("lane", Lane)
async def test_equal_work_runs_once_for_all_callers(desk: Desk, lane: Lane) -> None:
    callers = [await desk.ask(lane=lane) for _ in range(3)]
    (run,) = desk.runs
    run.end.set_result("done")
    assert await asyncio.gather(*callers) == [("done", False), ("done", True), ("done", True)]
    await settle()
    assert desk.is_clear()


async def test_work_with_different_keys_runs_separately(desk: Desk) -> None:
    callers = [await desk.ask(key) for key in "abc"]
    for number, run in enumerate(desk.runs):
        run.end.set_result(f"done {number}")
    assert await asyncio.gather(*callers) == [("done 0", False), ("done 1", False), ("done 2", False)]
    await settle()
    assert desk.is_clear()


async def test_a_call_after_the_work_ended_runs_it_again(desk: Desk) -> None:
    for number in range(2):
        caller = await desk.ask()
        desk.runs[number].end.set_result(f"done {number}")
        assert await caller == (f"done {number}", False)
    await settle()
    assert desk.is_clear()


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_a_cancelled_caller_does_not_affect_the_others(desk: Desk, who: int) -> None:
    callers = [await desk.ask() for _ in range(3)]
    await desk.leave(callers.pop(who))
    (run,) = desk.runs
    assert not run.end.cancelled()
    run.end.set_result("done")
    assert [result for result, _ in await asyncio.gather(*callers)] == ["done", "done"]
    await settle()
    assert desk.is_clear()


async def test_work_without_callers_is_cancelled_and_a_later_call_starts_it_again(desk: Desk) -> None:
    await desk.leave(*[await desk.ask() for _ in range(2)])
    assert desk.runs[0].end.cancelled()
    assert desk.is_clear()
    later = await desk.ask()
    desk.runs[1].end.set_result("done")
    assert await later == ("done", False)


async def test_a_call_does_not_join_cancelled_work_that_is_ending() -> None:
    shared: SharedWork[str] = SharedWork()
    cleaned = asyncio.Event()

    async def slow_to_end(_: AnyDeadline) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await cleaned.wait()
        return "never"

    async def quick(_: AnyDeadline) -> str:
        return "done"

    first = asyncio.create_task(shared.run("key", Lane.BULK, NEVER, slow_to_end, nothing))
    await settle()
    first.cancel()
    await settle()
    assert await shared.run("key", Lane.BULK, NEVER, quick, nothing) == ("done", False)
    cleaned.set()
    await settle()
    assert not shared._in_flight


async def test_an_error_reaches_all_waiting_callers_and_no_later_one(desk: Desk) -> None:
    callers = [await desk.ask() for _ in range(3)]
    error = InvalidArgumentError("IMAGE_CORRUPT", "it is corrupt")
    desk.runs[0].end.set_exception(error)
    assert await asyncio.gather(*callers, return_exceptions=True) == [error] * 3
    await settle()
    assert desk.is_clear()
    later = await desk.ask()
    desk.runs[1].end.set_result("done")
    assert await later == ("done", False)


async def test_an_error_without_callers_is_not_logged() -> None:
    shared: SharedWork[str] = SharedWork()
    said: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))

    async def work(_: AnyDeadline) -> str:
        try:
            await asyncio.Event().wait()
        finally:
            raise InvalidArgumentError("IMAGE_CORRUPT", "it is corrupt")

    caller = asyncio.create_task(shared.run("key", Lane.INTERACTIVE, NEVER, work, nothing))
    await settle()
    caller.cancel()
    await settle()
    assert caller.cancelled()
    assert not shared._in_flight
    gc.collect()
    assert said == []


@pytest.mark.parametrize("first_is_patient", [True, False])
async def test_a_callers_deadline_does_not_affect_other_callers(desk: Desk, first_is_patient: bool) -> None:
    patiences = [NEVER, PASSED] if first_is_patient else [PASSED, NEVER]
    both = [
        asyncio.create_task(desk.shared.run("key", Lane.INTERACTIVE, deadline, desk.work, nothing))
        for deadline in patiences
    ]
    patient, impatient = both if first_is_patient else reversed(both)
    with pytest.raises(DeadlineExceededError) as refused:
        await impatient
    assert refused.value.reason == "DEADLINE_EXCEEDED"
    # Nobody joins work whose time is over.
    assert len(desk.runs) == (1 if first_is_patient else 2)
    desk.runs[-1].end.set_result("done")
    assert (await patient)[0] == "done"
    await settle()
    assert desk.is_clear()


async def test_work_is_cancelled_when_the_last_deadline_has_passed(desk: Desk) -> None:
    both = [
        asyncio.create_task(desk.shared.run("key", Lane.BULK, Deadline.after(0.01), desk.work, nothing))
        for _ in range(2)
    ]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [DeadlineExceededError] * 2
    await settle()
    assert desk.runs[0].end.cancelled()
    assert desk.is_clear()


async def test_the_work_has_the_latest_deadline_of_its_callers(desk: Desk) -> None:
    clock = FakeClock()
    callers = [await desk.ask(deadline=Deadline(clock() + seconds, clock)) for seconds in (50.0, 90.0, 70.0)]
    deadline = desk.runs[0].deadline
    assert deadline.remaining() == 90.0
    clock.now += 10.0
    assert deadline.remaining() == 80.0
    await desk.leave(callers[1])
    assert deadline.remaining() == 60.0
    eternal = await desk.ask()
    assert deadline.remaining() == math.inf
    await desk.leave(eternal, callers[0], callers[2])
    assert deadline.remaining() == 0.0


async def test_a_call_does_not_join_work_whose_deadline_passed(desk: Desk) -> None:
    clock = FakeClock()
    late = await desk.ask(deadline=Deadline(clock() + 5.0, clock))
    clock.now += 5.0
    # A thread may have seen by now that nobody has time, and be giving up.
    caller = await desk.ask()
    assert len(desk.runs) == 2
    desk.runs[0].end.set_exception(DeadlineExceededError("DEADLINE_EXCEEDED", "late"))
    desk.runs[1].end.set_result("done")
    assert await caller == ("done", False)
    with pytest.raises(DeadlineExceededError):
        await late
    await settle()
    assert desk.is_clear()


class AskedFromAThread:
    """No deadline; tells when another thread asks, and answers it later."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = threading.Event()

    def remaining(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self.asked.set()
            assert self.answers.wait(5)
            return 0.0
        return math.inf


async def test_a_thread_may_read_the_deadline_while_a_caller_leaves(desk: Desk) -> None:
    leaving = AskedFromAThread()
    callers = [await desk.ask(deadline=leaving), await desk.ask()]
    answer = asyncio.create_task(asyncio.to_thread(desk.runs[0].deadline.remaining))
    assert await asyncio.to_thread(leaving.asked.wait, 5)
    await desk.leave(callers[0])
    leaving.answers.set()
    assert await answer == math.inf
    await desk.leave(callers[1])


async def test_an_interactive_call_never_joins_bulk_work_and_later_bulk_calls_join_it(desk: Desk) -> None:
    bulk = await desk.ask(lane=Lane.BULK)
    interactive = await desk.ask(lane=Lane.INTERACTIVE)
    later = [await desk.ask(lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    of_bulk, of_interactive = desk.runs
    of_interactive.end.set_result("sooner")
    assert await interactive == ("sooner", False)
    assert await asyncio.gather(*later) == [("sooner", True)] * 2
    assert not bulk.done()
    of_bulk.end.set_result("later")
    assert await bulk == ("later", False)
    await settle()
    assert desk.is_clear()


async def test_interactive_work_can_be_joined_after_equal_bulk_work_ended(desk: Desk) -> None:
    bulk, interactive = [await desk.ask(lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    desk.runs[0].end.set_result("bulk's")
    assert await bulk == ("bulk's", False)
    await settle()
    joining = await desk.ask(lane=Lane.BULK)
    desk.runs[1].end.set_result("interactive's")
    assert list(await asyncio.gather(interactive, joining)) == [("interactive's", False), ("interactive's", True)]
    await settle()
    assert desk.is_clear()


async def test_a_cancelled_bulk_caller_does_not_end_interactive_work(desk: Desk) -> None:
    bulk, interactive = [await desk.ask(lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    await desk.leave(bulk)
    assert [run.end.cancelled() for run in desk.runs] == [True, False]
    desk.runs[1].end.set_result("done")
    assert await interactive == ("done", False)
    await settle()
    assert desk.is_clear()


async def test_callers_with_equal_deadlines_leave_one_by_one(desk: Desk) -> None:
    clock = FakeClock()
    callers = [await desk.ask(deadline=Deadline(clock() + 50.0, clock)) for _ in range(3)]
    await desk.leave(callers[0], callers[1])
    assert desk.runs[0].deadline.remaining() == 50.0
    desk.runs[0].end.set_result("done")
    assert await callers[2] == ("done", True)
    await settle()
    assert desk.is_clear()


async def test_the_input_is_released_when_the_work_ends_and_at_once_by_joining_calls(desk: Desk) -> None:
    first, second = [await desk.ask() for _ in range(2)]
    assert desk.releases == 1
    # The work of the one who leaves goes on for the other one.
    await desk.leave(first)
    assert desk.releases == 1
    desk.runs[0].end.set_result("done")
    assert await second == ("done", True)
    assert desk.releases == 2


async def test_work_cancelled_before_it_began_releases_its_input(desk: Desk) -> None:
    caller = asyncio.create_task(desk.shared.run("key", Lane.BULK, PASSED, desk.work, desk.release))
    with pytest.raises(DeadlineExceededError):
        await caller
    await settle()
    assert (desk.releases, desk.is_clear()) == (1, True)
