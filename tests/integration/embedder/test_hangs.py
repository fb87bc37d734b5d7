"""Threads that hang: the embedder reports it, fails its callers, and exits on SIGTERM."""

import asyncio
import dataclasses
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

import grpc
import numpy as np
import pytest
import structlog
from grpc_health.v1 import health_pb2
from imagesearch.embedder.v1 import embedder_pb2, embedder_pb2_grpc
from imagesearch.types.v1 import encoded_image_pb2

from benchmarks.waiting_embedder import INFO
from embedder_service.bootstrap import serve
from embedder_service.core.deadlines import AnyDeadline
from embedder_service.core.image_decoding import ImageDecoder
from embedder_service.core.types import EncodedImage, ImageVectors, ModelInfo, Pixels, RegionRequest
from embedder_service.settings import EmbedderSettings
from grpc_kit.health import LIVENESS
from grpc_kit.server import hang_watch
from grpc_kit.server.process import END_SECONDS
from grpc_kit.status import from_status
from tests.harness import scripts
from tests.integration.embedder.helpers import answers, embed_request, info_of, item, plain_image, status_of
from tests.integration.embedder.test_service import health_of

log = structlog.stdlib.get_logger()

DEAD = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
AT_MOST = 30
# The colour of the image on which everything hangs.
HANGS = 1


class HangingModel:
    """Its runs on one image do not end while its gate is closed."""

    def __init__(self, name: str, gate: threading.Event) -> None:
        self.info: ModelInfo = dataclasses.replace(INFO, name=name, seconds_per_image=0.0)
        self._gate = gate
        self.hangs = threading.Event()

    def run(self, pixels: Pixels, requests: Sequence[RegionRequest | None]) -> list[ImageVectors]:
        if (pixels[:, 0, 0, 0] == HANGS).any():
            self.stay_here()
        return [ImageVectors(np.full(INFO.dimension, INFO.dimension**-0.5, np.float32)) for _ in pixels]

    def stay_here(self) -> None:
        self.hangs.set()
        log.warning("it hangs")
        assert self._gate.wait(AT_MOST)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    monkeypatch.setattr(hang_watch, "TICK", 0.05)
    gate = threading.Event()
    yield gate
    gate.set()


def settings(hang_timeout_seconds: float) -> EmbedderSettings:
    return EmbedderSettings(
        listen_address="127.0.0.1:0", hang_timeout_seconds=hang_timeout_seconds, decode_threads=1, drain_seconds=1
    )


def assert_passing(error: object) -> None:
    """A refusal that says that another server, or a later attempt, can help."""
    assert isinstance(error, grpc.aio.AioRpcError)
    assert error.code() is grpc.StatusCode.UNAVAILABLE
    assert info_of(status_of(error)).reason == "WORKER_DIED"
    assert len(status_of(error).details) == 2


async def test_a_hung_run_fails_all_callers_and_liveness(
    gate: threading.Event, capsys: pytest.CaptureFixture[str]
) -> None:
    models = [HangingModel("one", gate), HangingModel("other", gate)]
    async with serve(models, settings(0.4)) as address, grpc.aio.insecure_channel(address) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        await stub.Embed(embed_request(plain_image(50)))
        for name in ("", LIVENESS):
            assert await health_of(channel, name) == SERVING
        of_other = embedder_pb2.EmbedRequest(
            model="other", image=encoded_image_pb2.EncodedImage(content=plain_image(60))
        )
        hanging = asyncio.ensure_future(stub.Embed(embed_request(plain_image(HANGS))))
        assert await asyncio.to_thread(models[0].hangs.wait, AT_MOST)
        calls = [
            asyncio.ensure_future(call) for call in (stub.Embed(embed_request(plain_image(70))), stub.Embed(of_other))
        ]
        calls.append(hanging)
        stream = asyncio.create_task(answers(stub, [item("1", plain_image(80)), item("2", plain_image(81))]))
        for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), AT_MOST):
            assert_passing(error)
        streamed = await asyncio.wait_for(stream, AT_MOST)
        assert [from_status(one.error).reason for one in streamed] == ["WORKER_DIED"] * 2
        for late in (embed_request(plain_image(90)), of_other):
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await stub.Embed(late)
            assert_passing(refused.value)
        for name in ("", LIVENESS):
            assert await health_of(channel, name) == DEAD
        log = capsys.readouterr().out
        assert "a thread hangs" in log
        assert "in stay_here" in log
    # The server has stopped, and the thread hangs still.
    assert not gate.is_set()


