"""Create the new collection of a reindex."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace

from grpc_kit.errors import AlreadyExistsError, FailedPreconditionError, NotFoundError
from imagesearch_client.client import Client
from imagesearch_client.types import Collection, Index, IndexParameters, Metric


@dataclass(frozen=True)
class Change:
    """Settings that differ in the new collection. None keeps the value of the old collection."""

    model: str | None = None
    index: Index | None = None
    index_parameters: IndexParameters | None = None
    metric: Metric | None = None
    max_regions: int | None = None

    def has_same_vectors(self, source: Collection) -> bool:
        """Return whether the vectors of a collection stay in their space: with or without regions, as before."""
        regions = source.max_regions if self.max_regions is None else self.max_regions
        return self.model is None and bool(regions) == bool(source.max_regions)


def check_aliases(client: Client, aliases: Iterable[str]) -> None:
    """Check that aliases can be moved, before anything is copied. Raises ServiceError."""
    for alias in aliases:
        with suppress(NotFoundError):
            if client.get_collection(alias).name == alias:
                raise AlreadyExistsError(
                    "COLLECTION_EXISTS",
                    f"{alias} is a collection, so it cannot be an alias; choose another alias",
                    field="alias",
                )


def create_new_collection(client: Client, source: Collection, name: str, change: Change) -> Collection:
    """Create the new collection, or return it if an earlier run has created it.

    Raises AlreadyExistsError if `name` is a collection with other settings, and the errors of the service.
    """
    same_index = change.index in (None, source.index)
    try:
        return client.create_collection(
            name,
            model=source.model if change.model is None else change.model,
            # The service sets the dimension and the fingerprint of another model, or of regions.
            dimension=source.dimension if change.has_same_vectors(source) else 0,
            fingerprint=source.fingerprint if change.has_same_vectors(source) else "",
            metric=change.metric or source.metric,
            index=change.index or source.index,
            index_parameters=change.index_parameters or (source.index_parameters if same_index else None),
            consistency=source.consistency,
            ttl=source.ttl,
            max_regions=source.max_regions if change.max_regions is None else change.max_regions,
            description=source.description,
            labels=source.labels,
        )
    except AlreadyExistsError as error:
        found = client.get_collection(name)
        # The service replaces the model's name by the embedder's spelling of the name.
        model = change.model if change.model is None else error.metadata.get("model", change.model)
        if not _is_copy(source, found, replace(change, model=model)):
            raise
        try:
            client.start_reindex(source.name, name)
        except FailedPreconditionError:
            raise error from None
        return found


def _is_copy(source: Collection, found: Collection, change: Change) -> bool:
    """Return whether a collection has the settings that `create_new_collection` would choose."""
    if found.max_regions != (source.max_regions if change.max_regions is None else change.max_regions):
        return False
    if change.has_same_vectors(source) and (found.model, found.fingerprint) != (source.model, source.fingerprint):
        return False
    same_index = change.index in (None, source.index)
    parameters = change.index_parameters or (source.index_parameters if same_index else found.index_parameters)
    return (
        found.model == (source.model if change.model is None else change.model)
        and found.metric == (change.metric or source.metric)
        and found.index == (change.index or source.index)
        and found.index_parameters == parameters
        and (found.consistency, found.ttl) == (source.consistency, source.ttl)
    )
