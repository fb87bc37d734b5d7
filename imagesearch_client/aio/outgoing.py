"""A stream of requests and responses, with a result also for each item that cannot be sent."""

import queue
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from google.protobuf.message import Message

from grpc_kit.errors import InvalidArgumentError
from imagesearch_client.aio.connection import service_errors
from imagesearch_client.defaults import MAX_MESSAGE_BYTES
from imagesearch_client.threads import AsyncItems, each_async, in_thread

Item = TypeVar("Item")
Request = TypeVar("Request", bound=Message)
Response = TypeVar("Response", bound=Message)
Result = TypeVar("Result")


class Outgoing(Generic[Item, Request, Result]):
    """Turns items into requests, which gRPC reads beside the responses.

    gRPC would end the call and lose the reason if the items raised an exception, or if a request were too large. This
    class keeps both for the caller.
    """

    def __init__(
        self,
        items: AsyncItems[Item],
        request_of: Callable[[int, Item], Request],
        result_of: Callable[[int, Item, InvalidArgumentError], Result],
    ) -> None:
        """Prepare the requests of one call.

        Args:
            items: read as fast as requests can be sent.
            request_of: makes the request of an item and its number. Raises ValueError, TypeError, OverflowError or
                OSError if the item cannot be sent.
            result_of: makes the result of an item that cannot be sent.
        """
        self._items = items
        self._request_of = request_of
        self._result_of = result_of
        self._refused: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._broken: Exception | None = None

    async def _requests(self) -> AsyncIterator[Request]:
        """Yield a request for each item that can be sent."""
        number = 0
        try:
            async for item in each_async(self._items):
                request = await in_thread(self._request, number, item)
                if request is not None:
                    yield request
                number += 1
        except Exception as error:  # noqa: BLE001 - the caller's own code may raise anything; `results` raises it again
            self._broken = error

    def _request(self, number: int, item: Item) -> Request | None:
        try:
            request = self._request_of(number, item)
        except OSError as error:
            self._refuse(number, item, "FILE_UNREADABLE", f"the file cannot be read: {error}")
            return None
        except (ValueError, TypeError, OverflowError) as error:
            self._refuse(number, item, "VALUE_INVALID", f"a value cannot be sent: {error}")
            return None
        if (size := request.ByteSize()) > MAX_MESSAGE_BYTES:
            message = f"the request of this item has {size} bytes; the limit is {MAX_MESSAGE_BYTES}"
            self._refuse(number, item, "IMAGE_TOO_LARGE", message)
            return None
        return request

    def _refuse(self, number: int, item: Item, reason: str, message: str) -> None:
        self._refused.put(self._result_of(number, item, InvalidArgumentError(reason, message)))

    async def results(
        self, method: Callable[..., AsyncIterable[Response]], result_from: Callable[[Response], Result]
    ) -> AsyncIterator[Result]:
        """Call a method with the requests. Yield a result for each item, in any order.

        Args:
            method: a method of a stub that takes a stream and returns a stream.
            result_from: makes the result of a response.

        Raises ServiceError, and what the items raised.
        """
        responses = method(self._requests())
        try:
            with service_errors():
                async for response in responses:
                    for refused in self._take_refused():
                        yield refused
                    yield result_from(response)
            for refused in self._take_refused():
                yield refused
            if self._broken is not None:
                raise self._broken
        finally:
            # The caller may stop before the last result.
            responses.cancel()  # type: ignore[attr-defined] # a call of gRPC

    def _take_refused(self) -> Iterator[Result]:
        while True:
            try:
                yield self._refused.get_nowait()
            except queue.Empty:
                return
