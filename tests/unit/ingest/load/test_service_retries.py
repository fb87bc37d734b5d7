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
from imagesearch_ingest.load.service_retries import CallBrokenError, LoadStoppedError, RequestRetries, ServiceRetries

SECONDS = 0.05
REFUSED = ResourceExhaustedError("OVERLOADED", "too many wait", retry_after=0.0)
BROKEN = CallBrokenError("UNAVAILABLE", "socket closed", retry_after=0.0)


def answering(is_there: bool) -> Callable[[], Awaitable[bool]]:
    async def answer() -> bool:
        return is_there

    return answer


@pytest.fixture
def patience() -> ServiceRetries:
    return ServiceRetries("the embedder", SECONDS, answering(True))


async def refuse(tries: RequestRetries, times: int, *, over: float, heard: Callable[[], None] = lambda: None) -> None:
    """So many refusals of one item in `over` seconds; `heard` before each is what others hear of the service."""
    for _ in range(times):
        heard()
        await tries.wait(REFUSED)
        await asyncio.sleep(over / times)


async def test_what_a_busy_service_refuses_is_not_given_up_as_long_as_others_pass(patience: ServiceRetries) -> None:
    await refuse(RequestRetries(patience), 10, over=2 * SECONDS, heard=patience.heard)


async def test_what_is_refused_however_often_it_is_asked_fails_in_the_end(patience: ServiceRetries) -> None:
    with pytest.raises(ResourceExhaustedError):
        await refuse(RequestRetries(patience), 30, over=2 * SECONDS, heard=patience.heard)


async def test_a_service_that_refuses_everything_ends_the_load(patience: ServiceRetries) -> None:
    with pytest.raises(LoadStoppedError, match="the embedder did nothing for 0 s, and says: too many wait"):
        await refuse(RequestRetries(patience), 10, over=2 * SECONDS)


async def test_an_item_whose_calls_break_fails_where_the_service_is_there(patience: ServiceRetries) -> None:
    tries = RequestRetries(patience)
    await tries.wait(BROKEN)
    assert tries.broken == 1
    await asyncio.sleep(2 * SECONDS)
    with pytest.raises(CallBrokenError):
        await tries.wait(BROKEN)


@pytest.mark.parametrize("error", [REFUSED, out_of_memory(), UnavailableError("STOPPING", "it stops", retry_after=0.0)])
async def test_a_refusal_is_no_suspicion_of_the_item(patience: ServiceRetries, error: ServiceError) -> None:
    tries = RequestRetries(patience)
    await tries.wait(error)
    assert tries.broken == 0


async def test_an_item_that_is_wrong_is_not_tried_again(patience: ServiceRetries) -> None:
    with pytest.raises(InvalidArgumentError):
        await RequestRetries(patience).wait(InvalidArgumentError("IMAGE_EMPTY", "no bytes", field="image.content"))
