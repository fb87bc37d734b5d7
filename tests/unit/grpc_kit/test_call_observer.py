"""Observation of calls: metrics, a log line, and the times of the stages."""

import asyncio
import re
import socket
import time
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from prometheus_client import CollectorRegistry, Counter
from structlog.testing import capture_logs

from grpc_kit.server import stages
from grpc_kit.server.interceptors.call_observer import SERVER_TIMING
from grpc_kit.server.metrics import new_registry, served
from tests.unit.grpc_kit.example import SERVICE, Running, Serving, failure, stream

METHODS = {"unary": "GetModel", "stream": "EmbedStream"}
KINDS = pytest.mark.parametrize("kind", METHODS)


def call(running: Running, kind: str, name: str, **options: Any) -> Any:
    return running.get(name, **options) if kind == "unary" else stream(running.channel, [name], **options)


def samples(registry: CollectorRegistry, name: str, label: str = "") -> dict[tuple[str, str], float]:
    """Return the values of a metric that are not 0, by method and by another label if there is one."""
    return {
        (sample.labels["grpc_method"], sample.labels.get(label, "")): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name and sample.value
    }


def value(running: Running, name: str, kind: str, **labels: str) -> float:
    every = {"grpc_service": SERVICE, "grpc_method": METHODS[kind], **labels}
    return running.registry.get_sample_value(name, every) or 0.0


