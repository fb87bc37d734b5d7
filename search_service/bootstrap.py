"""The one place where the search service is put together."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime

from imagesearch.search.v1 import (
    collection_pb2,
    collection_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)

from grpc_kit.channel import open_channel
from grpc_kit.deadline import Deadline
from grpc_kit.server import Server, Service
from search_service.adapters.embedder_client import EmbedderClient
from search_service.adapters.milvus_store import MilvusStore
from search_service.api.calls import CallDeadlines
from search_service.api.collection_servicer import CollectionServicer
from search_service.api.image_servicer import DOMAIN, ImageServicer
from search_service.api.search_servicer import SearchServicer
from search_service.core.collections import Collections
from search_service.core.search_images import SearchImages
from search_service.core.write_images import WriteImages
from search_service.settings import SearchSettings


def utc_now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def serve(settings: SearchSettings) -> AsyncIterator[str]:
    """Serves; gives the address, HOST:PORT. At the end it stops taking calls and finishes those it has.

    Raises OSError where the port or the database is taken, UnavailableError where Milvus does not answer.
    """
    async with AsyncExitStack() as stack:
        store = MilvusStore(
            settings.milvus_uri,
            token=settings.milvus_token.get_secret_value(),
            timeout=settings.milvus_timeout_seconds,
            threads=settings.milvus_threads,
        )
        stack.push_async_callback(store.close)
        await store.check(Deadline.after(settings.milvus_timeout_seconds))
        channel = await stack.enter_async_context(open_channel(settings.embedder_target, settings.max_message_bytes))
        embedder = EmbedderClient(channel, settings.embedder_target, settings.embedder_timeout_seconds)
        server = Server(_services(store, embedder, settings), settings, DOMAIN)
        stack.push_async_callback(server.stop)
        yield await server.start()


def _services(store: MilvusStore, embedder: EmbedderClient, settings: SearchSettings) -> list[Service]:
    deadlines = CallDeadlines(settings.default_timeout_seconds)
    collections = Collections(store, embedder, utc_now)
    writes = WriteImages(
        store,
        embedder,
        utc_now,
        store_timeout=settings.milvus_timeout_seconds,
        window_images=settings.write_window_images,
        window_bytes=settings.write_window_bytes,
    )
    collection_servicer = CollectionServicer(collections, deadlines)
    image_servicer = ImageServicer(store, collections, writes, deadlines)
    search_servicer = SearchServicer(SearchImages(store, embedder), deadlines)
    return [
        Service(
            collection_pb2.DESCRIPTOR.services_by_name["CollectionService"],
            lambda server: collection_pb2_grpc.add_CollectionServiceServicer_to_server(collection_servicer, server),
        ),
        Service(
            image_pb2.DESCRIPTOR.services_by_name["ImageService"],
            lambda server: image_pb2_grpc.add_ImageServiceServicer_to_server(image_servicer, server),
        ),
        Service(
            search_pb2.DESCRIPTOR.services_by_name["SearchService"],
            lambda server: search_pb2_grpc.add_SearchServiceServicer_to_server(search_servicer, server),
        ),
    ]
