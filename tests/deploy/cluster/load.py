"""Callers of all kinds that repeat their calls, and the results."""

import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2

from grpc_kit.channel import open_blocking_channel
from grpc_kit.errors import CancelledError, ServiceError, UnavailableError
from imagesearch_client import MAX_MESSAGE_BYTES, Client, Embedding, NewImage
from search_service.bootstrap import REPEATABLE

COLLECTION, PREPARED = "photographs", 8
# A collection for vectors that the callers make.
VECTORS, FINGERPRINT, DIMENSION = "vectors", "made-here", 8
EMBED_SECONDS = 30.0
# Items of a stream of writes, and seconds between two items, so that the stream stays open for a while.
WRITTEN, WRITE_PAUSE = 12, 0.2
# Seconds between two calls of a caller. The tests check where calls go, not how many are possible.
PAUSE = 0.03
# Calls that gRPC and the client library retry.
RETRIED = ("search by image", "search by vector", "read", "update", "embed")
# Idempotent calls that only the caller may repeat.
NOT_RETRIED = ("delete",)
Caller = Callable[[], object]


class Load:
    """A context manager that runs threads, each of which repeats one kind of call."""

    def __init__(self, callers: Mapping[str, Sequence[Caller]], pause: float = PAUSE) -> None:
        """Create a thread for each caller. `callers` are the callers by kind, `pause` the seconds between two calls."""
        self.done: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        """Number of failed calls by kind and reason."""
        self.slowest: dict[str, float] = {}
        self._pause = pause
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(kind, caller))
            for kind, several in callers.items()
            for caller in several
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def failures(self, kinds: Sequence[str] | None = None) -> dict[tuple[str, str], int]:
        """Return the failed calls of some kinds, or of all."""
        with self._lock:
            return {(kind, why): count for (kind, why), count in self.failed.items() if not kinds or kind in kinds}

    def _call(self, kind: str, caller: Caller) -> None:
        while not self._ended.wait(self._pause * random.uniform(0.5, 1.5)):
            began = time.monotonic()
            reason = _outcome(caller)
            took = time.monotonic() - began
            with self._lock:
                if reason:
                    self.failed[kind, reason] += 1
                else:
                    self.done[kind] += 1
                self.slowest[kind] = max(self.slowest.get(kind, 0), took)


def _outcome(caller: Caller) -> str:
    """Make a call. Return the reason of its failure, or an empty string."""
    try:
        caller()
    except ServiceError as error:
        return f"{type(error).__name__} {error.reason}: {error.message:.80}"
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()!s:.80}"
    except AssertionError as error:
        return f"wrong: {error!s:.200}"
    return ""


