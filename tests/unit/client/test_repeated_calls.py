"""Calls that are repeated, against a service in this process that refuses, loses responses or races."""

import asyncio
import inspect
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.search.v1 import collection_pb2, collection_pb2_grpc, image_pb2, image_pb2_grpc

from demo.service_process import free_port
from grpc_kit.errors import (
    AlreadyExistsError,
    InternalError,
    NotFoundError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
)
from grpc_kit.status import DETAILS_KEY, code_of, to_status
from imagesearch_client import AsyncClient, AsyncEmbedderClient, Client, Collection, EmbedderClient, equals


def fail(context: grpc.ServicerContext, error: ServiceError) -> None:
    context.set_trailing_metadata(((DETAILS_KEY, to_status(error, "test").SerializeToString()),))
    context.abort(code_of(error), error.message)


class Service(
    image_pb2_grpc.ImageServiceServicer,
    collection_pb2_grpc.CollectionServiceServicer,
    embedder_pb2_grpc.EmbedderServiceServicer,
):
    """Keeps ids in memory. Each call raises the first of `errors` before it works, or of `late_errors` after it."""

    def __init__(self) -> None:
        self.ids: set[str] = {"a", "b", "c"}
        self.errors: list[ServiceError] = []
        self.late_errors: list[ServiceError] = []
        self.calls: list[str] = []
        self.collections: list[collection_pb2.Collection | None] = []
        """What each GetCollection finds."""

    def _begin(self, context: grpc.ServicerContext) -> None:
        self.calls.append(inspect.stack()[1].function)
        if self.errors:
            fail(context, self.errors.pop(0))

    def CountImages(
        self, request: image_pb2.CountImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.CountImagesResponse:
        self._begin(context)
        return image_pb2.CountImagesResponse(count=len(self.ids))

    def GetImages(
        self, request: image_pb2.GetImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.GetImagesResponse:
        images = [image_pb2.Image(id=image_id) for image_id in request.ids if image_id in self.ids]
        return image_pb2.GetImagesResponse(images=images)

    def DeleteImages(
        self, request: image_pb2.DeleteImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.DeleteImagesResponse:
        self._begin(context)
        chosen = self.ids.intersection(request.ids.ids) if request.HasField("ids") else set(self.ids)
        self.ids -= chosen
        if self.late_errors:
            fail(context, self.late_errors.pop(0))
        return image_pb2.DeleteImagesResponse(deleted_count=len(chosen))

    def Embed(self, request: embedder_pb2.EmbedRequest, context: grpc.ServicerContext) -> embedder_pb2.EmbedResponse:
        self._begin(context)
        return embedder_pb2.EmbedResponse()

    def EmbedRegions(
        self, request: embedder_pb2.EmbedRegionsRequest, context: grpc.ServicerContext
    ) -> embedder_pb2.EmbedRegionsResponse:
        self._begin(context)
        return embedder_pb2.EmbedRegionsResponse()

    def CreateCollection(
        self, request: collection_pb2.CreateCollectionRequest, context: grpc.ServicerContext
    ) -> collection_pb2.CreateCollectionResponse:
        self._begin(context)
        collection = collection_pb2.Collection()
        collection.CopyFrom(request.collection)
        collection.index.type = collection_pb2.INDEX_TYPE_HNSW
        return collection_pb2.CreateCollectionResponse(collection=collection)

    def GetCollection(
        self, request: collection_pb2.GetCollectionRequest, context: grpc.ServicerContext
    ) -> collection_pb2.GetCollectionResponse:
        self._begin(context)
        found = self.collections.pop(0)
        if found is None:
            fail(context, NotFoundError("COLLECTION_NOT_FOUND", "it is gone"))
        return collection_pb2.GetCollectionResponse(collection=found)


@pytest.fixture
def service() -> Iterator[tuple[Service, str]]:
    server, servicer = grpc.server(ThreadPoolExecutor(2)), Service()  # type: ignore[abstract]
    image_pb2_grpc.add_ImageServiceServicer_to_server(servicer, server)
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(servicer, server)
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield servicer, f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture(params=["blocking", "asynchronous"])
def call(request: pytest.FixtureRequest, service: tuple[Service, str]) -> Any:
    """Calls a method of a new client."""

    def run(method: str, *args: Any, retry_seconds: float = 5.0, timeout: float = 30.0, **options: Any) -> Any:
        embeds = method.startswith("embed")
        if request.param == "blocking":
            kind = EmbedderClient if embeds else Client
            with kind(service[1], timeout=timeout, retry_seconds=retry_seconds) as client:
                return getattr(client, method)(*args, **options)

        async def run_async() -> Any:
            kind = AsyncEmbedderClient if embeds else AsyncClient
            async with kind(service[1], timeout=timeout, retry_seconds=retry_seconds) as client:
                return await getattr(client, method)(*args, **options)

        return asyncio.run(run_async())

    return run


BUSY = ResourceExhaustedError("OVERLOADED", "busy", retry_after=0.2)
AWAY = UnavailableError("MILVUS_UNAVAILABLE", "away", retry_after=0.2)


def test_a_call_waits_as_long_as_the_service_asks(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.errors = [BUSY, AWAY]
    assert call("count", "c") == 3
    assert servicer.calls == ["CountImages"] * 3


def test_a_call_is_not_repeated_beyond_its_retry_budget(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.errors = [ResourceExhaustedError("OVERLOADED", "very busy", retry_after=9)]
    with pytest.raises(ResourceExhaustedError, match="very busy"):
        call("count", "c")
    servicer.errors = [BUSY]
    with pytest.raises(ResourceExhaustedError, match="busy"):
        call("count", "c", retry_seconds=0)
    assert servicer.calls == ["CountImages"] * 2


def test_a_new_client_finds_a_restarted_service_at_once(service: tuple[Service, str]) -> None:
    """The pauses of an old client, whose attempts to connect failed, are not those of a new one."""
    with Client(f"127.0.0.1:{free_port()}", retry_seconds=0) as old:
        until = time.monotonic() + 4
        while time.monotonic() < until:
            with pytest.raises(UnavailableError):
                old.count("c")
        server = grpc.server(ThreadPoolExecutor(4))
        image_pb2_grpc.add_ImageServiceServicer_to_server(service[0], server)
        server.add_insecure_port(old.target)
        server.start()
        with Client(old.target, retry_seconds=0) as new:
            assert new.count("c") == 3
        server.stop(None).wait()


def test_the_timeout_includes_the_repeated_attempts(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.errors = [ResourceExhaustedError("OVERLOADED", "busy", retry_after=0.6) for _ in range(100)]
    with pytest.raises(ResourceExhaustedError, match="busy"):
        call("count", "c", timeout=2, retry_seconds=60)
    assert 1 < len(servicer.calls) <= 4


def test_a_call_that_is_not_safe_to_repeat_is_repeated_only_after_a_refusal(
    service: tuple[Service, str], call: Any
) -> None:
    servicer, _ = service
    servicer.errors = [BUSY]
    assert call("create_collection", "c", dimension=2, fingerprint="f").name == "c"
    servicer.errors = [AWAY]
    with pytest.raises(UnavailableError):
        call("create_collection", "c", dimension=2, fingerprint="f")
    servicer.errors = [AWAY]
    with pytest.raises(UnavailableError):
        call("delete_where", "c", equals("a", 1))
    assert servicer.calls == ["CreateCollection"] * 3 + ["DeleteImages"]


@pytest.mark.parametrize(("method", "called"), [("embed", "Embed"), ("embed_regions", "EmbedRegions")])
def test_an_image_is_embedded_by_another_attempt_if_the_server_is_unavailable(
    service: tuple[Service, str], call: Any, method: str, called: str
) -> None:
    servicer, _ = service
    servicer.errors = [UnavailableError("STOPPING", "the server is stopping")]
    call(method, b"image")
    assert servicer.calls == [called] * 2


@pytest.mark.parametrize("error", [AWAY, UnavailableError("UNAVAILABLE", "the connection broke")])
def test_a_delete_whose_response_was_lost_counts_the_images_that_it_deleted(
    error: ServiceError, service: tuple[Service, str], call: Any
) -> None:
    servicer, _ = service
    servicer.late_errors = [error]
    assert call("delete", "c", ["a", "b", "nobody"]) == 2
    assert (servicer.ids, servicer.calls) == ({"c"}, ["DeleteImages"] * 2)


def test_a_delete_that_failed_before_it_began_counts_the_images_that_it_deleted(
    service: tuple[Service, str], call: Any
) -> None:
    servicer, _ = service
    servicer.errors = [AWAY, BUSY]
    assert call("delete", "c", ["a", "b", "nobody"]) == 2
    assert servicer.ids == {"c"}


def test_a_delete_is_not_repeated_after_an_error_that_cannot_pass(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.errors = [InternalError("INTERNAL", "broken")]
    with pytest.raises(InternalError) as caught:
        call("delete", "c", ["a"])
    assert caught.value.metadata["deleted_count"] == "0"
    assert servicer.calls == ["DeleteImages"]


EXISTS = AlreadyExistsError("COLLECTION_EXISTS", "it exists")


def test_a_collection_that_another_client_deletes_meanwhile_is_created(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.errors = [EXISTS]
    servicer.collections = [None]
    made: Collection = call("create_collection", "c", dimension=2, fingerprint="f", exist_ok=True)
    assert made.name == "c"
    assert servicer.calls == ["CreateCollection", "GetCollection", "CreateCollection"]


def test_creating_and_deleting_without_end_is_an_error(service: tuple[Service, str], call: Any) -> None:
    servicer, _ = service
    servicer.collections = [None] * 5
    servicer.errors = [error for _ in range(5) for error in (EXISTS, NotFoundError("COLLECTION_NOT_FOUND", "gone"))]
    with pytest.raises(NotFoundError):
        call("create_collection", "c", dimension=2, fingerprint="f", exist_ok=True)
    assert len(servicer.calls) == 10
