"""Retries of requests to a service."""

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


async def refuse(
    retries: RequestRetries, times: int, *, over: float, before_each: Callable[[], None] = lambda: None
) -> None:
    """Refuse one item `times` times within `over` seconds, and call `before_each` before each refusal."""
    for _ in range(times):
        before_each()
        await retries.wait(REFUSED)
        await asyncio.sleep(over / times)


async def test_refused_item_is_retried_while_other_calls_succeed(
    availability: ServiceAvailability,
) -> None:
    await refuse(RequestRetries(availability), 10, over=2 * SECONDS, before_each=availability.record_success)


async def test_item_that_is_always_refused_fails(availability: ServiceAvailability) -> None:
    with pytest.raises(ResourceExhaustedError):
        await refuse(RequestRetries(availability), 30, over=2 * SECONDS, before_each=availability.record_success)


async def test_service_that_refuses_every_call_stops_the_load(availability: ServiceAvailability) -> None:
    with pytest.raises(LoadStoppedError, match="every call to the embedder failed for 0 s; last error: too many wait"):
        await refuse(RequestRetries(availability), 10, over=2 * SECONDS)


async def test_item_that_breaks_its_calls_fails_if_the_service_responds(availability: ServiceAvailability) -> None:
    retries = RequestRetries(availability)
    await retries.wait(BROKEN)
    assert retries.broken_calls == 1
    await asyncio.sleep(2 * SECONDS)
    with pytest.raises(CallBrokenError):
        await retries.wait(BROKEN)


@pytest.mark.parametrize("error", [REFUSED, out_of_memory(), UnavailableError("STOPPING", "it stops", retry_after=0.0)])
async def test_refusals_do_not_count_as_broken_calls(availability: ServiceAvailability, error: ServiceError) -> None:
    retries = RequestRetries(availability)
    await retries.wait(error)
    assert retries.broken_calls == 0


async def test_invalid_item_is_not_retried(availability: ServiceAvailability) -> None:
    with pytest.raises(InvalidArgumentError):
        await RequestRetries(availability).wait(InvalidArgumentError("IMAGE_EMPTY", "no bytes", field="image.content"))
