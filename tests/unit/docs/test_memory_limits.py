"""The memory limits in docs/operate/limits.md agree with the settings and the manifests."""

import re
from pathlib import Path

import pytest
import yaml

from deploy.checks.pods import quantity
from embedder_service.core.types import Lane
from embedder_service.settings import EmbedderSettings
from grpc_kit.server.interceptors.request_receiver import FAST, HEALTH_FAST, HEALTH_SLOW
from grpc_kit.server.message_budget import SMALL_BYTES
from grpc_kit.server.settings import MEBIBYTE
from search_service.core.write_window import EMBEDDED_BYTES
from search_service.settings import SearchSettings

ROOT = Path(__file__).parents[3]
# Measured memory at rest in MiB: the search service, and the embedder with VGG16.
SEARCH_PROCESS, EMBEDDER_PROCESS = 180, 1100
# Maximum bytes for a pixel while an image is decoded, over all formats and modes.
DECODING_BYTES = 22


def search_parts(settings: SearchSettings) -> list[int]:
    """Return the parts of the search service's maximum memory in MiB, in the order of the page."""
    message = settings.max_message_bytes
    sizes = [
        settings.max_streams * message,
        (settings.max_slow_requests + FAST + HEALTH_FAST + HEALTH_SLOW) * message,
        settings.max_bytes_in_flight * 5 // 4,
        settings.embedder_bytes_in_flight * 4,
        settings.max_streams * EMBEDDED_BYTES,
        settings.answer_bytes_in_flight * 5,
        settings.max_unread_bytes,
        settings.max_streams * settings.search_unread_bytes,
        settings.max_concurrent_calls * 2 * SMALL_BYTES,
        3 * message,
    ]
    return [SEARCH_PROCESS, *(size // MEBIBYTE for size in sizes)]


def embedder_parts(settings: EmbedderSettings, side: int = 224) -> list[int]:
    """Return the parts of the embedder's maximum memory in MiB, in the order of the page.

    `side` is the side of a model's input in pixels.
    """
    message = settings.max_message_bytes
    sizes = [
        settings.max_streams * message,
        (settings.max_slow_requests + FAST + HEALTH_FAST + HEALTH_SLOW) * message,
        len(Lane) * settings.max_pending_bytes,
        len(Lane) * settings.max_decoding_pixels * DECODING_BYTES,
        len(settings.model_names) * (settings.max_pending + settings.max_pending_bulk) * 3 * side * side,
        settings.max_unread_bytes,
        settings.max_streams * settings.stream_unread_bytes,
        settings.max_concurrent_calls * 2 * SMALL_BYTES,
        3 * message,
    ]
    return [EMBEDDER_PROCESS, *(size // MEBIBYTE for size in sizes)]


PARTS = {
    "search": search_parts(SearchSettings.model_construct()),
    "embedder": embedder_parts(EmbedderSettings.model_construct()),
}
SECTIONS = {"search": "## Memory of the search service", "embedder": "## Memory of the embedder"}


@pytest.mark.parametrize("service", PARTS)
def test_the_page_shows_the_parts_and_their_sum(service: str) -> None:
    page = (ROOT / "docs/operate/limits.md").read_text()
    section = page[page.index(SECTIONS[service]) :]
    shown = [
        int(number) for number in re.findall(r"\| (\d+) \|$", section[: section.index("The manifests")], re.MULTILINE)
    ]
    assert shown == [*PARTS[service], sum(PARTS[service])]


@pytest.mark.parametrize("service", PARTS)
def test_the_manifests_allow_a_quarter_more_than_the_sum(service: str) -> None:
    documents = list(yaml.safe_load_all((ROOT / f"deploy/k8s/base/{service}/deployment.yaml").read_text()))
    (container,) = documents[-1]["spec"]["template"]["spec"]["containers"]
    memory = quantity(container["resources"]["limits"]["memory"]) / MEBIBYTE
    assert sum(PARTS[service]) * 1.25 <= memory


def test_compose_allows_the_embedder_a_quarter_more_than_the_sum() -> None:
    service = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]["embedder"]
    assert sum(PARTS["embedder"]) * 1.25 <= int(service["mem_limit"].removesuffix("g")) * 1024
