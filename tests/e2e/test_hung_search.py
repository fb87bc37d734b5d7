"""A search service with a hanging call to Milvus Lite exits on SIGTERM."""

import signal
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from demo.local_stack import free_port
from grpc_kit.errors import ServiceError
from grpc_kit.server.process import END_SECONDS
from imagesearch_client import Client, Embedding, NewImage
from tests.harness import scripts

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


@pytest.mark.timeout(4 * AT_MOST)
def test_a_hanging_service_exits_after_its_drain_and_logs_the_stack(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    settings = {
        "SEARCH_LISTEN_ADDRESS": address,
        "SEARCH_MILVUS_URI": str(tmp_path / "milvus.db"),
        "SEARCH_DRAIN_SECONDS": "1",
    }
    with scripts.running(SERVICE, tmp_path, **settings) as script:
        script.wait_for("(serving)")
        writer = threading.Thread(target=write, args=(address,), daemon=True)
        writer.start()
        script.wait_for("(it hangs)")
        script.process.send_signal(signal.SIGTERM)
        # The drain, and the time to exit.
        assert script.process.wait(1 + END_SECONDS + 5) == 1
        writer.join(AT_MOST)
    assert "in stay_here" in script.log.read_text()
