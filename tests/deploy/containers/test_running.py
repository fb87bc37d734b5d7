"""Running containers: hardened, with limits, and stopped under load."""

import json
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2
from PIL import Image

from demo.local_stack import free_port, is_healthy
from imagesearch_client import Client
from tests.deploy.containers.conftest import Builder, Images
from tests.deploy.containers.engine import Container, Containers

COLLECTION = "images"
CALLS = 24
# Enough for all calls on a busy machine.
DRAIN_SECONDS = 120


@dataclass(frozen=True)
class Service:
    """A service in a container, with its addresses."""

    container: Container
    address: str
    metrics: str

    def metric(self, name: str) -> float:
        """Return the sum of all series of a metric."""
        with urllib.request.urlopen(f"http://{self.metrics}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.partition("{")[0].partition(" ")[0] == name)


def settings(prefix: str, address: str, metrics: str) -> list[str]:
    return [
        f"--env={prefix}_LISTEN_ADDRESS={address}",
        f"--env={prefix}_METRICS_ADDRESS={metrics}",
        f"--env={prefix}_DRAIN_SECONDS={DRAIN_SECONDS}",
    ]


def start_embedder(containers: Containers, name: str, image: str, *options: str) -> Service:
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    container = containers.run(name, image, *settings("EMBEDDER", address, metrics), *options)
    return Service(container, address, metrics)


def measure_start(service: Service, name: str, figures: dict[str, str]) -> None:
    begin = time.monotonic()
    while not is_healthy(service.address):
        assert service.container.state["Running"], service.container.logs
        time.sleep(0.05)
    figures[f"{name}: start to serving, s"] = f"{time.monotonic() - begin:.1f}"
    service.container.wait_until_healthy()
    figures[f"{name}: start to HEALTHCHECK healthy, s"] = f"{time.monotonic() - begin:.1f}"


@dataclass(frozen=True)
class Stack:
    """Both services, with Milvus Lite on a volume, and the client image."""

    embedder: Service
    search: Service
    containers: Containers
    client_image: str
    photographs: Path
    state: str

    def command(self, *arguments: str) -> Any:
        """Run `imagesearch` in a container, and return its JSON output."""
        options = [
            f"--env=IMAGESEARCH_TARGET={self.search.address}",
            f"--env=IMAGESEARCH_EMBEDDER={self.embedder.address}",
            *("--volume", f"{self.photographs}:/images:ro", "--volume", f"{self.state}:/state"),
            *("--memory", "1g", "--cpus", "1"),
        ]
        done = self.containers.once(self.client_image, options, *arguments, "--json")
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)


@pytest.fixture(scope="module")
def stack(images: Images, containers: Containers, photographs: Path, figures: dict[str, str]) -> Stack:
    embedder = start_embedder(containers, "embedder", images["embedder"], "--memory", "2g", "--cpus", "1.5")
    measure_start(embedder, "embedder", figures)
    address, metrics = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    container = containers.run(
        "search",
        images["search"],
        *settings("SEARCH", address, metrics),
        f"--env=SEARCH_EMBEDDER_TARGET={embedder.address}",
        f"--env=SEARCH_EMBEDDER_TIMEOUT_SECONDS={DRAIN_SECONDS}",
        *("--volume", f"{containers.volume('data')}:/data", "--memory", "1g", "--cpus", "1"),
    )
    search = Service(container, address, metrics)
    measure_start(search, "search", figures)
    return Stack(embedder, search, containers, images["client"], photographs, containers.volume("state"))


def test_loads_and_finds_images(stack: Stack, figures: dict[str, str]) -> None:
    count = len(list(stack.photographs.iterdir()))
    account = stack.command("ingest", "/images")
    assert (account["listed"], account["stored"], account["failed"]) == (count, count, 0)
    figures["load of the photographs with 1.5 CPUs, images/s"] = str(account["images_per_second"])

    # The ledger is on a volume.
    assert stack.command("ingest", "/images")["skipped"] == count

    with Client(stack.search.address) as client:
        for photograph in stack.photographs.iterdir():
            first = client.search_by_image(COLLECTION, photograph.read_bytes(), limit=1)[0]
            assert first.image.id == photograph.name
            assert first.score > 0.999
    assert "chelsea.jpg" in json.dumps(stack.command("search", "/images/chelsea.jpg", "--limit", "1"))
    for name in ("embedder", "search"):
        service = getattr(stack, name)
        figures[f"{name}: resident memory, MB"] = f"{service.metric('process_resident_memory_bytes') / 1e6:.0f}"


def test_embedder_sizes_threads_by_cpu_limit(stack: Stack, images: Images, containers: Containers) -> None:
    assert stack.embedder.container.entry("model loaded")["threads"] == 2
    smaller = start_embedder(containers, "one", images["embedder"], "--memory", "2g", "--cpus", "1")
    smaller.container.wait_until_healthy()
    assert smaller.container.entry("model loaded")["threads"] == 1
    assert smaller.container.stop() == 0


def test_services_write_only_to_volumes(stack: Stack, containers: Containers) -> None:
    for service in (stack.embedder, stack.search):
        assert containers.engine.run("diff", service.container.name) == ""


def test_stored_images_survive_container_restart(stack: Stack) -> None:
    with Client(stack.search.address) as client:
        before = client.count(COLLECTION)
    assert before
    assert stack.search.container.stop() == 0
    stack.search.container.start()
    stack.search.container.wait_until_healthy()
    with Client(stack.search.address) as client:
        assert client.count(COLLECTION) == before
        hits = client.search_by_id(COLLECTION, "chelsea.jpg", limit=3)
    assert len(hits) == 3


@pytest.fixture(scope="module")
def pictures(photographs: Path) -> list[bytes]:
    """Return different images, because the embedder embeds equal images only once."""
    with Image.open(photographs / "coffee.jpg") as opened:
        photograph = opened.convert("RGB")
    files = [BytesIO() for _ in range(CALLS)]
    for number, file in enumerate(files):
        photograph.rotate(number).save(file, "JPEG")
    return [file.getvalue() for file in files]


@contextmanager
def embedding(address: str) -> Iterator[Callable[[bytes], int]]:
    """Return a function that embeds an image and returns the length of the vector."""
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)

        def embed(picture: bytes) -> int:
            request = embedder_pb2.EmbedRequest(image=encoded_image_pb2.EncodedImage(content=picture))
            return len(stub.Embed(request, timeout=DRAIN_SECONDS).embedding.values)

        yield embed