async def eventually(is_so: Callable[[], bool]) -> None:
    """Wait until the server has handled a disconnected caller."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


def call_lines(lines: list[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in lines if line["event"] == "call"]


async def test_each_stage_of_a_unary_call_is_timed(serving: Serving) -> None:
    async with serving() as running:
        for name in ("staged", "staged", "fine"):
            await call(running, "unary", name)
        await call(running, "stream", "staged")
        for stage, seconds in (("decode", 1.5), ("inference", 4.0)):
            assert value(running, "grpc_server_stage_seconds_count", "unary", stage=stage) == 2
            assert value(running, "grpc_server_stage_seconds_sum", "unary", stage=stage) == pytest.approx(seconds)
        assert {method for method, _ in samples(running.registry, "grpc_server_stage_seconds_count", "stage")} == {
            METHODS["unary"]
        }


@KINDS
@pytest.mark.parametrize(
    ("name", "code", "reason"),
    [("fine", "OK", ""), ("refuse", "NOT_FOUND", "NO_SUCH_THING"), ("fault", "INTERNAL", "INTERNAL")],
)
async def test_a_call_is_counted_by_its_method_code_and_reason(
    serving: Serving, kind: str, name: str, code: str, reason: str
) -> None:
    async with serving() as running:
        for _ in range(2):
            await asyncio.gather(call(running, kind, name), return_exceptions=True)
        method, registry = METHODS[kind], running.registry
        assert value(running, "grpc_server_started_total", kind) == 2
        assert value(running, "grpc_server_handled_total", kind, grpc_code=code) == 2
        assert value(running, "grpc_server_handling_seconds_count", kind) == 2
        assert 0 < value(running, "grpc_server_handling_seconds_sum", kind) < 10
        assert samples(registry, "grpc_server_started_total") == {(method, ""): 2}
        assert samples(registry, "grpc_server_handled_total", "grpc_code") == {(method, code): 2}
        assert samples(registry, "grpc_server_refused_total", "reason") == ({(method, reason): 2} if reason else {})
        assert samples(registry, "grpc_server_in_flight") == {}


@KINDS
async def test_a_call_counts_as_in_flight_until_it_ends(serving: Serving, kind: str) -> None:
    async with serving() as running:
        waiting = asyncio.ensure_future(call(running, kind, "wait"))
        await running.servicer.begun.wait()
        assert value(running, "grpc_server_in_flight", kind) == 1
        assert samples(running.registry, "grpc_server_handled_total", "grpc_code") == {}
        running.servicer.may_end.set()
        await waiting
        assert value(running, "grpc_server_in_flight", kind) == 0


@KINDS
async def test_a_call_of_a_caller_that_disconnects_is_counted_as_cancelled(serving: Serving, kind: str) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            waiting = asyncio.ensure_future(call(running, kind, "wait"))
            await running.servicer.begun.wait()
            waiting.cancel()
            await eventually(lambda: value(running, "grpc_server_handled_total", kind, grpc_code="CANCELLED") == 1)
            assert samples(running.registry, "grpc_server_in_flight") == {}
            assert samples(running.registry, "grpc_server_refused_total", "reason") == {}
            assert value(running, "grpc_server_handling_seconds_count", kind) == 1
    (line,) = call_lines(lines)
    assert (line["method"], line["code"]) == (f"/{SERVICE}/{METHODS[kind]}", "CANCELLED")


@KINDS
async def test_a_call_cancelled_before_its_deadline_is_counted_as_cancelled(serving: Serving, kind: str) -> None:
    async with serving() as running:
        waiting = asyncio.ensure_future(call(running, kind, "wait", timeout=60))
        await running.servicer.begun.wait()
        waiting.cancel()
        await eventually(lambda: value(running, "grpc_server_handled_total", kind, grpc_code="CANCELLED") == 1)


@KINDS
async def test_a_call_that_exceeds_its_deadline_is_counted_as_deadline_exceeded(serving: Serving, kind: str) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            for count in range(10):
                error = await failure(call(running, kind, "wait", timeout=0.05 + 0.0037 * count))
                assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            await eventually(lambda: value(running, "grpc_server_handling_seconds_count", kind) == 10)
            handled = samples(running.registry, "grpc_server_handled_total", "grpc_code")
            assert handled == {(METHODS[kind], "DEADLINE_EXCEEDED"): 10}
            assert samples(running.registry, "grpc_server_in_flight") == {}
    assert [line["code"] for line in call_lines(lines)] == ["DEADLINE_EXCEEDED"] * 10


async def test_a_stream_cancelled_while_it_sends_is_counted_as_cancelled(
    serving: Serving,
) -> None:
    with capture_logs() as lines:
        async with serving() as running:

            async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
                for number in range(30):
                    yield embedder_pb2.EmbedStreamRequest(request_id=f"{number}#" + 900_000 * "x")

            # The caller does not read, so flow control stops the responses.
            open_call = embedder_pb2_grpc.EmbedderServiceStub(running.channel).EmbedStream(requests())
            await eventually(lambda: running.servicer.calls.total() > 0)
            await asyncio.sleep(0.2)
            answered = running.servicer.calls.total()
            assert answered < 30
            open_call.cancel()
            await eventually(lambda: value(running, "grpc_server_handled_total", "stream", grpc_code="CANCELLED") == 1)
            assert samples(running.registry, "grpc_server_in_flight") == {}
    assert [line["code"] for line in call_lines(lines)] == ["CANCELLED"]


async def test_a_call_without_a_valid_token_is_counted_and_logged(serving: Serving) -> None:
    with capture_logs() as lines:
        async with serving(tokens="a token") as running:
            await failure(running.get("fine"))
            assert value(running, "grpc_server_handled_total", "unary", grpc_code="UNAUTHENTICATED") == 1
            assert value(running, "grpc_server_refused_total", "unary", reason="TOKEN_MISSING") == 1
    (line,) = call_lines(lines)
    assert (line["code"], line["reason"]) == ("UNAUTHENTICATED", "TOKEN_MISSING")


async def test_health_calls_are_neither_counted_nor_logged(serving: Serving) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            await health_pb2_grpc.HealthStub(running.channel).Check(  # type: ignore[attr-defined]
                health_pb2.HealthCheckRequest()
            )
            assert samples(running.registry, "grpc_server_started_total") == {}
    assert call_lines(lines) == []


@KINDS
async def test_the_log_line_of_a_call_has_its_method_code_duration_stages_and_peer(serving: Serving, kind: str) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            await call(running, kind, "staged")
    (line,) = call_lines(lines)
    assert (line["method"], line["code"]) == (f"/{SERVICE}/{METHODS[kind]}", "OK")
    assert (line["decode_ms"], line["inference_ms"]) == (750.0, 2000.0)
    assert 0 <= line["ms"] < 10_000
    assert re.fullmatch(r"ipv4:127\.0\.0\.1:\d+", line["peer"])
    assert "reason" not in line


@KINDS
async def test_the_log_line_of_a_refused_call_has_its_reason_and_its_stages(serving: Serving, kind: str) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            await failure(call(running, kind, "staged refusal"))
    (line,) = call_lines(lines)
    assert (line["code"], line["reason"], line["decode_ms"]) == ("NOT_FOUND", "NO_SUCH_THING", 250.0)
    assert "inference_ms" not in line


async def test_the_duration_of_a_call_is_the_time_of_its_work(serving: Serving) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            began = time.monotonic()
            waiting = asyncio.ensure_future(running.get("wait"))
            await running.servicer.begun.wait()
            await asyncio.sleep(0.3)
            running.servicer.may_end.set()
            await waiting
            spent = time.monotonic() - began
            assert 0.3 <= value(running, "grpc_server_handling_seconds_sum", "unary") <= spent
            assert value(running, "grpc_server_handling_seconds_bucket", "unary", le="0.25") == 0
    (line,) = call_lines(lines)
    assert 300 <= line["ms"] <= spent * 1000


def timing_of(trailing: Mapping[str, str | bytes]) -> dict[str, float]:
    timing = trailing[SERVER_TIMING]
    assert isinstance(timing, str)
    parts = [re.fullmatch(r"([a-z_]+);dur=(\d+\.\d)", part) for part in timing.split(", ")]
    return {part[1]: float(part[2]) for part in parts if part is not None}


async def trailing_of(running: Running, kind: str, name: str) -> dict[str, str | bytes]:
    """Return the trailing metadata of a call that may fail."""
    stub = embedder_pb2_grpc.EmbedderServiceStub(running.channel)
    if kind == "unary":
        made: Any = stub.GetModel(embedder_pb2.GetModelRequest(name=name))
        answered = made
    else:
        made = stub.EmbedStream(iter([embedder_pb2.EmbedStreamRequest(request_id=name)]))
        answered = anext(aiter(made))
    with suppress(grpc.aio.AioRpcError):
        await answered
    trailing = list(await made.trailing_metadata())
    assert len(trailing) == len(dict(trailing))
    return dict(trailing)


@KINDS
async def test_the_trailing_metadata_has_the_times_of_the_stages_and_the_total(serving: Serving, kind: str) -> None:
    async with serving() as running:
        timing = timing_of(await trailing_of(running, kind, "staged"))
    assert list(timing) == ["decode", "inference", "total"]
    assert (timing["decode"], timing["inference"]) == (750.0, 2000.0)
    assert timing["total"] < 10_000


@KINDS
async def test_the_trailing_metadata_of_a_refused_call_has_the_times(serving: Serving, kind: str) -> None:
    async with serving() as running:
        trailing = await trailing_of(running, kind, "staged refusal")
    timing = timing_of(trailing)
    assert (list(timing), timing["decode"]) == (["decode", "total"], 250.0)
    assert "grpc-status-details-bin" in trailing


@KINDS
async def test_stages_of_concurrent_calls_are_separate(serving: Serving, kind: str) -> None:
    async with serving() as running:
        every = await asyncio.gather(*(trailing_of(running, kind, name) for name in ["staged", "fine"] * 10))
    assert [list(timing_of(trailing)) for trailing in every] == [["decode", "inference", "total"], ["total"]] * 10


def test_a_stage_outside_of_a_call_is_recorded_nowhere() -> None:
    stages.record("decode", 1.0, 2.0)


async def test_stages_are_collected_from_child_tasks() -> None:
    async def work() -> None:
        stages.record("decode", 1.0, 1.5)

    async def collect() -> dict[str, float]:
        collected = stages.collect(spans=False)
        stages.record("decode", 1.0, 2.0)
        await asyncio.create_task(work())
        return collected.seconds

    assert await asyncio.create_task(collect()) == {"decode": 1.5}
    stages.record("decode", 1.0, 2.0)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as response:  # noqa: S310 - an address of this test
        assert response.status == 200
        return str(response.read(), "utf-8")


def url_in(lines: list[MutableMapping[str, Any]]) -> str:
    (url,) = (line["url"] for line in lines if line["event"] == "metrics")
    return str(url)


def test_metrics_are_served_over_http_with_process_metrics() -> None:
    registry = new_registry()
    Counter("example_things", "Things.", registry=registry).inc(3)
    with capture_logs() as lines, served(registry, "127.0.0.1:0"):
        url = url_in(lines)
        assert re.fullmatch(r"http://127\.0\.0\.1:[1-9]\d*/metrics", url)
        reported = fetch(url)
    assert "\nexample_things_total 3.0\n" in reported
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "python_info"):
        assert f"\n{name}" in reported
    with pytest.raises(OSError, match="refused"):
        fetch(url)


async def test_the_metrics_of_calls_are_served(serving: Serving) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            await failure(running.get("refuse"))
            with served(running.registry, "127.0.0.1:0"):
                reported = await asyncio.to_thread(fetch, url_in(lines))
    labels = f'grpc_method="GetModel",{{}}grpc_service="{SERVICE}"'
    labels_of_code = f'grpc_code="NOT_FOUND",grpc_method="GetModel",grpc_service="{SERVICE}"'
    assert f"grpc_server_handled_total{{{labels_of_code}}} 1.0\n" in reported
    assert f"grpc_server_in_flight{{{labels.format('')}}} 0.0\n" in reported


def test_two_registries_in_one_process_are_independent() -> None:
    for registry in (new_registry(), new_registry()):
        assert registry.get_sample_value("process_start_time_seconds")


def test_a_port_in_use_is_refused_with_the_address_and_the_setting() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(OSError, match=rf"cannot serve metrics on {address}: .*_METRICS_ADDRESS"),
            served(CollectorRegistry(), address),
        ):
            pytest.fail("it was served")


def test_a_second_metrics_server_on_one_port_is_refused_and_the_first_keeps_serving() -> None:
    with capture_logs() as lines, served(new_registry(), "127.0.0.1:0"):
        url = url_in(lines)
        address = url.removeprefix("http://").removesuffix("/metrics")
        with pytest.raises(OSError, match="cannot serve metrics"), served(CollectorRegistry(), address):
            pytest.fail("it was served")
        assert "process_cpu_seconds_total" in fetch(url)


def test_off_serves_no_metrics() -> None:
    with capture_logs() as lines, served(CollectorRegistry(), "off"):
        assert lines == []


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
def test_metrics_are_served_on_an_ipv6_address() -> None:
    with capture_logs() as lines, served(new_registry(), "[::1]:0"):
        url = url_in(lines)
        assert url.startswith("http://[::1]:")
        assert "process_cpu_seconds_total" in fetch(url)
