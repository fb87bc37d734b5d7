"""Each privilege that `deploy.milvus.role` grants is necessary: without it, an operation of the service fails.

The server requires no client certificates (tlsMode 1), unlike that of `test_milvus_access`.
"""

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pytest
from pymilvus.client.cache import GlobalCache

from deploy.milvus.role import PRIVILEGES
from grpc_kit.errors import ServiceError
from search_service.adapters.milvus_store import MilvusStore
from search_service.core import types
from search_service.core.ports import Nearest
from tests.integration.search.guarded_milvus import (
    DATABASE,
    PASSWORD,
    Guarded,
    collection_of,
    guarded_milvus,
    images_of,
    soon,
    store_of,
    strip_public_role,
    wait_for_role,
)

pytestmark = pytest.mark.soak

NAMES = [privilege.name for privilege in PRIVILEGES]
NONE = "none"


def user_without(name: str) -> str:
    """Return the name of the user, and of its role, with all privileges except this one."""
    return f"without_{name}"


@dataclass(frozen=True)
class World:
    """The collections that a step uses."""

    guarded: Guarded
    base: types.Collection

    @property
    def alias(self) -> str:
        return f"{self.base.name}_now"


Step: TypeAlias = Callable[[MilvusStore, World], Awaitable[object]]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """Return the server, with a user with all privileges, and for each privilege a user with all others."""
    with guarded_milvus(tmp_path_factory.mktemp("guarded"), tls_mode=1) as server:
        with server.client() as root:
            strip_public_role(root)
            root.create_database(DATABASE)
            for name in (NONE, *NAMES):
                user = user_without(name)
                root.create_role(user)
                root.create_user(user, PASSWORD)
                root.grant_role(user, user)
                for privilege in PRIVILEGES:
                    if privilege.name != name:
                        root.grant_privilege(user, privilege.object_type, privilege.name, "*", db_name=DATABASE)
        for name in (NONE, *NAMES):
            with server.client(f"{user_without(name)}:{PASSWORD}", DATABASE) as client:
                wait_for_role(client, missing=name)
        yield server


@pytest.fixture
async def world(guarded: Guarded) -> AsyncIterator[World]:
    """Create a collection with images and an alias, as the user with all privileges."""
    world = World(guarded, collection_of(f"c_{uuid.uuid4().hex[:16]}"))
    async with store_of(guarded.connection(f"{user_without(NONE)}:{PASSWORD}", DATABASE)) as store:
        await store.create_collection(world.base, soon())
        await store.upsert(world.base, images_of(), soon())
        await store.set_alias(types.Alias(world.alias, world.base.name), soon())
    yield world
    with guarded.client(database=DATABASE) as root:
        for alias in root.list_aliases(db_name=DATABASE)["aliases"]:
            root.drop_alias(alias)
        for collection in root.list_collections():
            root.drop_collection(collection)


async def create(store: MilvusStore, world: World) -> None:
    await store.create_collection(collection_of(f"{world.base.name}_2"), soon())


async def search(store: MilvusStore, world: World) -> None:
    nearest = Nearest(3, types.View.ID, types.Consistency.STRONG, None)
    await store.search(world.base, [np.ones(world.base.dimension, np.float32)], nearest, soon())


async def load_when_starting(store: MilvusStore, world: World) -> None:
    """Connect a new store, which loads the existing collections."""
    with world.guarded.client(database=DATABASE) as root:
        root.release_collection(world.base.name)
    await search(store, world)


STEPS: dict[str, Step] = {
    "ShowCollections": lambda store, _: store.check(soon()),
    "DescribeCollection": lambda store, world: store.get_collection(world.base.name, soon()),
    "CreateCollection": create,
    "DropCollection": lambda store, world: store.delete_collection(world.base, soon()),
    "CreateAlias": lambda store, world: store.set_alias(types.Alias(f"{world.alias}_2", world.base.name), soon()),
    "DropAlias": lambda store, world: store.delete_alias(world.alias, soon()),
    "ListAliases": lambda store, _: store.list_aliases(soon()),
    "CreateIndex": create,
    "IndexDetail": load_when_starting,
    "Load": load_when_starting,
    "Upsert": lambda store, world: store.upsert(world.base, images_of(), soon()),
    "Delete": lambda store, world: store.delete(world.base, ["i1"], soon()),
    "Query": lambda store, world: store.count(world.base, None, types.Consistency.STRONG, soon()),
    "Search": search,
}


@pytest.mark.parametrize("name", NAMES)
async def test_each_privilege_is_necessary(world: World, name: str) -> None:
    for user, works in ((user_without(name), False), (user_without(NONE), True)):
        # Otherwise the client would use its cached description of the collection.
        GlobalCache.schema.clear()
        async with store_of(world.guarded.connection(f"{user}:{PASSWORD}", DATABASE)) as store:
            if works:
                await STEPS[name](store, world)
                continue
            with pytest.raises(ServiceError):
                await STEPS[name](store, world)
