"""The vector of a query: given, stored, embedded, or combined from examples."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from grpc_kit.server import stages
from search_service.core import checks, vector_checks
from search_service.core.examples import vector_of_examples
from search_service.core.ports import Embedder, VectorStore
from search_service.core.read_images import image_not_found
from search_service.core.searches import Example, Examples
from search_service.core.types import (
    WHOLE_IMAGE,
    Collection,
    Consistency,
    Embedding,
    EncodedImage,
    Region,
    Vector,
    View,
)


@dataclass(frozen=True)
class QueryVectors:
    """Find the vectors of queries to one collection."""

    store: VectorStore
    embedder: Embedder
    collection: Collection
    consistency: Consistency
    deadline: Deadline

    async def of(self, query: Example | Examples, *, auto_crop: bool = False) -> tuple[Vector, Region | None]:
        """Return the vector of a query, float32[D], and the part of a query image that was used.

        With `auto_crop`, that is the most salient part of the image. Raises ServiceError.
        """
        if isinstance(query, EncodedImage):
            return await self._of_image(query, auto_crop=auto_crop)
        if not isinstance(query, Examples):
            return await self._vector(query, "query"), None
        positive = await self._vectors(query.positive, "query.examples.positive")
        negative = await self._vectors(query.negative, "query.examples.negative")
        return vector_of_examples(positive, negative, self.collection.metric), None

    async def _of_image(self, image: EncodedImage, *, auto_crop: bool) -> tuple[Vector, Region]:
        if not auto_crop:
            return (await self._embed(image, "query"))[0].values, image.region or WHOLE_IMAGE
        whole, salient = await self._embed(image, "query")
        if salient in (None, WHOLE_IMAGE):
            return whole.values, WHOLE_IMAGE
        return (await self._embed(replace(image, region=salient), "query"))[0].values, salient

    async def _vectors(self, examples: Sequence[Example], field: str) -> list[Vector]:
        return await asyncio.gather(
            *(self._vector(example, f"{field}[{position}]") for position, example in enumerate(examples))
        )

    async def _vector(self, example: Example, field: str) -> Vector:
        """Return the vector of an image, a stored image or an embedding; `field` is its path in the request."""
        if isinstance(example, Embedding):
            vector_checks.check_embedding(example, self.collection, f"{field}.embedding")
            return example.values
        if isinstance(example, EncodedImage):
            return (await self._embed(example, field))[0].values
        field = f"{field}.image_id"
        checks.check_id(example.image_id, field)
        found = await self.store.get(self.collection, [example.image_id], View.VECTOR, self.consistency, self.deadline)
        if not found or found[0].vector is None:
            raise image_not_found(self.collection.name, example.image_id, field)
        return self._checked(found[0].vector, example.image_id, field)

    def _checked(self, vector: Vector, image_id: str, field: str) -> Vector:
        """Return a stored vector. Raises FailedPreconditionError if another program stored an invalid one."""
        try:
            vector_checks.check_values(vector, self.collection, field)
        except InvalidArgumentError as error:
            raise FailedPreconditionError(
                "STORED_VECTOR_INVALID",
                f"the stored vector of image {checks.shown(image_id)} is invalid ({error.message}); write the image "
                "again",
                field=field,
                metadata={"collection": self.collection.name},
            ) from None
        return vector

    async def _embed(self, image: EncodedImage, field: str) -> tuple[Embedding, Region | None]:
        """Embed an image with the model of the collection, and check that the model is still the same.

        In a collection with regions, also return the salient box of the image.
        """
        salient_box = None
        require_model(self.collection, f"{field}.image")
        began = time.monotonic()
        try:
            if self.collection.max_regions:
                # The vectors of `embed` have another fingerprint.
                regions = await self.embedder.embed_regions(image, self.collection.model, 0, self.deadline)
                embedding, salient_box = regions.embedding, regions.salient_box
            else:
                embedding = await self.embedder.embed(image, self.collection.model, self.deadline)
            stages.record("embed", began, time.monotonic())
        except NotFoundError as error:
            raise model_gone(self.collection, error, f"{field}.image") from None
        except InvalidArgumentError as error:
            raise error.within(field) from None
        vector_checks.check_embedded(embedding, self.collection, f"{field}.image")
        return embedding, salient_box


def require_model(collection: Collection, field: str) -> None:
    """Raise FailedPreconditionError if the collection has no model that can embed the image in `field`."""
    if not collection.model:
        raise FailedPreconditionError(
            "COLLECTION_WITHOUT_MODEL",
            f"{field} is an image, and collection {collection.name} has no model: its vectors "
            f"({collection.fingerprint!r}) come from elsewhere. Use a vector or an id instead",
            field=field,
            metadata={"collection_fingerprint": collection.fingerprint},
        )


def model_gone(collection: Collection, error: NotFoundError, field: str) -> FailedPreconditionError:
    """Return the error for a collection whose model the embedder no longer serves."""
    return FailedPreconditionError(
        "EMBEDDING_MISMATCH",
        f"collection {collection.name} was created with model {collection.model}: {error.message}",
        field=field,
        metadata={"collection_fingerprint": collection.fingerprint, "model": collection.model},
    )
