"""Combine concurrent searches into one request to Milvus if they differ only in their vectors.

There is no timer: a search that finds a free slot starts at once. Searches with equal keys may use only some of the
slots. The others wait; when a slot is released, all waiting searches of one key share the next request. On Milvus Lite,
a request with a hundred vectors takes little longer than one with a single vector.
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


class RequestBatcher(Generic[Key, Item, Answer]):
    """Run items with equal keys together."""

    def __init__(
        self,
        run: Callable[[Key, Sequence[Item], Deadline], Awaitable[Sequence[Answer]]],
        slots: int,
        slots_per_key: int,
        max_items: Callable[[Key], int],
    ) -> None:
        """Prepare to run items on one event loop.

        Args:
            run: returns the answers of items, in their order.
            slots: runs in flight.
            slots_per_key: runs in flight with equal keys.
            max_items: returns the maximum number of items in a run, by its key.
        """
        self._run = run
        self._free = slots
        self._slots_per_key = slots_per_key
        self._max_items = max_items
        # Keys in the order in which their first item started to wait.
        self._waiting: OrderedDict[Key, list[_Waiting[Item, Answer]]] = OrderedDict()
        self._runs: Counter[Key] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, key: Key, item: Item, deadline: Deadline) -> Answer:
        """Return the answer of an item. Raises the errors of the run, and DeadlineExceededError."""
        if self._free and not self._waiting and self._runs[key] < self._slots_per_key:
            return await self._run_alone(key, item, deadline)
        waiting: _Waiting[Item, Answer] = _Waiting(item, deadline, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(key, []).append(waiting)
        self._start_runs()
        try:
            return await waiting.answer
        finally:
            self._remove(key, waiting)

    def _remove(self, key: Key, waiting: "_Waiting[Item, Answer]") -> None:
        """Remove an item whose caller was cancelled while it waited."""
        group = self._waiting.get(key)
        if group is not None and waiting in group:
            group.remove(waiting)
            if not group:
                del self._waiting[key]

    async def _run_alone(self, key: Key, item: Item, deadline: Deadline) -> Answer:
        """Run an item in the task of its caller, which saves a switch between tasks."""
        self._acquire(key)
        try:
            (answer,) = await self._run(key, [item], deadline)
        finally:
            self._release(key)
        return answer

    def _start_runs(self) -> None:
        """Start runs in the free slots, for the keys that have waited longest."""
        while self._free:
            key = next((key for key in self._waiting if self._runs[key] < self._slots_per_key), None)
            if key is None:
                return
            group = self._waiting.pop(key)
            batch, rest = group[: self._max_items(key)], group[self._max_items(key) :]
            if rest:
                self._waiting[key] = rest
            wanted = [waiting for waiting in batch if _still_wanted(waiting)]
            if wanted:
                self._acquire(key)
                task = asyncio.create_task(self._run_batch(key, wanted))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, key))

    def _ended(self, key: Key, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self._release(key)

    def _acquire(self, key: Key) -> None:
        self._free -= 1
        self._runs[key] += 1

    def _release(self, key: Key) -> None:
        self._free += 1
        self._runs[key] -= 1
        if not self._runs[key]:
            del self._runs[key]
        self._start_runs()

    async def _run_batch(self, key: Key, batch: "list[_Waiting[Item, Answer]]") -> None:
        # The latest deadline: callers with an earlier one stop waiting by themselves.
        deadline = max((waiting.deadline for waiting in batch), key=lambda deadline: deadline.remaining())
        try:
            answers = await self._run(key, [waiting.item for waiting in batch], deadline)
        except BaseException as error:
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(error)
            if not isinstance(error, Exception):
                raise
            return
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)


def _still_wanted(waiting: "_Waiting[Item, Answer]") -> bool:
    if waiting.answer.done():
        return False
    if waiting.deadline.remaining() > 0:
        return True
    waiting.answer.set_exception(
        DeadlineExceededError("DEADLINE_EXCEEDED", "the deadline passed while the search waited for a slot")
    )
    return False
