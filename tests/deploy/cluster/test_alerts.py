"""A real Prometheus scrapes the cluster. The alert rules must fire for faults, and only for faults.

All times of the rules are divided by 30 (`prometheus.scaled`): Prometheus scrapes every second instead of every 30 s.
"""

import time
from collections.abc import Callable, Iterator

import pytest

from grpc_kit.errors import ServiceError
from tests.deploy.cluster.conftest import Cluster, Figures
from tests.deploy.cluster.load import Callers, Load
from tests.deploy.cluster.prometheus import FASTER, RULES, Prometheus, prometheus, scaled

FIRE_SECONDS, RESOLVE_SECONDS = 90.0, 90.0
CALM_SECONDS = 30.0


@pytest.fixture(scope="module")
def watching(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run Prometheus, and update its targets when replicas come and go, like service discovery."""

    def follow() -> None:
        services = cluster.embedder, cluster.search
        running.scrape({each.service: [replica.metrics for replica in each.replicas] for each in services})

    with prometheus(tmp_path_factory.mktemp("prometheus")) as running:
        cluster.embedder.changed = cluster.search.changed = follow
        follow()
        eventually(lambda: running.up() == {"embedder": 3, "search": 2}, 30)
        yield running
        cluster.embedder.changed = cluster.search.changed = lambda: None


def eventually(holds: Callable[[], bool], seconds: float) -> float:
    """Wait until a condition holds, and return the seconds. Fail after `seconds`."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + seconds, f"the condition did not hold within {seconds:.0f} s"
        time.sleep(0.25)
    return time.monotonic() - began


def fires(watching: Prometheus, alert: str, figures: Figures, **labels: str) -> None:
    """Wait until an alert with these labels fires."""

    def is_firing() -> bool:
        return any(labels.items() <= found.items() for found in watching.firing().get(alert, []))

    seconds = eventually(is_firing, FIRE_SECONDS)
    figures.add(f"{alert}: seconds until it fires ({FASTER} times faster)", seconds)


def resolves(watching: Prometheus, alert: str, figures: Figures) -> None:
    """Wait until an alert no longer fires."""
    seconds = eventually(lambda: alert not in watching.firing(), RESOLVE_SECONDS)
    figures.add(f"{alert}: seconds until it is resolved ({FASTER} times faster)", seconds)


def test_scaled_changes_only_times() -> None:
    rule = '    expr: rate(a_rate5m{b="x"}[5m]) > 60 unless c[1h] offset 2h\n    for: 10m\n    description: for 10m\n'
    expected = (
        '    expr: rate(a_rate5m{b="x"}[10000ms]) > 60 unless c[120000ms] offset 240000ms\n'
        "    for: 20000ms\n    description: for 10m\n"
    )
    assert scaled(rule, 30) == expected
    for path in RULES.glob("*.yml"):
        assert scaled(path.read_text(), 1) != path.read_text()


def test_no_alert_fires_without_fault(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(CALM_SECONDS / 2)
        seen: set[str] = set()
        deadline = time.monotonic() + CALM_SECONDS
        while time.monotonic() < deadline:
            seen |= watching.firing().keys()
            time.sleep(0.5)
    figures.add("alerts without fault", sorted(seen) or 0)
    assert seen == set()
    assert load.failures() == {}
    assert watching.unhealthy_rules() == []


def test_alert_fires_for_dead_instance(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    dead = cluster.embedder.replicas[0]
    with Load(cluster.callers.by_kind()) as load:
        dead.process.kill()
        fires(watching, "ImagesearchInstanceDown", figures, job="embedder", instance=dead.metrics)
        dead.process.start()
        dead.process.wait_until_healthy()
        resolves(watching, "ImagesearchInstanceDown", figures)
    assert load.failures() == {}


def test_alert_fires_for_overloaded_embedders(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    # Many more callers than EMBEDDER_MAX_PENDING of all three embedders.
    with Load({"embed": [cluster.callers.embed] * 260}, pause=0.01) as load:
        fires(watching, "EmbedderOverloaded", figures, job="embedder")
    assert any("OVERLOADED" in why or "RESOURCE_EXHAUSTED" in why for _, why in load.failures())
    resolves(watching, "EmbedderOverloaded", figures)


def test_alert_fires_if_one_replica_gets_all_calls(
    cluster: Cluster, watching: Prometheus, contents: list[bytes], figures: Figures
) -> None:
    (first, *_) = cluster.embedder.replicas
    one = Callers(cluster.search.target, f"{first.host}:{cluster.embedder.port}", contents)
    try:
        with Load({"embed": [one.embed] * 3}) as load:
            fires(watching, "ImagesearchUnevenLoad", figures, job="embedder", instance=first.metrics)
        assert load.failures() == {}
    finally:
        one.close()
    with Load(cluster.callers.by_kind("embed")):
        resolves(watching, "ImagesearchUnevenLoad", figures)


def reports_not_serving(callers: Callers) -> bool:
    try:
        return not callers.client.is_serving()
    except ServiceError:
        return False


def test_alerts_fire_for_replica_that_cannot_reach_milvus(
    cluster: Cluster, watching: Prometheus, contents: list[bytes], figures: Figures
) -> None:
    cut_off = cluster.search.prepare(SEARCH_MILVUS_URI="http://127.0.0.1:9", SEARCH_MILVUS_TIMEOUT_SECONDS="1")
    lost = Callers(f"{cut_off.host}:{cluster.search.port}", cluster.embedder.target, contents)
    try:
        eventually(lambda: reports_not_serving(lost), 60)
        with Load(cluster.callers.by_kind()) as load, Load(lost.by_kind("search by vector")) as failing:
            fires(watching, "MilvusUnavailable", figures, job="search")
            fires(watching, "ImagesearchInstanceDown", figures, job="search", instance=cut_off.metrics)
        # Clients that resolve the name never called this replica.
        assert load.failures() == {}
        assert failing.failures()
        assert all("MILVUS_" in why for _, why in failing.failures())
    finally:
        lost.close()
        cut_off.process.stop()
        cluster.search.forget(cut_off)
    resolves(watching, "ImagesearchInstanceDown", figures)
    resolves(watching, "MilvusUnavailable", figures)


def test_alerts_fire_if_milvus_is_down(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    with Load(cluster.callers.by_kind("search by vector", "read", "embed")) as load:
        cluster.milvus.kill()
        fires(watching, "SearchNotServing", figures, job="search")
        fires(watching, "SearchFaultsFast", figures, job="search")
        assert "ImagesearchDown" not in watching.firing()
        cluster.milvus.start()
        resolves(watching, "SearchNotServing", figures)
        resolves(watching, "SearchFaultsFast", figures)
    # Embedding does not need Milvus.
    assert load.failures(["embed"]) == {}
