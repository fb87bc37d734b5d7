"""SearchService: translates between messages and the core."""

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

from imagesearch.search.v1 import search_pb2, search_pb2_grpc

from grpc_kit.deadline import Deadline
from grpc_kit.errors import InvalidArgumentError, ServiceError
from grpc_kit.interceptors.around import Context
from grpc_kit.interceptors.errors import internal_error
from grpc_kit.status import to_status
from grpc_kit.streams import answer_each
from search_service.api.calls import DOMAIN, CallLimits
from search_service.api.converters import paged_request
from search_service.api.search_converters import page_end_from, page_end_to, response_to, search_from
from search_service.core.checks import MAX_REQUEST_ID, check_request_id
from search_service.core.page_tokens import PageTokens
from search_service.core.search_images import SearchImages

# What the bytes of a page token's position mean; tokens of another layout are refused.
PAGE_LAYOUT = b"2"


class SearchServicer(search_pb2_grpc.SearchServiceServicer):
    """Serves the contract of searches."""

    def __init__(self, searches: SearchImages, tokens: PageTokens, limits: CallLimits, stream_window: int) -> None:
        """Makes the servicer.

        Args:
            searches: answers.
            tokens: page tokens.
            limits: gives a call that states none its time, and each query of a stream.
            stream_window: the queries of one stream that are worked on at a time.
        """
        self._searches = searches
        self._tokens = tokens
        self._limits = limits
        self._stream_window = stream_window

    async def Search(self, request: search_pb2.SearchRequest, context: Context) -> search_pb2.SearchResponse:
        """Answers one query."""
        return await self._search(request, self._limits.deadline(context))

    async def SearchStream(
        self, request_iterator: AsyncIterator[search_pb2.SearchStreamRequest], context: Context
    ) -> AsyncIterator[search_pb2.SearchStreamResponse]:
        """Answers many queries, each with an answer of its own."""

        async def answer(request: search_pb2.SearchStreamRequest) -> search_pb2.SearchStreamResponse:
            return await self._answer(request, self._limits.deadline(context))

        async with aclosing(answer_each(request_iterator, answer, self._stream_window, _admit)) as responses:
            async for response in responses:
                yield response

    async def _answer(
        self, request: search_pb2.SearchStreamRequest, deadline: Deadline
    ) -> search_pb2.SearchStreamResponse:
        response = search_pb2.SearchStreamResponse(request_id=request.request_id[:MAX_REQUEST_ID])
        try:
            check_request_id(request.request_id)
            response.response.CopyFrom(await self._search(request.request, deadline))
        except ServiceError as error:
            response.error.CopyFrom(to_status(error, DOMAIN))
            error.let_go()
        except Exception as error:  # noqa: BLE001 - a query's fault must not end the stream
            response.error.CopyFrom(to_status(internal_error(error, "SearchStream"), DOMAIN))
        return response

    async def _search(self, request: search_pb2.SearchRequest, deadline: Deadline) -> search_pb2.SearchResponse:
        asked = PAGE_LAYOUT + paged_request(request)
        page = page_end_from(self._tokens.open(request.page_token, asked), request.query)
        search = search_from(request, page)
        if page is not None and search.group_by is not None:
            raise InvalidArgumentError(
                "PAGE_TOKEN_INVALID",
                "page_token is set beside group_by; hits in groups have one page",
                field="page_token",
            )
        found = await self._searches.search(search, deadline)
        token = self._tokens.seal(asked, page_end_to(found.end, request.query)) if found.end else ""
        return self._limits.sendable(response_to(found, token, explain=request.explain))


async def _admit(_: search_pb2.SearchStreamRequest) -> Callable[[], None]:
    return _nothing


def _nothing() -> None:
    return