class Callers:
    """The callers of a cluster: the Python client with its default settings, and a direct client of the embedder."""

    def __init__(self, search: str, embedder: str, contents: Sequence[bytes]) -> None:
        """Connect to the targets `search` and `embedder`. `contents` are files of images."""
        self.client = Client(search)
        self.embedder = embedder
        self.written: set[str] = set()
        """Ids that `write` stored."""
        self.write_again = 0
        """How often a stream of writes ended early and was repeated."""
        self._contents = contents
        self._lock = threading.Lock()
        self._channel = open_blocking_channel(embedder, MAX_MESSAGE_BYTES, REPEATABLE)
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(self._channel)
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Create the collections and write some images."""
        self.client.create_collection(COLLECTION)
        self.client.create_collection(VECTORS, dimension=DIMENSION, fingerprint=FINGERPRINT)
        images = [NewImage(f"photograph{number}", content) for number, content in enumerate(self._contents[:PREPARED])]
        assert [result.error for result in self.client.write(COLLECTION, images)] == [None] * len(images)
        self.write()
        # A search may not see the last writes yet.
        time.sleep(1)

    def close(self) -> None:
        """Close the connections."""
        self.client.close()
        self._channel.close()

    def by_kind(self, *kinds: str) -> dict[str, list[Caller]]:
        """Return the callers of some kinds, or all."""
        every: dict[str, list[Caller]] = {
            "search by image": [self.search_by_image] * 2,
            "search by vector": [self.search_by_vector] * 2,
            "read": [self.read],
            "embed": [self.embed],
            "update": [self.update] * 2,
            "delete": [self.delete] * 2,
            "write": [self.write] * 2,
        }
        return {kind: callers for kind, callers in every.items() if not kinds or kind in kinds}

    def content(self) -> bytes:
        """Return the file of the next image."""
        return self._contents[next(self._numbers) % len(self._contents)]

    def search_by_image(self) -> None:
        """Search by an image, which uses an embedder."""
        assert self.client.search_by_image(COLLECTION, self.content(), limit=3), "no hits"

    def search_by_vector(self) -> None:
        """Search by a vector, which uses no embedder."""
        assert self.client.search_by_vector(VECTORS, self._vector(), limit=3), "no hits"

    def read(self) -> None:
        """Read, count and list images."""
        assert self.client.get(COLLECTION, "photograph1").id == "photograph1", "another image"
        # No exact number: Milvus 2.3 may count an image twice while it is being updated.
        assert self.client.count(COLLECTION), "counted none"
        page, _ = self.client.list_page(COLLECTION, page_size=3)
        assert len(page) == 3, f"{len(page)} images in a page of 3"

    def embed(self) -> None:
        """Call an embedder like the search service does."""
        request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=self.content()))
        assert self._stub.Embed(request, timeout=EMBED_SECONDS).embedding.values, "no vector"

    def update(self) -> None:
        """Update an image."""
        number = next(self._numbers)
        self.client.update(COLLECTION, f"photograph{number % PREPARED}", attributes={"seen": number})

    def delete(self) -> None:
        """Delete an image that does not exist, which costs as much."""
        self.client.delete(VECTORS, [f"nobody{next(self._numbers)}"])

    def write(self) -> None:
        """Write some vectors over a stream. If it ends early, write unanswered vectors again, as callers should."""
        ids = {f"v{next(self._numbers)}" for _ in range(WRITTEN)}
        for pause in (0.2, 0.5, 1, 2):
            missing = ids - self.written
            try:
                for result in self.client.write(VECTORS, self._slowly(missing)):
                    if result.error is None:
                        self.written.add(result.id)
            except (UnavailableError, CancelledError):
                # Unanswered vectors may be stored or not.
                pass
            if ids <= self.written:
                return
            with self._lock:
                self.write_again += 1
            time.sleep(pause)
        raise AssertionError(f"{ids - self.written} were not stored")

    def _slowly(self, ids: Iterable[str]) -> Iterator[NewImage]:
        for image_id in ids:
            yield NewImage(image_id, self._vector())
            time.sleep(WRITE_PAUSE)

    def _vector(self) -> Embedding:
        dice = random.Random(next(self._numbers))
        return Embedding([dice.uniform(-1, 1) for _ in range(DIMENSION)], FINGERPRINT)


class Ingests:
    """Repeats `imagesearch ingest` of one folder, each time into a new collection."""

    def __init__(self, search: str, embedder: str, folder: Path, state: Path) -> None:
        """Load all files of `folder`, with ledgers in `state`."""
        self.accounts: list[dict[str, int]] = []
        """The JSON summary of each load, with its exit code as `code`."""
        self._command = [sys.executable, "-m", "imagesearch_cli", "ingest", str(folder), "--json"]
        self._environment = os.environ | {
            "IMAGESEARCH_TARGET": search,
            "IMAGESEARCH_EMBEDDER": embedder,
            "XDG_STATE_HOME": str(state),
        }

    def run(self) -> None:
        """Run one load."""
        name = f"load{len(self.accounts)}"
        done = subprocess.run(
            [*self._command, "-c", name],
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=170,
            check=False,
        )
        self.accounts.append({**_json_in(done.stdout), "code": done.returncode})
        assert done.returncode == 0, done.stdout + done.stderr


def _json_in(output: str) -> dict[str, int]:
    for line in _lines(output):
        account: dict[str, int] = json.loads(line)
        return account
    return {}


def _lines(output: str) -> Iterator[str]:
    return (line for line in output.splitlines() if line.startswith("{"))
