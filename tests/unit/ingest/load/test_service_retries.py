"""How long an item is tried."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from grpc_kit.errors import (
    InvalidArgumentError,
    ResourceExhaustedError,
    ServiceError,
    UnavailableError,
    out_of_memory,
)
from imagesearch_ingest.load.errors import CallBrokenError, LoadStoppedError
from imagesearch_ingest.load.service_retries import RequestRetries, ServiceAvailability

SECONDS = 0.05
REFUSED = ResourceExhaustedError("OVERLOADED", "too many wait", retry_after=0.0)
BROKEN = CallBrokenError("UNAVAILABLE", "socket closed", retry_after=0.0)


def answering(is_there: bool) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return is_there

    return answer


@pytest.fixture
def availability() -> ServiceAvailability:
    return ServiceAvailability("the embedder", SECONDS, answering(True))


async def refuse(retries: RequestRetries, times: int, *, over: float, heard: Callable[[], None] = lambda: None) -> None:
    """So many refusals of one item in `over` seconds; `heard` before each is what others hear of the service."""
    for _ in range(times):
        heard()
        await retries.wait(REFUSED)
        await asyncio.sleep(over / times)


async def test_what_a_busy_service_refuses_is_not_given_up_as_long_as_others_pass(
    availability: ServiceAvailability,
) -> None:
    await refuse(RequestRetries(availability), 10, over=2 * SECONDS, heard=availability.record_success)


async def test_what_is_refused_however_often_it_is_asked_fails_in_the_end(availability: ServiceAvailability) -> None:
    with pytest.raises(ResourceExhaustedError):
        await refuse(RequestRetries(availability), 30, over=2 * SECONDS, heard=availability.record_success)


async def test_a_service_that_refuses_everything_ends_the_load(availability: ServiceAvailability) -> None:
    with pytest.raises(LoadStoppedError, match="every call to the embedder failed for 0 s; last error: too many wait"):
        await refuse(RequestRetries(availability), 10, over=2 * SECONDS)


async def test_an_item_whose_calls_break_fails_where_the_service_is_there(availability: ServiceAvailability) -> None:
    retries = RequestRetries(availability)
    await retries.wait(BROKEN)
    assert retries.broken_calls == 1
    await asyncio.sleep(2 * SECONDS)
    with pytest.raises(CallBrokenError):
        await retries.wait(BROKEN)


@pytest.mark.parametrize("error", [REFUSED, out_of_memory(), UnavailableError("STOPPING", "it stops", retry_after=0.0)])
async def test_a_refusal_is_no_suspicion_of_the_item(availability: ServiceAvailability, error: ServiceError) -> None:
    retries = RequestRetries(availability)
    await retries.wait(error)
    assert retries.broken_calls == 0


async def test_an_item_that_is_wrong_is_not_tried_again(availability: ServiceAvailability) -> None:
    with pytest.raises(InvalidArgumentError):
        await RequestRetries(availability).wait(InvalidArgumentError("IMAGE_EMPTY", "no bytes", field="image.content"))
