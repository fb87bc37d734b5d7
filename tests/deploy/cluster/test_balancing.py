"""Calls go to all replicas alike, and none is lost while replicas come, go, die and freeze."""

import signal
import time
from pathlib import Path

import pytest

from tests.deploy.cluster.conftest import Cluster, Figures
from tests.deploy.cluster.load import NOT_REPEATED, REPEATED, Ingests, Load
from tests.deploy.cluster.replicas import Deployment, seconds_until_share, spread

# What is promised.
UNEVEN, SHARE_SECONDS = 0.10, 30.0
SPREAD_SECONDS = 20.0
SETTLE_SECONDS = 3.0
# Longer than it takes to find that a replica is frozen: 12 s until it is asked, and 5 s for its answer.
FROZEN_SECONDS = 22.0


# What takes as long as it is.
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


def test_an_embedder_that_is_killed_costs_no_call_and_the_next_one_gets_its_share(
    cluster: Cluster, figures: Figures
) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        cluster.embedder.kill(cluster.embedder.replicas[0])
        share_of_an_added_one("embedder", cluster.embedder, figures)
    note(figures, "embedder killed, one added", load)
    assert load.failures() == {}


def test_a_search_service_that_is_killed_costs_no_call_that_may_be_repeated_and_the_next_one_gets_its_share(
    cluster: Cluster, figures: Figures
) -> None:
    with Load(cluster.callers.by_kind()) as load:
        time.sleep(SETTLE_SECONDS)
        cluster.search.kill(cluster.search.replicas[0])
        share_of_an_added_one("search service", cluster.search, figures)
    note(figures, "search service killed, one added", load)
    assert load.failures(REPEATED) == {}
    assert_only_under_way(load, cluster)


def share_of_an_added_one(name: str, deployment: Deployment, figures: Figures) -> None:
    (added,) = deployment.add()
    figures.add(f"{name} added: seconds until its share", seconds_until_share(deployment, added, SHARE_SECONDS))


def assert_only_under_way(load: Load, cluster: Cluster) -> None:
    """A change that a dead server had is told as not known, once to each caller at the most: there is no other."""
    several = cluster.callers.by_kind()
    for kind in NOT_REPEATED:
        assert sum(load.failures([kind]).values()) <= len(several[kind])
    assert all(why.startswith(("UnavailableError", "CancelledError")) for _, why in load.failures(NOT_REPEATED))
    assert load.failures(["write"]) == {}


@pytest.mark.parametrize("service", ["embedder", "search"])
def test_a_replica_that_freezes_costs_no_call_that_may_be_repeated_and_comes_back(
    service: str, cluster: Cluster, figures: Figures
) -> None:
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
    assert load.failures(REPEATED) == {}
    if service == "embedder":
        assert load.failures() == {}
    else:
        assert_only_under_way(load, cluster)


def test_a_rolling_restart_of_all_costs_no_call_and_no_image_of_a_load(
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
