"""Budgets of a test run. These tests run last; they are meaningful only after all other tests.

Each tier has a budget for operations that are slow on every machine. If a test needs more, let it share existing
services; otherwise raise the budget here, where a reviewer sees it. CONTRIBUTING.md has the same table.
"""

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

from tests.harness import counts, shared_services
from tests.harness.counts import COMMANDS, EMBEDDERS, IMAGES, MILVUS_SERVERS, SEARCH_SERVICES
from tests.harness.processes import metric

KINDS = (EMBEDDERS, SEARCH_SERVICES, MILVUS_SERVERS, COMMANDS, IMAGES)
# Budgets by tier, in the order of KINDS.
BUDGETS = {
    "shared": (1, 2, 1, 0, 4000),
    "unit": (2, 0, 0, 2, 0),
    "contract": (0, 0, 0, 0, 0),
    "integration": (14, 7, 1, 2, 2000),
    "e2e": (22, 45, 2, 10, 1500),
    "install": (0, 0, 0, 0, 0),
    "soak": (40, 40, 13, 40, 8000),
}
WAIT_SECONDS = 600
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def spent(request: pytest.FixtureRequest) -> dict[str, Counter[str]]:
    """Return the counts of all tests; wait until the other workers have finished."""
    others = sum("test_budgets" not in item.nodeid for item in request.session.items)
    deadline = time.monotonic() + WAIT_SECONDS
    while sum(count[counts.TESTS] for count in counts.totals().values()) < others:
        assert time.monotonic() < deadline, "tests of another worker did not end"
        time.sleep(0.2)
    found = counts.totals()
    if found.keys() - {"unit"}:
        address = shared_services.find("embedder")["metrics"]
        found.setdefault("shared", Counter())[IMAGES] += int(metric(address, "embedder_batch_size_sum"))
    return found


@pytest.mark.timeout(WAIT_SECONDS + 60)
@pytest.mark.parametrize("tier", BUDGETS)
def test_each_tier_stays_within_its_budget(tier: str, spent: dict[str, Counter[str]]) -> None:
    budget = dict(zip(KINDS, BUDGETS[tier], strict=True))
    cost = {kind: spent.get(tier, Counter())[kind] for kind in KINDS}
    with Path(os.environ.get("TESTS_COSTS", os.devnull)).open("a") as file:
        file.write(f"{tier}: {cost}\n")
    over = {kind: f"{cost[kind]} of {budget[kind]}" for kind in KINDS if cost[kind] > budget[kind]}
    assert over == {}


def test_every_tier_has_a_budget(spent: dict[str, Counter[str]]) -> None:
    assert spent.keys() <= BUDGETS.keys()


def test_contributing_shows_the_same_budgets() -> None:
    rows = re.findall(r"^ *\| (\w+) \|((?: [\d,]+ \|){5})$", CONTRIBUTING.read_text(), re.MULTILINE)
    shown = {tier: tuple(int(cell.replace(",", "")) for cell in cells.split("|")[:-1]) for tier, cells in rows}
    assert shown == BUDGETS


def test_command_lines_are_counted_by_kind() -> None:
    assert counts.kinds_of(["python", "-m", "embedder_service"]) == (EMBEDDERS,)
    assert counts.kinds_of(["python", "-c", "...", "1", "python", "-m", "search_service"]) == (SEARCH_SERVICES,)
    assert counts.kinds_of(["python", "-m", "imagesearch_cli", "status"]) == (COMMANDS,)
    assert counts.kinds_of(["/venv/bin/imagesearch", "status"]) == (COMMANDS,)
    assert counts.kinds_of(["bin/milvus", "run", "standalone", "-alias", "x"]) == (MILVUS_SERVERS,)
    assert counts.kinds_of(["python", "-m", "pytest"]) == ()
