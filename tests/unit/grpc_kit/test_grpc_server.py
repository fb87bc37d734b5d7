"""The server and its interceptors, with real calls on the loopback interface."""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from structlog.testing import capture_logs

from grpc_kit.channel import RETRYABLE, open_blocking_channel, open_channel
from grpc_kit.status import from_rpc_error
from tests.unit.grpc_kit.example import SERVICE, Running, Serving, details_of, failure, info_of, stream

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_calls_are_answered(serving: Serving) -> None:
    async with serving() as running:
        assert await running.get("a name") == "a name"
        assert await stream(running.channel, ["a", "b"]) == ["a", "b"]


@pytest.mark.parametrize("kind", ["single", "stream"])
async def test_an_unexpected_exception_becomes_internal_without_details(
    serving: Serving, kind: str, secret: str
) -> None:
    async with serving() as running:
        with capture_logs() as lines:
            error = await failure(
                running.get("fault") if kind == "single" else stream(running.channel, ["fine", "fault"])
            )
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    reported = f"{error.details()} {error.debug_error_string()} {details_of(error)} {error.trailing_metadata()}"
    assert "hunter2" not in reported
    assert "ValueError" not in reported
    faults = [str(line["exc_info"]) for line in lines if "exc_info" in line]
    assert faults == [secret]


@pytest.mark.parametrize("kind", ["single", "stream"])
async def test_a_service_error_arrives_with_all_its_details(serving: Serving, kind: str) -> None:
    async with serving() as running:
        error = await failure(running.get("refuse") if kind == "single" else stream(running.channel, ["refuse"]))
    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "there is none")
    info = info_of(error)
    assert (info.reason, info.domain, dict(info.metadata)) == ("NO_SUCH_THING", "example.domain", {"a": "b"})
    kinds = [detail.type_url.rpartition(".")[2] for detail in details_of(error).details]
    assert kinds == ["ErrorInfo", "BadRequest", "RetryInfo"]


async def test_every_call_gets_one_log_line_with_its_method_and_code(serving: Serving) -> None:
    async with serving() as running:
        with capture_logs() as lines:
            await running.get("fine")
            await failure(running.get("refuse"))
            await failure(running.get("fault"))
            await stream(running.channel, ["fine"])
    calls = [(line["method"].rpartition("/")[2], line["code"]) for line in lines if line["event"] == "call"]
    assert calls == [
        ("GetModel", "OK"),
        ("GetModel", "NOT_FOUND"),
        ("GetModel", "INTERNAL"),
        ("EmbedStream", "OK"),
    ]


@pytest.mark.parametrize(
    ("options", "codes"), [({}, {"CANCELLED"}), ({"timeout": 0.2}, {"CANCELLED", "DEADLINE_EXCEEDED"})]
)
async def test_a_cancelled_call_is_not_logged_as_ok(
    serving: Serving, options: dict[str, float], codes: set[str]
) -> None:
    with capture_logs() as lines:
        async with serving() as running:
            call = asyncio.create_task(running.get("wait", **options))
            await running.servicer.begun.wait()
            if not options:
                call.cancel()
            await running.servicer.cancelled.wait()
            await asyncio.gather(call, return_exceptions=True)
    (code,) = (line["code"] for line in lines if line["event"] == "call")
    assert code in codes


async def test_a_passed_deadline_ends_the_call_on_the_server_too(serving: Serving) -> None:
    async with serving() as running:
        error = await failure(running.get("wait", timeout=0.2))
        assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await running.servicer.cancelled.wait()


async def health_of(channel: grpc.aio.Channel, service: str) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    response = await stub.Check(  # type: ignore[attr-defined]
        health_pb2.HealthCheckRequest(service=service)
    )
    return int(response.status)


async def test_health_is_reported_for_the_server_and_for_each_service(serving: Serving) -> None:
    async with serving() as running:
        for serves in (True, False, True):
            await running.server.set_serving(serving=serves)
            for name in ("", SERVICE):
                assert await health_of(running.channel, name) == (SERVING if serves else NOT_SERVING)
            assert running.registry.get_sample_value("grpc_server_serving") == serves
        error = await failure(health_of(running.channel, "no.such.Service"))
        assert error.code() is grpc.StatusCode.NOT_FOUND


async def works(running: Running) -> bool:
    """Return whether there was progress since the last call, or is within a moment."""
    try:
        await asyncio.wait_for(running.server.wait_for_progress(), 0.2)
    except TimeoutError:
        return False
    return True


async def test_calls_are_progress_when_they_start_and_end_but_health_calls_are_not(serving: Serving) -> None:
    async with serving() as running:
        await health_of(running.channel, "")
        assert not await works(running)
        await running.get("short")
        assert await works(running)
        assert not await works(running)
        call = asyncio.create_task(running.get("wait"))
        await running.servicer.begun.wait()
        assert await works(running)
        assert not await works(running)
        running.servicer.may_end.set()
        await call
        assert await works(running)
        assert not await works(running)
        await failure(running.get("refuse"))
        assert await works(running)


