"""SharedWork: equal work is done once for all who want it, and only while one of them does."""

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
    """What is done where nothing was kept for the work."""


class Run:
    """One run of the work: it ends when the test says how."""

    def __init__(self, patience: AnyDeadline) -> None:
        self.patience = patience
        self.end: asyncio.Future[str] = asyncio.get_running_loop().create_future()


class Desk:
    """Shared work, and the callers who ask for it."""

    def __init__(self) -> None:
        self.shared: SharedWork[str] = SharedWork()
        self.runs: list[Run] = []
        # One for each call whose own work is over or was never begun.
        self.unneeded_calls = 0

    def unneeded(self) -> None:
        self.unneeded_calls += 1

    async def work(self, patience: AnyDeadline) -> str:
        run = Run(patience)
        self.runs.append(run)
        return await run.end

    async def ask(
        self, key: str = "key", lane: Lane = Lane.INTERACTIVE, patience: AnyDeadline = NEVER
    ) -> "asyncio.Task[tuple[str, bool]]":
        """A caller who waits when this returns."""
        task = asyncio.create_task(self.shared.run(key, lane, patience, self.work, self.unneeded))
        await settle()
        return task

    async def leave(self, *tasks: "asyncio.Task[tuple[str, bool]]") -> None:
        for task in tasks:
            task.cancel()
        await settle()
        assert all(task.cancelled() for task in tasks)

    def is_clear(self) -> bool:
        """Whether nothing is kept of what was asked for."""
        return not self.shared._in_flight


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("lane", Lane)
async def test_equal_work_is_done_once_for_all_who_want_it(desk: Desk, lane: Lane) -> None:
    callers = [await desk.ask(lane=lane) for _ in range(3)]
    (run,) = desk.runs
    run.end.set_result("done")
    assert await asyncio.gather(*callers) == [("done", False), ("done", True), ("done", True)]
    await settle()
    assert desk.is_clear()


async def test_work_of_other_keys_is_done_apart(desk: Desk) -> None:
    callers = [await desk.ask(key) for key in "abc"]
    for number, run in enumerate(desk.runs):
        run.end.set_result(f"done {number}")
    assert await asyncio.gather(*callers) == [("done 0", False), ("done 1", False), ("done 2", False)]
    await settle()
    assert desk.is_clear()


async def test_who_asks_when_the_work_is_done_has_it_done_again(desk: Desk) -> None:
    for number in range(2):
        caller = await desk.ask()
        desk.runs[number].end.set_result(f"done {number}")
        assert await caller == (f"done {number}", False)
    await settle()
    assert desk.is_clear()


@pytest.mark.parametrize("who", [0, 1, 2])
async def test_one_who_leaves_does_not_disturb_the_others(desk: Desk, who: int) -> None:
    callers = [await desk.ask() for _ in range(3)]
    await desk.leave(callers.pop(who))
    (run,) = desk.runs
    assert not run.end.cancelled()
    run.end.set_result("done")
    assert [result for result, _ in await asyncio.gather(*callers)] == ["done", "done"]
    await settle()
    assert desk.is_clear()


async def test_work_that_nobody_wants_any_more_is_cancelled_and_done_anew_for_who_comes_later(desk: Desk) -> None:
    await desk.leave(*[await desk.ask() for _ in range(2)])
    assert desk.runs[0].end.cancelled()
    assert desk.is_clear()
    later = await desk.ask()
    desk.runs[1].end.set_result("done")
    assert await later == ("done", False)


async def test_who_comes_while_the_cancelled_work_still_cleans_up_does_not_join_it() -> None:
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


async def test_an_error_reaches_all_who_wait_and_nobody_who_comes_later(desk: Desk) -> None:
    callers = [await desk.ask() for _ in range(3)]
    error = InvalidArgumentError("IMAGE_CORRUPT", "it is corrupt")
    desk.runs[0].end.set_exception(error)
    assert await asyncio.gather(*callers, return_exceptions=True) == [error] * 3
    await settle()
    assert desk.is_clear()
    later = await desk.ask()
    desk.runs[1].end.set_result("done")
    assert await later == ("done", False)


