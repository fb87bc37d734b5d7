"""Receives the message of a unary call within limits: few at a time, and only if the byte budget has room."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, closing
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from grpc_kit.errors import DeadlineExceededError, InvalidArgumentError
from grpc_kit.server import allocation
from grpc_kit.server.budget import Budget, Limit, Reservation
from grpc_kit.server.interceptors.call_admission import HEALTH
from grpc_kit.server.interceptors.context_interceptor import Context, Handler
from grpc_kit.server.message_budget import SMALL_BYTES, MessageBudget, overloaded

# Number of messages that the fast lane receives at a time; gRPC may buffer a message of maximum size for each. A small
# message arrives immediately.
FAST = 2
# Health calls need no token, so they have lanes of their own, where no large message should arrive.
HEALTH_FAST, HEALTH_SLOW = 1, 1
# Seconds after which a message that has not arrived moves to the slow lane.
FAST_SECONDS = 0.05
# Seconds that a message in the fast lane waits for a slot of the slow lane. Other messages wait behind it.
SLOT_WAIT_SECONDS = 0.25
# Seconds in which a message must arrive in the slow lane.
SLOW_SECONDS = 60.0
# Seconds that a message in the slow lane waits for room in the budget.
ROOM_SECONDS = 5.0
# Seconds that a large response waits until callers have read other responses.
UNREAD_SECONDS = 2.0


class RequestReceiver(grpc.aio.ServerInterceptor):
    """Reads the message of each unary call itself. It is the innermost interceptor.

    gRPC would read the message immediately, hold its bytes for the whole call, and not report its size. On the wire a
    unary call is a stream with one message, so this interceptor registers the method as a stream.
    """

    def __init__(self, budget: MessageBudget, slow: int, unread: int) -> None:
        """Create the interceptor of one server.

        Args:
            budget: budget for the messages that calls hold.
            slow: number of messages that the slow lane receives at a time.
            unread: maximum bytes of responses that callers have not read.
        """
        answers = MessageBudget(unread, "max_unread_bytes", "the responses that callers have not read")
        self._services = _Lanes(budget, FAST, slow, answers)
        self._health = _Lanes(budget, HEALTH_FAST, HEALTH_SLOW, answers)
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Return a handler that reads the message itself; created once for each method."""
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
        message, reservation = await lanes.receive(context, parse)
        try:
            with closing(behaviour(message, context)) as handling:
                # The servicer decides how long it keeps the message.
                del message
                return await lanes.sendable(serialize(await handling))
        finally:
            if reservation is not None:
                reservation.release()

    return grpc.stream_unary_rpc_method_handler(answer, None, None)


def _streaming(handler: Handler, lanes: "_Lanes") -> Handler:
    behaviour: Any = handler.unary_stream
    parse: Any = handler.request_deserializer

    async def answer(_: Any, context: Context) -> AsyncIterator[Any]:
        message, reservation = await lanes.receive(context, parse)
        if reservation is not None:
            reservation.release()
        responses = behaviour(message, context)
        del message
        if asyncio.iscoroutine(responses):
            # The servicer writes its responses to the context.
            await responses
            return
        async with aclosing(responses) as each:
            async for response in each:
                yield response

    return grpc.stream_stream_rpc_method_handler(answer, None, handler.response_serializer)


class _Lanes:
    """Receives messages: quick ones in the fast lane, slow ones in the slow lane."""

    def __init__(self, budget: MessageBudget, fast: int, slow: int, answers: MessageBudget) -> None:
        self._budget = budget
        self._answers = answers
        self._fast = Budget(Limit(fast, 0))
        self._slow = Budget(Limit(slow, 0))

    async def receive(self, context: Context, parse: Callable[[bytes], Any]) -> tuple[Any, Reservation | None]:
        """Return the message of a call and its reservation in the budget. A small message needs no reservation.

        Raises ResourceExhaustedError, DeadlineExceededError, InvalidArgumentError.
        """
        lane = _Lane(await self._fast.wait(0), self._slow)
        try:
            raw = await lane.read(context)
            reservation = None
            if len(raw) > SMALL_BYTES:
                seconds = ROOM_SECONDS if lane.move_to_slow() else SLOT_WAIT_SECONDS
                reservation = await self._budget.wait_up_to(seconds, len(raw))
        finally:
            lane.release()
        allocation.clear_failures()
        try:
            return parse(raw), reservation
        except (DecodeError, MemoryError) as error:
            if reservation is not None:
                reservation.release()
            # Protobuf raises DecodeError also if it runs out of memory.
            if isinstance(error, MemoryError) or allocation.has_failed():
                raise MemoryError from None
            raise InvalidArgumentError(
                "REQUEST_INVALID", "the request is not a message of this method's type"
            ) from None

    async def sendable(self, answer: bytes) -> bytes:
        """Return the response, and count its bytes until it was sent. Raises ResourceExhaustedError."""
        if len(answer) > SMALL_BYTES and (call := asyncio.current_task()):
            reservation = await self._answers.wait_up_to(UNREAD_SECONDS, len(answer))
            call.add_done_callback(lambda _: reservation.release())
        return answer


class _Lane:
    """The lane of one message that is being received."""

    def __init__(self, reservation: Reservation, slow: Budget) -> None:
        self._reservation = reservation
        self._slow = slow
        self._is_slow = False

    def move_to_slow(self) -> bool:
        """Move the message to the slow lane if that has a free slot. Return whether it is in the slow lane."""
        if not self._is_slow and (reservation := self._slow.try_take(0)):
            self._reservation.release()
            self._reservation, self._is_slow = reservation, True
        return self._is_slow

    def release(self) -> None:
        self._reservation.release()

    async def read(self, context: Context) -> bytes:
        """Return the bytes of the message.

        Raises ResourceExhaustedError, DeadlineExceededError, InvalidArgumentError.
        """
        try:
            async with asyncio.timeout(FAST_SECONDS + SLOT_WAIT_SECONDS) as limit:
                self._slow_down_later(limit)
                raw: Any = await context.read()
        except TimeoutError:
            raise self._late() from None
        finally:
            self._timer.cancel()
        if raw is grpc.aio.EOF:
            raise InvalidArgumentError("REQUEST_MISSING", "the call has no request; send one message")
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
            f"{self._slow.items} large or slow requests are being received; the maximum is {most}",
            max_slow_requests=most,
        )
