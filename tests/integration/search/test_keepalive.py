"""An idle search service keeps its connection to Milvus Lite."""

import os
import re
import subprocess
import sys
from pathlib import Path

# By default, pymilvus sends its first keepalive ping after 10 s without traffic.
PROGRAM = """
import asyncio, sys
from grpc_kit.deadline import Deadline
from search_service.adapters.milvus_store import MilvusStore

async def idle(uri):
    store = MilvusStore(uri)
    await store.check(Deadline.after(60))
    await asyncio.sleep(1)
    print("idle from here", file=sys.stderr, flush=True)
    await asyncio.sleep(12)
    print("idle until here", file=sys.stderr, flush=True)
    await store.close()

asyncio.run(idle(sys.argv[1]))
"""


def test_service_sends_no_keepalive_pings_to_milvus_lite(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "milvus.db")],
        env={**os.environ, "GRPC_TRACE": "http_keepalive,http2_ping", "GRPC_VERBOSITY": "debug"},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    pings = re.compile(r"CLIENT\S* Ping \d+ sent")
    before, _, after = done.stderr.partition("idle from here")
    assert pings.search(before), "gRPC's trace has another form than this test expects"
    assert not pings.search(after.partition("idle until here")[0])