async def test_an_error_that_nobody_waits_for_is_dropped_without_a_word() -> None:
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
async def test_the_deadline_of_one_does_not_cut_the_other(desk: Desk, first_is_patient: bool) -> None:
    patiences = [NEVER, PASSED] if first_is_patient else [PASSED, NEVER]
    both = [
        asyncio.create_task(desk.shared.run("key", Lane.INTERACTIVE, patience, desk.work, nothing))
        for patience in patiences
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


async def test_the_work_has_the_time_of_the_most_patient_of_those_who_wait(desk: Desk) -> None:
    clock = FakeClock()
    callers = [await desk.ask(patience=Deadline(clock() + seconds, clock)) for seconds in (50.0, 90.0, 70.0)]
    patience = desk.runs[0].patience
    assert patience.remaining() == 90.0
    clock.now += 10.0
    assert patience.remaining() == 80.0
    await desk.leave(callers[1])
    assert patience.remaining() == 60.0
    eternal = await desk.ask()
    assert patience.remaining() == math.inf
    await desk.leave(eternal, callers[0], callers[2])
    assert patience.remaining() == 0.0


async def test_nobody_joins_work_whose_time_is_over(desk: Desk) -> None:
    clock = FakeClock()
    late = await desk.ask(patience=Deadline(clock() + 5.0, clock))
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
    """No patience; tells when another thread asks, and answers it later."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answers = threading.Event()

    def remaining(self) -> float:
        if threading.current_thread() is not threading.main_thread():
            self.asked.set()
            assert self.answers.wait(5)
            return 0.0
        return math.inf


async def test_a_thread_that_asks_for_the_time_left_while_one_leaves_forgets_nobody(desk: Desk) -> None:
    leaving = AskedFromAThread()
    callers = [await desk.ask(patience=leaving), await desk.ask()]
    answer = asyncio.create_task(asyncio.to_thread(desk.runs[0].patience.remaining))
    assert await asyncio.to_thread(leaving.asked.wait, 5)
    await desk.leave(callers[0])
    leaving.answers.set()
    assert await answer == math.inf
    await desk.leave(callers[1])


async def test_interactive_callers_do_not_wait_for_bulk_work_and_later_bulk_callers_join_theirs(desk: Desk) -> None:
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


async def test_bulk_work_that_ends_first_leaves_the_interactive_one_to_be_joined(desk: Desk) -> None:
    bulk, interactive = [await desk.ask(lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    desk.runs[0].end.set_result("bulk's")
    assert await bulk == ("bulk's", False)
    await settle()
    joining = await desk.ask(lane=Lane.BULK)
    desk.runs[1].end.set_result("interactive's")
    assert list(await asyncio.gather(interactive, joining)) == [("interactive's", False), ("interactive's", True)]
    await settle()
    assert desk.is_clear()


async def test_a_bulk_caller_who_leaves_does_not_end_the_interactive_work(desk: Desk) -> None:
    bulk, interactive = [await desk.ask(lane=lane) for lane in (Lane.BULK, Lane.INTERACTIVE)]
    await desk.leave(bulk)
    assert [run.end.cancelled() for run in desk.runs] == [True, False]
    desk.runs[1].end.set_result("done")
    assert await interactive == ("done", False)
    await settle()
    assert desk.is_clear()


async def test_callers_of_equal_deadlines_leave_one_by_one(desk: Desk) -> None:
    clock = FakeClock()
    callers = [await desk.ask(patience=Deadline(clock() + 50.0, clock)) for _ in range(3)]
    await desk.leave(callers[0], callers[1])
    assert desk.runs[0].patience.remaining() == 50.0
    desk.runs[0].end.set_result("done")
    assert await callers[2] == ("done", True)
    await settle()
    assert desk.is_clear()


async def test_what_the_work_needs_is_kept_until_it_has_ended_and_no_longer_by_who_joins(desk: Desk) -> None:
    first, second = [await desk.ask() for _ in range(2)]
    assert desk.unneeded_calls == 1
    # The work of the one who leaves goes on for the other one.
    await desk.leave(first)
    assert desk.unneeded_calls == 1
    desk.runs[0].end.set_result("done")
    assert await second == ("done", True)
    assert desk.unneeded_calls == 2


async def test_work_that_was_cancelled_before_it_began_needs_nothing_any_more(desk: Desk) -> None:
    caller = asyncio.create_task(desk.shared.run("key", Lane.BULK, PASSED, desk.work, desk.unneeded))
    with pytest.raises(DeadlineExceededError):
        await caller
    await settle()
    assert (desk.unneeded_calls, desk.is_clear()) == (1, True)
