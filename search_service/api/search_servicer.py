"""SearchService."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass

from imagesearch.search.v1 import search_pb2, search_pb2_grpc

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ServiceError
from grpc_kit.server.interceptors.context_interceptor import Context
from grpc_kit.server.interceptors.error_mapping import internal_error
from grpc_kit.server.message_budget import MessageBudget
from grpc_kit.server.streams import ResponseSizes, answer_each
from grpc_kit.status import to_status
from search_service.api.call_limits import DOMAIN, CallLimits
from search_service.api.converters import paged_request
from search_service.api.response_budget import ResponseBudget
from search_service.api.search_converters import page_end_from, page_end_to, response_to, search_from
from search_service.core.checks import MAX_REQUEST_ID, check_request_id
from search_service.core.nearest_images import MAX_STORE_HITS
from search_service.core.page_tokens import PageTokens
from search_service.core.search_images import SearchImages
from search_service.core.searches import Search


@dataclass(frozen=True)
class StreamLimits:
    """Limits of one SearchStream."""

    window: int
    """Queries in flight."""
    unread_bytes: int
    """Bytes of unread responses; while there are more, no further query starts."""


@dataclass(frozen=True)
class _Request:
    """A converted SearchRequest. It has the query image once; the message would hold it a second time."""

    search: Search
    digest: bytes
    """Digest of the request without its paging."""
    explain: bool
    by_embedding: bool


@dataclass(frozen=True)
class _Item:
    """One query of a stream, or the error of its conversion."""

    request_id: str
    asked: _Request | ServiceError
    size: int
    """Bytes of the message."""


# Version of the format of page tokens. Tokens with another version are refused.
PAGE_LAYOUT = b"2"


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Answer searches."""

    def __init__(
        self,
        searches: SearchImages,
        tokens: PageTokens,
        limits: CallLimits,
        stream_limits: StreamLimits,
        requests: MessageBudget,
        responses: ResponseBudget,
    ) -> None:
        """Wire the servicer.

        Args:
            searches: answers searches.
            tokens: creates and reads page tokens.
            limits: sets the default deadline, also of each query of a stream, and the maximum size of responses.
            stream_limits: limits one stream.
            requests: limits the bytes of pending requests of all streams.
            responses: limits the memory of responses in preparation.
        """
        self._searches = searches
        self._tokens = tokens
        self._limits = limits
        self._stream_limits = stream_limits
        self._requests = requests
        self._responses = responses

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:
        """Answer one query."""
        asked = self._read(request)
        del request
        async with self._responses.reserved(asked.search.collection, asked.search.view, _rows(asked.search)):
            return await self._search(asked, self._limits.deadline(context))

    async def SearchStream(
        self, request_iterator: AsyncIterator[search_pb2.SearchStreamRequest], context: Context
    ) -> AsyncIterator[search_pb2.SearchStreamResponse]:
        """Answer a stream of queries, and return a response for each."""

        async def answer(item: _Item) -> search_pb2.SearchStreamResponse:
            return await self._answer(item, self._limits.deadline(context))

        sizes: ResponseSizes[_Item, search_pb2.SearchStreamResponse] = ResponseSizes(
            self._stream_limits.unread_bytes, self._estimate, search_pb2.SearchStreamResponse.ByteSize
        )
        async with (
            aclosing(self._items(request_iterator)) as items,
            aclosing(answer_each(items, answer, self._stream_limits.window, self._admit, sizes)) as responses,
        ):
            async for response in responses:
                yield response
                del response

    async def _items(self, requests: AsyncIterator[search_pb2.SearchStreamRequest]) -> AsyncGenerator[_Item, None]:
        async for request in requests:
            item = self._item(request)
            del request
            yield item
            del item

    def _item(self, request: search_pb2.SearchStreamRequest) -> _Item:
        size = request.ByteSize()
        asked: _Request | ServiceError
        try:
            check_request_id(request.request_id)
            asked = self._read(request.request)
        except ServiceError as error:
            error.release_frames()
            asked = error
        except Exception as error:  # noqa: BLE001 - a failed query must not end the stream
            asked = internal_error(error, "SearchStream")
        return _Item(request.request_id[:MAX_REQUEST_ID], asked, size)

    async def _admit(self, item: _Item) -> Callable[[], None]:
        """Wait for room for the query, then for its response; return a callback that releases both."""
        request = await self._requests.wait(item.size)
        try:
            response = await self._responses.budget.wait(self._estimate(item))
        except BaseException:
            request.release()
            raise

        def release() -> None:
            request.release()
            response.release()

        return release

    def _estimate(self, item: _Item) -> int:
        if isinstance(item.asked, ServiceError):
            return 0
        search = item.asked.search
        return self._responses.estimate(search.collection, search.view, _rows(search))

    async def _answer(self, item: _Item, deadline: Deadline) -> search_pb2.SearchStreamResponse:
        response = search_pb2.SearchStreamResponse(request_id=item.request_id)
        try:
            if isinstance(item.asked, ServiceError):
                raise item.asked
            response.response.CopyFrom(await self._search(item.asked, deadline))
        except ServiceError as error:
            response.error.CopyFrom(to_status(error, DOMAIN))
            error.release_frames()
        except Exception as error:  # noqa: BLE001 - a failed query must not end the stream
            response.error.CopyFrom(to_status(internal_error(error, "SearchStream"), DOMAIN))
        return response

    def _read(self, request: search_pb2.SearchRequest) -> _Request:
        digest = PAGE_LAYOUT + paged_request(request)
        page = page_end_from(self._tokens.verify(request.page_token, digest), request.query)
        search = search_from(request, page)
        if page is not None and search.group_by is not None:
            raise InvalidArgumentError(
                "PAGE_TOKEN_INVALID",
                "page_token and group_by are both set; grouped hits have only one page: leave one of them out",
                field="page_token",
            )
        return _Request(search, digest, request.explain, request.query.HasField("embedding"))

    async def _search(self, asked: _Request, deadline: Deadline) -> search_pb2.SearchResponse:
        result = await self._searches.search(asked.search, deadline)
        end = page_end_to(result.end, with_vector=not asked.by_embedding) if result.end else None
        token = self._tokens.sign(asked.digest, end) if end else ""
        response = response_to(result, token, explain=asked.explain)
        self._responses.observe(asked.search.collection, asked.search.view, len(result.hits), response.ByteSize())
        return self._limits.checked(response)


def _rows(search: Search) -> int:
    """Return the maximum number of rows that a search reads. An invalid limit is refused later."""
    rows = search.limit * (search.group_by.size if search.group_by else 1)
    return max(0, min(rows, MAX_STORE_HITS))
