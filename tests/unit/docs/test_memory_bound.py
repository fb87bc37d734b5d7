"""The bound on the search service's memory: the page, the settings and the manifests say the same."""

import re
from pathlib import Path

import yaml

from deploy.checks.pods import quantity
from grpc_kit.interceptors.receiving import FAST, HEALTH_FAST, HEALTH_SLOW
from grpc_kit.message_budget import SMALL_BYTES
from grpc_kit.settings import MEBIBYTE
from search_service.settings import SearchSettings

ROOT = Path(__file__).parents[3]
PROCESS = 180
DEPLOYMENT = ROOT / "deploy/k8s/base/search/deployment.yaml"


def parts(settings: SearchSettings) -> list[int]:
    """The parts of the bound in MiB, in the order of the page."""
    message = settings.max_message_bytes
    sizes = [
        settings.max_streams * message,
        (settings.max_slow_requests + FAST + HEALTH_FAST + HEALTH_SLOW) * message,
        settings.max_bytes_in_flight * 5 // 4,
        settings.embedder_bytes_in_flight * 4,
        settings.answer_bytes_in_flight * 5,
        settings.max_unread_bytes,
        settings.max_streams * settings.search_unread_bytes,
        settings.max_concurrent_calls * 2 * SMALL_BYTES,
        3 * message,
    ]
    return [PROCESS, *(size // MEBIBYTE for size in sizes)]


def test_the_page_has_the_parts_of_the_bound_and_their_sum() -> None:
    page = (ROOT / "docs/operations.md").read_text()
    section = page[page.index("**Memory of the search service**") :]
    shown = [
        int(number) for number in re.findall(r"\| (\d+) \|$", section[: section.index("The manifests")], re.MULTILINE)
    ]
    expected = parts(SearchSettings.model_construct())
    assert shown == [*expected, sum(expected)]


def test_the_manifests_give_the_service_a_quarter_more_than_the_bound() -> None:
    documents = list(yaml.safe_load_all(DEPLOYMENT.read_text()))
    (container,) = documents[-1]["spec"]["template"]["spec"]["containers"]
    memory = quantity(container["resources"]["limits"]["memory"]) / MEBIBYTE
    assert sum(parts(SearchSettings.model_construct())) * 1.25 <= memory
