"""Collect single requests into batches, so that one call answers many of them."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, Self, TypeVar

from grpc_kit.errors import UnavailableError

Request = TypeVar("Request")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class PendingRequest(Generic[Request, Result]):
    """One request of a batch, and the future of its result."""

    request: Request
    size: int
    alone: bool
    future: "asyncio.Future[Result]"

    def set_result(self, result: Result) -> None:
        """Set the result, unless the caller has left."""
        if not self.future.done():
            self.future.set_result(result)

    def set_error(self, error: BaseException) -> None:
        """Set an error, unless there is a result already or the caller has left."""
        if not self.future.done():
            self.future.set_exception(error)


@dataclass(frozen=True)
class BatchLimits:
    """The size of a batch, and the number of concurrent calls."""

    concurrency: int
    max_requests: int
    max_bytes: int
    """Bytes of all requests of a batch. A single request may be larger."""
    linger_seconds: float = 0.0
    """Time that a batch waits for more requests after its first one. After `flush` it does not wait."""


class Batcher(Generic[Request, Result]):
    """Calls a function with batches of requests. Use it with `async with`."""

    def __init__(
        self, call: Callable[[Sequence[PendingRequest[Request, Result]]], Awaitable[None]], limits: BatchLimits
    ) -> None:
        """Set the function that answers a batch. Requests without a result get the error that it raises."""
        self._call = call
        self._limits = limits
        self._queue: deque[PendingRequest[Request, Result]] = deque()
        self._arrived = asyncio.Event()
        self._forming = asyncio.Lock()
        self._flushing = False
        self._cancelled = False
        self._workers: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        """Start the workers."""
        self._workers = [asyncio.create_task(self._work()) for _ in range(self._limits.concurrency)]
        return self

    async def __aexit__(self, *_: object) -> None:
        """Cancel the calls in flight."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def submit(self, request: Request, size: int = 0, *, alone: bool = False) -> Result:
        """Return the result of a request of `size` bytes; with `alone` its batch has no other request.

        Raises the error of the call, and CancelledError after `cancel_pending`.
        """
        if self._cancelled:
            raise asyncio.CancelledError
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.append(PendingRequest(request, size, alone, future))
        self._arrived.set()
        return await future

    def flush(self) -> None:
        """Do not wait for full batches any more, because no further requests are expected."""
        self._flushing = True
        self._arrived.set()

    def cancel_pending(self) -> None:
        """Cancel all requests that are not in a call yet, and all later ones. Calls in flight continue."""
        self._cancelled = True
        while self._queue:
            self._queue.popleft().future.cancel()

    async def _work(self) -> None:
        while True:
            # One worker at a time forms a batch. Otherwise several would wait with a part of the same requests.
            async with self._forming:
                batch = await self._form_batch()
            try:
                await self._call(batch)
            except asyncio.CancelledError:
                for pending in batch:
                    pending.set_error(UnavailableError("CANCELLED", "the call was cancelled"))
                task = asyncio.current_task()
                if task is None or task.cancelling():
                    raise
            except Exception as error:  # noqa: BLE001 - the callers of `submit` get it
                for pending in batch:
                    pending.set_error(error)
            else:
                for pending in batch:
                    pending.set_error(
                        UnavailableError("NO_ANSWER", "the call ended without a response to this request")
                    )

    async def _form_batch(self) -> list[PendingRequest[Request, Result]]:
        await self._wait_for_request(None)
        batch = [self._queue.popleft()]
        size = batch[0].size
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.linger_seconds
        while not batch[0].alone and len(batch) < self._limits.max_requests:
            if not self._queue and (
                self._flushing or (left := deadline - loop.time()) <= 0 or not await self._wait_for_request(left)
            ):
                break
            following = self._queue[0]
            size += following.size
            if following.alone or size > self._limits.max_bytes:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _wait_for_request(self, seconds: float | None) -> bool:
        """Wait until a request is in the queue; return False after the timeout or `flush`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._queue and (seconds is None or not self._flushing):
                    self._arrived.clear()
                    await self._arrived.wait()
        return bool(self._queue)
