"""SearchService: translates between messages and the core."""

from collections.abc import AsyncIterator

from imagesearch.search.v1 import search_pb2, search_pb2_grpc

from grpc_kit.interceptors.around import Context
from search_service.api.calls import CallDeadlines
from search_service.api.converters import hit_to, not_served, search_from
from search_service.core.search_images import SearchImages


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves the contract of searches."""

    def __init__(self, searches: SearchImages, deadlines: CallDeadlines) -> None:
        """`deadlines` gives a call that states none its time."""
        self._searches = searches
        self._deadlines = deadlines

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:
        """Answers one query."""
        found = await self._searches.search(search_from(request), self._deadlines.of(context))
        return search_pb2.SearchResponse(hits=[hit_to(hit, found.fingerprint) for hit in found.hits])

    async def SearchStream(
        self, request_iterator: AsyncIterator[search_pb2.SearchStreamRequest], context: Context
    ) -> AsyncIterator[search_pb2.SearchStreamResponse]:
        """Not served yet."""
        raise not_served("SearchStream", "a stream of searches")
        yield  # makes this a stream
