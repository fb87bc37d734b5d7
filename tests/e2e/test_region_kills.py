"""SIGKILL of the search service while callers write, change, delete and read images with regions.

Every part of an image holds the version of its write: the vector, the attributes, and each region with its box. So a
reader notices a mix of two writes. `pytest tests/e2e/test_region_kills.py -m soak --kills 50 --timeout 3600` kills
fifty times on each backend.
"""

import asyncio
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from demo.local_stack import is_healthy
from grpc_kit.deadline import Deadline
from grpc_kit.errors import ServiceError
from imagesearch_client import Client, Embedding, Hit, Image, NewImage, Region, RegionEmbedding
from search_service.adapters.milvus_connection import MilvusConnection
from search_service.adapters.milvus_store import MilvusStore
from search_service.core.types import Consistency, View
from tests.e2e.test_kills import KILLS_OF_A_SERVER
from tests.e2e.test_restarts import eventually, restart
from tests.harness.processes import SearchProcess
from tests.milvus_server import MilvusProcess

COLLECTION, DIMENSION, MAX_REGIONS = "killed", 64, 4
WRITERS, READERS, IDS, BATCH = 3, 2, 30, 10
ORPHAN_SECONDS, SWEEP_SECONDS = 10, 1
# An image that does not exist has this version.
MISSING = 0


def new_image(image_id: str, version: int) -> NewImage:
    """Return an image with 0 to MAX_REGIONS regions."""
    count = version % (MAX_REGIONS + 1)
    regions = [RegionEmbedding(box_of(version, n), vector_of(version, n + 1), float(version)) for n in range(count)]
    return NewImage(image_id, vector_of(version, 0), attributes={"version": version}, regions=regions)


def vector_of(version: int, number: int) -> Embedding:
    return Embedding([float(version), float(number), *[1.0] * (DIMENSION - 2)], "f")


def box_of(version: int, number: int) -> Region:
    return Region(0.0, 0.0, (1 + version % 997) / 1000, (1 + number) / 10)


def version_of(image: Image) -> int:
    """Return the version of an image that was read with its vectors. Fails if it is a mix of two writes."""
    version = image.attributes["version"]
    assert isinstance(version, int)
    wanted = new_image(image.id, version)
    assert image.embedding == wanted.source
    assert len(image.regions) == len(wanted.regions)
    for found, region in zip(image.regions, wanted.regions, strict=True):
        assert found.embedding == region.embedding
        assert found.saliency == version
        assert same_box(found.box, region.box)
    return version


def same_box(left: Region, right: Region) -> bool:
    pairs = ((left.x0, right.x0), (left.y0, right.y0), (left.x1, right.x1), (left.y1, right.y1))
    return all(a == pytest.approx(b, abs=1e-6) for a, b in pairs)


def check_box(hit: Hit, match: str) -> None:
    """Check that the box of a hit belongs to the version of its image."""
    version = hit.image.attributes["version"]
    assert isinstance(version, int)
    whole = [] if match == "regions" else [Region(0, 0, 1, 1)]
    boxes = [] if match == "images" else [region.box for region in new_image("", version).regions]
    region = hit.region or Region(0, 0, 1, 1)
    assert any(same_box(region, box) for box in (*whole, *boxes))


@dataclass
class Writer:
    """Writes, changes and deletes its own images, and knows which versions they may have."""

    name: str
    version: int = 0
    acknowledged: int = 0
    possible: dict[str, set[int]] = field(default_factory=dict)

    def run(self, address: str, stop: threading.Event) -> None:
        """Work until it is stopped or the service ends."""
        with Client(address, timeout=20, retry_seconds=0) as client, suppress(ServiceError):
            while not stop.is_set():
                some = [f"{self.name}_{number}" for number in random.sample(range(IDS), BATCH)]
                match random.randrange(4):
                    case 0:
                        self._delete(client, some)
                    case 1:
                        self._update(client, some[0])
                    case _:
                        self._write(client, some)

    def _write(self, client: Client, ids: list[str]) -> None:
        self.version += 1
        for image_id in ids:
            self.possible.setdefault(image_id, {MISSING}).add(self.version)
        for result in client.write(COLLECTION, [new_image(image_id, self.version) for image_id in ids]):
            if result.error is None:
                self._settle(result.id, self.version)

    def _update(self, client: Client, image_id: str) -> None:
        if MISSING not in self.possible.get(image_id, {MISSING}):
            client.update(COLLECTION, image_id, attributes={"touched": self.version})
            self.acknowledged += 1

    def _delete(self, client: Client, ids: list[str]) -> None:
        for image_id in ids:
            self.possible.setdefault(image_id, {MISSING}).add(MISSING)
        client.delete(COLLECTION, ids)
        for image_id in ids:
            self._settle(image_id, MISSING)

    def _settle(self, image_id: str, version: int) -> None:
        self.possible[image_id] = {version}
        self.acknowledged += 1


@dataclass
class Reader:
    """Reads all images in every way, and checks each."""

    reads: int = 0
    failure: BaseException | None = None

    def run(self, address: str, stop: threading.Event) -> None:
        """Read until it is stopped, also while the service is down."""
        try:
            with Client(address, timeout=20, retry_seconds=0) as client:
                while not stop.is_set():
                    with suppress(ServiceError):
                        self._read(client)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.failure = error

    def _read(self, client: Client) -> None:
        strong = random.random() < 0.3
        if random.random() < 0.5:
            for image in client.list(COLLECTION, with_regions=True, strong=strong, page_size=40):
                version_of(image)
        else:
            query, match = vector_of(random.randrange(100), 1), random.choice(["images", "regions", "all"])
            hits = client.search(COLLECTION, query, limit=20, strong=strong, match=match)
            assert len({hit.image.id for hit in hits}) == len(hits)
            for hit in hits:
                check_box(hit, match)
        self.reads += 1


