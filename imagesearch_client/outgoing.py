"""Items of a stream on their way to the service, and those that cannot even be sent."""

import queue
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from google.protobuf.message import Message

from grpc_kit.errors import InvalidArgumentError

Item = TypeVar("Item")
Request = TypeVar("Request", bound=Message)
Result = TypeVar("Result")


class Outgoing(Generic[Item, Request, Result]):
    """Makes requests of items, for gRPC to read in a thread of its own.

    An exception in that thread would end the call and be lost, and so would a message that gRPC finds too large: both
    are kept here, for the caller's own thread.
    """

    def __init__(
        self,
        items: Iterable[Item],
        request_of: Callable[[int, Item], Request],
        result_of: Callable[[int, Item, InvalidArgumentError], Result],
        max_message_bytes: int,
    ) -> None:
        """The items of one call.

        Args:
            items: are read as fast as they can be sent.
            request_of: makes the request of an item and its number. Raises ValueError, TypeError, OverflowError.
            result_of: makes the result of an item that cannot be sent.
            max_message_bytes: the largest request.
        """
        self._items = items
        self._request_of = request_of
        self._result_of = result_of
        self._max_message_bytes = max_message_bytes
        self._refused: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self.broken: Exception | None = None
        """What the items' own iterator raised; it is asked for no more then."""

    def requests(self) -> Iterator[Request]:
        """A request for each item that can be sent."""
        try:
            for number, item in enumerate(self._items):
                request = self._request(number, item)
                if request is not None:
                    yield request
        except Exception as error:  # noqa: BLE001 - the caller's own code may raise anything, and is told in its thread
            self.broken = error

    def _request(self, number: int, item: Item) -> Request | None:
        try:
            request = self._request_of(number, item)
        except (ValueError, TypeError, OverflowError) as error:
            self._refuse(number, item, "VALUE_INVALID", f"it has a value that cannot be sent: {error}")
            return None
        size = request.ByteSize()
        if size > self._max_message_bytes:
            self._refuse(
                number, item, "IMAGE_TOO_LARGE", f"it makes {size} bytes; at most {self._max_message_bytes} can be sent"
            )
            return None
        return request

    def _refuse(self, number: int, item: Item, reason: str, message: str) -> None:
        self._refused.put(self._result_of(number, item, InvalidArgumentError(reason, message)))

    def take_refused(self) -> Iterator[Result]:
        """The results of items that could not be sent, each given once."""
        while True:
            try:
                yield self._refused.get_nowait()
            except queue.Empty:
                return
