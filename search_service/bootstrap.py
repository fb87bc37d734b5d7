"""Wire the search service."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from imagesearch.search.v1 import (
    codes_pb2,
    codes_pb2_grpc,
    collection_pb2,
    collection_pb2_grpc,
    image_pb2,
    image_pb2_grpc,
    search_pb2,
    search_pb2_grpc,
)
from prometheus_client import CollectorRegistry

from grpc_kit.channel import open_channel
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
from grpc_kit.server import metrics
from grpc_kit.server.grpc_server import Server, Service
from grpc_kit.server.hang_watch import HangWatch
from grpc_kit.server.message_budget import MessageBudget
from grpc_kit.server.process import end_after
from search_service.adapters.embedder_client import EmbedderClient
from search_service.adapters.lite_files import check_unused
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_store import MilvusStore
from search_service.adapters.sweep_metrics import orphaned_regions_deleted
from search_service.api.call_limits import DOMAIN, CallLimits
from search_service.api.code_servicer import CodeServicer
from search_service.api.collection_servicer import CollectionServicer
from search_service.api.image_servicer import ImageServicer
from search_service.api.response_budget import ResponseBudget
from search_service.api.search_servicer import SearchServicer, StreamLimits
from search_service.core.change_images import ChangeImages
from search_service.core.coarse_search import CoarseSearches
from search_service.core.code_sets import CodeSets
from search_service.core.coded_store import CodedStore, CodeWriter
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections
from search_service.core.expiry import ExpiringStore
from search_service.core.image_locks import ImageLocks
from search_service.core.page_tokens import PageTokens
from search_service.core.ports import VectorStore
from search_service.core.region_searches import RegionSearches
from search_service.core.region_sweep import RegionSweep
from search_service.core.region_trash import RegionTrash
from search_service.core.regioned_store import RegionedStore
from search_service.core.reindexes import Reindexes
from search_service.core.search_images import SearchImages
from search_service.core.write_images import WriteImages
from search_service.settings import SearchSettings

log = structlog.stdlib.get_logger()

# No stream: the bulk lane retries images by itself.
REPEATABLE = [f"imagesearch.embedder.v1.EmbedderService/{method}" for method in ("Embed", "EmbedRegions", "GetModel")]

# A call to Milvus counts as hung after this many timeouts, because pymilvus retries some calls.
LATE = 10
# Pause between two health checks of Milvus; a probe of Kubernetes checks about as often.
HEALTH_SECONDS = 3.0


def utc_now() -> datetime:
    """Return the time in UTC."""
    return datetime.now(UTC)


@asynccontextmanager
async def serve(settings: SearchSettings) -> AsyncIterator[str]:
    """Serve, and yield the address, HOST:PORT. On exit, accept no new calls and finish the calls in flight.

    Raises OSError if a port or the file of Milvus Lite is in use, or a TLS file cannot be used. If a Milvus server does
    not answer, the service is not ready until it does.
    """
    # pymilvus logs a traceback for every failed call. The store logs unexpected failures itself.
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    if "://" not in settings.milvus_uri:
        # Milvus Lite is a gRPC server in this process. It logs each call that it does not implement.
        logging.getLogger("grpc._server").setLevel(logging.CRITICAL)
        check_unused(settings.milvus_uri)
    async with AsyncExitStack() as stack:
        watch = HangWatch()
        store = _store(settings, watch)
        stack.push_async_callback(store.close)
        ready = await is_ready(store, settings.milvus_timeout_seconds)
        if store.is_lite and not ready:
            # A server may still be starting; a file does not recover.
            raise OSError(
                f"Milvus Lite cannot use {settings.milvus_uri}: the file has another format, or cannot be written. Set "
                "SEARCH_MILVUS_URI to another path that ends in .db"
            )
        target, token = settings.embedder_target, settings.embedder_token.get_secret_value()
        tls, size = settings.embedder_client_tls, settings.max_message_bytes
        channel = await stack.enter_async_context(open_channel(target, size, REPEATABLE, tls=tls, token=token))
        embedder = EmbedderClient(channel, target, settings.embedder_timeout_seconds, settings.embedder_bytes_in_flight)
        registry = metrics.new_registry()
        budget = MessageBudget(settings.max_bytes_in_flight)
        trash = RegionTrash(store, store.regions)
        services = _services(store, trash, embedder, settings, budget)
        server = Server(services, settings, DOMAIN, registry, budget)
        # On exit, the server stops first: metrics are served until the last call has ended.
        stack.enter_context(metrics.served(registry, settings.metrics_address))
        # The watch continues until the last call has ended.
        stack.callback(asyncio.create_task(end_after(watch.watch(), server)).cancel)
        stack.push_async_callback(server.stop)
        address = await server.start(serving=ready)
        follower = asyncio.create_task(follow(store, server, settings.milvus_timeout_seconds, serving=ready))
        stack.callback(follower.cancel)
        stack.callback(asyncio.create_task(trash.run()).cancel)
        if settings.sweep_seconds:
            sweeping = _sweep(store, settings, registry).run(settings.sweep_seconds)
            stack.callback(asyncio.create_task(sweeping).cancel)
        yield address


def _store(settings: SearchSettings, watch: HangWatch) -> MilvusStore:
    milvus = MilvusConnection(
        settings.milvus_uri,
        settings.milvus_token.get_secret_value(),
        settings.milvus_database,
        settings.milvus_client_tls,
        settings.milvus_server_name,
    )
    if milvus.shows_token:
        log.warning("SEARCH_MILVUS_TOKEN is sent in plain text: set SEARCH_MILVUS_URI to https://HOST:19530")
    return MilvusStore(
        milvus,
        watch=watch,
        hang_seconds=max(settings.hang_timeout_seconds, LATE * settings.milvus_timeout_seconds),
        timeout=settings.milvus_timeout_seconds,
        threads=settings.milvus_threads,
        max_exact_bytes=settings.max_exact_bytes,
    )


async def is_ready(store: VectorStore, seconds: float) -> bool:
    """Return whether the store answers in time."""
    try:
        await store.check(Deadline.after(seconds))
    except ServiceError as error:
        log.warning("Milvus does not answer", reason=error.reason)
        return False
    return True


async def follow(store: VectorStore, server: Server, seconds: float, *, serving: bool) -> None:
    """Report the health of the store as that of the server, so that clients avoid it while Milvus is down."""
    while True:
        await asyncio.sleep(HEALTH_SECONDS)
        ready = await is_ready(store, seconds)
        if ready != serving:
            serving = ready
            await server.set_serving(serving=serving)
            log.info("health changed", serving=serving)


def _sweep(store: MilvusStore, settings: SearchSettings, registry: CollectorRegistry) -> RegionSweep:
    removed = orphaned_regions_deleted(registry)
    age = timedelta(seconds=settings.orphan_seconds)
    return RegionSweep(store, store.regions, utc_now, orphan_age=age, removed=removed.inc)


def _services(
    milvus: MilvusStore, trash: RegionTrash, embedder: EmbedderClient, settings: SearchSettings, budget: MessageBudget
) -> list[Service]:
    limits = CallLimits(settings.default_timeout_seconds, settings.max_message_bytes)
    responses = ResponseBudget(
        MessageBudget(settings.answer_bytes_in_flight, "answer_bytes_in_flight", "the responses in preparation"),
        settings.answer_bytes_in_flight // 2,
    )
    tokens, locks = PageTokens(settings.page_token_secret), ImageLocks()
    writer = CodeWriter(milvus.codes)
    regioned = RegionedStore(
        milvus,
        milvus.regions,
        RegionSearches(milvus, milvus.regions),
        trash,
        utc_now,
        commit_time=timedelta(seconds=settings.orphan_seconds / 2),
        max_join_bytes=2 * settings.max_message_bytes,
    )
    coded = CodedStore(regioned, milvus.codes, writer)
    store = ExpiringStore(coded, utc_now)
    cache = CollectionCache(store)
    collections = Collections(store, embedder, cache, utc_now)
    reindexes = Reindexes(store, collections, cache, utc_now)
    window = settings.write_window_images, settings.write_window_bytes
    writes = WriteImages(store, embedder, utc_now, locks, *window, reserve=budget.wait)
    changes = ChangeImages(store, utc_now, locks)
    searches = SearchImages(store, embedder, cache, CoarseSearches(store, milvus.codes, writer, utc_now))
    # CodeSets uses the store without expiry: expired images still have codes.
    code_sets = CodeSets(coded, milvus.codes, writer, cache, locks, utc_now)
    stream_limits = StreamLimits(settings.search_window, settings.search_unread_bytes)
    collection_servicer = CollectionServicer(store, collections, reindexes, tokens, limits)
    image_servicer = ImageServicer(store, writes, changes, tokens, limits, responses)
    code_servicer = CodeServicer(code_sets, limits)
    search_servicer = SearchServicer(searches, tokens, limits, stream_limits, budget, responses)
    return [
        Service(
            collection_pb2.DESCRIPTOR.services_by_name["CollectionService"],
            partial(collection_pb2_grpc.add_CollectionServiceServicer_to_server, collection_servicer),
        ),
        Service(
            image_pb2.DESCRIPTOR.services_by_name["ImageService"],
            partial(image_pb2_grpc.add_ImageServiceServicer_to_server, image_servicer),
        ),
        Service(
            codes_pb2.DESCRIPTOR.services_by_name["CodeService"],
            partial(codes_pb2_grpc.add_CodeServiceServicer_to_server, code_servicer),
        ),
        Service(
            search_pb2.DESCRIPTOR.services_by_name["SearchService"],
            partial(search_pb2_grpc.add_SearchServiceServicer_to_server, search_servicer),
        ),
    ]
