"""answer_each: responses in any order, a bounded window, and a clean end in every case."""

import asyncio
import gc
import weakref
from collections import defaultdict
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import pytest

from grpc_kit.errors import UnavailableError
from grpc_kit.server.streams import answer_each


class Work:
    """Answers n with n * 10 when the test allows it; records requests that were read, started and cancelled."""

    def __init__(self, *, waits: bool = False) -> None:
        self.waits = waits
        self.may_end: defaultdict[int, asyncio.Event] = defaultdict(asyncio.Event)
        self.read: list[int] = []
        self.under_way: set[int] = set()
        self.most_under_way = 0
        self.cancelled: set[int] = set()

    async def requests(self, count: int) -> AsyncIterator[int]:
        for number in range(count):
            self.read.append(number)
            yield number

    async def answer(self, number: int) -> int:
        self.under_way.add(number)
        self.most_under_way = max(self.most_under_way, len(self.under_way))
        try:
            if self.waits:
                await self.may_end[number].wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.add(number)
            raise
        finally:
            self.under_way.discard(number)
        return number * 10


def nothing() -> None:
    """Release nothing."""


async def freely(_: int) -> Callable[[], None]:
    return nothing


async def settle() -> None:
    """Run all tasks until they wait for the test."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("window", [1, 3, 1000])
async def test_every_request_is_answered_once_within_the_window(count: int, window: int) -> None:
    work = Work()
    answers = [answer async for answer in answer_each(work.requests(count), work.answer, window, freely)]
    assert sorted(answers) == [number * 10 for number in range(count)]
    assert work.most_under_way <= window


async def test_responses_are_sent_as_soon_as_they_are_ready() -> None:
    work = Work(waits=True)
    order = [2, 0, 1]
    answers = []
    work.may_end[order[0]].set()
    async for answer in answer_each(work.requests(3), work.answer, 3, freely):
        answers.append(answer)
        if len(answers) < 3:
            work.may_end[order[len(answers)]].set()
    assert answers == [20, 0, 10]


async def test_a_request_counts_until_its_response_was_read() -> None:
    work = Work()
    async with aclosing(answer_each(work.requests(100), work.answer, 4, freely)) as answers:
        await anext(answers)
        await settle()
        # Four requests in the window, and one that was read and waits for a slot.
        assert len(work.read) == 5
        await anext(answers)
        await settle()
        assert len(work.read) == 6


async def test_a_consumer_that_stops_cancels_the_work_in_flight() -> None:
    work = Work(waits=True)
    work.may_end[0].set()
    async with aclosing(answer_each(work.requests(100), work.answer, 4, freely)) as answers:
        assert await anext(answers) == 0
        await settle()
    assert work.cancelled == {1, 2, 3}
    assert work.under_way == set()


async def test_a_cancelled_consumer_cancels_the_work_in_flight() -> None:
    work = Work(waits=True)

    async def consume() -> None:
        async with aclosing(answer_each(work.requests(100), work.answer, 4, freely)) as answers:
            async for _ in answers:
                pass

    consumer = asyncio.create_task(consume())
    await settle()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert work.cancelled == {0, 1, 2, 3}


async def test_an_error_of_the_request_iterator_ends_the_stream() -> None:
    work = Work(waits=True)

    async def failing() -> AsyncIterator[int]:
        async for number in work.requests(3):
            yield number
        raise UnavailableError("GONE", "the caller's stream broke")

    with pytest.raises(UnavailableError, match="the caller's stream broke"):
        _ = [answer async for answer in answer_each(failing(), work.answer, 5, freely)]
    assert work.under_way == set()


async def test_an_error_of_an_answer_ends_the_stream() -> None:
    work = Work(waits=True)

    async def answer(number: int) -> int:
        if number == 2:
            raise UnavailableError("GONE", "no answer to number 2")
        return await work.answer(number)

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="no answer to number 2"):
            _ = [each async for each in answer_each(work.requests(5), answer, 5, freely)]
    assert work.under_way == set()


async def test_no_further_request_is_read_while_admit_waits() -> None:
    work = Work()
    may_enter = asyncio.Event()
    asked: list[int] = []

    async def admit(number: int) -> Callable[[], None]:
        asked.append(number)
        if number == 2:
            await may_enter.wait()
        return nothing

    async with aclosing(answer_each(work.requests(6), work.answer, 100, admit)) as answers:
        first = [await anext(answers), await anext(answers)]
        await settle()
        assert (sorted(first), work.read, asked) == ([0, 10], [0, 1, 2], [0, 1, 2])
        may_enter.set()
        assert sorted([answer async for answer in answers]) == [20, 30, 40, 50]
    assert work.read == [0, 1, 2, 3, 4, 5]


async def test_responses_are_sent_while_admit_waits() -> None:
    work = Work()

    async def admit(number: int) -> Callable[[], None]:
        if number == 1:
            await asyncio.Event().wait()
        return nothing

    async with asyncio.timeout(10), aclosing(answer_each(work.requests(3), work.answer, 100, admit)) as answers:
        assert await anext(answers) == 0


async def test_an_error_of_admit_ends_the_stream() -> None:
    work = Work(waits=True)

    async def admit(number: int) -> Callable[[], None]:
        await settle()
        if number == 2:
            raise UnavailableError("FULL", "no place for number 2")
        return nothing

    async with asyncio.timeout(10):
        with pytest.raises(UnavailableError, match="no place for number 2"):
            _ = [each async for each in answer_each(work.requests(5), work.answer, 5, admit)]
    assert (work.read, work.cancelled, work.under_way) == ([0, 1, 2], {0, 1}, set())


async def test_a_consumer_that_stops_cancels_a_waiting_admit() -> None:
    work = Work()
    left = asyncio.Event()

    async def admit(number: int) -> Callable[[], None]:
        try:
            if number == 1:
                await asyncio.Event().wait()
        finally:
            if number == 1:
                left.set()
        return nothing

    async with aclosing(answer_each(work.requests(3), work.answer, 100, admit)) as answers:
        await anext(answers)
        await settle()
        assert not left.is_set()
    assert left.is_set()


async def test_slots_are_released_if_the_stream_ends_early() -> None:
    taken: list[int] = []

    async def admit(number: int) -> Callable[[], None]:
        taken.append(number)
        return lambda: taken.remove(number)

    async def answer(number: int) -> int:
        await asyncio.Event().wait()
        return number

    async def requests() -> AsyncIterator[int]:
        for number in range(3):
            yield number
        raise UnavailableError("GONE", "the caller's stream broke")

    with pytest.raises(UnavailableError, match="the caller's stream broke"):
        _ = [each async for each in answer_each(requests(), answer, 5, admit)]
    assert taken == []


class Large:
    """A request that the test can find in memory."""


@pytest.mark.parametrize("where", ["reading", "admit", "answer"])
async def test_requests_of_a_cancelled_caller_do_not_stay_in_memory(where: str) -> None:
    sent: list[weakref.ref[Large]] = []
    never = asyncio.Event()

    async def requests() -> AsyncGenerator[Large, None]:
        request = Large()
        sent.append(weakref.ref(request))
        if where == "reading":
            await never.wait()
        yield request

    async def admit(_: Large) -> Callable[[], None]:
        if where == "admit":
            await never.wait()
        return nothing

    async def answer(request: Large) -> int:
        async with asyncio.timeout(1000):
            await never.wait()
        return id(request)

    async def consume() -> None:
        async with aclosing(requests()) as items, aclosing(answer_each(items, answer, 5, admit)) as answers:
            async for _ in answers:
                pass

    gc.collect()
    gc.disable()
    try:
        consumer = asyncio.create_task(consume())
        await settle()
        consumer.cancel()
        await asyncio.gather(consumer, return_exceptions=True)
        await settle()
        assert [request() for request in sent] == [None]
    finally:
        gc.enable()