async def test_a_stream_is_progress_when_it_starts_answers_and_ends_but_not_while_idle(serving: Serving) -> None:
    may_send = asyncio.Event()

    async def requests() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
        await may_send.wait()
        for request_id in ("one", "wait"):
            yield embedder_pb2.EmbedStreamRequest(request_id=request_id)

    async with serving() as running:
        answers = aiter(embedder_pb2_grpc.EmbedderServiceStub(running.channel).EmbedStream(requests()))
        assert await works(running)
        assert not await works(running)
        may_send.set()
        await anext(answers)
        assert await works(running)
        assert not await works(running)
        running.servicer.may_end.set()
        await anext(answers)
        assert await works(running)


async def test_a_stopping_server_reports_that_it_drains(serving: Serving) -> None:
    async with serving() as running:
        assert running.registry.get_sample_value("grpc_server_draining") == 0
        await running.server.stop()
        assert running.registry.get_sample_value("grpc_server_draining") == 1
        assert running.registry.get_sample_value("grpc_server_serving") == 0


async def test_port_0_chooses_and_reports_a_free_port(serving: Serving) -> None:
    async with serving(listen_address="127.0.0.1:0") as one, serving(listen_address="127.0.0.1:0") as other:
        assert one.address.startswith("127.0.0.1:")
        assert int(one.address.rpartition(":")[2]) > 0
        assert one.address != other.address


async def test_a_second_server_on_one_port_is_refused_and_the_first_keeps_serving(serving: Serving) -> None:
    async with serving() as first:
        with pytest.raises(OSError, match=f"cannot listen on {first.address}"):
            async with serving(listen_address=first.address):
                pass
        assert await first.get("still there") == "still there"


async def test_a_message_over_the_limit_is_refused(serving: Serving) -> None:
    async with serving(max_message_bytes=1000) as running:
        assert await running.get("x" * 400) == "x" * 400
        error = await failure(running.get("x" * 2000))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def refused(running: Running) -> grpc.StatusCode:
    """Call on new connections until a call is refused; return its code."""
    while True:
        async with grpc.aio.insecure_channel(running.address) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            try:
                await stub.ListModels(embedder_pb2.ListModelsRequest())
            except grpc.aio.AioRpcError as error:
                return error.code()


async def test_stop_lets_calls_in_flight_finish_and_refuses_new_ones(serving: Serving) -> None:
    async with serving() as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        watched = stub.Watch(health_pb2.HealthCheckRequest())  # type: ignore[attr-defined]
        states = aiter(watched)
        assert (await anext(states)).status == SERVING
        call = asyncio.create_task(running.get("wait"))
        await running.servicer.begun.wait()
        stopping = asyncio.create_task(running.server.stop())
        assert (await anext(states)).status == NOT_SERVING
        # A call at the moment of the stop may get either code; channels retry both.
        assert (await refused(running)).name in RETRYABLE
        assert not stopping.done()
        watched.cancel()
        running.servicer.may_end.set()
        assert await call == "wait"
        await stopping


async def test_stop_ends_an_open_stream_and_answers_the_requests_that_were_read(serving: Serving) -> None:
    async def never_ending() -> AsyncIterator[embedder_pb2.EmbedStreamRequest]:
        yield embedder_pb2.EmbedStreamRequest(request_id="read")
        await asyncio.Event().wait()

    answered = []
    async with serving(drain_seconds=1000) as running, asyncio.timeout(20):
        call = embedder_pb2_grpc.EmbedderServiceStub(running.channel).EmbedStream(never_ending())
        waiting = asyncio.ensure_future(anext(aiter(call)))
        await running.servicer.received.wait()
        stopping = asyncio.create_task(running.server.stop())
        answered.append((await waiting).request_id)
        error = await failure(anext(aiter(call)))
        await stopping
    assert answered == ["read"]
    assert (error.code(), info_of(error).reason) == (grpc.StatusCode.UNAVAILABLE, "STOPPING")


async def test_stop_lets_a_stream_finish_if_all_its_requests_were_read(serving: Serving) -> None:
    async with serving() as running:
        call = asyncio.create_task(stream(running.channel, ["one", "wait"]))
        await running.servicer.begun.wait()
        stopping = asyncio.create_task(running.server.stop())
        running.servicer.may_end.set()
        assert await call == ["one", "wait"]
        await stopping


@pytest.mark.alone
async def test_stop_does_not_wait_for_health_watchers(serving: Serving) -> None:
    async with serving(drain_seconds=20) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        states = aiter(stub.Watch(health_pb2.HealthCheckRequest()))  # type: ignore[attr-defined]
        assert (await anext(states)).status == SERVING
        began = time.monotonic()
        await running.server.stop()
        assert time.monotonic() - began < 3
        assert (await anext(states)).status == NOT_SERVING
        assert (await failure(anext(states))).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


