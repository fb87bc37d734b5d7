"""Gathers searches that come at the same time into one request to the store, where they ask for the same.

There is no timer: a search that finds a free slot goes at once. Those that ask for the same have few of the slots: the
next ones wait, and whoever gets a slot takes along all that wait for the same. On Milvus Lite a request of a hundred
vectors costs little more than one of a single one, and a server's own work for a request is saved too.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from grpc_kit.deadline import Deadline
from grpc_kit.errors import DeadlineExceededError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    deadline: Deadline
    answer: "asyncio.Future[Answer]"


class Gatherer(Generic[Key, Item, Answer]):
    """Runs work for items of equal keys together."""

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item], Deadline], Awaitable[Sequence[Answer]]],
        slots: int,
        slots_of_a_key: int,
        most: Callable[[Key], int],
    ) -> None:
        """Makes a gatherer, of one event loop.

        Args:
            run: gives the answers to some items, in their order.
            slots: runs at a time.
            slots_of_a_key: of these, those of equal keys.
            most: items in one run, by their key.
        """
        self._run = run
        self._free = slots
        self._slots_of_a_key = slots_of_a_key
        self._most = most
        # The keys in the order in which they have waited.
        self._waiting: OrderedDict[Key, list[_Waiting[Item, Answer]]] = OrderedDict()
        self._runs_of: Counter[Key] = Counter()
        self._running: set[asyncio.Task[None]] = set()

    async def submit(self, key: Key, item: Item, deadline: Deadline) -> Answer:
        """The answer to one item. Raises what the run raises, and DeadlineExceededError."""
        if self._free and not self._waiting and self._runs_of[key] < self._slots_of_a_key:
            return await self._alone(key, item, deadline)
        waiting: _Waiting[Item, Answer] = _Waiting(item, deadline, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, []).append(waiting)
        self._fill()
        try:
            return await waiting.answer
        finally:
            self._forget(key, waiting)

    def _forget(self, key: Key, waiting: "_Waiting[Item, Answer]") -> None:
        """Whoever goes away while it waits leaves nothing behind."""
        group = self._waiting.get(key)
        if group is not None and waiting in group:
            group.remove(waiting)
            if not group:
                del self._waiting[key]

    async def _alone(self, key: Key, item: Item, deadline: Deadline) -> Answer:
        """Runs at once where nobody waits, in the caller's own task: one switch between tasks less."""
        self._free -= 1
        self._runs_of[key] += 1
        try:
            (answer,) = await self._run(key, [item], deadline)
        finally:
            self._leave(key)
        return answer

    def _fill(self) -> None:
        """Gives free slots to those who have waited longest."""
        while self._free:
            key = next((key for key in self._waiting if self._runs_of[key] < self._slots_of_a_key), None)
            if key is None:
                return
            group = self._waiting[key]
            taken, rest = group[: self._most(key)], group[self._most(key) :]
            del self._waiting[key]
            if rest:
                self._waiting[key] = rest
            wanted = [waiting for waiting in taken if _still_wanted(waiting)]
            if wanted:
                self._free -= 1
                self._runs_of[key] += 1
                task = asyncio.create_task(self._answer(key, wanted))
                self._running.add(task)
                task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: Key, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._leave(key)

    def _leave(self, key: Key) -> None:
        """Gives a slot back, and to who waits."""
        self._free += 1
        self._runs_of[key] -= 1
        if not self._runs_of[key]:
            del self._runs_of[key]
        self._fill()

    async def _answer(self, key: Key, group: "list[_Waiting[Item, Answer]]") -> None:
        # As patient as the most patient: the others are told in time by their own callers' deadlines.
        deadline = max((waiting.deadline for waiting in group), key=lambda deadline: deadline.remaining())
        try:
            answers = await self._run(key, [waiting.item for waiting in group], deadline)
        except BaseException as error:
            for waiting in group:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for waiting, answer in zip(group, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def _still_wanted(waiting: "_Waiting[Item, Answer]") -> bool:
    if waiting.answer.done():
        return False
    if waiting.deadline.remaining() > 0:
        return True
    waiting.answer.set_exception(
        DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed while the search waited for its turn")
    )
    return False
