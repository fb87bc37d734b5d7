"""answer_each: any order, a bounded window, and an end in every case."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest

from grpc_kit.errors import UnavailableError
from grpc_kit.streams import answer_each


class Work:
    """Answers n with n * 10, each when the test says so; notes what was read, begun and cancelled."""

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


async def settle() -> None:
    """Lets every task go on until all of them wait for the test."""
    for _ in range(50):
        await asyncio.sleep(0)


@pytest.mark.parametrize("count", [0, 1, 7, 100])
@pytest.mark.parametrize("window", [1, 3, 1000])
async def test_every_request_is_answered_once_and_no_more_than_the_window_at_a_time(count: int, window: int) -> None:
    work = Work()
    answers = [answer async for answer in answer_each(work.requests(count), work.answer, window)]
    assert sorted(answers) == [number * 10 for number in range(count)]
    assert work.most_under_way <= window


async def test_an_answer_goes_out_before_those_that_were_asked_for_earlier() -> None:
    work = Work(waits=True)
    order = [2, 0, 1]
    answers = []
    work.may_end[order[0]].set()
    async for answer in answer_each(work.requests(3), work.answer, 3):
        answers.append(answer)
        if len(answers) < 3:
            work.may_end[order[len(answers)]].set()
    assert answers == [20, 0, 10]


async def test_a_request_counts_until_its_answer_was_taken() -> None:
    work = Work()
    async with aclosing(answer_each(work.requests(100), work.answer, 4)) as answers:
        await anext(answers)
        await settle()
        # Four in the window, and one that was read and waits for a place.
        assert len(work.read) == 5
        await anext(answers)
        await settle()
        assert len(work.read) == 6


async def test_a_consumer_that_stops_ends_the_work_under_way() -> None:
    work = Work(waits=True)
    work.may_end[0].set()
    async with aclosing(answer_each(work.requests(100), work.answer, 4)) as answers:
        assert await anext(answers) == 0
        await settle()
    assert work.cancelled == {1, 2, 3}
    assert work.under_way == set()


async def test_a_cancelled_consumer_ends_the_work_under_way() -> None:
    work = Work(waits=True)

    async def consume() -> None:
        async with aclosing(answer_each(work.requests(100), work.answer, 4)) as answers:
            async for _ in answers:
                pass

    consumer = asyncio.create_task(consume())
    await settle()
    consumer.cancel()
    with pytest.raises(asyncio.CancelledError):
        await consumer
    assert work.cancelled == {0, 1, 2, 3}


async def test_requests_that_fail_end_the_stream_with_their_error() -> None:
    work = Work(waits=True)

    async def failing() -> AsyncIterator[int]:
        async for number in work.requests(3):
            yield number
        raise UnavailableError("GONE", "the caller's stream broke")

    with pytest.raises(UnavailableError, match="the caller's stream broke"):
        _ = [answer async for answer in answer_each(failing(), work.answer, 5)]
    assert work.under_way == set()


async def test_an_answer_that_fails_ends_the_stream_with_its_error() -> None:
    work = Work(waits=True)

    async def answer(number: int) -> int:
        if number == 2:
            raise UnavailableError("GONE", "no answer to number 2")
        return await work.answer(number)

    with pytest.raises(UnavailableError, match="no answer to number 2"):
        _ = [each async for each in answer_each(work.requests(5), answer, 5)]
    assert work.under_way == set()
