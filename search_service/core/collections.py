"""Create, describe and delete collections and aliases."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, InvalidArgumentError, NotFoundError
from search_service.core import checks
from search_service.core.collection_cache import CollectionCache
from search_service.core.ports import Embedder, VectorStore
from search_service.core.types import DEFAULT_INDEX, Alias, Collection, Consistency, EmbedderModel, Index, Metric


@dataclass(frozen=True)
class NewCollection:
    """A new collection as a caller describes it; fields that are empty or 0 get their defaults."""

    name: str
    model: str = ""
    dimension: int = 0
    fingerprint: str = ""
    metric: Metric = Metric.COSINE
    index: Index = DEFAULT_INDEX
    consistency: Consistency = Consistency.BOUNDED
    description: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    ttl: timedelta | None = None
    max_regions: int = 0


class Collections:
    """The collections of a store."""

    def __init__(
        self, store: VectorStore, embedder: Embedder, cache: CollectionCache, now: Callable[[], datetime]
    ) -> None:
        """`cache` is cleared after each change; `now` returns the time in UTC."""
        self._store = store
        self._cache = cache
        self._embedder = embedder
        self._now = now

    async def create(self, wanted: NewCollection, deadline: Deadline, *, validate_only: bool) -> Collection:
        """Create a collection, or only check the request, and return the collection.

        Without a model, but with a dimension and a fingerprint, its vectors come from elsewhere. Raises
        InvalidArgumentError, AlreadyExistsError, FailedPreconditionError, and NotFoundError for the model.
        """
        checks.check_collection_name(wanted.name, "collection.name")
        checks.check_index(wanted.index, "collection.index")
        checks.check_notes(wanted.description, wanted.labels, "collection")
        checks.check_ttl(wanted.ttl, "collection.ttl")
        checks.check_max_regions(wanted.max_regions, "collection.max_regions")
        if wanted.dimension:
            checks.check_dimension(wanted.dimension, "collection.dimension")
        if wanted.fingerprint:
            checks.check_fingerprint(wanted.fingerprint, "collection.fingerprint")
        if wanted.model or not (wanted.dimension and wanted.fingerprint):
            wanted = await self._with_model(wanted, deadline)
        collection = Collection(
            name=wanted.name,
            dimension=wanted.dimension,
            fingerprint=wanted.fingerprint,
            create_time=self._now(),
            model=wanted.model,
            metric=wanted.metric,
            index=wanted.index,
            consistency=wanted.consistency,
            description=wanted.description,
            labels=wanted.labels,
            ttl=wanted.ttl,
            max_regions=wanted.max_regions,
        )
        # The name may be an alias, which not every store checks.
        await self._refuse_existing(collection, deadline)
        if not validate_only:
            await self._store.create_collection(collection, deadline)
        return collection

    async def _with_model(self, wanted: NewCollection, deadline: Deadline) -> NewCollection:
        try:
            model = await self._embedder.model(wanted.model, deadline)
        except NotFoundError as error:
            raise error.within("collection") from None
        if wanted.max_regions:
            model = _for_regions(model)
        _refuse_contradiction(wanted, model)
        return dataclasses.replace(wanted, model=model.name, dimension=model.dimension, fingerprint=model.fingerprint)

    async def _refuse_existing(self, new: Collection, deadline: Deadline) -> None:
        try:
            await self._store.get_collection(new.name, deadline)
        except NotFoundError:
            return
        raise checks.collection_exists(new.name, new.model)

    async def get(self, name: str, deadline: Deadline) -> Collection:
        """Return the collection with a name or an alias. Raises InvalidArgumentError, NotFoundError."""
        checks.check_collection_name(name, "name")
        try:
            return await self._store.get_collection(name, deadline)
        except NotFoundError as error:
            error.field = "name"
            raise

    async def list_collections(self, after: str, limit: int, deadline: Deadline) -> list[Collection]:
        """Return the first `limit` collections, sorted by name, with names greater than `after`."""
        return await self._store.list_collections(after, limit, deadline)

    async def delete(self, name: str, deadline: Deadline) -> None:
        """Delete a collection and its images.

        Raises InvalidArgumentError, NotFoundError, and FailedPreconditionError if the name is an alias or an alias
        points at the collection.
        """
        collection = await self.get(name, deadline)
        if collection.name != name:
            raise FailedPreconditionError(
                "NAME_IS_ALIAS",
                f"name is {name}, an alias of {collection.name}; delete the collection by its own name, or the alias",
                field="name",
                metadata={"collection": collection.name},
            )
        aliases = [alias.name for alias in await self._store.list_aliases(deadline) if alias.collection == name]
        if aliases:
            raise FailedPreconditionError(
                "COLLECTION_HAS_ALIASES",
                f"collection {name} has aliases: {', '.join(aliases)}; move or delete them first",
                field="name",
                metadata={"aliases": ",".join(aliases)},
            )
        try:
            await self._store.delete_collection(collection, deadline)
        finally:
            self._cache.clear()

    async def set_alias(self, alias: Alias, deadline: Deadline) -> tuple[Alias, str]:
        """Create or move an alias; return it, and its previous collection, empty for a new alias.

        Raises InvalidArgumentError, NotFoundError, and AlreadyExistsError if a collection has its name.
        """
        checks.check_collection_name(alias.name, "alias.name")
        checks.check_collection_name(alias.collection, "alias.collection")
        try:
            collection = await self._store.get_collection(alias.collection, deadline)
        except NotFoundError as error:
            error.field = "alias.collection"
            raise
        previous = await self.alias_target(alias.name, "alias.name", deadline)
        alias = Alias(alias.name, collection.name)
        if previous != collection.name:
            try:
                await self._store.set_alias(alias, deadline)
            finally:
                self._cache.clear()
        return alias, previous

    async def alias_target(self, alias: str, field: str, deadline: Deadline) -> str:
        """Return the name of the collection that an alias points at; empty if there is no such alias.

        Raises InvalidArgumentError, and AlreadyExistsError if a collection has the name.
        """
        checks.check_collection_name(alias, field)
        name = await self._own_name(alias, deadline)
        if name == alias:
            taken = checks.collection_exists(alias)
            taken.field = field
            raise taken
        return name

    async def _own_name(self, name: str, deadline: Deadline) -> str:
        """Return the name of the collection with a name or an alias; empty if there is none."""
        try:
            return (await self._store.get_collection(name, deadline)).name
        except NotFoundError:
            return ""

    async def list_aliases(self, collection: str, deadline: Deadline) -> list[Alias]:
        """Return the aliases of a collection, or all for an empty name. Raises InvalidArgumentError, NotFoundError."""
        aliases = await self._store.list_aliases(deadline)
        if not collection:
            return aliases
        checks.check_collection_name(collection, "collection")
        name = (await self._store.get_collection(collection, deadline)).name
        return [alias for alias in aliases if alias.collection == name]

    async def delete_alias(self, name: str, deadline: Deadline) -> None:
        """Delete an alias, never its collection. Raises InvalidArgumentError, NotFoundError."""
        checks.check_collection_name(name, "name")
        if await self._own_name(name, deadline) in ("", name):
            raise NotFoundError("ALIAS_NOT_FOUND", f"there is no alias called {name}", field="name")
        try:
            await self._store.delete_alias(name, deadline)
        finally:
            self._cache.clear()


def _for_regions(model: EmbedderModel) -> EmbedderModel:
    """Return a model with the fingerprint of regions. Raises InvalidArgumentError if it cannot embed regions."""
    if not model.region_fingerprint:
        raise InvalidArgumentError(
            "REGIONS_UNSUPPORTED",
            f"collection.model is {model.name}, which has head {model.head} and input {model.input}; regions need a "
            "head of avg, max or gem and input native, such as vgg16-max-native",
            field="collection.model",
            metadata={"model": model.name},
        )
    return dataclasses.replace(model, fingerprint=model.region_fingerprint)


def _refuse_contradiction(wanted: NewCollection, model: EmbedderModel) -> None:
    """Raise FailedPreconditionError if the caller's dimension or fingerprint is not that of the model."""
    for name in ("dimension", "fingerprint"):
        stated, true = getattr(wanted, name), getattr(model, name)
        if stated and stated != true:
            raise FailedPreconditionError(
                "EMBEDDING_MISMATCH",
                f"collection.{name} is {stated!r}; model {model.name} has {true!r}. Leave it out; or, for vectors from "
                "elsewhere, set dimension and fingerprint and leave out the model",
                field=f"collection.{name}",
                metadata={"model": model.name, name: str(true)},
            )
