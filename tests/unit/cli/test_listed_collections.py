"""Lists of collections, while another caller deletes one of them."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from imagesearch.search.v1 import collection_pb2, collection_pb2_grpc, image_pb2, image_pb2_grpc
from typer.testing import CliRunner

from grpc_kit.errors import NotFoundError
from grpc_kit.status import DETAILS_KEY, code_of, to_status
from imagesearch_cli.app import app
from imagesearch_cli.collections import counted_collections
from imagesearch_client import Client


class Service(collection_pb2_grpc.CollectionServiceServicer, image_pb2_grpc.ImageServiceServicer):
    """Lists the collections "gone", "kept" and "last". "gone" is deleted right after that."""

    def ListCollections(
        self, request: collection_pb2.ListCollectionsRequest, context: grpc.ServicerContext
    ) -> collection_pb2.ListCollectionsResponse:
        response = collection_pb2.ListCollectionsResponse()
        for name in ("gone", "kept", "last"):
            response.collections.add(
                name=name,
                metric=collection_pb2.METRIC_COSINE,
                index=collection_pb2.Index(type=collection_pb2.INDEX_TYPE_FLAT),
                consistency=collection_pb2.CONSISTENCY_BOUNDED,
            )
        return response

    def CountImages(
        self, request: image_pb2.CountImagesRequest, context: grpc.ServicerContext
    ) -> image_pb2.CountImagesResponse:
        if request.collection == "gone":
            error = NotFoundError("COLLECTION_NOT_FOUND", "there is no collection called gone", field="collection")
            context.set_trailing_metadata(((DETAILS_KEY, to_status(error, "test").SerializeToString()),))
            context.abort(code_of(error), error.message)
        return image_pb2.CountImagesResponse(count=len(request.collection))


@pytest.fixture
def address() -> Iterator[str]:
    server, service = grpc.server(ThreadPoolExecutor(2)), Service()  # type: ignore[abstract]
    collection_pb2_grpc.add_CollectionServiceServicer_to_server(service, server)
    image_pb2_grpc.add_ImageServiceServicer_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


def test_a_collection_that_is_deleted_meanwhile_is_left_out(address: str) -> None:
    with Client(address) as client:
        counted = counted_collections(client)
    assert [(collection.name, count) for collection, count in counted] == [("kept", 4), ("last", 4)]
    result = CliRunner(env={"IMAGESEARCH_TARGET": address}).invoke(app, ["collections", "list", "--json"])
    assert result.exit_code == 0, result.output
    assert [(each["name"], each["images"]) for each in json.loads(result.output)] == [("kept", 4), ("last", 4)]
