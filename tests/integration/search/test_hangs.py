"""A call to Milvus Lite hangs: the search service fails its liveness probe."""

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymilvus import MilvusClient

from grpc_kit.channel import open_blocking_channel
from grpc_kit.health import LIVENESS, is_serving
from grpc_kit.server import hang_watch
from imagesearch_client import Client, Embedding, NewImage
from search_service import bootstrap
from search_service.settings import SearchSettings

AT_MOST = 30


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Block writes of Milvus Lite until this opens."""
    gate = threading.Event()
    upsert = MilvusClient.upsert

    def stay_here(*arguments: object, **options: object) -> object:
        assert gate.wait(AT_MOST)
        return upsert(*arguments, **options)

    monkeypatch.setattr(MilvusClient, "upsert", stay_here)
    monkeypatch.setattr(hang_watch, "TICK", 0.05)
    monkeypatch.setattr(bootstrap, "LATE", 0)
    yield gate
    gate.set()


async def test_hung_call_to_milvus_lite_fails_the_liveness_probe(
    gate: threading.Event, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = SearchSettings(
        listen_address="127.0.0.1:0",
        milvus_uri=str(tmp_path / "milvus.db"),
        milvus_timeout_seconds=4.0,
        hang_timeout_seconds=6.0,
        embedder_target="127.0.0.1:1",
    )

    def use(address: str) -> None:
        with Client(address) as client, open_blocking_channel(address, 2**20) as channel:
            client.create_collection("photos", dimension=4, fingerprint="elsewhere")
            assert is_serving(channel, AT_MOST, LIVENESS)
            (result,) = client.write("photos", [NewImage("a", Embedding([1, 0, 0, 0], "elsewhere"))])
            assert result.error is not None
            assert result.error.reason == "MILVUS_TIMEOUT"
            deadline = time.monotonic() + AT_MOST
            while is_serving(channel, AT_MOST, LIVENESS):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            # Milvus Lite answers the health check of the service; the probe still fails.
            time.sleep(bootstrap.HEALTH_SECONDS + 0.5)
            assert not is_serving(channel, AT_MOST)
            assert not is_serving(channel, AT_MOST, LIVENESS)

    async with bootstrap.serve(settings) as address:
        try:
            await asyncio.to_thread(use, address)
        finally:
            gate.set()
    log = capsys.readouterr().out
    assert "a thread hangs" in log
    assert "in stay_here" in log
