"""Make the images that a reindex writes, from stored vectors or from the contents of files."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from grpc_kit.errors import InvalidArgumentError, NotFoundError, ServiceError
from imagesearch_client.types import Image, NewImage
from imagesearch_ingest.load.image_reader import read_image
from imagesearch_ingest.sources.allowed_uris import AllowedUris
from imagesearch_ingest.sources.source_options import MAX_BYTES
from imagesearch_ingest.sources.source_retries import SourceRetries
from imagesearch_ingest.sources.uri_reader import UriReader

# Retry budget of a file, in seconds.
RETRY_SECONDS = 60.0


class NewImages:
    """Makes new images from stored images. Threads read the files in advance."""

    def __init__(self, root: Path | str, readers: int, opens: Sequence[str], max_regions: int) -> None:
        """Create the readers of the files. `Reindexing` describes the arguments.

        Stored images keep their first `max_regions` regions.
        """
        self._max_regions = max_regions
        self._reader = UriReader(str(root), allowed=AllowedUris(opens, str(root)))
        self._readers = readers

    def close(self) -> None:
        """Close the archives that contain the files."""
        self._reader.close()

    def make(self, images: Iterable[Image]) -> Iterator[tuple[Image, NewImage | ServiceError]]:
        """Yield each stored image with its new image, or with the error if its file cannot be used."""
        with ThreadPoolExecutor(self._readers) as pool:
            pending: deque[tuple[Image, Future[NewImage | ServiceError]]] = deque()
            for image in images:
                pending.append((image, pool.submit(self._make_one, image)))
                if len(pending) >= self._readers:
                    first, made = pending.popleft()
                    yield first, made.result()
            for image, made in pending:
                yield image, made.result()

    def _make_one(self, image: Image) -> NewImage | ServiceError:
        if image.embedding is not None:
            return NewImage(
                image.id,
                image.embedding,
                image.uri,
                image.attributes,
                image.region,
                content_sha256=image.content_sha256,
                regions=image.regions[: self._max_regions],
            )
        try:
            content, sha256 = self._read(image.uri)
        except ServiceError as error:
            return error
        if image.content_sha256 not in ("", sha256):
            return _unusable(image.uri, "the file has changed since the image was stored (its SHA-256 differs)")
        return NewImage(image.id, content, image.uri, image.attributes, image.region)

    def _read(self, uri: str) -> tuple[bytes, str]:
        """Return a file and its SHA-256, with retries. Raises ServiceError."""
        retries = SourceRetries(RETRY_SECONDS)
        try:
            return read_image(lambda limit: retries.run(lambda: self._reader.read(uri, limit)), MAX_BYTES)
        except (NotFoundError, InvalidArgumentError) as error:
            raise _unusable(uri, error.message) from None


def _unusable(uri: str, problem: str) -> NotFoundError:
    return NotFoundError("FILE_UNUSABLE", f"{uri or 'no uri'}: {problem}", field="uri")
