"""Channels: what they repeat, how they spread calls, and their limits."""

import json

import grpc
import pytest

from grpc_kit.channel import RETRY_POLICY, channel_options, service_config
from grpc_kit.errors import UnavailableError
from grpc_kit.status import from_rpc_error
from tests.unit.grpc_kit.example import Serving, failure

MIB = 1024 * 1024


def test_only_what_may_be_repeated_has_a_retry_policy() -> None:
    config = service_config(["a.Service", "b.Service/Method"])
    assert config["methodConfig"] == [
        {"name": [{"service": "a.Service"}, {"service": "b.Service", "method": "Method"}], "retryPolicy": RETRY_POLICY}
    ]
    assert service_config([])["methodConfig"] == []


def test_only_a_server_that_is_away_or_stops_is_a_reason_to_repeat_and_not_without_end() -> None:
    assert RETRY_POLICY["retryableStatusCodes"] == ("UNAVAILABLE", "CANCELLED")
    # gRPC takes no more than 5.
    assert RETRY_POLICY["maxAttempts"] == 4


def test_calls_go_round_all_addresses_and_retries_are_throttled() -> None:
    config = service_config([])
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["retryThrottling"] == {"maxTokens": 200, "tokenRatio": 1}


@pytest.mark.parametrize("size", [1000, 24 * MIB])
def test_the_options_bound_messages_and_keep_the_largest_for_a_retry(size: int) -> None:
    options = dict(channel_options(size, ["a.Service"]))
    assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == size
    buffer = options["grpc.per_rpc_retry_buffer_size"]
    assert isinstance(buffer, int)
    assert buffer > size
    assert str(options["grpc.service_config"]) == json.dumps(service_config(["a.Service"]))
    assert options["grpc.enable_http_proxy"] == 0


def test_no_option_is_given_twice() -> None:
    names = [name for name, _ in channel_options(1000)]
    assert len(names) == len(set(names))


def test_a_channel_asks_less_often_than_a_server_allows() -> None:
    options = dict(channel_options(1000))
    assert int(options["grpc.keepalive_time_ms"]) >= 10_000


@pytest.mark.parametrize("size", [5 * MIB, 23 * MIB])
async def test_a_large_request_is_repeated_where_the_server_is_unavailable_twice(serving: Serving, size: int) -> None:
    name = "fail twice#" + size * "x"
    async with serving(largest=24 * MIB) as running:
        assert await running.get(name) == name
        assert running.servicer.calls[name] == 3


async def test_a_server_that_stays_unavailable_is_tried_four_times(serving: Serving) -> None:
    async with serving() as running:
        error = await failure(running.get("unavailable"))
        assert error.code() is grpc.StatusCode.UNAVAILABLE
        named = from_rpc_error(error)
        assert (type(named), named.reason) == (UnavailableError, "BUSY")
        assert running.servicer.calls["unavailable"] == 4
