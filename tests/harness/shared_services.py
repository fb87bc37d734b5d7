"""Services that all tests of a session share.

The process that starts the session owns them: it starts each one when a test first asks for it, and stops all of them
at the end. Tests ask over HTTP, so that it makes no difference whether they run in that process or in a worker.
"""

import json
import os
import threading
import urllib.request
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, TypeAlias

from tests.harness.processes import EmbedderProcess, SearchProcess
from tests.milvus_server import MilvusProcess

Facts: TypeAlias = Mapping[str, str]
"""Facts about a service for tests: its address, and others."""

# Variable with the address of the SharedServicesServer. Worker processes inherit it.
ADDRESS_VARIABLE: Final = "TESTS_SHARED_SERVICES"
# The first model is the default. Most tests need a real embedder but no certain model, so it is MobileNet, which embeds
# about five times as many images a second as VGG16 (docs/guides/evaluate.md).
MODELS: Final = "mobilenet,mobilenet-max,vgg16,mobilenet-max-native256,vgg16-max-native"
START_SECONDS: Final = 400


class SharedServices:
    """Starts services on demand. Each is started once."""

    def __init__(self, folder: Path) -> None:
        """Prepare the services. They write below `folder`."""
        self._folder = folder
        self._lock = threading.Lock()
        # The kernel ends each service with the thread that started it, so these threads live as long as the session.
        self._threads = ThreadPoolExecutor(8, thread_name_prefix="shared-services")
        self._facts: dict[str, Future[Facts]] = {}
        self._running = ExitStack()
        self._starters: Mapping[str, Callable[[Path], Facts]] = {
            "embedder": self._start_embedder,
            "milvus": self._start_milvus,
            "search-lite": lambda folder: self._start_search(folder, str(folder / "milvus.db")),
            "search-server": lambda folder: self._start_search(folder, self.find("milvus")["uri"]),
        }

    def find(self, name: str) -> Facts:
        """Return the facts about a service; start it if it does not run. Raises the exceptions of its start."""
        with self._lock:
            if name not in self._facts:
                folder = self._folder / name
                folder.mkdir()
                self._facts[name] = self._threads.submit(self._starters[name], folder)
        return self._facts[name].result()

    def stop(self) -> None:
        """Stop every service, dependent ones first."""
        self._running.close()
        self._threads.shutdown()

    def _start_embedder(self, folder: Path) -> Facts:
        process = EmbedderProcess(folder / "log", models=MODELS, max_batch_size="2")
        self._running.enter_context(process)
        return {"address": process.address, "metrics": process.metrics_address}

    def _start_milvus(self, folder: Path) -> Facts:
        return {"uri": self._running.enter_context(MilvusProcess(folder / "data")).uri}

    def _start_search(self, folder: Path, milvus_uri: str) -> Facts:
        embedder = self.find("embedder")["address"]
        # No sweep: tests of the stores keep regions without images on the same server.
        process = SearchProcess(folder / "log", milvus_uri=milvus_uri, embedder_target=embedder, sweep_seconds="0")
        self._running.enter_context(process)
        return {"address": process.address}


class SharedServicesServer:
    """Answers GET /NAME with the facts of a service as JSON."""

    def __init__(self, services: SharedServices) -> None:
        """Serve on a free loopback port, and set its address in the environment."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                try:
                    code, answer = 200, json.dumps(services.find(self.path.removeprefix("/")))
                except Exception as error:  # noqa: BLE001 - the calling test reports it
                    code, answer = 500, repr(error)
                self.send_response(code)
                self.end_headers()
                self.wfile.write(answer.encode())

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._services = services
        threading.Thread(target=self._server.serve_forever, name="shared-services", daemon=True).start()
        os.environ[ADDRESS_VARIABLE] = f"127.0.0.1:{self._server.server_port}"

    def stop(self) -> None:
        """Stop this server and the services."""
        self._server.shutdown()
        self._server.server_close()
        self._services.stop()


@cache
def find(name: str) -> Facts:
    """Wait until a shared service serves; return its facts. Works in every process of the session."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{os.environ[ADDRESS_VARIABLE]}/{name}", timeout=START_SECONDS) as response:
        facts: Facts = json.load(response)
        return facts
