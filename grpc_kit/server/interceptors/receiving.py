"""Receives the message of a unary call under limits: few at a time, and held only while the budget has room."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, closing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError
from grpc_kit.server import allocation
from grpc_kit.server.budget import Budget, Limit, Place
from grpc_kit.server.interceptors.around import Context, Handler
from grpc_kit.server.interceptors.entry import HEALTH
from grpc_kit.server.message_budget import SMALL_BYTES, MessageBudget, overloaded

# Messages that are received at a time by the fast lane, for which gRPC may buffer a largest message each. A small
# message is there at once.
FAST = 2
# Those of health calls, which need no token: they have lanes of their own, in which nothing large should arrive.
HEALTH_FAST, HEALTH_SLOW = 1, 1
# Seconds after which a message that is not there yet counts as slow and goes on in the slow lane.
FAST_SECONDS = 0.05
# Seconds for which it waits in the fast lane for a place in the slow one. Others wait behind it meanwhile.
PATIENCE_SECONDS = 0.25
# Seconds for which a message is received in the slow lane.
SLOW_SECONDS = 60.0
# Seconds for which a message in the slow lane waits for room in the budget.
ROOM_SECONDS = 5.0
# Seconds for which a large answer waits until callers have read others.
UNREAD_SECONDS = 2.0


class Receiving(grpc.aio.ServerInterceptor):
    """Reads the message of each unary call itself; the innermost interceptor.

    gRPC would read it at once, hold its bytes for the whole call, and not say how large it is. On the wire a unary call
    is a stream with one message, so this registers its method as one.
    """

    def __init__(self, budget: MessageBudget, slow: int, unread: int) -> None:
        """Makes the interceptor of one server.

        Args:
            budget: bounds the messages that calls hold.
            slow: messages that are received at a time beside those of the fast lane.
            unread: bytes of the answers that callers have not read.
        """
        answers = MessageBudget(unread, "max_unread_bytes", "the answers that callers have not read")
        self._services = _Lanes(budget, FAST, slow, answers)
        self._health = _Lanes(budget, HEALTH_FAST, HEALTH_SLOW, answers)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Returns a handler that reads the message by itself; made once for each method."""
        method = str(handler_call_details.method)
        if wrapped := self._wrapped.get(method):
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or handler.request_streaming:
            return handler
        lanes = self._health if method.startswith(HEALTH) else self._services
        wrapped = _streaming(handler, lanes) if handler.response_streaming else _single(handler, lanes)
        self._wrapped[method] = wrapped
        return wrapped


def _single(handler: Handler, lanes: "_Lanes") -> Handler:
    behaviour: Any = handler.unary_unary
    parse: Any = handler.request_deserializer
    serialize: Any = handler.response_serializer

    async def answer(_: Any, context: Context) -> Any:
        message, place = await lanes.receive(context, parse)
        try:
            with closing(behaviour(message, context)) as handling:
                # The servicer decides how long it keeps the message.
                del message
                return await lanes.sendable(serialize(await handling))
        finally:
            if place is not None:
                place.leave()

    return grpc.stream_unary_rpc_method_handler(answer, None, None)


def _streaming(handler: Handler, lanes: "_Lanes") -> Handler:
    behaviour: Any = handler.unary_stream
    parse: Any = handler.request_deserializer

    async def answer(_: Any, context: Context) -> AsyncIterator[Any]:
        message, place = await lanes.receive(context, parse)
        if place is not None:
            place.leave()
        responses = behaviour(message, context)
        del message
        if asyncio.iscoroutine(responses):
            # A servicer that writes its answers by the context.
            await responses
            return
        async with aclosing(responses) as each:
            async for response in each:
                yield response

    return grpc.stream_stream_rpc_method_handler(answer, None, handler.response_serializer)


class _Lanes:
    """The messages that are being received: for a moment in the fast lane, for as long as it takes in the slow one."""

    def __init__(self, budget: MessageBudget, fast: int, slow: int, answers: MessageBudget) -> None:
        self._budget = budget
        self._answers = answers
        self._fast = Budget(Limit(fast, 0))
        self._slow = Budget(Limit(slow, 0))

    async def receive(self, context: Context, parse: Callable[[bytes], Any]) -> tuple[Any, Place | None]:
        """The one message of a call, and its place in the budget, which a small one does not need.

        Raises ResourceExhaustedError, DeadlineExceededError, InvalidArgumentError.
        """
        lane = _Lane(await self._fast.wait(0), self._slow)
        try:
            raw = await lane.read(context)
            place = None
            if len(raw) > SMALL_BYTES:
                seconds = ROOM_SECONDS if lane.move_to_slow() else PATIENCE_SECONDS
                place = await self._budget.wait_up_to(seconds, len(raw))
        finally:
            lane.leave()
        allocation.forget_failures()
        try:
            return parse(raw), place
        except (DecodeError, MemoryError) as error:
            if place is not None:
                place.leave()
            # Protobuf raises the same error if it has no memory for a message.
            if isinstance(error, MemoryError) or allocation.has_failed():
                raise MemoryError from None
            raise InvalidArgumentError("REQUEST_INVALID", "the request is no message of this method's type") from None

    async def sendable(self, answer: bytes) -> bytes:
        """The answer, counted until it was sent: its caller may not read it. Raises ResourceExhaustedError."""
        if len(answer) > SMALL_BYTES and (call := asyncio.current_task()):
            place = await self._answers.wait_up_to(UNREAD_SECONDS, len(answer))
            call.add_done_callback(lambda _: place.leave())
        return answer


class _Lane:
    """One message that is being received."""

    def __init__(self, place: Place, slow: Budget) -> None:
        self._place = place
        self._slow = slow
        self._is_slow = False

    def move_to_slow(self) -> bool:
        """Whether the message is in the slow lane now."""
        if not self._is_slow and (place := self._slow.try_take(0)):
            self._place.leave()
            self._place, self._is_slow = place, True
        return self._is_slow

    def leave(self) -> None:
        self._place.leave()

    async def read(self, context: Context) -> bytes:
        """The bytes of the message. Raises ResourceExhaustedError, DeadlineExceededError, InvalidArgumentError."""
        try:
            async with asyncio.timeout(FAST_SECONDS + PATIENCE_SECONDS) as limit:
                self._slow_down_later(limit)
                raw: Any = await context.read()
        except TimeoutError:
            raise self._late() from None
        finally:
            self._timer.cancel()
        if raw is grpc.aio.EOF:
            raise InvalidArgumentError("REQUEST_MISSING", "the call has no request; it should have one message")
        content: bytes = raw
        return content

    def _slow_down_later(self, limit: asyncio.Timeout) -> None:
        self._timer = asyncio.get_running_loop().call_later(FAST_SECONDS, self._slow_down, limit)

    def _slow_down(self, limit: asyncio.Timeout) -> None:
        if self.move_to_slow():
            limit.reschedule(asyncio.get_running_loop().time() + SLOW_SECONDS)
        else:
            self._slow_down_later(limit)

    def _late(self) -> Exception:
        if self._is_slow:
            return DeadlineExceededError(
                "RECEIVE_TIMEOUT", f"the request did not arrive within {SLOW_SECONDS:.0f} s; send it faster or smaller"
            )
        most = self._slow.limit.items
        return overloaded(
            f"{self._slow.items} large or slow requests are being received, and at most {most} may be",
            max_slow_requests=most,
        )
