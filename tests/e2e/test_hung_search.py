"""A search service with a call to Milvus Lite that hangs ends when it is asked to."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from demo.local_stack import free_port
from grpc_kit.errors import ServiceError
from grpc_kit.server import END_SECONDS
from imagesearch_client import Client, Embedding, NewImage

AT_MOST = 60
SERVICE = """
import threading
from pymilvus import MilvusClient
from search_service import __main__

def stay_here(*arguments, **options):
    print("it hangs", flush=True)
    threading.Event().wait()

MilvusClient.upsert = stay_here
__main__.main()
"""


def write(address: str) -> None:
    with Client(address) as client, suppress(ServiceError):
        client.create_collection("photos", dimension=4, fingerprint="elsewhere")
        list(client.write("photos", [NewImage("a", Embedding([1, 0, 0, 0], "elsewhere"))]))


def wait_for(text: str, log: Path) -> None:
    deadline = time.monotonic() + AT_MOST
    while text not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.timeout(4 * AT_MOST)
def test_it_ends_within_its_drain_and_says_where_it_hung(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "SEARCH_LISTEN_ADDRESS": address,
        "SEARCH_MILVUS_URI": str(tmp_path / "milvus.db"),
        "SEARCH_DRAIN_SECONDS": "1",
    }
    log = tmp_path / "log"
    with (
        log.open("w") as file,
        subprocess.Popen(
            [sys.executable, "-c", SERVICE], env=environment, stdout=file, stderr=subprocess.STDOUT
        ) as process,
    ):
        try:
            wait_for("serving", log)
            writer = threading.Thread(target=write, args=(address,), daemon=True)
            writer.start()
            wait_for("it hangs", log)
            process.send_signal(signal.SIGTERM)
            asked = time.monotonic()
            assert process.wait(AT_MOST) == 1
            assert time.monotonic() - asked < 1 + END_SECONDS + 5
            writer.join(AT_MOST)
        finally:
            process.kill()
    assert "in stay_here" in log.read_text()
