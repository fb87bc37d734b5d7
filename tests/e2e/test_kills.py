"""SIGKILL at random moments while callers write: no acknowledged write is lost, and no image is duplicated.

One kill is part of every run. `pytest tests/e2e/test_kills.py -m soak --kills 50 --timeout 3600` does fifty
of each kind.
"""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.local_stack import is_healthy
from grpc_kit.errors import ServiceError
from imagesearch_client import Client, Embedding, NewImage
from tests.e2e.conftest import ONCE_AND_OFTEN, Stack
from tests.e2e.test_restarts import eventually, restart
from tests.harness.processes import SearchProcess
from tests.milvus_server import MilvusProcess

WRITERS = 3
# Few ids, so that most writes replace an image.
IDS = 400
COLLECTION = "killed"
# At each start a Milvus server replays unflushed writes, which takes longer after every kill.
KILLS_OF_A_SERVER = 5


class Writer:
    """Writes its own images repeatedly with increasing numbers, and records acknowledged writes."""

    def __init__(self, name: str, dimension: int) -> None:
        self.acknowledged: dict[str, int] = {}
        self._name = name
        self._next = 0
        self._dimension = dimension
        self._sent: dict[str, int] = {}

    def write(self, address: str, stop: threading.Event) -> None:
        """Write until it is stopped or the service ends."""
        self._sent.clear()
        with Client(address, timeout=20) as client:
            try:
                for result in client.write(COLLECTION, self._images(stop)):
                    if result.error is None:
                        # An id is written again only after its response.
                        self.acknowledged[result.id] = self._sent[result.id]
            except ServiceError:
                return

    def _images(self, stop: threading.Event) -> Iterator[NewImage]:
        while not stop.is_set():
            image_id = f"{self._name}_{self._next % IDS}"
            self._sent[image_id] = self._next
            vector = Embedding([1.0, float(self._next)] * (self._dimension // 2), "f")
            yield NewImage(image_id, vector, attributes={"number": self._next})
            self._next += 1
            if self._next % IDS == 0:
                self._wait_for_answers(stop)

    def _wait_for_answers(self, stop: threading.Event) -> None:
        while not stop.is_set() and any(self.acknowledged.get(key, -1) < sent for key, sent in self._sent.items()):
            time.sleep(0.005)


def write_for_a_while(address: str, writers: list[Writer]) -> tuple[threading.Event, list[threading.Thread]]:
    stop = threading.Event()
    threads = [threading.Thread(target=writer.write, args=(address, stop)) for writer in writers]
    for thread in threads:
        thread.start()
    time.sleep(random.uniform(0.05, 1.5))
    return stop, threads


def check(client: Client, writers: list[Writer], *, exact: bool) -> None:
    """Check that each image is stored once, with its last acknowledged write or a later one.

    `exact`: also by the store's own count, in which a server of version 2.3 has some rows twice after some crashes.
    """
    found = [
        (image.id, int(str(image.attributes["number"])))
        for image in client.list(COLLECTION, page_size=1000, strong=True)
    ]
    stored = dict(found)
    assert len(stored) == len(found)
    if exact:
        assert client.count(COLLECTION) == len(found)
    for writer in writers:
        lost = {key: number for key, number in writer.acknowledged.items() if stored.get(key, -1) < number}
        assert lost == {}


@ONCE_AND_OFTEN
def test_kills_of_the_search_service_on_milvus_lite_lose_no_write(own_search: SearchProcess, kills: int) -> None:
    # Long vectors, so that Milvus Lite writes and merges data files all the time.
    writers = [Writer(f"w{number}", 512) for number in range(WRITERS)]
    with Client(own_search.address, timeout=60) as client:
        client.create_collection(COLLECTION, dimension=512, fingerprint="f")
    for _ in range(kills):
        stop, threads = write_for_a_while(own_search.address, writers)
        own_search.kill()
        stop.set()
        for thread in threads:
            thread.join()
        restart(own_search)
        with Client(own_search.address, timeout=60) as client:
            check(client, writers, exact=True)
    assert sum(len(writer.acknowledged) for writer in writers) > 0


@pytest.mark.soak
def test_kills_of_the_milvus_server_lose_no_write(tmp_path: Path, kills: int) -> None:
    for begin in range(0, kills, KILLS_OF_A_SERVER):
        kill_a_server(tmp_path / str(begin), min(KILLS_OF_A_SERVER, kills - begin))


def kill_a_server(folder: Path, kills: int) -> None:
    writers = [Writer(f"w{number}", 4) for number in range(WRITERS)]
    with MilvusProcess(folder / "milvus") as server:
        stack = Stack(folder, server.uri)
        with stack.search_process, Client(stack.search, timeout=60) as client:
            client.create_collection(COLLECTION, dimension=4, fingerprint="f")
            for _ in range(kills):
                stop, threads = write_for_a_while(stack.search, writers)
                server.kill()
                stop.set()
                for thread in threads:
                    thread.join()
                server.start()
                eventually(lambda: is_healthy(stack.search))
                check(client, writers, exact=False)
            assert sum(len(writer.acknowledged) for writer in writers) > 0
