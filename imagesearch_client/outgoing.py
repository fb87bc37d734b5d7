"""Images on their way to the service, and those that cannot even be sent."""

import queue
from collections.abc import Iterable, Iterator

from imagesearch.search.v1 import image_pb2

from grpc_kit.errors import InvalidArgumentError
from imagesearch_client.converters import write_request
from imagesearch_client.types import NewImage, WriteResult


class OutgoingImages:
    """Makes requests of images, for gRPC to read in a thread of its own.

    An exception in that thread would end the call and be lost, and so would a message that gRPC finds too large: both
    are kept here, for the caller's own thread.
    """

    def __init__(self, collection: str, images: Iterable[NewImage], max_message_bytes: int) -> None:
        """The images of one call."""
        self._collection = collection
        self._images = images
        self._max_message_bytes = max_message_bytes
        self._refused: queue.SimpleQueue[WriteResult] = queue.SimpleQueue()
        self.broken: Exception | None = None
        """What the images' own iterator raised; it is asked for no more then."""

    def requests(self) -> Iterator[image_pb2.WriteImagesRequest]:
        """A request for each image that can be sent."""
        try:
            for image in self._images:
                request = self._request(image)
                if request is not None:
                    yield request
        except Exception as error:  # noqa: BLE001 - the caller's own code may raise anything, and is told in its thread
            self.broken = error

    def _request(self, image: NewImage) -> image_pb2.WriteImagesRequest | None:
        try:
            request = write_request(image, self._collection)
        except (ValueError, TypeError, OverflowError) as error:
            self._refuse(image, "VALUE_INVALID", f"the image has a value that cannot be sent: {error}")
            return None
        size = request.ByteSize()
        if size > self._max_message_bytes:
            self._refuse(
                image, "IMAGE_TOO_LARGE", f"the image makes {size} bytes; at most {self._max_message_bytes} can be sent"
            )
            return None
        return request

    def _refuse(self, image: NewImage, reason: str, message: str) -> None:
        self._refused.put(WriteResult(image.id, InvalidArgumentError(reason, message)))

    def take_refused(self) -> Iterator[WriteResult]:
        """The results of images that could not be sent, each given once."""
        while True:
            try:
                yield self._refused.get_nowait()
            except queue.Empty:
                return
