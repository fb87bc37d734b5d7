# Generated from aio/searches.py by python -m codegen.blocking_client; change that file.
"""The searches."""

from collections.abc import Iterator
from functools import cached_property
from typing import TypeAlias, Unpack

from imagesearch.search.v1 import search_pb2, search_pb2_grpc

from grpc_kit.errors import ServiceError
from grpc_kit.status import from_status
from imagesearch_client.blocking.connection import Connection, asks_to_wait
from imagesearch_client.blocking.outgoing import Outgoing
from imagesearch_client.from_messages import explanation_from, hit_from, hits_from
from imagesearch_client.threads import Items, directly
from imagesearch_client.to_messages import check_options, search_request
from imagesearch_client.types import (
    Embedding,
    Explanation,
    Hit,
    Hits,
    ImageContent,
    ImageFile,
    Query,
    Region,
    SearchOptions,
    StoredImage,
)

# The first page of `search_all`. An index that is not exact can only miss hits of the first page, and hardly ever
# misses hits of a small page.
FIRST_PAGE = 10

Answer: TypeAlias = tuple[int, Hits | ServiceError]


class SearchCalls(Connection):
    """The searches."""

    @cached_property
    def _searches(self) -> "search_pb2_grpc.SearchServiceStub":
        return search_pb2_grpc.SearchServiceStub(self._channel)

    def search(self, collection: str, query: Query, **options: Unpack[SearchOptions]) -> Hits:
        """Return the images most similar to a query, best first. `SearchOptions` lists the options."""
        request = directly(search_request, collection, query, options)
        response = self._call(self._searches.Search, request, asks_to_wait)
        return hits_from(response)

    def search_explained(
        self, collection: str, query: Query, **options: Unpack[SearchOptions]
    ) -> tuple[Hits, Explanation]:
        """Return the hits of `search`, and the index and times of the search."""
        request = directly(search_request, collection, query, options)
        request.explain = True
        response = self._call(self._searches.Search, request, asks_to_wait)
        return hits_from(response), explanation_from(response.explanation)

    def search_by_image(
        self, collection: str, content: ImageContent, *, region: Region | None = None, **options: Unpack[SearchOptions]
    ) -> Hits:
        """Return the images most similar to an image file, or to a region of it."""
        return self.search(collection, ImageFile(content, region), **options)

    def search_by_id(self, collection: str, image_id: str, **options: Unpack[SearchOptions]) -> Hits:
        """Return the images most similar to a stored image, without that image."""
        return self.search(collection, StoredImage(image_id), **options)

    def search_by_vector(self, collection: str, embedding: Embedding, **options: Unpack[SearchOptions]) -> Hits:
        """Return the images whose vectors are nearest to a vector."""
        return self.search(collection, embedding, **options)

    def search_all(self, collection: str, query: Query, **options: Unpack[SearchOptions]) -> Iterator[Hit]:
        """Yield every image of the collection, or every image that matches `where`, best first.

        The hits are read in pages of `limit`. With `coarse` they are the candidates only.

        Raises TypeError with `group_by`, because hits in groups have one page: use `search`.
        """
        request = search_request(collection, query, options)
        if request.HasField("group_by"):
            raise TypeError("hits in groups have one page: use search instead of search_all")
        return self._hits(request)

    def _hits(self, request: search_pb2.SearchRequest) -> Iterator[Hit]:
        page_size = request.limit
        # If the caller states the number of candidates, the first page is whole: the service then refuses a number that
        # is too small for a page at once.
        parameters = request.parameters
        stated = parameters.HasField("ef") or parameters.HasField("search_list") or request.HasField("coarse")
        if page_size and not stated:
            request.limit = min(page_size, FIRST_PAGE)
        request.with_next_page = True
        while True:
            response = self._call(self._searches.Search, request, asks_to_wait)
            for hit in response.hits:
                yield hit_from(hit)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token
            request.limit = page_size

    def search_many(self, collection: str, queries: Items[Query], **options: Unpack[SearchOptions]) -> Iterator[Answer]:
        """Answer many queries over one stream. Yield the number of each query, and its hits or its error, in any order.

        The client reads `queries` in another thread, as fast as the service answers. What `queries` raises is raised
        here after the answers to the queries before.
        """
        check_options(options)
        outgoing: Outgoing[Query, search_pb2.SearchStreamRequest, Answer] = Outgoing(
            queries,
            lambda number, query: search_pb2.SearchStreamRequest(
                request_id=str(number), request=search_request(collection, query, options)
            ),
            lambda number, _, error: (number, error),
        )
        return outgoing.results(self._searches.SearchStream, _answer_from)


def _answer_from(response: search_pb2.SearchStreamResponse) -> Answer:
    if response.WhichOneof("result") == "error":
        return int(response.request_id), from_status(response.error)
    return int(response.request_id), hits_from(response.response)