@pytest.mark.alone
async def test_stop_with_a_health_watcher_still_lets_calls_in_flight_finish(serving: Serving) -> None:
    async with serving(drain_seconds=20) as running:
        stub = health_pb2_grpc.HealthStub(running.channel)
        states = aiter(stub.Watch(health_pb2.HealthCheckRequest()))  # type: ignore[attr-defined]
        assert (await anext(states)).status == SERVING
        call = asyncio.create_task(running.get("wait"))
        await running.servicer.begun.wait()
        stopping = asyncio.create_task(running.server.stop())
        await asyncio.sleep(1.5)
        assert not stopping.done()
        running.servicer.may_end.set()
        ended = time.monotonic()
        assert await call == "wait"
        await stopping
        assert time.monotonic() - ended < 3


async def test_a_short_connection_age_fails_no_call_and_interrupts_no_long_call(serving: Serving) -> None:
    with capture_logs() as lines:
        async with serving(max_connection_age_seconds=1) as running:
            call = asyncio.create_task(running.get("wait"))
            streamed = asyncio.create_task(stream(running.channel, ["one", "wait", "two"]))
            await running.servicer.begun.wait()
            # The channel does not retry this method.
            stub = embedder_pb2_grpc.EmbedderServiceStub(running.channel)
            for _ in range(50):
                await stub.ListModels(embedder_pb2.ListModelsRequest())
                await asyncio.sleep(0.06)
            assert not call.done()
            running.servicer.may_end.set()
            assert (await call, await streamed) == ("wait", ["one", "wait", "two"])
            assert running.servicer.calls["wait"] == 2
    short = [line for line in lines if line["event"] == "call" and line["method"].endswith("/ListModels")]
    assert [line["code"] for line in short] == ["OK"] * 50
    # The connection was replaced.
    assert len({line["peer"] for line in short}) > 1


async def test_stopping_under_load_fails_no_call_of_a_channel_with_another_server(serving: Serving) -> None:
    async with serving() as staying, serving() as leaving:
        target = f"ipv4:{staying.address},{leaving.address}"
        async with open_channel(target, 1_000_000, [f"{SERVICE}/GetModel"]) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            stopped = asyncio.Event()

            async def call_until_stopped() -> int:
                calls = 0
                while not stopped.is_set():
                    await stub.GetModel(embedder_pb2.GetModelRequest(name="fine"), timeout=10)
                    calls += 1
                return calls

            callers = [asyncio.create_task(call_until_stopped()) for _ in range(64)]
            await asyncio.sleep(0.1)
            await leaving.server.stop()
            stopped.set()
            calls = sum(await asyncio.gather(*callers))
    assert leaving.servicer.calls["fine"] > 0
    # A call whose response was lost was executed twice.
    assert calls <= staying.servicer.calls["fine"] + leaving.servicer.calls["fine"] <= calls + 64


async def test_stopping_under_load_fails_no_call_of_health_watchers_even_without_retries(
    serving: Serving,
) -> None:
    async with (
        serving() as staying,
        serving() as leaving,
        open_channel(f"ipv4:{staying.address},{leaving.address}", 1_000_000) as channel,
    ):
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        stopped = asyncio.Event()

        async def call_until_stopped() -> int:
            calls = 0
            while not stopped.is_set():
                await stub.GetModel(embedder_pb2.GetModelRequest(name="fine"), timeout=10)
                calls += 1
            return calls

        callers = [asyncio.create_task(call_until_stopped()) for _ in range(64)]
        await asyncio.sleep(0.5)
        await leaving.server.stop()
        stopped.set()
        calls = sum(await asyncio.gather(*callers))
    assert leaving.servicer.calls["fine"] > 0
    # Each call was executed once.
    assert staying.servicer.calls["fine"] + leaving.servicer.calls["fine"] == calls


async def test_callers_that_send_endlessly_receive_the_stop(serving: Serving) -> None:
    # Use blocking calls: asyncio calls may fail with INTERNAL when the server ends a stream.
    def call(address: str) -> grpc.RpcError:
        request = embedder_pb2.EmbedStreamRequest(request_id="fine", model="m" * 100_000)
        with open_blocking_channel(address, 1_000_000) as channel, pytest.raises(grpc.RpcError) as ended:
            list(embedder_pb2_grpc.EmbedderServiceStub(channel).EmbedStream(itertools.repeat(request)))
        return ended.value

    async with serving(drain_seconds=20) as running:
        callers = [asyncio.create_task(asyncio.to_thread(call, running.address)) for _ in range(4)]
        await asyncio.sleep(0.5)
        await running.server.stop()
        assert [from_rpc_error(await caller).reason for caller in callers] == ["STOPPING"] * 4


async def test_stop_cancels_calls_that_exceed_the_drain_time(serving: Serving) -> None:
    async with serving(drain_seconds=0) as running:
        call = asyncio.create_task(running.get("wait"))
        await running.servicer.begun.wait()
        await running.server.stop()
        await running.servicer.cancelled.wait()
        assert (await failure(call)).code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_channel_retries_if_the_server_is_unavailable(serving: Serving) -> None:
    async with serving() as running:
        assert await running.get("fail twice") == "fail twice"
        assert running.servicer.calls["fail twice"] == 3
        await failure(running.get("fault"))
        assert running.servicer.calls["fault"] == 1


async def test_a_channel_uses_no_proxy_from_the_environment(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serving() as running, open_channel(running.address, 1000) as channel:
        assert await stream(channel, ["through"]) == ["through"]
