"""Budgets admit items in order while they fit, and every reservation is released once."""

import asyncio

import pytest

from grpc_kit.errors import ResourceExhaustedError
from grpc_kit.server.budget import Budget, Limit
from grpc_kit.server.message_budget import SMALL_BYTES, MessageBudget


async def test_a_budget_admits_in_order_of_arrival_and_a_single_item_always_fits() -> None:
    budget = Budget(Limit(items=10, size=100))
    first = await budget.wait(500)
    order: list[int] = []

    async def enter(number: int, size: int) -> None:
        reservation = await budget.wait(size)
        order.append(number)
        await asyncio.sleep(0)
        reservation.release()

    tasks = [asyncio.create_task(enter(number, size)) for number, size in enumerate([90, 200, 1, 1])]
    await asyncio.sleep(0)
    assert budget.try_take(0) is None
    first.release()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2, 3]
    assert (budget.items, budget.size) == (0, 0)


async def test_a_reservation_is_released_in_parts_and_only_once() -> None:
    budget = Budget(Limit(items=10, size=100))
    reservation = await budget.wait(80)
    waiting = asyncio.create_task(budget.wait(60))
    await asyncio.sleep(0)
    reservation.resize(50)
    await asyncio.sleep(0)
    assert not waiting.done()
    reservation.resize(40)
    await asyncio.wait_for(waiting, 5)
    reservation.resize(45)
    assert budget.size == 105
    for _ in range(2):
        reservation.release()
        reservation.resize(7)
    assert (budget.items, budget.size) == (1, 60)


async def test_a_cancelled_caller_lets_the_next_caller_in() -> None:
    budget = Budget(Limit(items=10, size=100))
    reservation = await budget.wait(80)
    large, small = asyncio.create_task(budget.wait(90)), asyncio.create_task(budget.wait(10))
    await asyncio.sleep(0)
    large.cancel()
    await asyncio.wait_for(small, 5)
    reservation.release()
    small.result().release()
    assert (budget.items, budget.size) == (0, 0)


async def test_small_messages_do_not_wait_behind_large_ones() -> None:
    budget = MessageBudget(1000 * 1000)
    await budget.wait(1000 * 1000)
    await asyncio.wait_for(budget.wait(SMALL_BYTES), 5)
    with pytest.raises(ResourceExhaustedError, match="1000000 bytes; the maximum is 1000000") as refused:
        await budget.wait_up_to(0.01, SMALL_BYTES + 1)
    assert (refused.value.reason, refused.value.metadata) == ("OVERLOADED", {"max_bytes_in_flight": "1000000"})
    assert refused.value.retry_after
