"""CodeService."""

from collections.abc import AsyncIterator
from contextlib import aclosing

from imagesearch.search.v1 import codes_pb2, codes_pb2_grpc

from grpc_kit.server.interceptors.context_interceptor import Context
from search_service.api.call_limits import CallLimits
from search_service.api.code_converters import code_set_to, encoding_to, status_to, transform_from
from search_service.core.code_sets import CodeSets


class CodeServicer(codes_pb2_grpc.CodeServiceServicer):
    """Create, fill, describe and delete binary codes."""

    def __init__(self, sets: CodeSets, limits: CallLimits) -> None:
        """`limits` sets the default deadline, also of each step of an encoding."""
        self._sets = sets
        self._limits = limits

    async def CreateCodes(
        self, request: codes_pb2.CreateCodesRequest, context: Context
    ) -> codes_pb2.CreateCodesResponse:
        """Create an empty code set."""
        deadline = self._limits.deadline(context)
        collection = await self._sets.find(request.collection, deadline)
        transform = transform_from(request.transform, collection.dimension)
        return codes_pb2.CreateCodesResponse(
            codes=code_set_to(await self._sets.create(collection, transform, deadline))
        )

    async def EncodeImages(
        self, request: codes_pb2.EncodeImagesRequest, context: Context
    ) -> AsyncIterator[codes_pb2.EncodeImagesResponse]:
        """Encode the images that have no current code."""
        async with aclosing(self._sets.encode(request.collection, lambda: self._limits.deadline(context))) as steps:
            async for encoding in steps:
                yield encoding_to(encoding)

    async def GetCodes(self, request: codes_pb2.GetCodesRequest, context: Context) -> codes_pb2.GetCodesResponse:
        """Describe the codes of a collection."""
        collection, sets, count = await self._sets.describe(request.collection, self._limits.deadline(context))
        return codes_pb2.GetCodesResponse(collection=collection.name, sets=map(status_to, sets), image_count=count)

    async def DeleteCodes(
        self, request: codes_pb2.DeleteCodesRequest, context: Context
    ) -> codes_pb2.DeleteCodesResponse:
        """Delete all codes of a collection."""
        await self._sets.delete(request.collection, self._limits.deadline(context))
        return codes_pb2.DeleteCodesResponse()
