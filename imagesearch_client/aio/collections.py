"""The calls on collections, aliases and reindexes."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from uuid import uuid4

from imagesearch.search.v1 import collection_pb2, collection_pb2_grpc

from grpc_kit.errors import AlreadyExistsError, NotFoundError
from imagesearch_client.agreement import check_agreement
from imagesearch_client.aio.connection import Connection, asks_to_wait
from imagesearch_client.defaults import MAX_PAGE
from imagesearch_client.from_messages import collection_from
from imagesearch_client.ids import check_several
from imagesearch_client.to_messages import collection_to
from imagesearch_client.types import Collection, Consistency, Index, IndexParameters, Metric

# Attempts to create or find a collection that other clients create and delete at the same time.
EXIST_OK_ATTEMPTS = 5


class CollectionCalls(Connection):
    """The calls on collections, aliases and reindexes."""

    @cached_property
    def _collections(self) -> "collection_pb2_grpc.CollectionServiceAsyncStub":
        return collection_pb2_grpc.CollectionServiceStub(self._channel)

    async def create_collection(
        self,
        name: str,
        *,
        model: str = "",
        dimension: int = 0,
        fingerprint: str = "",
        metric: Metric | str = Metric.COSINE,
        index: Index | str | None = None,
        index_parameters: IndexParameters | None = None,
        consistency: Consistency | str = Consistency.BOUNDED,
        ttl: timedelta | None = None,
        max_regions: int = 0,
        description: str = "",
        labels: Mapping[str, str] | None = None,
        validate_only: bool = False,
        exist_ok: bool = False,
    ) -> Collection:
        """Create a collection and return it, with the defaults filled in.

        Args:
            name: a lower-case letter, then lower-case letters, digits or underscores.
            model: the embedder's model; by default its default model.
            dimension: components of a vector; by default the model's.
            fingerprint: with `dimension` and without `model`, the name of vectors that are made elsewhere.
            metric: how vectors are compared.
            index: what answers searches; by default HNSW.
            index_parameters: how the index is built.
            consistency: how fresh reads are that do not ask for `strong`.
            ttl: how long an image is kept after its last change; None keeps it for ever.
            max_regions: maximum number of regions of an image, 0 to 64, so that a search finds objects in images.
            description: what the collection is for.
            labels: the owner's marks.
            validate_only: check everything and create nothing.
            exist_ok: if the collection exists, return it instead of raising AlreadyExistsError. Any number of clients
                may do so at the same time. Its settings must be the same as those of a new collection; `description`
                and `labels` only count if they are not empty.

        Raises FailedPreconditionError with reason COLLECTION_DIFFERS and the field that differs.
        """
        wanted = collection_to(
            Metric(metric),
            None if index is None else Index(index),
            index_parameters,
            Consistency(consistency),
            ttl,
            name=name,
            model=model,
            dimension=dimension,
            fingerprint=fingerprint,
            max_regions=max_regions,
            description=description,
            labels=labels,
        )
        attempts = EXIST_OK_ATTEMPTS if exist_ok else 1
        while True:
            attempts -= 1
            try:
                return await self._create(wanted, validate_only=validate_only)
            except AlreadyExistsError:
                if not exist_ok:
                    raise
            try:
                existing = await self.get_collection(name)
            except NotFoundError:
                # Another client has deleted it.
                if not attempts:
                    raise
                continue
            # The service fills in the defaults for a name that is free.
            wanted.name = f"c{uuid4().hex}"
            check_agreement(existing, await self._create(wanted, validate_only=True))
            return existing

    async def _create(self, collection: collection_pb2.Collection, *, validate_only: bool) -> Collection:
        request = collection_pb2.CreateCollectionRequest(collection=collection, validate_only=validate_only)
        response = await self._call(self._collections.CreateCollection, request)
        return collection_from(response.collection)

    async def get_collection(self, name: str) -> Collection:
        """Return the description of a collection, or of the collection that an alias points at."""
        request = collection_pb2.GetCollectionRequest(name=name)
        response = await self._call(self._collections.GetCollection, request, asks_to_wait)
        return collection_from(response.collection)

    async def list_collections(self) -> AsyncIterator[Collection]:
        """Yield every collection, ordered by name."""
        request = collection_pb2.ListCollectionsRequest()
        while True:
            response = await self._call(self._collections.ListCollections, request, asks_to_wait)
            for collection in response.collections:
                yield collection_from(collection)
            if not response.next_page_token:
                return
            request.page_token = response.next_page_token

    async def delete_collection(self, name: str) -> None:
        """Delete a collection and its images."""
        await self._call(self._collections.DeleteCollection, collection_pb2.DeleteCollectionRequest(name=name))

    async def set_alias(self, alias: str, collection: str) -> str:
        """Point an alias at a collection, atomically. Return the collection before; empty for a new alias."""
        request = collection_pb2.SetAliasRequest(alias=collection_pb2.Alias(name=alias, collection=collection))
        return (await self._call(self._collections.SetAlias, request)).previous_collection

    async def list_aliases(self) -> dict[str, str]:
        """Return the collection of every alias."""
        request = collection_pb2.ListAliasesRequest(page_size=MAX_PAGE)
        aliases: dict[str, str] = {}
        while True:
            response = await self._call(self._collections.ListAliases, request, asks_to_wait)
            aliases |= {alias.name: alias.collection for alias in response.aliases}
            if not response.next_page_token:
                return aliases
            request.page_token = response.next_page_token

    async def delete_alias(self, alias: str) -> None:
        """Delete an alias; its collection stays."""
        await self._call(self._collections.DeleteAlias, collection_pb2.DeleteAliasRequest(name=alias))

    async def start_reindex(self, source: str, target: str) -> datetime:
        """Declare that a client copies a collection to another one. Return the time of that, by the service's clock.

        From then on a delete from `source` also deletes from `target`. `target` must be empty, or be declared already.
        """
        request = collection_pb2.StartReindexRequest(source=source, target=target)
        response = await self._call(self._collections.StartReindex, request)
        return response.begin_time.ToDatetime(UTC)

    async def hold_writes(self, source: str, duration: timedelta) -> None:
        """Hold the writes to a collection that is being copied, for 5 to 60 seconds at most; 0 releases them."""
        request = collection_pb2.HoldWritesRequest(source=source)
        request.duration.FromTimedelta(duration)
        await self._call(self._collections.HoldWrites, request)

    async def finish_reindex(self, source: str, aliases: Sequence[str], *, allow_fewer: bool = False) -> dict[str, str]:
        """Point aliases at the copy of a collection whose writes are held. Return the collection of each before.

        `allow_fewer` allows a copy with fewer images than the collection, but never an empty copy.
        """
        request = collection_pb2.FinishReindexRequest(
            source=source, aliases=check_several(aliases), allow_fewer=allow_fewer
        )
        response = await self._call(self._collections.FinishReindex, request)
        return {moved.alias.name: moved.previous_collection for moved in response.moved}

    async def cancel_reindex(self, source: str) -> None:
        """End the copying of a collection without moving an alias; the copy stays as it is."""
        await self._call(self._collections.CancelReindex, collection_pb2.CancelReindexRequest(source=source))
