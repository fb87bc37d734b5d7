"""Callers that wait for a limited resource."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")


@dataclass(eq=False)
class _Waiter(Generic[Request]):
    request: Request
    granted: "asyncio.Future[None]"


class WaitQueue(Generic[Request]):
    """Queues requests for a resource, and grants them as the owner of the resource chooses.

    Cancelled callers leave the queue. All methods belong to one event loop.
    """

    def __init__(self, choose: Callable[[Sequence[Request]], int | None], release: Callable[[Request], None]) -> None:
        """Create an empty queue.

        Args:
            choose: receives the pending requests in order of arrival. It takes the resource for one of them and
                returns the position of this request; it returns None if no request fits now.
            release: releases the resource of a granted request. It must call `grant`.
        """
        self._choose = choose
        self._release = release
        self._waiters: list[_Waiter[Request]] = []

    async def acquire(
        self, request: Request, wait: "Callable[[asyncio.Future[None]], Awaitable[None]] | None" = None
    ) -> None:
        """Return when the request is granted. `wait` awaits the grant; by default the grant is awaited directly."""
        waiter = self._enqueue(request)
        try:
            await (waiter.granted if wait is None else wait(waiter.granted))
        except BaseException:
            if waiter.granted.cancelled():
                # The next request may be smaller, and fit.
                self.grant()
            else:
                self._release(request)
            raise

    def try_acquire(self, request: Request) -> bool:
        """Return whether the request is granted now. A request that is not granted leaves the queue."""
        waiter = self._enqueue(request)
        if not waiter.granted.done():
            self._waiters.remove(waiter)
        return waiter.granted.done()

    def grant(self) -> None:
        """Grant as many pending requests as possible. The owner calls this after each release."""
        self._waiters = [waiter for waiter in self._waiters if not waiter.granted.cancelled()]
        while self._waiters:
            position = self._choose([waiter.request for waiter in self._waiters])
            if position is None:
                return
            self._waiters.pop(position).granted.set_result(None)

    def _enqueue(self, request: Request) -> _Waiter[Request]:
        waiter = _Waiter(request, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self.grant()
        return waiter
