"""A real Prometheus scrapes the cluster, and the shipped rules tell of faults and of nothing else.

All times of the rules are a thirtieth of what they are (`prometheus.scaled`), with a scrape a second in place of one
every 30 s.
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
    """Prometheus, which follows the replicas of the cluster as its discovery would."""

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
    """Gives the seconds until it holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + seconds, "not within the time"
        time.sleep(0.25)
    return time.monotonic() - began


def fires(watching: Prometheus, alert: str, figures: Figures, **labels: str) -> None:
    """Waits until an alert with these labels fires."""

    def is_firing() -> bool:
        return any(labels.items() <= found.items() for found in watching.firing().get(alert, []))

    seconds = eventually(is_firing, FIRE_SECONDS)
    figures.add(f"{alert}: seconds until it fires ({FASTER} times faster)", seconds)


def resolves(watching: Prometheus, alert: str, figures: Figures) -> None:
    """Waits until an alert fires no more."""
    seconds = eventually(lambda: alert not in watching.firing(), RESOLVE_SECONDS)
    figures.add(f"{alert}: seconds until it is resolved ({FASTER} times faster)", seconds)


def test_nothing_but_the_times_of_the_rules_is_scaled() -> None:
    rule = '    expr: rate(a_rate5m{b="x"}[5m]) > 60 unless c[1h] offset 2h\n    for: 10m\n    description: for 10m\n'
    expected = (
        '    expr: rate(a_rate5m{b="x"}[10000ms]) > 60 unless c[120000ms] offset 240000ms\n'
        "    for: 20000ms\n    description: for 10m\n"
    )
    assert scaled(rule, 30) == expected
    for path in RULES.glob("*.yml"):
        assert scaled(path.read_text(), 1) != path.read_text()


def test_all_is_calm_while_nothing_is_wrong(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(CALM_SECONDS / 2)
        seen: set[str] = set()
        deadline = time.monotonic() + CALM_SECONDS
        while time.monotonic() < deadline:
            seen |= watching.firing().keys()
            time.sleep(0.5)
    figures.add("alerts while nothing is wrong", sorted(seen) or 0)
    assert seen == set()
    assert load.failures() == {}
    assert watching.unhealthy_rules() == []


def test_an_instance_that_is_down_is_told_of(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    dead = cluster.embedder.replicas[0]
    with Load(cluster.callers.by_kind()) as load:
        dead.process.kill()
        fires(watching, "ImagesearchInstanceDown", figures, job="embedder", instance=dead.metrics)
        dead.process.start()
        dead.process.wait_until_healthy()
        resolves(watching, "ImagesearchInstanceDown", figures)
    assert load.failures() == {}


def test_embedders_that_refuse_for_want_of_room_are_told_of(
    cluster: Cluster, watching: Prometheus, figures: Figures
) -> None:
    # Far more than EMBEDDER_MAX_PENDING of all three.
    with Load({"embed": [cluster.callers.embed] * 260}, pause=0.01) as load:
        fires(watching, "EmbedderOverloaded", figures, job="embedder")
    assert any("OVERLOADED" in why or "RESOURCE_EXHAUSTED" in why for _, why in load.failures())
    resolves(watching, "EmbedderOverloaded", figures)


def test_calls_that_all_go_to_one_replica_are_told_of(
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


def says_that_it_does_not_serve(callers: Callers) -> bool:
    try:
        return not callers.client.is_serving()
    except ServiceError:
        return False


def test_a_replica_that_cannot_reach_milvus_is_told_of(
    cluster: Cluster, watching: Prometheus, contents: list[bytes], figures: Figures
) -> None:
    cut_off = cluster.search.prepare(SEARCH_MILVUS_URI="http://127.0.0.1:9", SEARCH_MILVUS_TIMEOUT_SECONDS="1")
    lost = Callers(f"{cut_off.host}:{cluster.search.port}", cluster.embedder.target, contents)
    try:
        eventually(lambda: says_that_it_does_not_serve(lost), 60)
        with Load(cluster.callers.by_kind()) as load, Load(lost.by_kind("search by vector")) as failing:
            fires(watching, "MilvusUnavailable", figures, job="search")
            fires(watching, "ImagesearchInstanceDown", figures, job="search", instance=cut_off.metrics)
        # Nobody but those who ask for it was sent there.
        assert load.failures() == {}
        assert failing.failures()
        assert all("MILVUS_" in why for _, why in failing.failures())
    finally:
        lost.close()
        cut_off.process.stop()
        cluster.search.forget(cut_off)
    resolves(watching, "ImagesearchInstanceDown", figures)
    resolves(watching, "MilvusUnavailable", figures)


def test_a_milvus_that_is_gone_is_told_of(cluster: Cluster, watching: Prometheus, figures: Figures) -> None:
    with Load(cluster.callers.by_kind("search by vector", "read", "embed")) as load:
        cluster.milvus.kill()
        fires(watching, "SearchNotServing", figures, job="search")
        fires(watching, "SearchFaultsFast", figures, job="search")
        assert "ImagesearchDown" not in watching.firing()
        cluster.milvus.start()
        resolves(watching, "SearchNotServing", figures)
        resolves(watching, "SearchFaultsFast", figures)
    # Vectors are made without Milvus.
    assert load.failures(["embed"]) == {}
