# Generated from aio/embeddings.py by python -m codegen.blocking_client; change that file.
"""The calls of the embedder service."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.errors import ServiceError, UnavailableError
from grpc_kit.status import from_status
from imagesearch_client.blocking.connection import Connection, asks_to_wait
from imagesearch_client.blocking.outgoing import Outgoing
from imagesearch_client.from_messages import embedding_from, image_regions_from, model_from
from imagesearch_client.region_messages import region_options_to
from imagesearch_client.threads import Items, directly
from imagesearch_client.to_messages import encoded_image_to
from imagesearch_client.types import Embedding, ImageContent, ImageFile, ImageRegions, Model, Region

Vector: TypeAlias = tuple[int, Embedding | ServiceError]
Regions: TypeAlias = tuple[int, ImageRegions | ServiceError]


class EmbedderCalls(Connection):
    """The calls of the embedder service."""

    @cached_property
    def _embedder(self) -> "embedder_pb2_grpc.EmbedderServiceStub":
        return embedder_pb2_grpc.EmbedderServiceStub(self._channel)

    def list_models(self) -> list[Model]:
        """Return the models that the embedder serves, ordered by name."""
        response = self._call(self._embedder.ListModels, embedder_pb2.ListModelsRequest(), asks_to_wait)
        return list(map(model_from, response.models))

    def get_model(self, name: str = "") -> Model:
        """Return a model by its name in any spelling, or the default model."""
        request = embedder_pb2.GetModelRequest(name=name)
        return model_from((self._call(self._embedder.GetModel, request, asks_to_wait)).model)

    def embed(self, image: ImageContent | ImageFile, *, model: str = "", bulk: bool = False) -> Embedding:
        """Return the vector of an image.

        Args:
            image: the bytes of an image file, or its path. `ImageFile(image, region)` embeds a region of it.
            model: the name of a model; by default the embedder's default model.
            bulk: uses the bulk lane, which lets interactive calls go first and waits instead of refusing the call.
        """
        encoded = directly(encoded_image_to, image)
        if bulk:
            stream_request = embedder_pb2.EmbedStreamRequest(model=model, image=encoded)
            return embedding_from((self._call(self._embed_in_bulk, stream_request, asks_to_wait)).embedding)
        request = embedder_pb2.EmbedRequest(model=model, image=encoded)
        return embedding_from((self._call(self._embedder.Embed, request, asks_to_wait)).embedding)

    def embed_regions(
        self,
        image: ImageContent | ImageFile,
        *,
        max_regions: int = 0,
        boxes: Sequence[Region] = (),
        model: str = "",
        bulk: bool = False,
    ) -> ImageRegions:
        """Return the vectors of an image and of regions of it.

        Args:
            image: as in `embed`. With `ImageFile(image, region)`, all boxes lie within that region.
            max_regions: maximum number of regions that the embedder proposes, 0 to 64.
            boxes: boxes to embed, at most 64; fractions of the whole image.
            model: the name of a model whose input is native and whose head is avg, max or gem.
            bulk: as in `embed`.
        """
        encoded = directly(encoded_image_to, image)
        options = region_options_to(max_regions, boxes)
        if bulk:
            stream_request = embedder_pb2.EmbedStreamRequest(model=model, image=encoded, regions=options)
            return image_regions_from((self._call(self._embed_in_bulk, stream_request, asks_to_wait)).regions)
        request = embedder_pb2.EmbedRegionsRequest(model=model, image=encoded, options=options)
        return image_regions_from((self._call(self._embedder.EmbedRegions, request, asks_to_wait)).regions)

    def _embed_in_bulk(
        self,
        request: embedder_pb2.EmbedStreamRequest,
        timeout: float,
    ) -> embedder_pb2.EmbedStreamResponse:
        for response in self._embedder.EmbedStream(iter([request]), timeout=timeout):
            if response.WhichOneof("result") == "error":
                raise from_status(response.error)
            return response
        raise UnavailableError("UNAVAILABLE", "the embedder ended the stream without a response", retry_after=0.0)

    def embed_many(self, images: Items[ImageContent | ImageFile], *, model: str = "") -> Iterator[Vector]:
        """Embed many images over one stream, in the bulk lane.

        Yield the number of each image, and its vector or its error, in any order. The client reads `images` in another
        thread, as fast as the embedder works. What `images` raises is raised here after the results of the images
        before.

        If the embedder becomes unavailable, embed the images without a result again. One stream goes to one replica.
        """
        outgoing: Outgoing[ImageContent | ImageFile, embedder_pb2.EmbedStreamRequest, Vector] = Outgoing(
            images,
            lambda number, image: embedder_pb2.EmbedStreamRequest(
                request_id=str(number), model=model, image=encoded_image_to(image)
            ),
            lambda number, _, error: (number, error),
        )
        return outgoing.results(self._embedder.EmbedStream, _vector_from)

    def embed_many_regions(
        self, images: Items[ImageContent | ImageFile], *, max_regions: int, model: str = ""
    ) -> Iterator[Regions]:
        """Embed many images with at most `max_regions` regions each, as `embed_many` does."""
        options = region_options_to(max_regions)
        outgoing: Outgoing[ImageContent | ImageFile, embedder_pb2.EmbedStreamRequest, Regions] = Outgoing(
            images,
            lambda number, image: embedder_pb2.EmbedStreamRequest(
                request_id=str(number), model=model, image=encoded_image_to(image), regions=options
            ),
            lambda number, _, error: (number, error),
        )
        return outgoing.results(self._embedder.EmbedStream, _regions_from)


def _vector_from(response: embedder_pb2.EmbedStreamResponse) -> Vector:
    if response.WhichOneof("result") == "error":
        return int(response.request_id), from_status(response.error)
    return int(response.request_id), embedding_from(response.embedding)


def _regions_from(response: embedder_pb2.EmbedStreamResponse) -> Regions:
    if response.WhichOneof("result") == "error":
        return int(response.request_id), from_status(response.error)
    return int(response.request_id), image_regions_from(response.regions)