def check(address: str, writers: list[Writer]) -> None:
    """Check that every image has a version that it may have, and note that version."""
    with Client(address, timeout=60) as client:
        found = {image.id: version_of(image) for image in client.list(COLLECTION, with_regions=True, strong=True)}
    for writer in writers:
        for image_id, versions in writer.possible.items():
            assert found.get(image_id, MISSING) in versions
            writer.possible[image_id] = {found.get(image_id, MISSING)}


def kill_often(process: SearchProcess, kills: int, kill_and_restart: Callable[[], None]) -> None:
    """Kill a service while all work, and check the images after each restart."""
    with Client(process.address, timeout=60) as client:
        client.create_collection(COLLECTION, dimension=DIMENSION, fingerprint="f", max_regions=MAX_REGIONS)
    writers, readers = [Writer(f"w{number}") for number in range(WRITERS)], [Reader() for _ in range(READERS)]
    for _ in range(kills):
        stop = threading.Event()
        work = [*(writer.run for writer in writers), *(reader.run for reader in readers)]
        threads = [threading.Thread(target=run, args=(process.address, stop)) for run in work]
        for thread in threads:
            thread.start()
        time.sleep(random.uniform(0.1, 2.0))
        kill_and_restart()
        stop.set()
        for thread in threads:
            thread.join()
        check(process.address, writers)
    for reader in readers:
        if reader.failure is not None:
            raise reader.failure
    assert sum(reader.reads for reader in readers) > 0
    assert sum(writer.acknowledged for writer in writers) > 0


async def orphans(connection: MilvusConnection) -> tuple[int, int]:
    """Return the number of regions that no image has, and of images with regions, as Milvus has them."""
    store, deadline = MilvusStore(connection), Deadline.after(60)
    try:
        collection = await store.get_collection(COLLECTION, deadline)
        images = await store.query(collection, None, 10_000, View.ID, Consistency.STRONG, deadline)
        rows = await store.regions.generations(collection, 0, 2**96 - 1, 16_384, deadline)
        current = {(image.id, image.generation) for image in images if image.region_count}
        assert current <= set(rows)
        return len(set(rows) - current), len(current)
    finally:
        await store.close()


def kill_search(process: SearchProcess) -> None:
    process.kill()
    restart(process)


def process_on(folder: Path, embedder: str, **settings: str) -> SearchProcess:
    sweep = {"sweep_seconds": str(SWEEP_SECONDS), "orphan_seconds": str(ORPHAN_SECONDS)}
    return SearchProcess(folder / "search.log", embedder_target=embedder, **sweep, **settings)


# Some kills in `make test`, and --kills kills in the soak tier.
SOME_AND_OFTEN = pytest.mark.parametrize(
    "kills", [5, pytest.param(None, marks=pytest.mark.soak)], indirect=True, ids=["some", "often"]
)


@SOME_AND_OFTEN
def test_kills_on_milvus_lite_leave_images_with_their_own_regions(
    tmp_path: Path, embedder_address: str, kills: int
) -> None:
    uri = str(tmp_path / "milvus.db")
    with process_on(tmp_path, embedder_address, milvus_uri=uri) as process:
        kill_often(process, kills, partial(kill_search, process))
        # Two processes cannot open one file, so wait for the sweep.
        time.sleep(ORPHAN_SECONDS + 10 * SWEEP_SECONDS)
    left, images = asyncio.run(orphans(MilvusConnection(uri)))
    assert left == 0
    assert images > 0


@pytest.fixture
def database(milvus_uri: str) -> Iterator[str]:
    """Create a database on the shared server: sweeps also delete the regions of other tests."""
    name = f"kills_{uuid.uuid4().hex[:8]}"
    client = MilvusClient(milvus_uri)
    client.create_database(name)
    yield name
    inside = MilvusClient(milvus_uri, db_name=name)
    for collection in inside.list_collections():
        inside.drop_collection(collection)
    inside.close()
    client.drop_database(name)
    client.close()


@SOME_AND_OFTEN
def test_kills_on_a_milvus_server_leave_images_with_their_own_regions(
    tmp_path: Path, embedder_address: str, milvus_uri: str, database: str, kills: int
) -> None:
    with process_on(tmp_path, embedder_address, milvus_uri=milvus_uri, milvus_database=database) as process:
        kill_often(process, kills, partial(kill_search, process))
        wait_for_sweep(MilvusConnection(milvus_uri, database=database))


def wait_for_sweep(connection: MilvusConnection) -> None:
    """Wait until no region is without an image."""
    until = time.monotonic() + 60
    left, images = asyncio.run(orphans(connection))
    while left and time.monotonic() < until:
        time.sleep(2)
        left, images = asyncio.run(orphans(connection))
    assert left == 0
    assert images > 0


@pytest.mark.soak
def test_kills_of_the_milvus_server_leave_images_with_their_own_regions(
    tmp_path: Path, embedder_address: str, kills: int
) -> None:
    # At each start the server replays unflushed writes, which takes longer after every kill.
    for begin in range(0, kills, KILLS_OF_A_SERVER):
        folder = tmp_path / str(begin)
        folder.mkdir()
        with MilvusProcess(folder / "milvus") as server:

            def kill(server: MilvusProcess = server) -> None:
                server.kill()
                server.start()
                eventually(lambda: is_healthy(process.address))

            with process_on(folder, embedder_address, milvus_uri=server.uri, milvus_timeout_seconds="5") as process:
                kill_often(process, min(KILLS_OF_A_SERVER, kills - begin), kill)
                wait_for_sweep(MilvusConnection(server.uri))