def stop_under_load(service: Service, call: Callable[[bytes], int], pictures: list[bytes]) -> tuple[list[int], int]:
    """Stop a service while all calls are in flight. Return their results and the exit code of the service."""
    before = service.metric("grpc_server_started_total")
    with ThreadPoolExecutor(len(pictures)) as pool:
        calls = [pool.submit(call, picture) for picture in pictures]
        while service.metric("grpc_server_started_total") < before + len(pictures):
            assert not all(future.done() for future in calls), "the calls ended before the service stopped"
        assert not all(future.done() for future in calls)
        code = service.container.stop()
        return [future.result() for future in calls], code


def test_stopping_embedder_completes_calls_in_flight(stack: Stack, pictures: list[bytes]) -> None:
    with embedding(stack.embedder.address) as embed:
        assert embed(pictures[0]) == 512
        assert stop_under_load(stack.embedder, embed, pictures) == ([512] * len(pictures), 0)
    stack.embedder.container.start()
    stack.embedder.container.wait_until_healthy()


def test_stopping_search_service_completes_calls_in_flight(stack: Stack, pictures: list[bytes]) -> None:
    with Client(stack.search.address, timeout=DRAIN_SECONDS) as client:

        def search(picture: bytes) -> int:
            return len(client.search_by_image(COLLECTION, picture, limit=4))

        assert search(pictures[0]) == 4
        assert stop_under_load(stack.search, search, pictures) == ([4] * len(pictures), 0)
    stack.search.container.start()
    stack.search.container.wait_until_healthy()


def test_starting_embedder_stops_at_once(images: Images, containers: Containers) -> None:
    service = start_embedder(containers, "starting", images["embedder"], "--memory", "2g", "--cpus", "1")
    while '"settings"' not in service.container.logs:
        time.sleep(0.05)
    begin = time.monotonic()
    service.container.stop()
    assert time.monotonic() - begin < 10


def test_embedder_without_weights_does_not_start(images: Images, containers: Containers) -> None:
    service = start_embedder(containers, "weightless", images["mounted"], "--memory", "2g")
    assert service.container.wait() == 1
    assert "no weights at /weights/vgg16.h5" in service.container.logs


def test_embedder_serves_mounted_weights(
    images: Images, builder: Builder, containers: Containers, tmp_path: Path
) -> None:
    done = builder.build("embedder", "--target=weights-files", "--output", str(tmp_path / "weights"))
    assert done.returncode == 0, done.stderr
    volume = containers.volume("weights")
    folders = ("--volume", f"{tmp_path / 'weights'}:/from:ro", "--volume", f"{volume}:/to")
    copied = containers.once(
        images["mounted"], ["--user", "0", *folders, "--entrypoint", "cp"], "/from/vgg16.h5", "/to"
    )
    assert copied.returncode == 0, copied.stderr
    service = start_embedder(
        containers, "mounted", images["mounted"], "--volume", f"{volume}:/weights:ro", "--memory", "2g", "--cpus", "1.5"
    )
    service.container.wait_until_healthy()
    assert service.container.stop() == 0


def test_memory_limit_kills_only_its_container(stack: Stack, images: Images, containers: Containers) -> None:
    service = start_embedder(containers, "small", images["embedder"], "--memory", "200m", "--memory-swap", "200m")
    assert service.container.wait() == 137
    assert service.container.state["OOMKilled"]
    for other in (stack.embedder, stack.search):
        assert is_healthy(other.address)


def test_search_service_reports_unwritable_data_volume(images: Images, containers: Containers) -> None:
    container = containers.run("no-volume", images["search"], *settings("SEARCH", "127.0.0.1:0", "127.0.0.1:0"))
    assert container.wait() == 1
    assert "Milvus Lite cannot use /data/milvus.db" in container.logs
