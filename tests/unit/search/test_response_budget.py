"""The estimated bytes of responses in preparation."""

from grpc_kit.server.message_budget import MessageBudget
from search_service.api.response_budget import ResponseBudget
from search_service.core.types import View

LIMIT = 16 * 1024 * 1024


def new_budget() -> ResponseBudget:
    return ResponseBudget(MessageBudget(LIMIT, "bytes", "the responses"), LIMIT // 2)


def test_the_first_response_with_regions_reserves_at_most_half_of_the_budget() -> None:
    budget = new_budget()
    # 64 regions of 512 components.
    assert budget.estimate("photos", View.FULL, 10) > 10 * 64 * 512 * 4
    assert budget.estimate("photos", View.FULL, 1000) == LIMIT // 2
    assert budget.estimate("photos", View.VECTOR, 10) > 10 * 4096 * 4


def test_later_responses_reserve_what_earlier_ones_needed() -> None:
    budget = new_budget()
    budget.observe("photos", View.FULL, 10, 10 * 5000)
    assert budget.estimate("photos", View.FULL, 100) == 100 * 5000
    budget.observe("photos", View.FULL, 10, 10 * 9000)
    assert budget.estimate("photos", View.FULL, 100) == 100 * 9000
    budget.observe("photos", View.FULL, 10, 10 * 1000)
    assert 1000 < budget.estimate("photos", View.FULL, 1) < 9000
