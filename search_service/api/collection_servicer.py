"""CollectionService."""

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from imagesearch.search.v1 import collection_pb2, collection_pb2_grpc

from grpc_kit.errors import InvalidArgumentError
from grpc_kit.server.interceptors.context_interceptor import Context
from search_service.api.call_limits import CallLimits
from search_service.api.collection_converters import collection_to, new_collection_from
from search_service.api.converters import duration_from, paged_request, timestamp_to
from search_service.core.collections import Collections
from search_service.core.page_tokens import PageTokens
from search_service.core.ports import VectorStore
from search_service.core.read_images import DEFAULT_PAGE, MAX_PAGE
from search_service.core.reindexes import Reindexes
from search_service.core.types import Alias, Collection, Consistency

PagedRequest: TypeAlias = collection_pb2.ListCollectionsRequest | collection_pb2.ListAliasesRequest
Named = TypeVar("Named", Collection, Alias)


class CollectionServicer(collection_pb2_grpc.CollectionServiceServicer):
    """Create, describe and delete collections and aliases, and move aliases in a reindex."""

    def __init__(
        self,
        store: VectorStore,
        collections: Collections,
        reindexes: Reindexes,
        tokens: PageTokens,
        limits: CallLimits,
    ) -> None:
        """`limits` sets the default deadline and the maximum size of responses."""
        self._reindexes = reindexes
        self._store = store
        self._tokens = tokens
        self._collections = collections
        self._limits = limits

    async def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: Context
    ) -> collection_pb2.CreateCollectionResponse:
        """Create a collection."""
        wanted = new_collection_from(request.collection)
        collection = await self._collections.create(
            wanted, self._limits.deadline(context), validate_only=request.validate_only
        )
        return collection_pb2.CreateCollectionResponse(collection=collection_to(collection))

    async def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: Context
    ) -> collection_pb2.GetCollectionResponse:
        """Describe a collection."""
        deadline = self._limits.deadline(context)
        collection = await self._collections.get(request.name, deadline)
        response = collection_pb2.GetCollectionResponse(collection=collection_to(collection))
        if request.with_stats:
            response.stats.image_count = await self._store.count(collection, None, Consistency.STRONG, deadline)
        return response

    async def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: Context
    ) -> collection_pb2.ListCollectionsResponse:
        """List collections by name."""
        size, after = self._begin(request)
        found = await self._collections.list_collections(after, size + 1, self._limits.deadline(context))
        page, token = self._page(request, found)
        collections = [collection_to(collection) for collection in page]
        return self._limits.checked(
            collection_pb2.ListCollectionsResponse(collections=collections, next_page_token=token)
        )

    async def DeleteCollection(
        self, request: collection_pb2.DeleteCollectionRequest, context: Context
    ) -> collection_pb2.DeleteCollectionResponse:
        """Delete a collection."""
        await self._collections.delete(request.name, self._limits.deadline(context))
        return collection_pb2.DeleteCollectionResponse()

    async def SetAlias(
        self, request: collection_pb2.SetAliasRequest, context: Context
    ) -> collection_pb2.SetAliasResponse:
        """Create or move an alias."""
        wanted = Alias(request.alias.name, request.alias.collection)
        alias, previous = await self._collections.set_alias(wanted, self._limits.deadline(context))
        return _moved_to(alias, previous)

    async def ListAliases(
        self, request: collection_pb2.ListAliasesRequest, context: Context
    ) -> collection_pb2.ListAliasesResponse:
        """List aliases by name."""
        found = await self._collections.list_aliases(request.collection, self._limits.deadline(context))
        page, token = self._page(request, found)
        return collection_pb2.ListAliasesResponse(aliases=[_alias_to(alias) for alias in page], next_page_token=token)

    async def DeleteAlias(
        self, request: collection_pb2.DeleteAliasRequest, context: Context
    ) -> collection_pb2.DeleteAliasResponse:
        """Delete an alias."""
        await self._collections.delete_alias(request.name, self._limits.deadline(context))
        return collection_pb2.DeleteAliasResponse()

    async def StartReindex(
        self, request: collection_pb2.StartReindexRequest, context: Context
    ) -> collection_pb2.StartReindexResponse:
        """Start a reindex."""
        source, begun, resumed = await self._reindexes.start(
            request.source, request.target, self._limits.deadline(context)
        )
        return collection_pb2.StartReindexResponse(
            source=source, resumed=resumed, begin_time=timestamp_to(begun.begin_time)
        )

    async def HoldWrites(
        self, request: collection_pb2.HoldWritesRequest, context: Context
    ) -> collection_pb2.HoldWritesResponse:
        """Make writers wait."""
        duration = duration_from(request.duration)
        held = await self._reindexes.hold(request.source, duration, self._limits.deadline(context))
        return collection_pb2.HoldWritesResponse(hold_until=timestamp_to(held.hold_until))

    async def FinishReindex(
        self, request: collection_pb2.FinishReindexRequest, context: Context
    ) -> collection_pb2.FinishReindexResponse:
        """Move aliases to the copy."""
        moved = await self._reindexes.finish(
            request.source, request.aliases, self._limits.deadline(context), allow_fewer=request.allow_fewer
        )
        return collection_pb2.FinishReindexResponse(moved=[_moved_to(alias, previous) for alias, previous in moved])

    async def CancelReindex(
        self, request: collection_pb2.CancelReindexRequest, context: Context
    ) -> collection_pb2.CancelReindexResponse:
        """End a reindex without moving an alias."""
        await self._reindexes.cancel(request.source, self._limits.deadline(context))
        return collection_pb2.CancelReindexResponse()

    def _page(self, request: PagedRequest, found: Sequence[Named]) -> tuple[Sequence[Named], str]:
        """Return the page of a listing by name, and the token of the next page."""
        size, after = self._begin(request)
        rest = [item for item in found if item.name > after]
        token = self._tokens.make(paged_request(request), [rest[size - 1].name]) if len(rest) > size else ""
        return rest[:size], token

    def _begin(self, request: PagedRequest) -> tuple[int, str]:
        """Return the page size of a request, and the last name of the previous page."""
        size = request.page_size or DEFAULT_PAGE
        if not 1 <= size <= MAX_PAGE:
            raise InvalidArgumentError(
                "PAGE_SIZE_INVALID", f"page_size is {size}; it must be between 1 and {MAX_PAGE}", field="page_size"
            )
        after = self._tokens.read(request.page_token, paged_request(request))
        return size, str(after[0]) if after else ""


def _alias_to(alias: Alias) -> collection_pb2.Alias:
    return collection_pb2.Alias(name=alias.name, collection=alias.collection)


def _moved_to(alias: Alias, previous: str) -> collection_pb2.SetAliasResponse:
    return collection_pb2.SetAliasResponse(alias=_alias_to(alias), previous_collection=previous)
