"""The calls on binary codes."""

from collections.abc import AsyncIterator, Iterable
from functools import cached_property

from imagesearch.search.v1 import codes_pb2, codes_pb2_grpc
from numpy.typing import ArrayLike

from imagesearch_client.aio.connection import Connection, asks_to_wait, service_errors
from imagesearch_client.from_messages import code_set_from, code_set_status_from, encoding_from
from imagesearch_client.to_messages import code_transform_to
from imagesearch_client.types import CodeSet, CodesStatus, Encoding


class CodeCalls(Connection):
    """The calls on binary codes."""

    @cached_property
    def _codes(self) -> "codes_pb2_grpc.CodeServiceAsyncStub":
        return codes_pb2_grpc.CodeServiceStub(self._channel)

    async def create_codes(self, collection: str, hyperplanes: Iterable[ArrayLike]) -> CodeSet:
        """Create an empty set of binary codes, which `encode_images` fills.

        Args:
            collection: the collection of the images; it must be on a Milvus server.
            hyperplanes: shape [bits, dimension + 1]: a row for each bit, the components of the normal and then the
                offset. `imagesearch_analysis.codes` makes random ones.
        """
        request = codes_pb2.CreateCodesRequest(collection=collection, transform=code_transform_to(hyperplanes))
        return code_set_from((await self._call(self._codes.CreateCodes, request)).codes)

    async def encode_images(self, collection: str) -> AsyncIterator[Encoding]:
        """Encode the images that have no code. Yield the progress.

        The service stops when the caller stops; the next call resumes. After the last value searches can use the codes.
        """
        responses = self._codes.EncodeImages(codes_pb2.EncodeImagesRequest(collection=collection))
        try:
            with service_errors():
                async for response in responses:
                    yield encoding_from(response)
        finally:
            responses.cancel()

    async def get_codes(self, collection: str) -> CodesStatus:
        """Return the sets of binary codes of a collection."""
        request = codes_pb2.GetCodesRequest(collection=collection)
        response = await self._call(self._codes.GetCodes, request, asks_to_wait)
        return CodesStatus(response.collection, list(map(code_set_status_from, response.sets)), response.image_count)

    async def delete_codes(self, collection: str) -> None:
        """Delete all binary codes of a collection."""
        await self._call(self._codes.DeleteCodes, codes_pb2.DeleteCodesRequest(collection=collection))
