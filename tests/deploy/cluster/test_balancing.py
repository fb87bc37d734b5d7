"""Calls are spread evenly, and none is lost while replicas start, stop, die and freeze."""

import signal
import time
from pathlib import Path

import pytest

from tests.deploy.cluster.conftest import Cluster, Figures
from tests.deploy.cluster.load import NOT_RETRIED, RETRIED, Ingests, Load
from tests.deploy.cluster.replicas import Deployment, seconds_until_share, spread

# Promises of the documentation.
UNEVEN, SHARE_SECONDS = 0.10, 30.0
SPREAD_SECONDS = 20.0
SETTLE_SECONDS = 3.0
# Longer than clients need to notice a frozen replica: a ping after 12 s, and 5 s for its answer.
FROZEN_SECONDS = 22.0


# Calls whose duration depends on their length.
STREAMS = ("write", "ingest")


def note(figures: Figures, what: str, load: Load) -> None:
    figures.add(f"{what}: calls", sum(load.done.values()))
    figures.add(f"{what}: failed calls", load.failures() or 0)
    figures.add(
        f"{what}: slowest call, s", max(seconds for kind, seconds in load.slowest.items() if kind not in STREAMS)
    )


def test_calls_are_spread_evenly(cluster: Cluster, figures: Figures) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        embedders, searches = spread([cluster.embedder, cluster.search], SPREAD_SECONDS)
    figures.add("embedders: calls, of an even share", embedders)
    figures.add("search services: calls, of an even share", searches)
    note(figures, "even load", load)
    assert load.failures() == {}
    assert all(abs(share - 1) <= UNEVEN for share in (*embedders, *searches))


def test_killed_embedder_fails_no_call_and_its_successor_gets_its_share(cluster: Cluster, figures: Figures) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        cluster.embedder.kill(cluster.embedder.replicas[0])
        measure_added_replica("embedder", cluster.embedder, figures)
    note(figures, "embedder killed, one added", load)
    assert load.failures() == {}


def test_killed_search_service_fails_no_retried_call_and_its_successor_gets_its_share(
    cluster: Cluster, figures: Figures
) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        cluster.search.kill(cluster.search.replicas[0])
        measure_added_replica("search service", cluster.search, figures)
    note(figures, "search service killed, one added", load)
    assert load.failures(RETRIED) == {}
    assert_only_calls_in_flight_failed(load, cluster)


def measure_added_replica(name: str, deployment: Deployment, figures: Figures) -> None:
    (added,) = deployment.add()
    figures.add(f"{name} added: seconds until its share", seconds_until_share(deployment, added, SHARE_SECONDS))


def assert_only_calls_in_flight_failed(load: Load, cluster: Cluster) -> None:
    """Check that each caller had at most one failed change: the change in flight on the dead server."""
    several = cluster.callers.by_kind()
    for kind in NOT_RETRIED:
        assert sum(load.failures([kind]).values()) <= len(several[kind])
    assert all(why.startswith(("UnavailableError", "CancelledError")) for _, why in load.failures(NOT_RETRIED))
    assert load.failures(["write"]) == {}


@pytest.mark.parametrize("service", ["embedder", "search"])
def test_frozen_replica_fails_no_retried_call_and_returns(service: str, cluster: Cluster, figures: Figures) -> None:
    deployment: Deployment = getattr(cluster, service)
    frozen = deployment.replicas[0]
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        frozen.process.signal(signal.SIGSTOP)
        try:
            time.sleep(FROZEN_SECONDS)
        finally:
            frozen.process.signal(signal.SIGCONT)
        seconds = seconds_until_share(deployment, frozen, SHARE_SECONDS)
    figures.add(f"{service} thawed: seconds until its share", seconds)
    note(figures, f"{service} frozen for {FROZEN_SECONDS:.0f} s", load)
    assert load.failures(RETRIED) == {}
    if service == "embedder":
        assert load.failures() == {}
    else:
        assert_only_calls_in_flight_failed(load, cluster)


def test_rolling_restart_fails_no_call_and_loses_no_image(
    cluster: Cluster, image_folder: Path, contents: list[bytes], tmp_path: Path, figures: Figures
) -> None:
    ingests = Ingests(cluster.search.target, cluster.embedder.target, image_folder, tmp_path)
    again = cluster.callers.write_again
    with Load({**cluster.callers.by_kind(), "ingest": [ingests.run]}) as load:
        time.sleep(SETTLE_SECONDS)
        began = time.monotonic()
        codes = [*cluster.embedder.roll(), *cluster.search.roll()]
        figures.add("rolling restart of all five: seconds", time.monotonic() - began)
        time.sleep(SETTLE_SECONDS)
    note(figures, "rolling restart", load)
    figures.add("rolling restart: streams of writes that were repeated", cluster.callers.write_again - again)
    figures.add("rolling restart: loads, images stored", [account.get("stored", 0) for account in ingests.accounts])
    assert codes == [0] * 5
    assert load.failures() == {}
    assert {account["stored"] for account in ingests.accounts} == {len(contents)}
    assert all(
        cluster.callers.client.count(f"load{number}") == len(contents) for number in range(len(ingests.accounts))
    )
    stored = set(cluster.callers.client.get_many("vectors", sorted(cluster.callers.written)[-1000:], strong=True))
    assert stored == set(sorted(cluster.callers.written)[-1000:])