async def test_a_hung_decoder_fails_all_callers_and_liveness(
    gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = ImageDecoder.decode
    hangs = threading.Event()

    def decode_or_hang(
        decoder: ImageDecoder, image: EncodedImage, deadline: AnyDeadline, request: RegionRequest | None
    ) -> Pixels:
        if image.content == plain_image(HANGS):
            hangs.set()
            assert gate.wait(AT_MOST)
        return decode(decoder, image, deadline, request)

    monkeypatch.setattr(ImageDecoder, "decode", decode_or_hang)
    async with (
        serve([HangingModel("one", gate)], settings(0.1)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        calls = [asyncio.ensure_future(stub.Embed(embed_request(plain_image(HANGS))))]
        assert await asyncio.to_thread(hangs.wait, AT_MOST)
        # It waits for the only thread.
        calls.append(asyncio.ensure_future(stub.Embed(embed_request(plain_image(50)))))
        for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), AT_MOST):
            assert_passing(error)
        for name in ("", LIVENESS):
            assert await health_of(channel, name) == DEAD


async def test_a_slow_machine_gets_a_longer_limit(gate: threading.Event) -> None:
    model = HangingModel("one", gate)
    # A full batch took 0.08 s at start, so that 4 s are no hang.
    model.info = dataclasses.replace(model.info, seconds_per_image=0.01)
    async with serve([model], settings(0.01)) as address, grpc.aio.insecure_channel(address) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        call = asyncio.ensure_future(stub.Embed(embed_request(plain_image(HANGS))))
        await asyncio.sleep(1)
        assert await health_of(channel, LIVENESS) == SERVING
        gate.set()
        assert len((await asyncio.wait_for(call, AT_MOST)).embedding.values) == INFO.dimension


async def test_a_hung_run_fails_its_callers_while_the_server_stops(gate: threading.Event) -> None:
    model, options = HangingModel("one", gate), settings(0.4).model_copy(update={"drain_seconds": AT_MOST})
    served = AsyncExitStack()
    address = await served.enter_async_context(serve([model], options))
    async with served, grpc.aio.insecure_channel(address) as channel:
        stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
        await stub.Embed(embed_request(plain_image(50)))
        calls = [asyncio.ensure_future(stub.Embed(embed_request(plain_image(HANGS))))]
        assert await asyncio.to_thread(model.hangs.wait, AT_MOST)
        calls.append(asyncio.ensure_future(stub.Embed(embed_request(plain_image(70)))))
        await asyncio.sleep(0.1)
        ending = asyncio.create_task(served.aclose())
        for error in await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), AT_MOST):
            assert_passing(error)
        await asyncio.wait_for(ending, AT_MOST)
    assert not gate.is_set()


SERVICE = """
import os
import threading
from embedder_service import __main__, bootstrap
from grpc_kit.server import process
from tests.integration.embedder.test_hangs import HangingModel

process.DEAD_SECONDS = float(os.environ["DEAD_SECONDS"])
bootstrap.load_models = lambda settings: [HangingModel("one", threading.Event())]
__main__.main()
"""


@pytest.mark.timeout(180)
@pytest.mark.parametrize("is_noticed", [False, True], ids=["unnoticed", "noticed"])
def test_a_process_with_a_hung_run_exits_on_sigterm(is_noticed: bool, tmp_path: Path) -> None:
    with hanging_service(tmp_path, hang_seconds="1" if is_noticed else "60", dead_seconds="60") as (script, call):
        script.wait_for("(a thread hangs)" if is_noticed else "(it hangs)")
        script.process.send_signal(signal.SIGTERM)
        # The drain, and the time to end.
        assert script.process.wait(1 + END_SECONDS + 5) == 1
        assert isinstance(call.exception(), grpc.RpcError)
    assert "in stay_here" in script.log.read_text()


def test_a_process_with_a_hung_run_exits_by_itself(tmp_path: Path) -> None:
    with hanging_service(tmp_path, hang_seconds="1", dead_seconds="1") as (script, call):
        assert script.process.wait(AT_MOST) == 1
        assert isinstance(call.exception(), grpc.RpcError)
    assert "the process exits, because only a restart can help" in script.log.read_text()


@contextmanager
def hanging_service(
    folder: Path, *, hang_seconds: str, dead_seconds: str
) -> Iterator[tuple[scripts.Script, "grpc.Future[embedder_pb2.EmbedResponse]"]]:
    """An embedder in a process of its own, and a call whose image hangs its network."""
    settings = {
        "EMBEDDER_LISTEN_ADDRESS": "127.0.0.1:0",
        "EMBEDDER_DRAIN_SECONDS": "1",
        "EMBEDDER_HANG_TIMEOUT_SECONDS": hang_seconds,
        "DEAD_SECONDS": dead_seconds,
    }
    with scripts.running(SERVICE, folder, **settings) as script:
        address = script.wait_for(r"serving .*address=(\S+)")
        with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
            stub = embedder_pb2_grpc.EmbedderServiceStub(channel)
            yield script, stub.Embed.future(embed_request(plain_image(HANGS)))
