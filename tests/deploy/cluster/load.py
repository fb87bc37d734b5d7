"""Callers of all kinds that call without end, and what came of their calls."""

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
# Of the callers' own vectors, in a collection of theirs.
VECTORS, FINGERPRINT, DIMENSION = "vectors", "made-here", 8
EMBED_SECONDS = 30.0
# Items of a stream of writes, and seconds between two of them, so that it is open for a while.
WRITTEN, WRITE_PAUSE = 12, 0.2
# Between two calls of a caller, in seconds. What is tested is where calls go, not how many there can be.
PAUSE = 0.03
# What gRPC and the client library repeat by themselves, whatever happens to the server.
REPEATED = ("search by image", "search by vector", "read", "update", "embed")
# What may be done twice, and is not by itself: a caller is told, and may.
NOT_REPEATED = ("delete",)
Caller = Callable[[], object]


class Load:
    """Threads that each make one kind of call, one after the other. As a context manager they are at it inside."""

    def __init__(self, callers: Mapping[str, Sequence[Caller]], pause: float = PAUSE) -> None:
        """`callers` are the callers of each kind; each is called again and again, in a thread of its own."""
        self.done: Counter[str] = Counter()
        self.failed: Counter[tuple[str, str]] = Counter()
        """By kind and reason."""
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
        """Those of some kinds, or of all."""
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
    """Calls; gives why it failed, and the empty text where it did not."""
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
    """The callers of a cluster: the shipped client with its shipped settings, and who embeds images directly."""

    def __init__(self, search: str, embedder: str, contents: Sequence[bytes]) -> None:
        """`search` and `embedder` are targets, `contents` images' files."""
        self.client = Client(search)
        self.embedder = embedder
        self.written: set[str] = set()
        """What `write` was told to be stored."""
        self.write_again = 0
        """How often a stream of writes ended before all was answered, and was repeated."""
        self._contents = contents
        self._lock = threading.Lock()
        self._channel = open_blocking_channel(embedder, MAX_MESSAGE_BYTES, REPEATABLE)
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(self._channel)
        self._numbers = itertools.count()

    def prepare(self) -> None:
        """Makes what is called for: collections, with something in them."""
        self.client.create_collection(COLLECTION)
        self.client.create_collection(VECTORS, dimension=DIMENSION, fingerprint=FINGERPRINT)
        images = [NewImage(f"photograph{number}", content) for number, content in enumerate(self._contents[:PREPARED])]
        assert [result.error for result in self.client.write(COLLECTION, images)] == [None] * len(images)
        self.write()
        # A search may not see what was written a moment ago.
        time.sleep(1)

    def close(self) -> None:
        """Ends the connections."""
        self.client.close()
        self._channel.close()

    def by_kind(self, *kinds: str) -> dict[str, list[Caller]]:
        """Some of the kinds of callers, or all."""
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
        """An image's file."""
        return self._contents[next(self._numbers) % len(self._contents)]

    def search_by_image(self) -> None:
        """A search that needs an embedder."""
        assert self.client.search_by_image(COLLECTION, self.content(), limit=3), "no hits"

    def search_by_vector(self) -> None:
        """A search that does not."""
        assert self.client.search_by_vector(VECTORS, self._vector(), limit=3), "no hits"

    def read(self) -> None:
        """The calls that read."""
        assert self.client.get(COLLECTION, "photograph1").id == "photograph1", "another image"
        # Not how many: a Milvus server of version 2.3 counts images that are being changed more than once.
        assert self.client.count(COLLECTION), "counted none"
        page, _ = self.client.list_page(COLLECTION, page_size=3)
        assert len(page) == 3, f"{len(page)} images in a page of 3"

    def embed(self) -> None:
        """A call of an embedder, as the search service makes it."""
        request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=self.content()))
        assert self._stub.Embed(request, timeout=EMBED_SECONDS).embedding.values, "no vector"

    def update(self) -> None:
        """Changes an image."""
        number = next(self._numbers)
        self.client.update(COLLECTION, f"photograph{number % PREPARED}", attributes={"seen": number})

    def delete(self) -> None:
        """Removes what is not there, which is as much work."""
        self.client.delete(VECTORS, [f"nobody{next(self._numbers)}"])

    def write(self) -> None:
        """Writes a few vectors over a stream, again where it ended before all was answered, as callers should."""
        ids = {f"v{next(self._numbers)}" for _ in range(WRITTEN)}
        for pause in (0.2, 0.5, 1, 2):
            missing = ids - self.written
            try:
                for result in self.client.write(VECTORS, self._slowly(missing)):
                    if result.error is None:
                        self.written.add(result.id)
            except (UnavailableError, CancelledError):
                # What has no answer may be stored or not.
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
    """Runs `imagesearch ingest` of one folder over and over, each time into a collection of its own."""

    def __init__(self, search: str, embedder: str, folder: Path, state: Path) -> None:
        """Loads all files of `folder`; ledgers go to `state`."""
        self.accounts: list[dict[str, int]] = []
        """What each said when it had ended; its exit code is under `code`."""
        self._command = [sys.executable, "-m", "imagesearch_cli", "ingest", str(folder), "--json"]
        self._environment = os.environ | {
            "IMAGESEARCH_TARGET": search,
            "IMAGESEARCH_EMBEDDER": embedder,
            "XDG_STATE_HOME": str(state),
        }

    def run(self) -> None:
        """One load."""
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
