"""Channels: retries, balancing and limits."""

import asyncio
import json

import grpc
import pytest
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc

from grpc_kit.channel import RETRY_POLICY, channel_options, open_blocking_channel, open_channel, service_config
from grpc_kit.errors import UnavailableError
from grpc_kit.health import LIVENESS
from grpc_kit.status import from_rpc_error
from tests.unit.grpc_kit.example import Serving, failure

MIB = 1024 * 1024
# The default deadline of the search service's calls to an embedder.
EMBEDDER_SECONDS = 20


def test_only_repeatable_methods_have_a_retry_policy() -> None:
    config = service_config(["a.Service", "b.Service/Method"])
    assert config["methodConfig"] == [
        {"name": [{"service": "a.Service"}, {"service": "b.Service", "method": "Method"}], "retryPolicy": RETRY_POLICY}
    ]
    assert service_config([])["methodConfig"] == []


def test_only_unavailable_and_stopping_servers_cause_retries_and_retries_end() -> None:
    assert RETRY_POLICY["retryableStatusCodes"] == ("UNAVAILABLE", "CANCELLED")
    # gRPC allows at most 5 attempts.
    assert RETRY_POLICY["maxAttempts"] == 4


def test_calls_are_balanced_over_all_addresses_and_retries_are_throttled() -> None:
    config = service_config([])
    assert config["loadBalancingConfig"] == [{"round_robin": {}}]
    assert config["retryThrottling"] == {"maxTokens": 1000, "tokenRatio": 1}


@pytest.mark.parametrize("size", [1000, 24 * MIB])
def test_the_options_bound_messages_and_buffer_the_largest_one_for_retries(size: int) -> None:
    options = dict(channel_options(size, ["a.Service"]))
    assert options["grpc.max_send_message_length"] == options["grpc.max_receive_message_length"] == size
    buffer = options["grpc.per_rpc_retry_buffer_size"]
    assert isinstance(buffer, int)
    assert buffer > size
    assert str(options["grpc.service_config"]) == json.dumps(service_config(["a.Service"]))
    assert options["grpc.enable_http_proxy"] == 0


def test_no_option_is_set_twice() -> None:
    names = [name for name, _ in channel_options(1000)]
    assert len(names) == len(set(names))


def test_a_channel_pings_less_often_than_a_server_allows() -> None:
    options = dict(channel_options(1000))
    assert int(options["grpc.keepalive_time_ms"]) >= 10_000


@pytest.mark.parametrize("size", [5 * MIB, 23 * MIB])
async def test_a_large_request_is_retried_if_the_server_is_unavailable_twice(serving: Serving, size: int) -> None:
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


@pytest.mark.parametrize(
    ("target", "watched"),
    [
        ("dns:///embedder-headless:50051", True),
        ("ipv4:127.0.0.1:1,127.0.0.2:1", True),
        # The target may be a proxy, whose health is not the health of a server behind it.
        ("images.example.com:443", False),
        ("127.0.0.1:50051", False),
    ],
)
def test_servers_are_watched_if_the_target_resolves_to_servers(
    target: str, watched: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []
    monkeypatch.setattr(grpc, "insecure_channel", lambda _, options: opened.append(dict(options)))
    open_blocking_channel(target, 1000)
    config = json.loads(opened[0]["grpc.service_config"])
    assert config.get("healthCheckConfig") == ({"serviceName": LIVENESS} if watched else None)


def test_a_frozen_server_is_detected_early_enough_for_a_retry() -> None:
    options = dict(channel_options(1000))
    timeout = int(options["grpc.keepalive_timeout_ms"])
    assert int(options["grpc.keepalive_time_ms"]) + timeout < 1000 * EMBEDDER_SECONDS
    # Without this option gRPC waits for the answer to its own ping and sends no keepalive pings.
    assert options["grpc.http2.ping_timeout_ms"] == timeout


def test_names_are_resolved_often_enough_for_new_replicas() -> None:
    options = dict(channel_options(1000))
    assert int(options["grpc.dns_min_time_between_resolutions_ms"]) <= 10_000


async def test_watching_clients_send_no_calls_to_a_dead_server(serving: Serving) -> None:
    async with serving() as working, serving() as dead:
        async with open_channel(f"ipv4:{working.address},{dead.address}", 1000) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)

            async def call() -> None:
                await stub.GetModel(embedder_pb2.GetModelRequest(name="fine"), timeout=10)

            while not dead.servicer.calls:
                await call()
            await dead.server.report_dead()
            await asyncio.sleep(0.3)
            before = dead.servicer.calls["fine"]
            for _ in range(20):
                await call()
            assert dead.servicer.calls["fine"] == before
        # A caller without another server gets the reason from this server.
        assert await dead.get("fine") == "fine"


async def test_a_server_that_is_not_ready_still_answers_with_a_reason(serving: Serving) -> None:
    async with serving() as running, open_channel(f"ipv4:{running.address}", 1000) as channel:
        await running.server.set_serving(serving=False)
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        error = await failure(stub.GetModel(embedder_pb2.GetModelRequest(name="refuse"), timeout=10))
        assert error.code() is grpc.StatusCode.NOT_FOUND
