"""Move aliases from a collection to a copy of it without losing a write.

A client builds the copy. After `start`, deletions are applied to both collections. `hold` makes writers wait while the
client copies the last changes, and `finish` moves the aliases. A hold ends by itself, so a client that crashes does not
block writers for long. The clocks of the replicas must agree within `MARGIN`.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from grpc_kit.deadline import Deadline
from grpc_kit.errors import FailedPreconditionError, NotFoundError
from search_service.core import checks
from search_service.core.collection_cache import CollectionCache
from search_service.core.collections import Collections
from search_service.core.ports import VectorStore
from search_service.core.types import Alias, Collection, Consistency, Reindex

MIN_HOLD, MAX_HOLD = timedelta(seconds=5), timedelta(seconds=60)
# Remaining time of a hold that an operation needs.
MARGIN = timedelta(seconds=2)


class Reindexes:
    """The reindexes of all collections of a store."""

    def __init__(
        self, store: VectorStore, collections: Collections, cache: CollectionCache, now: Callable[[], datetime]
    ) -> None:
        """`cache` is cleared after each change; `now` returns the time in UTC."""
        self._store = store
        self._collections = collections
        self._cache = cache
        self._now = now

    async def start(self, source: str, target: str, deadline: Deadline) -> tuple[str, Reindex, bool]:
        """Start to apply deletions from a collection to its copy as well.

        Return the collection's own name, the reindex, and whether an earlier reindex is resumed.

        Raises InvalidArgumentError, NotFoundError, and FailedPreconditionError if another copy is being built or the
        target has images of its own.
        """
        old = await self._find(source, "source", deadline)
        new = await self._find(target, "target", deadline)
        if new.name != target or new.name == old.name:
            raise _refused(
                "REINDEX_INVALID", f"target is {target}; it must be another collection, and not an alias", "target"
            )
        running = old.reindex
        await self._require_unused(old, new, deadline)
        if running is not None and (running.target, running.target_create_time) == new.identity:
            resumed = replace(running, hold_until=None, moving=False)
            await self._store.set_reindex(old, resumed, deadline)
            return old.name, resumed, True
        if running is not None and await self._find_copy(running, deadline):
            raise _refused(
                "REINDEX_RUNNING",
                f"{old.name} is being copied to {running.target}; finish that, or delete {running.target} first",
                "source",
            )
        if await self._store.count(new, None, Consistency.STRONG, deadline):
            raise _refused(
                "TARGET_NOT_EMPTY", f"target {target} has images; it must be empty when the reindex starts", "target"
            )
        begun = Reindex(new.name, new.create_time, self._now())
        await self._store.set_reindex(old, begun, deadline)
        return old.name, begun, False

    async def hold(self, source: str, duration: timedelta, deadline: Deadline) -> Reindex:
        """Make the writers of a collection wait for a duration; a duration of 0 ends the hold.

        When this returns, no write is acknowledged until the hold ends. Raises InvalidArgumentError, NotFoundError, and
        FailedPreconditionError if no copy is being built.
        """
        if duration and not MIN_HOLD <= duration <= MAX_HOLD:
            raise checks.invalid_hold(duration, MIN_HOLD, MAX_HOLD)
        old, running = await self._running(source, deadline, moving=not duration)
        held = replace(running, hold_until=self._now() + duration if duration else None)
        await self._store.set_reindex(old, held, deadline)
        return held

    async def finish(
        self, source: str, aliases: Sequence[str], deadline: Deadline, *, allow_fewer: bool
    ) -> list[tuple[Alias, str]]:
        """Move aliases to the copy and end the hold; return each alias with its previous collection.

        Raises InvalidArgumentError, NotFoundError, and FailedPreconditionError if writes are no longer held, or if the
        copy has another number of images. `allow_fewer` allows fewer images, but not none.
        """
        for position, name in enumerate(aliases):
            checks.check_collection_name(name, f"aliases[{position}]")
        old, running = await self._running(source, deadline)
        self._require_hold(old, running)
        for position, name in enumerate(aliases):
            await self._collections.alias_target(name, f"aliases[{position}]", deadline)
        await self._require_complete(old, running, deadline, allow_fewer=allow_fewer)
        # Deletions from the old collection must not reach the copy once the copy is in use.
        moving = replace(running, moving=True, hold_until=self._now() + MAX_HOLD)
        await self._store.set_reindex(old, moving, deadline)
        # The new hold must have started before the client's hold ended.
        self._require_hold(old, running)
        try:
            moved = [await self._collections.set_alias(Alias(name, running.target), deadline) for name in aliases]
        finally:
            self._cache.clear()
        await self._store.set_reindex(old, None, deadline)
        return moved

    async def cancel(self, source: str, deadline: Deadline) -> None:
        """End a reindex and its hold; the copy stays. Raises InvalidArgumentError, NotFoundError."""
        collection = await self._find(source, "source", deadline)
        if collection.reindex is not None:
            await self._store.set_reindex(collection, None, deadline)

    async def _require_unused(self, old: Collection, new: Collection, deadline: Deadline) -> None:
        """Raise FailedPreconditionError if an alias points at the copy, which is then in use."""
        users = [alias.name for alias in await self._store.list_aliases(deadline) if alias.collection == new.name]
        if not users:
            return
        if old.reindex is not None and old.reindex.target == new.name:
            # `finish` moved the aliases and was stopped before it ended the reindex.
            await self._store.set_reindex(old, None, deadline)
        raise _refused(
            "REINDEX_INVALID",
            f"target {new.name} is in use: {', '.join(users)} points at it; choose another target",
            "target",
        )

    async def _find(self, name: str, field: str, deadline: Deadline) -> Collection:
        checks.check_collection_name(name, field)
        try:
            return await self._store.get_collection(name, deadline)
        except NotFoundError as error:
            error.field = field
            raise

    async def _running(self, source: str, deadline: Deadline, *, moving: bool = False) -> tuple[Collection, Reindex]:
        """Return a collection and its reindex; `moving` allows a reindex whose aliases are moving."""
        collection = await self._find(source, "source", deadline)
        if collection.name != source:
            raise _refused(
                "NAME_IS_ALIAS",
                f"source is {source}, an alias of {collection.name}; use the name of the collection",
                "source",
            )
        if collection.reindex is None or (collection.reindex.moving and not moving):
            # The move failed. Some deletions may not have reached the copy, so a new `start` must compare all images.
            raise _refused("REINDEX_MISSING", f"no reindex of {source} runs; start a reindex first", "source")
        return collection, collection.reindex

    async def _find_copy(self, running: Reindex, deadline: Deadline) -> Collection | None:
        """Return the copy; None if it was deleted, also if another collection has its name now."""
        try:
            found = await self._store.get_collection(running.target, deadline)
        except NotFoundError:
            return None
        return found if found.identity == (running.target, running.target_create_time) else None

    def _require_hold(self, source: Collection, running: Reindex) -> None:
        if not running.holds(self._now() + MARGIN):
            raise _refused(
                "HOLD_EXPIRED",
                f"writes to {source.name} are no longer held; hold them again, and copy the latest changes",
                "source",
            )

    async def _require_complete(
        self, source: Collection, running: Reindex, deadline: Deadline, *, allow_fewer: bool
    ) -> None:
        """Raise FailedPreconditionError if the copy does not have all images of the collection."""
        copy = await self._find_copy(running, deadline)
        if copy is None:
            raise _refused(
                "COLLECTION_NOT_FOUND", f"the copy {running.target} was deleted; start the reindex again", "source"
            )
        old, new = [await self._store.count(counted, None, Consistency.STRONG, deadline) for counted in (source, copy)]
        # With a time to live, images of the collection expire before those of the copy.
        more = new > old and source.ttl is None
        if more or (new < old and not (allow_fewer and new)):
            raise FailedPreconditionError(
                "REINDEX_INCOMPLETE",
                f"{running.target} has {new} images and {source.name} has {old}; copy the missing images, or set "
                "allow_fewer, which allows fewer images but not none",
                field="source",
                metadata={"source_count": str(old), "target_count": str(new)},
            )


def _refused(reason: str, message: str, field: str) -> FailedPreconditionError:
    return FailedPreconditionError(reason, message, field=field)
