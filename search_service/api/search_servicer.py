"""SearchService: translates between messages and the core."""

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
from search_service.api.answer_room import AnswerRoom
from search_service.api.calls import DOMAIN, CallLimits
from search_service.api.converters import paged_request
from search_service.api.search_converters import page_end_from, page_end_to, response_to, search_from
from search_service.core.checks import MAX_REQUEST_ID, check_request_id
from search_service.core.nearest_images import MAX_STORE_HITS
from search_service.core.page_tokens import PageTokens
from search_service.core.search_images import SearchImages
from search_service.core.searches import Search


@dataclass(frozen=True)
class StreamLimits:
    """What one SearchStream may hold."""

    window: int
    """Queries that are worked on at a time."""
    unread_bytes: int
    """Bytes of answers that the caller has not read, above which no further query starts."""


@dataclass(frozen=True)
class _Asked:
    """What a SearchRequest asks for. It holds a query image once; the message would hold it a second time."""

    search: Search
    digest: bytes
    """Of the request less its paging."""
    explain: bool
    by_embedding: bool


@dataclass(frozen=True)
class _Item:
    """One query of a stream, or why it cannot be answered."""

    request_id: str
    asked: _Asked | ServiceError
    size: int
    """Bytes of the message."""


# What the bytes of a page token's position mean; tokens of another layout are refused.
PAGE_LAYOUT = b"2"


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves the contract of searches."""

    def __init__(
        self,
        searches: SearchImages,
        tokens: PageTokens,
        limits: CallLimits,
        stream_limits: StreamLimits,
        requests: MessageBudget,
        answers: AnswerRoom,
    ) -> None:
        """Makes the servicer.

        Args:
            searches: answers.
            tokens: page tokens.
            limits: gives a call that states none its time, and each query of a stream.
            stream_limits: bound one stream.
            requests: bounds the messages of all streams, until they are answered.
            answers: bounds the answers that are being made.
        """
        self._searches = searches
        self._tokens = tokens
        self._limits = limits
        self._stream_limits = stream_limits
        self._requests = requests
        self._answers = answers

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:
        """Answers one query."""
        asked = self._read(request)
        del request
        async with self._answers.held(asked.search.collection, asked.search.view, _rows(asked.search)):
            return await self._search(asked, self._limits.deadline(context))

    async def SearchStream(
        self, request_iterator: AsyncIterator[search_pb2.SearchStreamRequest], context: Context
    ) -> AsyncIterator[search_pb2.SearchStreamResponse]:
        """Answers many queries, each with an answer of its own."""

        async def answer(item: _Item) -> search_pb2.SearchStreamResponse:
            return await self._answer(item, self._limits.deadline(context))

        sizes: ResponseSizes[_Item, search_pb2.SearchStreamResponse] = ResponseSizes(
            self._stream_limits.unread_bytes, self._expected, search_pb2.SearchStreamResponse.ByteSize
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
        asked: _Asked | ServiceError
        try:
            check_request_id(request.request_id)
            asked = self._read(request.request)
        except ServiceError as error:
            error.release_frames()
            asked = error
        except Exception as error:  # noqa: BLE001 - a query's fault must not end the stream
            asked = internal_error(error, "SearchStream")
        return _Item(request.request_id[:MAX_REQUEST_ID], asked, size)

    async def _admit(self, item: _Item) -> Callable[[], None]:
        """Waits for room for the query and for its answer, always in this order; returns what releases both."""
        request = await self._requests.wait(item.size)
        try:
            answer = await self._answers.budget.wait(self._expected(item))
        except BaseException:
            request.leave()
            raise

        def leave() -> None:
            request.leave()
            answer.leave()

        return leave

    def _expected(self, item: _Item) -> int:
        if isinstance(item.asked, ServiceError):
            return 0
        search = item.asked.search
        return self._answers.expected(search.collection, search.view, _rows(search))

    async def _answer(self, item: _Item, deadline: Deadline) -> search_pb2.SearchStreamResponse:
        response = search_pb2.SearchStreamResponse(request_id=item.request_id)
        try:
            if isinstance(item.asked, ServiceError):
                raise item.asked
            response.response.CopyFrom(await self._search(item.asked, deadline))
        except ServiceError as error:
            response.error.CopyFrom(to_status(error, DOMAIN))
            error.release_frames()
        except Exception as error:  # noqa: BLE001 - a query's fault must not end the stream
            response.error.CopyFrom(to_status(internal_error(error, "SearchStream"), DOMAIN))
        return response

    def _read(self, request: search_pb2.SearchRequest) -> _Asked:
        digest = PAGE_LAYOUT + paged_request(request)
        page = page_end_from(self._tokens.open(request.page_token, digest), request.query)
        search = search_from(request, page)
        if page is not None and search.group_by is not None:
            raise InvalidArgumentError(
                "PAGE_TOKEN_INVALID",
                "page_token is set beside group_by; hits in groups have one page",
                field="page_token",
            )
        return _Asked(search, digest, request.explain, request.query.HasField("embedding"))

    async def _search(self, asked: _Asked, deadline: Deadline) -> search_pb2.SearchResponse:
        found = await self._searches.search(asked.search, deadline)
        end = page_end_to(found.end, with_vector=not asked.by_embedding) if found.end else None
        token = self._tokens.seal(asked.digest, end) if end else ""
        response = response_to(found, token, explain=asked.explain)
        self._answers.observe(asked.search.collection, asked.search.view, len(found.hits), response.ByteSize())
        return self._limits.sendable(response)


def _rows(search: Search) -> int:
    """The rows that a search reads, at the most; a limit that is wrong is refused later."""
    rows = search.limit * (search.group_by.size if search.group_by else 1)
    return max(0, min(rows, MAX_STORE_HITS))
