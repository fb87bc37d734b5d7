"""The moves of aliases from a collection to a copy of it, without the loss of a write.

A client builds the copy. From `start` on deletes are applied to both collections. `hold` makes writers wait while the
client copies the last changes, and `finish` moves the aliases. A hold ends by itself, so that a client that is gone
blocks nobody for long. The clocks of the replicas should agree within `MARGIN`.
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
# What must be left of a hold when it is relied upon.
MARGIN = timedelta(seconds=2)


class Reindexes:
    """The reindexes of one store's collections."""

    def __init__(
        self, store: VectorStore, collections: Collections, cache: CollectionCache, now: Callable[[], datetime]
    ) -> None:
        """`known` forgets what changes; `now` returns the time in UTC."""
        self._store = store
        self._collections = collections
        self._cache = cache
        self._now = now

    async def start(self, source: str, target: str, deadline: Deadline) -> tuple[str, Reindex, bool]:
        """Begin to apply the deletes of a collection to its copy.

        Return the collection's own name, what is known of the copy, and whether it had begun before.

        Raises InvalidArgumentError, NotFoundError, FailedPreconditionError if another copy is being built or the target
        holds images of its own.
        """
        old = await self._find(source, "source", deadline)
        new = await self._find(target, "target", deadline)
        if new.name != target or new.name == old.name:
            raise _refused("REINDEX_INVALID", f"target {target} must be another collection, and not an alias", "target")
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
            raise _refused("TARGET_NOT_EMPTY", f"{target} holds images; a copy begins empty", "target")
        begun = Reindex(new.name, new.create_time, self._now())
        await self._store.set_reindex(old, begun, deadline)
        return old.name, begun, False

    async def hold(self, source: str, duration: timedelta, deadline: Deadline) -> Reindex:
        """Make the writers of a collection wait, at most for a duration; 0 lets them go on.

        When this returns, no write is acknowledged until the hold ends. Raises InvalidArgumentError, NotFoundError,
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
        """Point aliases at the copy and let writers go on; return each alias, and where it pointed before.

        Raises InvalidArgumentError, NotFoundError, FailedPreconditionError if writes are not held any more, or if the
        copy has other images than the collection: fewer only if that is allowed, none never.
        """
        for position, name in enumerate(aliases):
            checks.check_collection_name(name, f"aliases[{position}]")
        old, running = await self._running(source, deadline)
        self._require_hold(old, running)
        for position, name in enumerate(aliases):
            await self._collections.pointed_at(name, f"aliases[{position}]", deadline)
        await self._require_complete(old, running, deadline, allow_fewer=allow_fewer)
        # A delete by the collection's own name must not reach the copy once the copy is in use.
        moving = replace(running, moving=True, hold_until=self._now() + MAX_HOLD)
        await self._store.set_reindex(old, moving, deadline)
        # The longer hold must have begun before the client's ended.
        self._require_hold(old, running)
        try:
            moved = [await self._collections.set_alias(Alias(name, running.target), deadline) for name in aliases]
        finally:
            self._cache.clear()
        await self._store.set_reindex(old, None, deadline)
        return moved

    async def cancel(self, source: str, deadline: Deadline) -> None:
        """Forget the copy of a collection, and let writers go on. Raises InvalidArgumentError, NotFoundError."""
        collection = await self._find(source, "source", deadline)
        if collection.reindex is not None:
            await self._store.set_reindex(collection, None, deadline)

    async def _require_unused(self, old: Collection, new: Collection, deadline: Deadline) -> None:
        """Raise FailedPreconditionError if an alias points at the copy: nothing may be deleted from it any more."""
        users = [alias.name for alias in await self._store.list_aliases(deadline) if alias.collection == new.name]
        if not users:
            return
        if old.reindex is not None and old.reindex.target == new.name:
            # The move was made, and what made it was stopped before it could say so.
            await self._store.set_reindex(old, None, deadline)
        raise _refused("REINDEX_INVALID", f"{', '.join(users)} points at {new.name} already", "target")

    async def _find(self, name: str, field: str, deadline: Deadline) -> Collection:
        checks.check_collection_name(name, field)
        try:
            return await self._store.get_collection(name, deadline)
        except NotFoundError as error:
            error.field = field
            raise

    async def _running(self, source: str, deadline: Deadline, *, moving: bool = False) -> tuple[Collection, Reindex]:
        """Return a collection and the copy that is being built of it; `moving` allows one whose aliases move."""
        collection = await self._find(source, "source", deadline)
        if collection.name != source:
            raise _refused("NAME_IS_ALIAS", f"{source} is an alias of {collection.name}; name the collection", "source")
        if collection.reindex is None or (collection.reindex.moving and not moving):
            # After a move that failed, deletes may be missing in the copy: `start`, and compare all images.
            raise _refused("REINDEX_MISSING", f"no copy of {source} is being built; start a reindex first", "source")
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
                f"writes to {source.name} are not held any more; hold them and copy what changed",
                "source",
            )

    async def _require_complete(
        self, source: Collection, running: Reindex, deadline: Deadline, *, allow_fewer: bool
    ) -> None:
        """Raise FailedPreconditionError if the copy is not like the collection."""
        copy = await self._find_copy(running, deadline)
        if copy is None:
            raise _refused("COLLECTION_NOT_FOUND", f"the copy {running.target} is gone", "source")
        old, new = [await self._store.count(counted, None, Consistency.STRONG, deadline) for counted in (source, copy)]
        # With a time to live, images of the collection expire before their copies.
        more = new > old and source.ttl is None
        if more or (new < old and not (allow_fewer and new)):
            raise FailedPreconditionError(
                "REINDEX_INCOMPLETE",
                f"{running.target} has {new} images and {source.name} has {old}; copy what is missing, or allow fewer, "
                "though never none",
                field="source",
                metadata={"source_count": str(old), "target_count": str(new)},
            )


def _refused(reason: str, message: str, field: str) -> FailedPreconditionError:
    return FailedPreconditionError(reason, message, field=field)
