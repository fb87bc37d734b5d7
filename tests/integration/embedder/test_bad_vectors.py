"""The embedder sends no vector that the contract does not allow."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import grpc
import numpy as np
import pytest
from google.rpc import status_pb2
from imagesearch.embedder.v1 import embedder_pb2_grpc
from numpy.typing import NDArray

from benchmarks.waiting_embedder import INFO
from embedder_service.bootstrap import serve
from embedder_service.core.types import ImageVectors, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
from grpc_kit.status import from_status
from search_service.adapters.embedder_client import EmbedderClient
from search_service.core.types import EncodedImage
from tests.integration.embedder.helpers import answers, embed_request, item, plain_image, status_of

DIMENSION = 4
GOOD: NDArray[np.float32] = np.array([0.5, 0.5, 0.5, 0.5], np.float32)
INTERNAL, INVALID = grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT
# What the network gives for the images of a colour, and how these are answered.
BAD: Mapping[int, tuple[list[float], grpc.StatusCode, str, str]] = {
    1: ([0.5, np.nan, 0.5, 0.5], INTERNAL, "VECTOR_INVALID", "component 1 is nan; it must be finite"),
    2: ([np.inf, 0, 0, 0], INTERNAL, "VECTOR_INVALID", "component 0 is inf; it must be finite"),
    3: ([0, 0, 0, 0], INVALID, "IMAGE_WITHOUT_VECTOR", "the vector of image.content is all zero with model odd"),
    4: ([3, 4, 0, 0], INTERNAL, "VECTOR_INVALID", "its length is 5; it must be 1"),
    5: ([1e-30, 0, 0, 0], INTERNAL, "VECTOR_INVALID", "its length is 1e-30; it must be 1"),
    6: ([1e30, 0, 0, 0], INTERNAL, "VECTOR_INVALID", "its length is 1e+30; it must be 1"),
}


class OddModel:
    """Gives images of some colours vectors that are none."""

    info = dataclasses.replace(INFO, name="odd", dimension=DIMENSION)

    def __init__(self, change: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda vectors: vectors) -> None:
        self.sizes: list[int] = []
        self._change = change

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        self.sizes.append(len(pixels))
        colours = pixels[:, 0, 0, 0].tolist()
        rows = [BAD[colour][0] if colour in BAD else GOOD for colour in colours]
        return list(map(ImageVectors, self._change(np.array(rows, np.float32))))


def assert_refused(status: status_pb2.Status, code: grpc.StatusCode, reason: str, said: str) -> None:
    error = from_status(status)
    assert (status.code, error.reason, error.metadata["model"]) == (code.value[0], reason, "odd")
    assert said in error.message
    # Another attempt would give the same vector.
    assert error.retry_after is None
    assert error.field == ("image.content" if reason == "IMAGE_WITHOUT_VECTOR" else "")


async def test_a_bad_vector_fails_only_its_own_image(capsys: pytest.CaptureFixture[str]) -> None:
    model = OddModel()
    settings = EmbedderSettings(listen_address="127.0.0.1:0", cache_vectors=100)
    async with serve([model], settings) as address, grpc.aio.insecure_channel(address) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        # Twice: nothing of a refusal is kept.
        for _ in range(2):
            found = {
                one.request_id: one for one in await answers(stub, [item(str(n), plain_image(n)) for n in range(20)])
            }
            for number in range(20):
                answer = found[str(number)]
                if number in BAD:
                    assert_refused(answer.error, *BAD[number][1:])
                else:
                    assert answer.embedding.values == GOOD.tolist()
        for number, (_, code, reason, said) in BAD.items():
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Embed(embed_request(plain_image(number)))
            assert refused.value.code() is code
            assert_refused(status_of(refused.value), code, reason, said)
    # They stood in batches together.
    assert max(model.sizes) > 1
    log = capsys.readouterr().out
    assert log.count("a vector is not sent") == 3 * 5
    assert log.count("an image has no vector") == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda vectors: vectors[:, :3], "it is float32[3]; it must be float32[4]"),
        (lambda vectors: vectors.astype(np.float64), "it is float64[4]; it must be float32[4]"),
        (lambda vectors: vectors[..., np.newaxis], "it is float32[4, 1]; it must be float32[4]"),
    ],
    ids=["dimension", "dtype", "shape"],
)
async def test_vectors_of_another_shape_or_type_are_refused(
    change: Callable[[NDArray[np.float32]], NDArray[np.float32]], said: str
) -> None:
    settings = EmbedderSettings(listen_address="127.0.0.1:0")
    async with serve([OddModel(change)], settings) as address, grpc.aio.insecure_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await embedder_pb2_grpc.EmbedderServiceStub(channel).Embed(embed_request(plain_image(50)))
        assert_refused(status_of(refused.value), INTERNAL, "VECTOR_INVALID", said)


async def test_the_search_service_receives_the_reason_in_both_lanes() -> None:
    settings = EmbedderSettings(listen_address="127.0.0.1:0")
    async with serve([OddModel()], settings) as address, grpc.aio.insecure_channel(address) as channel:
        client = EmbedderClient(channel, address, 10.0, 10**6)
        deadline = Deadline.after(30)
        async with client.bulk(deadline) as bulk:
            for number, reason in ((1, "VECTOR_INVALID"), (3, "IMAGE_WITHOUT_VECTOR")):
                image = EncodedImage(plain_image(number))
                for call in (client.embed(image, "", deadline), bulk.embed(image, "")):
                    with pytest.raises(ServiceError) as refused:
                        await call
                    assert refused.value.reason == reason
