"""Reindexes while callers write, update and delete: no write is lost, and no deleted image comes back."""

import itertools
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from imagesearch_client import Client, Embedding, NewImage
from imagesearch_ingest.reindex.new_collection import Change, create_new_collection
from imagesearch_ingest.reindex.reindexing import Reindexing

DIMENSION = 8


def image(image_id: str, version: int) -> NewImage:
    vector = np.random.default_rng(version).normal(size=DIMENSION).tolist()
    return NewImage(image_id, Embedding(vector, "elsewhere"), str(version))


@dataclass
class Callers:
    """Callers of one alias. Each id belongs to one caller, so that its last acknowledged write is known."""

    address: str
    alias: str
    expected: dict[str, str] = field(default_factory=dict)
    stop: threading.Event = field(default_factory=threading.Event)
    done: dict[str, int] = field(default_factory=lambda: {"writes": 0, "updates": 0, "deletes": 0})

    def repeat(self, step: Callable[[Client, int], None]) -> None:
        with Client(self.address) as client:
            for number in itertools.count():
                if self.stop.is_set():
                    return
                step(client, number)
                # With pauses, because the copy needs the CPU too.
                self.stop.wait(0.02)

    def write(self, client: Client, number: int) -> None:
        images = [image(f"w{(3 * number + place) % 300:03d}", 1000 + number) for place in range(3)]
        for result in client.write(self.alias, images):
            assert result.error is None
            self.expected[result.id] = str(1000 + number)
            self.done["writes"] += 1

    def update(self, client: Client, number: int) -> None:
        image_id = f"u{number % 50:03d}"
        client.update(self.alias, image_id, uri=f"updated {number}")
        self.expected[image_id] = f"updated {number}"
        self.done["updates"] += 1

    def delete(self, client: Client, number: int) -> None:
        """Delete some images, and write them again every second time."""
        ids = [f"d{(5 * number + place) % 400:03d}" for place in range(5)]
        if existing := [image_id for image_id in ids if image_id in self.expected]:
            assert client.delete(self.alias, existing) == len(existing)
            self.done["deletes"] += len(existing)
        for image_id in existing:
            del self.expected[image_id]
        if number % 2:
            for result in client.write(self.alias, [image(image_id, number) for image_id in ids]):
                assert result.error is None
                self.expected[result.id] = str(number)


@pytest.fixture
def callers(search_address: str, name: str) -> Iterator[Callers]:
    callers = Callers(search_address, f"{name}_now")
    with Client(search_address) as client:
        client.create_collection(f"{name}_0", dimension=DIMENSION, fingerprint="elsewhere")
        client.set_alias(callers.alias, f"{name}_0")
        ids = [f"{kind}{number:03d}" for kind, count in (("u", 50), ("d", 400)) for number in range(count)]
        for result in client.write(callers.alias, (image(image_id, 0) for image_id in ids)):
            assert result.error is None
            callers.expected[result.id] = "0"
        yield callers
        client.delete_alias(callers.alias)


def reindex_under_writes(callers: Callers, name: str, times: int, least: int) -> None:
    with Client(callers.address) as client, ThreadPoolExecutor(3) as pool:
        running = [pool.submit(callers.repeat, step) for step in (callers.write, callers.update, callers.delete)]
        try:
            number = 0
            while number < times or min(callers.done["writes"], callers.done["deletes"]) < least:
                assert not any(caller.done() for caller in running), [caller.result() for caller in running]
                old = client.get_collection(callers.alias)
                number += 1
                reindexing = Reindexing(
                    client,
                    old,
                    create_new_collection(client, old, f"{name}_{number}", Change()),
                    Path(),
                    lambda _: None,
                )
                reindexing.copy()
                reindexing.move([callers.alias])
                assert reindexing.report.moved == {callers.alias: old.name}
                assert client.get_collection(callers.alias).name == f"{name}_{number}"
                client.delete_collection(old.name)
        finally:
            callers.stop.set()
        for caller in running:
            caller.result()
        found = {stored.id: stored.uri for stored in client.list(callers.alias, page_size=1000, strong=True)}
    assert found == callers.expected
    assert min(callers.done.values()) > 0


def test_writes_and_deletes_during_reindex_are_neither_lost_nor_undone(callers: Callers, name: str) -> None:
    reindex_under_writes(callers, name, times=1, least=20)


@pytest.mark.soak
@pytest.mark.timeout(1500)
def test_thousand_writes_and_deletes_during_ten_reindexes(callers: Callers, name: str) -> None:
    reindex_under_writes(callers, name, times=10, least=1000)
